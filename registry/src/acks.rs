//! Who holds what: which watcher was sent which service, and up to which version it acts on what it was sent.
//!
//! Lives here: the table and the rule of a drain; synchronous, `now` an argument. Does not: sending (`views`), marking an instance (`catalog`).
//! Invariants: a watcher holds an instance if what it was last sent lists it, or if it was sent the service before the instance drained and
//! has not acknowledged since; a watcher that is not in the table is not waited for, such as one that cannot acknowledge.
//! Reported by the watch view. xDS answers the same question from its sessions (`views::xds`); `drains` waits for both. A polled view knows nobody,
//! but how long its answers may be used: who asked it for a service before the instance drained is waited for that long.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;
use weft_model::{InstanceId, ServiceName, ServiceSnapshot, Snapshot, Version};

/// A watcher that says nothing for this long while it is waited for no longer counts as live (design.md, 5.5).
pub(crate) const SILENT: Duration = Duration::from_secs(5);

/// A watch, for as long as it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct WatcherId(pub(crate) u64);

#[derive(Debug)]
struct Watcher {
    name: String,
    services: HashMap<ServiceName, Sent>,
    /// Beside these, if it reads everything.
    all: Option<SentAll>,
    /// Highest version sent, and acted on.
    sent: Version,
    acked: Version,
    heard: Instant,
}

#[derive(Debug)]
struct Sent {
    /// Version of the message that carried the service first.
    since: Version,
    latest: Arc<ServiceSnapshot>,
}

#[derive(Debug)]
struct SentAll {
    /// Version of the first message.
    since: Version,
    latest: Arc<Snapshot>,
}

impl Watcher {
    /// What it was sent of a service last, and since when it may have been sent any of it.
    fn sent(&self, service: &ServiceName) -> impl Iterator<Item = (Version, &Arc<ServiceSnapshot>)> {
        let named = self.services.get(service).map(|sent| (sent.since, &sent.latest));
        let all = self.all.as_ref().and_then(|all| Some((all.since, all.latest.services.get(service)?)));
        named.into_iter().chain(all)
    }
}

/// A watcher, for whoever wants to know.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen<'a> {
    pub(crate) name: &'a str,
    pub(crate) sent: Version,
    pub(crate) acked: Version,
    pub(crate) services: usize,
    pub(crate) heard: Instant,
}

/// What every live watcher was sent and has acknowledged.
#[derive(Debug, Default)]
pub(crate) struct Table {
    watchers: HashMap<WatcherId, Watcher>,
    /// Until when what polled views told of a service may be used.
    polled: HashMap<(&'static str, ServiceName), Instant>,
    /// How many of these made the table look for those that are over.
    polled_kept: usize,
}

/// Polled answers that are kept without looking for those that are over.
const POLLED: usize = 64;

impl Table {
    pub(crate) fn open(&mut self, id: WatcherId, name: &str, now: Instant) {
        let (sent, acked) = (Version(0), Version(0));
        let (services, all) = (HashMap::new(), None);
        self.watchers.insert(id, Watcher { name: name.to_owned(), services, all, sent, acked, heard: now });
    }

    pub(crate) fn close(&mut self, id: WatcherId) {
        self.watchers.remove(&id);
    }

    /// A message at `version` carries these services.
    pub(crate) fn sent<'a>(
        &mut self,
        id: WatcherId,
        version: Version,
        services: impl IntoIterator<Item = &'a Arc<ServiceSnapshot>>,
    ) {
        let Some(watcher) = self.watchers.get_mut(&id) else { return };
        for service in services {
            watcher.sent = version;
            match watcher.services.get_mut(&service.name) {
                Some(sent) => sent.latest = service.clone(),
                None => {
                    let sent = Sent { since: version, latest: service.clone() };
                    watcher.services.insert(service.name.clone(), sent);
                }
            }
        }
    }

    /// A message, or the first of several, brings the watcher to this snapshot.
    pub(crate) fn sent_all(&mut self, id: WatcherId, latest: &Arc<Snapshot>) {
        let Some(watcher) = self.watchers.get_mut(&id) else { return };
        watcher.sent = latest.version;
        let since = watcher.all.as_ref().map_or(latest.version, |all| all.since);
        watcher.all = Some(SentAll { since, latest: latest.clone() });
    }

    /// The watcher no longer wants everything, but still these services.
    pub(crate) fn dropped_all(&mut self, id: WatcherId, names: &HashSet<ServiceName>) {
        let Some(watcher) = self.watchers.get_mut(&id) else { return };
        watcher.services.retain(|name, _| names.contains(name));
        let Some(SentAll { since, latest }) = watcher.all.take() else { return };
        for (name, latest) in names.iter().filter_map(|name| latest.services.get_key_value(name)) {
            let known = watcher.services.get(name).map_or(since, |sent| sent.since);
            watcher.services.insert(name.clone(), Sent { since: since.min(known), latest: latest.clone() });
        }
    }

