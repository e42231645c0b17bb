//! Join tokens: JWTs that this authority signs and checks.
//!
//! Lives here: the signature and the checks. Does not: claims (`weft_identity::token`), what a token is good for beyond its identity (`grpc`).
//! Why our own JWS and no library: a token is made and checked by one program with one algorithm, so there is nothing to negotiate: `alg` is
//! compared, never looked up, and that removes the class of attacks that choose it. jsonwebtoken 11 has no ring back-end; its `rust_crypto` would
//! bring a second P-256 (and RSA) into every process for these few lines.
//! Source: RFC 7515 (compact serialisation, ES256 of RFC 7518 section 3.4), RFC 7519, RFC 8725 (one algorithm, issuer and audience checked).

use std::time::SystemTime;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey},
};
use serde::{Deserialize, Serialize};
use weft_identity::{
    RootPin, TrustDomain, name,
    token::{AUDIENCE, Claims, MAX},
};
use weft_model::{ServiceName, SpiffeId};

use crate::ca::{
    state::{State, TokenRecord, at, millis},
    store::Error,
};

const ALGORITHM: &str = "ES256";
const TYPE: &str = "JWT";

/// The header, all of it: what is not known here is not accepted.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    alg: String,
    typ: String,
}

/// What a good token grants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Granted {
    /// The token.
    pub id: String,
    /// Whom its holder may become.
    pub identity: SpiffeId,
}

/// Why a token is worth nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is no token.
    #[error("not a token: {problem}")]
    Malformed {
        /// What is wrong with it.
        problem: &'static str,
    },
    /// It asks to be checked in another way than ours.
    #[error("token is signed with {found:?}, only {ALGORITHM} is accepted")]
    Algorithm {
        /// What it asks for.
        found: String,
    },
    /// The signature is not ours: altered, or another registry's.
    #[error("token was altered, or signed by another registry")]
    Altered,
    /// It was made for another mesh or purpose.
    #[error("token is not for this registry")]
    Elsewhere,
    /// Its time is over.
    #[error("token {id} has expired")]
    Expired {
        /// The token.
        id: String,
    },
    /// It was revoked.
    #[error("token {id} is revoked")]
    Revoked {
        /// The token.
        id: String,
    },
    /// This authority does not remember it: its file was put back from before.
    #[error("token {id} is not known here")]
    Unknown {
        /// The token.
        id: String,
    },
    /// It is for somebody else.
    #[error("token {id} is for {granted}, not for {asked}")]
    OtherService {
        /// The token.
        id: String,
        /// Whom it is for.
        granted: SpiffeId,
        /// Who was asked for.
        asked: SpiffeId,
    },
}

impl TokenError {
    /// Name of the rule, for status, metrics and logs; a closed set.
    pub fn rule(&self) -> &'static str {
        match self {
            Self::Malformed { .. } => "token_malformed",
            Self::Algorithm { .. } => "token_algorithm",
            Self::Altered => "token_altered",
            Self::Elsewhere => "token_elsewhere",
            Self::Expired { .. } => "token_expired",
            Self::Revoked { .. } => "token_revoked",
            Self::Unknown { .. } => "token_unknown",
            Self::OtherService { .. } => "token_other_service",
        }
    }
}

impl Granted {
    /// Whether it is an operator's.
    pub fn is_operator(&self) -> bool {
        name::service_of(&self.identity) == Some(name::operator())
    }

    /// Returns the identity its holder gets who asks to be `service`; an operator may be anyone but the registry.
    pub fn identity_for(&self, service: Option<&ServiceName>) -> Result<SpiffeId, TokenError> {
        let Some(service) = service else { return Ok(self.identity.clone()) };
        let asked = TrustDomain::of(&self.identity).service(service);
        if asked == self.identity || self.is_operator() && service.namespace() != name::SYSTEM_NAMESPACE {
            Ok(asked)
        } else {
            Err(TokenError::OtherService { id: self.id.clone(), granted: self.identity.clone(), asked })
        }
    }
}

