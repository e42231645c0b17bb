//! A session against a client that does as the protocol says, and as clients do.

mod model;

use std::collections::BTreeSet;

use super::*;
use crate::views::xds::resource::tests::resource;

/// What there is, as one node sees it.
#[derive(Debug, Default)]
pub(super) struct World {
    version: u64,
    now: BTreeMap<(Kind, Name), Arc<Resource>>,
    last: BTreeMap<(Kind, Name), Arc<Resource>>,
    guesses: BTreeSet<(Kind, Name)>,
    in_doubt: BTreeSet<(Kind, Name)>,
}

impl View for World {
    fn version(&self) -> Version {
        Version(self.version)
    }

    fn find(&self, kind: Kind, name: &Name) -> Found {
        let key = (kind, name.clone());
        let (is_guess, is_in_doubt) = (self.guesses.contains(&key), self.in_doubt.contains(&key));
        Found { now: self.now.get(&key).cloned(), last: self.last.get(&key).cloned(), is_guess, is_in_doubt }
    }

    fn all(&self, kind: Kind) -> Vec<Name> {
        self.now.keys().filter(|(it, _)| *it == kind).map(|(_, name)| name.clone()).collect()
    }

    fn has(&self, kind: Kind, name: &Name) -> bool {
        self.now.contains_key(&(kind, name.clone()))
    }
}

/// A session, its world, and the hub's part between the two.
#[derive(Debug)]
pub(super) struct Bench {
    pub(super) world: World,
    pub(super) session: Session,
    pub(super) now: Instant,
}

impl Bench {
    pub(super) fn new(protocol: Protocol) -> Self {
        Self { world: World::default(), session: Session::new(protocol, false, usize::MAX), now: Instant::now() }
    }

    /// Sets a resource, or removes it.
    pub(super) fn set(&mut self, kind: Kind, name: &str, content: Option<u32>) {
        self.world.version += 1;
        let key = (kind, Name::from(name));
        let old = match content {
            Some(n) => self.world.now.insert(key.clone(), Arc::new(resource(kind, &format!("{name}={n}")))),
            None => self.world.now.remove(&key),
        };
        if let (None, Some(old)) = (content, old) {
            self.world.last.insert(key.clone(), old);
        }
        let channel = self.session.channel(kind);
        if channel.named().contains(&key.1) || channel.is_wildcard() {
            let change = Change { version: Version(self.world.version), at: self.now };
            self.session.mark(kind, &key.1, Some(change));
        }
    }

    pub(super) fn ask(&mut self, request: Request) -> Heard {
        let kind = request.kind;
        let heard = self.session.request(request).unwrap();
        let all = if heard.wildcard == Some(true) { self.world.all(kind) } else { vec![] };
        for name in heard.added.iter().chain(&all) {
            self.session.mark(kind, name, None);
        }
        heard
    }

    pub(super) fn respond(&mut self) -> Option<Response> {
        assert!(self.session.is_due(self.now), "asked for a response when there is none to be had");
        self.session.respond(&self.world, self.now)
    }

    /// Everything that may be told now, as one list of `kind:name`.
    pub(super) fn told(&mut self) -> Vec<String> {
        let mut told = Vec::new();
        while self.session.is_due(self.now) {
            let Some(response) = self.respond() else { continue };
            told.push(text(&response));
        }
        told
    }
}

fn text(response: &Response) -> String {
    let names: Vec<_> = response.resources.iter().map(|(name, _)| name.as_ref()).collect();
    let removed: String = response.removed.iter().map(|name| format!(" -{name}")).collect();
    format!("{}:{}{removed}", response.kind.name(), names.join(","))
}

pub(super) fn names(kind: Kind, names: &[&str], nonce: u64) -> Request {
    let nonce = if nonce == 0 { String::new() } else { super::super::wire::nonce(nonce) };
    let names = names.iter().map(|it| it.to_string()).collect();
    Request { kind, nonce, error: None, ask: Ask::Names { names, version_info: String::new() } }
}

fn resumed(kind: Kind, wanted: &[&str]) -> Request {
    let Request { ask: Ask::Names { names, .. }, .. } = names(kind, wanted, 0) else { unreachable!() };
    Request { kind, nonce: String::new(), error: None, ask: Ask::Names { names, version_info: "1.7".into() } }
}