    /// The watcher no longer wants a service.
    pub(crate) fn dropped(&mut self, id: WatcherId, service: &ServiceName) {
        if let Some(watcher) = self.watchers.get_mut(&id) {
            watcher.services.remove(service);
        }
    }

    /// The watcher acts on `version`; one that was never sent counts as the latest that was. Returns whether that is news.
    pub(crate) fn acked(&mut self, id: WatcherId, version: Version, now: Instant) -> bool {
        let Some(watcher) = self.watchers.get_mut(&id) else { return false };
        watcher.heard = now;
        let acked = version.min(watcher.sent);
        let news = acked > watcher.acked;
        watcher.acked = watcher.acked.max(acked);
        news
    }

    /// Everyone who can acknowledge.
    pub(crate) fn all(&self) -> impl Iterator<Item = (WatcherId, Seen<'_>)> {
        self.watchers.iter().map(|(id, w)| {
            let listed = |name: &ServiceName| w.all.as_ref().is_some_and(|all| all.latest.services.contains_key(name));
            let beside = w.services.keys().filter(|name| !listed(name)).count();
            let services = beside + w.all.as_ref().map_or(0, |all| all.latest.services.len());
            let seen = Seen { name: &w.name, sent: w.sent, acked: w.acked, services, heard: w.heard };
            (*id, seen)
        })
    }

    /// A polled view tells what it knows of a service, to be used until then.
    pub(crate) fn told(&mut self, view: &'static str, service: &ServiceName, until: Instant, now: Instant) {
        let held = self.polled.entry((view, service.clone())).or_insert(until);
        *held = until.max(*held);
        if self.polled.len() > self.polled_kept.max(POLLED) {
            self.polled.retain(|_, until| *until > now);
            self.polled_kept = 2 * self.polled.len(); // what is looked at was added before: a constant cost each
        }
    }

    /// Starts waiting for everyone who may still send calls to an instance that is drained as of `version`. Who did and has acknowledged that
    /// version by now is named with them: a keep-alive may have brought the status before the question.
    pub(crate) fn drain(&self, service: &ServiceName, instance: &InstanceId, version: Version, now: Instant) -> Drain {
        let holds = |w: &Watcher| {
            w.sent(service).any(|(since, latest)| {
                let told = latest.version >= version;
                if told { since < version } else { latest.instances.contains_key(instance) }
            })
        };
        let mut held: Vec<(WatcherId, String)> =
            self.watchers.iter().filter(|(_, w)| holds(w)).map(|(id, w)| (*id, w.name.clone())).collect();
        held.sort_by(|(_, a), (_, b)| a.cmp(b));
        let polled = self.polled.iter().filter(|((_, of), until)| of == service && **until > now);
        let mut polled: Vec<_> = polled.map(|((view, _), until)| (*view, *until)).collect();
        polled.sort_unstable();
        Drain { version, began: now, held, polled }
    }
}

/// A drain that waits.
#[derive(Debug)]
pub(crate) struct Drain {
    version: Version,
    began: Instant,
    /// Who held the instance, whether it has acknowledged since or not.
    held: Vec<(WatcherId, String)>,
    /// Views that told of the instance, and until when it may be used.
    polled: Vec<(&'static str, Instant)>,
}

/// Where a drain stands.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Nobody is left to wait for.
    Over,
    /// Somebody is; nothing changes by time alone before this.
    Until(Instant),
}

impl Standing {
    /// When to look again. None: never.
    pub(crate) const fn until(self) -> Option<Instant> {
        match self {
            Self::Over => None,
            Self::Until(at) => Some(at),
        }
    }
}

impl Drain {
    pub(crate) fn standing(&self, table: &Table, now: Instant) -> Standing {
        let silent_at = |w: &Watcher| w.heard.max(self.began) + SILENT;
        let open = self.unacknowledged(table).map(|(_, w)| silent_at(w));
        let open = open.chain(self.polled.iter().map(|(_, until)| *until)).filter(|at| *at > now);
        open.min().map_or(Standing::Over, Standing::Until)
    }

    /// Names of those who held the instance.
    pub(crate) fn waited_for(&self) -> Vec<String> {
        let polled = self.polled.iter().map(|(view, _)| (*view).to_owned());
        self.held.iter().map(|(_, name)| name.clone()).chain(polled).collect()
    }

