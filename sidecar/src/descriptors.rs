//! What the app offers, on its way to the registry.
//!
//! Lives here: how long reading and storing are tried, and what a failure means. Does not: the questions (`reflection`), the wire
//! (`weft-discovery`), when it is done (`lifecycle`).

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::sleep;
use weft_discovery::{CallError, DescriptorSet, Registries};
use weft_model::{Digest, Instance};

use crate::chain::chain;
use crate::reflection;

/// Time the app's reflection may take.
const REFLECT: Duration = Duration::from_secs(5);
/// Time one attempt to store the descriptors may take; without a registry there is always another.
const STORE: Duration = Duration::from_secs(5);
const STORE_PAUSE: Duration = Duration::from_millis(500);

/// The first pause before an app that failed to say is asked again; it doubles with every failure.
const AGAIN: Duration = Duration::from_secs(1);
const AGAIN_CAP: Duration = Duration::from_secs(60);

/// What asking came to.
#[derive(Debug)]
pub(crate) enum Described {
    /// The app's set, which the registry has.
    As(DescriptorSet),
    /// The app does not say, or the registry refuses what it says: asking the same process again changes nothing.
    Unsaid,
    /// The app failed to say: it may succeed later.
    Failed,
}

/// Asks the app, unless its set is given, and stores what it says unless it is what `stored` names. What goes wrong is in the log.
pub(crate) async fn describe(
    app: SocketAddr,
    registries: &Registries,
    instance: &Instance,
    given: Option<DescriptorSet>,
    stored: Option<Digest>,
) -> Described {
    let set = match given {
        Some(set) => set,
        None => match read(app).await {
            Ok(set) => set,
            Err(error) if error.is_an_answer() => return Described::Unsaid,
            Err(_) => return Described::Failed,
        },
    };
    if stored == Some(set.digest()) || store(registries, instance, &set).await {
        Described::As(set)
    } else {
        Described::Unsaid
    }
}

/// How long to wait after so many failures in a row before the app is asked again.
pub(crate) fn pause(failures: u32) -> Duration {
    AGAIN.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(AGAIN_CAP)
}

async fn read(app: SocketAddr) -> Result<DescriptorSet, reflection::Error> {
    let read = reflection::read(app, REFLECT).await;
    match &read {
        Ok(set) => {
            tracing::info!(digest = %set.digest(), services = ?set.services(), "the app's descriptors");
        }
        Err(error) => {
            tracing::warn!(
                error = chain(error),
                "the app's descriptors are not known; without older ones there is no REST, and no retries by method"
            );
        }
    }
    read
}

/// Returns whether the registry has the set now. Without a registry it goes on trying; a set that is refused is not offered again.
pub(crate) async fn store(registries: &Registries, instance: &Instance, set: &DescriptorSet) -> bool {
    loop {
        match registries.store_descriptors(set, &instance.id, &instance.service, STORE).await {
            Ok(()) => return true,
            Err(error @ CallError::Refused(_)) => {
                tracing::error!(error = chain(&error), "the registry refuses the app's descriptors");
                return false;
            }
            Err(error @ CallError::OutOfReach { .. }) => {
                tracing::warn!(error = chain(&error), "the app's descriptors are not stored yet");
                sleep(STORE_PAUSE).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_app_that_fails_to_say_is_asked_ever_more_rarely_but_for_ever() {
        let seconds: Vec<_> = [1, 2, 3, 6, 7, 1_000].map(|failures| pause(failures).as_secs()).into();
        assert_eq!(seconds, [1, 2, 4, 32, 60, 60]);
    }
}
