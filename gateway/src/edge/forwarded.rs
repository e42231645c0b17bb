//! Where a call comes from: the address of its caller, also behind proxies, and what of the way there its service is told.
//!
//! Lives here: whose word on addresses counts, reading it, `x-forwarded-*` for the service. Does not: what goes by addresses (`edge::rate_limit`, `edge::access_log`).
//! A proxy adds at the end what it sees, so the list is read from there: the caller is the first address that is no trusted proxy's. What stands before it
//! anybody may have written, and no service is told it. Without trusted proxies nothing that a caller says about addresses is read, or told to a service.
//! Source: RFC 7239 for `Forwarded`; `X-Forwarded-For` as proxies write it.

use std::{
    net::{IpAddr, SocketAddr},
    str::FromStr,
    sync::Arc,
};

use http::{HeaderMap, HeaderName, HeaderValue, Uri, header};

use crate::network::Network;

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Whose word on callers' addresses counts, and where they say it. By default nobody's.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TrustedProxies {
    /// Addresses of proxies before the gateway.
    pub networks: Vec<Network>,
    /// The header that all of them write.
    pub header: ForwardedHeader,
}

/// Which header proxies write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ForwardedHeader {
    /// `X-Forwarded-For`, with `-Host` and `-Proto`.
    #[default]
    XForwardedFor,
    /// `Forwarded`.
    Forwarded,
}

/// The other end of a connection. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Downstream {
    pub(crate) addr: SocketAddr,
    /// Its address as services read it.
    text: HeaderValue,
    /// Those it is one of; none: it is a caller, whose word on addresses does not count.
    among: Option<Arc<TrustedProxies>>,
}

/// Whom a proxy saw, and what that one asked for.
#[derive(Debug, Default)]
struct Hop<'h> {
    node: &'h str,
    host: Option<&'h str>,
    proto: Option<&'h str>,
}

/// What trusted proxies say of the way to the gateway.
#[derive(Debug, Default)]
struct Said<'h> {
    /// The caller and the proxies after it, the nearest last.
    hops: Vec<Hop<'h>>,
    host: Option<&'h str>,
    proto: Option<&'h str>,
}

impl TrustedProxies {
    fn include(&self, addr: IpAddr) -> bool {
        self.networks.iter().any(|it| it.contains(addr))
    }

    /// Looks at a new connection.
    pub(crate) fn see(self: &Arc<Self>, addr: SocketAddr) -> Downstream {
        let ip = addr.ip().to_canonical();
        let text = HeaderValue::try_from(ip.to_string()).expect("an address is valid in a header");
        Downstream { addr, text, among: self.include(ip).then(|| Arc::clone(self)) }
    }

    fn read<'h>(&self, headers: &'h HeaderMap) -> Said<'h> {
        match self.header {
            ForwardedHeader::XForwardedFor => {
                let nodes = lines(headers, &FOR).flat_map(|it| it.split(',')).map(str::trim);
                let hops = self.known(nodes.map(|node| Hop { node, ..Hop::default() }).collect());
                Said { hops, host: lines(headers, &HOST).next(), proto: lines(headers, &PROTO).next() }
            }
            ForwardedHeader::Forwarded => {
                let hops = self.known(forwarded(headers));
                let (host, proto) = (hops.iter().find_map(|it| it.host), hops.iter().find_map(|it| it.proto));
                Said { hops, host, proto }
            }
        }
    }

    /// Leaves the hops that a trusted proxy wrote, the first of them about the caller. What is no address is where they end.
    fn known<'h>(&self, mut hops: Vec<Hop<'h>>) -> Vec<Hop<'h>> {
        hops.retain(|it| !it.node.is_empty());
        let mut first = hops.len();
        for hop in hops.iter().rev() {
            let Some(addr) = address(hop.node) else { break };
            first -= 1;
            if !self.include(addr) {
                break;
            }
        }
        hops.drain(..first);
        hops
    }
}

fn lines<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h str> + use<'h> {
    headers.get_all(name).iter().filter_map(|it| it.to_str().ok())
}

