//! Questions to a role's admin server: `/readyz`, `/metrics`, and the time it thinks it is.
//!
//! Lives here: one HTTP GET with a deadline, reading a number out of an exposition. Does not: judging.

use std::{
    error::Error,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{HeaderMap, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};
use weft_runtime::clock;
use weft_up::text::in_words;

use crate::target::Place;

/// Time an admin server has for one answer.
pub(crate) const ADMIN: Duration = Duration::from_secs(2);
/// Largest answer that is read; a registry of 10,000 services stays far below.
const LARGEST: usize = 32 << 20;

/// What an admin server said.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) good: bool,
    pub(crate) text: String,
    /// Its clock less ours, in whole seconds; positive when it is ahead. None if it does not say.
    pub(crate) ahead: Option<i64>,
}

/// Asks for a path; the error says in a few words why there is no answer.
pub(crate) async fn get(place: &Place, path: &str) -> Result<Answer, String> {
    match timeout(ADMIN, exchange(place, path)).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(in_words(&*error)),
        Err(_) => Err(format!("no answer within {ADMIN:?}")),
    }
}

async fn exchange(place: &Place, path: &str) -> Result<Answer, Box<dyn Error + Send + Sync>> {
    let stream = TcpStream::connect((place.host.as_str(), place.port)).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = http::Request::get(path).header(header::HOST, place.to_string()).body(Empty::<Bytes>::new())?;
    let answer = async {
        let response = sender.send_request(request).await?;
        let (head, body) = response.into_parts();
        let ahead = ahead(&head.headers, clock::wall());
        let body = Limited::new(body, LARGEST).collect().await?.to_bytes();
        Ok(Answer { good: head.status.is_success(), text: String::from_utf8_lossy(&body).trim().to_owned(), ahead })
    };
    tokio::pin!(answer);
    tokio::select! {
        answer = &mut answer => answer,
        ended = connection => match ended {
            Err(error) => Err(error.into()),
            Ok(()) => answer.await, // a server may close with its answer, which then waits to be taken
        },
    }
}

/// How far the clock behind a `Date` is ahead of `now`.
fn ahead(headers: &HeaderMap, now: SystemTime) -> Option<i64> {
    let date = httpdate::parse_http_date(headers.get(header::DATE)?.to_str().ok()?).ok()?;
    Some(match date.duration_since(now) {
        Ok(ahead) => ahead.as_secs().cast_signed(),
        Err(behind) => -behind.duration().as_secs().cast_signed(),
    })
}

/// Sums the series of a family that carry all of these labels. None if there is no such series.
pub(crate) fn sum(exposition: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let series = exposition.lines().filter_map(|line| {
        let rest = line.strip_prefix(name).filter(|rest| rest.starts_with(['{', ' ']))?;
        let sample = rest.split_once(" # ").map_or(rest, |(sample, _exemplar)| sample);
        let (written, value) = sample.rsplit_once(' ')?;
        let carries = |(key, value): &(&str, &str)| written.contains(&format!("{key}=\"{value}\""));
        labels.iter().all(carries).then(|| value.parse::<f64>().ok()).flatten()
    });
    series.fold(None, |sum, value| Some(sum.unwrap_or_default() + value))
}

/// The version a process is built from, as `weft_build_info` says.
pub(crate) fn version(exposition: &str) -> Option<&str> {
    let line = exposition.lines().find(|line| line.starts_with("weft_build_info{"))?;
    line.split_once("version=\"")?.1.split_once('"').map(|(version, _)| version)
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    const EXPOSITION: &str = "# TYPE a counter\na_total{x=\"1\",y=\"2\"} 3\na_total{x=\"1\",y=\"3\"} 4 # {trace_id=\"5\"} 1.0\na_total_more 9\nb 2.5\n\
        weft_build_info{version=\"0.1.0\"} 1\n# EOF";

    #[test]
    fn series_are_summed_over_what_is_not_asked_for() {
        assert_eq!(sum(EXPOSITION, "a_total", &[]), Some(7.0));
        assert_eq!(sum(EXPOSITION, "a_total", &[("x", "1"), ("y", "3")]), Some(4.0));
        assert_eq!(sum(EXPOSITION, "a_total", &[("x", "2")]), None);
        assert_eq!(sum(EXPOSITION, "b", &[]), Some(2.5));
        assert_eq!(version(EXPOSITION), Some("0.1.0"));
    }

    #[test]
    fn a_date_is_read_as_distance_from_our_clock() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let of = |date: SystemTime| {
            let value = httpdate::fmt_http_date(date).parse().unwrap();
            ahead(&HeaderMap::from_iter([(header::DATE, value)]), now)
        };
        assert_eq!(of(now + Duration::from_secs(90)), Some(90));
        assert_eq!(of(now - Duration::from_secs(90)), Some(-90));
        assert_eq!(ahead(&HeaderMap::new(), now), None);
    }

    #[tokio::test]
    async fn a_server_that_closes_with_its_answer_has_answered() {
        for _ in 0..50 {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let place = listener.local_addr().unwrap().to_string().parse().unwrap();
            let serve = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                drop(stream.read(&mut [0; 1024]).await);
                stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nwell").await.unwrap();
            };
            let (answer, ()) = tokio::join!(get(&place, "/readyz"), serve);
            assert_eq!(answer.map(|it| it.text), Ok("well".to_owned()));
        }
    }
}
