//! The head of a request that asks for a WebSocket.
//!
//! Lives here: what RFC 6455, 4.2.1, wants of it, subprotocols, and where the page comes from that asks. Does not: routes and policies (`websocket`).
//! Browsers cannot set headers here. What they can set are subprotocols, so a page that has a token offers `weft.v1` and `bearer.TOKEN`, and is granted
//! `weft.v1`; the token becomes the `authorization` header, unless there is one.

use base64::{Engine, prelude::BASE64_STANDARD};
use http::{HeaderMap, HeaderValue, header};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use weft_transcode::BindError;

use crate::protocol::rpc;

/// The version of RFC 6455, and the only one there is.
pub(super) const VERSION: HeaderValue = HeaderValue::from_static("13");
/// Our subprotocol: the messages as the README has them.
const PROTOCOL: &str = "weft.v1";
const BEARER: &str = "bearer.";
/// Headers that are about the handshake alone.
const ITS_OWN: [header::HeaderName; 4] = [
    header::SEC_WEBSOCKET_EXTENSIONS,
    header::SEC_WEBSOCKET_KEY,
    header::SEC_WEBSOCKET_PROTOCOL,
    header::SEC_WEBSOCKET_VERSION,
];

/// A handshake that can be answered.
#[derive(Debug)]
pub(super) struct Handshake {
    /// What `sec-websocket-accept` says.
    pub(super) accept: HeaderValue,
    /// The subprotocol granted, if it was offered.
    pub(super) protocol: Option<&'static str>,
    /// `authorization`, as it came in a subprotocol.
    credential: Option<HeaderValue>,
}

/// Whether `upgrade` names WebSocket.
pub(super) fn names_websocket(headers: &HeaderMap) -> bool {
    let named = rpc::list(headers, &header::UPGRADE);
    named.is_some_and(|it| it.split(',').any(|it| it.trim().eq_ignore_ascii_case("websocket")))
}

impl Handshake {
    pub(super) fn read(headers: &HeaderMap) -> Result<Self, BindError> {
        if headers.get(header::SEC_WEBSOCKET_VERSION) != Some(&VERSION) {
            let error = BindError::field("sec-websocket-version", "only 13 is served (RFC 6455)");
            return Err(BindError { http_status: 426, ..error });
        }
        let key = headers.get(header::SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes).unwrap_or_default();
        if BASE64_STANDARD.decode(key).ok().is_none_or(|nonce| nonce.len() != 16) {
            return Err(BindError::field("sec-websocket-key", "expected 16 bytes in base64 (RFC 6455, 4.1)"));
        }
        let accept = HeaderValue::try_from(derive_accept_key(key)).expect("base64 is valid in a header");
        let offered = rpc::list(headers, &header::SEC_WEBSOCKET_PROTOCOL).unwrap_or_default();
        let mut offered = offered.split(',').map(str::trim);
        let protocol = offered.clone().any(|it| it == PROTOCOL).then_some(PROTOCOL);
        let token = offered.find_map(|it| it.strip_prefix(BEARER)).filter(|token| !token.is_empty());
        if token.is_some() && protocol.is_none() {
            // A browser wants one of those it offered, and a token is not one to be repeated.
            let cure = format!("offer {PROTOCOL} beside {BEARER}TOKEN");
            return Err(BindError::field("sec-websocket-protocol", cure));
        }
        let credential = token.and_then(|token| HeaderValue::try_from(format!("Bearer {token}")).ok());
        let credential = credential.map(|mut it| {
            it.set_sensitive(true);
            it
        });
        Ok(Self { accept, protocol, credential })
    }

    /// Moves the credential to where the edge looks for it, and takes away what no service is to know.
    pub(super) fn move_credential(&self, headers: &mut HeaderMap) {
        for name in &ITS_OWN {
            headers.remove(name);
        }
        if let Some(credential) = &self.credential {
            headers.entry(header::AUTHORIZATION).or_insert_with(|| credential.clone());
        }
    }
}