fn forwarded(headers: &HeaderMap) -> Vec<Hop<'_>> {
    let element = |text| {
        let mut hop = Hop::default();
        for (name, value) in pieces(text, ';').filter_map(|it| it.split_once('=')) {
            let value = value.trim().trim_matches('"');
            match name.trim().to_ascii_lowercase().as_str() {
                "for" => hop.node = value,
                "host" => hop.host = Some(value),
                "proto" => hop.proto = Some(value),
                _ => {}
            }
        }
        hop
    };
    lines(headers, &header::FORWARDED).flat_map(|it| pieces(it, ',')).map(element).collect()
}

impl Downstream {
    fn said<'h>(&self, headers: &'h HeaderMap) -> Said<'h> {
        self.among.as_ref().map(|it| it.read(headers)).unwrap_or_default()
    }

    /// Whom a call comes from.
    pub(crate) fn caller(&self, headers: &HeaderMap) -> IpAddr {
        let said = self.said(headers).hops.first().and_then(|it| address(it.node));
        said.unwrap_or_else(|| self.addr.ip().to_canonical())
    }

    /// Writes what the service of a call is told of its way: from whom on, for which host, by which scheme.
    pub(crate) fn tell(&self, uri: &Uri, headers: &HeaderMap, tls: bool, metadata: &mut HeaderMap) {
        let said = self.said(headers);
        metadata.insert(FOR, self.way(&said));
        let authority = || uri.authority().and_then(|it| HeaderValue::try_from(it.as_str()).ok());
        let host = said.host.and_then(|it| HeaderValue::try_from(it).ok());
        if let Some(host) = host.or_else(authority).or_else(|| headers.get(header::HOST).cloned()) {
            metadata.insert(HOST, host);
        }
        let https = said.proto.map_or(tls, |it| it.eq_ignore_ascii_case("https"));
        metadata.insert(PROTO, HeaderValue::from_static(if https { "https" } else { "http" }));
    }

    /// The same for a call whose head goes on as it is: from whom on it comes, and none of a caller's own words on that.
    pub(crate) fn tell_native(&self, headers: &mut HeaderMap) {
        let way = self.way(&self.said(headers));
        headers.remove(header::FORWARDED);
        if self.among.as_ref().is_none_or(|it| it.header != ForwardedHeader::XForwardedFor) {
            headers.remove(HOST);
            headers.remove(PROTO);
        }
        headers.insert(FOR, way);
    }

    fn way(&self, said: &Said<'_>) -> HeaderValue {
        if said.hops.is_empty() {
            return self.text.clone();
        }
        let own = self.text.to_str().unwrap_or_default();
        let way = said.hops.iter().map(|it| it.node).chain([own]).collect::<Vec<_>>().join(", ");
        HeaderValue::try_from(way).unwrap_or_else(|_| self.text.clone())
    }
}

/// The parts of a header that lists, where quotes keep together what is between them.
fn pieces(text: &str, by: char) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    text.split(move |c: char| {
        quoted ^= c == '"';
        c == by && !quoted
    })
}

