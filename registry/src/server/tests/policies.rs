//! Policies as an operator applies them, and as watchers of their services hear of them.

use weft_proto::weft::policy::v1::{
    Access, ApplyRequest, ApplyResponse, Callers, DeleteRequest, GetRequest, ListRequest as ListPolicies,
    PlaintextUpstream, Policy, Rule, apply_response::applied::Outcome as Fate, plaintext_upstream::Mode, policy::Kind,
};

use super::*;

fn access(name: &str, service: &str, callers: &[&str]) -> Policy {
    let from = Callers { services: callers.iter().map(|it| it.to_string()).collect(), ..Default::default() };
    let rule = Rule { name: "callers".into(), from: Some(from), ..Default::default() };
    Policy {
        name: name.into(),
        service: service.into(),
        version: 0,
        kind: Some(Kind::Access(Access { rules: vec![rule] })),
    }
}

fn plaintext(name: &str, service: &str) -> Policy {
    let kind = Some(Kind::PlaintextUpstream(PlaintextUpstream { mode: Mode::Allow.into() }));
    Policy { kind, ..access(name, service, &["x"]) }
}

fn fates(answer: &ApplyResponse) -> Vec<(&str, Fate, bool)> {
    answer.applied.iter().map(|it| (it.name.as_str(), it.outcome(), it.version == answer.version)).collect()
}

impl World {
    async fn apply(&mut self, policies: &[Policy]) -> Result<ApplyResponse, Status> {
        let request = ApplyRequest { policies: policies.to_vec(), ..Default::default() };
        Ok(self.policies.apply(request).await?.into_inner())
    }

    async fn names(&mut self, service: &str) -> Vec<String> {
        let list = self.policies.list(ListPolicies { service: service.into() }).await.unwrap().into_inner();
        list.policies.into_iter().map(|it| it.name).collect()
    }
}

fn told(update: &discovery::ServiceUpdate) -> Option<Vec<&str>> {
    update.policies.as_ref().map(|it| it.policies.iter().map(|it| it.name.as_str()).collect())
}

