//! The answers of one stream as the body of an HTTP response, made of the bytes that all streams share.
//!
//! Lives here: framing, pieces, the status at the end. Does not: what is answered (`watch::session`, `xds::session`), the fields of a message
//! (`watch::told`, `xds::wire`).
//! A large part goes to HTTP/2 as the very bytes that the view has; small ones are put together when there is room to send them. So
//! a client that does not read costs a pointer for each part and about [`PIECE`] bytes, however much it is to be told.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
    vec,
};

use bytes::{BufMut, Bytes, BytesMut};
use http::HeaderMap;
use http_body::Frame;
use tokio::sync::mpsc;
use tonic::{Status, body::Body, metadata::GRPC_CONTENT_TYPE};

/// Bytes that are put together before they are sent: HTTP/2's usual frame.
pub(super) const PIECE: usize = 16 << 10;
/// From here on copying costs more than a frame.
pub(super) const LARGE: usize = 4 << 10;
/// Compressed or not, and the length of the message.
const HEADER: usize = 5;

/// A field of a message whose value is encoded already, or several fields.
pub(super) trait Part {
    /// Writes what comes before the bytes: tag, length, and what is not shared; nothing if the bytes have it.
    fn head(&self, out: &mut BytesMut);
    fn bytes(&self) -> &Bytes;
}

/// Returns the response that streams what comes of `messages`, each taken apart by `of` when it is its turn. It ends with the sender, or
/// with the status it sends.
pub(super) fn answers<T, P>(
    messages: mpsc::Receiver<Result<T, Status>>,
    of: fn(T) -> Result<Pieces<P>, Status>,
) -> http::Response<Body>
where
    T: Send + 'static,
    P: Part + Send + Unpin + 'static,
{
    let mut response = http::Response::new(Body::new(Answers { messages, of, pieces: None, ended: false }));
    response.headers_mut().insert(http::header::CONTENT_TYPE, GRPC_CONTENT_TYPE);
    response
}

#[derive(Debug)]
struct Answers<T, P> {
    messages: mpsc::Receiver<Result<T, Status>>,
    of: fn(T) -> Result<Pieces<P>, Status>,
    /// What is being sent.
    pieces: Option<Pieces<P>>,
    ended: bool,
}

impl<T, P> Answers<T, P> {
    fn end(&mut self, status: &Status) -> Frame<Bytes> {
        self.ended = true;
        let mut trailers = HeaderMap::new();
        if let Err(other) = status.add_header(&mut trailers) {
            drop(other.add_header(&mut trailers)); // says that the status could not be told, by words that can
        }
        Frame::trailers(trailers)
    }
}

