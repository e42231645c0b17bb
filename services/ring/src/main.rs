//! The ring's service in Rust, `shop.ring.v1.Rust`: adds a hop, and hands the pass on to the next language of the route.
//!
//! Lives here: the whole service, which is what one by the SDK comes to. Does not: deadline and trace of the calls it makes; the SDK hands them on.
#![forbid(unsafe_code)]

use std::{collections::BTreeMap, process::ExitCode};

use http::uri::PathAndQuery;
use tonic::{Request, Response, Status, client::Grpc};
use tonic_prost::ProstCodec;
use weft::status::invalid_argument;
use weft_proto::{
    descriptors,
    shop::ring::v1::{
        Hop, PassRequest, PassResponse,
        rust_server::{Rust, RustServer},
    },
};

/// Each has the same method under a name of its own.
const LANGUAGES: [(&str, &str); 5] = [
    ("go", "/shop.ring.v1.Go/Pass"),
    ("java", "/shop.ring.v1.Java/Pass"),
    ("node", "/shop.ring.v1.Node/Pass"),
    ("python", "/shop.ring.v1.Python/Pass"),
    ("rust", "/shop.ring.v1.Rust/Pass"),
];
/// The contract's bound of a route.
const MOST_HOPS: usize = 100;
const LIBRARY: &str = concat!("weft ", env!("CARGO_PKG_VERSION"));

fn main() -> ExitCode {
    weft::serve("rust", |app| async move {
        let next = LANGUAGES.map(|(name, method)| (name, (app.channel(name), PathAndQuery::from_static(method))));
        let ring = Ring { app, next: next.into() };
        Ok(weft::Services::new(descriptors::SHOP_RING).with(RustServer::new(ring)))
    })
}

struct Ring {
    app: weft::App,
    /// The way to each language, and its method.
    next: BTreeMap<&'static str, (weft::Channel, PathAndQuery)>,
}

#[tonic::async_trait]
impl Rust for Ring {
    async fn pass(&self, request: Request<PassRequest>) -> Result<Response<PassResponse>, Status> {
        let hop = Hop {
            service: self.app.name().to_owned(),
            instance: self.app.instance().unwrap_or_default().to_owned(),
            library: LIBRARY.to_owned(),
            trace_id: trace_id(&request).unwrap_or_default(),
        };
        let mut hops = vec![hop];
        hops.extend(self.hand_on(request.into_inner().route).await?);
        Ok(Response::new(PassResponse { hops }))
    }
}

impl Ring {
    /// Asks the first of the route, and returns the hops from there on. It ends as the next one ends.
    async fn hand_on(&self, mut route: Vec<String>) -> Result<Vec<Hop>, Status> {
        if route.len() > MOST_HOPS {
            let wrong = format!("has {} names, at most {MOST_HOPS}", route.len());
            return Err(invalid_argument([("route", wrong)]));
        }
        if route.is_empty() {
            return Ok(Vec::new());
        }
        let name = route.remove(0);
        let Some((channel, method)) = self.next.get(name.as_str()).cloned() else {
            return Err(invalid_argument([("route", format!("names {name:?}, which is not of the ring"))]));
        };
        let mut next = Grpc::new(channel);
        next.ready().await?;
        let answer = next.unary(Request::new(PassRequest { route }), method, ProstCodec::default()).await;
        let answer: Response<PassResponse> =
            answer.map_err(|it| Status::new(it.code(), format!("{name}: {}", it.message())))?;
        Ok(answer.into_inner().hops)
    }
}

/// Source: W3C Trace Context, section 3.2.
fn trace_id<T>(request: &Request<T>) -> Option<String> {
    let parts: Vec<_> = request.metadata().get("traceparent")?.to_str().ok()?.split('-').collect();
    (parts.len() == 4).then(|| parts[1].to_owned())
}
