//! Who may write what: an identity speaks for the service it names, an operator for all.
//!
//! Lives here: the rule and its refusals. Does not: who a caller is (`server`), policies between services.
//! A registry that speaks plaintext knows no callers and asks none: whoever reaches it may write, wherever it listens. That is what
//! `--insecure` says, and its log at each start.

use tonic::{Code, Request, Status};
use weft_identity::name;
use weft_model::{Check, CheckKind, InstanceId, ServiceName};

use crate::{
    catalog::{Catalog, Word},
    refusals::Refusals,
    server::Caller,
};

/// The caller of one request, asked before each write.
#[derive(Debug, Clone)]
pub(crate) struct Access {
    /// None: plaintext.
    caller: Option<(Caller, Refusals)>,
}

impl Access {
    pub(crate) fn of<T>(request: &Request<T>) -> Self {
        let found = request.extensions();
        let caller = found.get::<Caller>().cloned();
        Self { caller: caller.map(|caller| (caller, found.get::<Refusals>().cloned().unwrap_or_default())) }
    }

    /// Whether the caller is somebody.
    pub(crate) fn to_anything(&self) -> Result<(), Status> {
        match &self.caller {
            None | Some((Caller::Known(_), _)) => Ok(()),
            Some((Caller::Anonymous, refusals)) => Err(refusals.nobody()),
        }
    }

    /// Whether the caller may write an instance of `service`.
    pub(crate) fn to_service(&self, service: &ServiceName) -> Result<(), Status> {
        match &self.caller {
            None => Ok(()),
            Some((Caller::Anonymous, refusals)) => Err(refusals.nobody()),
            Some((Caller::Known(peer), refusals)) => match name::service_of(peer.id()) {
                Some(own) if own == *service || own == name::operator() => Ok(()),
                Some(_) | None => {
                    let problem = format!("{} may not speak for {service}", peer.id());
                    Err(refusals.status(Code::PermissionDenied, "service_not_allowed", &problem))
                }
            },
        }
    }

    /// Whether the caller may have the registry ask this. Whoever may names an address and a path that the registry calls from where it stands, and
    /// the endpoint is the caller's word, too: so an operator only, but for TTL checks, which call nobody.
    pub(crate) fn to_check(&self, check: &Check) -> Result<(), Status> {
        match (&check.kind, &self.caller) {
            (CheckKind::Ttl { .. }, _) | (_, None) => Ok(()),
            (_, Some((Caller::Known(peer), _))) if name::service_of(peer.id()) == Some(name::operator()) => Ok(()),
            (_, Some((Caller::Known(peer), refusals))) => {
                let problem = format!(
                    "{} may not send the registry to check; register as an operator, or with a TTL check",
                    peer.id()
                );
                Err(refusals.status(Code::PermissionDenied, "check_not_allowed", &problem))
            }
            (_, Some((Caller::Anonymous, refusals))) => Err(refusals.nobody()),
        }
    }

    /// Whether the caller may write the instance with this id. One that is not listed is nobody's: the catalog says so.
    pub(crate) fn to_instance(&self, catalog: &Catalog, id: &InstanceId, word: Word) -> Result<(), Status> {
        match word {
            Word::Operator => self.to_service(&name::operator()),
            Word::Owner(_) => match catalog.published().service_of(id) {
                Some(service) => self.to_service(service),
                None => Ok(()),
            },
        }
    }
}
