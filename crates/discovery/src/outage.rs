//! An outage of the registries, as whoever asks them in turn meets it: how long it waits, and what it looks at.
//!
//! Lives here: the pause once all have failed, the one look at what each speaks. Does not: asking (`registries`, `watch`, `lease`), how a look is taken
//! (`spoken`), when an outage is over: that is for whoever asks to say.
//! A look costs up to two waits of half a second and a connection that a server logs as a broken one, and shows nothing new the second time: a mistake of
//! configuration lasts. A registry that is away is looked at again, since it may come up with one: that costs nothing where nobody listens, and half a second
//! where nobody answers.

use std::time::Duration;

use tonic::Status;

use crate::backoff::Backoff;
use crate::spoken::{self, Look, is_of_the_transport};

/// What is known of an outage; at first, and when it is over, nothing.
#[derive(Debug, Default)]
pub(crate) struct Outage {
    /// Failures so far, of whichever registry.
    failures: usize,
    backoff: Backoff,
    /// URLs of the registries that were looked at and were there.
    seen: Vec<String>,
}

impl Outage {
    /// Says what is wrong with how the registry at `url` is addressed, with which a call has ended in `status`. Once it is there it
    /// is looked at once, and not at all when it sent that status: then it is spoken to as it should be. Cancel-safe: a look that was not waited for is not
    /// taken again.
    pub(crate) async fn look(&mut self, url: &str, status: &Status) -> Option<&'static str> {
        self.look_by(url, status, spoken::look(url)).await
    }

    async fn look_by<L>(&mut self, url: &str, status: &Status, look: L) -> Option<&'static str>
    where
        L: Future<Output = Look>,
    {
        if !is_of_the_transport(status) || self.seen.iter().any(|it| it == url) {
            return None;
        }
        self.seen.push(url.to_owned());
        match look.await {
            Look::Misspoken(problem) => Some(problem),
            Look::Well => None,
            Look::Nobody => {
                self.seen.pop(); // it was the last: a look is waited for with the whole outage
                None
            }
        }
    }

    /// Counts a failure of one of `count` registries. Returns how long to wait before the next is asked; none as long as there may be one that has not
    /// been.
    pub(crate) fn failed(&mut self, count: usize) -> Option<Duration> {
        self.failures += 1;
        self.failures.is_multiple_of(count).then(|| self.backoff.delay(&mut rand::rng()))
    }

    /// A registry was there: what fails from now on is another outage.
    pub(crate) fn over(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, sleep};

    use super::*;

    const URLS: [&str; 2] = ["http://10.0.0.5:7100", "http://10.0.0.6:7100"];
    /// How long a look takes at a server that says nothing.
    const LOOK: Duration = Duration::from_secs(1);
    const PROBLEM: &str = "it speaks TLS";

    fn broken() -> Status {
        Status::from_error(Box::new(std::io::Error::from(std::io::ErrorKind::ConnectionReset)))
    }

    fn misspoken() -> impl Future<Output = Look> {
        std::future::ready(Look::Misspoken(PROBLEM))
    }

    /// Lets each registry fail so many times in turn; returns who was looked at, and how long that took.
    async fn rounds(outage: &mut Outage, rounds: usize) -> (Vec<&'static str>, Duration) {
        let (began, mut paused, mut seen) = (Instant::now(), Duration::ZERO, Vec::new());
        for _ in 0..rounds {
            for url in URLS {
                let look = async {
                    sleep(LOOK).await;
                    Look::Misspoken(PROBLEM)
                };
                if outage.look_by(url, &broken(), look).await == Some(PROBLEM) {
                    seen.push(url);
                }
                if let Some(pause) = outage.failed(URLS.len()) {
                    sleep(pause).await;
                    paused += pause;
                }
            }
        }
        (seen, began.elapsed() - paused)
    }

    #[tokio::test(start_paused = true)]
    async fn each_registry_is_looked_at_once_in_an_outage() {
        let mut outage = Outage::default();
        let (seen, took) = rounds(&mut outage, 20).await;
        assert_eq!(seen, URLS);
        assert!(took < LOOK * 3, "two looks and no more: {took:?}");
        outage.over();
        assert_eq!(rounds(&mut outage, 2).await.0, URLS, "another outage");
    }

    #[tokio::test(start_paused = true)]
    async fn a_registry_that_answers_is_looked_at_when_its_connection_fails() {
        let mut outage = Outage::default();
        let look = async |outage: &mut Outage, status: Status| outage.look_by(URLS[0], &status, misspoken()).await;
        assert_eq!(look(&mut outage, Status::unavailable("leaving")).await, None);
        assert_eq!(look(&mut outage, broken()).await, Some(PROBLEM));
        assert_eq!(look(&mut outage, broken()).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_that_was_given_up_is_not_taken_again() {
        let mut outage = Outage::default();
        let status = broken();
        let look = outage.look_by(URLS[0], &status, std::future::pending());
        assert!(tokio::time::timeout(LOOK, look).await.is_err());
        assert_eq!(outage.look_by(URLS[0], &status, misspoken()).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_registry_that_was_not_up_yet_is_looked_at_when_it_is() {
        let mut outage = Outage::default();
        let status = broken();
        for _ in 0..3 {
            assert_eq!(outage.look_by(URLS[0], &status, std::future::ready(Look::Nobody)).await, None);
        }
        assert_eq!(outage.look_by(URLS[1], &status, std::future::ready(Look::Well)).await, None);
        assert_eq!(outage.look_by(URLS[0], &status, misspoken()).await, Some(PROBLEM));
        for url in URLS {
            assert_eq!(outage.look_by(url, &status, misspoken()).await, None, "{url} was looked at");
        }
    }

    #[test]
    fn nobody_waits_before_every_registry_was_asked() {
        let mut outage = Outage::default();
        let pauses: Vec<_> = (0..6).map(|_| outage.failed(3).is_some()).collect();
        assert_eq!(pauses, [false, false, true, false, false, true]);
    }
}