fn nack(kind: Kind, wanted: &[&str], nonce: u64, error: &str) -> Request {
    Request { error: Some(error.into()), ..names(kind, wanted, nonce) }
}

fn change(kind: Kind, subscribe: &[&str], unsubscribe: &[&str], nonce: u64) -> Request {
    let texts = |it: &[&str]| it.iter().map(|it| it.to_string()).collect();
    let ask = Ask::Change { subscribe: texts(subscribe), unsubscribe: texts(unsubscribe), initial: BTreeMap::new() };
    Request { ask, ..names(kind, &[], nonce) }
}

fn sotw() -> Bench {
    let mut bench = Bench::new(Protocol::StateOfTheWorld);
    for kind in Kind::ALL {
        bench.set(kind, "a", Some(1));
        bench.set(kind, "b", Some(1));
    }
    bench
}

fn delta() -> Bench {
    let Bench { world, .. } = sotw();
    Bench { world, ..Bench::new(Protocol::Delta) }
}

const NOTHING: [&str; 0] = [];

use Kind::{Cluster, Endpoint, Listener, Route};

#[test]
fn the_lds_response_after_a_second_subscription_still_lists_the_first_listener() {
    let mut bench = sotw();
    bench.ask(names(Listener, &["a"], 0));
    assert_eq!(bench.told(), ["lds:a"]);
    bench.ask(names(Listener, &["a"], 1));
    bench.ask(names(Listener, &["a", "b"], 1));
    assert_eq!(bench.told(), ["lds:a,b"]);
}

#[test]
fn endpoints_go_singly() {
    let mut bench = sotw();
    bench.ask(names(Endpoint, &["a", "b"], 0));
    assert_eq!(bench.told(), ["eds:a,b"]);
    bench.ask(names(Endpoint, &["a", "b"], 1));
    bench.set(Endpoint, "b", Some(2));
    assert_eq!(bench.told(), ["eds:b"]);
}

#[test]
fn an_ack_gets_no_response() {
    let mut bench = sotw();
    for (nonce, kind) in (1..).zip([Cluster, Endpoint, Listener, Route]) {
        bench.ask(names(kind, &["a"], 0));
        assert_eq!(bench.told().len(), 1);
        assert_eq!(bench.ask(names(kind, &["a"], nonce)).answer, Answer::Acked { changed_at: None });
        assert_eq!(bench.told(), NOTHING);
    }
}

#[test]
fn unsubscribe_all_is_not_wildcard() {
    for kind in [Cluster, Listener] {
        let mut bench = sotw();
        bench.ask(names(kind, &["a"], 0));
        bench.told();
        bench.ask(names(kind, &["a"], 1));
        bench.ask(names(kind, &[], 1));
        assert!(!bench.session.channel(kind).is_wildcard());
        bench.set(kind, "a", Some(2));
        assert_eq!(bench.told(), NOTHING);
    }
}

#[test]
fn no_names_at_first_and_a_star_at_any_time_are_the_wildcard() {
    let mut bench = sotw();
    bench.ask(names(Cluster, &[], 0));
    assert_eq!(bench.told(), ["cds:a,b"]);
    bench.ask(names(Cluster, &["*", "c"], 1));
    assert_eq!(bench.told(), NOTHING, "c is not there yet");
    bench.set(Cluster, "d", Some(1));
    assert_eq!(bench.told(), ["cds:a,b,d"]);
    bench.ask(names(Cluster, &["c"], 2));
    assert!(!bench.session.channel(Cluster).is_wildcard());
    bench.ask(names(Cluster, &[], 2));
    assert!(!bench.session.channel(Cluster).is_wildcard());
    bench.set(Cluster, "c", Some(1));
    assert_eq!(bench.told(), NOTHING);
}

#[test]
fn a_wildcard_for_nothing_is_answered_and_routes_have_none() {
    let mut bench = Bench::new(Protocol::StateOfTheWorld);
    bench.ask(names(Cluster, &[], 0));
    bench.ask(names(Route, &[], 0));
    assert_eq!(bench.told(), ["cds:"]);
}

#[test]
fn a_reconnect_with_an_old_version_and_a_new_name_gets_everything_again() {
    let mut bench = sotw();
    for kind in [Cluster, Endpoint] {
        bench.ask(resumed(kind, &["a", "b"]));
    }
    assert_eq!(bench.told(), ["cds:a,b", "eds:a,b"]);
}

