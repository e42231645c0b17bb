//! The API described: OpenAPI of the live route table, and a page to read and try it.
//!
//! Lives here: which paths these are, when they are a service's own, making documents once for each table. Does not: what a document says
//! (`weft_transcode::openapi`), the page itself (`docs/page`).
//! Invariants: a document is made on a blocking thread, once a table, when somebody first asks, and kept as long as the table; calls never wait
//! for it. A service that binds one of these paths literally has it.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header, request};
use sha2::{Digest, Sha256};
use tokio::{sync::OnceCell, task};
use weft_traffic::Body;
use weft_transcode::{
    Codec, Status,
    openapi::{self, About},
    status,
};

use crate::{
    edge::authentication::Caller,
    protocol::{
        Shared,
        codes::{INTERNAL, UNAVAILABLE, UNIMPLEMENTED},
    },
    routes::{Rest, Table},
};

/// What the pages may do: run what this gateway serves, call this gateway, nothing else.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
     frame-ancestors 'none'",
);

/// Whether and how the API is described.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Docs {
    /// Whether `/docs`, `/openapi.json` and `/openapi.yaml` are served. Default true.
    pub enabled: bool,
    /// Title of the document. Default "weft gateway".
    pub title: String,
}

impl Default for Docs {
    fn default() -> Self {
        Self { enabled: true, title: "weft gateway".to_owned() }
    }
}

/// A page of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Page {
    Json,
    Yaml,
    Html,
    Script,
    Style,
}

impl Page {
    /// Returns the page at a path.
    pub(crate) fn at(path: &str) -> Option<Self> {
        Some(match path {
            "/openapi.json" => Self::Json,
            "/openapi.yaml" => Self::Yaml,
            "/docs" | "/docs/" => Self::Html,
            "/docs/page.js" => Self::Script,
            "/docs/page.css" => Self::Style,
            _ => return None,
        })
    }

    fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Yaml => "application/yaml",
            Self::Html => "text/html; charset=utf-8",
            Self::Script => "text/javascript; charset=utf-8",
            Self::Style => "text/css; charset=utf-8",
        }
    }
}

/// Both forms of the document of one table.
#[derive(Debug)]
pub(crate) struct Documents {
    json: Served,
    yaml: Served,
}

/// A body and what names it.
#[derive(Debug, Clone)]
struct Served {
    body: Bytes,
    tag: String,
}

impl Served {
    fn new(body: impl Into<Bytes>) -> Self {
        let body = body.into();
        // Weak, since it names the page and not its bytes: those may be compressed.
        Self { tag: format!("W/\"{}\"", hex(&Sha256::digest(&body), 16)), body }
    }
}

/// Where a table keeps its documents.
pub(crate) type Kept = OnceCell<Arc<Documents>>;

impl Documents {
    fn of(table: &Table, codec: &Codec, about: About<'_>) -> Self {
        let routes = table.plans(codec).map(|(plan, codec)| (plan, codec.settings()));
        let mut document = openapi::document(about, codec.settings(), routes);
        openapi::secure(&mut document, |grpc_path| {
            let edge = table.native(grpc_path)?.edge?;
            edge.caller.as_ref().map(Caller::security)
        });
        openapi::keep(&mut document, |grpc_path| {
            let found = table.rpc(grpc_path).and_then(|it| it.edge.zip(it.plan));
            found.is_some_and(|(edge, plan)| edge.cache.as_ref().is_some_and(|it| it.keeps(plan.method())))
        });
        // Of the same routes, every gateway says the same.
        let version = hex(&Sha256::digest(document.to_string()), 6);
        document["info"]["version"] = version.into();
        Self { json: Served::new(document.to_string()), yaml: Served::new(openapi::to_yaml(&document)) }
    }
}

/// Returns the page that a request is for, unless a service has its path. A binding that takes any path does not take these.
pub(crate) fn asked(shared: &Shared, method: &Method, path: &str) -> Option<Page> {
    let page = Page::at(path).filter(|_| shared.docs.enabled)?;
    let table = shared.table.load();
    let method = if *method == Method::HEAD { &Method::GET } else { method };
    let services = |table: &Table| match table.rest(method.as_str(), path) {
        Rest::Found(found) => found.is_literal(),
        Rest::MethodNotAllowed(_) | Rest::NotFound => false,
    };
    (!table.as_deref().is_some_and(services)).then_some(page)
}

/// Answers with a page.
pub(crate) async fn answer(shared: &Shared, head: &request::Parts, page: Page) -> Response<Body> {
    if ![Method::GET, Method::HEAD].contains(&head.method) {
        let mut response = failure(shared, &Status::new(UNIMPLEMENTED, "this page can be read and nothing else"));
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let Served { body, tag } = match page {
        Page::Html => Served::new(&include_bytes!("docs/page/page.html")[..]),
        Page::Script => Served::new(&include_bytes!("docs/page/page.js")[..]),
        Page::Style => Served::new(&include_bytes!("docs/page/page.css")[..]),
        Page::Json | Page::Yaml => match documents(shared).await {
            Ok(documents) if page == Page::Json => documents.json.clone(),
            Ok(documents) => documents.yaml.clone(),
            Err(status) => return failure(shared, &status),
        },
    };
    let fresh = is_known(&head.headers, &tag);
    let mut response = Response::new(if fresh { Body::empty() } else { Body::full(body) });
    if fresh {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(page.content_type()));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(header::CONTENT_SECURITY_POLICY, POLICY);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    if let Ok(tag) = HeaderValue::try_from(tag) {
        headers.insert(header::ETAG, tag);
    }
    response
}

/// Returns the documents of the table of now.
async fn documents(shared: &Shared) -> Result<Arc<Documents>, Status> {
    let table = shared.table.load_full().ok_or_else(|| Status::new(UNAVAILABLE, shared.no_table()))?;
    documents_of(&table, &shared.codec, &shared.docs.title, shared.limits.max_request_bytes).await
}

/// Returns the documents of a table. Whoever asks at the same time waits for one making.
async fn documents_of(
    table: &Arc<Table>,
    codec: &Codec,
    title: &str,
    max_request_bytes: u64,
) -> Result<Arc<Documents>, Status> {
    let make = async || {
        let (table, codec, title) = (Arc::clone(table), codec.clone(), title.to_owned());
        let made = task::spawn_blocking(move || {
            let about = About { title: &title, version: "", max_request_bytes };
            Arc::new(Documents::of(&table, &codec, about))
        });
        made.await.map_err(|error| {
            tracing::error!(%error, "the API cannot be described");
            Status::new(INTERNAL, "the API cannot be described")
        })
    };
    table.documents().get_or_try_init(make).await.cloned()
}

fn failure(shared: &Shared, status: &Status) -> Response<Body> {
    let mut response = Response::new(Body::full(shared.codec.encode_status(status, None)));
    *response.status_mut() = StatusCode::from_u16(status.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(status::JSON));
    response
}

/// Whether the client has what we would send (RFC 9110, 13.1.2).
fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    let named = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|it| it.to_str().ok());
    let opaque = tag.trim_start_matches("W/");
    named.flat_map(|it| it.split(',')).map(|it| it.trim().trim_start_matches("W/")).any(|it| it == opaque || it == "*")
}

fn hex(digest: &[u8], bytes: usize) -> String {
    digest[..bytes].iter().map(|it| format!("{it:02x}")).collect()
}

#[cfg(test)]
mod tests;
