//! Prometheus and Grafana: syntax by promtool, alerts by playing them, and every name against what a live mesh says of itself.
//!
//! Lives here: rules, scrape configurations, boards, the collector's configuration. Does not: the exposition's own grammar.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::SocketAddr,
    path::Path,
    process::{Command, Output},
    time::{Duration, Instant},
};

use http::{Method, StatusCode};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use weft_discovery::{Credential, Operator, Revoked};
use weft_testkit::{
    http::send,
    mesh::{App, Mesh},
    outside, secure, wait,
};

use crate::{
    code::ADMIN_PATHS,
    files::{self, list, string},
};

const FOLDER: &str = "deploy/prometheus";
/// Longer than a call needs to get to a service, on a busy machine; shorter than posts wait for users.
const GETS_THERE: Duration = Duration::from_secs(2);

fn promtool(promtool: &Path, arguments: &[&str], folder: &Path) {
    let Output { status, stdout, stderr } =
        Command::new(promtool).args(arguments).current_dir(folder).output().unwrap();
    let said = String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned();
    assert!(status.success(), "promtool {}: {said}", arguments.join(" "));
}

/// Every expression of rules and boards with the place it stands in.
fn expressions() -> Vec<(String, String)> {
    let mut all = Vec::new();
    for rule in rules() {
        let name = rule.get("record").or(rule.get("alert")).map(string).unwrap();
        all.push((format!("rule {name}"), string(&rule["expr"]).to_owned()));
    }
    for (name, board) in boards() {
        for panel in list(&board["panels"]) {
            for target in list(&panel["targets"]) {
                all.push((format!("{name}: {}", panel["title"]), string(&target["expr"]).to_owned()));
            }
        }
    }
    all
}

fn rules() -> Vec<Value> {
    let file = files::document("deploy/prometheus/rules.yml");
    list(&file["groups"]).iter().flat_map(|group| list(&group["rules"])).cloned().collect()
}

fn boards() -> Vec<(String, Value)> {
    let found = files::below("deploy/grafana/boards", ".json");
    let named = found.iter().map(|path| {
        let board = serde_json::from_str(&fs::read_to_string(path).unwrap());
        (
            path.file_name().unwrap().to_string_lossy().into_owned(),
            board.unwrap_or_else(|error| panic!("{path:?}: {error}")),
        )
    });
    named.collect()
}

#[test]
fn promtool_takes_rules_configurations_and_every_query_and_each_alert_is_played() {
    let test = "promtool_takes_rules_configurations_and_every_query_and_each_alert_is_played";
    let Some(tool) = outside::need_from_setup(outside::promtool(), test, "promtool") else { return };
    let folder = files::root(FOLDER);
    promtool(&tool, &["check", "config", "prometheus.yml"], &folder);
    promtool(&tool, &["check", "rules", "rules.yml"], &folder);
    promtool(&tool, &["test", "rules", "rules.test.yml"], &folder);
    let played = files::read("deploy/prometheus/rules.test.yml");
    for alert in rules().iter().filter_map(|rule| rule.get("alert")) {
        assert!(played.contains(string(alert)), "no test plays {alert}");
    }

    // Debian builds promtool without Kubernetes: what is left is read without that one part.
    let mut cluster = files::document("deploy/prometheus/kubernetes.yml");
    let job = cluster["scrape_configs"][0].as_object_mut().unwrap();
    assert!(job.remove("kubernetes_sd_configs").is_some());
    cluster["rule_files"] = json!([]);
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("cluster.yml"), cluster.to_string()).unwrap();
    promtool(&tool, &["check", "config", "cluster.yml"], dir.path());

    let queries = expressions().into_iter().map(|(_, expr)| json!({ "record": "a:b", "expr": spelt_out(&expr) }));
    let queries = queries.enumerate().map(|(at, rule)| json!({ "name": at.to_string(), "rules": [rule] }));
    let groups = json!({ "groups": queries.collect::<Vec<_>>() });
    fs::write(dir.path().join("queries.yml"), groups.to_string()).unwrap();
    promtool(&tool, &["check", "rules", "queries.yml"], dir.path());
}

