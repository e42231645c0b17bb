//! WebSocket: streams of REST routes for clients that send and receive at once, browsers above all.
//!
//! Lives here: which requests ask for one, what has to hold before one is granted, the answer. Does not: the messages (`websocket::session`), reading
//! the handshake (`websocket::handshake`), the connection once HTTP is over (`listener::Takeover`).
//! A path is that of the REST binding, whatever its method: a WebSocket begins with GET. What is wrong before the upgrade is answered as REST answers it,
//! later in the stream. A page of another origin is refused unless a CORS policy lets it call: browsers ask no leave here, and send their cookies.

mod handshake;
mod session;

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header, request};
use hyper::upgrade::OnUpgrade;
use weft_traffic::Body;
use weft_transcode::{BindError, Status, stream::MessageReader};

use crate::{
    edge::{
        call::{Call, Observed},
        guard, metrics,
    },
    listener::Takeover,
    protocol::{
        Shard,
        codes::{PERMISSION_DENIED, UNAVAILABLE},
        rest::{self, Exchange, Failure, metadata},
    },
    routes::{Found, Rest, Table},
    tls::peer::Peer,
};
use handshake::Handshake;
use session::Session;

/// Methods that a path may be bound by, in the order in which a WebSocket looks for one that streams.
const METHODS: [&str; 5] = ["GET", "POST", "PUT", "PATCH", "DELETE"];

/// Whether a request asks for a WebSocket. Costs other requests nothing: hyper notes which of them ask to leave HTTP.
pub(super) fn asked_for<B>(request: &Request<B>) -> bool {
    request.extensions().get::<OnUpgrade>().is_some()
        && request.method() == Method::GET
        && handshake::names_websocket(request.headers())
}

/// Answers a request that asks for a WebSocket.
pub(super) async fn answer(shard: &Shard, request: Request<Body>, mut call: Call) -> Response<Observed> {
    let (mut head, _) = request.into_parts();
    match granted(shard, &mut head, &mut call).await {
        Ok(granted) => granted.begin(shard, head, call),
        Err(refused) => {
            call.status = metrics::Status::Http(refused.status().as_u16());
            call.answered(*refused)
        }
    }
}

/// A request that becomes a WebSocket.
struct Granted {
    handshake: Handshake,
    upgrade: OnUpgrade,
    found: Found,
    reader: MessageReader,
}

type Refused = Box<Response<Body>>;

async fn granted(shard: &Shard, head: &mut request::Parts, call: &mut Call) -> Result<Granted, Refused> {
    let refused = |failure: Failure| Box::new(rest::failed(shard, failure, None));
    let upgrade = head.extensions.remove::<OnUpgrade>().expect("whoever comes here asked to leave HTTP");
    let handshake = Handshake::read(&head.headers).map_err(|error| {
        let mut response = refused(error.into());
        response.headers_mut().insert(header::SEC_WEBSOCKET_VERSION, handshake::VERSION);
        response
    })?;
    let found = route(shard, head).map_err(|failure| {
        let table = shard.shared.table.load();
        call.cors = table.as_deref().and_then(Table::cors_of_unmatched).map(|it| it.grant(&head.headers));
        refused(failure)
    })?;
    call.meter = found.meter.clone();
    call.service = Some(found.service.clone());
    metadata::end_hop(&mut head.headers);
    from_a_page(&found, &mut head.headers, call).map_err(|status| refused(status.into()))?;
    handshake.move_credential(&mut head.headers);
    if let Err(refusal) = guard::admit(found.edge.as_ref(), &mut head.headers, call).await {
        let mut response = refused(Status::new(refusal.code.number().into(), refusal.message.as_str()).into());
        *response.status_mut() = refusal.http().unwrap_or(response.status());
        refusal.write(response.headers_mut());
        return Err(response);
    }
    if found.plan.http_method() == "GET" {
        call.take_writes(); // as safe as the GET
    }
    let exchange = Exchange { shard, head, found: &found, call };
    let reader = MessageReader::new(&exchange.reader(), &found.plan, exchange.parts());
    let reader = reader.map(|reader| reader.checked(exchange.check_of_messages()));
    let reader = reader.and_then(|reader| exchange.timeout().map(|_| reader)).map_err(|error| refused(error.into()))?;
    Ok(Granted { handshake, upgrade, found, reader })
}

/// Finds the path's binding of a method that streams.
fn route(shard: &Shard, head: &request::Parts) -> Result<Found, Failure> {
    let table = shard.shared.table.load();
    let table = table.as_deref().ok_or_else(|| Status::new(UNAVAILABLE, shard.shared.no_table()))?;
    rest::one_host(head)?;
    let path = head.uri.path();
    let mut unary = None;
    for method in METHODS {
        let Rest::Found(found) = table.rest(method, path) else { continue };
        let streaming = found.plan.method().streaming();
        if streaming.client() || streaming.server() {
            return Ok(found);
        }
        unary.get_or_insert(method);
    }
    Err(match unary {
        Some(method) => {
            let why = format!("what {method} {path} calls does not stream, so it has no WebSocket; send {method}");
            BindError::field("upgrade", why).into()
        }
        None => BindError::not_found(path).into(),
    })
}

/// Refuses pages that no policy lets call; takes from the others what their browser added, unless the policy is about that, too.
fn from_a_page(found: &Found, headers: &mut HeaderMap, call: &mut Call) -> Result<(), Status> {
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) }; // no browser
    // A page that came in plaintext may be anybody's.
    let schemes: &[&str] = if call.peer.is_some() { &["https"] } else { &["http", "https"] };
    if handshake::is_own_page(origin, headers.get(header::HOST), schemes) {
        return Ok(());
    }
    let method = Some(found.plan.http_method()).filter(|it| *it != "*").unwrap_or("GET");
    let cors = found.edge.as_ref().and_then(|edge| edge.cors.as_ref());
    let Some(cors) = cors.filter(|cors| cors.admits(origin, method)) else {
        let origin = origin.to_str().unwrap_or("an unreadable origin");
        let message = format!("no cors policy lets pages of {origin} call this, so they may not open a WebSocket");
        return Err(Status::new(PERMISSION_DENIED, message));
    };
    if !cors.credentials() {
        headers.remove(header::COOKIE);
        headers.remove(header::AUTHORIZATION);
        call.peer = call.peer.take().map(|_| Arc::new(Peer { certificate: None }));
    }
    Ok(())
}

impl Granted {
    /// Answers 101; the connection then is the session's.
    fn begin(self, shard: &Shard, head: request::Parts, call: Call) -> Response<Observed> {
        let Self { handshake, upgrade, found, reader } = self;
        let mut response = Response::new(Observed::unobserved(Body::empty()));
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, handshake.accept);
        if let Some(protocol) = handshake.protocol {
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
        }
        headers.insert(crate::edge::call::REQUEST_ID, call.request_id.clone());
        let session = Box::new(Session { shard: shard.clone(), head, found, call });
        let takeover = Takeover::new(move |shutdown| session.run(reader, upgrade, shutdown));
        response.extensions_mut().insert(takeover);
        response
    }
}