#[test]
fn a_nack_does_not_loop() {
    let mut bench = sotw();
    for (nonce, kind) in (1..).zip([Cluster, Endpoint, Listener, Route]) {
        bench.ask(names(kind, &["a", "b"], 0));
        assert_eq!(bench.told().len(), 1);
        assert_eq!(bench.ask(nack(kind, &["a", "b"], nonce, "no")).answer, Answer::Rejected);
        assert_eq!(bench.told(), NOTHING);
        assert_eq!(bench.session.channel(kind).rejected().unwrap().names().count(), 2);
    }
    bench.set(Endpoint, "b", Some(2));
    assert_eq!(bench.told(), ["eds:b"], "what changed may be right now");
    bench.set(Cluster, "a", Some(2));
    assert_eq!(bench.told(), ["cds:a,b"]);
}

#[test]
fn a_nack_that_names_a_resource_blames_no_other() {
    let mut bench = sotw();
    bench.ask(names(Cluster, &["a", "b"], 0));
    bench.told();
    bench.ask(nack(Cluster, &["a", "b"], 1, "resource index 0: b: no lb_policy; a-b is fine"));
    let rejected = bench.session.channel(Cluster).rejected().unwrap();
    assert_eq!(rejected.names().map(AsRef::as_ref).collect::<Vec<&str>>(), ["b"]);
    bench.set(Cluster, "b", Some(2));
    bench.told();
    bench.ask(names(Cluster, &["a", "b"], 2));
    assert!(bench.session.channel(Cluster).rejected().is_none(), "an ACK of it settles the matter");
}

#[test]
fn a_stale_nonce_is_ignored() {
    let mut bench = sotw();
    bench.ask(names(Endpoint, &["a"], 0));
    bench.told();
    bench.ask(names(Endpoint, &["a"], 1));
    bench.set(Endpoint, "a", Some(2));
    assert_eq!(bench.told(), ["eds:a"]);
    assert_eq!(bench.ask(names(Endpoint, &["b"], 1)).answer, Answer::Stale);
    assert_eq!(bench.session.channel(Endpoint).named().len(), 1);
    assert_eq!(bench.told(), NOTHING);
    bench.ask(names(Endpoint, &["a", "b"], 2));
    assert_eq!(bench.told(), ["eds:b"]);
}

#[test]
fn a_resource_created_after_its_request_is_told_at_once() {
    for mut bench in [sotw(), delta()] {
        let by_delta = bench.session.protocol() == Protocol::Delta;
        for kind in [Cluster, Endpoint, Listener, Route] {
            bench.ask(if by_delta { change(kind, &["late"], &[], 0) } else { names(kind, &["late"], 0) });
            let told = bench.told();
            if by_delta {
                assert_eq!(told, [format!("{}: -late", kind.name())], "delta has a word for it");
                let nonce = bench.session.nonce;
                bench.ask(change(kind, &[], &[], nonce));
            } else {
                assert_eq!(told, NOTHING);
            }
            bench.set(kind, "late", Some(1));
            assert_eq!(bench.told(), [format!("{}:late", kind.name())]);
            let nonce = bench.session.nonce;
            bench.ask(if by_delta { change(kind, &[], &[], nonce) } else { names(kind, &["late"], nonce) });
        }
    }
}

#[test]
fn what_is_left_out_is_deleted_and_only_there() {
    let mut bench = sotw();
    for kind in [Cluster, Endpoint, Listener, Route] {
        bench.ask(names(kind, &["a", "b"], 0));
        bench.told();
        let nonce = bench.session.nonce;
        bench.ask(names(kind, &["a", "b"], nonce));
    }
    for kind in [Endpoint, Route] {
        bench.set(kind, "a", None);
        assert_eq!(bench.told(), NOTHING, "there is no word for it");
    }
    for kind in [Listener, Cluster] {
        bench.set(kind, "a", None);
        assert_eq!(bench.told(), [format!("{}:b", kind.name())]);
        let nonce = bench.session.nonce;
        bench.ask(names(kind, &["a", "b"], nonce));
        bench.set(kind, "b", None);
        assert_eq!(bench.told(), [format!("{}:", kind.name())]);
        let nonce = bench.session.nonce;
        bench.ask(names(kind, &["a", "b"], nonce));
    }
}

