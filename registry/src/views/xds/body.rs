//! The answers of one stream as the body of an HTTP response, made of the bytes that all streams share.
//!
//! Lives here: framing, pieces, the status at the end. Does not: what is answered (`session`), the fields of a message (`wire`).
//! A large resource goes to HTTP/2 as the very bytes that the hub has; small ones are put together when there is room to send them. So
//! a client that does not read costs a pointer for each resource and about [`PIECE`] bytes, however much it is to be told.

use std::{
    convert::Infallible,
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    vec,
};

use bytes::{BufMut, Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame};
use tokio::sync::mpsc;
use tonic::Status;

use super::{
    Resource,
    session::{Name, Response},
    wire::Form,
};

/// Bytes that are put together before they are sent: HTTP/2's usual frame.
const PIECE: usize = 16 << 10;
/// From here on copying costs more than a frame.
const LARGE: usize = 4 << 10;
/// Compressed or not, and the length of the message.
const HEADER: usize = 5;

/// A body that ends with its sender, or with the status it sends.
#[derive(Debug)]
pub(super) struct Answers<F> {
    responses: mpsc::Receiver<Result<Response, Status>>,
    /// What is being sent.
    pieces: Option<Pieces<F>>,
    ended: bool,
}

impl<F: Form> Answers<F> {
    pub(super) const fn new(responses: mpsc::Receiver<Result<Response, Status>>) -> Self {
        Self { responses, pieces: None, ended: false }
    }

    fn end(&mut self, status: &Status) -> Frame<Bytes> {
        self.ended = true;
        let mut trailers = HeaderMap::new();
        if let Err(other) = status.add_header(&mut trailers) {
            drop(other.add_header(&mut trailers)); // says that the status could not be told, by words that can
        }
        Frame::trailers(trailers)
    }
}

