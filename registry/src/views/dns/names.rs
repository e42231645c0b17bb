//! Names below `weft.`: what a question's name asks for.
//!
//! Lives here: the grammar, as a pure function from labels to [`Asked`], and back for the names we make. Does not: what there is (`answer`).
//! ```text
//! weft · service.weft · node.weft · addr.weft · <ns>.ns.weft · service.<ns>.ns.weft      exist and have no addresses
//! <svc>.service[.<ns>.ns].weft                   a service: its ready instances
//! <which>.<svc>.service[.<ns>.ns].weft           one instance by slot or id, or those with a tag
//! _<svc>._<tcp or tag>[.service][.<ns>.ns].weft  the same, as RFC 2782 spells it
//! <svc>.<ns>.svc.weft, <which>.<svc>.<ns>.svc.weft, _<port>._tcp.<svc>.<ns>.svc.weft    the same, as Kubernetes spells it
//! <id>.node.weft                                 one instance by id
//! <hex address>.addr.weft                        an address: 8 or 32 hexadecimal digits
//! ns.weft                                        this server
//! ```
//! Source: Consul's static look-ups, whose suffix is `.consul` and whose namespaces are spelt the same way; the rest of its tree (datacenters,
//! prepared queries) is not ours. Kubernetes' DNS specification,
//! whose ports have names: ours has one, and any name will do. Letters match without regard to case (RFC 4343).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::rr::Name;
use weft_model::{InstanceId, ServiceName};

/// Which instances of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Which {
    /// All.
    All,
    /// The one with this slot or id, or those with this tag.
    Named(String),
    /// Those with this tag.
    Tagged(String),
}

/// What a name asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Asked {
    /// The zone itself.
    Apex,
    /// The name server.
    Server,
    /// A name that others lie below and that has nothing itself (RFC 8020).
    Empty,
    /// A service, or part of it.
    Service(ServiceName, Which),
    /// One instance.
    Instance(InstanceId),
    /// An address spelt as a name.
    Address(IpAddr),
    /// Nothing there can be.
    Nothing,
}

/// Reads a name; none if it is not below `weft.`, and so not ours to answer.
pub(super) fn read(name: &Name) -> Option<Asked> {
    let labels: Vec<String> = name.iter().map(|label| String::from_utf8_lossy(label).to_ascii_lowercase()).collect();
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    match labels.as_slice() {
        [below @ .., "weft"] => Some(below_weft(below)),
        _ => None,
    }
}

fn below_weft(labels: &[&str]) -> Asked {
    match labels {
        [] => Asked::Apex,
        ["ns"] => Asked::Server,
        ["node" | "addr"] => Asked::Empty,
        [within @ .., "svc"] => kubernetes(within),
        [id, "node"] => id.parse().map_or(Asked::Nothing, Asked::Instance),
        [hex, "addr"] => address(hex).map_or(Asked::Nothing, Asked::Address),
        [within @ .., namespace, "ns"] => within_namespace(within, namespace),
        within => within_namespace(within, "default"),
    }
}

fn within_namespace(labels: &[&str], namespace: &str) -> Asked {
    match labels {
        [] | ["service"] => service("any", namespace).map_or(Asked::Nothing, |_| Asked::Empty),
        [rest @ .., "service"] | rest @ [_, _] if rest.iter().any(|label| label.starts_with('_')) => {
            rfc2782(rest, namespace)
        }
        [name, "service"] => asked(name, namespace, Which::All),
        [which, name, "service"] => asked(name, namespace, Which::Named((*which).to_owned())),
        [only] if only.starts_with('_') => rfc2782(labels, namespace),
        _ => Asked::Nothing,
    }
}

fn kubernetes(labels: &[&str]) -> Asked {
    let within = |name: &str, namespace: &str| service(name, namespace).map_or(Asked::Nothing, |_| Asked::Empty);
    match labels {
        [] => Asked::Empty,
        [namespace] => within("any", namespace),
        [name, namespace] => asked(name, namespace, Which::All),
        ["_tcp", name, namespace] => within(name, namespace),
        [which, name, namespace] => asked(name, namespace, Which::Named((*which).to_owned())),
        [port, "_tcp", name, namespace] if port.starts_with('_') => asked(name, namespace, Which::All),
        _ => Asked::Nothing,
    }
}

/// `_users._tcp`; its parent `_tcp` is there whatever is asked, since services come and go below it.
fn rfc2782(labels: &[&str], namespace: &str) -> Asked {
    match labels {
        [protocol] if protocol.starts_with('_') => Asked::Empty,
        [name, protocol] => match (name.strip_prefix('_'), protocol.strip_prefix('_')) {
            (Some(name), Some("tcp")) => asked(name, namespace, Which::All),
            (Some(name), Some(tag)) => asked(name, namespace, Which::Tagged(tag.to_owned())),
            _ => Asked::Nothing,
        },
        _ => Asked::Nothing,
    }
}