/// Whether a page comes from the host that it calls, by whatever scheme: TLS may end in front of us.
pub(super) fn is_own_page(origin: &HeaderValue, host: Option<&HeaderValue>, schemes: &[&str]) -> bool {
    let of_page = || {
        let (scheme, authority) = origin.to_str().ok()?.split_once("://")?;
        let default = match schemes.contains(&scheme).then_some(scheme)? {
            "http" => ":80",
            "https" => ":443",
            _ => return None,
        };
        Some((authority, default))
    };
    let (Some((authority, default)), Some(host)) = (of_page(), host.and_then(|host| host.to_str().ok())) else {
        return false;
    };
    let host = host.strip_suffix(default).unwrap_or(host);
    authority.strip_suffix(default).unwrap_or(authority).eq_ignore_ascii_case(host)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A head, and the status and the field that it is refused with.
    type Case = (&'static [(&'static str, &'static str)], u16, &'static str);

    const KEY: (&str, &str) = ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
    const V13: (&str, &str) = ("sec-websocket-version", "13");

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn the_key_is_answered_as_in_the_example_of_the_rfc() {
        let read = Handshake::read(&headers(&[KEY, V13])).unwrap();
        assert_eq!((read.accept, read.protocol), (HeaderValue::from_static("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), None));
    }

    #[test]
    fn what_is_wrong_with_a_handshake_is_named() {
        let table: [Case; 5] = [
            (&[KEY], 426, "sec-websocket-version"),
            (&[KEY, ("sec-websocket-version", "8")], 426, "sec-websocket-version"),
            (&[V13], 400, "sec-websocket-key"),
            (&[V13, ("sec-websocket-key", "c2hvcnQ=")], 400, "sec-websocket-key"),
            (&[V13, KEY, ("sec-websocket-protocol", "bearer.abc")], 400, "sec-websocket-protocol"),
        ];
        for (pairs, status, field) in table {
            let error = Handshake::read(&headers(pairs)).unwrap_err();
            assert_eq!((error.http_status, error.violations[0].field.as_str()), (status, field), "{pairs:?}");
        }
    }

    #[test]
    fn a_token_in_a_subprotocol_becomes_the_authorization_and_nothing_else_crosses() {
        let offered = ("sec-websocket-protocol", "weft.v1, bearer.a.b-c");
        let mut map = headers(&[KEY, V13, offered]);
        let read = Handshake::read(&map).unwrap();
        assert_eq!(read.protocol, Some("weft.v1"));
        read.move_credential(&mut map);
        assert_eq!(map, headers(&[("authorization", "Bearer a.b-c")]));
        let mut map = headers(&[KEY, V13, offered, ("authorization", "Bearer own")]);
        read.move_credential(&mut map);
        assert_eq!(map["authorization"], "Bearer own");
        let other = Handshake::read(&headers(&[KEY, V13, ("sec-websocket-protocol", "chat")])).unwrap();
        assert_eq!(other.protocol, None, "what we do not know is not granted");
    }

    #[test]
    fn a_page_is_our_own_if_it_comes_from_the_host_it_calls() {
        let both = ["http", "https"];
        let own = |origin: &str, host: &str| is_own_page(&origin.parse().unwrap(), Some(&host.parse().unwrap()), &both);
        assert!(own("http://a.example", "a.example") && own("https://A.example", "a.example:443"));
        assert!(own("http://127.0.0.1:8080", "127.0.0.1:8080") && own("http://a.example:80", "a.example"));
        assert!(!own("http://b.example", "a.example") && !own("http://a.example", "a.example:8080"));
        assert!(!own("null", "a.example") && !own("file://a.example", "a.example") && !own("null", "null"));
        assert!(!is_own_page(&"http://a.example".parse().unwrap(), None, &both));
        let host = "a.example".parse().unwrap();
        assert!(!is_own_page(&"http://a.example".parse().unwrap(), Some(&host), &["https"]), "planted on the way");
        assert!(is_own_page(&"https://a.example".parse().unwrap(), Some(&host), &["https"]));
    }

    proptest! {
        #[test]
        fn any_head_is_read_or_refused(name in 0usize..4, value in "[ -~]{0,60}", upgrade in "[ -~]{0,30}") {
            let mut map = headers(&[KEY, V13, ("upgrade", &upgrade)]);
            map.insert(ITS_OWN[name].clone(), HeaderValue::try_from(value.as_str()).unwrap());
            names_websocket(&map);
            if let Ok(read) = Handshake::read(&map) {
                read.move_credential(&mut map);
                prop_assert!(ITS_OWN.iter().all(|name| !map.contains_key(name)));
            }
        }
    }
}
