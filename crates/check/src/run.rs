//! One run: which group is asked when, and what is left out because another check has taken its ground away.
//!
//! Lives here: the order, and the bound on the whole. Does not: any check.
//! ```text
//! find (2 s) ─► registry ∥ gateway (3 s) ─► sidecars (2 s) ─► path (probe 3 s, once more for those lost, counters 2 s)
//! ```

use std::path::Path;

use crate::{
    clocks, gateway, identity, ids, machine, path, policies, registry,
    report::{Outcome, Report},
    services,
    target::{Args, Mesh, NoTarget, Origin},
};

/// Checks the mesh that `args` mean; `dir` is the working directory. Tells `progress` what is looked at. An error means that there is nothing to check.
pub async fn run(args: &Args, dir: &Path, progress: impl Fn(&str)) -> Result<Report, NoTarget> {
    progress("finding the mesh");
    let mesh = Mesh::find(args, dir).await?;
    let mut outcomes = machine::check(&mesh);
    if matches!(mesh.origin, Origin::File { .. }) {
        let nothing = [&ids::REGISTRY, &ids::INSTANCES, &ids::GATEWAY, &ids::PROBE];
        outcomes.extend(nothing.map(|it| it.skipped("", "no mesh runs")));
        return Ok(Report::of(outcomes));
    }
    progress("asking registry and gateway");
    let (registry, gateway) = tokio::join!(registry::check(&mesh), gateway::check(&mesh));
    outcomes.extend(registry.outcomes);
    outcomes.extend(gateway.outcomes);
    let mut told = registry.told;
    told.extend(gateway.told);
    match &registry.known {
        None => {
            outcomes.push(ids::INSTANCES.skipped("", "the registry does not answer"));
            outcomes.push(ids::PROBE.skipped("", "the registry does not answer"));
        }
        Some(registry::Known { registries, identity, list, claims }) => {
            progress("asking the sidecars");
            let certificates = async {
                match identity {
                    Some(identity) => identity::certificates(identity, list).await,
                    None => Vec::new(),
                }
            };
            let (found, certificates) = tokio::join!(services::check(&mesh, list, claims), certificates);
            outcomes.extend(certificates);
            told.extend(found.told);
            let probed = match gateway.ready {
                None => vec![ids::PROBE.skipped("", "no gateway takes calls")],
                Some(gateway) => {
                    progress("sending probes");
                    let ground = path::Ground { mesh: &mesh, registries, list, sidecars: &found.sidecars, gateway };
                    path::check(ground).await
                }
            };
            outcomes.extend(unless_said_better(found.outcomes, &probed));
            outcomes.extend(policies::check(&mesh, list));
            outcomes.extend(probed);
        }
    }
    outcomes.extend(clocks::agree(&told));
    outcomes.extend(clocks::one_version(&told));
    Ok(Report::of(one_word(outcomes)))
}

/// Leaves out what was said of an app's status where its probe says it better.
fn unless_said_better(outcomes: Vec<Outcome>, probed: &[Outcome]) -> Vec<Outcome> {
    let better = |it: &Outcome| {
        let of_app = [ids::APP.id, ids::CRASH.id, ids::SIDECAR.id];
        it.id == ids::APP.id && probed.iter().any(|by| of_app.contains(&by.id) && by.subject == it.subject)
    };
    outcomes.into_iter().filter(|it| !better(it)).collect()
}

/// A port that another process holds may be found twice: by the file, and by whoever wanted an answer there.
fn one_word(outcomes: Vec<Outcome>) -> Vec<Outcome> {
    let mut once: Vec<Outcome> = Vec::with_capacity(outcomes.len());
    for outcome in outcomes {
        let same = |it: &Outcome| it.id == outcome.id && it.subject == outcome.subject;
        if !once.iter().any(same) {
            once.push(outcome);
        }
    }
    once
}