    /// Names of those who have not acknowledged, silent ones included, and of polled views whose time is not over; one that has gone holds nothing.
    pub(crate) fn waiting(&self, table: &Table, now: Instant) -> Vec<String> {
        let polled = self.polled.iter().filter(|(_, until)| *until > now).map(|(view, _)| *view);
        self.unacknowledged(table).map(|(name, _)| name).chain(polled).map(str::to_owned).collect()
    }

    fn unacknowledged<'a>(&'a self, table: &'a Table) -> impl Iterator<Item = (&'a str, &'a Watcher)> {
        let open = |(id, name): &'a (WatcherId, String)| table.watchers.get(id).map(|w| (name.as_str(), w));
        self.held.iter().filter_map(open).filter(|(_, w)| w.acked < self.version)
    }
}

#[cfg(test)]
mod tests {
    use weft_model::{Endpoint, Epoch, Instance, Locality, Protocol, Status, Transport, Weight};

    use super::*;

    const GATEWAY: WatcherId = WatcherId(1);

    fn id() -> InstanceId {
        InstanceId::from_bytes([7; 16])
    }

    fn users(version: u64, listed: bool) -> Arc<ServiceSnapshot> {
        let mut service = ServiceSnapshot::empty("users".parse().unwrap(), Version(version));
        if listed {
            let endpoint = Endpoint {
                address: "127.0.0.1:1".parse().unwrap(),
                transport: Transport::Plaintext,
                protocol: Protocol::H2,
            };
            let instance = Instance {
                id: id(),
                service: service.name.clone(),
                epoch: Epoch(1),
                endpoint,
                status: Status::Serving,
                reason: String::new(),
                locality: Locality::default(),
                weight: Weight::ONE,
                metadata: Default::default(),
                descriptors: None,
                check: None,
            };
            service.instances.insert(id(), Arc::new(instance));
        }
        Arc::new(service)
    }

    fn drain(table: &Table, version: u64, now: Instant) -> Drain {
        table.drain(&"users".parse().unwrap(), &id(), Version(version), now)
    }

    fn opened(now: Instant) -> Table {
        let mut table = Table::default();
        table.open(GATEWAY, "gateway", now);
        table
    }

    #[test]
    fn a_holder_is_waited_for_until_it_acknowledges() {
        let now = Instant::now();
        let mut table = opened(now);
        table.sent(GATEWAY, Version(3), [&users(3, true)]);
        table.acked(GATEWAY, Version(3), now);
        let drain = drain(&table, 5, now);
        assert_eq!(drain.waited_for(), ["gateway"]);
        assert_eq!(drain.standing(&table, now), Standing::Until(now + SILENT));
        table.sent(GATEWAY, Version(6), [&users(5, true)]);
        assert!(table.acked(GATEWAY, Version(6), now));
        assert_eq!(drain.standing(&table, now), Standing::Over);
        assert_eq!(drain.waiting(&table, now), [] as [String; 0]);
    }

    #[test]
    fn one_that_was_told_but_has_not_acknowledged_still_holds() {
        let now = Instant::now();
        let mut table = opened(now);
        table.sent(GATEWAY, Version(3), [&users(3, true)]);
        table.sent(GATEWAY, Version(5), [&users(5, true)]);
        assert_eq!(drain(&table, 5, now).waited_for(), ["gateway"]);
    }

    #[test]
    fn one_that_acknowledged_before_the_question_is_named_and_not_waited_for() {
        let now = Instant::now();
        let mut table = opened(now);
        table.sent(GATEWAY, Version(3), [&users(3, true)]);
        table.sent(GATEWAY, Version(5), [&users(5, true)]);
        assert!(table.acked(GATEWAY, Version(5), now));
        let drain = drain(&table, 5, now);
        assert_eq!((drain.waited_for(), drain.waiting(&table, now)), (vec!["gateway".to_owned()], vec![]));
        assert_eq!(drain.standing(&table, now), Standing::Over);
    }

    #[test]
    fn who_never_had_the_instance_is_not_waited_for() {
        let now = Instant::now();
        let mut table = opened(now);
        assert_eq!(drain(&table, 5, now).standing(&table, now), Standing::Over, "not subscribed");
        table.sent(GATEWAY, Version(3), [&users(3, false)]);
        assert_eq!(drain(&table, 5, now).standing(&table, now), Standing::Over, "registered and drained since");
        table.dropped(GATEWAY, &"users".parse().unwrap());
        table.sent(GATEWAY, Version(5), [&users(5, true)]);
        assert_eq!(drain(&table, 5, now).standing(&table, now), Standing::Over, "came when it was drained");
    }

