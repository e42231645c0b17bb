//! What the registry lists of ours without a process behind it, and taking that out.
//!
//! Lives here: one list, and a word for each instance on it. Does not: knowing which they are (`place`), or when they go (`up`, `director`).

use std::{collections::BTreeMap, time::Duration};

use anyhow::Context as _;
use weft_discovery::{CallError, Registries};
use weft_proto::weft::{
    discovery::v1::{ServiceUpdate, service_update::Body},
    model::v1 as pb,
};

use crate::place::{Listed, Place};

/// How long the registry, which is ready, has for each question.
const ASK: Duration = Duration::from_secs(5);

/// What became of instances that were to be taken out.
#[derive(Debug, Default)]
pub(crate) struct TakenOut {
    /// Slots of those that were listed, and are no more.
    pub(crate) names: Vec<String>,
    /// Those that stay listed, and why.
    pub(crate) kept: Vec<String>,
}

/// Takes instances whose processes are gone out of the registry: until their leases ran out they would be called, and missed. By the epoch that
/// was written down, so that nobody who has taken an id over since is meant. Those that are out are forgotten, whatever becomes of the others.
pub(crate) async fn take_out(
    registries: &Registries,
    place: &Place,
    mut which: Vec<Listed>,
) -> anyhow::Result<TakenOut> {
    let mut out = TakenOut::default();
    if which.is_empty() {
        return Ok(out);
    }
    let list = registries.list(ASK).await?;
    let epochs: BTreeMap<&str, u64> =
        list.services.iter().flat_map(instances).map(|it| (it.id.as_str(), it.epoch)).collect();
    which.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
    let mut gone = Vec::new();
    for it in which {
        if epochs.get(it.id.to_string().as_str()) != Some(&it.epoch.0) {
            gone.push(it.id); // it left by itself, or its id is somebody else's
            continue;
        }
        match registries.deregister(it.id, it.epoch, ASK).await {
            Ok(_) => {
                gone.push(it.id);
                out.names.push(it.name);
            }
            Err(error) => {
                out.kept.push(format!("{}: {error}", it.name));
                if matches!(error, CallError::OutOfReach { .. }) {
                    break; // the others would wait as long
                }
            }
        }
    }
    place.forget(&gone).context("writing run.json")?;
    Ok(out)
}

fn instances(service: &ServiceUpdate) -> &[pb::Instance] {
    match &service.body {
        Some(Body::Full(full)) => &full.instances,
        Some(Body::Delta(_)) | None => &[],
    }
}