#[test]
fn made_before_broken() {
    let mut bench = sotw();
    for kind in [Cluster, Endpoint, Route] {
        bench.ask(names(kind, if kind == Route { &["r"] } else { &["a"] }, 0));
    }
    bench.set(Route, "r", Some(1));
    assert_eq!(bench.told(), ["cds:a", "eds:a"], "the route waits for the cluster");
    bench.ask(names(Cluster, &["a"], 1));
    bench.ask(names(Endpoint, &["a"], 2));
    assert_eq!(bench.told(), ["rds:r"]);
    bench.ask(names(Route, &["r"], 3));
    // The route turns from a to b.
    bench.set(Cluster, "a", None);
    bench.set(Route, "r", Some(2));
    bench.ask(names(Cluster, &["a", "b"], 1));
    bench.ask(names(Endpoint, &["a", "b"], 2));
    assert_eq!(bench.told(), ["cds:a,b", "eds:b"], "a stays while a route names it");
    bench.ask(names(Cluster, &["a", "b"], 4));
    assert_eq!(bench.told(), NOTHING, "b's endpoints are on their way");
    bench.ask(names(Endpoint, &["a", "b"], 5));
    assert_eq!(bench.told(), ["rds:r"]);
    bench.ask(names(Route, &["r"], 6));
    assert_eq!(bench.told(), ["cds:b"]);
}

#[test]
fn endpoints_do_not_wait_for_the_ack_that_envoy_keeps_until_clusters_are_warm() {
    let mut bench = sotw();
    bench.ask(names(Cluster, &[], 0));
    bench.told();
    bench.ask(names(Endpoint, &["a", "b"], 0));
    assert_eq!(bench.told(), ["eds:a,b"]);
}

#[test]
fn coming_and_going_endpoints_do_not_hold_routes_up() {
    let mut bench = sotw();
    bench.ask(names(Endpoint, &["a"], 0));
    bench.told();
    bench.ask(names(Endpoint, &["a"], 1));
    bench.set(Endpoint, "a", Some(2));
    bench.told();
    bench.ask(names(Route, &["a"], 0));
    assert_eq!(bench.told(), ["rds:a"]);
}

#[test]
fn one_response_a_kind_is_on_its_way_and_the_next_has_the_latest() {
    let mut bench = sotw();
    bench.ask(names(Endpoint, &["a", "b"], 0));
    bench.told();
    for n in 2..100 {
        bench.set(Endpoint, "a", Some(n));
        assert_eq!(bench.told(), NOTHING);
    }
    bench.ask(names(Endpoint, &["a", "b"], 1));
    let response = bench.respond().unwrap();
    assert_eq!(text(&response), "eds:a");
    assert_eq!(*response.resources[0].1, resource(Endpoint, "a=99"));
}

#[test]
fn who_never_answers_is_told_again_after_a_while_and_holds_nobody_up_for_good() {
    let mut bench = sotw();
    bench.ask(names(Cluster, &["a"], 0));
    bench.told();
    assert_eq!(bench.session.wake_at(bench.now), Some(bench.now + HOLD), "who marks something until then wakes nobody");
    bench.ask(names(Listener, &["a"], 0));
    bench.set(Cluster, "a", Some(2));
    assert_eq!(bench.told(), NOTHING);
    let at = bench.session.wake_at(bench.now).unwrap();
    assert_eq!(at, bench.now + HOLD);
    bench.now = at;
    assert_eq!(bench.told(), ["cds:a"]);
    bench.now += HOLD;
    assert_eq!(bench.told(), ["lds:a"]);
    let changed_at = Some(bench.now - 2 * HOLD);
    assert_eq!(
        bench.ask(names(Cluster, &["a"], 2)).answer,
        Answer::Acked { changed_at },
        "the last answer is for both"
    );
}

#[test]
fn a_name_that_was_dropped_and_asked_for_again_is_told_again() {
    let mut bench = sotw();
    for (nonce, kind) in (0..).zip([Cluster, Endpoint, Listener, Route]) {
        let nonce = 2 * nonce;
        bench.ask(names(kind, &["a", "b"], 0));
        bench.told();
        bench.ask(names(kind, &["a"], nonce + 1));
        assert_eq!(bench.told(), NOTHING);
        bench.ask(names(kind, &["a", "b"], nonce + 1));
        let all = if kind.is_complete() { "a,b" } else { "b" };
        assert_eq!(bench.told(), [format!("{}:{all}", kind.name())]);
        bench.ask(names(kind, &["a", "b"], nonce + 2));
    }
}

