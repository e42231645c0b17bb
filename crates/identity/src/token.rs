//! What a join token says: one string that names the service, the registries and the root to expect.
//!
//! Lives here: the claims and how a holder reads them. Does not: signing or checking one (the registry's `ca`).
//! A token is a JWT (RFC 7519) signed with ES256. Its holder cannot check the signature and need not: it only takes from it where to go and what to
//! demand there; a token that lies leads to a registry that fails the pin.

use std::{
    fmt,
    str::FromStr,
    time::{Duration, SystemTime},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use weft_model::{Invalid, SpiffeId};

use crate::{RootPin, TrustDomain, name};

/// Longest token that is looked at.
pub const MAX: usize = 8 << 10;
/// Audience of every join token.
pub const AUDIENCE: &str = "weft-registry";

/// The claims of a token, as they stand in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claims {
    /// Trust domain of the registry that signed it.
    pub iss: String,
    /// Identity that its holder may get.
    pub sub: String,
    /// Always [`AUDIENCE`].
    pub aud: String,
    /// When it was made, seconds since 1970.
    pub iat: u64,
    /// When it runs out, seconds since 1970.
    pub exp: u64,
    /// Its id, by which it is listed and revoked.
    pub jti: String,
    /// Where the registries are.
    pub url: Vec<String>,
    /// SHA-256 of the root that a registry presents, hex.
    pub root: String,
}

/// A token in the hands of the one it was made for.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    text: String,
    id: String,
    identity: SpiffeId,
    registries: Vec<String>,
    pin: RootPin,
    expires: SystemTime,
}

impl Token {
    /// The string itself. A secret.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Its id; no secret.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Who its holder may become.
    pub fn identity(&self) -> &SpiffeId {
        &self.identity
    }

    /// Who the registry must prove to be.
    pub fn registry(&self) -> SpiffeId {
        TrustDomain::of(&self.identity).service(&name::registry())
    }

    /// Where the registries are.
    pub fn registries(&self) -> &[String] {
        &self.registries
    }

    /// The root a registry must present.
    pub fn pin(&self) -> RootPin {
        self.pin
    }

    /// When it runs out.
    pub fn expires(&self) -> SystemTime {
        self.expires
    }
}

impl FromStr for Token {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let text = text.trim();
        let malformed = |problem: &str| Invalid::new("token", problem);
        if text.len() > MAX {
            return Err(malformed("is longer than 8 KiB"));
        }
        let mut parts = text.split('.');
        let (Some(_), Some(claims), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return Err(malformed("has not the three parts of a JWT"));
        };
        let claims = URL_SAFE_NO_PAD.decode(claims).map_err(|_| malformed("is not base64url"))?;
        let claims: Claims = serde_json::from_slice(&claims).map_err(|_| malformed("does not hold our claims"))?;
        let identity: SpiffeId = claims.sub.parse().map_err(|e: Invalid| e.within("token.sub"))?;
        if identity.trust_domain() != claims.iss {
            return Err(malformed("names an identity of another trust domain than its issuer's"));
        }
        let expires = SystemTime::UNIX_EPOCH
            .checked_add(Duration::from_secs(claims.exp))
            .ok_or_else(|| malformed("expires beyond all time"))?;
        if claims.url.is_empty() {
            return Err(malformed("names no registry"));
        }
        let pin = claims.root.parse().map_err(|e: Invalid| e.within("token.root"))?;
        Ok(Self { text: text.to_owned(), id: claims.jti, identity, registries: claims.url, pin, expires })
    }
}

/// Never shows the string.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("id", &self.id).field("identity", &self.identity).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn claims() -> Claims {
        Claims {
            iss: "weft.local".into(),
            sub: "spiffe://weft.local/ns/default/svc/users".into(),
            aud: AUDIENCE.into(),
            iat: 1,
            exp: 2,
            jti: "t1".into(),
            url: vec!["https://127.0.0.1:7100".into()],
            root: RootPin::of(b"root").to_string(),
        }
    }

    fn token(claims: &Claims) -> String {
        format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(serde_json::to_vec(claims).unwrap()))
    }

    #[test]
    fn a_token_tells_its_holder_where_to_go_and_what_to_demand() {
        let token: Token = format!("{}\n", token(&claims())).parse().unwrap();
        assert_eq!(token.registries(), ["https://127.0.0.1:7100"]);
        assert_eq!(token.pin(), RootPin::of(b"root"));
        assert_eq!(token.registry().as_str(), "spiffe://weft.local/ns/weft/svc/registry");
        assert!(!format!("{token:?}").contains("c2ln"), "the string is a secret");
    }

    #[test]
    fn a_token_that_says_nonsense_is_refused() {
        let broken = |breaking: fn(&mut Claims)| {
            let mut it = claims();
            breaking(&mut it);
            token(&it).parse::<Token>().unwrap_err().to_string()
        };
        assert!(broken(|c| c.sub = "users".into()).starts_with("token.sub"));
        assert!(broken(|c| c.iss = "elsewhere".into()).contains("trust domain"));
        assert!(broken(|c| c.root = "00".into()).starts_with("token.root"));
        assert!(broken(|c| c.url.clear()).contains("names no registry"));
        assert!(broken(|c| c.exp = u64::MAX).contains("beyond"));
        assert!("a.b".parse::<Token>().is_err() && "a.b.c.d".parse::<Token>().is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_without_panic(text in ".{0,200}") {
            prop_assert!(text.parse::<Token>().is_err());
        }
    }
}
