//! The response cache as callers and services meet it: a gateway whose clock and policies the test sets, and a service that counts its calls.
//! Inventory: gw-cache.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicU32, AtomicU64},
    },
    time::SystemTime,
};

use http::HeaderMap;
use tokio::sync::Semaphore;
use tonic::{Response, Status as Refused, metadata::KeyAndValueRef, transport::server::TcpIncoming};
use weft_model::Policy;
use weft_proto::shop::users::v1::{
    CreateUserRequest, DeleteUserRequest, GetUserRequest, ListUsersRequest, ListUsersResponse, UpdateUserRequest, User,
    users_server::{Users, UsersServer},
};

use super::*;

mod hostile;
mod protocols;

static SECONDS: AtomicU64 = AtomicU64::new(0);

/// A clock that stands until somebody moves it. All tests here share it, and one moves it by minutes: the others keep for a day.
fn now() -> Instant {
    static START: OnceLock<Instant> = OnceLock::new();
    *START.get_or_init(Instant::now) + Duration::from_secs(SECONDS.load(Ordering::SeqCst))
}

/// The service: its answers say the how manieth call they are to, and have the metadata that the request asks for by `answer-NAME`.
#[derive(Clone)]
struct Counting {
    calls: Arc<AtomicU32>,
    /// A read takes one and does not give it back.
    may_answer: Arc<Semaphore>,
    /// A write passes by one.
    may_write: Arc<Semaphore>,
    /// How many calls fail from the first on.
    failing: Arc<AtomicU32>,
}

impl Counting {
    /// A read, which waits until it may answer.
    async fn read(&self, id: String, request: &tonic::metadata::MetadataMap) -> Result<Response<User>, Refused> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        self.may_answer.acquire().await.unwrap().forget();
        self.answer(call, id, request)
    }

    async fn write(&self, id: &str, request: &tonic::metadata::MetadataMap) -> Result<Response<User>, Refused> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        drop(self.may_write.acquire().await.unwrap());
        self.answer(call, id.into(), request)
    }

    fn answer(&self, call: u32, id: String, request: &tonic::metadata::MetadataMap) -> Result<Response<User>, Refused> {
        if call <= self.failing.load(Ordering::SeqCst) {
            return Err(Refused::internal("on purpose"));
        }
        if request.contains_key("aborted") {
            return Err(Refused::aborted("another came first"));
        }
        let said = |name: &str| request.get(name).and_then(|it| it.to_str().ok()).unwrap_or_default().to_owned();
        let name = format!("call {call} for {}{}", said("authorization"), said("accept-language"));
        let email = "x".repeat(said("padding").parse().unwrap_or(0));
        let mut response = Response::new(User { id, name, email, ..User::default() });
        for pair in request.iter() {
            if let KeyAndValueRef::Ascii(key, value) = pair
                && let Some(name) = key.as_str().strip_prefix("answer-")
            {
                let name: tonic::metadata::AsciiMetadataKey = name.parse().unwrap();
                response.metadata_mut().append(name, value.clone());
            }
        }
        Ok(response)
    }
}

#[tonic::async_trait]
impl Users for Counting {
    async fn create_user(&self, request: tonic::Request<CreateUserRequest>) -> Result<Response<User>, Refused> {
        self.write("new", request.metadata()).await
    }

    async fn get_user(&self, request: tonic::Request<GetUserRequest>) -> Result<Response<User>, Refused> {
        if request.get_ref().id == "gone" {
            self.calls.fetch_add(1, Ordering::SeqCst);
            return Err(Refused::not_found("gone"));
        }
        self.read(request.get_ref().id.clone(), request.metadata()).await
    }

    async fn list_users(
        &self,
        request: tonic::Request<ListUsersRequest>,
    ) -> Result<Response<ListUsersResponse>, Refused> {
        let response = self.read("listed".into(), request.metadata()).await?;
        Ok(response.map(|user| ListUsersResponse { users: vec![user], next_page_token: String::new() }))
    }

    async fn update_user(&self, request: tonic::Request<UpdateUserRequest>) -> Result<Response<User>, Refused> {
        self.write("updated", request.metadata()).await
    }

    async fn delete_user(&self, _: tonic::Request<DeleteUserRequest>) -> Result<Response<()>, Refused> {
        Err(Refused::failed_precondition("not this one"))
    }
}