#[test]
fn a_client_that_resumes_loses_nothing_to_a_registry_that_warms_up() {
    let mut bench = sotw();
    bench.session.warming(true);
    bench.ask(resumed(Cluster, &["a", "lost"]));
    bench.ask(resumed(Listener, &["a"]));
    bench.ask(resumed(Endpoint, &["a", "lost"]));
    assert_eq!(bench.told(), ["eds:a"], "an answer without `lost` would delete it");
    bench.ask(names(Endpoint, &["a", "lost"], 1));
    assert_eq!(bench.told(), ["lds:a"]);
    bench.set(Cluster, "lost", Some(1));
    assert_eq!(bench.told(), ["cds:a,lost"]);

    let mut bench = sotw();
    bench.session.warming(true);
    bench.ask(resumed(Listener, &[]));
    assert_eq!(bench.told(), NOTHING, "all that there is may be more");
    bench.session.warming(false);
    assert_eq!(bench.told(), ["lds:a,b"]);
}

#[test]
fn an_update_is_owed_until_it_is_acknowledged() {
    let mut bench = sotw();
    let at = |bench: &Bench| Version(bench.world.version);
    bench.ask(names(Endpoint, &["a"], 0));
    assert!(!bench.session.owes(Endpoint, "a", at(&bench)), "who has nothing yet acts on nothing old");
    bench.told();
    bench.ask(names(Endpoint, &["a"], 1));
    bench.set(Endpoint, "a", Some(2));
    let drained = at(&bench);
    assert!(bench.session.owes(Endpoint, "a", drained));
    bench.told();
    assert!(bench.session.owes(Endpoint, "a", drained), "sent is not applied");
    bench.set(Endpoint, "a", Some(3));
    bench.ask(names(Endpoint, &["a"], 2));
    assert!(!bench.session.owes(Endpoint, "a", drained));
    assert!(bench.session.owes(Endpoint, "a", at(&bench)), "the later change is another matter");
    bench.told();
    bench.ask(nack(Endpoint, &["a"], 3, "no"));
    assert!(bench.session.owes(Endpoint, "a", at(&bench)), "who rejects it goes on with the old");

    let mut bench = sotw();
    bench.ask(resumed(Endpoint, &["a"]));
    assert!(bench.session.owes(Endpoint, "a", at(&bench)), "it may act on what an earlier stream told");
}

#[test]
fn what_is_missing_is_not_removed_by_delta_while_the_registry_warms_up_whatever_was_acknowledged() {
    let mut bench = delta();
    bench.session.warming(true);
    let ask = |kind, names: &[&str]| {
        let initial = names.iter().map(|it| ((*it).to_owned(), "0".repeat(16))).collect();
        let ask = Ask::Change { subscribe: vec![], unsubscribe: vec![], initial };
        Request { ask, ..super::tests::names(kind, &[], 0) }
    };
    bench.ask(ask(Cluster, &["a", "lost"]));
    assert_eq!(bench.told(), ["cds:a,b"]);
    bench.ask(change(Cluster, &[], &[], 1));
    assert_eq!(bench.told(), NOTHING, "it may be about to come back");
    bench.set(Cluster, "a", Some(2));
    assert_eq!(bench.told(), ["cds:a"]);
    bench.ask(change(Cluster, &[], &[], 2));
    bench.session.warming(false);
    assert_eq!(bench.told(), ["cds: -lost"]);
}

#[test]
fn what_the_missing_may_make_another_of_is_withheld_from_who_resumes_until_the_registry_is_warm() {
    for protocol in [Protocol::StateOfTheWorld, Protocol::Delta] {
        let mut bench = Bench { world: sotw().world, ..Bench::new(protocol) };
        bench.world.guesses.insert((Route, "a".into()));
        bench.session.warming(true);
        let initial = [("a".to_owned(), "0".repeat(16)), ("b".to_owned(), "0".repeat(16))].into();
        bench.ask(match protocol {
            Protocol::StateOfTheWorld => resumed(Route, &["a", "b"]),
            Protocol::Delta => Request {
                ask: Ask::Change { subscribe: vec!["a".into(), "b".into()], unsubscribe: vec![], initial },
                ..names(Route, &[], 0)
            },
        });
        assert_eq!(bench.told(), ["rds:b"], "{protocol:?}");
        bench.ask(match protocol {
            Protocol::StateOfTheWorld => names(Route, &["a", "b"], 1),
            Protocol::Delta => change(Route, &[], &[], 1),
        });
        bench.set(Route, "a", Some(2));
        assert_eq!(bench.told(), NOTHING, "{protocol:?}");
        bench.session.warming(false);
        assert_eq!(bench.told(), ["rds:a"], "{protocol:?}");
        let mut fresh = Bench { world: sotw().world, ..Bench::new(protocol) };
        fresh.world.guesses.insert((Route, "a".into()));
        fresh.session.warming(true);
        fresh.ask(match protocol {
            Protocol::StateOfTheWorld => names(Route, &["a"], 0),
            Protocol::Delta => change(Route, &["a"], &[], 0),
        });
        assert_eq!(fresh.told(), ["rds:a"], "{protocol:?}: who has nothing is better off with that");
    }
}