/// Makes the string of a token.
pub(crate) fn mint(state: &State, record: &TokenRecord, urls: Vec<String>, now: SystemTime) -> Result<String, Error> {
    let claims = Claims {
        iss: state.trust_domain.clone(),
        sub: record.identity.to_string(),
        aud: AUDIENCE.to_owned(),
        iat: record.created_ms / 1_000,
        exp: record.expires_ms.div_ceil(1_000),
        jti: record.id.clone(),
        url: urls,
        root: RootPin::of(&state.signing(now).certificate).to_string(),
    };
    let header = Header { alg: ALGORITHM.to_owned(), typ: TYPE.to_owned() };
    let json = |it: serde_json::Result<Vec<u8>>| it.expect("maps of strings and numbers always encode");
    let signed = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(json(serde_json::to_vec(&header))),
        URL_SAFE_NO_PAD.encode(json(serde_json::to_vec(&claims)))
    );
    let random = SystemRandom::new();
    let no_randomness = |_| Error::Damaged { problem: "the system gives no randomness".into() };
    let signature = key(state, &random)?.sign(&random, signed.as_bytes()).map_err(no_randomness)?;
    Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

/// Whether a string claims to be one of ours: it holds our claims, whoever signed it. One that does not is somebody else's to judge.
pub(crate) fn is_ours(text: &str) -> bool {
    let claims = text.split('.').nth(1).filter(|_| text.len() <= MAX).and_then(|it| URL_SAFE_NO_PAD.decode(it).ok());
    claims.is_some_and(|it| serde_json::from_slice::<Claims>(&it).is_ok())
}

/// Checks the string of a token. Nothing in it is believed before the signature was checked, but the algorithm it names.
pub(crate) fn check(state: &State, domain: &TrustDomain, text: &str, now: SystemTime) -> Result<Granted, TokenError> {
    let malformed = |problem| TokenError::Malformed { problem };
    if text.len() > MAX {
        return Err(malformed("it is longer than 8 KiB"));
    }
    let mut parts = text.split('.');
    let (Some(header), Some(claims), Some(signature), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(malformed("it has not the three parts of a JWT"));
    };
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| malformed("it is not base64url"));
    check_header(&decode(header)?)?;
    let signed = &text[..header.len() + 1 + claims.len()];
    let key = key(state, &SystemRandom::new()).map_err(|_| malformed("the registry has no key to check it with"))?;
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key.public_key().as_ref())
        .verify(signed.as_bytes(), &decode(signature)?)
        .map_err(|_| TokenError::Altered)?;
    let claims: Claims =
        serde_json::from_slice(&decode(claims)?).map_err(|_| malformed("it does not hold our claims"))?;
    grant(state, domain, claims, now)
}

fn check_header(header: &[u8]) -> Result<(), TokenError> {
    // Read loosely first, so that a strange algorithm is named and not merely malformed.
    let malformed = |problem| TokenError::Malformed { problem };
    let loose: serde_json::Value = serde_json::from_slice(header).map_err(|_| malformed("its header is no JSON"))?;
    match loose.get("alg").and_then(|alg| alg.as_str()) {
        Some(ALGORITHM) => {}
        found => return Err(TokenError::Algorithm { found: found.unwrap_or_default().to_owned() }),
    }
    match serde_json::from_slice::<Header>(header) {
        Ok(header) if header.typ == TYPE => Ok(()),
        Ok(_) | Err(_) => Err(malformed("its header is not ours")),
    }
}

fn grant(state: &State, domain: &TrustDomain, claims: Claims, now: SystemTime) -> Result<Granted, TokenError> {
    let identity: SpiffeId = claims.sub.parse().map_err(|_| TokenError::Elsewhere)?;
    if claims.iss != domain.as_str() || claims.aud != AUDIENCE || !domain.owns(&identity) {
        return Err(TokenError::Elsewhere);
    }
    let id = claims.jti;
    if at(claims.exp.saturating_mul(1_000)) <= now {
        return Err(TokenError::Expired { id });
    }
    match state.tokens.iter().find(|record| record.id == id) {
        None => Err(TokenError::Unknown { id }),
        Some(record) if record.revoked_ms.is_some() => Err(TokenError::Revoked { id }),
        Some(record) if record.expires_ms <= millis(now) => Err(TokenError::Expired { id }),
        Some(record) if record.identity != identity => Err(TokenError::Altered),
        Some(_) => Ok(Granted { id, identity }),
    }
}

fn key(state: &State, random: &SystemRandom) -> Result<EcdsaKeyPair, Error> {
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &state.token_key, random)
        .map_err(|e| Error::Damaged { problem: format!("the key of tokens: {e}") })
}
