//! Identity: the token, the root behind it, the certificates that processes show.
//!
//! Lives here: joining the mesh as the token's holder, and what each failure of that says. Does not: reading tokens (`weft-discovery`), deciding
//! who is let in (the registry).
//! What is wrong with a token ends the run early: without it the registry tells nothing.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::pki_types::ServerName;
use tokio::{net::TcpStream, task::JoinSet, time::timeout};
use tokio_rustls::TlsConnector;
use weft_discovery::{Credential, CredentialError, IdentityError, Registries, join};
use weft_identity::{Clock, Identity, Refusal};
use weft_proto::weft::{
    discovery::v1::ListResponse,
    model::v1::{Instance, transport::Kind},
};
use weft_runtime::clock;

use crate::{ask::in_words, ids, registry, report::Outcome, services, target::Mesh};

/// Time the registry has to let us in.
const JOIN: Duration = Duration::from_secs(3);
/// Time a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(2);

/// How the registry is asked.
pub(crate) struct Way {
    pub(crate) registries: Registries,
    /// As whom; none in plaintext.
    pub(crate) identity: Option<Identity>,
}

/// Finds the way to the registry, or the one thing that bars it.
pub(crate) async fn enter(mesh: &Mesh, outcomes: &mut Vec<Outcome>) -> Option<Way> {
    if !mesh.registries.iter().any(|url| url.starts_with("https://")) {
        return Some(Way { registries: Registries::new(&mesh.registries), identity: None });
    }
    let Some(file) = &mesh.token else {
        outcomes.push(match registry::misspoken(mesh).await {
            Some(outcome) => outcome,
            None => ids::TOKEN.failed("", format!("{} asks who you are, and no token was named", mesh.registries)),
        });
        return None;
    };
    let credential = match Credential::read(file, Some(&mesh.registries)) {
        Ok(credential) => credential,
        Err(error) => {
            outcomes.push(unreadable(file, &error));
            return None;
        }
    };
    let name = file.display().to_string();
    outcomes.push(ids::TOKEN.ok(&name, ""));
    outcomes.push(ids::TOKEN_PRIVATE.ok("", ""));
    match join(credential, None, wall(), JOIN).await {
        Ok((_keeping, identity)) => {
            outcomes.push(ids::TOKEN_GOOD.ok("", identity.id().to_string()));
            outcomes.push(ids::ROOT.ok("", ""));
            Some(Way { registries: Registries::secured(&mesh.registries, &identity), identity: Some(identity) })
        }
        Err(error) => {
            outcomes.push(barred(mesh, &name, &error).await);
            None
        }
    }
}

fn wall() -> Clock {
    Arc::new(clock::wall)
}

fn unreadable(file: &Path, error: &CredentialError) -> Outcome {
    let name = file.display().to_string();
    match error {
        CredentialError::Open { mode, .. } => {
            ids::TOKEN_PRIVATE.failed(name, format!("others may read it: mode {mode:03o}"))
        }
        other => ids::TOKEN.failed(name, in_words(other)),
    }
}

async fn barred(mesh: &Mesh, file: &str, error: &IdentityError) -> Outcome {
    match error {
        IdentityError::OutOfReach { .. } => registry::no_answer(mesh, error).await,
        IdentityError::Impostor { source: refusal @ Refusal::NotYetValid { .. }, .. } => {
            ids::CLOCKS.failed("registry", format!("ahead of this machine's: its {refusal}"))
        }
        IdentityError::Impostor { source: refusal @ Refusal::Expired { .. }, .. } => {
            ids::CERTIFICATES.failed("registry", refusal.to_string())
        }
        IdentityError::Impostor { url, source } => ids::ROOT.failed(url, source.to_string()),
        IdentityError::Refused(_) => ids::TOKEN_GOOD.failed(file, error.to_string()),
        IdentityError::Answer(_) | IdentityError::Svid(_) | IdentityError::Bundle(_) | IdentityError::Key(_) => {
            ids::ROOT.failed(mesh.registries.to_string(), in_words(error))
        }
    }
}

/// Looks at the certificate that each instance shows.
pub(crate) async fn certificates(identity: &Identity, list: &ListResponse) -> Vec<Outcome> {
    let mut shown = JoinSet::new();
    for instance in list.services.iter().flat_map(registry::instances) {
        let (identity, instance) = (identity.clone(), instance.clone());
        shown.spawn(async move { certificate(&identity, &instance).await });
    }
    let seen: Vec<_> = shown.join_all().await.into_iter().flatten().collect();
    match seen.is_empty() {
        true => vec![ids::CERTIFICATES.skipped("", "no certificate could be looked at from here")],
        false => seen,
    }
}

/// None where nothing is shown: an instance in plaintext, or one that does not let itself be reached, which the path finds out.
async fn certificate(identity: &Identity, instance: &Instance) -> Option<Outcome> {
    let endpoint = instance.endpoint.as_ref()?;
    let Some(Kind::Mtls(mtls)) = &endpoint.transport.as_ref()?.kind else { return None };
    let name = services::name(instance);
    let config = identity.client_config(&mtls.identity.parse().ok()?);
    let handshake = async {
        let stream = TcpStream::connect(&endpoint.address).await.ok()?;
        let host = ServerName::IpAddress(stream.peer_addr().ok()?.ip().into());
        Some(TlsConnector::from(config).connect(host, stream).await)
    };
    match timeout(HANDSHAKE, handshake).await.ok()?? {
        Err(error) => {
            let refusal = Refusal::of(&error)?;
            Some(ids::CERTIFICATES.failed(name, refusal.to_string()))
        }
        Ok(stream) => {
            let peer = identity.connected(stream.get_ref().1).ok()?;
            Some(judge(name, peer.leaf.not_before, peer.leaf.not_after, clock::wall()))
        }
    }
}

fn judge(name: String, not_before: SystemTime, not_after: SystemTime, now: SystemTime) -> Outcome {
    let life = not_after.duration_since(not_before).unwrap_or_default();
    let left = not_after.duration_since(now).unwrap_or_default();
    let detail = format!("{} s of {} s left", left.as_secs(), life.as_secs());
    if left < life / 4 { ids::CERTIFICATES.warning(name, detail) } else { ids::CERTIFICATES.ok(name, detail) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Status;

    #[test]
    fn a_certificate_in_its_last_quarter_was_not_renewed() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let status = |now| judge("users-1".into(), at(0), at(100), at(now)).status;
        assert_eq!(
            [status(50), status(75), status(76), status(200)],
            [Status::Ok, Status::Ok, Status::Warning, Status::Warning]
        );
    }
}
