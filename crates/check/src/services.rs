//! The services' instances, as the registry lists them and as `weft up` runs them.
//!
//! Lives here: one judgement an instance, what a service offers, asking sidecars for their counters. Does not: calling the apps (`path`).

use std::{
    collections::{BTreeMap, BTreeSet},
    time::UNIX_EPOCH,
};

use tokio::time::Instant;
use weft_model::{REVOKED, ServiceName, metadata};
use weft_proto::weft::{
    discovery::v1::{ClaimsResponse, ListResponse, RefusedSet, ServiceUpdate, claim::Refused},
    model::v1::{Instance, Status},
    up::v1::Process,
};
use weft_runtime::clock;

use crate::{
    ask,
    clocks::Told,
    crowd, ids, path, policies, registry,
    report::Outcome,
    target::{Mesh, Place},
    text::counted,
};

/// A process that runs for so long should be listed, in seconds.
const JOINED_AFTER: i64 = 60;

/// A sidecar and what its admin server said.
#[derive(Debug, Clone)]
pub(crate) struct Sidecar {
    pub(crate) place: Place,
    /// Its exposition, or why there is none.
    pub(crate) metrics: Result<String, String>,
}

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) outcomes: Vec<Outcome>,
    /// By instance id.
    pub(crate) sidecars: BTreeMap<String, Sidecar>,
    pub(crate) told: Vec<Told>,
}

pub(crate) async fn check(mesh: &Mesh, list: &ListResponse, claims: &ClaimsResponse, end: Instant) -> Found {
    let mut found = Found { outcomes: offers(list, claims), ..Found::default() };
    for service in &list.services {
        found.outcomes.extend(registry::instances(service).iter().map(judge));
    }
    found.outcomes.extend(empty(mesh, list, claims));
    if list.services.is_empty() && claims.claims.is_empty() && mesh.rows.iter().all(|row| row.service.is_empty()) {
        found.outcomes.push(ids::INSTANCES.skipped("", "the mesh has no services yet"));
    }
    let (unlisted, sidecars) = tokio::join!(unlisted(mesh, end), sidecars(list, end));
    found.outcomes.extend(unlisted);
    for (instance, sidecar, ahead) in sidecars {
        let version = instance.metadata.get(metadata::VERSION).cloned();
        found.told.push(Told { who: name(&instance), ahead, version });
        found.sidecars.insert(instance.id, sidecar);
    }
    found
}

/// What people call an instance: its slot, or its service and the end of its id.
pub(crate) fn name(instance: &Instance) -> String {
    match instance.metadata.get(metadata::SLOT) {
        Some(slot) => slot.clone(),
        None => format!("{}/{}", instance.service, instance.id.rsplit('-').next().unwrap_or_default()),
    }
}

/// Judges an instance by its status.
pub(crate) fn judge(instance: &Instance) -> Outcome {
    let (name, reason) = (name(instance), &instance.reason);
    match instance.status() {
        Status::Serving => ids::APP.ok(name, ""),
        Status::Starting => ids::APP.skipped(name, "it is starting"),
        Status::Draining => ids::APP.skipped(name, "it is leaving"),
        Status::Crashed => ids::CRASH.failed(name, reason),
        Status::NotServing | Status::Unspecified => ids::APP.failed(name, reason),
    }
}

/// Whether `weft up` has processes of this service: each is judged by itself.
pub(crate) fn runs_here(mesh: &Mesh, service: &str) -> bool {
    let bare = service.strip_suffix(".default").unwrap_or(service);
    mesh.rows.iter().any(|row| row.service == bare || row.service == service)
}

/// Whether `weft up` has this service, if only in its file.
pub(crate) fn is_had_here(mesh: &Mesh, service: &str) -> bool {
    service.parse::<ServiceName>().is_ok_and(|name| mesh.services.contains(&name))
}

