//! The leases of one process: what their owners want, what the registry granted, which beats are under way.
//!
//! Lives here: the rules of a lease's life. Does not: the stream, time, calls.
//! ```text
//! Wanted ──asked──► Asked ──granted──► Held ──UNKNOWN──► Wanted
//!    ▲                │ failed           │ FENCED ► Fenced   REVOKED ► Revoked
//!    └────────────────┘                  └ the owner lets go ► gone from the table
//! ```
//! Invariants: a verdict counts only for the epoch whose beat it answers. A verdict on an older lease of ours, still on its way when a
//! new one was granted, would otherwise fence ourselves. An id is asked for by one registration at a time, and an answer counts only
//! for what is still held as it was asked for: of two on their way, the later one need not be the last to arrive.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use tokio::sync::watch;
use weft_model::{Epoch, Instance, InstanceId, Status};
use weft_proto::weft::registry::v1::{self as pb, verdict::Outcome};

use super::LeaseState;

/// All leases of a process.
#[derive(Debug, Default)]
pub(crate) struct Table {
    leases: BTreeMap<InstanceId, Entry>,
    /// Registrations that have no answer yet, also of ids that were let go or are held anew since.
    asked: BTreeSet<InstanceId>,
    /// Epochs of the beats sent and not yet answered, request by request: verdicts come in the order of the beats.
    under_way: VecDeque<Vec<(InstanceId, Epoch)>>,
    /// Something that the registry should hear at once.
    urgent: bool,
}

#[derive(Debug)]
struct Entry {
    instance: Instance,
    phase: Phase,
    state: watch::Sender<LeaseState>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Wanted,
    Asked,
    Held(Epoch),
    /// Fenced, revoked or refused: nothing is sent any more.
    Over,
}

impl Table {
    /// Takes a lease in; its owner learns the state from the receiver.
    pub(crate) fn hold(&mut self, instance: Instance) -> watch::Receiver<LeaseState> {
        let (state, seen) = watch::channel(LeaseState::Registering { failure: None });
        self.leases.insert(instance.id, Entry { instance, phase: Phase::Wanted, state });
        self.urgent = true;
        seen
    }

    /// Changes the status of an instance; the next beat carries it and goes out at once.
    pub(crate) fn report(&mut self, id: InstanceId, status: Status, reason: &str) {
        let Some(entry) = self.leases.get_mut(&id) else { return };
        if entry.instance.status != status || entry.instance.reason != reason {
            entry.instance.status = status;
            reason.clone_into(&mut entry.instance.reason);
            self.urgent = true;
        }
    }

    /// Forgets a lease: it is renewed no more.
    pub(crate) fn release(&mut self, id: InstanceId) {
        self.leases.remove(&id);
    }

    pub(crate) fn epoch(&self, id: InstanceId) -> Option<Epoch> {
        match self.leases.get(&id)?.phase {
            Phase::Held(epoch) => Some(epoch),
            Phase::Wanted | Phase::Asked | Phase::Over => None,
        }
    }

    /// Whether a registration of what is held has no answer yet.
    pub(crate) fn is_asked(&self, id: InstanceId) -> bool {
        self.leases.get(&id).is_some_and(|entry| entry.phase == Phase::Asked)
    }

    /// Returns what has to be registered, each once until it is answered.
    pub(crate) fn take_wanted(&mut self) -> Vec<Instance> {
        let wanted = self.leases.values_mut().filter(|entry| entry.phase == Phase::Wanted);
        wanted
            .filter(|entry| self.asked.insert(entry.instance.id))
            .map(|entry| {
                entry.phase = Phase::Asked;
                entry.instance.clone()
            })
            .collect()
    }

    /// Takes the answer to a registration; none if nobody waits for this one any more.
    fn answered(&mut self, id: InstanceId) -> Option<&mut Entry> {
        self.asked.remove(&id);
        self.leases.get_mut(&id).filter(|entry| entry.phase == Phase::Asked)
    }

    pub(crate) fn granted(&mut self, id: InstanceId, epoch: Epoch) {
        let Some(entry) = self.answered(id) else { return };
        entry.phase = Phase::Held(epoch);
        entry.state.send_replace(LeaseState::Held { epoch });
        self.urgent = true; // the first beat binds the lease to our stream, and carries what changed while we asked
    }

    /// The registry could not be asked; it will be asked again.
    pub(crate) fn failed(&mut self, id: InstanceId, failure: String) {
        let Some(entry) = self.answered(id) else { return };
        entry.phase = Phase::Wanted;
        entry.state.send_replace(LeaseState::Registering { failure: Some(failure) });
    }