/// A board's query with Grafana's variables filled in.
fn spelt_out(expr: &str) -> String {
    let expr = expr.replace("$__rate_interval", "1m").replace("$method", ".*");
    assert!(!expr.contains('$'), "a variable that no board has: {expr}");
    expr
}

#[test]
fn boards_are_told_apart_and_ask_the_source_that_is_provisioned() {
    let source = files::document("deploy/grafana/provisioning/datasources/prometheus.yaml");
    let uid = &source["datasources"][0]["uid"];
    let mut seen = BTreeSet::new();
    for (name, board) in boards() {
        assert!(seen.insert(board["uid"].to_string()), "{name} has another board's uid");
        for panel in list(&board["panels"]) {
            assert_eq!(&panel["datasource"]["uid"], uid, "{name}: {}", panel["title"]);
            assert!(!list(&panel["targets"]).is_empty(), "{name}: {}", panel["title"]);
        }
    }
    let path = files::document("deploy/grafana/provisioning/dashboards/boards.yaml");
    let below = string(&path["providers"][0]["options"]["path"]).strip_prefix("/etc/weft/").unwrap();
    assert_eq!(files::below("deploy/grafana", ".json"), files::below(&format!("deploy/grafana/{below}"), ".json"));
}

#[test]
fn the_collectors_pipelines_are_made_of_what_it_has() {
    let collector = files::document("deploy/otel/collector.yaml");
    for (name, pipeline) in collector["service"]["pipelines"].as_object().unwrap() {
        for kind in ["receivers", "processors", "exporters"] {
            for part in files::strings(&pipeline[kind]) {
                assert!(collector[kind].get(&part).is_some(), "{name}: there is no {kind} {part}");
            }
        }
    }
}

/// Names of metrics and of labels in a query.
#[derive(Debug, Default, PartialEq, Eq)]
struct Names {
    metrics: BTreeSet<String>,
    labels: BTreeSet<String>,
}

impl Names {
    /// Reads PromQL by its tokens: a word is a metric unless it is followed by a parenthesis, names labels, or is one of the language's.
    fn of(expr: &str) -> Self {
        const LABELS_FOLLOW: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];
        const WORDS: [&str; 11] =
            ["sum", "min", "max", "avg", "count", "topk", "and", "or", "unless", "bool", "offset"];
        let mut names = Self::default();
        let mut rest = expr;
        while let Some(first) = rest.chars().next() {
            let (token, after) = match first {
                '"' => rest.split_at(rest[1..].find('"').unwrap() + 2),
                '[' => rest.split_at(rest.find(']').unwrap() + 1),
                '{' => rest.split_at(end_of_selector(rest)),
                first if first.is_alphanumeric() || first == '_' => rest
                    .split_at(rest.find(|it: char| !it.is_alphanumeric() && !"_:.".contains(it)).unwrap_or(rest.len())),
                first => rest.split_at(first.len_utf8()),
            };
            rest = after.trim_start();
            if first == '{' {
                names.labels.extend(matched(token));
            } else if LABELS_FOLLOW.contains(&token) {
                let (inside, after) = rest.strip_prefix('(').and_then(|it| it.split_once(')')).unwrap();
                names.labels.extend(inside.split(',').map(|it| it.trim().to_owned()));
                rest = after.trim_start();
            } else if (first.is_alphabetic() || first == '_') && !rest.starts_with('(') && !WORDS.contains(&token) {
                names.metrics.insert(token.to_owned());
            }
        }
        names
    }
}

/// Where `{…}` ends; a value may hold braces.
fn end_of_selector(text: &str) -> usize {
    let mut quoted = false;
    let end = text.find(|it: char| {
        quoted ^= it == '"';
        it == '}' && !quoted
    });
    end.unwrap() + 1
}

/// The labels that `{a="b", c!~"d"}` names.
fn matched(selector: &str) -> impl Iterator<Item = String> {
    let outside_of_values = selector.split('"').step_by(2);
    let words = outside_of_values.flat_map(|it| it.split(|it: char| !it.is_alphanumeric() && it != '_'));
    words.filter(|word| !word.is_empty()).map(str::to_owned)
}

