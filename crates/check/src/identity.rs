//! Identity: the token, the root behind it, the certificates that processes show.
//!
//! Lives here: joining the mesh as the token's holder, and what each failure of that says. Does not: reading tokens (`weft-discovery`), deciding
//! who is let in (the registry).
//! What is wrong with a token ends the run early: without it the registry tells nothing.

use std::{
    io,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::pki_types::ServerName;
use tokio::{
    net::TcpStream,
    time::{Instant, timeout},
};
use tokio_rustls::TlsConnector;
use weft_discovery::{Credential, CredentialError, IdentityError, Registries, join};
use weft_identity::{Clock, Identity, Refusal, TrustDomain, name};
use weft_model::SpiffeId;
use weft_proto::weft::{
    discovery::v1::ListResponse,
    model::v1::{Instance, transport::Kind},
};
use weft_runtime::clock;
use weft_up::text::in_words;

use crate::{
    crowd, ids, path, registry,
    report::Outcome,
    services,
    target::{Mesh, Place},
};

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

/// Somebody who shows a certificate.
#[derive(Debug, Clone)]
struct Server {
    name: String,
    address: String,
    expected: SpiffeId,
}

impl Server {
    /// None for an instance in plaintext, which shows nothing.
    fn instance(it: &Instance) -> Option<Self> {
        let endpoint = it.endpoint.as_ref()?;
        let Some(Kind::Mtls(mtls)) = &endpoint.transport.as_ref()?.kind else { return None };
        let (name, address) = (services::name(it), endpoint.address.clone());
        Some(Self { name, address, expected: mtls.identity.parse().ok()? })
    }

    /// A registry is called by its URL where there are several.
    fn registries(mesh: &Mesh, identity: &Identity) -> Vec<Self> {
        let expected = TrustDomain::of(&identity.id()).service(&name::registry());
        let places: Vec<Place> = mesh.registries.iter().filter_map(|url| url.parse().ok()).collect();
        let alone = places.len() == 1;
        let server = |place: Place| Self {
            name: if alone { "registry".to_owned() } else { format!("registry {place}") },
            address: place.to_string(),
            expected: expected.clone(),
        };
        places.into_iter().map(server).collect()
    }
}

/// Looks at the certificates that the registry and the instances show.
pub(crate) async fn certificates(mesh: &Mesh, identity: &Identity, list: &ListResponse, end: Instant) -> Vec<Outcome> {
    let instances = list.services.iter().flat_map(registry::instances).filter_map(Server::instance);
    let servers = Server::registries(mesh, identity).into_iter().chain(instances).collect();
    let seen = crowd::ask(servers, end, |server| certificate(identity.clone(), server)).await;
    let outcome = |(server, seen): (Server, Option<Result<Outcome, String>>)| match seen {
        Some(Ok(outcome)) => outcome,
        Some(Err(why)) => ids::CERTIFICATES.skipped(server.name, why),
        None => ids::CERTIFICATES.skipped(server.name, path::NO_TIME),
    };
    seen.into_iter().map(outcome).collect()
}

/// The error says why no certificate was seen; whether calls get there, the path finds out.
async fn certificate(identity: Identity, server: Server) -> Result<Outcome, String> {
    let Server { name, address, expected } = server;
    let unreachable = |error: io::Error| format!("{address} cannot be reached from here: {error}");
    let handshake = async {
        let stream = TcpStream::connect(&address).await.map_err(unreachable)?;
        let host = ServerName::IpAddress(stream.peer_addr().map_err(unreachable)?.ip().into());
        Ok(TlsConnector::from(identity.client_config(&expected)).connect(host, stream).await)
    };
    let handshake = timeout(HANDSHAKE, handshake).await;
    match handshake.unwrap_or_else(|_| Err(format!("{address} shows none within {HANDSHAKE:?}")))? {
        Err(error) => match Refusal::of(&error) {
            Some(refusal) => Ok(ids::CERTIFICATES.failed(name, refusal.to_string())),
            None => Err(format!("{address}: {error}")),
        },
        Ok(stream) => {
            let peer = identity.connected(stream.get_ref().1).map_err(|refusal| refusal.to_string())?;
            Ok(judge(name, peer.leaf.not_before, peer.leaf.not_after, clock::wall()))
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