#[test]
fn what_is_told_again_or_cannot_be_told_is_owed() {
    // By delta, who asks again acts on what it has until it has the answer.
    let mut bench = delta();
    bench.ask(change(Endpoint, &["a"], &[], 0));
    bench.told();
    bench.ask(change(Endpoint, &["a"], &[], 1));
    bench.set(Endpoint, "a", Some(2));
    let drained = Version(bench.world.version);
    assert!(bench.session.owes(Endpoint, "a", drained), "marked");
    assert_eq!(bench.told(), ["eds:a"]);
    assert!(bench.session.owes(Endpoint, "a", drained), "on its way");
    bench.ask(change(Endpoint, &[], &[], 2));
    assert!(!bench.session.owes(Endpoint, "a", drained));
    // By state of the world nobody can be told that endpoints are gone.
    let mut bench = sotw();
    bench.ask(names(Endpoint, &["a"], 0));
    bench.told();
    bench.ask(names(Endpoint, &["a"], 1));
    bench.set(Endpoint, "a", None);
    let drained = Version(bench.world.version);
    assert_eq!(bench.told(), NOTHING);
    assert!(bench.session.owes(Endpoint, "a", drained), "it still acts on them");
    bench.set(Endpoint, "a", Some(3));
    assert_eq!(bench.told(), ["eds:a"]);
    bench.ask(names(Endpoint, &["a"], 2));
    assert!(!bench.session.owes(Endpoint, "a", drained));
    // By delta they are removed, unless it is in doubt that they are meant to be gone.
    let mut bench = delta();
    bench.ask(change(Endpoint, &["a", "b"], &[], 0));
    bench.told();
    bench.ask(change(Endpoint, &[], &[], 1));
    bench.world.in_doubt.insert((Endpoint, "a".into()));
    bench.set(Endpoint, "a", None);
    let drained = Version(bench.world.version);
    assert_eq!(bench.told(), NOTHING);
    assert!(bench.session.owes(Endpoint, "a", drained));
    bench.world.in_doubt.clear();
    bench.session.mark(Endpoint, &"a".into(), None);
    assert_eq!(bench.told(), ["eds: -a"]);
    assert!(bench.session.owes(Endpoint, "a", drained));
    bench.ask(change(Endpoint, &[], &[], 2));
    assert!(!bench.session.owes(Endpoint, "a", drained));
}

#[test]
fn a_wildcard_that_no_name_asked_for_ends_by_its_name() {
    let mut bench = delta();
    bench.ask(change(Cluster, &[], &[], 0));
    assert_eq!(bench.told(), ["cds:a,b"]);
    bench.ask(change(Cluster, &["a"], &["*"], 1));
    assert_eq!(bench.told(), NOTHING);
    bench.set(Cluster, "b", Some(2));
    assert_eq!(bench.told(), NOTHING, "it is none of all any more");
    bench.set(Cluster, "a", Some(2));
    assert_eq!(bench.told(), ["cds:a"]);
}

#[test]
fn a_name_that_is_given_up_for_all_is_answered_also_if_it_is_gone() {
    let mut bench = delta();
    bench.ask(change(Listener, &["a"], &[], 0));
    assert_eq!(bench.told(), ["lds:a"]);
    bench.set(Listener, "a", None);
    bench.ask(change(Listener, &["*"], &["a"], 0));
    bench.now += HOLD;
    assert_eq!(bench.told(), ["lds:b -a"], "what was on its way says otherwise");
}