    /// The registry said no for good.
    pub(crate) fn denied(&mut self, id: InstanceId, state: LeaseState) {
        if let Some(entry) = self.answered(id) {
            entry.end(state);
        }
    }

    /// The stream is gone: no answer will come to what was under way.
    pub(crate) fn disconnected(&mut self) {
        self.under_way.clear();
        self.asked.clear();
        for entry in self.leases.values_mut().filter(|entry| entry.phase == Phase::Asked) {
            entry.phase = Phase::Wanted;
        }
        self.urgent = true;
    }

    /// Beats go by another stream from now on, and no answer will come to those under way. Registrations are not on a stream.
    pub(crate) fn moved(&mut self) {
        self.under_way.clear();
    }

    /// Whether beats should go out now and not at their time. Asking resets.
    pub(crate) fn take_urgent(&mut self) -> bool {
        std::mem::take(&mut self.urgent)
    }

    /// Whether beats were sent whose answer is due.
    pub(crate) fn is_waiting(&self) -> bool {
        self.under_way.iter().any(|beats| !beats.is_empty())
    }

    /// Returns one beat for each lease held; they count as sent.
    pub(crate) fn beats(&mut self) -> pb::KeepAliveRequest {
        let mut sent = Vec::new();
        let mut beats = Vec::new();
        for (id, entry) in &self.leases {
            if let Phase::Held(epoch) = entry.phase {
                let status = weft_proto::weft::model::v1::Status::from(entry.instance.status).into();
                beats.push(pb::Beat {
                    id: id.to_string(),
                    epoch: epoch.0,
                    status,
                    reason: entry.instance.reason.clone(),
                });
                sent.push((*id, epoch));
            }
        }
        self.under_way.push_back(sent);
        pb::KeepAliveRequest { beats }
    }

    /// Takes the answer to the oldest request under way. A request without beats may be answered or not.
    pub(crate) fn verdicts(&mut self, verdicts: &[pb::Verdict]) {
        while self.under_way.front().is_some_and(Vec::is_empty) {
            self.under_way.pop_front();
        }
        if verdicts.is_empty() {
            return;
        }
        let beats = self.under_way.pop_front().unwrap_or_default();
        for verdict in verdicts {
            let Ok(id) = verdict.id.parse::<InstanceId>() else { continue };
            let Some((_, epoch)) = beats.iter().find(|(beat, _)| *beat == id) else { continue };
            self.verdict(id, *epoch, verdict);
        }
    }

    fn verdict(&mut self, id: InstanceId, epoch: Epoch, verdict: &pb::Verdict) {
        let Some(entry) = self.leases.get_mut(&id).filter(|entry| entry.phase == Phase::Held(epoch)) else { return };
        let reason = verdict.reason.clone();
        match verdict.outcome() {
            Outcome::Renewed => {}
            Outcome::Unknown | Outcome::Unspecified => {
                entry.phase = Phase::Wanted;
                entry.state.send_replace(LeaseState::Registering { failure: Some(reason) });
                self.urgent = true;
            }
            Outcome::Fenced => entry.end(LeaseState::Fenced { reason }),
            Outcome::Revoked => entry.end(LeaseState::Revoked { reason }),
        }
    }
}

