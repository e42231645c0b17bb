//! One run: which group is asked when, and what is left out because another check has taken its ground away.
//!
//! Lives here: the order, and the bound on the whole. Does not: any check.
//! ```text
//! find (2 s) ─► registry (7 s) ∥ gateway (3 s) ─► sidecars (2 s) ─► path (probe 3 s, once more for those lost, counters 2 s)
//! ```
//! Those are the times of one question; where many are asked and do not answer, it is `LIMIT` that ends the run.

use std::{cmp::Ordering, path::Path, time::Duration};

use tokio::time::Instant;

use crate::{
    clocks, gateway, identity, ids, machine, path, policies, registry,
    report::{Outcome, Report, Status},
    services,
    target::{Args, Mesh, NoTarget, Origin},
};

/// Time for the whole run, but for the registry's last word: nothing is asked later, and what was not asked is skipped.
const LIMIT: Duration = Duration::from_secs(9);

/// Checks the mesh that `args` mean; `dir` is the working directory. `gateways_file` says what is wrong with such a file. Tells `progress` what is
/// looked at. An error means that there is nothing to check.
pub async fn run(
    args: &Args,
    dir: &Path,
    gateways_file: impl Fn(&Path) -> Result<(), String>,
    progress: impl Fn(&str),
) -> Result<Report, NoTarget> {
    let end = Instant::now() + LIMIT;
    progress("finding the mesh");
    let mesh = Mesh::find(args, dir).await?;
    let mut outcomes = machine::check(&mesh, gateways_file);
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
                    Some(identity) => identity::certificates(&mesh, identity, list, end).await,
                    None => Vec::new(),
                }
            };
            let (found, certificates) = tokio::join!(services::check(&mesh, list, claims, end), certificates);
            outcomes.extend(certificates);
            told.extend(found.told);
            let probed = match gateway.ready {
                None => vec![ids::PROBE.skipped("", "no gateway takes calls")],
                Some(gateway) => {
                    progress("sending probes");
                    let sidecars = &found.sidecars;
                    let ground = path::Ground { mesh: &mesh, registries, list, sidecars, gateway, end };
                    path::check(ground).await
                }
            };
            outcomes.extend(unless_said_better(found.outcomes, &probed));
            outcomes.extend(policies::check(&mesh, list, claims));
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

/// Keeps of several words of one check on one subject the worst, each once: a port that another process holds may be found twice, by the
/// file and by whoever wanted an answer there.
fn one_word(outcomes: Vec<Outcome>) -> Vec<Outcome> {
    let mut kept: Vec<Outcome> = Vec::with_capacity(outcomes.len());
    for outcome in outcomes {
        let same = |it: &Outcome| it.id == outcome.id && it.subject == outcome.subject;
        let worst = kept.iter().filter(|it| same(it)).map(|it| badness(it.status)).max();
        match worst.map(|worst| badness(outcome.status).cmp(&worst)) {
            Some(Ordering::Less) => continue,
            Some(Ordering::Equal) if kept.contains(&outcome) => continue,
            Some(Ordering::Equal) | None => {}
            Some(Ordering::Greater) => kept.retain(|it| !same(it)),
        }
        kept.push(outcome);
    }
    kept
}

/// What was looked at says more than what was not.
const fn badness(status: Status) -> u8 {
    match status {
        Status::Skipped => 0,
        Status::Ok => 1,
        Status::Warning => 2,
        Status::Failed => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_words_on_one_subject_the_worst_are_kept_each_once() {
        let (ok, taken) = (ids::PORTS.ok("gateway", ""), ids::PORTS.failed("gateway", "held by nc"));
        assert_eq!(one_word(vec![ok.clone(), taken.clone(), taken.clone(), ok]), [taken]);
        let (skipped, well) = (ids::APP.skipped("users-1", "it is leaving"), ids::APP.ok("users-1", ""));
        assert_eq!(one_word(vec![skipped, well.clone()]), [well]);
        let notices = [ids::EXPIRY.warning("", "users"), ids::EXPIRY.warning("", "posts")];
        assert_eq!(one_word(notices.to_vec()), notices);
    }
}