/// A gateway with cache policies before that service.
pub(super) struct Kept {
    mesh: Mesh,
    service: Counting,
    published: Published,
}

pub(super) struct Answer {
    pub(super) status: StatusCode,
    headers: HeaderMap,
    pub(super) body: String,
}

impl Answer {
    fn cache(&self) -> &str {
        self.headers.get("cache-status").and_then(|it| it.to_str().ok()).unwrap_or("none")
    }

    /// The number of the call that it is the answer to.
    fn call(&self) -> u32 {
        let (_, after) = self.body.split_once("call ").unwrap_or_else(|| panic!("{}", self.body));
        after.split(' ').next().unwrap().parse().unwrap()
    }
}

/// Asks the service to say so.
fn says(control: &str) -> (&'static str, &str) {
    ("answer-cache-control", control)
}

const ADA: &str = "/api/users/ada";

impl Kept {
    /// With these policies, one YAML document each.
    pub(super) async fn start(policies: &str) -> Self {
        Self::start_behind(crate::TrustedProxies::default(), policies).await
    }

    /// The same, behind proxies.
    async fn start_behind(proxies: crate::TrustedProxies, policies: &str) -> Self {
        let mut published = Published::default();
        let mut mesh = Mesh::start_with(|gateway| {
            published = gateway.published.clone();
            gateway.config.proxies = proxies;
            let wall: fn() -> SystemTime = weft_runtime::clock::wall;
            let caching = Caching::new(1 << 20, &gateway.meters, Clocks { ages: now, wall });
            let refusals = Refusals::new(&weft_runtime::Metrics::default());
            let (issuers, fetcher) = issuers(Default::default());
            gateway.fetcher = fetcher;
            gateway.edge = Compiler::new(issuers, refusals, wall, None, caching, gateway.codec.clone());
        })
        .await;
        let [may_answer, may_write] = [(); 2].map(|()| Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)));
        let service = Counting { calls: Arc::default(), may_answer, may_write, failing: Arc::default() };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let server = tonic::transport::Server::builder()
            .add_service(UsersServer::new(service.clone()))
            .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)));
        mesh.tasks.spawn(async move { server.await.unwrap() });
        let set = mesh.publish(&DescriptorSet::from_encoded_set(descriptors::SHOP_USERS).unwrap());
        mesh.list("users", "shop.users.v1.Users", &[set], Some(addr)).await;
        until("routes", SOON, || async { published.load().is_some().then_some(()) }).await;
        let mut kept = Self { mesh, service, published };
        kept.apply(policies).await;
        kept
    }

    /// Gives the service these policies, and waits until they count.
    pub(super) async fn apply(&mut self, yaml: &str) {
        let read = weft_policy::parse(yaml, weft_policy::Format::Yaml).unwrap_or_else(|e| panic!("{e} in {yaml}"));
        let policies: Arc<[Arc<Policy>]> = read.into_iter().map(|(_, it)| Arc::new(it)).collect();
        let name: ServiceName = "users".parse().unwrap();
        let mut listed = (*self.mesh.now.services[&name]).clone();
        listed.policies = policies;
        self.change(listed).await;
    }

    /// Says something else of the service, and waits until it counts.
    async fn change(&mut self, mut listed: ServiceSnapshot) {
        let before = self.published.load_full();
        self.mesh.now.version = Version(self.mesh.now.version.0 + 1);
        listed.version = self.mesh.now.version;
        self.mesh.now.directory.insert(listed.name.clone(), Arc::clone(&listed.info));
        self.mesh.now.services.insert(listed.name.clone(), Arc::new(listed));
        self.mesh.feed().await;
        let changed = || match (&before, &self.published.load_full()) {
            (Some(before), Some(now)) => !Arc::ptr_eq(before, now),
            _ => false,
        };
        until("a new table", SOON, || async { changed().then_some(()) }).await;
    }

    pub(super) async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        send(self.mesh.addr, "GET", path, headers, "").await
    }

    fn calls(&self) -> u32 {
        self.service.calls.load(Ordering::SeqCst)
    }

    async fn until_called(&self, calls: u32) {
        until(&format!("call {calls}"), SOON, || async { (self.calls() >= calls).then_some(()) }).await;
    }
}

async fn send(to: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    send_by(TcpStream::connect(to).await.unwrap(), method, path, headers, body).await
}