impl Entry {
    /// The lease is over for good.
    fn end(&mut self, state: LeaseState) {
        self.phase = Phase::Over;
        self.state.send_replace(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance() -> Instance {
        Instance {
            id: "0197a1b2-0000-7000-8000-000000000001".parse().unwrap(),
            service: "users".parse().unwrap(),
            epoch: Epoch::default(),
            endpoint: weft_model::Endpoint {
                address: "127.0.0.1:7300".parse().unwrap(),
                transport: weft_model::Transport::Plaintext,
                protocol: weft_model::Protocol::H2,
            },
            status: Status::Serving,
            reason: String::new(),
            locality: weft_model::Locality::default(),
            weight: weft_model::Weight::ONE,
            metadata: Default::default(),
            descriptors: None,
            check: None,
        }
    }

    fn answer(outcome: Outcome) -> Vec<pb::Verdict> {
        vec![pb::Verdict { id: instance().id.to_string(), outcome: outcome.into(), reason: "because".into() }]
    }

    fn held(epoch: u64) -> (Table, watch::Receiver<LeaseState>) {
        let mut table = Table::default();
        let state = table.hold(instance());
        assert_eq!(table.take_wanted().len(), 1);
        table.granted(instance().id, Epoch(epoch));
        (table, state)
    }

    #[test]
    fn an_instance_is_asked_for_once_until_it_is_answered() {
        let mut table = Table::default();
        let _state = table.hold(instance());
        assert_eq!(table.take_wanted().len(), 1);
        assert_eq!(table.take_wanted().len(), 0);
        table.failed(instance().id, "away".into());
        assert_eq!(table.take_wanted().len(), 1);
    }

    #[test]
    fn an_id_held_anew_is_asked_for_again_only_after_the_answer_to_the_first() {
        let mut table = Table::default();
        let _old = table.hold(instance());
        assert_eq!(table.take_wanted().len(), 1);
        table.release(instance().id);
        let state = table.hold(Instance { descriptors: Some(weft_model::Digest([7; 32])), ..instance() });
        assert_eq!(table.take_wanted(), [], "two on their way could be carried out in either order");
        table.granted(instance().id, Epoch(1));
        assert_eq!(
            *state.borrow(),
            LeaseState::Registering { failure: None },
            "the answer was to what is held no more"
        );
        assert_eq!(table.take_wanted()[0].descriptors, Some(weft_model::Digest([7; 32])));
        table.granted(instance().id, Epoch(2));
        assert_eq!(*state.borrow(), LeaseState::Held { epoch: Epoch(2) });
    }

    #[test]
    fn an_unknown_lease_is_registered_again_with_the_latest_status() {
        let (mut table, _state) = held(1);
        table.beats();
        table.report(instance().id, Status::NotServing, "ill");
        table.verdicts(&answer(Outcome::Unknown));
        assert_eq!(table.beats().beats, []);
        let again = table.take_wanted();
        assert_eq!((again[0].id, again[0].status), (instance().id, Status::NotServing));
    }

    #[test]
    fn a_verdict_on_an_older_lease_of_ours_does_not_fence_us() {
        let (mut table, state) = held(1);
        table.beats();
        table.beats();
        table.verdicts(&answer(Outcome::Unknown));
        assert_eq!(table.take_wanted().len(), 1);
        table.granted(instance().id, Epoch(2));
        table.verdicts(&answer(Outcome::Fenced));
        assert_eq!(*state.borrow(), LeaseState::Held { epoch: Epoch(2) });
    }

    #[test]
    fn a_fenced_or_revoked_lease_beats_no_more() {
        for (outcome, expected) in [
            (Outcome::Fenced, LeaseState::Fenced { reason: "because".into() }),
            (Outcome::Revoked, LeaseState::Revoked { reason: "because".into() }),
        ] {
            let (mut table, state) = held(1);
            table.beats();
            table.verdicts(&answer(outcome));
            assert_eq!(*state.borrow(), expected);
            assert_eq!((table.beats().beats.len(), table.take_wanted().len()), (0, 0));
        }
    }

    #[test]
    fn after_a_lost_stream_the_same_epoch_beats_on() {
        let (mut table, _state) = held(7);
        table.beats();
        table.disconnected();
        assert!(!table.is_waiting());
        assert_eq!(table.take_wanted().len(), 0);
        assert_eq!(table.beats().beats[0].epoch, 7);
    }

    #[test]
    fn a_stream_that_is_moved_to_owes_no_answer_to_the_beats_of_the_old_one() {
        let (mut table, state) = held(7);
        table.beats();
        table.moved();
        assert!(!table.is_waiting());
        table.beats();
        table.verdicts(&answer(Outcome::Renewed));
        assert!(!table.is_waiting());
        assert_eq!(*state.borrow(), LeaseState::Held { epoch: Epoch(7) });
    }

    #[test]
    fn a_request_without_beats_may_be_answered_or_not() {
        for answered in [true, false] {
            let mut table = Table::default();
            let state = table.hold(instance());
            table.beats();
            assert!(!table.is_waiting());
            let _ = table.take_wanted();
            table.granted(instance().id, Epoch(1));
            table.beats();
            if answered {
                table.verdicts(&[]);
            }
            assert!(table.is_waiting());
            table.verdicts(&answer(Outcome::Fenced));
            assert_eq!(*state.borrow(), LeaseState::Fenced { reason: "because".into() });
        }
    }

    #[test]
    fn only_a_change_of_status_is_urgent() {
        let (mut table, _state) = held(1);
        assert!(table.take_urgent());
        table.report(instance().id, Status::Serving, "");
        assert!(!table.take_urgent());
        table.report(instance().id, Status::Crashed, "exit code 1");
        assert!(table.take_urgent());
    }
}
