//! Properties: whatever happens in whatever order, a client ends up with what there is, and nothing is told for nothing.

use std::collections::{BTreeSet, VecDeque};

use proptest::{collection::vec, prelude::*};

use super::*;

const NAMES: [&str; 3] = ["a", "b", "c"];

#[derive(Debug, Clone)]
enum Step {
    /// A resource gets this content, or goes.
    Set(usize, usize, Option<u32>),
    /// The client wants these names, or all.
    Want(usize, BTreeSet<usize>, bool),
    /// The client reads one response, and answers it: with a NACK, or an ACK.
    Read(bool),
    /// The server sends one.
    Send,
    /// The connection breaks; what was on its way is lost.
    Reconnect,
    /// Nobody says anything for long.
    Wait,
}

fn step() -> impl Strategy<Value = Step> {
    let kind = 0..Kind::COUNT;
    prop_oneof![
        4 => (kind.clone(), 0..NAMES.len(), proptest::option::weighted(0.8, 0..4_u32)).prop_map(|(k, n, c)| Step::Set(k, n, c)),
        3 => (kind, proptest::collection::btree_set(0..NAMES.len(), 0..=NAMES.len()), any::<bool>()).prop_map(|(k, n, all)| Step::Want(k, n, all)),
        5 => prop::bool::weighted(0.15).prop_map(Step::Read),
        5 => Just(Step::Send),
        1 => Just(Step::Reconnect),
        1 => Just(Step::Wait),
    ]
}

/// What a client holds of one kind, as the protocol has it.
#[derive(Debug, Clone, Default)]
struct Kept {
    asked: bool,
    wanted: BTreeSet<Name>,
    all: bool,
    held: BTreeMap<Name, u64>,
    nonce: u64,
    version: bool,
    /// Given up in a request that crossed a response, which the server has to ignore (by state of the world): if it is taken again before the server
    /// hears of that, nobody tells it again.
    crossed: BTreeSet<Name>,
}

struct Client {
    bench: Bench,
    kept: [Kept; Kind::COUNT],
    wire: VecDeque<Response>,
}

impl Client {
    fn new(protocol: Protocol) -> Self {
        Self { bench: Bench::new(protocol), kept: Default::default(), wire: VecDeque::new() }
    }

