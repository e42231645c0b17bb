//! Access rules at an inbound: who gets to the app, what the others are told, and what it costs them.

use std::sync::Arc;

use weft_model::{Access, Action, Caller, Callers, Policy, PolicyKind, Rule, ServiceSnapshot, Snapshot, Version};
use weft_traffic::{Body, CallOptions, Code, Error, Metrics, Origin, Pool, PoolConfig, Retry, ToApp, Tracing, Worlds};

use crate::{
    mesh::{GET, POST, read, request, users},
    upstream::{Call, Upstream},
};

fn guarded(app: &Upstream) -> (ToApp, Worlds) {
    let (worlds, _interests) = Worlds::new(Metrics::default());
    worlds.guard(users());
    let pool = Pool::new(PoolConfig::default(), Metrics::default());
    (ToApp::new(users(), app.address, worlds.clone(), Tracing::default(), pool), worlds)
}

fn apply(worlds: &Worlds, version: u64, allowed: &[&str]) {
    let from = Callers { services: allowed.iter().map(|it| it.parse().unwrap()).collect(), ..Callers::default() };
    let rule = Rule::new("readers".parse().unwrap(), Action::Allow, from, vec!["test.v1.Users/Get".parse().unwrap()]);
    let policy = Policy {
        name: "users-callers".parse().unwrap(),
        service: users(),
        version: Version(version),
        kind: PolicyKind::Access(Access::new(vec![rule.unwrap()]).unwrap()),
    };
    let mut service = ServiceSnapshot::empty(users(), Version(version));
    service.policies = [Arc::new(policy)].into();
    let mut snapshot = Snapshot { version: Version(version), ..Snapshot::default() };
    snapshot.services.insert(users(), Arc::new(service));
    worlds.apply(&snapshot);
}

fn identity(service: &str) -> Caller {
    Caller::Identity(format!("spiffe://weft.local/ns/default/svc/{service}").parse().unwrap())
}

async fn call(to_app: &ToApp, caller: Option<Caller>, path: &str) -> Result<Code, Error> {
    let mut request = request(path, Body::full("x"));
    if let Some(caller) = caller {
        request.extensions_mut().insert(caller);
    }
    Ok(read(to_app.call_with(request, CallOptions::default()).await?).await.code)
}

#[tokio::test]
async fn only_who_a_rule_names_gets_to_the_app_and_only_by_the_methods_it_names() {
    let app = Upstream::start(Call::echo).await;
    let (to_app, worlds) = guarded(&app);
    apply(&worlds, 1, &["posts"]);
    assert_eq!(call(&to_app, Some(identity("posts")), GET).await.unwrap(), Code::Ok);
    let before = app.calls();
    for (caller, path, told) in [
        (Some(identity("posts")), POST, "posts may not call test.v1.Users/Post"),
        (Some(identity("comments")), GET, "comments may not call test.v1.Users/Get"),
        (Some(Caller::Anonymous), GET, "anonymous may not call test.v1.Users/Get"),
        (None, GET, "anonymous may not call test.v1.Users/Get"),
    ] {
        let error = call(&to_app, caller, path).await.unwrap_err();
        assert_eq!(
            (error.origin(), error.retry(), error.grpc_code()),
            (Origin::Downstream, Retry::Never, Code::PermissionDenied)
        );
        assert_eq!(error.to_string(), format!("{told}: policy users-callers, rule default"));
    }
    assert_eq!(app.calls(), before, "nothing of it reached the app");
}

#[tokio::test]
async fn a_change_of_rules_counts_for_the_next_call_on_a_connection_that_is_open() {
    let app = Upstream::start(Call::echo).await;
    let (to_app, worlds) = guarded(&app);
    assert_eq!(call(&to_app, Some(identity("comments")), GET).await.unwrap(), Code::Ok, "no rules yet");
    apply(&worlds, 1, &["posts"]);
    assert!(matches!(call(&to_app, Some(identity("comments")), GET).await, Err(Error::Denied(_))));
    apply(&worlds, 2, &["posts", "comments"]);
    assert_eq!(call(&to_app, Some(identity("comments")), GET).await.unwrap(), Code::Ok);
}

#[tokio::test]
async fn before_its_rules_are_known_a_process_with_an_identity_asks_its_callers_to_come_again() {
    let app = Upstream::start(Call::echo).await;
    let (to_app, worlds) = guarded(&app);
    worlds.have_identity();
    let error = call(&to_app, Some(identity("posts")), GET).await.unwrap_err();
    assert!(matches!(error, Error::RulesUnknown { .. }) && error.refusal().is_some(), "{error:?}");
    apply(&worlds, 1, &["posts"]);
    assert_eq!(call(&to_app, Some(identity("posts")), GET).await.unwrap(), Code::Ok);
}