impl<F: Form> Body for Answers<F> {
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
            let pieces = match ready!(self.responses.poll_recv(cx)) {
                Some(response) => response.and_then(Pieces::of),
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
struct Pieces<F> {
    own: BytesMut,
    /// Comes after `own`.
    shared: Option<Bytes>,
    resources: vec::IntoIter<(Name, Arc<Resource>)>,
    form: PhantomData<fn() -> F>,
}

impl<F: Form> Pieces<F> {
    fn of(response: Response) -> Result<Self, Status> {
        let mut own = BytesMut::new();
        own.put_bytes(0, HEADER);
        F::envelope(&response, &mut own);
        let (mut head, mut length) = (BytesMut::new(), own.len() - HEADER);
        for (name, resource) in &response.resources {
            head.clear();
            F::head(name, resource, &mut head);
            length += head.len() + resource.bytes.len();
        }
        let length = u32::try_from(length).map_err(|_| Status::out_of_range("an answer would be larger than 4 GiB"))?;
        own[1..HEADER].copy_from_slice(&length.to_be_bytes());
        Ok(Self { own, shared: None, resources: response.resources.into_iter(), form: PhantomData })
    }

    fn next(&mut self) -> Option<Bytes> {
        if let Some(shared) = self.shared.take() {
            return Some(shared);
        }
        let mut own = std::mem::take(&mut self.own);
        while own.len() < PIECE
            && let Some((name, resource)) = self.resources.next()
        {
            F::head(&name, &resource, &mut own);
            if resource.bytes.len() >= LARGE {
                self.shared = Some(resource.bytes.clone());
                break;
            }
            own.extend_from_slice(&resource.bytes);
        }
        (!own.is_empty()).then(|| own.freeze())
    }
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::{
        config::cluster::v3::Cluster,
        service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse},
    };
    use http_body_util::BodyExt;
    use prost::{Message, Name as _};
    use weft_model::Version;

    use super::*;
    use crate::views::xds::{
        Kind,
        wire::{Delta, Whole, parse_version},
    };

    fn cluster(name: &str, size: usize) -> (Name, Arc<Resource>) {
        let cluster = Cluster { name: name.into(), alt_stat_name: "x".repeat(size), ..Cluster::default() };
        (name.into(), Arc::new(Resource::of(&cluster)))
    }

    fn response(resources: Vec<(Name, Arc<Resource>)>) -> Response {
        let removed = vec!["posts".into()];
        Response { kind: Kind::Cluster, nonce: 31, version: Version(7 << 32 | 42), resources, removed, gone: vec![] }
    }

    /// The pieces of one message, and the message.
    fn sent<F: Form>(response: Response) -> (Vec<Bytes>, Bytes) {
        let mut pieces = Pieces::<F>::of(response).unwrap();
        let pieces: Vec<Bytes> = std::iter::from_fn(|| pieces.next()).collect();
        let all = Bytes::from(pieces.concat());
        let (head, message) = (all.slice(..HEADER), all.slice(HEADER..));
        assert_eq!(head[0], 0, "not compressed");
        assert_eq!(u32::from_be_bytes(head[1..].try_into().unwrap()) as usize, message.len());
        (pieces, message)
    }

    #[test]
    fn what_we_write_is_what_others_read() {
        let resources = || vec![cluster("users", 10), cluster("big", 70_000), cluster("posts", 20)];
        let (_, message) = sent::<Whole>(response(resources()));
        let whole = DiscoveryResponse::decode(message).unwrap();
        assert_eq!((whole.version_info.as_str(), whole.nonce.as_str()), ("7.42", "1f"));
        assert_eq!(whole.type_url, Cluster::type_url());
        let names = whole.resources.iter().map(|it| Cluster::decode(it.value.as_ref()).unwrap().name);
        assert_eq!(names.collect::<Vec<_>>(), ["users", "big", "posts"]);

        let (_, message) = sent::<Delta>(response(resources()));
        let delta = DeltaDiscoveryResponse::decode(message).unwrap();
        assert_eq!((delta.system_version_info.as_str(), delta.nonce.as_str()), ("7.42", "1f"));
        assert_eq!((delta.type_url, delta.removed_resources.as_slice()), (Cluster::type_url(), &["posts".into()][..]));
        for (resource, name) in delta.resources.iter().zip(["users", "big", "posts"]) {
            assert_eq!((resource.name.as_str(), parse_version(&resource.version).is_some()), (name, true));
            let any = resource.resource.as_ref().unwrap();
            assert_eq!(any.type_url, Cluster::type_url());
            assert_eq!(Cluster::decode(any.value.as_ref()).unwrap().name, name);
        }
        assert_eq!(delta.resources.len(), 3);
    }

    #[test]
    fn a_large_resource_is_shared_and_small_ones_come_together() {
        let (big, small) = (cluster("big", 70_000), (0..100).map(|n| cluster(&format!("small-{n}"), 1_000)));
        let (pieces, message) = sent::<Whole>(response(small.chain([big.clone()]).collect()));
        assert!(pieces.iter().any(|piece| piece.as_ptr() == big.1.bytes.as_ptr()), "not a copy");
        let copied: Vec<usize> = pieces.iter().map(Bytes::len).filter(|len| *len != big.1.bytes.len()).collect();
        assert!(copied.iter().all(|len| *len < PIECE + LARGE + 100) && copied.len() < 10, "{copied:?}");
        assert_eq!(DiscoveryResponse::decode(message).unwrap().resources.len(), 101);
    }

    #[test]
    fn an_answer_without_resources_is_one_piece() {
        let (pieces, message) = sent::<Whole>(response(vec![]));
        assert_eq!((pieces.len(), DiscoveryResponse::decode(message).unwrap().resources.len()), (1, 0));
    }

    #[tokio::test]
    async fn the_status_comes_last() {
        for (end, code, words) in
            [(None, "0", None), (Some(Status::unavailable("later, please")), "14", Some("later,%20please"))]
        {
            let (out, responses) = mpsc::channel(2);
            let mut body = Answers::<Whole>::new(responses);
            out.send(Ok(response(vec![cluster("users", 1)]))).await.unwrap();
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
