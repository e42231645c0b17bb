//! Where a call comes from: the address of its caller, also behind proxies, and what of the way there its service is told.
//!
//! Lives here: whose word on addresses counts, reading it, `x-forwarded-*` for the service. Does not: what goes by addresses (`edge::rate_limit`, `edge::access_log`).
//! A proxy adds at the end what it sees, so all is read from there: the caller is the first address that is no trusted proxy's. What stands before it
//! anybody may have written, and no service is told it. Without trusted proxies nothing that a caller says about addresses is read, or told to a service.
//! Invariant: a head is settled before anything else looks at it, so policies, cache and service all go by one and the same word.
//! Source: RFC 7239 for `Forwarded`; `X-Forwarded-For` as proxies write it.

use std::{
    borrow::Cow,
    net::{IpAddr, SocketAddr},
    str::{self, FromStr},
    sync::Arc,
};

use http::{HeaderMap, HeaderName, HeaderValue, header, request};

use crate::{
    edge::{names, quotes},
    network::Network,
    tls::peer::Peer,
};

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// What headers about the way of a call begin with, beside `Forwarded`.
const ABOUT_THE_WAY: &str = "x-forwarded-";

/// By which products and their users tell the same in words of their own: what a caller says by them nobody has checked.
const CLAIMS: [&str; 25] = [
    "cf-connecting-ip",
    "cf-connecting-ipv6",
    "client-ip",
    "do-connecting-ip",
    "fastly-client-ip",
    "fly-client-ip",
    "forwarded-for",
    "true-client-ip",
    "x-appengine-user-ip",
    "x-azure-clientip",
    "x-azure-socketip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-forwarded",
    "x-host",
    "x-http-host-override",
    "x-original-forwarded-for",
    "x-original-host",
    "x-original-uri",
    "x-original-url",
    "x-originating-ip",
    "x-real-ip",
    "x-remote-addr",
    "x-remote-ip",
    "x-rewrite-url",
];
/// What Envoy begins its own with, which it believes of whoever is before it.
const OF_ENVOY: &str = "x-envoy-";

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
                let hop = |it| Hop { node: text(it).unwrap_or_default(), ..Hop::default() };
                let hops = self.known(elements(headers, &FOR).map(hop));
                let last = |name| elements(headers, name).next().and_then(text); // before it may stand a caller's own word
                Said { hops, host: last(&HOST), proto: last(&PROTO) }
            }
            ForwardedHeader::Forwarded => {
                let hops = self.known(elements(headers, &header::FORWARDED).map(hop));
                let (host, proto) = (hops.iter().find_map(|it| it.host), hops.iter().find_map(|it| it.proto));
                Said { hops, host, proto }
            }
        }
    }

    /// The hops that a trusted proxy wrote, out of all from the last on; the first of them is about the caller. What is no address is where they end.
    fn known<'h>(&self, from_the_end: impl Iterator<Item = Hop<'h>>) -> Vec<Hop<'h>> {
        let mut hops = Vec::new();
        for hop in from_the_end {
            let Some(addr) = address(hop.node) else { break };
            hops.push(hop);
            if !self.include(addr) {
                break;
            }
        }
        hops.reverse();
        hops
    }
}

impl Downstream {
    /// Replaces all that a head says of its way by what the service is told: from whom on it comes and, where a trusted proxy says so, for which host and by
    /// which scheme. What proxies say of it in words of their own (`x-real-ip`) stays if a trusted one says it. Returns whom it comes from.
    pub(crate) fn settle(&self, headers: &mut HeaderMap) -> IpAddr {
        let said = self.among.as_ref().map(|it| it.read(headers)).unwrap_or_default();
        let caller = said.hops.first().and_then(|it| address(it.node));
        let way = self.way(&said.hops);
        let host = said.host.and_then(|it| HeaderValue::try_from(it).ok());
        let proto = said.proto.map(|it| scheme_name(it.eq_ignore_ascii_case("https")));
        let trusted = self.among.is_some();
        let goes = |it: &&HeaderName| is_about_the_way(it) || is_claim(it.as_str()) && !trusted;
        let claims: Vec<_> = headers.keys().filter(goes).cloned().collect();
        for name in claims {
            headers.remove(name);
        }
        for (name, value) in [(FOR, Some(way)), (HOST, host), (PROTO, proto)] {
            if let Some(value) = value {
                headers.insert(name, value);
            }
        }
        caller.unwrap_or_else(|| self.addr.ip().to_canonical())
    }

