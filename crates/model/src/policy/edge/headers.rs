//! Header policies: what of the headers of a request a service is told, and what of an answer's metadata a caller is told.
//!
//! Lives here: what a policy says, which names and values it may use. Does not: changing any header (the gateway's `edge::headers`).

use std::sync::Arc;

use super::{Methods, names::Owned};
use crate::Invalid;

/// Rules of each direction at most.
const MOST: usize = 32;
/// Longest value.
const LONGEST: usize = 512;

/// What becomes of headers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Headers {
    /// Which methods of the service it is about.
    pub methods: Methods,
    /// From caller to service, in this order.
    pub request: Vec<HeaderRule>,
    /// From service to caller, in this order.
    pub response: Vec<HeaderRule>,
}

/// What becomes of one header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderRule {
    name: Arc<str>,
    change: HeaderChange,
}

/// What is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderChange {
    /// It does not go on.
    Remove,
    /// It goes on under this name, in place of what has that name.
    Rename(Arc<str>),
    /// It has this value and no other.
    Set(Arc<str>),
    /// It has this value, too.
    Append(Arc<str>),
}

impl Headers {
    /// Accepts what changes something, in bounds.
    pub fn checked(self) -> Result<Self, Invalid> {
        for (field, rules) in [("request", &self.request), ("response", &self.response)] {
            if rules.len() > MOST {
                return Err(Invalid::new(field, format!("has {} rules, at most {MOST} are allowed", rules.len())));
            }
        }
        if self.request.is_empty() && self.response.is_empty() {
            return Err(Invalid::new("", "changes nothing; give rules under request or response"));
        }
        Ok(self)
    }
}

impl HeaderRule {
    /// Accepts names in lower case that are not the transport's, and values of printable ASCII.
    pub fn new(name: &str, change: HeaderChange) -> Result<Self, Invalid> {
        free(name).map_err(|e| e.within("name"))?;
        match &change {
            HeaderChange::Remove => {}
            HeaderChange::Rename(to) => free(to).map_err(|e| e.within("rename"))?,
            HeaderChange::Set(value) => text(name, value).map_err(|e| e.within("set"))?,
            HeaderChange::Append(value) => text(name, value).map_err(|e| e.within("append"))?,
        }
        Ok(Self { name: name.into(), change })
    }

    /// Which header, by the name that it has as metadata.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What becomes of it.
    pub fn change(&self) -> &HeaderChange {
        &self.change
    }
}

/// What the transport and the gateway say in these words.
const OWNED: Owned = Owned {
    names: &[
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "host",
        "keep-alive",
        "te",
        "traceparent",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "user-agent",
        "x-request-id",
    ],
    beginnings: &["grpc-", "connect-", "x-forwarded-", "access-control-", "proxy-", "weft-"],
};

fn free(name: &str) -> Result<(), Invalid> {
    OWNED.leave(name, "")
}

fn text(name: &str, value: &str) -> Result<(), Invalid> {
    if name.ends_with("-bin") {
        return Err(Invalid::new("", format!("{name:?} is binary, which text must not be")));
    }
    if value.is_empty()
        || value.len() > LONGEST
        || !value.bytes().all(|b| matches!(b, b' '..=b'~'))
        || value.trim() != value
    {
        return Err(Invalid::new("", format!("{value:?} is no value of 1 to {LONGEST} printable ASCII characters")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_leave_the_transports_headers_alone() {
        let field = |name: &str, change| HeaderRule::new(name, change).map_err(|e| e.field().to_owned());
        assert!(
            field("cookie", HeaderChange::Remove).is_ok()
                && field("authorization", HeaderChange::Rename("x-a".into())).is_ok()
        );
        for name in ["", "X-A", "host", "grpc-status", "content-length", "x-forwarded-for", "a b"] {
            assert_eq!(field(name, HeaderChange::Remove).unwrap_err(), "name", "{name}");
        }
        assert_eq!(field("x-a", HeaderChange::Rename("te".into())).unwrap_err(), "rename");
        for value in ["", " a", "a\n", "\u{fc}"] {
            assert_eq!(field("x-a", HeaderChange::Set(value.into())).unwrap_err(), "set", "{value:?}");
        }
        assert_eq!(field("x-a-bin", HeaderChange::Append("a".into())).unwrap_err(), "append");
    }

    #[test]
    fn a_policy_changes_something_and_not_too_much() {
        let rule = || HeaderRule::new("x-a", HeaderChange::Remove).unwrap();
        assert!(Headers { response: vec![rule()], ..Headers::default() }.checked().is_ok());
        assert_eq!(Headers::default().checked().unwrap_err().field(), "");
        let many = Headers { request: (0..33).map(|_| rule()).collect(), ..Headers::default() };
        assert_eq!(many.checked().unwrap_err().field(), "request");
    }
}