/// The address of a hop: alone, with a port, or in brackets; none for `unknown` and names that a proxy makes up.
fn address(hop: &str) -> Option<IpAddr> {
    let whole = IpAddr::from_str(hop).or_else(|_| SocketAddr::from_str(hop).map(|it| it.ip()));
    let bare = || hop.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    whole.ok().or_else(bare).map(|it: IpAddr| it.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trust(networks: &[&str], header: ForwardedHeader) -> Arc<TrustedProxies> {
        Arc::new(TrustedProxies { networks: networks.iter().map(|it| it.parse().unwrap()).collect(), header })
    }

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    fn told(
        proxies: &Arc<TrustedProxies>,
        from: &str,
        pairs: &[(&'static str, &'static str)],
    ) -> (String, [String; 3]) {
        let (downstream, headers) = (proxies.see(from.parse().unwrap()), map(pairs));
        let mut metadata = HeaderMap::new();
        downstream.tell(&Uri::from_static("/"), &headers, false, &mut metadata);
        let text = |name: HeaderName| metadata.get(name).map(|it| it.to_str().unwrap().to_owned()).unwrap_or_default();
        (downstream.caller(&headers).to_string(), [text(FOR), text(HOST), text(PROTO)])
    }

    #[test]
    fn without_trusted_proxies_nobody_says_where_a_call_comes_from() {
        let lies = [
            ("x-forwarded-for", "1.2.3.4"),
            ("x-forwarded-host", "bank.example"),
            ("x-forwarded-proto", "https"),
            ("forwarded", "for=1.2.3.4"),
            ("host", "api.example"),
        ];
        for proxies in [Arc::default(), trust(&["10.0.0.0/8"], ForwardedHeader::XForwardedFor)] {
            let (caller, [chain, host, proto]) = told(&proxies, "[::ffff:192.0.2.9]:4000", &lies);
            assert_eq!((caller.as_str(), chain.as_str()), ("192.0.2.9", "192.0.2.9"));
            assert_eq!((host.as_str(), proto.as_str()), ("api.example", "http"));
            let mut headers = map(&lies);
            proxies.see("192.0.2.9:1".parse().unwrap()).tell_native(&mut headers);
            assert_eq!(headers, map(&[("host", "api.example"), ("x-forwarded-for", "192.0.2.9")]));
        }
    }

    #[test]
    fn the_caller_is_the_last_one_that_no_trusted_proxy_is() {
        let proxies = trust(&["10.0.0.0/8", "fd00::/8"], ForwardedHeader::XForwardedFor);
        for (lists, caller) in [
            (&["203.0.113.7"][..], "203.0.113.7"),
            (&["6.6.6.6, 203.0.113.7, 10.0.0.2"], "203.0.113.7"),
            (&["6.6.6.6", "203.0.113.7:5000, [fd00::1]:80"], "203.0.113.7"),
            (&["[2001:db8::5]"], "2001:db8::5"),
            (&["10.1.1.1, 10.2.2.2"], "10.1.1.1"),
            (&["203.0.113.7, unknown"], "10.0.0.1"),
            (&["6.6.6.6, _hidden, 10.0.0.2"], "10.0.0.2"),
            (&["", " , "], "10.0.0.1"),
            (&[], "10.0.0.1"),
        ] {
            let pairs: Vec<_> = lists.iter().map(|it| ("x-forwarded-for", *it)).collect();
            assert_eq!(told(&proxies, "10.0.0.1:9", &pairs).0, caller, "{lists:?}");
        }
        let (_, way) = told(
            &proxies,
            "10.0.0.1:9",
            &[
                ("x-forwarded-for", "1.1.1.1,2.2.2.2"),
                ("x-forwarded-host", "shop.example"),
                ("x-forwarded-proto", "HTTPS"),
            ],
        );
        assert_eq!(way, ["2.2.2.2, 10.0.0.1", "shop.example", "https"], "the way begins with the caller");
    }

    #[test]
    fn forwarded_is_read_as_its_rfc_writes_it_and_only_where_it_is_the_one() {
        let proxies = trust(&["10.0.0.1"], ForwardedHeader::Forwarded);
        let pairs = [
            ("forwarded", "For=\"[2001:db8:cafe::17]:4711\";proto=http;host=bank.example"),
            (
                "forwarded",
                "for=192.0.2.60;by=203.0.113.43;Proto=https;host=\"shop.example:8443\", for=10.0.0.1;proto=http",
            ),
            ("x-forwarded-for", "6.6.6.6"),
        ];
        let (caller, way) = told(&proxies, "10.0.0.1:9", &pairs);
        assert_eq!(caller, "192.0.2.60");
        assert_eq!(way, ["192.0.2.60, 10.0.0.1, 10.0.0.1", "shop.example:8443", "https"]);
        assert_eq!(told(&proxies, "10.0.0.1:9", &[("forwarded", "for=\"a,b\", for=192.0.2.1")]).0, "192.0.2.1");
        assert_eq!(told(&proxies, "10.0.0.1:9", &[("forwarded", "for=192.0.2.1, for=\"a,b\"")]).0, "10.0.0.1");
    }
}