    fn way(&self, hops: &[Hop<'_>]) -> HeaderValue {
        if hops.is_empty() {
            return self.text.clone();
        }
        let own = self.text.to_str().unwrap_or_default();
        let way = hops.iter().map(|it| it.node).chain([own]).collect::<Vec<_>>().join(", ");
        HeaderValue::try_from(way).unwrap_or_else(|_| self.text.clone())
    }
}

/// Whether a header is about the way of a call: proxies', and in a settled head ours.
pub(crate) fn is_about_the_way(name: &HeaderName) -> bool {
    *name == header::FORWARDED || name.as_str().starts_with(ABOUT_THE_WAY)
}

/// Whether a header tells services of addresses, hosts or paths as a proxy before the gateway would; also as metadata that is named by the prefix.
fn is_claim(name: &str) -> bool {
    let plain = names::plain(name);
    CLAIMS.contains(&plain) || plain.starts_with(OF_ENVOY)
}

/// Writes what the service of a call is told of its way, out of its settled head: also host and scheme as they came, if no proxy says them.
pub(crate) fn tell(head: &request::Parts, metadata: &mut HeaderMap) {
    if let Some(way) = head.headers.get(FOR) {
        metadata.insert(FOR, way.clone());
    }
    if let Some(host) = host(head) {
        metadata.insert(HOST, host.into_owned());
    }
    metadata.insert(PROTO, scheme(head).into_owned());
}

/// The host that a call is for as its service is told, of a settled head.
pub(crate) fn host(head: &request::Parts) -> Option<Cow<'_, HeaderValue>> {
    let authority = || head.uri.authority().and_then(|it| HeaderValue::try_from(it.as_str()).ok()).map(Cow::Owned);
    let said = head.headers.get(HOST).map(Cow::Borrowed);
    said.or_else(authority).or_else(|| head.headers.get(header::HOST).map(Cow::Borrowed))
}

/// The scheme by which a call came as its service is told, of a settled head.
pub(crate) fn scheme(head: &request::Parts) -> Cow<'_, HeaderValue> {
    let seen = || Cow::Owned(scheme_name(head.extensions.get::<Arc<Peer>>().is_some()));
    head.headers.get(PROTO).map_or_else(seen, Cow::Borrowed)
}

fn scheme_name(tls: bool) -> HeaderValue {
    HeaderValue::from_static(if tls { "https" } else { "http" })
}

/// What a header lists, the last first.
fn elements<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h [u8]> + use<'h> {
    let lines = headers.get_all(name).iter().rev().map(HeaderValue::as_bytes);
    lines.flat_map(|line| quotes::parts(line, b',')).map(<[u8]>::trim_ascii).filter(|it| !it.is_empty())
}

/// One element of `Forwarded`.
fn hop(element: &[u8]) -> Hop<'_> {
    let mut hop = Hop::default();
    for pair in quotes::parts(element, b';') {
        let Some(at) = pair.iter().position(|it| *it == b'=') else { continue };
        let value = text(pair[at + 1..].trim_ascii()).map(|it| it.trim_matches('"'));
        match pair[..at].trim_ascii().to_ascii_lowercase().as_slice() {
            b"for" => hop.node = value.unwrap_or_default(),
            b"host" => hop.host = value,
            b"proto" => hop.proto = value,
            _ => {}
        }
    }
    hop
}

/// What is written in ASCII; none of what proxies say is not.
fn text(bytes: &[u8]) -> Option<&str> {
    str::from_utf8(bytes).ok().filter(|it| it.is_ascii())
}

/// The address of a hop: alone, with a port, or in brackets; none for `unknown` and names that a proxy makes up.
fn address(hop: &str) -> Option<IpAddr> {
    let whole = IpAddr::from_str(hop).or_else(|_| SocketAddr::from_str(hop).map(|it| it.ip()));
    let bare = || hop.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    whole.ok().or_else(bare).map(|it: IpAddr| it.to_canonical())
}

