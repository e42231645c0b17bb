//! Whether a server speaks what it is addressed with: TLS, or plaintext HTTP/2.
//!
//! Lives here: looking at the first bytes of its answer, and the words for a mismatch. Does not: speaking either (`dial`), when to look (`outage`).
//! For whoever has failed to speak with a server, since the errors of HTTP/2 do not show this cause. Bounds: half a second to connect, and as much for an answer.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tonic::{Status, transport::Uri};

use crate::registries::is_an_answer;

/// Time a server has to show what it speaks.
const SNIFF: Duration = Duration::from_millis(500);

/// Says so if the server at `http://host:port` speaks TLS, or the one at `https://host:port` plaintext, and what to write instead. None if it does
/// neither, or cannot be asked. Cancel-safe.
pub async fn misspoken(url: &str) -> Option<&'static str> {
    match look(url).await {
        Look::Misspoken(problem) => Some(problem),
        Look::Nobody | Look::Well => None,
    }
}

/// What a look at a server shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// There is none: another look may show more.
    Nobody,
    /// Nothing is wrong with how it is addressed, as far as that shows.
    Well,
    /// It speaks otherwise than it is addressed: what to write instead.
    Misspoken(&'static str),
}

/// Looks at the server at `http://host:port` or `https://host:port`. Cancel-safe.
pub(crate) async fn look(url: &str) -> Look {
    look_within(SNIFF, url).await
}

async fn look_within(bound: Duration, url: &str) -> Look {
    let Ok(uri) = url.parse::<Uri>() else { return Look::Well };
    let (Some(host), Some(port), Some(scheme)) = (uri.host(), uri.port_u16(), uri.scheme_str()) else {
        return Look::Well;
    };
    match (spoken(bound, host.trim_matches(['[', ']']), port).await, scheme) {
        (Spoken::Tls, "http") => {
            Look::Misspoken("it speaks TLS, and was addressed in plaintext: write https:// for http://")
        }
        (Spoken::Plaintext, "https") => {
            Look::Misspoken("it speaks plaintext, and was addressed with TLS: write http:// for https://")
        }
        (Spoken::Nothing, _) => Look::Nobody,
        (Spoken::Tls | Spoken::Plaintext | Spoken::Something, _) => Look::Well,
    }
}

/// Whether a status was made here of an error of the connection: one that a server sent, or that we make up, has no source.
pub(crate) fn is_of_the_transport(status: &Status) -> bool {
    !is_an_answer(status.code()) && std::error::Error::source(status).is_some()
}

/// What a server speaks on a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spoken {
    /// TLS: it answers plaintext with an alert.
    Tls,
    /// Plaintext HTTP/2.
    Plaintext,
    /// It accepts connections and says nothing we know.
    Something,
    /// Nobody listens.
    Nothing,
}

/// Looks at what answers a plaintext HTTP/2 preface: a TLS server sends an alert record (RFC 8446, 5.1), an HTTP/2 server its settings.
async fn spoken(bound: Duration, host: &str, port: u16) -> Spoken {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let Ok(Ok(mut stream)) = timeout(bound, TcpStream::connect((host, port))).await else {
        return Spoken::Nothing;
    };
    let mut first = [0; 9];
    let read = async {
        stream.write_all(PREFACE).await.ok()?;
        let mut read = 0;
        while read < 4 {
            match stream.read(&mut first[read..]).await.ok()? {
                0 => break,
                more => read += more,
            }
        }
        Some(read)
    };
    match timeout(bound, read).await.ok().flatten() {
        Some(2..) if first[0] == 0x15 && first[1] == 0x03 => Spoken::Tls,
        Some(4..) if first[0] == 0 && first[3] == 0x04 => Spoken::Plaintext,
        _ => Spoken::Something,
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::net::TcpListener;

    use super::*;

    /// Longer than any machine is busy.
    const LONG: Duration = Duration::from_secs(60);

    /// Answers one connection with these bytes, and asks what is said of it.
    async fn saying<T>(bytes: &'static [u8], ask: impl AsyncFnOnce(SocketAddr) -> T) -> T {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(bytes).await.unwrap();
            drop(stream.read_to_end(&mut Vec::new()).await); // whoever has seen enough closes with bytes unread
        };
        let (said, ()) = tokio::join!(ask(listener.local_addr().unwrap()), serve);
        said
    }

    const TLS: &[u8] = b"\x15\x03\x03\0\x02\x02\x0a";
    const PLAINTEXT: &[u8] = b"\0\0\x12\x04\0\0\0\0\0";

    #[tokio::test]
    async fn what_a_port_speaks_shows_in_its_first_bytes() {
        let spoken_by = async |bytes| saying(bytes, async |at| spoken(LONG, "127.0.0.1", at.port()).await).await;
        assert_eq!(spoken_by(TLS).await, Spoken::Tls);
        assert_eq!(spoken_by(PLAINTEXT).await, Spoken::Plaintext);
        assert_eq!(spoken_by(b"HTTP/1.1 400 Bad Request\r\n\r\n").await, Spoken::Something);
        let unused = weft_runtime::listen::ListenAddr::loopback(0).lasting().get(); // no other test is given it meanwhile
        assert_eq!(spoken(LONG, "127.0.0.1", unused.port()).await, Spoken::Nothing);
    }

    #[tokio::test]
    async fn a_status_that_a_server_sent_is_no_reason_to_look() {
        let sent = Status::from_header_map(&http::HeaderMap::from_iter([(
            http::HeaderName::from_static("grpc-status"),
            http::HeaderValue::from_static("14"),
        )]));
        assert!(!is_of_the_transport(&sent.unwrap()));
        let unused = weft_runtime::listen::ListenAddr::loopback(0).lasting().get();
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{unused}")).unwrap();
        let mut client = weft_proto::weft::registry::v1::registry_client::RegistryClient::new(endpoint.connect_lazy());
        let request = weft_proto::weft::registry::v1::MissingDescriptorsRequest { digests: Vec::new() };
        assert!(is_of_the_transport(&client.missing_descriptors(request).await.unwrap_err()));
    }

    #[tokio::test]
    async fn a_mismatch_names_what_to_write() {
        let said = async |scheme, bytes| {
            saying(bytes, async move |at| look_within(LONG, &format!("{scheme}://{at}")).await).await
        };
        let says = |look: Look, end: &str| matches!(look, Look::Misspoken(problem) if problem.ends_with(end));
        assert!(says(said("http", TLS).await, "write https:// for http://"));
        assert!(says(said("https", PLAINTEXT).await, "write http:// for https://"));
        assert_eq!(said("https", TLS).await, Look::Well);
        assert_eq!(said("http", PLAINTEXT).await, Look::Well);
        let unused = weft_runtime::listen::ListenAddr::loopback(0).lasting().get();
        assert_eq!(look_within(LONG, &format!("http://{unused}")).await, Look::Nobody);
    }
}
