//! Stock gRPC clients that have never heard of weft reach services by `xds:///`, with the file that `weft bootstrap` makes. Issue: step 3, "it must
//! show", 1 to 3.
//!
//! Lives here: what each of them must see; the same for all languages. Does not: the clients (`xds/stock` and the programs beside it), rules of single
//! fields (the registry's own tests).

mod crowd;
mod envoy;
mod knockout;
mod server;
mod stock;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use rustix::process::Signal;
use weft_model::metadata;
use weft_proto::weft::{model::v1::Status, policy::v1 as policy};
use weft_testkit::{
    http::send,
    mesh::{App, Mesh, Options},
    wait,
};

use self::stock::{Client, Lang, Told};
use crate::ALONE;

const LIMIT: Duration = Duration::from_secs(30);

/// A mesh whose apps take plaintext from this machine, as the repository's own does: instances of echo, behind one of users, whose sidecar is the one
/// that clients have beside them.
async fn mesh(test: &str, instances: usize) -> Option<Mesh> {
    let options = Options { sidecar: vec!["--plaintext".into(), "loopback".into()], ..Options::default() };
    let apps = [vec![App::Users], vec![App::Echo; instances]].concat();
    Mesh::start_as(test, &apps, options).await
}

async fn metrics(admin: std::net::SocketAddr) -> String {
    send(admin, http::Method::GET, "/metrics", "").await.expect("it tells its metrics").body
}

/// How many responses clients rejected so far.
async fn rejections(mesh: &mut Mesh) -> u64 {
    let admin = mesh.registry.as_mut().expect("the registry runs").address("admin").await;
    let page = metrics(admin).await;
    let lines = page.lines().filter_map(|line| line.strip_prefix("weft_registry_xds_rejections_total"));
    lines.map(|line| line.rsplit(' ').next().and_then(|it| it.parse::<u64>().ok()).expect("a count")).sum()
}

/// Open streams of a protocol of xDS, `sotw` or `delta`, as the registry counts them.
async fn streams(admin: std::net::SocketAddr, protocol: &str) -> usize {
    let (page, label) = (metrics(admin).await, format!("protocol=\"{protocol}\""));
    let line = page.lines().find(|line| line.starts_with("weft_registry_xds_streams{") && line.contains(&label));
    // A series begins with its first stream.
    line.map_or(0, |line| line.rsplit(' ').next().and_then(|it| it.parse().ok()).expect("a count"))
}

/// Instances of echo that take calls, by id.
async fn serving(mesh: &Mesh) -> Vec<String> {
    let all = mesh.instances().await.into_iter();
    let mut ids: Vec<_> =
        all.filter(|it| it.service == "echo.default" && it.status() == Status::Serving).map(|it| it.id).collect();
    ids.sort();
    ids
}

/// Waits until a client gets answers from exactly these instances.
async fn reaches(client: &mut Client, instances: &[String]) {
    let what = format!("{:?} to reach {instances:?}", client.lang);
    let calls = (6 * instances.len().max(1), "");
    until_told(client, &what, calls, |it| it.failed.is_empty() && it.answered.keys().eq(instances)).await;
}

fn no_failure(told: &Told) {
    assert!(told.failed.is_empty(), "{:?} of {} calls failed", told.failed, told.sum());
}

/// Each within five percent of the whole.
fn balanced(told: &Told, parts: usize) {
    no_failure(told);
    let (sum, share) = (told.sum() as f64, 1.0 / parts as f64);
    assert_eq!(told.answered.len(), parts, "{told:?}");
    let fair = told.answered.values().all(|it| (*it as f64 / sum - share).abs() <= 0.05);
    assert!(fair, "{told:?}");
}

