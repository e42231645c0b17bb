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

/// Which of those whom the registry tells something a caller may look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Sight {
    /// All.
    All,
    /// Those of its own identity.
    Own(String),
}

impl Sight {
    /// Whether it may look at a client of this identity; empty if nobody knows.
    pub(crate) fn sees(&self, identity: &str) -> bool {
        match self {
            Self::All => true,
            Self::Own(own) => identity == own,
        }
    }
}

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

    /// Whom the caller may look at: what others hold and refused is for operators.
    pub(crate) fn to_clients(&self) -> Result<Sight, Status> {
        match &self.caller {
            None => Ok(Sight::All),
            Some((Caller::Anonymous, refusals)) => Err(refusals.nobody()),
            Some((Caller::Known(peer), _)) if name::service_of(peer.id()) == Some(name::operator()) => Ok(Sight::All),
            Some((Caller::Known(peer), _)) => Ok(Sight::Own(peer.id().to_string())),
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
            Word::Owner(_) if self.caller.is_none() => Ok(()), // without looking for it
            Word::Owner(_) => match catalog.published().service_of(id) {
                Some(service) => self.to_service(service),
                None => Ok(()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_sees_clients_of_its_own_identity() {
        let own = "spiffe://weft.local/ns/default/svc/users";
        let sight = Sight::Own(own.to_owned());
        assert!(sight.sees(own));
        assert!(!sight.sees("spiffe://weft.local/ns/default/svc/posts") && !sight.sees(""));
        assert!(Sight::All.sees(own) && Sight::All.sees(""));
    }
}