#[cfg(test)]
mod tests {
    use http::Request;

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

    /// Whom a call comes from, and what its service is told.
    fn told(
        proxies: &Arc<TrustedProxies>,
        from: &str,
        pairs: &[(&'static str, &'static str)],
    ) -> (String, [String; 3]) {
        told_of(proxies, from, map(pairs))
    }

    fn told_of(proxies: &Arc<TrustedProxies>, from: &str, headers: HeaderMap) -> (String, [String; 3]) {
        let mut head = Request::new(()).into_parts().0;
        head.headers = headers;
        let caller = proxies.see(from.parse().unwrap()).settle(&mut head.headers);
        let mut metadata = HeaderMap::new();
        tell(&head, &mut metadata);
        let text = |name: HeaderName| metadata.get(name).map(|it| it.to_str().unwrap().to_owned()).unwrap_or_default();
        (caller.to_string(), [text(FOR), text(HOST), text(PROTO)])
    }

    #[test]
    fn without_trusted_proxies_nobody_says_where_a_call_comes_from() {
        let lies = [
            ("x-forwarded-for", "1.2.3.4"),
            ("x-forwarded-host", "bank.example"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-port", "443"),
            ("x-forwarded-prefix", "/evil"),
            ("forwarded", "for=1.2.3.4"),
            ("host", "api.example"),
        ];
        for proxies in [Arc::default(), trust(&["10.0.0.0/8"], ForwardedHeader::XForwardedFor)] {
            let (caller, [chain, host, proto]) = told(&proxies, "[::ffff:192.0.2.9]:4000", &lies);
            assert_eq!((caller.as_str(), chain.as_str()), ("192.0.2.9", "192.0.2.9"));
            assert_eq!((host.as_str(), proto.as_str()), ("api.example", "http"));
            let mut headers = map(&lies);
            proxies.see("192.0.2.9:1".parse().unwrap()).settle(&mut headers);
            assert_eq!(headers, map(&[("host", "api.example"), ("x-forwarded-for", "192.0.2.9")]));
        }
    }

    #[test]
    fn words_of_other_products_reach_a_service_from_trusted_proxies_alone() {
        const WORDS: &str = "cf-connecting-ip cf-connecting-ipv6 client-ip do-connecting-ip fastly-client-ip fly-client-ip forwarded-for \
            true-client-ip x-appengine-user-ip x-azure-clientip x-azure-socketip x-client-ip x-cluster-client-ip x-forwarded x-host \
            x-http-host-override x-original-forwarded-for x-original-host x-original-uri x-original-url x-originating-ip x-real-ip \
            x-remote-addr x-remote-ip x-rewrite-url x-envoy-external-address x-envoy-original-path";
        let proxies = trust(&["10.0.0.0/8"], ForwardedHeader::XForwardedFor);
        let passes = |name: &str, from: &str| {
            let name = HeaderName::try_from(name).unwrap();
            let mut headers = HeaderMap::from_iter([(name.clone(), HeaderValue::from_static("203.0.113.7"))]);
            proxies.see(from.parse().unwrap()).settle(&mut headers);
            headers.contains_key(name)
        };
        for word in WORDS.split_whitespace() {
            for name in [word.to_owned(), format!("grpc-metadata-{word}")] {
                assert!(!passes(&name, "192.0.2.9:1"), "{name} of a caller");
                assert!(passes(&name, "10.0.0.1:9"), "{name} of a proxy");
            }
        }
        assert!(CLAIMS.iter().all(|it| WORDS.split_whitespace().any(|word| word == *it)), "each of them is held here");
        for name in ["x-envoy", "x-real-ips", "x-hosts", "host", "grpc-metadata-client"] {
            assert!(passes(name, "192.0.2.9:1"), "{name} is an application's");
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

    #[test]
    fn an_open_quote_does_not_reach_into_what_a_proxy_adds() {
        let proxies = trust(&["10.0.0.0/8"], ForwardedHeader::Forwarded);
        for (line, caller) in [
            ("for=1.2.3.4;x=\", for=203.0.113.7", "203.0.113.7"),
            ("for=1.2.3.4;x=\"\\, for=203.0.113.7;host=\"shop.example\"", "203.0.113.7"),
            ("for=1.2.3.4;x=\", for=\"[2001:db8::7]:80\";secret=\"a, \\\"b\\\\\", for=10.0.0.2", "2001:db8::7"),
            ("for=1.2.3.4, for=203.0.113.7;secret=\"\\\"\"", "203.0.113.7"),
            ("for=1.2.3.4, proto=https", "10.0.0.1"),
            ("for=203.0.113.7, ,", "203.0.113.7"),
        ] {
            assert_eq!(told(&proxies, "10.0.0.1:9", &[("forwarded", line)]).0, caller, "{line}");
        }
        let lines = [("forwarded", "for=1.2.3.4;x=\""), ("forwarded", "for=203.0.113.7;host=\"a;b\";proto=https")];
        let (caller, [way, host, proto]) = told(&proxies, "10.0.0.1:9", &lines);
        assert_eq!([&*caller, &*way, &*host, &*proto], ["203.0.113.7", "203.0.113.7, 10.0.0.1", "a;b", "https"]);
    }

    #[test]
    fn what_is_no_text_ends_the_list_and_hides_nothing_after_it() {
        let line = |name: HeaderName, bytes: &[u8]| {
            HeaderMap::from_iter([(name, HeaderValue::from_bytes(bytes).expect("valid in HTTP"))])
        };
        let proxies = trust(&["10.0.0.0/8"], ForwardedHeader::XForwardedFor);
        let caller = |bytes| told_of(&proxies, "10.0.0.1:9", line(FOR, bytes)).0;
        assert_eq!(caller(b"\xff, 203.0.113.7"), "203.0.113.7");
        assert_eq!(caller(b"1.2.3.4, \xff, 10.0.0.2"), "10.0.0.2");
        assert_eq!(caller(b"1.2.3.4, \xff"), "10.0.0.1");
        let proxies = trust(&["10.0.0.0/8"], ForwardedHeader::Forwarded);
        let said = line(header::FORWARDED, b"for=1.2.3.4;x=\xff, for=203.0.113.7;host=\xff;proto=https");
        assert_eq!(
            told_of(&proxies, "10.0.0.1:9", said),
            ("203.0.113.7".into(), ["203.0.113.7, 10.0.0.1", "", "https"].map(String::from))
        );
    }

    #[test]
    fn of_host_and_scheme_the_last_word_counts() {
        let proxies = trust(&["10.0.0.0/8"], ForwardedHeader::XForwardedFor);
        let said = [
            ("x-forwarded-for", "203.0.113.7"),
            ("x-forwarded-host", "evil.example, a.example"),
            ("x-forwarded-host", "b.example, shop.example"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-proto", "http"),
        ];
        let (_, [_, host, proto]) = told(&proxies, "10.0.0.1:9", &said);
        assert_eq!((&*host, &*proto), ("shop.example", "http"));
    }

    #[test]
    fn a_head_that_goes_on_as_it_is_says_what_proxies_said() {
        let settled = |header, pairs: &[(&'static str, &'static str)]| {
            let mut headers = map(pairs);
            trust(&["10.0.0.0/8"], header).see("10.0.0.1:9".parse().unwrap()).settle(&mut headers);
            headers
        };
        let told = map(&[
            ("x-forwarded-for", "203.0.113.7, 10.0.0.1"),
            ("x-forwarded-host", "shop.example"),
            ("x-forwarded-proto", "https"),
        ]);
        let forwarded = "for=203.0.113.7;host=shop.example;proto=https";
        let said = [("forwarded", forwarded), ("x-forwarded-host", "evil.example"), ("x-forwarded-prefix", "/evil")];
        assert_eq!(settled(ForwardedHeader::Forwarded, &said), told);
        let said = [
            ("x-forwarded-for", "1.2.3.4, 203.0.113.7"),
            ("x-forwarded-host", "shop.example"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-port", "443"),
            ("forwarded", "for=1.2.3.4"),
        ];
        assert_eq!(settled(ForwardedHeader::XForwardedFor, &said), told);
    }
}
