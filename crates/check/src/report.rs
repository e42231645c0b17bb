//! What came of a run: outcomes in the order of the table, and whether all is well.
//!
//! Lives here: the values, as programs read them. Does not: how a person reads them (`text`).

use serde::Serialize;

use crate::ids::{Group, Id};

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// All is well.
    Ok,
    /// It works, but somebody should look at it.
    Warning,
    /// It does not work.
    Failed,
    /// Not looked at: another failure took its ground away, or nobody said where.
    Skipped,
}

/// One check of one subject.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// `WEFT0107`.
    pub id: &'static str,
    /// What kind of thing was looked at.
    pub group: Group,
    /// What is so when all is well.
    pub title: &'static str,
    /// How it came out.
    pub status: Status,
    /// Who or what was looked at; may be empty.
    pub subject: String,
    /// What was found; may be empty.
    pub detail: String,
    /// What to do; empty when there is nothing to do.
    pub cure: &'static str,
}

impl Id {
    pub(crate) fn ok(&'static self, subject: impl Into<String>, detail: impl Into<String>) -> Outcome {
        self.outcome(Status::Ok, subject.into(), detail.into())
    }

    pub(crate) fn warning(&'static self, subject: impl Into<String>, detail: impl Into<String>) -> Outcome {
        self.outcome(Status::Warning, subject.into(), detail.into())
    }

    pub(crate) fn failed(&'static self, subject: impl Into<String>, detail: impl Into<String>) -> Outcome {
        self.outcome(Status::Failed, subject.into(), detail.into())
    }

    pub(crate) fn skipped(&'static self, subject: impl Into<String>, detail: impl Into<String>) -> Outcome {
        self.outcome(Status::Skipped, subject.into(), detail.into())
    }

    fn outcome(&'static self, status: Status, subject: String, detail: String) -> Outcome {
        let cure = match status {
            Status::Warning | Status::Failed => self.cure,
            Status::Ok | Status::Skipped => "",
        };
        Outcome { id: self.id, group: self.group, title: self.title, status, subject, detail, cure }
    }
}

/// A whole run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Version of this program.
    pub version: &'static str,
    /// Whether no check failed; warnings do not count.
    pub ok: bool,
    /// Every outcome, by id.
    pub checks: Vec<Outcome>,
}

impl Report {
    pub(crate) fn of(mut checks: Vec<Outcome>) -> Self {
        checks.sort_by_key(|it| (it.group, it.id));
        let ok = checks.iter().all(|it| it.status != Status::Failed);
        Self { version: env!("CARGO_PKG_VERSION"), ok, checks }
    }

    /// Outcomes with this status.
    pub fn count(&self, status: Status) -> usize {
        self.checks.iter().filter(|it| it.status == status).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids;

    #[test]
    fn a_report_reads_as_programs_expect_it() {
        let report = Report::of(vec![ids::GATEWAY.ok("gateway", ""), ids::PORTS.failed("gateway", "taken")]);
        assert_eq!(
            serde_json::to_value(&report).unwrap(),
            serde_json::json!({"version": env!("CARGO_PKG_VERSION"), "ok": false, "checks": [
                {"id": "WEFT0107", "group": "machine", "title": ids::PORTS.title, "status": "failed", "subject": "gateway", "detail": "taken", "cure": ids::PORTS.cure},
                {"id": "WEFT0501", "group": "gateway", "title": ids::GATEWAY.title, "status": "ok", "subject": "gateway", "detail": "", "cure": ""},
            ]})
        );
    }

    #[test]
    fn only_a_failure_makes_a_report_bad() {
        let checks =
            vec![ids::VERSIONS.warning("gateway", ""), ids::PROBE.skipped("users", ""), ids::APP.ok("users-1", "")];
        assert!(Report::of(checks).ok);
    }
}
