//! Instances: running processes of a service as they registered themselves, and the units of their leases.
//!
//! Lives here: identity, status, place, weight, checks of one instance. Does not: sets of instances (`service`), lease bookkeeping (registry).

use std::{fmt, net::SocketAddr, str::FromStr, sync::Arc, time::Duration};

use uuid::Uuid;

use crate::{Endpoint, Invalid, ServiceName, metadata::Metadata};

/// Id of one running process: a UUID, version 7 when we make it. A restarted process has a new one, so it never meets its own old lease.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceId(Uuid);

impl InstanceId {
    /// Wraps a UUID made elsewhere; this crate has no clock to make one.
    pub const fn new(id: Uuid) -> Self {
        Self(id)
    }

    /// The UUID as 16 bytes.
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// Reads what `as_bytes` gave.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }
}

impl FromStr for InstanceId {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let id = Uuid::try_parse(text).map_err(|_| Invalid::new("", format!("{text:?} is no UUID")))?;
        if id.is_nil() { Err(Invalid::new("", "the nil UUID names no instance")) } else { Ok(Self(id)) }
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl fmt::Debug for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

/// Fencing number of a lease; rises with each registration of an id. 0 is never granted: on the wire it is an operator's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Time a lease lives without a beat: 1 s to 1 h, 15 s unless asked otherwise. In whole milliseconds, as on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeaseTtl(u32);

impl LeaseTtl {
    /// What an instance gets that asks for nothing.
    pub const DEFAULT: Self = Self(15_000);

    /// Accepts 1 s to 1 h.
    pub fn new(ttl: Duration) -> Result<Self, Invalid> {
        match u32::try_from(ttl.as_millis()) {
            Ok(ms) if (1_000..=3_600_000).contains(&ms) => Ok(Self(ms)),
            _ => Err(Invalid::new("", format!("{ttl:?} is outside 1 s to 1 h"))),
        }
    }

    /// The time to live.
    pub const fn get(self) -> Duration {
        Duration::from_millis(self.0 as u64)
    }

    /// Wanted time between two beats: a third, so that two lost beats cost nothing.
    pub fn beat_every(self) -> Duration {
        self.get() / 3
    }
}

/// How a process says on its `/readyz` that an operator took its instance out of the registry; tools know it by these words.
pub const REVOKED: &str = "an operator removed this instance; it runs unlisted until it is restarted";

/// Life-cycle state of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    /// Registered, not ready for calls yet.
    Starting,
    /// Takes calls.
    Serving,
    /// Alive, but refuses calls or fails its check.
    NotServing,
    /// Leaving: finishes its calls, callers pick others.
    Draining,
    /// Its app ended and is not back.
    Crashed,
}

impl Status {
    /// Whether a balancer may send new calls.
    pub const fn takes_calls(self) -> bool {
        matches!(self, Self::Serving)
    }
}

/// For people: `serving`, `not serving`.
impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Starting => "starting",
            Self::Serving => "serving",
            Self::NotServing => "not serving",
            Self::Draining => "draining",
            Self::Crashed => "crashed",
        })
    }
}

/// Why an instance left the catalog.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RemovalReason {
    /// Its owner said so.
    Deregistered,
    /// It drained and left.
    Drained,
    /// An operator removed it.
    Forced,
    /// Its lease ran out.
    Expired,
}

/// Place of an instance, coarse to fine; empty parts are unknown. Cheap to clone: very many instances are in a few places.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Locality {
    /// None: nothing is known, which is less than anything that is.
    parts: Option<Arc<[Box<str>; 3]>>,
}

impl Locality {
    /// Puts the parts together: region, zone within it, part of the zone.
    pub fn new(region: impl Into<Box<str>>, zone: impl Into<Box<str>>, sub_zone: impl Into<Box<str>>) -> Self {
        let parts = [region.into(), zone.into(), sub_zone.into()];
        Self { parts: parts.iter().any(|part| !part.is_empty()).then(|| Arc::new(parts)) }
    }

    /// Region.
    pub fn region(&self) -> &str {
        self.part(0)
    }

    /// Zone within the region.
    pub fn zone(&self) -> &str {
        self.part(1)
    }

    /// Part of the zone.
    pub fn sub_zone(&self) -> &str {
        self.part(2)
    }

    /// Accepts what [`FromStr`] would: places that others send in parts say anything.
    pub fn check(&self) -> Result<(), Invalid> {
        let parts = [("region", self.region()), ("zone", self.zone()), ("sub_zone", self.sub_zone())];
        match parts.into_iter().find(|(_, part)| !part.is_empty() && !is_sound(part)) {
            Some((name, part)) => {
                let has = match part.chars().find(|it| !fits(*it)) {
                    Some(other) => format!("{other:?}"),
                    None => format!("{} bytes", part.len()),
                };
                let wanted = "visible ASCII characters without /, like eu-west-1";
                Err(Invalid::new(name, format!("has {has}; give up to {LONGEST_PART} {wanted}")))
            }
            None => Ok(()),
        }
    }

    fn part(&self, index: usize) -> &str {
        self.parts.as_ref().map_or("", |parts| &parts[index])
    }
}

const LONGEST_PART: usize = 63;

fn is_sound(part: &str) -> bool {
    (1..=LONGEST_PART).contains(&part.len()) && part.chars().all(fits)
}

/// Whether a part may have this character.
fn fits(it: char) -> bool {
    it.is_ascii_graphic() && it != '/'
}

/// `eu/a/rack-1`, without the unknown parts at the end, as [`FromStr`] reads it.
impl fmt::Display for Locality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = [self.region(), self.zone(), self.sub_zone()].join("/");
        f.write_str(whole.trim_end_matches('/'))
    }
}

