//! JSON Web Tokens: whether one was signed by an issuer's key, and whether it counts here and now.
//!
//! Lives here: reading a token, keys as JWK sets tell them, the checks; synchronous, time passed in. Does not: getting keys (`edge::issuers`), what a
//! caller may (`edge::authentication`), tokens that were checked before (`jwt::verified`).
//! The key decides the algorithm: a token's `alg` must be one that the chosen key is for, and only signatures by private keys are known, no shared
//! secrets and not `none`. So there is nothing in a token that could choose how it is checked.
//! Why no library: jsonwebtoken has no ring back-end; its `rust_crypto` would bring a second RSA and P-256 into the process.
//! Source: RFC 7515, 7517, 7518 (section 3), 7519, 8037; RFC 8725 for what to refuse.

pub(crate) mod verified;

use std::time::{Duration, SystemTime};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::signature::{self, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey};
use serde::Deserialize;
use serde_json::{Map, Value};
use weft_model::Jwt;

/// Longest token.
const LONGEST: usize = 8 << 10;
/// Keys of a set that are looked at.
const MOST_KEYS: usize = 64;

/// What a token says; claims by name.
pub(crate) type Claims = Map<String, Value>;

/// Why a token does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("the token is no JWT")]
    Malformed,
    #[error("the token is of no issuer that counts here")]
    Issuer,
    #[error("the token's algorithm is not one of its key")]
    Algorithm,
    #[error("the token is signed with a key that its issuer does not have")]
    UnknownKey,
    #[error("the token's signature is wrong")]
    Signature,
    #[error("the token has expired, or does not say when it does")]
    Expired,
    #[error("the token does not count yet")]
    NotYet,
    #[error("the token is for another audience")]
    Audience,
}

impl TokenError {
    /// Name of the rule that it breaks, for status, metrics and log.
    pub(crate) const fn rule(self) -> &'static str {
        match self {
            Self::Malformed => "token-malformed",
            Self::Issuer => "token-issuer",
            Self::Algorithm => "token-algorithm",
            Self::UnknownKey => "token-unknown-key",
            Self::Signature => "token-signature",
            Self::Expired => "token-expired",
            Self::NotYet => "token-not-yet",
            Self::Audience => "token-audience",
        }
    }
}

/// A token as it was read; nothing of it is believed yet.
#[derive(Debug)]
pub(crate) struct Token<'t> {
    header: Header,
    claims: Claims,
    signed: &'t str,
    signature: Vec<u8>,
}

#[derive(Debug, Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    /// Extensions that must be understood: none is.
    crit: Option<Value>,
}

impl<'t> Token<'t> {
    pub(crate) fn read(text: &'t str) -> Result<Self, TokenError> {
        let malformed = TokenError::Malformed;
        if text.len() > LONGEST {
            return Err(malformed);
        }
        let (signed, signature) = text.rsplit_once('.').ok_or(malformed)?;
        let (header, claims) = signed.split_once('.').filter(|(_, it)| !it.contains('.')).ok_or(malformed)?;
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| malformed);
        let header: Header = serde_json::from_slice(&decode(header)?).map_err(|_| malformed)?;
        if header.crit.is_some() {
            return Err(malformed);
        }
        let claims = serde_json::from_slice(&decode(claims)?).map_err(|_| malformed)?;
        Ok(Self { header, claims, signed, signature: decode(signature)? })
    }

    /// Whom it names as its issuer.
    pub(crate) fn issuer(&self) -> Option<&str> {
        self.claims.get("iss")?.as_str()
    }

    /// The key that it names.
    pub(crate) fn key_id(&self) -> Option<&str> {
        self.header.kid.as_deref()
    }

    /// Returns what it says, if one of these keys signed it and it counts by `policy` now.
    pub(crate) fn verify(self, keys: &KeySet, policy: &Jwt, now: SystemTime) -> Result<Claims, TokenError> {
        if self.issuer() != Some(&**policy.issuer()) {
            return Err(TokenError::Issuer);
        }
        self.check_signature(keys)?;
        check_times(&self.claims, policy, now)?;
        let ours = |it: &Value| it.as_str().is_some_and(|it| policy.audiences().iter().any(|ours| **ours == *it));
        let for_us = match self.claims.get("aud") {
            Some(Value::Array(all)) => all.iter().any(ours),
            Some(one) => ours(one),
            None => false,
        };
        if for_us { Ok(self.claims) } else { Err(TokenError::Audience) }
    }

    fn check_signature(&self, keys: &KeySet) -> Result<(), TokenError> {
        let named = |key: &&Key| self.key_id().is_none_or(|kid| key.kid.as_deref() == Some(kid));
        let mut candidates = keys.0.iter().filter(named).peekable();
        if candidates.peek().is_none() {
            return Err(TokenError::UnknownKey);
        }
        let mut fits = candidates.filter_map(|key| key.check(&self.header.alg)).peekable();
        if fits.peek().is_none() {
            return Err(TokenError::Algorithm);
        }
        let good = |check: Check<'_>| check.holds(self.signed.as_bytes(), &self.signature);
        if fits.any(good) { Ok(()) } else { Err(TokenError::Signature) }
    }
}

