//! A reader of a watch as the proto describes it, and nothing more: what it holds is what messages said.
//!
//! Lives here: applying full answers and deltas, comparing with the truth. Does not: `weft-discovery`, whose smoothing over reconnects would
//! hide what is looked for here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::OrdMap;
use weft_model::{Instance, InstanceId, ServiceInfo, ServiceName, ServiceSnapshot};
use weft_proto::weft::discovery::v1::{Delta, ServiceUpdate, WatchResponse, removed::Reason, service_update::Body};

/// What one connection's messages said.
#[derive(Debug, Default)]
pub(super) struct Client {
    services: BTreeMap<ServiceName, Held>,
    directory: Option<BTreeMap<ServiceName, ServiceInfo>>,
}

#[derive(Debug, Clone, PartialEq)]
struct Held {
    /// Its version, as it was said last.
    at: u64,
    instances: BTreeMap<InstanceId, Instance>,
    info: ServiceInfo,
    authoritative: bool,
}

impl Client {
    /// Applies one message and returns the services it carried. An error is a broken promise.
    pub(super) fn apply(&mut self, message: WatchResponse) -> Result<BTreeSet<ServiceName>, String> {
        let mut touched = BTreeSet::new();
        for update in message.services {
            let name: ServiceName = update.name.parse().map_err(|e| format!("{e}"))?;
            let held = self.services.remove(&name);
            let next = next(held.as_ref(), update).map_err(|e| format!("{name}: {e}"))?;
            if held.is_some_and(|held| Held { at: next.at, ..held } == next) {
                return Err(format!("{name} was told, but nothing of it had changed"));
            }
            self.services.insert(name.clone(), next);
            if !touched.insert(name.clone()) {
                return Err(format!("{name} comes twice in one message"));
            }
        }
        if let Some(directory) = message.directory {
            let entry = |e: weft_proto::weft::discovery::v1::directory::Entry| {
                let name = e.name.parse().map_err(|e| format!("{e}"))?;
                let info = e.info.unwrap_or_default().try_into().map_err(|e: weft_model::Invalid| e.to_string())?;
                Ok::<_, String>((name, info))
            };
            self.directory = Some(directory.services.into_iter().map(entry).collect::<Result<_, _>>()?);
        }
        Ok(touched)
    }

    /// Forgets what is no longer subscribed.
    pub(super) fn keep_only(&mut self, wanted: impl Fn(&ServiceName) -> bool, directory: bool) {
        self.services.retain(|name, _| wanted(name));
        self.directory = self.directory.take().filter(|_| directory);
    }

    pub(super) fn services(&self) -> impl Iterator<Item = &ServiceName> {
        self.services.keys()
    }

    /// Whether what it holds of a service is the truth.
    pub(super) fn holds(&self, name: &ServiceName, truth: Option<&Arc<ServiceSnapshot>>) -> Result<(), String> {
        let held = self.services.get(name).ok_or("nothing was said about it")?;
        let Some(truth) = truth else {
            return if held.instances.is_empty() { Ok(()) } else { Err("held, but not listed".into()) };
        };
        let listed = truth.instances.values().map(AsRef::as_ref);
        if !held.instances.values().eq(listed) {
            let ids = |i: &Instance| format!("{} {} {}", i.id, i.epoch, i.status);
            let (have, want): (Vec<_>, Vec<_>) =
                (held.instances.values().map(ids).collect(), truth.instances.values().map(|i| ids(i)).collect());
            return Err(format!("holds {have:#?}, listed are {want:#?}"));
        }
        if held.info != *truth.info || held.authoritative != truth.authoritative {
            return Err("its facts differ".into());
        }
        Ok(())
    }

    /// Whether its directory is the truth, when it is subscribed.
    pub(super) fn knows_directory(&self, truth: Option<&OrdMap<ServiceName, Arc<ServiceInfo>>>) -> Result<(), String> {
        let Some(truth) = truth else { return Ok(()) };
        let held = self.directory.as_ref().ok_or("the directory was subscribed and never came")?;
        let same = held.iter().eq(truth.iter().map(|(name, info)| (name, info.as_ref())));
        if same { Ok(()) } else { Err("the directory differs".into()) }
    }
}

fn next(held: Option<&Held>, update: ServiceUpdate) -> Result<Held, String> {
    let info = update.info.map(ServiceInfo::try_from).transpose().map_err(|e| e.to_string())?;
    let (authoritative, version) = (update.authoritative, update.version);
    match update.body.ok_or("no body")? {
        Body::Full(full) => {
            let instances = full.instances.into_iter().map(parse).collect::<Result<_, _>>()?;
            Ok(Held { at: version, instances, info: info.ok_or("a full answer has facts")?, authoritative })
        }
        Body::Delta(delta) => {
            let held = held.ok_or("a delta without a full answer before it")?;
            if held.at != update.base {
                return Err(format!("a delta on {}, but it was last told at {}", update.base, held.at));
            }
            let mut next = Held { at: version, authoritative, ..held.clone() };
            next.info = info.unwrap_or(next.info);
            change(&mut next.instances, delta)?;
            Ok(next)
        }
    }
}

fn change(instances: &mut BTreeMap<InstanceId, Instance>, delta: Delta) -> Result<(), String> {
    for removed in delta.removed {
        if removed.why() == Reason::Unspecified {
            return Err(format!("{} went without a reason", removed.id));
        }
        let id: InstanceId = removed.id.parse().map_err(|e| format!("{e}"))?;
        instances.remove(&id).ok_or_else(|| format!("{id} went, but was not there"))?;
    }
    for instance in delta.upserted {
        let (id, instance) = parse(instance)?;
        instances.insert(id, instance);
    }
    Ok(())
}

fn parse(it: weft_proto::weft::model::v1::Instance) -> Result<(InstanceId, Instance), String> {
    let instance = Instance::try_from(it).map_err(|e| e.to_string())?;
    Ok((instance.id, instance))
}