impl fmt::Debug for Locality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Reads `region`, `region/zone` or `region/zone/sub_zone`; an empty text is a place that is not known.
impl FromStr for Locality {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let parts: Vec<&str> = text.split('/').collect();
        if !text.is_empty() && (parts.len() > 3 || !parts.iter().all(|part| is_sound(part))) {
            let problem = format!("{text:?} is no place: expected REGION, REGION/ZONE or REGION/ZONE/SUB_ZONE");
            return Err(Invalid::new("", problem));
        }
        let part = |index: usize| parts.get(index).copied().unwrap_or_default();
        Ok(Self::new(part(0), part(1), part(2)))
    }
}

/// Relative share of traffic, 1 to 65,535.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weight(u16);

impl Weight {
    /// The usual share.
    pub const ONE: Self = Self(1);

    /// Accepts 1 to 65,535.
    pub fn new(weight: u32) -> Result<Self, Invalid> {
        match u16::try_from(weight) {
            Ok(weight) if weight > 0 => Ok(Self(weight)),
            _ => Err(Invalid::new("", format!("{weight} is outside 1 to 65535"))),
        }
    }

    /// The share.
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl FromStr for Weight {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        text.parse().map_err(|_| Invalid::new("", format!("{text:?} is no number"))).and_then(Self::new)
    }
}

/// SHA-256 of a descriptor set.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

/// The first 8 bytes in hexadecimal: enough to tell sets apart in a log.
impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..8].iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A check that the registry itself runs against an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What to ask.
    pub kind: CheckKind,
    /// Time between two polls.
    pub interval: Duration,
    /// Time one poll may take.
    pub timeout: Duration,
    /// Consecutive failures before `NotServing`.
    pub unhealthy_after: u32,
    /// Consecutive successes before `Serving`.
    pub healthy_after: u32,
}

/// What a check asks. An address left out is the instance's endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckKind {
    /// grpc.health.v1, Watch or Check.
    Grpc {
        /// Service asked about; empty for the server as a whole.
        service: String,
        /// Address to check.
        address: Option<SocketAddr>,
    },
    /// HTTP GET; 2xx is healthy.
    Http {
        /// Path and query.
        path: String,
        /// Address to check.
        address: Option<SocketAddr>,
    },
    /// A connection that opens.
    Tcp {
        /// Address to check.
        address: Option<SocketAddr>,
    },
    /// The instance reports by itself.
    Ttl {
        /// Longest silence before `NotServing`.
        ttl: Duration,
    },
}

/// One running process of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Id of the process.
    pub id: InstanceId,
    /// Service it belongs to.
    pub service: ServiceName,
    /// Fencing number of its lease; `Epoch(0)` before the registry granted one.
    pub epoch: Epoch,
    /// Where callers reach it.
    pub endpoint: Endpoint,
    /// State.
    pub status: Status,
    /// Why the status is what it is; may be empty.
    pub reason: String,
    /// Place.
    pub locality: Locality,
    /// Share of traffic.
    pub weight: Weight,
    /// Facts for people and views; `slot` names the place in a scale.
    pub metadata: Metadata,
    /// Descriptor set it carries.
    pub descriptors: Option<Digest>,
    /// Check that the registry runs; none when a sidecar or SDK reports. Boxed: nearly all report.
    pub check: Option<Box<Check>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_has_up_to_three_parts() {
        let parts = |text: &str| text.parse::<Locality>().map(|it| [it.region(), it.zone(), it.sub_zone()].join("|"));
        for (text, read) in [("", "||"), ("eu", "eu||"), ("eu/a", "eu|a|"), ("eu/a/rack-1", "eu|a|rack-1")] {
            assert_eq!(parts(text).as_deref(), Ok(read));
            let place: Locality = text.parse().unwrap();
            assert_eq!((place.to_string(), format!("{place:?}")), (text.to_owned(), text.to_owned()));
        }
        assert_eq!(Locality::new("", "", ""), Locality::default());
        assert!(
            Locality::default() < Locality::new("", "", "a")
                && Locality::new("a", "b", "") < Locality::new("b", "", "")
        );
        for wrong in ["/", "eu/", "/a", "eu//r", "a/b/c/d", "e u", &"x".repeat(64)] {
            assert!(parts(wrong).unwrap_err().problem().contains("REGION/ZONE"), "{wrong}");
        }
    }

    #[test]
    fn parts_of_a_place_are_bounded() {
        let long = "x".repeat(63);
        for sound in [Locality::default(), Locality::new("", "a", ""), Locality::new("eu", "a", long.as_str())] {
            assert_eq!(sound.check(), Ok(()));
        }
        let wrong =
            |region: &str, zone: &str, sub_zone: &str| Locality::new(region, zone, sub_zone).check().unwrap_err();
        let problems = [
            (wrong("", "", &format!("{long}x")), "sub_zone: has 64 bytes"),
            (wrong("e u", "", ""), "region: has ' '"),
            (wrong("", "a/b", ""), "zone: has '/'"),
            (wrong("eu", "é", ""), "zone: has 'é'"),
            (wrong(&format!("{long}\n"), "", ""), "region: has '\\n'"),
        ];
        for (error, expected) in problems {
            let expected = format!("{expected}; give up to 63 visible ASCII characters without /, like eu-west-1");
            assert_eq!(error.to_string(), expected);
        }
    }

    #[test]
    fn a_weight_is_a_number_from_one_on() {
        assert_eq!("7".parse::<Weight>().unwrap().get(), 7);
        assert!(["", "0", "65536", "x"].iter().all(|text| text.parse::<Weight>().is_err()));
    }
}
