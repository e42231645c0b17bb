//! Discovery.List: every service, or one, as a watcher would first be told.
//!
//! Lives here: the request, the answer made of the bytes that watchers share. Does not: encoding a service (`watch::told`).
//! The answer may be as large as the catalog, so it is never there as messages: of each service only the bytes are, and they go once they are sent.

use std::error::Error;

use bytes::BytesMut;
use http_body::Body as HttpBody;
use prost::Message as _;
use tokio::sync::mpsc;
use tonic::{Status, body::Body};
use weft_model::ServiceName;
use weft_proto::weft::discovery::v1::{ListRequest, ListResponse};

use super::Discovery;
use crate::{
    sources::status,
    views::{
        body::{self, Pieces},
        stream,
        watch::Told,
    },
};

/// The method that is served here.
pub(super) const METHOD: &str = "/weft.discovery.v1.Discovery/List";

struct Listed {
    /// Without services.
    envelope: ListResponse,
    services: Vec<Told>,
}

impl Listed {
    fn pieces(self) -> Result<Pieces<Told>, Status> {
        let envelope = |out: &mut BytesMut| self.envelope.encode(out).expect("a growing buffer has room");
        Pieces::of(envelope, self.services)
    }
}

pub(super) async fn answer<B>(discovery: Discovery, request: http::Request<B>) -> http::Response<Body>
where
    B: HttpBody + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>> + Send + 'static,
{
    let listed = async {
        let request = stream::requests(request)?.message().await?;
        let request = request.ok_or_else(|| Status::internal("a call of List has one message"))?;
        list(&discovery, &request)
    };
    match listed.await {
        Ok(listed) => {
            let (out, messages) = mpsc::channel(1);
            drop(out.try_send(Ok(listed))); // a new channel has room for one
            body::answers(messages, Listed::pieces)
        }
        Err(status) => status.into_http(),
    }
}

fn list(discovery: &Discovery, request: &ListRequest) -> Result<Listed, Status> {
    let published = discovery.catalog.published();
    let wanted = match request.service.as_str() {
        "" => None,
        name => Some(name.parse::<ServiceName>().map_err(|e| status::invalid(&e.within("service")))?),
    };
    let services = published.snapshot.services.iter();
    let services = services.filter(|(name, _)| wanted.as_ref().is_none_or(|w| w == *name)).map(|(_, it)| it);
    let services = discovery.watches.first(services, &published).collect();
    let (version, notices) = (published.snapshot.version.0, published.notices.to_vec());
    Ok(Listed { envelope: ListResponse { version, services: Vec::new(), notices }, services })
}