#[tokio::test(start_paused = true)]
async fn policies_are_applied_all_or_none_and_twice_without_effect() {
    let mut world = World::new().await;
    let both = [access("users-callers", "users", &["posts"]), plaintext("old-posts", "posts")];
    let first = world.apply(&both).await.unwrap();
    assert_eq!(fates(&first), [("users-callers", Fate::Created, true), ("old-posts", Fate::Created, true)]);
    let second = world.apply(&both).await.unwrap();
    assert_eq!(fates(&second), [("users-callers", Fate::Unchanged, true), ("old-posts", Fate::Unchanged, true)]);
    assert_eq!(second.version, first.version);
    let changed = [access("users-callers", "users", &["posts", "gateway"]), plaintext("old-posts", "posts")];
    let third = world.apply(&changed).await.unwrap();
    assert_eq!(fates(&third), [("users-callers", Fate::Changed, true), ("old-posts", Fate::Unchanged, false)]);
    assert!(third.version > second.version);
    let bad = [access("new", "users", &["posts"]), access("Bad", "users", &["posts"])];
    assert_eq!(world.apply(&bad).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(world.names("").await, ["old-posts", "users-callers"]);
    assert_eq!(world.names("users.default").await, ["users-callers"]);
    let got = world.policies.get(GetRequest { name: "old-posts".into() }).await.unwrap().into_inner().policy.unwrap();
    assert_eq!((got.service.as_str(), got.version), ("posts.default", first.version));
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_tells_and_changes_nothing() {
    let mut world = World::new().await;
    let before = world.apply(&[access("a", "users", &["posts"])]).await.unwrap();
    let policies = vec![access("a", "users", &["gateway"]), plaintext("b", "users")];
    let request = ApplyRequest { policies, dry_run: true, ..Default::default() };
    let would = world.policies.apply(request).await.unwrap().into_inner();
    let fates: Vec<_> = would.applied.iter().map(|it| (it.outcome(), it.version)).collect();
    assert_eq!(fates, [(Fate::Changed, 0), (Fate::Created, 0)]);
    assert_eq!((would.version, world.names("").await), (before.version, vec!["a".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn who_saw_an_older_set_is_asked_to_look_again() {
    let mut world = World::new().await;
    let seen = world.apply(&[access("a", "users", &["posts"])]).await.unwrap().version;
    world.apply(&[plaintext("b", "users")]).await.unwrap();
    let request =
        ApplyRequest { policies: vec![plaintext("c", "users")], expected_version: seen, ..Default::default() };
    assert_eq!(world.policies.apply(request).await.unwrap_err().code(), Code::Aborted);
    let stale = DeleteRequest { name: "a".into(), expected_version: seen };
    assert_eq!(world.policies.delete(stale).await.unwrap_err().code(), Code::Aborted);
    let now = world.policies.list(ListPolicies::default()).await.unwrap().into_inner().version;
    let fresh = DeleteRequest { name: "a".into(), expected_version: now };
    assert!(world.policies.delete(fresh).await.unwrap().into_inner().version > now);
    let gone = world.policies.delete(DeleteRequest { name: "a".into(), expected_version: 0 }).await.unwrap_err();
    assert_eq!((gone.code(), gone.message()), (Code::NotFound, "there is no policy a"));
    assert_eq!(world.policies.get(GetRequest { name: "a".into() }).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test(start_paused = true)]
async fn watchers_of_a_service_hear_of_its_policies_and_nobody_else_wakes() {
    let mut world = World::new().await;
    world.users(1).await;
    let mut users = world.watch("users", &["users"]).await;
    let first = users.next_of("users.default").await;
    assert_eq!(told(&first), Some(vec![]), "a full update always tells, so that silence means an older registry");
    let mut posts = world.watch("posts", &["posts"]).await;
    posts.next_of("posts.default").await;
    world.apply(&[access("b", "users", &["posts"]), plaintext("a", "users")]).await.unwrap();
    let update = users.next_of("users.default").await;
    assert_eq!((told(&update), delta(&update)), (Some(vec!["a", "b"]), (vec![], vec![])));
    assert!(posts.is_quiet().await);
    world.users(2).await;
    assert_eq!(told(&users.next_of("users.default").await), None, "unchanged policies are not told again");
    world.policies.delete(DeleteRequest { name: "b".into(), expected_version: 0 }).await.unwrap();
    assert_eq!(told(&users.next_of("users.default").await), Some(vec!["a"]));
    let mut late = world.watch("late", &["*"]).await;
    assert_eq!(told(&late.next_of("users.default").await), Some(vec!["a"]));
}

#[tokio::test(start_paused = true)]
async fn a_service_may_have_policies_before_it_has_instances_and_a_policy_may_move() {
    let mut world = World::new().await;
    sleep(WARM).await;
    let mut users = world.watch("users", &["users"]).await;
    users.next_of("users.default").await;
    world.apply(&[access("a", "users", &["posts"])]).await.unwrap();
    let update = users.next_of("users.default").await;
    assert_eq!((told(&update), update.authoritative), (Some(vec!["a"]), true));
    world.users(1).await;
    assert_eq!(delta(&users.next_of("users.default").await).0.len(), 1);
    world.apply(&[access("a", "comments", &["posts"])]).await.unwrap();
    assert_eq!(told(&users.next_of("users.default").await), Some(vec![]));
    let mut comments = world.watch("comments", &["comments"]).await;
    assert_eq!(told(&comments.next_of("comments.default").await), Some(vec!["a"]));
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_with_a_policy_is_named_by_its_field() {
    let mut world = World::new().await;
    let mut no_kind = access("a", "users", &["posts"]);
    no_kind.kind = None;
    let twice = [access("a", "users", &["posts"]), access("a", "users", &["posts"])];
    for (policies, field) in [
        (vec![no_kind], "policies[0].kind"),
        (vec![access("a", "users", &["Posts"])], "policies[0].access.rules[0].from.services[0]"),
        (twice.to_vec(), "policies[1].name"),
    ] {
        let error = world.apply(&policies).await.unwrap_err();
        let details = error.get_error_details();
        let violations = &details.bad_request().unwrap().field_violations;
        assert_eq!((error.code(), violations[0].field.as_str()), (Code::InvalidArgument, field));
    }
}