async fn follows_the_mesh(lang: Lang, test: &str) {
    if !stock::there(lang, test) {
        return;
    }
    let _alone = ALONE.write().await;
    let Some(mut mesh) = mesh(test, 3).await else { return };
    let mut client = Client::start(lang, &mut mesh, "xds:///echo", None).await;
    let three = serving(&mesh).await;
    reaches(&mut client, &three).await;
    balanced(&client.calls(300, "").await, 3);

    client.start_calls().await;
    mesh.add_with(App::Echo, &[]);
    let four =
        wait::until("a fourth instance", LIMIT, async || Some(serving(&mesh).await).filter(|it| it.len() == 4)).await;
    reaches(&mut client, &four).await;
    // A rolling restart: each replacement serves before the old one drains. Then one less.
    for _ in 0..4 {
        mesh.add_with(App::Echo, &[]);
        wait::until("a replacement", LIMIT, async || (serving(&mesh).await.len() == 5).then_some(())).await;
        leave(&mut mesh, 1).await;
    }
    leave(&mut mesh, 1).await;
    let left = serving(&mesh).await;
    assert_eq!(left.len(), 3);
    assert!(left.iter().all(|it| !four.contains(it)), "all were replaced");
    reaches(&mut client, &left).await;
    let told = client.stop_calls().await;
    no_failure(&told);
    assert!(told.answered.keys().filter(|it| four.contains(it)).count() == 4, "it followed the growth: {told:?}");
    assert!(left.iter().all(|it| told.answered.contains_key(it)), "it followed the restart: {told:?}");
    balanced(&client.calls(300, "").await, 3);
    assert_eq!(rejections(&mut mesh).await, 0);
}

/// One instance drains and ends.
async fn leave(mesh: &mut Mesh, index: usize) {
    let mut member = mesh.members.remove(index);
    member.sidecar.signal(Signal::TERM);
    let status = member.sidecar.end(LIMIT).await;
    assert!(status.success(), "{status:?}: {}", member.sidecar.log());
}

#[tokio::test]
async fn a_python_client_follows_the_mesh_without_a_failed_call() {
    follows_the_mesh(Lang::Python, "a_python_client_follows_the_mesh_without_a_failed_call").await;
}

#[tokio::test]
async fn a_node_client_follows_the_mesh_without_a_failed_call() {
    follows_the_mesh(Lang::Node, "a_node_client_follows_the_mesh_without_a_failed_call").await;
}

#[tokio::test]
async fn a_go_client_follows_the_mesh_without_a_failed_call() {
    follows_the_mesh(Lang::Go, "a_go_client_follows_the_mesh_without_a_failed_call").await;
}

#[tokio::test]
async fn a_java_client_follows_the_mesh_without_a_failed_call() {
    follows_the_mesh(Lang::Java, "a_java_client_follows_the_mesh_without_a_failed_call").await;
}

/// A route policy of echo with this rule.
pub(crate) fn rule(rule: policy::RouteRule) -> policy::Policy {
    route(vec![rule])
}

/// A route policy of echo with these rules, of which the first that matches decides.
fn route(rules: Vec<policy::RouteRule>) -> policy::Policy {
    let kind = Some(policy::policy::Kind::Route(policy::Route { rules }));
    policy::Policy { name: "echo-route".into(), service: "echo".into(), version: 0, kind }
}

fn target(service: &str, weight: u32) -> policy::route_rule::Target {
    policy::route_rule::Target { service: service.into(), weight }
}

