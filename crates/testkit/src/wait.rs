//! Waiting for a state with a deadline: what tests do instead of sleeping.
//!
//! Lives here: polling until a condition gives a value. Does not: knowing what is waited for.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Polls `condition` every 20 ms until it gives a value. Panics after `limit`, naming what was waited for.
pub async fn until<T, F>(what: &str, limit: Duration, mut condition: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let start = Instant::now();
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(start.elapsed() < limit, "waited {limit:?} for {what}");
        sleep(Duration::from_millis(20)).await;
    }
}