/// Judges the services without instances of which nothing runs here. How the last one left is not known here: a list says who is there. A service that holds
/// claims is called, so one without instances is down, whoever wanted it. A registry that was started again lists a service that is away no more, but
/// still knows what it claimed.
fn empty(mesh: &Mesh, list: &ListResponse, claims: &ClaimsResponse) -> Vec<Outcome> {
    let mut claimed: BTreeMap<&str, usize> = BTreeMap::new();
    for claim in &claims.claims {
        *claimed.entry(&claim.holder).or_default() += 1;
    }
    let known = list.services.iter().map(|it| (it.name.as_str(), it));
    let known: BTreeMap<&str, &ServiceUpdate> = known.collect();
    let names: BTreeSet<&str> = known.keys().chain(claimed.keys()).copied().collect();
    let mut outcomes = Vec::new();
    for name in names {
        let service = known.get(name).copied();
        if service.is_some_and(|it| !registry::instances(it).is_empty()) || runs_here(mesh, name) {
            continue;
        }
        let claims = claimed.get(name).copied().unwrap_or(0);
        if is_had_here(mesh, name) {
            outcomes.push(ids::INSTANCES.skipped(name, "scaled to 0"));
        } else if claims > 0 {
            let claims = counted(claims, "claim", "claims");
            let detail = format!("it has no instance and holds {claims}: calls to it get UNAVAILABLE, 503");
            outcomes.push(ids::INSTANCES.failed(name, detail));
        } else if !service.is_some_and(policies::has) {
            // One that a policy alone keeps on the list is the policy's matter (`policies`).
            outcomes.push(ids::INSTANCES.warning(name, "it has no instance, and holds no claim"));
        }
    }
    outcomes
}

/// What services declare, and what of it the mesh took.
fn offers(list: &ListResponse, claims: &ClaimsResponse) -> Vec<Outcome> {
    let instances: Vec<_> = list.services.iter().flat_map(registry::instances).collect();
    let mut outcomes: Vec<_> = claims.refused_sets.iter().map(|it| refused_set(it, &instances)).collect();
    let offered = |it: &ServiceUpdate| claims.refused_sets.iter().any(|set| set.service == it.name);
    outcomes.extend(list.services.iter().filter(|it| is_undescribed(it) && !offered(it)).map(|it| {
        let detail =
            "the app has no gRPC reflection, and its sidecar no --descriptor-set: calls through the gateway fail";
        ids::DESCRIPTORS.warning(&it.name, detail)
    }));
    let mut refused: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for claim in &claims.claims {
        let holder = list.services.iter().find(|it| it.name == claim.holder);
        let by_itself = |it: &&Refused| holder.is_none_or(|holder| !policies::send_on(holder, &it.claimant));
        for by in claim.refused.iter().filter(by_itself) {
            refused.entry(&by.claimant).or_default().push(format!("{} belongs to {}", claim.name, claim.holder));
        }
    }
    outcomes.extend(refused.into_iter().map(|(claimant, names)| ids::CLAIMS.failed(claimant, names.join(", "))));
    if !instances.is_empty() {
        for it in [&ids::DESCRIPTORS, &ids::CLAIMS] {
            let well = outcomes.iter().all(|outcome| outcome.id != it.id);
            outcomes.extend(well.then(|| it.ok("", "")));
        }
    }
    outcomes
}

/// Whether instances behind sidecars serve, and nobody knows what.
fn is_undescribed(service: &ServiceUpdate) -> bool {
    let instances = registry::instances(service);
    let serves = |it: &Instance| it.status() == Status::Serving && it.metadata.contains_key(metadata::ADMIN);
    let declares = service.info.as_ref().is_some_and(|it| {
        !(it.grpc_services.is_empty() && it.refused_claims.is_empty() && it.descriptor_digests.is_empty())
    });
    !declares && instances.iter().any(serves) && instances.iter().all(|it| it.descriptor_digest.is_empty())
}

fn refused_set(it: &RefusedSet, instances: &[&Instance]) -> Outcome {
    let by = instances.iter().find(|instance| instance.id == it.instance);
    ids::DESCRIPTORS.failed(by.map_or_else(|| it.service.clone(), |instance| name(instance)), &it.problem)
}