#[test]
fn an_answer_that_must_be_complete_is_as_large_as_its_client_takes() {
    let one = resource(Cluster, "a=1").bytes.len();
    let mut bench = Bench { world: sotw().world, ..Bench::new(Protocol::StateOfTheWorld) };
    bench.session = Session::new(Protocol::StateOfTheWorld, false, 2 * one);
    bench.set(Cluster, "c", Some(1));
    bench.ask(names(Cluster, &["b", "c"], 0));
    assert_eq!(bench.told(), ["cds:b,c"]);
    bench.ask(names(Cluster, &["a", "b", "c"], 1));
    assert_eq!(bench.told(), NOTHING, "who has something keeps it");
    assert!(bench.session.channel(Cluster).too_much().contains("a"));
    bench.ask(names(Cluster, &["a", "b"], 1));
    assert_eq!(bench.told(), ["cds:b,a"], "there is room now");
    assert!(bench.session.channel(Cluster).too_much().is_empty());
}

#[test]
fn names_have_bounds() {
    let mut bench = sotw();
    let long = "x".repeat(2_000);
    let error = bench.session.request(names(Endpoint, &["a", &long], 0)).unwrap_err();
    assert_eq!(error.field(), "resource_names[1]");
    let error = bench.session.request(names(Endpoint, &vec!["a"; 10_001], 0)).unwrap_err();
    assert_eq!(error.field(), "resource_names");
    let error = bench.session.request(change(Endpoint, &[&long], &[], 0)).unwrap_err();
    assert_eq!(error.field(), "resource_names_subscribe[0]");
}

#[test]
fn delta_tells_what_changed_and_what_went() {
    let mut bench = delta();
    bench.ask(change(Cluster, &[], &[], 0));
    bench.ask(change(Endpoint, &["a", "b"], &[], 0));
    assert_eq!(bench.told(), ["cds:a,b", "eds:a,b"]);
    bench.ask(change(Cluster, &[], &[], 1));
    bench.ask(change(Endpoint, &[], &[], 2));
    bench.set(Cluster, "c", Some(1));
    bench.set(Endpoint, "a", Some(2));
    assert_eq!(bench.told(), ["cds:c", "eds:a"]);
    bench.ask(change(Cluster, &[], &[], 3));
    bench.set(Cluster, "c", None);
    assert_eq!(bench.told(), ["cds: -c"]);
    bench.ask(change(Endpoint, &[], &["a"], 4));
    bench.set(Endpoint, "a", Some(3));
    assert_eq!(bench.told(), NOTHING);
}

#[test]
fn delta_goes_on_from_the_versions_a_client_holds() {
    let mut bench = delta();
    let held = |bench: &Bench, name: &str| {
        let it = bench.world.find(Listener, &name.into()).now.unwrap();
        (name.to_owned(), super::super::wire::resource_version(it.version))
    };
    let initial = [held(&bench, "a"), ("b".into(), "of another server".into()), ("gone".into(), "1".into())].into();
    let ask = Ask::Change { subscribe: vec![], unsubscribe: vec![], initial };
    bench.ask(Request { ask, ..names(Listener, &[], 0) });
    assert_eq!(bench.told(), ["lds:b -gone"]);
}

#[test]
fn delta_by_name_is_answered_for_each_name_that_is_asked_again() {
    let mut bench = delta();
    bench.ask(change(Endpoint, &["a"], &[], 0));
    bench.told();
    bench.ask(change(Endpoint, &["a"], &[], 1));
    assert_eq!(bench.told(), ["eds:a"]);
    bench.ask(change(Cluster, &["*", "a"], &[], 0));
    bench.told();
    bench.ask(change(Cluster, &[], &["a"], 3));
    assert_eq!(bench.told(), ["cds:a"], "it is one of all still");
    bench.ask(change(Cluster, &[], &["*"], 4));
    bench.set(Cluster, "b", Some(2));
    assert_eq!(bench.told(), NOTHING);
}

#[test]
fn delta_removes_clusters_after_the_routes_to_them() {
    let mut bench = delta();
    for (nonce, kind) in (1..).zip([Cluster, Route]) {
        bench.ask(change(kind, &["a"], &[], 0));
        bench.told();
        bench.ask(change(kind, &[], &[], nonce));
    }
    bench.set(Cluster, "a", None);
    bench.set(Route, "a", Some(2));
    assert_eq!(bench.told(), ["rds:a"]);
    bench.ask(change(Route, &[], &[], 3));
    assert_eq!(bench.told(), ["cds: -a"]);
}