impl<T, P: Part + Unpin> http_body::Body for Answers<T, P> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        loop {
            if let Some(piece) = self.pieces.as_mut().and_then(Pieces::next) {
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            self.pieces = None;
            let pieces = match ready!(self.messages.poll_recv(cx)) {
                Some(message) => message.and_then(self.of),
                None => Err(Status::ok("")),
            };
            match pieces {
                Ok(pieces) => self.pieces = Some(pieces),
                Err(status) => return Poll::Ready(Some(Ok(self.end(&status)))),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}

/// What is left to send of one message.
#[derive(Debug)]
pub(super) struct Pieces<P> {
    own: BytesMut,
    /// Comes after `own`.
    shared: Option<Bytes>,
    parts: vec::IntoIter<P>,
}

impl<P: Part> Pieces<P> {
    /// A message of fields that `envelope` writes, and of these parts after them.
    pub(super) fn of(envelope: impl FnOnce(&mut BytesMut), parts: Vec<P>) -> Result<Self, Status> {
        let mut own = BytesMut::new();
        own.put_bytes(0, HEADER);
        envelope(&mut own);
        let (mut head, mut length) = (BytesMut::new(), own.len() - HEADER);
        for part in &parts {
            head.clear();
            part.head(&mut head);
            length += head.len() + part.bytes().len();
        }
        let length = u32::try_from(length).map_err(|_| Status::out_of_range("an answer would be larger than 4 GiB"))?;
        own[1..HEADER].copy_from_slice(&length.to_be_bytes());
        Ok(Self { own, shared: None, parts: parts.into_iter() })
    }

    /// The next bytes to send; none when that was all.
    pub(super) fn next(&mut self) -> Option<Bytes> {
        if let Some(shared) = self.shared.take() {
            return Some(shared);
        }
        let mut own = std::mem::take(&mut self.own);
        while own.len() < PIECE
            && let Some(part) = self.parts.next()
        {
            part.head(&mut own);
            if part.bytes().len() >= LARGE {
                self.shared = Some(part.bytes().clone());
                break;
            }
            own.extend_from_slice(part.bytes());
        }
        if own.is_empty() { self.shared.take() } else { Some(own.freeze()) }
    }
}

/// The pieces of one message, and the message: for tests of views.
#[cfg(test)]
pub(super) fn sent<P: Part>(mut pieces: Pieces<P>) -> (Vec<Bytes>, Bytes) {
    let pieces: Vec<Bytes> = std::iter::from_fn(|| pieces.next()).collect();
    let all = Bytes::from(pieces.concat());
    let (head, message) = (all.slice(..HEADER), all.slice(HEADER..));
    assert_eq!(head[0], 0, "not compressed");
    assert_eq!(u32::from_be_bytes(head[1..].try_into().unwrap()) as usize, message.len());
    (pieces, message)
}

#[cfg(test)]
mod tests {
    use http_body::Body as _;
    use http_body_util::BodyExt;

    use super::*;

    /// A field 1 of bytes.
    struct Field(Bytes);

    impl Part for Field {
        fn head(&self, out: &mut BytesMut) {
            out.put_u8(1 << 3 | 2);
            prost::encode_length_delimiter(self.0.len(), out).unwrap();
        }

        fn bytes(&self) -> &Bytes {
            &self.0
        }
    }

    fn message(sizes: &[usize]) -> Vec<Bytes> {
        sizes.iter().map(|size| Bytes::from(vec![b'x'; *size])).collect()
    }

    fn pieces(message: Vec<Bytes>) -> Result<Pieces<Field>, Status> {
        Pieces::of(|_| (), message.into_iter().map(Field).collect())
    }

    #[test]
    fn a_large_part_is_shared_and_small_ones_come_together() {
        let parts = message(&[[1_000; 100].as_slice(), &[70_000]].concat());
        let big = parts[100].clone();
        let (pieces, message) = sent(pieces(parts).unwrap());
        assert!(pieces.iter().any(|piece| piece.as_ptr() == big.as_ptr()), "not a copy");
        let copied: Vec<usize> = pieces.iter().map(Bytes::len).filter(|len| *len != big.len()).collect();
        assert!(copied.iter().all(|len| *len < PIECE + LARGE + 100) && copied.len() < 10, "{copied:?}");
        assert_eq!(message.len(), 100 * 1_003 + 70_004);
    }

    #[test]
    fn parts_that_are_whole_fields_come_one_after_the_other() {
        struct Whole(Bytes);
        impl Part for Whole {
            fn head(&self, _: &mut BytesMut) {}

            fn bytes(&self) -> &Bytes {
                &self.0
            }
        }
        let parts = [70_000, 5_000, 10, 6_000, 20].map(|size| Whole(vec![b'x'; size].into()));
        let (_, message) = sent(Pieces::of(|_| (), parts.into()).unwrap());
        assert_eq!(message.len(), 81_030);
    }

    #[test]
    fn a_message_without_parts_is_one_piece() {
        let (pieces, message) = sent(Pieces::<Field>::of(|out| out.put_slice(b"..."), vec![]).unwrap());
        assert_eq!((pieces.len(), message.as_ref()), (1, b"...".as_slice()));
    }

    #[tokio::test]
    async fn the_status_comes_last() {
        for (end, code, words) in
            [(None, "0", None), (Some(Status::unavailable("later, please")), "14", Some("later,%20please"))]
        {
            let (out, messages) = mpsc::channel(2);
            let mut body = answers(messages, pieces).into_body();
            out.send(Ok(message(&[1]))).await.unwrap();
            if let Some(status) = end {
                out.send(Err(status)).await.unwrap();
            }
            drop(out);
            assert!(body.frame().await.unwrap().unwrap().is_data());
            let trailers = body.frame().await.unwrap().unwrap().into_trailers().unwrap();
            assert_eq!(trailers["grpc-status"], code);
            assert_eq!(trailers.get("grpc-message").and_then(|it| it.to_str().ok()), words);
            assert!(body.frame().await.is_none() && body.is_end_stream());
        }
    }
}