/// Processes of `weft up` that the registry does not list as instances.
async fn unlisted(mesh: &Mesh, end: Instant) -> Vec<Outcome> {
    let mut young = Vec::new();
    let mut outcomes = Vec::new();
    for row in mesh.rows.iter().filter(|row| !row.service.is_empty() && row.instance_id.is_empty()) {
        match row.state.as_str() {
            "crashed" | "gave up" => outcomes.push(crashed(row)),
            "starting" | "revoked" if row.pid != 0 => young.push(row.clone()),
            _ => {} // on its way in or out
        }
    }
    let asked = crowd::ask(young, end, joining).await;
    outcomes.extend(asked.into_iter().filter_map(|(row, said)| match said {
        Some(said) => said,
        None => Some(ids::JOINING.skipped(row.name, path::NO_TIME)),
    }));
    outcomes
}

fn crashed(row: &Process) -> Outcome {
    let again = counted(row.restarts as usize, "time", "times");
    ids::CRASH.failed(&row.name, format!("{}; started again {again}", row.reason))
}

/// Asks the sidecar of a process that runs unlisted why.
async fn joining(row: Process) -> Option<Outcome> {
    let now = clock::wall().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs().cast_signed());
    let age = now - row.since_s;
    let place: Place = row.addresses.get("admin")?.parse().ok()?;
    match ask::get(&place, "/readyz").await {
        Err(why) => Some(ids::SIDECAR.failed(&row.name, format!("{place}: {why}"))),
        Ok(answer) if answer.text.contains(REVOKED) => Some(ids::REVOKED.failed(&row.name, plainly(&answer.text))),
        Ok(_) if !row.reason.is_empty() => Some(crashed(&row)),
        Ok(answer) if age >= JOINED_AFTER => {
            Some(ids::JOINING.failed(&row.name, format!("runs for {age} s: {}", plainly(&answer.text))))
        }
        Ok(_) => Some(ids::JOINING.ok(&row.name, format!("started {age} s ago"))),
    }
}

fn plainly(text: &str) -> &str {
    text.strip_prefix("not ready: ").unwrap_or(text)
}

