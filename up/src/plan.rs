//! What a change of a service does to its slots, decided before anything is touched.
//!
//! Lives here: which slots start, which leave, in which order, as plain functions. Does not: carrying it out (`director`).
//! A slot is a place in a service's scale, counted from 1: `users-1`. It keeps its data directory and its log file.

use std::{
    collections::BTreeSet,
    fmt::{self, Display},
    str::FromStr,
};

use weft_model::ServiceName;

use crate::board::Kind;

/// A place in a service's scale.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Slot {
    /// The service.
    pub(crate) service: ServiceName,
    /// The place, from 1.
    pub(crate) number: u32,
}

impl Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.service, self.number)
    }
}

/// What a person may name: a role, a service, or one slot of it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Role(Kind),
    Service(ServiceName),
    Slot(Slot),
}

impl Target {
    /// Reads `name`, where `exists` knows the services: `users-1` may be either, and a service of that name comes first.
    pub(crate) fn find(name: &str, exists: impl Fn(&ServiceName) -> bool) -> Option<Self> {
        if let Some(role) = [Kind::Registry, Kind::Gateway].into_iter().find(|role| role.name() == name) {
            return Some(Self::Role(role)); // no service has such a name: see `config`
        }
        if let Some(service) = ServiceName::from_str(name).ok().filter(&exists) {
            return Some(Self::Service(service));
        }
        let (service, number) = name.rsplit_once('-')?;
        let service = service.parse().ok().filter(exists)?;
        let number = number.parse().ok().filter(|number| *number > 0)?;
        Some(Self::Slot(Slot { service, number }))
    }
}

/// Which slots a new scale starts and which leave.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Scale {
    /// Started together, the lowest free places first.
    pub(crate) start: Vec<u32>,
    /// Drained together, the highest places first.
    pub(crate) stop: Vec<u32>,
}

/// Returns the way from the present slots to `wanted` of them.
pub(crate) fn scale(present: &BTreeSet<u32>, wanted: u32) -> Scale {
    let (has, wanted) = (present.len(), wanted as usize);
    let start = (1..).filter(|number| !present.contains(number)).take(wanted.saturating_sub(has)).collect();
    let stop = present.iter().rev().take(has.saturating_sub(wanted)).copied().collect();
    Scale { start, stop }
}

/// Returns the slots a restart replaces, one after the other; `None` if the one asked for is not there.
pub(crate) fn restart(present: &BTreeSet<u32>, only: Option<u32>) -> Option<Vec<u32>> {
    match only {
        None => Some(present.iter().copied().collect()),
        Some(number) => present.contains(&number).then(|| vec![number]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scaled(present: &[u32], wanted: u32) -> (Vec<u32>, Vec<u32>) {
        let plan = scale(&present.iter().copied().collect(), wanted);
        (plan.start, plan.stop)
    }

    #[test]
    fn a_scale_fills_the_lowest_places_and_empties_the_highest() {
        assert_eq!(scaled(&[], 2), (vec![1, 2], vec![]));
        assert_eq!(scaled(&[1, 3], 4), (vec![2, 4], vec![]));
        assert_eq!(scaled(&[1, 2, 3, 4], 2), (vec![], vec![4, 3]));
        assert_eq!(scaled(&[2, 5], 2), (vec![], vec![]));
        assert_eq!(scaled(&[1, 2], 0), (vec![], vec![2, 1]));
    }

    #[test]
    fn a_restart_goes_through_the_slots_in_order_or_takes_the_one_named() {
        let present = [1, 2, 4].into();
        assert_eq!(restart(&present, None), Some(vec![1, 2, 4]));
        assert_eq!(restart(&present, Some(4)), Some(vec![4]));
        assert_eq!(restart(&present, Some(3)), None);
    }

    #[test]
    fn a_name_is_a_service_before_it_is_a_slot() {
        let users: ServiceName = "users".parse().unwrap();
        let odd: ServiceName = "users-2".parse().unwrap();
        let only_users = |name: &ServiceName| *name == users;
        assert_eq!(Target::find("users", only_users), Some(Target::Service(users.clone())));
        assert_eq!(Target::find("users-2", only_users), Some(Target::Slot(Slot { service: users.clone(), number: 2 })));
        assert_eq!(Target::find("users-2", |_| true), Some(Target::Service(odd)));
        assert_eq!(Target::find("gateway", |_| false), Some(Target::Role(Kind::Gateway)));
        for none in ["mail", "users-0", "users-x", "mail-1", ""] {
            assert_eq!(Target::find(none, only_users), None, "{none:?}");
        }
    }
}
