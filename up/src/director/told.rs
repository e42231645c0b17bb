//! What is told of an action while it is carried out: its steps, what failed, what is still waited for.
//!
//! Lives here: orders and their steps, failures in words, waits that say that they last. Does not: the actions (`director`), what is wrong with a process
//! (`director::process`).

use std::time::Duration;

use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};

use super::{Action, Director};

/// A wait is told of when it has lasted this long, and then whenever it has lasted twice as long as when it was told last.
const TOLD_AFTER: Duration = Duration::from_secs(5);

/// An action and where its steps are told. Steps nobody reads any more are not told; the action goes on.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) action: Action,
    pub(crate) steps: Steps,
}

/// Where the steps of an action are told.
pub(super) type Steps = mpsc::Sender<Result<Step, Failed>>;

/// What is told of an action. Without `Done` or a failure at its end it was cut off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Something was reached, in words for people.
    Said(String),
    /// All of it was carried out.
    Done,
}

/// A process that does not serve, or an action that cannot be.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{what}{}", details(.last_lines, .hint))]
pub(crate) struct Failed {
    pub(super) what: String,
    pub(super) last_lines: Vec<String>,
    pub(super) hint: String,
}

fn details(last_lines: &[String], hint: &str) -> String {
    let mut text = String::new();
    if !last_lines.is_empty() {
        text.push_str("; its last lines:");
        last_lines.iter().for_each(|line| text.extend(["\n    ", line]));
    }
    if !hint.is_empty() {
        text.extend(["\n  hint: ", hint]);
    }
    text
}

impl Failed {
    pub(super) fn because(what: impl Into<String>) -> Self {
        Self { what: what.into(), last_lines: Vec::new(), hint: String::new() }
    }
}

impl Director {
    /// Waits for `wait`, and says now and then what for: to the screen, and to who asked for an action.
    pub(super) async fn told<T>(
        &self,
        wait: impl Future<Output = T> + Unpin,
        steps: Option<&Steps>,
        what: impl Fn() -> String,
    ) -> T {
        let tell = async |lasted: Duration| {
            let line = format!("still waiting after {} s: {}", lasted.as_secs(), what());
            match steps {
                Some(steps) => self.step(steps, line).await,
                None => self.screen.say(&format!("  {line}")),
            }
        };
        now_and_then(wait, tell).await
    }

    pub(super) async fn step(&self, steps: &Steps, message: String) {
        self.screen.say(&message);
        let _ = steps.send(Ok(Step::Said(message))).await; // who asked has gone; the action goes on
    }
}

/// Waits, and tells how long it has lasted: after 5 s, and then each time it has lasted twice as long. A wait that ends within a telling ends after it.
async fn now_and_then<T>(mut wait: impl Future<Output = T> + Unpin, tell: impl AsyncFn(Duration)) -> T {
    let (began, mut lasted) = (Instant::now(), TOLD_AFTER);
    loop {
        match timeout_at(began + lasted, &mut wait).await {
            Ok(done) => return done,
            Err(_) => tell(lasted).await,
        }
        lasted *= 2;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_wait_is_told_of_within_seconds_and_then_ever_more_rarely() {
        let told_in = async |seconds| {
            let told = Mutex::new(Vec::new());
            let wait = Box::pin(tokio::time::sleep(Duration::from_secs(seconds)));
            now_and_then(wait, async |lasted| told.lock().unwrap().push(lasted.as_secs())).await;
            told.into_inner().unwrap()
        };
        assert!(told_in(3).await.is_empty());
        assert_eq!(told_in(59).await, [5, 10, 20, 40]);
    }
}