/// Asks the admin server of every instance that names one.
async fn sidecars(list: &ListResponse, end: Instant) -> Vec<(Instance, Sidecar, Option<i64>)> {
    let named = list.services.iter().flat_map(registry::instances).filter_map(|instance| {
        let place: Place = instance.metadata.get(metadata::ADMIN)?.parse().ok()?;
        Some((instance.clone(), place))
    });
    let question = |(_, place): (Instance, Place)| async move { ask::get(&place, "/metrics").await };
    let asked = crowd::ask(named.collect(), end, question).await;
    let heard = asked.into_iter().map(|((instance, place), answer)| {
        let (metrics, ahead) = match answer.unwrap_or_else(|| Err(path::NO_TIME.to_owned())) {
            Ok(answer) => (Ok(answer.text), answer.ahead),
            Err(why) => (Err(why), None),
        };
        (instance, Sidecar { place, metrics }, ahead)
    });
    heard.collect()
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use weft_proto::weft::{
        discovery::v1::{Claim, Full, ServicePolicies, service_update::Body},
        policy::v1::{Policy, Route, RouteRule, policy::Kind, route_rule::Target},
    };
    use weft_runtime::{
        Metrics, Shutdown,
        admin::{Admin, Readiness},
    };

    use super::*;
    use crate::report;

    fn instance(status: Status) -> Instance {
        Instance {
            id: "01890a5d-ac96-774b-bcce-b302099a8057".into(),
            service: "users".into(),
            status: status.into(),
            reason: "because".into(),
            ..Instance::default()
        }
    }

    #[test]
    fn an_instance_is_judged_by_its_status() {
        let of = |status| {
            let outcome = judge(&instance(status));
            (outcome.id, outcome.status, outcome.detail)
        };
        let because = || "because".to_owned();
        assert_eq!(of(Status::Serving), ("WEFT0402", report::Status::Ok, String::new()));
        assert_eq!(of(Status::NotServing), ("WEFT0402", report::Status::Failed, because()));
        assert_eq!(of(Status::Crashed), ("WEFT0403", report::Status::Failed, because()));
        assert_eq!(of(Status::Draining).1, report::Status::Skipped);
    }

    #[test]
    fn an_instance_is_called_by_its_slot_or_by_its_service() {
        let mut it = instance(Status::Serving);
        assert_eq!(name(&it), "users/b302099a8057");
        it.metadata.insert(metadata::SLOT.into(), "users-1".into());
        assert_eq!(name(&it), "users-1");
    }

    #[test]
    fn what_was_refused_is_told_by_claimant_and_by_instance() {
        let mut it = instance(Status::Serving);
        it.metadata.insert(metadata::SLOT.into(), "users-1".into());
        let set = RefusedSet { service: "users.default".into(), instance: it.id.clone(), ..RefusedSet::default() };
        let full = Body::Full(Full { instances: vec![it] });
        let service = ServiceUpdate { name: "users.default".into(), body: Some(full), ..ServiceUpdate::default() };
        let list = ListResponse { services: vec![service], ..ListResponse::default() };
        let ids = |claims: &ClaimsResponse| -> Vec<_> {
            offers(&list, claims).into_iter().map(|it| (it.id, it.status, it.subject)).collect()
        };
        let (well, failed) = (report::Status::Ok, report::Status::Failed);
        let none = String::new();
        assert_eq!(ids(&ClaimsResponse::default()), [("WEFT0407", well, none.clone()), ("WEFT0408", well, none)]);
        let claim = |name: &str| Claim {
            name: name.into(),
            holder: "users.default".into(),
            refused: vec![Refused { claimant: "other.default".into(), ..Refused::default() }],
            ..Claim::default()
        };
        let claims = vec![claim("shop.users.v1.Users"), claim("GET /api/users/*")];
        let refused = ids(&ClaimsResponse { claims, refused_sets: vec![set], ..ClaimsResponse::default() });
        assert_eq!(refused, [("WEFT0407", failed, "users-1".into()), ("WEFT0408", failed, "other.default".into())]);
    }

    #[test]
    fn who_is_sent_a_share_of_the_calls_offers_what_their_owner_does() {
        let to = vec![Target { service: "canary".into(), weight: 10 }];
        let route = Route { rules: vec![RouteRule { to, ..RouteRule::default() }] };
        let mut service = listed("users.default", 1);
        service.policies.as_mut().unwrap().policies[0].kind = Some(Kind::Route(route));
        service.body = Some(Body::Full(Full { instances: vec![instance(Status::Serving)] }));
        let list = ListResponse { services: vec![service], ..ListResponse::default() };
        let said = |claimant: &str| {
            let refused = vec![Refused { claimant: claimant.into(), ..Refused::default() }];
            let holder = "users.default".to_owned();
            let claims = vec![Claim { name: "shop.users.v1.Users".into(), holder, refused, ..Claim::default() }];
            let outcomes = offers(&list, &ClaimsResponse { claims, ..ClaimsResponse::default() });
            outcomes.into_iter().find(|it| it.id == "WEFT0408").unwrap().status
        };
        assert_eq!(said("canary.default"), report::Status::Ok);
        assert_eq!(said("other.default"), report::Status::Failed);
    }

    #[test]
    fn a_service_that_serves_behind_a_sidecar_and_shows_no_descriptors_is_a_warning() {
        let said = |status, described: bool| {
            let mut it = instance(status);
            it.metadata.insert(metadata::ADMIN.into(), "127.0.0.1:1".into());
            it.descriptor_digest = if described { vec![7; 32].into() } else { Vec::new().into() };
            let mut service = listed("users.default", 0);
            service.body = Some(Body::Full(Full { instances: vec![it] }));
            let list = ListResponse { services: vec![service], ..ListResponse::default() };
            let said = offers(&list, &ClaimsResponse::default());
            said.into_iter().find(|it| it.id == "WEFT0407").map(|it| (it.status, it.subject))
        };
        let well = Some((report::Status::Ok, String::new()));
        assert_eq!(said(Status::Serving, false), Some((report::Status::Warning, "users.default".into())));
        assert_eq!(said(Status::Serving, true), well);
        assert_eq!(said(Status::NotServing, false), well, "it may be that nobody could ask it yet");
    }

    /// What is said of a process that has run for so long and is not listed.
    async fn unlisted_after(seconds: i64) -> (&'static str, report::Status, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let now = clock::wall().duration_since(UNIX_EPOCH).unwrap().as_secs().cast_signed();
        let row = Process {
            name: "users-1".into(),
            since_s: now - seconds,
            addresses: [("admin".into(), listener.local_addr().unwrap().to_string())].into(),
            ..Process::default()
        };
        let sidecar = Admin::new(Metrics::default(), Readiness::starting("the app does not answer"));
        tokio::select! {
            outcome = joining(row) => outcome.map(|it| (it.id, it.status, it.detail)).expect("it has an admin address"),
            () = sidecar.run(listener, Shutdown::new()) => panic!("nobody ends it"),
        }
    }

    #[tokio::test]
    async fn a_process_that_does_not_join_within_a_minute_is_named_with_what_it_waits_for() {
        let (id, status, detail) = unlisted_after(JOINED_AFTER).await;
        assert_eq!((id, status), ("WEFT0405", report::Status::Failed));
        assert!(detail.starts_with("runs for 6") && detail.ends_with(" s: the app does not answer"), "{detail}");
        let (id, status, _) = unlisted_after(JOINED_AFTER / 2).await;
        assert_eq!((id, status), ("WEFT0405", report::Status::Ok));
    }

    /// What is said of services without instances: id, status, subject.
    fn said(mesh: &Mesh, services: Vec<ServiceUpdate>, holders: &[&str]) -> Vec<(report::Status, String)> {
        let claim = |holder: &&str| Claim { holder: (*holder).to_owned(), ..Claim::default() };
        let claims = ClaimsResponse { claims: holders.iter().map(claim).collect(), ..ClaimsResponse::default() };
        let list = ListResponse { services, ..ListResponse::default() };
        empty(mesh, &list, &claims).into_iter().map(|it| (it.status, it.subject)).collect()
    }

    fn listed(name: &str, policies: usize) -> ServiceUpdate {
        let policies = ServicePolicies { policies: vec![Policy::default(); policies] };
        ServiceUpdate { name: name.into(), policies: Some(policies), ..ServiceUpdate::default() }
    }

    #[test]
    fn a_service_that_holds_claims_and_has_no_instance_is_a_failure_whatever_its_policies_unless_it_was_scaled_to_0() {
        let mesh = |services: &[&str]| Mesh {
            services: services.iter().map(|it| it.parse().unwrap()).collect(),
            ..Mesh::for_test()
        };
        let users = || "users.default".to_owned();
        let (failed, skipped) = ([(report::Status::Failed, users())], [(report::Status::Skipped, users())]);
        let posts = mesh(&["posts"]);
        assert_eq!(said(&posts, vec![listed("users.default", 0)], &["users.default"]), failed);
        assert_eq!(said(&posts, vec![listed("users.default", 1)], &["users.default"]), failed);
        assert_eq!(said(&posts, vec![], &["users.default"]), failed, "the registry was started again since");
        assert_eq!(said(&mesh(&["posts", "users"]), vec![listed("users.default", 0)], &["users.default"]), skipped);
    }

    #[test]
    fn a_service_that_left_and_holds_nothing_is_no_failure_and_what_a_policy_alone_names_is_none_of_them() {
        let mesh = Mesh::for_test();
        let warned = [(report::Status::Warning, "web.default".to_owned())];
        assert_eq!(said(&mesh, vec![listed("web.default", 0)], &[]), warned);
        assert_eq!(said(&mesh, vec![listed("usres.default", 1)], &[]), []);
        let mut full = listed("web.default", 0);
        full.body = Some(Body::Full(Full { instances: vec![instance(Status::Serving)] }));
        assert_eq!(said(&mesh, vec![full], &["web.default"]), []);
    }
}