async fn send_by(stream: TcpStream, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let mut request = Request::builder().method(method).uri(path).header("host", "a");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(Bytes::from(body.to_owned()))).unwrap();
    let (head, body) = sender.send_request(request).await.unwrap().into_parts();
    let body = String::from_utf8_lossy(&body.collect().await.unwrap().to_bytes()).into_owned();
    Answer { status: head.status, headers: head.headers, body }
}

const FOR_A_DAY: &str = "{name: kept, service: users, cache: {ttl: 24h}}";

#[tokio::test]
async fn an_answer_is_given_again_while_it_is_fresh() {
    let kept = Kept::start("{name: kept, service: users, cache: {ttl: 30s}}").await;
    let first = kept.get(ADA, &[]).await;
    assert_eq!((first.status, first.call(), first.cache()), (StatusCode::OK, 1, "weft; fwd=miss; stored"));
    assert!(!first.headers.contains_key("age"));
    let later = |seconds| SECONDS.fetch_add(seconds, Ordering::SeqCst);
    later(29);
    let again = kept.get(ADA, &[]).await;
    assert_eq!((again.call(), again.cache(), &again.headers["age"]), (1, "weft; hit; ttl=1", &"29".parse().unwrap()));
    assert_eq!(again.headers["content-type"], first.headers["content-type"]);
    let young = kept.get("/api/users/ada/", &[("cache-control", "max-age=30")]).await;
    assert_eq!(young.call(), 1, "a slash at the end means the same path");
    assert_eq!(kept.get(ADA, &[("cache-control", "max-age=28")]).await.call(), 2, "the client wants a younger one");
    later(29);
    assert_eq!(kept.get(ADA, &[]).await.call(), 2);
    later(1);
    let stale = kept.get(ADA, &[]).await;
    assert_eq!((stale.call(), stale.cache()), (3, "weft; fwd=stale; stored"));
    // What the service says comes before the policy.
    kept.get("/api/users/bob", &[says("max-age=60, s-maxage=10")]).await;
    later(9);
    assert_eq!(kept.get("/api/users/bob", &[]).await.call(), 4);
    later(1);
    assert_eq!(kept.get("/api/users/bob", &[]).await.call(), 5);
    // Other queries are other answers, and HEAD is answered from those to GET.
    assert_eq!(kept.get("/api/users?page_size=1", &[]).await.call(), 6);
    assert_eq!(kept.get("/api/users?page_size=2", &[]).await.call(), 7);
    assert_eq!(kept.get("/api/users?page_size=1", &[]).await.call(), 6);
    let head = send(kept.mesh.addr, "HEAD", "/api/users/bob", &[], "").await;
    assert_eq!((head.status, head.body.as_str(), kept.calls()), (StatusCode::OK, "", 7));
    assert!(head.cache().starts_with("weft; hit"), "{}", head.cache());

    let metrics = kept.mesh.context.metrics().encode();
    for (result, count) in [("hit", 5), ("miss", 3), ("stale", 2)] {
        let line = format!(
            "weft_gateway_cache_lookups_total{{method=\"GET\",route=\"/api/users/{{id}}\",result=\"{result}\"}} {count}\n"
        );
        assert!(metrics.contains(&line), "{line} in {metrics}");
    }
    assert!(!metrics.contains("weft_gateway_cache_bytes 0\n"), "{metrics}");
}

#[tokio::test]
async fn an_answer_that_a_transcoding_policy_has_printed_otherwise_is_forgotten() {
    let mut kept = Kept::start(FOR_A_DAY).await;
    let first = kept.get(ADA, &[]).await;
    assert!(first.call() == 1 && first.body.contains("\"name\"") && !first.body.contains("\"createTime\""));
    let with = |output: &str| {
        format!("{FOR_A_DAY}\n---\n{{name: shown, service: users, transcoding: {{json_output: {output}}}}}")
    };
    kept.apply(&with("{emit_defaults: true}")).await;
    let all = kept.get(ADA, &[]).await;
    assert_eq!((all.call(), all.body.contains("\"email\":\"\"")), (2, true), "{}", all.body);
    kept.apply(&with("{emit_defaults: true, enums_as_ints: false}")).await;
    assert_eq!(kept.get(ADA, &[]).await.call(), 2, "what is printed the same is kept");
    kept.apply(FOR_A_DAY).await;
    let again = kept.get(ADA, &[]).await;
    assert_eq!((again.call(), again.body.contains("\"email\"")), (3, false), "{}", again.body);
}