#[test]
fn names_in_a_query_are_found() {
    let names = Names::of(
        r#"histogram_quantile(0.99, sum by (le, x) (rate(a_bucket{b="c{d}", e!~"f|g"}[5m]))) > 0.5 or weft:z:p99 unless on (q) max(h)"#,
    );
    let set = |words: &[&str]| words.iter().map(|it| (*it).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(names.metrics, set(&["a_bucket", "weft:z:p99", "h"]));
    assert!(names.labels.is_superset(&set(&["le", "x", "b", "e", "q"])), "{names:?}");
}

/// Samples of an exposition: each name with the labels it comes with.
fn samples(exposition: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut all: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for line in exposition.lines().filter(|line| !line.starts_with('#')) {
        let (name, rest) = line.split_at(line.find(['{', ' ']).unwrap());
        let labels =
            rest.strip_prefix('{').and_then(|it| it.rsplit_once('}')).map(|(labels, _)| format!("{{{labels}}}"));
        all.entry(name.to_owned()).or_default().extend(labels.iter().flat_map(|it| matched(it)));
    }
    all
}

#[tokio::test]
async fn every_metric_and_label_of_rules_and_boards_is_in_the_live_exposition() {
    let test = "every_metric_and_label_of_rules_and_boards_is_in_the_live_exposition";
    let Some(mut mesh) = Mesh::start(test, &[App::Users, App::Users, App::Posts]).await else { return };
    use_it(&mesh, "ada@example.com").await;
    // Before users are revoked: the registry takes no word of theirs afterwards.
    let leaving = mesh.members[0].sidecar.address("admin").await;
    let drained = send(leaving, Method::GET, "/drain", "").await.unwrap();
    assert_eq!(drained.status, StatusCode::OK, "{drained:?}");
    use_it(&mesh, "bob@example.com").await; // so that everybody has a connection to the users that stay
    refuse_in_it(&mut mesh).await;

    let mut admin = vec![mesh.gateway.address("admin").await, mesh.registry.as_mut().unwrap().address("admin").await];
    for member in &mut mesh.members[1..] {
        admin.push(member.sidecar.address("admin").await);
    }
    let happened = [
        "weft_registry_drains_total",
        "weft_registry_removals_total",
        "weft_registry_identity_refusals_total",
        "weft_sidecar_policy_refusals_total",
        "weft_sidecar_inbound_refusals_total",
        "weft_sidecar_upstream_refusals_total",
        "weft_gateway_upstream_refusals_total",
    ];
    let live = wait::until("the drain and each refusal to be counted", Duration::from_secs(30), || async {
        let live = exposition(&admin).await;
        happened.iter().all(|name| live.contains_key(*name)).then_some(live)
    })
    .await;

    // Of Prometheus itself: what it adds to each target, and what rules make.
    let recorded: BTreeSet<String> =
        rules().iter().filter_map(|rule| rule.get("record")).map(|it| string(it).to_owned()).collect();
    let added = BTreeSet::from(["job", "instance", "le"].map(str::to_owned));
    for (place, expr) in expressions() {
        let names = Names::of(&spelt_out(&expr));
        assert!(!names.metrics.is_empty(), "{place}: {expr}");
        let mut labels = added.clone();
        for name in names.metrics.iter().filter(|name| *name != "up" && !recorded.contains(*name)) {
            labels.extend(live.get(name).unwrap_or_else(|| panic!("{place}: no process exposes {name}")).clone());
        }
        let unknown: Vec<_> = names.labels.difference(&labels).collect();
        assert!(unknown.is_empty(), "{place}: no process exposes the labels {unknown:?} in {expr}");
    }
    for path in ADMIN_PATHS {
        let answer = send(admin[0], Method::GET, path, "").await.unwrap();
        assert_eq!(answer.status, StatusCode::OK, "{path}: {answer:?}");
    }
}

/// Calls of every kind, so that what is counted by kind is counted.
async fn use_it(mesh: &Mesh, email: &str) {
    let gateway = mesh.gateway_at();
    let user = json!({ "name": "Ada", "email": email }).to_string();
    let user = send(gateway, Method::POST, "/api/users", &user).await.unwrap();
    assert_eq!(user.status, StatusCode::CREATED, "{user:?}");
    let post = json!({ "authorId": user.json()["id"], "title": "Notes" }).to_string();
    let post = send(gateway, Method::POST, "/api/posts", &post).await.unwrap();
    assert_eq!(post.status, StatusCode::CREATED, "{post:?}");
    let nobody = send(gateway, Method::GET, "/api/users/nobody", "").await.unwrap();
    assert_eq!(nobody.status, StatusCode::NOT_FOUND, "{nobody:?}");
}

/// Refusals of every kind, each by the one who has to count it.
async fn refuse_in_it(mesh: &mut Mesh) {
    // By the registry: a service is no operator.
    let service = Credential::read(&mesh.token_file("users"), None).unwrap();
    assert!(Operator::new(service, secure::clock()).list_tokens().await.is_err());
    // By callers: gateway and posts have calls at users, whose certificates are taken back. Users are held still, so that the calls last: a connection without any
    // ends when the registry no longer lists its instance, which may be before its caller hears why.
    let users = mesh.identity().trust().domain().service(&"users".parse().unwrap());
    let left = mesh.members.iter().rposition(|it| it.app == App::Users).unwrap();
    mesh.members[left].sidecar.signal(Signal::STOP);
    let (gateway, mut calls) = (mesh.gateway_at(), JoinSet::new());
    for _ in 0..4 {
        calls.spawn(async move { send(gateway, Method::GET, "/api/users", "").await });
        let post = json!({ "authorId": "00000000-0000-7000-8000-000000000000", "title": "Notes" }).to_string();
        calls.spawn(async move { send(gateway, Method::POST, "/api/posts", &post).await });
    }
    let there = Instant::now() + GETS_THERE;
    while Instant::now() < there {
        mesh.operator().list_tokens().await.unwrap();
    }
    mesh.operator().revoke(&Revoked::Identity(users)).await.unwrap();
    let posts = mesh.members.iter_mut().find(|it| it.app == App::Posts).unwrap();
    let callers = [mesh.gateway.address("admin").await, posts.sidecar.address("admin").await];
    wait::until("the callers of users to turn away", Duration::from_secs(30), || async {
        let live = exposition(&callers).await;
        let both = ["weft_gateway_upstream_refusals_total", "weft_sidecar_upstream_refusals_total"];
        both.iter().all(|name| live.contains_key(*name)).then_some(())
    })
    .await;
    mesh.members[left].sidecar.signal(Signal::CONT);
    calls.shutdown().await;
    // By a sidecar: who has no certificate, and who has one that no rule of a policy names.
    let posts = mesh.members.iter_mut().find(|it| it.app == App::Posts).unwrap();
    let refused = send(posts.sidecar.address("inbound").await, Method::GET, "/", "").await.unwrap();
    assert_eq!(refused.status, StatusCode::FORBIDDEN, "{refused:?}");
    let policy = mesh.dir().join("closed.yaml");
    let rules = "access: { rules: [{ name: nobody-else, from: { services: [comments] } }] }";
    fs::write(&policy, format!("name: closed\nservice: posts\n{rules}\n")).unwrap();
    let mut apply = Command::new(mesh.weft());
    let applied = apply.args(["apply", "-f"]).arg(&policy).arg("--token-file").arg(mesh.operator_token()).output();
    let applied = applied.unwrap();
    assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
    wait::until("posts to be closed", Duration::from_secs(30), || async {
        let answer = send(mesh.gateway_at(), Method::GET, "/api/posts", "").await.ok()?;
        (answer.status == StatusCode::FORBIDDEN).then_some(())
    })
    .await;
}

async fn exposition(admin: &[SocketAddr]) -> BTreeMap<String, BTreeSet<String>> {
    let mut all = BTreeMap::<_, BTreeSet<_>>::new();
    for at in admin {
        // Those whose certificates were taken back may be on their way out.
        let Ok(metrics) = send(*at, Method::GET, "/metrics", "").await else { continue };
        for (name, labels) in samples(&metrics.body) {
            all.entry(name).or_default().extend(labels);
        }
    }
    all
}