    #[test]
    fn a_reader_of_everything_holds_what_the_snapshot_says_that_it_was_sent() {
        let now = Instant::now();
        let mut table = opened(now);
        let all = |version, users: Arc<ServiceSnapshot>| {
            let services = [(users.name.clone(), users)].into_iter().collect();
            Arc::new(Snapshot { version: Version(version), services, ..Snapshot::default() })
        };
        table.sent_all(GATEWAY, &all(3, users(3, true)));
        table.acked(GATEWAY, Version(3), now);
        let begun = drain(&table, 5, now);
        assert_eq!(begun.waited_for(), ["gateway"]);
        table.sent_all(GATEWAY, &all(6, users(5, true)));
        assert_eq!(drain(&table, 5, now).waited_for(), ["gateway"], "told, but not acknowledged");
        assert_eq!(begun.waiting(&table, now), ["gateway"]);
        assert!(table.acked(GATEWAY, Version(6), now));
        assert_eq!(begun.standing(&table, now), Standing::Over);
        table.sent_all(GATEWAY, &all(8, users(8, true)));
        let users: ServiceName = "users".parse().unwrap();
        table.dropped_all(GATEWAY, &HashSet::from([users.clone()]));
        assert_eq!(drain(&table, 9, now).waited_for(), ["gateway"], "it still reads this one");
        table.dropped(GATEWAY, &users);
        assert_eq!(drain(&table, 9, now).standing(&table, now), Standing::Over);
        table.sent(GATEWAY, Version(8), [&self::users(8, true)]);
        table.sent_all(GATEWAY, &all(11, self::users(8, true)));
        table.acked(GATEWAY, Version(8), now);
        table.dropped_all(GATEWAY, &HashSet::from([users.clone()]));
        assert_eq!(drain(&table, 10, now).waited_for(), ["gateway"], "it has had this one since 8");
        table.sent_all(GATEWAY, &all(12, self::users(12, false)));
        table.dropped_all(GATEWAY, &HashSet::new());
        assert_eq!(drain(&table, 10, now).standing(&table, now), Standing::Over);
    }

    #[test]
    fn a_silent_watcher_stops_counting_but_is_named() {
        let now = Instant::now();
        let mut table = opened(now);
        table.sent(GATEWAY, Version(3), [&users(3, true)]);
        let drain = drain(&table, 5, now);
        let late = now + Duration::from_secs(4);
        table.acked(GATEWAY, Version(3), late); // it lives, but lags
        assert_eq!(drain.standing(&table, late), Standing::Until(late + SILENT));
        assert_eq!(drain.standing(&table, late + SILENT), Standing::Over);
        assert_eq!(drain.waiting(&table, late + SILENT), ["gateway"]);
    }

    #[test]
    fn a_watcher_that_leaves_holds_nothing() {
        let now = Instant::now();
        let mut table = opened(now);
        table.sent(GATEWAY, Version(3), [&users(3, true)]);
        let drain = drain(&table, 5, now);
        table.close(GATEWAY);
        assert_eq!((drain.standing(&table, now), drain.waiting(&table, now)), (Standing::Over, vec![]));
    }

    #[test]
    fn who_polled_before_is_waited_for_as_long_as_the_answer_may_be_used() {
        let now = Instant::now();
        let later = |seconds| now + Duration::from_secs(seconds);
        let mut table = Table::default();
        table.told("dns", &"users".parse().unwrap(), later(3), now);
        table.told("dns", &"users".parse().unwrap(), later(2), now);
        table.told("dns", &"posts".parse().unwrap(), later(9), now);
        let drain = drain(&table, 5, later(1));
        table.told("dns", &"users".parse().unwrap(), later(5), later(2)); // that answer was without the instance
        assert_eq!(
            (drain.waited_for(), drain.waiting(&table, later(1))),
            (vec!["dns".to_owned()], vec!["dns".to_owned()])
        );
        assert_eq!(drain.standing(&table, later(2)), Standing::Until(later(3)));
        assert_eq!((drain.standing(&table, later(3)), drain.waiting(&table, later(3))), (Standing::Over, vec![]));
    }

    #[test]
    fn polled_answers_that_are_over_are_forgotten() {
        let now = Instant::now();
        let mut table = Table::default();
        for n in 0..10_000u64 {
            let at = now + Duration::from_secs(n);
            table.told("dns", &format!("s{n}").parse().unwrap(), at + Duration::from_secs(10), at);
        }
        assert!(table.polled.len() <= 2 * POLLED, "{}", table.polled.len());
    }

    #[test]
    fn a_version_that_was_never_sent_cannot_be_acknowledged() {
        let now = Instant::now();
        let mut table = opened(now);
        table.sent(GATEWAY, Version(3), [&users(3, true)]);
        table.acked(GATEWAY, Version(u64::MAX), now);
        assert_eq!(drain(&table, 5, now).waiting(&table, now), ["gateway"]);
    }
}