#[tokio::test]
async fn words_of_request_and_answer_count() {
    let kept = Kept::start(FOR_A_DAY).await;
    // The service does not want it kept; then nobody waits for another's answer either.
    for control in ["no-store", "private", "no-cache", "max-age=0"] {
        let path = format!("/api/users/{control}");
        let calls = [kept.get(&path, &[says(control)]).await.call(), kept.get(&path, &[says(control)]).await.call()];
        assert_eq!(calls[1], calls[0] + 1, "{control}");
    }
    let cookie = ("answer-set-cookie", "a=b");
    assert_ne!(kept.get("/api/users/c", &[cookie]).await.call(), kept.get("/api/users/c", &[cookie]).await.call());

    let first = kept.get(ADA, &[]).await.call();
    let unseen = kept.get(ADA, &[("cache-control", "no-store")]).await;
    assert_eq!((unseen.call(), unseen.cache()), (first + 1, "weft; fwd=request"));
    assert_eq!(kept.get(ADA, &[]).await.call(), first, "what no-store was told is not kept");
    let fresh = kept.get(ADA, &[("cache-control", "no-cache")]).await;
    assert_eq!((fresh.call(), fresh.cache()), (first + 2, "weft; fwd=request; stored"));
    assert_eq!(kept.get(ADA, &[]).await.call(), first + 2, "what no-cache was told is");
    assert_eq!(kept.get(ADA, &[("cache-control", "only-if-cached")]).await.call(), first + 2);
    let none = kept.get("/api/users/eve", &[("cache-control", "only-if-cached")]).await;
    assert_eq!((none.status, kept.calls()), (StatusCode::GATEWAY_TIMEOUT, first + 2), "{}", none.body);
    assert!(none.body.contains("only-if-cached"), "{}", none.body);
    // An error is not kept.
    for _ in 0..2 {
        assert_eq!(kept.get("/api/users/gone", &[]).await.status, StatusCode::NOT_FOUND);
    }
    assert_eq!(kept.calls(), first + 4);
}

#[tokio::test]
async fn what_one_caller_is_told_nobody_else_is() {
    let mut kept = Kept::start(FOR_A_DAY).await;
    let (ada, bob) = (("authorization", "Bearer ada"), ("authorization", "Bearer bob"));
    let calls =
        [kept.get(ADA, &[]).await.call(), kept.get(ADA, &[ada]).await.call(), kept.get(ADA, &[ada]).await.call()];
    assert_eq!(calls, [1, 2, 3], "with a credential neither from what was kept for nobody, nor kept");
    assert_eq!(kept.get(ADA, &[]).await.call(), 1);
    for (n, shown) in
        [("grpc-metadata-authorization", "Bearer ada"), ("cookie", "a=b"), ("x-api-key", "k")].iter().enumerate()
    {
        let calls = [kept.get(ADA, &[*shown]).await.call(), kept.get(ADA, &[*shown]).await.call()];
        let next = 4 + 2 * u32::try_from(n).unwrap();
        assert_eq!(calls, [next, next + 1], "{shown:?}");
    }
    // Unless the service says that all may have it.
    let everybodys = kept.get("/api/users/all", &[ada, says("s-maxage=86400")]).await.call();
    assert_eq!(kept.get("/api/users/all", &[bob]).await.call(), everybodys);

    kept.apply("{name: kept, service: users, cache: {ttl: 24h, per_caller: true}}").await;
    let of_ada = kept.get(ADA, &[ada]).await;
    assert!(of_ada.body.contains("for Bearer ada"), "{}", of_ada.body);
    let of_bob = kept.get(ADA, &[bob]).await;
    assert!(of_bob.body.contains("for Bearer bob"), "{}", of_bob.body);
    assert_eq!(kept.get(ADA, &[ada]).await.call(), of_ada.call());
    assert_eq!(kept.get(ADA, &[bob]).await.call(), of_bob.call());
    assert_ne!(kept.get(ADA, &[ada, ("cookie", "a=b")]).await.call(), of_ada.call(), "another credential beside it");
}

