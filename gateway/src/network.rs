//! Networks as a file names them: one address, or all that begin alike.
//!
//! Lives here: reading one, which addresses it holds. Does not: what is done by it (`edge::forwarded`).

use std::{fmt, net::IpAddr, str::FromStr};

/// Addresses that begin alike: `10.0.0.0/8`, `fd00::/8`, or one alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    first: IpAddr,
    /// Bits that are alike.
    prefix: u32,
}

/// Bits before an address of IPv4 that is written as one of IPv6 (RFC 4291, 2.5.5.2).
const MAPPED: u32 = 96;

/// A text that names no network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} {problem}")]
pub struct NotANetwork {
    text: String,
    problem: String,
}

impl Network {
    /// Whether an address is one of it. One of IPv4 that is written as one of IPv6 is the former.
    pub fn contains(&self, addr: IpAddr) -> bool {
        let addr = addr.to_canonical();
        addr.is_ipv4() == self.first.is_ipv4() && cut(addr, self.prefix) == self.first
    }
}

fn digits(text: &str) -> Option<u32> {
    text.parse().ok().filter(|_| text.bytes().all(|it| it.is_ascii_digit())) // no sign
}

/// The first address that begins alike.
fn cut(addr: IpAddr, prefix: u32) -> IpAddr {
    match addr {
        IpAddr::V4(it) => {
            let mask = u32::MAX.checked_shl(32 - prefix).unwrap_or(0);
            IpAddr::V4((it.to_bits() & mask).into())
        }
        IpAddr::V6(it) => {
            let mask = u128::MAX.checked_shl(128 - prefix).unwrap_or(0);
            IpAddr::V6((it.to_bits() & mask).into())
        }
    }
}

impl FromStr for Network {
    type Err = NotANetwork;

    fn from_str(text: &str) -> Result<Self, NotANetwork> {
        let wrong = |problem: String| NotANetwork { text: text.chars().take(64).collect(), problem };
        let (addr, prefix) = text.split_once('/').map_or((text, None), |(addr, prefix)| (addr, Some(prefix)));
        let no_network =
            || wrong("is no network: write an address, or one with its prefix, like \"10.0.0.0/8\"".into());
        let addr: IpAddr = addr.parse().map_err(|_| no_network())?;
        let most = if addr.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => most,
            Some(text) => digits(text).filter(|it| *it <= most).ok_or_else(no_network)?,
        };
        if let IpAddr::V6(it) = addr
            && let (Some(v4), Some(prefix)) = (it.to_ipv4_mapped(), prefix.checked_sub(MAPPED))
        {
            let cure = Self { first: cut(IpAddr::V4(v4), prefix), prefix };
            return Err(wrong(format!("is one of IPv4, written as one of IPv6: write \"{cure}\"")));
        }
        let first = cut(addr, prefix);
        if first != addr {
            return Err(wrong(format!("is not the first address of its network: write \"{first}/{prefix}\"")));
        }
        Ok(Self { first, prefix })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_holds_what_begins_alike() {
        let holds =
            |network: &str, addr: &str| -> bool { network.parse::<Network>().unwrap().contains(addr.parse().unwrap()) };
        assert!(holds("10.0.0.0/8", "10.255.0.1") && !holds("10.0.0.0/8", "11.0.0.0"));
        assert!(holds("10.0.0.0/8", "::ffff:10.1.1.1") && !holds("10.0.0.0/8", "::10.1.1.1"));
        assert!(holds("192.0.2.1", "192.0.2.1") && !holds("192.0.2.1", "192.0.2.2"));
        assert!(holds("fd00::/8", "fdff::1") && !holds("fd00::/8", "fe00::"));
        assert!(holds("0.0.0.0/0", "203.0.113.9") && !holds("0.0.0.0/0", "::1"));
        assert!(holds("::/0", "2001:db8::1") && holds("::1", "::1"));
    }

    #[test]
    fn what_is_none_is_told_with_a_cure() {
        for wrong in [
            "",
            "10.0.0",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/",
            "10.0.0.0/-1",
            "10.0.0.0/+8",
            "localhost",
            "10.0.0.0/8/8",
        ] {
            assert!(wrong.parse::<Network>().unwrap_err().to_string().contains("like \"10.0.0.0/8\""), "{wrong}");
        }
        let said = "10.0.0.1/8".parse::<Network>().unwrap_err().to_string();
        assert!(said.ends_with("write \"10.0.0.0/8\""), "{said}");
        for (mapped, cure) in [
            ("::ffff:10.0.0.1", "10.0.0.1/32"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::ffff:10.0.0.1/104", "10.0.0.0/8"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
        ] {
            let said = mapped.parse::<Network>().unwrap_err().to_string();
            assert!(said.ends_with(&format!("write \"{cure}\"")), "{said}");
        }
        assert_eq!("fd00::/8".parse::<Network>().unwrap().to_string(), "fd00::/8");
    }
}
