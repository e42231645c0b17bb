//! The parts of any bytes: what they are, what is held of them, and what is refused.

use super::*;
use proptest::prelude::*;

const BOUNDARY: &str = "XX";

async fn parts(body: Bytes, limit: u64, endless: bool) -> Result<Vec<(String, Bytes)>, BindError> {
    let mut parts = Parts::new(Body::full(body), BOUNDARY.to_owned(), Most::of_gateway(limit), endless);
    let mut found = Vec::new();
    while let Some(part) = parts.next().await? {
        found.push(match part {
            Part::Text { name, text } => (name, Bytes::from(text)),
            Part::File { name, mut file, .. } => {
                let data = parts.whole(&mut file).await?;
                (name, data)
            }
        });
    }
    Ok(found)
}

fn read(body: Bytes, limit: u64, endless: bool) -> Result<Vec<(String, Bytes)>, BindError> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(parts(body, limit, endless))
}

fn part(name: &str, more: &str, data: &[u8]) -> Vec<u8> {
    let head = format!("--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"{name}\"{more}\r\n\r\n");
    [head.as_bytes(), data, b"\r\n"].concat()
}

#[test]
fn json_that_calls_itself_a_form_is_told_from_one() {
    assert!(is_json(b"{}") && is_json(b" \n[1]") && is_json(b"\"x\"") && is_json(b""));
    assert!(!is_json(b"a=1") && !is_json(b"%7B=1") && !is_json(b"7"));
}

#[test]
fn what_is_too_much_is_413_and_what_is_no_form_400() {
    let whole = [part("a", "", b"x"), part("f", "; filename=\"f\"", &[0xff; 300]), b"--XX--\r\n".to_vec()].concat();
    let found = read(whole.clone().into(), 1000, false).unwrap();
    assert_eq!((found[0].1.as_ref(), found[1].1.len()), (&b"x"[..], 300));
    assert_eq!(read(whole.into(), 200, false).unwrap_err().http_status, 413);
    let long_name = [part(&"n".repeat(300), "", b"x"), b"--XX--".to_vec()].concat();
    for wrong in [Bytes::from_static(b"nothing"), part("a", "", b"x").into(), Bytes::new(), long_name.into()] {
        assert_eq!(read(wrong.clone(), 1000, false).unwrap_err().http_status, 400, "{wrong:?}");
    }
    let not_text = [part("a", "", b"\xff"), b"--XX--".to_vec()].concat();
    assert_eq!(read(not_text.into(), 1000, false).unwrap_err().violations[0].field, "a");
}

#[tokio::test]
async fn nothing_is_held_without_end_where_no_part_comes_of_it() {
    let endless = stream::repeat_with(|| Ok::<_, std::io::Error>(Frame::data(Bytes::from_static(&[b'x'; 1000]))));
    let body = Body::boxed(StreamBody::new(endless.take(1_000_000)));
    let mut parts = Parts::new(body, BOUNDARY.to_owned(), Most::of_gateway(10_000), true);
    let Err(error) = parts.next().await else { panic!("there is no part") };
    assert_eq!(error.http_status, 413);
}

#[tokio::test]
async fn what_no_part_comes_of_is_not_searched_again_without_end() {
    let limit = 10 << 20; // a body may be this long, but not the head of a part
    let head = format!("--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"").into_bytes();
    for (begin, endless) in [(Vec::new(), false), (Vec::new(), true), (head, true)] {
        let taken = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&taken);
        let filler = stream::repeat_with(|| Bytes::from_static(&[b'x'; 1000])).take(5000);
        let chunks = stream::once(std::future::ready(begin.into())).chain(filler).map(move |data: Bytes| {
            counted.fetch_add(data.len() as u64, Ordering::Relaxed);
            Ok::<_, std::io::Error>(Frame::data(data))
        });
        let mut parts =
            Parts::new(Body::boxed(StreamBody::new(chunks)), BOUNDARY.to_owned(), Most::of_gateway(limit), endless);
        let Err(error) = parts.next().await else { panic!("there is no part") };
        assert_eq!((error.http_status, &*error.violations[0].field), (413, "body"), "{error}");
        assert!(taken.load(Ordering::Relaxed) < HELD + 4000, "{taken:?} bytes were taken");
    }
}

#[tokio::test]
async fn large_content_flows_and_no_chunk_is_taken_before_it_is_needed() {
    let taken = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&taken);
    let small: Vec<u8> = (0..50).flat_map(|_| part("a", "", b"x")).collect();
    let head =
        format!("--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"f\"; filename=\"f\"\r\n\r\n").into_bytes();
    let first = stream::once(std::future::ready(Bytes::from([small, head].concat())));
    // Ends of lines, as boundaries begin with.
    let content = stream::repeat_with(|| Bytes::from(b"\r\n--\r".repeat(200))).take(1000);
    let end = stream::once(std::future::ready(Bytes::from_static(b"\r\n--XX--\r\n")));
    let chunks = first.chain(content).chain(end).map(move |data: Bytes| {
        counted.fetch_add(1, Ordering::Relaxed);
        Ok::<_, std::io::Error>(Frame::data(data))
    });
    let mut parts =
        Parts::new(Body::boxed(StreamBody::new(chunks)), BOUNDARY.to_owned(), Most::of_gateway(10_000), true);
    for _ in 0..50 {
        assert!(matches!(parts.next().await.unwrap(), Some(Part::Text { text, .. }) if text == "x"));
        assert_eq!(taken.load(Ordering::Relaxed), 1, "what is held has all of it");
    }
    let Some(Part::File { mut file, .. }) = parts.next().await.unwrap() else { panic!("there is a file") };
    let mut length = 0;
    while let Some(data) = parts.chunk(&mut file).await.unwrap() {
        assert!(data.len() <= 1100, "{} bytes were held", data.len());
        length += data.len();
    }
    assert_eq!(length, 1000 * 1000);
}

proptest! {
    #[test]
    fn any_bytes_are_parts_or_an_error(body in proptest::collection::vec(any::<u8>(), 0..200), more in "[ -~\r\n]{0,80}") {
        let _ = read(body.clone().into(), 1000, true);
        let framed = [format!("--XX\r\n{more}\r\n\r\n").as_bytes(), &body, b"\r\n--XX--"].concat();
        let _ = read(framed.into(), 1000, false);
    }

    #[test]
    fn any_parts_arrive_as_they_were_sent(
        sent in proptest::collection::vec(("[a-z.]{1,20}", proptest::collection::vec(any::<u8>(), 0..60)), 0..6)
    ) {
        // A boundary that stands in the data is the sender's mistake.
        prop_assume!(sent.iter().all(|(_, data)| !data.windows(4).any(|it| it == b"--XX")));
        let mut body: Vec<u8> = sent.iter().flat_map(|(name, data)| part(name, "; filename=\"f\"", data)).collect();
        body.extend_from_slice(b"--XX--\r\n");
        let found = read(body.into(), 10_000, false).unwrap();
        let sent: Vec<_> = sent.into_iter().map(|(name, data)| (name, Bytes::from(data))).collect();
        prop_assert_eq!(found, sent);
    }
}