#[tokio::test]
async fn answers_that_depend_on_a_header_are_told_apart_by_it() {
    let kept = Kept::start(FOR_A_DAY).await;
    let vary = ("answer-vary", "accept-language");
    let in_language = async |language: &str| {
        let answer = kept.get(ADA, &[vary, ("accept-language", language)]).await;
        assert!(answer.body.contains(&format!("for {language}")), "{}", answer.body);
        answer.call()
    };
    let (de, en) = (in_language("de").await, in_language("en").await);
    assert_eq!((de, en, kept.calls()), (1, 2, 2));
    assert_eq!((in_language("de").await, in_language("en").await, kept.calls()), (de, en, 2));
    let as_metadata = kept.get(ADA, &[vary, ("grpc-metadata-accept-language", "de")]).await;
    assert_eq!(as_metadata.call(), de, "the service hears the same word");
    assert_eq!(kept.get(ADA, &[vary]).await.call(), 3, "none is another value");
    for _ in 0..2 {
        kept.get("/api/users/any", &[("answer-vary", "*")]).await;
    }
    assert_eq!(kept.calls(), 5);
}

#[tokio::test]
async fn of_calls_that_want_the_same_at_once_one_goes_upstream() {
    let kept = Kept::start(FOR_A_DAY).await;
    kept.service.may_answer.forget_permits(usize::MAX);
    let mut asking = JoinSet::new();
    for _ in 0..20 {
        let to = kept.mesh.addr;
        asking.spawn(async move { send(to, "GET", ADA, &[], "").await });
    }
    kept.until_called(1).await;
    kept.service.may_answer.add_permits(1); // a second call would wait for ever
    while let Some(answer) = timeout(SOON, asking.join_next()).await.expect("one call is enough for all") {
        assert_eq!(answer.unwrap().call(), 1);
    }
    assert_eq!(kept.calls(), 1);
}

#[tokio::test]
async fn nobody_is_stuck_behind_a_call_that_leaves_fails_or_is_late() {
    let kept = Kept::start(FOR_A_DAY).await;
    kept.service.may_answer.forget_permits(usize::MAX);
    let to = kept.mesh.addr;
    let mut leaves = JoinSet::new();
    leaves.spawn(async move { send(to, "GET", ADA, &[], "").await });
    kept.until_called(1).await;
    let late = kept.get(ADA, &[("grpc-timeout", "20m")]).await;
    assert_eq!((late.status, kept.calls()), (StatusCode::GATEWAY_TIMEOUT, 1), "{}", late.body);
    let mut stay = JoinSet::new();
    for _ in 0..5 {
        stay.spawn(async move { send(to, "GET", ADA, &[], "").await });
    }
    leaves.shutdown().await;
    kept.until_called(2).await;
    kept.service.may_answer.add_permits(2); // one for the call that was given up, if the service has not heard of that yet
    while let Some(answer) = timeout(SOON, stay.join_next()).await.expect("another one leads") {
        assert_eq!(answer.unwrap().call(), 2);
    }

    // The leader fails: the others go by themselves.
    kept.service.failing.store(3, Ordering::SeqCst);
    let mut asking = JoinSet::new();
    for _ in 0..5 {
        asking.spawn(async move { send(to, "GET", "/api/users/bob", &[], "").await });
    }
    kept.until_called(3).await;
    kept.service.may_answer.add_permits(5);
    let mut statuses = Vec::new();
    while let Some(answer) = timeout(SOON, asking.join_next()).await.expect("nobody waits for what failed") {
        statuses.push(answer.unwrap().status.as_u16());
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 200, 200, 500]);
}

#[tokio::test]
async fn who_has_the_answer_already_is_told_so_in_short() {
    let kept = Kept::start(FOR_A_DAY).await;
    let long = [("padding", "3000")];
    let whole = kept.get(ADA, &long).await;
    let tag = whole.headers["etag"].to_str().unwrap().to_owned();
    assert!(tag.starts_with('"'), "a strong one: {tag}");
    let short = kept.get(ADA, &[("if-none-match", tag.as_str())]).await;
    assert_eq!(
        (short.status, short.body.as_str(), &short.headers["etag"]),
        (StatusCode::NOT_MODIFIED, "", &whole.headers["etag"])
    );
    assert!(short.headers.contains_key("age") && !short.headers.contains_key("content-type"));
    // Compressed, the bytes are others, and so is the tag.
    let packed = kept.get(ADA, &[("accept-encoding", "gzip")]).await;
    assert_eq!(packed.headers["content-encoding"], "gzip");
    let of_packed = packed.headers["etag"].to_str().unwrap().to_owned();
    assert_ne!(of_packed, tag);
    let short = kept.get(ADA, &[("if-none-match", of_packed.as_str()), ("accept-encoding", "gzip")]).await;
    assert_eq!(short.status, StatusCode::NOT_MODIFIED);
    assert_eq!(kept.calls(), 1);
}