/// Calls with the header `x-canary: yes` go to the canary, and one in ten of the others.
pub(crate) fn canary_policy() -> policy::Policy {
    let yes = Some(policy::header_match::Value::Exact("yes".into()));
    let header = policy::HeaderMatch { name: "x-canary".into(), value: yes };
    let marked = policy::CallMatch { headers: vec![header], ..policy::CallMatch::default() };
    let all = vec![target("canary", 1)];
    let first = policy::RouteRule { r#match: Some(marked), to: all, ..policy::RouteRule::default() };
    let shares = vec![target("echo", 90), target("canary", 10)];
    let second = policy::RouteRule { to: shares, ..policy::RouteRule::default() };
    route(vec![first, second])
}

/// Calls that match go to this service alone.
fn sent(to: &str, matches: policy::CallMatch) -> policy::RouteRule {
    policy::RouteRule { r#match: Some(matches), to: vec![target(to, 1)], ..policy::RouteRule::default() }
}

/// Calls of the method that clients call here go to the canary; those of another, and all that no rule matches, stay.
fn by_method() -> policy::Policy {
    let of = |name: &str| policy::CallMatch {
        methods: vec![format!("weft.testkit.v1.Echo/{name}")],
        ..policy::CallMatch::default()
    };
    route(vec![sent("echo", of("Bidi")), sent("canary", of("Unary"))])
}

/// Paths that begin as that of their calls stay; this beginning as a whole path, and all others, go to the canary.
fn by_path() -> policy::Policy {
    let of = |path: &str| policy::CallMatch { paths: vec![path.into()], ..policy::CallMatch::default() };
    let beginning = "/weft.testkit.v1.Echo/Un";
    let others = policy::RouteRule { to: vec![target("canary", 1)], ..policy::RouteRule::default() };
    route(vec![sent("canary", of(beginning)), sent("echo", of(&format!("{beginning}*"))), others])
}

/// Every call of echo goes to echo.
fn harmless() -> policy::Policy {
    rule(policy::RouteRule { to: vec![target("echo", 1)], ..policy::RouteRule::default() })
}

/// Every call of echo ends with FAILED_PRECONDITION instead of being sent.
fn failing() -> policy::Policy {
    let abort = policy::fault::Abort { status: 9, millionths: 1_000_000 };
    let fault = Some(policy::Fault { abort: Some(abort), ..policy::Fault::default() });
    rule(policy::RouteRule { fault, ..policy::RouteRule::default() })
}

/// Every call of echo is to wait for an hour before it is sent, and may take two seconds.
fn waiting() -> policy::Policy {
    let delay = policy::fault::Delay { time_ms: 3_600_000, millionths: 1_000_000 };
    let fault = Some(policy::Fault { delay: Some(delay), ..policy::Fault::default() });
    rule(policy::RouteRule { fault, timeout_ms: 2_000, ..policy::RouteRule::default() })
}

/// Applies as the operator.
pub(crate) async fn apply(mesh: &Mesh, policies: Vec<policy::Policy>) {
    let mut registry = policy::policies_client::PoliciesClient::new(mesh.registry_channel());
    let request = policy::ApplyRequest { policies, ..policy::ApplyRequest::default() };
    registry.apply(request).await.expect("the operator may");
}

/// Which service each instance is of.
pub(crate) async fn services(mesh: &Mesh) -> BTreeMap<String, String> {
    mesh.instances().await.into_iter().map(|it| (it.id, it.service)).collect()
}

async fn obeys_policies(lang: Lang, test: &str) {
    if !stock::there(lang, test) {
        return;
    }
    let _shared = ALONE.read().await;
    let Some(mut mesh) = mesh(test, 1).await else { return };
    let token = mesh.token_for("canary").await;
    mesh.add_with(App::Echo, &["--service", "canary", "--token-file", &token.to_string_lossy()]);
    mesh.all_serving().await;
    let of = services(&mesh).await;
    let mut client = Client::start(lang, &mut mesh, "xds:///echo", None).await;
    let split = |of: &BTreeMap<String, String>, told: &Told| {
        let canary = told.answered.iter().filter(|(id, _)| of[*id] == "canary.default").map(|(_, it)| *it).sum::<u64>();
        canary as f64 / told.sum() as f64
    };
    let told = client.calls(20, "").await;
    no_failure(&told);
    assert_eq!(split(&of, &told), 0.0, "without a policy all go to the service: {told:?}");

    // Nine in ten to the service itself, one to the canary; those with the header all to the canary.
    apply(&mesh, vec![canary_policy()]).await;
    wait_for(&mut client, "calls at the canary", |told| split(&of, told) > 0.0).await;
    let told = client.calls(1_000, "").await;
    no_failure(&told);
    assert!((split(&of, &told) - 0.1).abs() < 0.04, "{told:?}");
    let told = client.calls(20, "x-canary=yes").await;
    assert!(told.failed.is_empty() && split(&of, &told) == 1.0, "{told:?}");

    // A call that may take ten seconds, and would take fifty. C-core counts a route's time with a clock of its own that a busy machine may set off by
    // seconds, so that calls under a short limit would fail at once.
    apply(&mesh, vec![rule(policy::RouteRule { timeout_ms: 10_000, ..policy::RouteRule::default() })]).await;
    wait_for(&mut client, "the service alone", |told| split(&of, told) == 0.0).await;
    let told = client.calls(1, "delay=50000 timeout=90").await;
    assert!(fails_with(&told, "DeadlineExceeded"), "{told:?}");

    // Three more tries on a status that is never got by itself, counted by the app's sidecar.
    let retry = policy::RetryRule { on: vec!["resource-exhausted".into()], retries: 3, ..policy::RetryRule::default() };
    apply(&mesh, vec![rule(policy::RouteRule { retry: Some(retry), ..policy::RouteRule::default() })]).await;
    let tries = async |client: &mut Client, mesh: &mut Mesh| {
        let before = inbound_calls(mesh).await;
        let told = client.calls(1, "fail=8").await;
        assert_eq!(told.failed.values().sum::<u64>(), 1, "{told:?}");
        inbound_calls(mesh).await - before
    };
    let deadline = tokio::time::Instant::now() + LIMIT;
    while tries(&mut client, &mut mesh).await != 4 {
        assert!(tokio::time::Instant::now() < deadline, "timed out waiting for four tries of a call");
    }
    let before = inbound_calls(&mesh).await;
    client.calls(1, "fail=13").await;
    assert_eq!(inbound_calls(&mesh).await - before, 1, "another status is not tried again");

    // Calls that end in the client, at once or while they wait to be sent.
    apply(&mesh, vec![failing()]).await;
    until_told(&mut client, "calls that are made to fail", (1, ""), |it| fails_with(it, "FailedPrecondition")).await;
    let before = inbound_calls(&mesh).await;
    apply(&mesh, vec![waiting()]).await;
    until_told(&mut client, "calls that are made to wait", (1, ""), |it| fails_with(it, "DeadlineExceeded")).await;
    assert_eq!(inbound_calls(&mesh).await, before, "they got to no instance");
    apply(&mesh, vec![harmless()]).await;
    until_told(&mut client, "calls as before", (1, ""), |it| it.failed.is_empty()).await;

    // From the service to the canary and back, by what is called and nothing else.
    apply(&mesh, vec![by_method()]).await;
    let all_there = |told: &Told| {
        // grpc-go chooses by a new route for a moment before its balancer knows a cluster that nothing but this route names.
        assert!(told.failed.keys().all(|it| it.contains("unknown cluster selected for RPC")), "{:?}", told.failed);
        told.failed.is_empty() && split(&of, told) == 1.0
    };
    until_told(&mut client, "all at the canary, by their method", (50, ""), all_there).await;
    apply(&mesh, vec![by_path()]).await;
    wait_for(&mut client, "all at the service, by their path", |told| split(&of, told) == 0.0).await;
    assert_eq!(rejections(&mut mesh).await, 0);
}

/// Whether some calls failed, and each with this code, `FailedPrecondition`.
fn fails_with(told: &Told, code: &str) -> bool {
    !told.failed.is_empty() && told.failed.keys().all(|it| fails_with_code(it, code))
}

/// Languages write codes in two ways.
fn fails_with_code(said: &str, code: &str) -> bool {
    let word = said.split(' ').next().unwrap_or_default();
    word.replace('_', "").eq_ignore_ascii_case(code)
}

/// Makes calls, so many and with these options, until what is told of them is as wanted: a client hears of things in its own time.
async fn until_told(
    client: &mut Client,
    what: &str,
    (count, options): (usize, &str),
    is: impl Fn(&Told) -> bool,
) -> Told {
    let deadline = tokio::time::Instant::now() + LIMIT;
    loop {
        let told = client.calls(count, options).await;
        if is(&told) {
            return told;
        }
        assert!(tokio::time::Instant::now() < deadline, "timed out waiting for {what}; last {told:?}");
    }
}

async fn wait_for(client: &mut Client, what: &str, is: impl Fn(&Told) -> bool) {
    let is = |it: &Told| {
        no_failure(it);
        is(it)
    };
    until_told(client, what, (50, ""), is).await;
}

/// Calls that came in at the sidecars of all instances so far.
pub(crate) async fn inbound_calls(mesh: &Mesh) -> u64 {
    let mut sum = 0;
    for instance in mesh.instances().await {
        let admin = instance.metadata[metadata::ADMIN].parse().expect("an address");
        let page = metrics(admin).await;
        let counts = page.lines().filter(|line| {
            line.starts_with("rpc_server_call_duration_seconds_count") && line.contains("weft.testkit.v1.Echo/Unary")
        });
        sum += counts
            .map(|line| line.rsplit(' ').next().and_then(|it| it.parse::<u64>().ok()).expect("a count"))
            .sum::<u64>();
    }
    sum
}

#[tokio::test]
async fn a_python_client_obeys_route_policies() {
    obeys_policies(Lang::Python, "a_python_client_obeys_route_policies").await;
}

#[tokio::test]
async fn a_node_client_obeys_route_policies() {
    obeys_policies(Lang::Node, "a_node_client_obeys_route_policies").await;
}

#[tokio::test]
async fn a_go_client_obeys_route_policies() {
    obeys_policies(Lang::Go, "a_go_client_obeys_route_policies").await;
}

#[tokio::test]
async fn a_java_client_obeys_route_policies() {
    obeys_policies(Lang::Java, "a_java_client_obeys_route_policies").await;
}

/// Where IPv6 is spoken, one of the instances is told by such an address.
fn loopback() -> &'static str {
    if std::net::TcpListener::bind("[::1]:0").is_ok() { "[::1]:0" } else { "127.0.0.1:0" }
}

async fn calls_by_mutual_tls(lang: Lang, test: &str) {
    if !stock::there(lang, test) {
        return;
    }
    let _shared = ALONE.read().await;
    // Nobody gets in without a certificate.
    let Some(mut mesh) = Mesh::start(test, &[App::Echo]).await else { return };
    for _ in 0..2 {
        mesh.add_with(App::Echo, &["--locality", "eu/a"]);
    }
    mesh.add_with(App::Echo, &["--locality", "eu/b"]);
    mesh.add_with(App::Echo, &["--locality", "eu/b", "--weight", "3", "--inbound", loopback()]);
    mesh.all_serving().await;
    let slots: BTreeMap<_, _> =
        mesh.instances().await.into_iter().map(|it| (it.metadata[metadata::SLOT].clone(), it.id)).collect();
    let ids: Vec<_> = mesh.members.iter().map(|it| slots[&it.slot].clone()).collect();
    let [far, near, too, light, heavy] = ids.as_slice() else { panic!("{ids:?}") };
    let set = |ids: &[&String]| ids.iter().copied().cloned().collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>();

    let (certificates, place) = (stock::identity(&mesh, "web").await, ["--locality", "eu/a"]);
    let mut client = Client::start_in(lang, &mut mesh, "xds:///echo", Some(&certificates), &place).await;
    reaches(&mut client, &set(&[near, too])).await;
    balanced(&client.calls(100, "").await, 2);

    // With nobody left in its zone, those of the region take the calls, as their weights say.
    client.start_calls().await;
    leave(&mut mesh, 1).await;
    leave(&mut mesh, 1).await;
    reaches(&mut client, &set(&[light, heavy])).await;
    let told = client.calls(1_000, "").await;
    no_failure(&told);
    let share = told.answered.get(heavy).copied().unwrap_or_default() as f64 / 1_000.0;
    assert!((share - 0.75).abs() < 0.06, "{told:?}");
    // Who leaves in order costs no call; what may fail is what the kills cost.
    let told = client.so_far().await;
    no_failure(&told);
    assert!(told.answered.keys().eq(&set(&[near, too, light, heavy])), "{told:?}");

    // A kill gives no notice: it costs the calls in flight, and those that come before the client finds that their connection is gone. Then there is nobody in
    // the region.
    let kill = |mesh: &mut Mesh| mesh.members.pop().expect("it is one of three").sidecar.kill();
    kill(&mut mesh);
    reaches(&mut client, &set(&[light])).await;
    kill(&mut mesh);
    reaches(&mut client, &set(&[far])).await;
    let told = client.stop_calls().await;
    assert!(
        told.failed.values().sum::<u64>() <= 16,
        "more than two calls of each of four callers at each of two kills: {told:?}"
    );
    assert_eq!(told.answered.len(), 5, "{told:?}");
    assert_eq!(rejections(&mut mesh).await, 0);
}

#[tokio::test]
async fn a_python_client_calls_by_mutual_tls() {
    calls_by_mutual_tls(Lang::Python, "a_python_client_calls_by_mutual_tls").await;
}

#[tokio::test]
async fn a_node_client_calls_by_mutual_tls() {
    calls_by_mutual_tls(Lang::Node, "a_node_client_calls_by_mutual_tls").await;
}

#[tokio::test]
async fn a_go_client_calls_by_mutual_tls() {
    calls_by_mutual_tls(Lang::Go, "a_go_client_calls_by_mutual_tls").await;
}

#[tokio::test]
async fn a_java_client_calls_by_mutual_tls() {
    calls_by_mutual_tls(Lang::Java, "a_java_client_calls_by_mutual_tls").await;
}
