//! Thresholds: when results of a check become a change of health.
//!
//! Lives here: counting in a row. Does not: time, asking.

use weft_model::Status;

use crate::catalog::Health;

/// Counts results in a row.
#[derive(Debug)]
pub(super) struct Judge {
    healthy_after: u32,
    unhealthy_after: u32,
    good: u32,
    bad: u32,
    /// What was last said; nothing yet at the start.
    said: Option<bool>,
}

impl Judge {
    pub(super) const fn new(healthy_after: u32, unhealthy_after: u32) -> Self {
        Self { healthy_after, unhealthy_after, good: 0, bad: 0, said: None }
    }

    /// A question was answered well.
    pub(super) fn good(&mut self) -> Option<Health> {
        (self.good, self.bad) = (self.good.saturating_add(1), 0);
        (self.good >= self.healthy_after).then(|| self.say(true, String::new())).flatten()
    }

    /// A question was answered badly or not at all.
    pub(super) fn bad(&mut self, why: String) -> Option<Health> {
        (self.good, self.bad) = (0, self.bad.saturating_add(1));
        let why = format!("{why} ({} in a row)", self.bad);
        (self.bad >= self.unhealthy_after).then(|| self.say(false, why)).flatten()
    }

    /// The instance itself told a transition: no threshold, it knows.
    pub(super) fn told(&mut self, healthy: bool, why: String) -> Option<Health> {
        (self.good, self.bad) = (0, 0);
        self.say(healthy, why)
    }

    fn say(&mut self, healthy: bool, why: String) -> Option<Health> {
        let news = self.said.replace(healthy) != Some(healthy);
        let status = if healthy { Status::Serving } else { Status::NotServing };
        news.then(|| Health::new(status, why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(health: Option<Health>) -> Option<Status> {
        health.map(|h| h.status)
    }

    #[test]
    fn results_count_in_a_row_and_only_news_is_said() {
        let mut judge = Judge::new(2, 3);
        let bad = |judge: &mut Judge| status(judge.bad("refused".into()));
        assert_eq!(status(judge.good()), None);
        assert_eq!(status(judge.good()), Some(Status::Serving));
        assert_eq!(status(judge.good()), None);
        assert_eq!((bad(&mut judge), bad(&mut judge)), (None, None));
        assert_eq!(status(judge.good()), None);
        assert_eq!((bad(&mut judge), bad(&mut judge)), (None, None), "the good one in between starts the row anew");
        assert_eq!(bad(&mut judge), Some(Status::NotServing));
        assert_eq!(bad(&mut judge), None);
    }

    #[test]
    fn what_an_instance_tells_of_itself_needs_no_row() {
        let mut judge = Judge::new(2, 3);
        assert_eq!(status(judge.told(true, String::new())), Some(Status::Serving));
        assert_eq!(status(judge.told(true, String::new())), None);
        assert_eq!(status(judge.told(false, "says NOT_SERVING".into())), Some(Status::NotServing));
    }
}