/// Checks that a token counts now, which it can do before and not after.
pub(crate) fn check_times(claims: &Claims, policy: &Jwt, now: SystemTime) -> Result<(), TokenError> {
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let time = |claim: &str| claims.get(claim).map(|it| it.as_f64().filter(|it| it.is_finite()));
    let seconds = |time: Duration| time.as_secs_f64();
    match time("exp") {
        Some(Some(exp)) if seconds(now) < exp + seconds(policy.leeway()) => {}
        Some(_) | None => return Err(TokenError::Expired),
    }
    match time("nbf") {
        None => Ok(()),
        Some(Some(nbf)) if seconds(now + policy.leeway()) >= nbf => Ok(()),
        Some(_) => Err(TokenError::NotYet),
    }
}

/// The keys of an issuer, as far as they are for signatures that are known here.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct KeySet(Vec<Key>);

#[derive(Debug, PartialEq, Eq)]
struct Key {
    kid: Option<String>,
    /// The one algorithm that it is for, if its issuer said so.
    alg: Option<String>,
    material: Material,
}

#[derive(Debug, PartialEq, Eq)]
enum Material {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    P256(Vec<u8>),
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
}

/// A key and an algorithm that belong together.
enum Check<'k> {
    Rsa(&'static RsaParameters, &'k [u8], &'k [u8]),
    Other(&'static dyn signature::VerificationAlgorithm, &'k [u8]),
}

impl Check<'_> {
    fn holds(&self, signed: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Rsa(parameters, n, e) => {
                RsaPublicKeyComponents { n, e }.verify(parameters, signed, signature).is_ok()
            }
            Self::Other(algorithm, key) => UnparsedPublicKey::new(*algorithm, key).verify(signed, signature).is_ok(),
        }
    }
}

impl Key {
    fn check(&self, alg: &str) -> Option<Check<'_>> {
        if self.alg.as_deref().is_some_and(|only| only != alg) {
            return None;
        }
        Some(match (&self.material, alg) {
            (Material::Rsa { n, e }, _) => Check::Rsa(rsa(alg)?, n, e),
            (Material::P256(point), "ES256") => Check::Other(&signature::ECDSA_P256_SHA256_FIXED, point),
            (Material::P384(point), "ES384") => Check::Other(&signature::ECDSA_P384_SHA384_FIXED, point),
            (Material::Ed25519(key), "EdDSA" | "Ed25519") => Check::Other(&signature::ED25519, key),
            (Material::P256(_) | Material::P384(_) | Material::Ed25519(_), _) => return None,
        })
    }
}

fn rsa(alg: &str) -> Option<&'static RsaParameters> {
    Some(match alg {
        "RS256" => &signature::RSA_PKCS1_2048_8192_SHA256,
        "RS384" => &signature::RSA_PKCS1_2048_8192_SHA384,
        "RS512" => &signature::RSA_PKCS1_2048_8192_SHA512,
        "PS256" => &signature::RSA_PSS_2048_8192_SHA256,
        "PS384" => &signature::RSA_PSS_2048_8192_SHA384,
        "PS512" => &signature::RSA_PSS_2048_8192_SHA512,
        _ => return None,
    })
}

/// A JWK set as issuers tell it. What is not known in it is left out, as RFC 7517, section 5, asks.
#[derive(Deserialize)]
struct RawSet {
    keys: Vec<Value>,
}

#[derive(Deserialize)]
struct RawKey {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl KeySet {
    /// Reads a JWK set; an error is for people.
    pub(crate) fn read(json: &[u8]) -> Result<Self, String> {
        let set: RawSet = serde_json::from_slice(json).map_err(|error| format!("no JWK set: {error}"))?;
        let keys = set.keys.into_iter().take(MOST_KEYS);
        Ok(Self(keys.filter_map(|key| Key::read(serde_json::from_value(key).ok()?)).collect()))
    }

    /// Whether a key of this name is among them; without a name, whether any is.
    pub(crate) fn has(&self, kid: Option<&str>) -> bool {
        self.0.iter().any(|key| kid.is_none_or(|kid| key.kid.as_deref() == Some(kid)))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

impl Key {
    fn read(raw: RawKey) -> Option<Self> {
        if raw.usage.is_some_and(|usage| usage != "sig") {
            return None;
        }
        let bytes = |text: Option<String>| URL_SAFE_NO_PAD.decode(text?.trim_end_matches('=')).ok();
        let point = |size: usize, x: Option<String>, y: Option<String>| {
            let (x, y) = (bytes(x)?, bytes(y)?);
            (x.len() == size && y.len() == size).then(|| [&[4], x.as_slice(), y.as_slice()].concat())
        };
        let material = match (raw.kty.as_str(), raw.crv.as_deref()) {
            ("RSA", None) => {
                let n = bytes(raw.n)?;
                let zeros = n.iter().take_while(|byte| **byte == 0).count(); // some issuers write the sign's
                Material::Rsa { n: n[zeros..].to_vec(), e: bytes(raw.e)? }
            }
            ("EC", Some("P-256")) => Material::P256(point(32, raw.x, raw.y)?),
            ("EC", Some("P-384")) => Material::P384(point(48, raw.x, raw.y)?),
            ("OKP", Some("Ed25519")) => Material::Ed25519(bytes(raw.x)?),
            _ => return None,
        };
        Some(Self { kid: raw.kid, alg: raw.alg, material })
    }
}

#[cfg(test)]
mod tests;