fn asked(name: &str, namespace: &str, which: Which) -> Asked {
    service(name, namespace).map_or(Asked::Nothing, |service| Asked::Service(service, which))
}

fn service(name: &str, namespace: &str) -> Option<ServiceName> {
    format!("{name}.{namespace}").parse().ok()
}

fn address(hex: &str) -> Option<IpAddr> {
    if !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    match hex.len() {
        8 => u32::from_str_radix(hex, 16).ok().map(|bits| Ipv4Addr::from_bits(bits).into()),
        32 => u128::from_str_radix(hex, 16).ok().map(|bits| Ipv6Addr::from_bits(bits).into()),
        _ => None,
    }
}

/// The name that [`read`] takes for this address.
pub(super) fn of_address(ip: IpAddr) -> Name {
    let hex = match ip {
        IpAddr::V4(ip) => format!("{:08x}", ip.to_bits()),
        IpAddr::V6(ip) => format!("{:032x}", ip.to_bits()),
    };
    name(&[&hex, "addr"])
}

/// A name below `weft.`.
pub(super) fn name(labels: &[&str]) -> Name {
    let labels = labels.iter().chain(&["weft"]).map(|label| label.as_bytes());
    Name::from_labels(labels).expect("labels of ours are short and few")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(name: &str) -> Option<Asked> {
        read(&Name::from_ascii(name).unwrap())
    }

    fn users(which: Which) -> Option<Asked> {
        Some(Asked::Service("users".parse().unwrap(), which))
    }

    #[test]
    fn a_service_is_asked_for_in_each_of_its_spellings() {
        for name in [
            "users.service.weft.",
            "USERS.Service.WEFT.",
            "users.service.default.ns.weft.",
            "_users._tcp.service.weft.",
        ] {
            assert_eq!(asked(name), users(Which::All), "{name}");
        }
        for name in ["_users._tcp.weft.", "_users._tcp.service.default.ns.weft.", "_users._tcp.default.ns.weft."] {
            assert_eq!(asked(name), users(Which::All), "{name}");
        }
        for name in ["users.default.svc.weft.", "_grpc._tcp.users.default.svc.weft."] {
            assert_eq!(asked(name), users(Which::All), "{name}");
        }
        assert_eq!(asked("users-1.users.default.svc.weft."), users(Which::Named("users-1".to_owned())));
        let eu = Some(Asked::Service("users.eu".parse().unwrap(), Which::All));
        assert_eq!(asked("users.service.eu.ns.weft."), eu);
        assert_eq!(asked("_users._tcp.service.eu.ns.weft."), eu);
        assert_eq!(asked("users-1.users.service.weft."), users(Which::Named("users-1".to_owned())));
        assert_eq!(asked("_users._green.service.weft."), users(Which::Tagged("green".to_owned())));
    }

    #[test]
    fn names_that_others_lie_below_exist() {
        for name in [
            "service.weft.",
            "svc.weft.",
            "eu.svc.weft.",
            "_tcp.users.eu.svc.weft.",
            "node.weft.",
            "addr.weft.",
            "eu.ns.weft.",
            "service.eu.ns.weft.",
            "_tcp.service.weft.",
            "_tcp.weft.",
        ] {
            assert_eq!(asked(name), Some(Asked::Empty), "{name}");
        }
        assert_eq!(asked("weft."), Some(Asked::Apex));
        assert_eq!(asked("ns.weft."), Some(Asked::Server));
    }

    #[test]
    fn what_cannot_be_is_nothing_and_what_is_elsewhere_is_not_ours() {
        for name in [
            "users.weft.",
            "a.b.users.default.svc.weft.",
            "grpc._tcp.users.default.svc.weft.",
            "a.b.users.service.weft.",
            "a_b.service.weft.",
            "zz.addr.weft.",
            "7f00.addr.weft.",
            "users-1.node.weft.",
            "users._tcp.service.weft.",
            "_users.tcp.service.weft.",
            "x._users._tcp.service.weft.",
        ] {
            assert_eq!(asked(name), Some(Asked::Nothing), "{name}");
        }
        for name in [".", "example.com.", "users.service.consul.", "weft.example.com.", "sweft."] {
            assert_eq!(asked(name), None, "{name}");
        }
        let signed = Name::from_labels([b"+f000001".as_slice(), b"addr", b"weft"]).unwrap();
        assert_eq!(read(&signed), Some(Asked::Nothing), "a number for Rust, and no address");
    }

    #[test]
    fn an_address_goes_there_and_back() {
        for ip in ["127.0.0.1", "10.1.2.3", "0.0.0.1", "::1", "fd00::7:1"] {
            let ip: IpAddr = ip.parse().unwrap();
            assert_eq!(read(&of_address(ip)), Some(Asked::Address(ip)));
        }
        assert_eq!(of_address(Ipv4Addr::new(10, 1, 2, 3).into()).to_string(), "0a010203.addr.weft.");
    }
}
