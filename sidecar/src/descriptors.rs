//! What the app offers, on its way to the registry.
//!
//! Lives here: how long reading and storing are tried, and what a failure means. Does not: the questions (`reflection`), the wire
//! (`weft-discovery`), when it is done (`lifecycle`).

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::sleep;
use weft_discovery::{CallError, DescriptorSet, Registries};

use crate::chain::chain;
use crate::reflection;

/// Time the app's reflection may take.
const REFLECT: Duration = Duration::from_secs(5);
/// Time one attempt to store the descriptors may take; without a registry there is always another.
const STORE: Duration = Duration::from_secs(5);
const STORE_PAUSE: Duration = Duration::from_millis(500);

/// Returns what the app offers; `None` when it does not say, which is in the log.
pub(crate) async fn read(app: SocketAddr) -> Option<DescriptorSet> {
    match reflection::read(app, REFLECT).await {
        Ok(set) => {
            tracing::info!(digest = %set.digest(), services = ?set.services(), "the app's descriptors");
            Some(set)
        }
        Err(error) => {
            tracing::warn!(
                error = chain(&error),
                "the app's descriptors are not known: no REST, and no retries by method"
            );
            None
        }
    }
}

/// Returns whether the registry has the set now. Without a registry it goes on trying; a set that is refused is not offered again.
pub(crate) async fn store(registries: &Registries, set: &DescriptorSet) -> bool {
    loop {
        match registries.store_descriptors(set, STORE).await {
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
