//! Clocks and versions: facts that every process tells and that should agree.
//!
//! Lives here: both judgements. Does not: collecting the facts (the groups).

use crate::{ids, report::Outcome, text::counted};

/// A `Date` is cut to whole seconds and made at most once a second: below this nothing can be told for sure.
const GRAIN: i64 = 5;
/// From here on certificates are refused: they are backdated by a minute (`SKEW` of the registry's authority).
const REFUSED: i64 = 60;

/// What one process told of itself.
#[derive(Debug, Clone, Default)]
pub(crate) struct Told {
    pub(crate) who: String,
    /// Its clock less ours, in seconds.
    pub(crate) ahead: Option<i64>,
    pub(crate) version: Option<String>,
}

/// Judges all clocks together: if every one differs from ours alike, ours is the one that is off.
pub(crate) fn agree(told: &[Told]) -> Vec<Outcome> {
    let clocks: Vec<(&str, i64)> = told.iter().filter_map(|it| Some((it.who.as_str(), it.ahead?))).collect();
    let off: Vec<_> = clocks.iter().filter(|(_, ahead)| ahead.abs() > GRAIN).collect();
    let (low, high) = clocks.iter().fold((i64::MAX, i64::MIN), |(low, high), (_, it)| (low.min(*it), high.max(*it)));
    match clocks.len() {
        0 => vec![ids::CLOCKS.skipped("", "nobody told the time")],
        all if off.is_empty() => {
            vec![ids::CLOCKS.ok("", format!("{}, to {GRAIN} s", counted(all, "process", "processes")))]
        }
        2.. if off.len() == clocks.len() && high - low <= GRAIN => {
            vec![judge("this machine", -low, "the mesh's")]
        }
        _ => off.into_iter().map(|(who, ahead)| judge(who, *ahead, "this machine's")).collect(),
    }
}

fn judge(who: &str, ahead: i64, than: &str) -> Outcome {
    let way = if ahead > 0 { "ahead of" } else { "behind" };
    let detail = format!("{} s {way} {than} clock", ahead.abs());
    if ahead.abs() > REFUSED { ids::CLOCKS.failed(who, detail) } else { ids::CLOCKS.warning(who, detail) }
}

/// Judges all versions against that of this program.
pub(crate) fn one_version(told: &[Told]) -> Vec<Outcome> {
    let ours = env!("CARGO_PKG_VERSION");
    let versions: Vec<(&str, &str)> =
        told.iter().filter_map(|it| Some((it.who.as_str(), it.version.as_deref()?))).collect();
    let others = versions.iter().filter(|(_, version)| *version != ours);
    let others: Vec<_> = others
        .map(|(who, version)| ids::VERSIONS.warning(*who, format!("is {version}, this program is {ours}")))
        .collect();
    match (versions.is_empty(), others.is_empty()) {
        (true, _) => vec![ids::VERSIONS.skipped("", "nobody told its version")],
        (false, true) => vec![ids::VERSIONS.ok("", ours)],
        (false, false) => others,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Status;

    fn told(clocks: &[(&str, i64)]) -> Vec<(String, Status)> {
        let told: Vec<_> =
            clocks.iter().map(|(who, ahead)| Told { who: (*who).into(), ahead: Some(*ahead), version: None }).collect();
        agree(&told).into_iter().map(|it| (it.subject, it.status)).collect()
    }

    #[test]
    fn a_clock_within_the_grain_is_right_and_beyond_a_minute_it_is_a_failure() {
        assert_eq!(told(&[("registry", -2), ("gateway", 5)]), [(String::new(), Status::Ok)]);
        assert_eq!(told(&[("registry", 6), ("gateway", 0)]), [("registry".into(), Status::Warning)]);
        assert_eq!(told(&[("registry", -61), ("gateway", 0)]), [("registry".into(), Status::Failed)]);
        assert_eq!(told(&[]), [(String::new(), Status::Skipped)]);
    }

    #[test]
    fn if_all_differ_alike_ours_is_off() {
        assert_eq!(
            told(&[("registry", 90), ("gateway", 89), ("users-1", 90)]),
            [("this machine".into(), Status::Failed)]
        );
        assert_eq!(told(&[("registry", 90)]), [("registry".into(), Status::Failed)], "of two nobody can tell");
    }

    #[test]
    fn another_version_is_named() {
        let of = |who: &str, version: &str| Told { who: who.into(), ahead: None, version: Some(version.into()) };
        let ours = env!("CARGO_PKG_VERSION");
        assert_eq!(one_version(&[of("registry", ours)])[0].status, Status::Ok);
        let mixed = one_version(&[of("registry", ours), of("gateway", "0.0.1")]);
        assert_eq!((mixed.len(), mixed[0].subject.as_str(), mixed[0].status), (1, "gateway", Status::Warning));
    }
}