    fn delta(&self) -> bool {
        self.bench.session.protocol() == Protocol::Delta
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::Set(kind, name, content) => self.bench.set(Kind::ALL[kind], NAMES[name], content),
            Step::Want(kind, names, all) => {
                let names = names.into_iter().map(|index| Name::from(NAMES[index])).collect();
                self.want(Kind::ALL[kind], names, all && Kind::ALL[kind].has_wildcard());
            }
            Step::Send => self.send(),
            Step::Read(nack) => self.read(nack),
            Step::Reconnect => self.reconnect(),
            Step::Wait => self.bench.now += HOLD,
        }
    }

    fn want(&mut self, kind: Kind, names: BTreeSet<Name>, all: bool) {
        let delta = self.delta();
        let crosses = !delta && self.wire.iter().any(|it| it.kind == kind);
        let kept = &mut self.kept[kind as usize];
        if !kept.asked && names.is_empty() && !all {
            return; // that would be the wildcard
        }
        let star = |on: bool| on.then(|| "*".to_owned());
        let text = |name: &Name| name.to_string();
        let more: Vec<String> = names.difference(&kept.wanted).map(text).chain(star(all && !kept.all)).collect();
        let less: Vec<String> = kept.wanted.difference(&names).map(text).chain(star(!all && kept.all)).collect();
        if crosses {
            kept.crossed.extend(kept.held.keys().filter(|name| !names.contains(*name) && !all).cloned());
        }
        // By delta a name that is one of all still may only go by the server's word.
        kept.held.retain(|name, _| names.contains(name) || all);
        (kept.asked, kept.wanted, kept.all) = (true, names, all);
        let ask = match delta {
            true => Ask::Change { subscribe: more, unsubscribe: less, initial: BTreeMap::new() },
            false => {
                let names = kept.wanted.iter().map(|name| name.to_string()).chain(star(all)).collect();
                Ask::Names { names, version_info: String::new() }
            }
        };
        let nonce = if delta || kept.nonce == 0 { String::new() } else { super::super::super::wire::nonce(kept.nonce) };
        self.bench.ask(Request { kind, nonce, error: None, ask });
    }

    fn send(&mut self) {
        if !self.bench.session.is_due(self.bench.now) {
            return;
        }
        let Some(response) = self.bench.respond() else { return };
        let names: BTreeSet<&Name> = response.resources.iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), response.resources.len(), "a name twice in one response");
        self.wire.push_back(response);
    }

    fn read(&mut self, nack: bool) {
        let Some(response) = self.wire.pop_front() else { return };
        let (delta, kind) = (self.delta(), response.kind);
        let kept = &mut self.kept[kind as usize];
        kept.nonce = response.nonce;
        let error = nack.then(|| "no".to_owned());
        if !nack {
            kept.version = true;
            if !delta && kind.is_complete() {
                kept.held.clear();
            }
            for (name, resource) in &response.resources {
                if kept.all || kept.wanted.contains(name) {
                    kept.held.insert(name.clone(), resource.version);
                }
            }
            for name in &response.removed {
                kept.held.remove(name);
            }
        }
        let star = kept.all.then(|| "*".to_owned());
        let ask = match delta {
            true => Ask::Change { subscribe: vec![], unsubscribe: vec![], initial: BTreeMap::new() },
            false => Ask::Names {
                names: kept.wanted.iter().map(|name| name.to_string()).chain(star).collect(),
                version_info: String::new(),
            },
        };
        let nonce = super::super::super::wire::nonce(kept.nonce);
        self.bench.ask(Request { kind, nonce, error, ask });
    }

    fn reconnect(&mut self) {
        self.wire.clear();
        self.bench.session = Session::new(self.bench.session.protocol(), false, usize::MAX);
        let delta = self.delta();
        for kind in Kind::ALL {
            let kept = &mut self.kept[kind as usize];
            kept.nonce = 0;
            kept.crossed.clear();
            let names: Vec<String> =
                kept.wanted.iter().map(|name| name.to_string()).chain(kept.all.then(|| "*".to_owned())).collect();
            if !kept.asked || names.is_empty() {
                *kept = Kept::default();
                continue;
            }
            let version_info = if kept.version { "1.1".to_owned() } else { String::new() };
            let initial =
                kept.held.iter().map(|(n, v)| (n.to_string(), super::super::super::wire::resource_version(*v)));
            let ask = match delta {
                true => Ask::Change { subscribe: names, unsubscribe: vec![], initial: initial.collect() },
                false => Ask::Names { names, version_info },
            };
            self.bench.ask(Request { kind, nonce: String::new(), error: None, ask });
        }
    }

    /// Lets everything arrive; returns how many responses it took.
    fn settle(&mut self) -> usize {
        let mut responses = 0;
        loop {
            self.send();
            if self.wire.is_empty() && !self.bench.session.is_due(self.bench.now) {
                return responses;
            }
            responses += self.wire.len();
            assert!(responses < 100, "it never ends");
            while !self.wire.is_empty() {
                self.read(false);
            }
        }
    }

    fn check(&self) {
        for kind in Kind::ALL {
            let kept = &self.kept[kind as usize];
            let wanted = |name: &Name| kept.all || kept.wanted.contains(name);
            let there = self.bench.world.now.iter().filter(|((k, name), _)| *k == kind && wanted(name));
            let mut expected: BTreeMap<Name, u64> = there.map(|((_, name), it)| (name.clone(), it.version)).collect();
            expected.retain(|name, _| !kept.crossed.contains(name) || kept.held.contains_key(name));
            if !self.delta() && !kind.is_complete() {
                // What is gone cannot be told; the client keeps it.
                let mut held = kept.held.clone();
                held.retain(|name, _| expected.contains_key(name));
                assert_eq!(held, expected, "{kind:?}");
                continue;
            }
            assert_eq!(kept.held, std::mem::take(&mut expected), "{kind:?}");
        }
    }
}

#[test]
fn a_client_that_comes_back_hears_that_what_it_named_is_gone() {
    for kind in (0..Kind::COUNT).filter(|kind| Kind::ALL[*kind].is_complete()) {
        let mut client = Client::new(Protocol::StateOfTheWorld);
        let named = BTreeSet::from([2]);
        let before = [Step::Want(kind, named, false), Step::Set(kind, 2, Some(0)), Step::Send, Step::Read(false)];
        before.into_iter().chain([Step::Reconnect, Step::Set(kind, 2, None)]).for_each(|step| client.run(step));
        client.settle();
        client.check();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn a_client_ends_up_with_what_there_is(steps in vec(step(), 0..60), by_delta in any::<bool>()) {
        let mut client = Client::new(if by_delta { Protocol::Delta } else { Protocol::StateOfTheWorld });
        let mut nacked = false;
        for step in steps {
            nacked |= matches!(step, Step::Read(true));
            client.run(step);
        }
        client.bench.now += HOLD;
        client.settle();
        if nacked {
            // What was refused is not told again until it changes, or the client comes back without it.
            client.kept.iter_mut().for_each(|kept| kept.held.clear());
            client.reconnect();
            client.settle();
        }
        client.check();
        prop_assert_eq!(client.settle(), 0, "nothing changed, nothing is told");
        for kind in Kind::ALL {
            for name in NAMES {
                let gone = !client.bench.world.now.contains_key(&(kind, name.into()));
                let untold = !by_delta && !kind.is_complete() && gone;
                let owes = client.bench.session.owes(kind, name, Version(u64::MAX));
                prop_assert!(untold || !owes, "all is acknowledged");
            }
        }
    }
}
