//! Who is told over xDS, what of it they act on, and what they rejected.
//!
//! Lives here: one client's state as weft.discovery.v1 has it, and what CSDS needs. Does not: either service (`views::grpc`, `csds`).
//! One lock for each client: a list of many is no single moment, and holds nobody up.

use std::{collections::BTreeSet, sync::Arc};

use tokio::time::Instant;
use weft_model::Version;
use weft_proto::weft::discovery::v1::{
    self as pb,
    client::Protocol as Speaks,
    subscription::{LeftOut, Rejection, resource::State as Standing},
};

use super::{
    Kind, Protocol, Resource, Xds,
    hub::{Hub, Peer, Stream, StreamId},
    session::{Channel, Name, State, View},
    wire,
};
use crate::access::Sight;

/// Why a resource as such is left out.
const TOO_MUCH: &str =
    "with it the answer would be larger than a gRPC client takes (4 MiB): use fewer targets in one process";
/// Names listed of each sort.
const FIRST: usize = 16;

/// One resource of one client.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) kind: Kind,
    pub(super) name: Name,
    pub(super) now: Option<Arc<Resource>>,
    pub(super) standing: Standing,
    /// Version and words of the client's last refusal of this kind.
    pub(super) rejection: Option<(Version, Arc<str>)>,
}

impl Xds {
    /// Clients by name, all or those of one, as far as somebody may look at them.
    pub(crate) fn clients(&self, name: &str, sight: &Sight) -> Vec<(String, StreamId)> {
        let hub = self.0.hub();
        let seen = hub.streams().iter().filter(|(_, stream)| sight.sees(&stream.peer.identity));
        let named = seen.map(|(id, stream)| (stream.peer.node.clone(), *id));
        let mut named: Vec<_> = named.filter(|(node, _)| name.is_empty() || node == name).collect();
        named.sort();
        named
    }

    /// One client; None if it has gone.
    pub(crate) fn client(&self, id: StreamId, resources: bool) -> Option<pb::Client> {
        let (hub, now) = (self.0.hub(), Instant::now());
        let stream = hub.stream(id)?;
        let Peer { node, cluster, agent, transport, identity } = stream.peer.as_ref().clone();
        let protocol = match stream.session.protocol() {
            Protocol::StateOfTheWorld => Speaks::Xds,
            Protocol::Delta => Speaks::XdsDelta,
        };
        let asked = Kind::ALL.into_iter().filter(|kind| stream.session.channel(*kind).was_asked());
        Some(pb::Client {
            name: node,
            protocol: protocol.into(),
            agent,
            cluster,
            transport: transport.to_owned(),
            identity,
            silent_ms: u64::try_from(now.duration_since(stream.heard).as_millis()).unwrap_or(u64::MAX),
            version: hub.version().0,
            subscriptions: asked.map(|kind| subscription(&hub, id, stream, kind, resources)).collect(),
        })
    }

    /// What one client says of itself, and its resources; None if it has gone.
    pub(super) fn held(&self, id: StreamId) -> Option<(Arc<Peer>, Vec<Held>)> {
        let hub = self.0.hub();
        let stream = hub.stream(id)?;
        let held = Kind::ALL.into_iter().flat_map(|kind| held(&hub, id, stream, kind)).collect();
        Some((stream.peer.clone(), held))
    }
}

fn subscription(hub: &Hub, id: StreamId, stream: &Stream, kind: Kind, resources: bool) -> pb::Subscription {
    let channel = stream.session.channel(kind);
    let held = held(hub, id, stream, kind);
    let missing = held.iter().filter(|it| it.standing == Standing::Missing && channel.named().contains(&it.name));
    let left_out = held.iter().flat_map(|it| {
        it.now.iter().flat_map(|now| &now.left_out).map(move |left| LeftOut {
            resource: it.name.to_string(),
            endpoints: u32::try_from(left.endpoints).unwrap_or(u32::MAX),
            why: left.why.to_owned(),
        })
    });
    let too_much = channel.too_much().iter().map(|name| LeftOut {
        resource: name.to_string(),
        endpoints: 0,
        why: TOO_MUCH.to_owned(),
    });
    let rejection = channel.rejected().map(|it| Rejection {
        version: it.version.0,
        error: it.error.to_string(),
        resources: it.names().take(FIRST).map(|name| name.to_string()).collect(),
    });
    pb::Subscription {
        kind: kind.name().to_owned(),
        wildcard: channel.is_wildcard(),
        count: u32::try_from(held.len()).unwrap_or(u32::MAX),
        sent: channel.sent().map_or(0, |it| it.0),
        acknowledged: channel.acked().map_or(0, |it| it.0),
        settled: channel.is_settled(),
        missing: missing.take(FIRST).map(|it| it.name.to_string()).collect(),
        rejection,
        left_out: left_out.chain(too_much.take(FIRST)).collect(),
        resources: if resources { held.iter().map(to_wire).collect() } else { Vec::new() },
    }
}

fn held(hub: &Hub, id: StreamId, stream: &Stream, kind: Kind) -> Vec<Held> {
    let channel = stream.session.channel(kind);
    let Some(seen) = hub.seen(id) else { return Vec::new() };
    let mut names: BTreeSet<Name> = channel.named().clone();
    if channel.is_wildcard() {
        names.extend(seen.all(kind));
    }
    let rejection = channel.rejected().map(|it| (it.version, it.error.clone()));
    let of = |name: Name| {
        let now = seen.find(kind, &name).now;
        let standing = standing(channel, &name, now.as_deref());
        Held { kind, name, now, standing, rejection: rejection.clone() }
    };
    names.into_iter().map(of).collect()
}

fn standing(channel: &Channel, name: &Name, now: Option<&Resource>) -> Standing {
    let Some(now) = now else { return Standing::Missing };
    match channel.told().get(name).filter(|told| told.version == now.version).map(|told| told.state) {
        Some(State::Acked) => Standing::Acknowledged,
        Some(State::Rejected) => Standing::Rejected,
        Some(State::Sent) | None => Standing::Waiting,
    }
}

fn to_wire(it: &Held) -> pb::subscription::Resource {
    pb::subscription::Resource {
        name: it.name.to_string(),
        version: it.now.as_ref().map(|now| wire::resource_version(now.version)).unwrap_or_default(),
        state: it.standing.into(),
    }
}