#[tokio::test]
async fn a_write_a_policy_or_a_new_route_forgets_what_was_kept() {
    let mut kept = Kept::start(FOR_A_DAY).await;
    let (ada, list) = (kept.get(ADA, &[]).await.call(), kept.get("/api/users?page_size=3", &[]).await.call());
    let to = kept.mesh.addr;
    let failed = send(to, "DELETE", ADA, &[], "").await;
    assert_eq!((failed.status, kept.get(ADA, &[]).await.call()), (StatusCode::BAD_REQUEST, ada), "nothing was changed");
    assert_eq!(send(to, "PATCH", ADA, &[], "{}").await.status, StatusCode::OK);
    let after = kept.get(ADA, &[]).await;
    assert_eq!((after.call(), after.cache()), (4, "weft; fwd=miss; stored"));
    assert_eq!(kept.get("/api/users?page_size=3", &[]).await.call(), list, "another path");
    assert_eq!(send(to, "POST", "/api/users", &[], "{}").await.status, StatusCode::OK);
    assert_eq!(kept.get("/api/users?page_size=3", &[]).await.call(), 6, "with any query");

    // An answer that is under way while a write succeeds is not kept.
    kept.service.may_answer.forget_permits(usize::MAX);
    let mut old = JoinSet::new();
    old.spawn(async move { send(to, "GET", "/api/users/bob", &[], "").await });
    kept.until_called(7).await;
    assert_eq!(send(to, "PATCH", "/api/users/bob", &[], "{}").await.status, StatusCode::OK);
    kept.service.may_answer.add_permits(100);
    assert_eq!(old.join_next().await.unwrap().unwrap().call(), 7);
    assert_eq!(kept.get("/api/users/bob", &[]).await.call(), 9);

    kept.apply("{name: kept, service: users, cache: {ttl: 24h, epoch: 1}}").await;
    assert_eq!(kept.get(ADA, &[]).await.call(), 10, "another epoch");
    kept.apply("{name: kept, service: users, cache: {ttl: 24h, epoch: 1}}\n---\n{name: pages, service: users, cors: {origins: ['*']}}").await;
    assert_eq!(kept.get(ADA, &[]).await.call(), 10, "another policy changes nothing");
    kept.apply("{name: kept, service: users, cache: {off: true}}").await;
    let off = kept.get(ADA, &[]).await;
    assert_eq!((off.call(), off.cache()), (11, "none"));
    kept.apply("{name: kept, service: users, cache: {methods: [shop.users.v1.Users/ListUsers], ttl: 24h}}").await;
    assert_eq!(kept.get(ADA, &[]).await.cache(), "none", "a method that the policy is not about");

    // New descriptors of the service: other routes, even if they look alike.
    kept.apply(FOR_A_DAY).await;
    let before = kept.get(ADA, &[]).await.call();
    assert_eq!(kept.get(ADA, &[]).await.call(), before);
    let both = DescriptorSet::from_encoded_set(&[descriptors::SHOP_USERS, descriptors::TESTKIT].concat()).unwrap();
    let digest = kept.mesh.publish(&both);
    let mut listed = (*kept.mesh.now.services[&"users".parse::<ServiceName>().unwrap()]).clone();
    let (id, instance) = listed.instances.iter().next().map(|(id, it)| (*id, it.clone())).unwrap();
    listed.instances.insert(id, Arc::new(Instance { descriptors: Some(digest), ..(*instance).clone() }));
    listed.info = Arc::new(ServiceInfo { descriptors: vec![digest], ..(*listed.info).clone() });
    kept.change(listed).await;
    // The first table after it may have the routes of before still, until the new descriptors are linked.
    let forgotten = until("the new routes", SOON, || async {
        let answer = kept.get(ADA, &[]).await;
        answer.cache().starts_with("weft; fwd=miss").then_some(answer)
    });
    assert_eq!(forgotten.await.call(), before + 1);
}
