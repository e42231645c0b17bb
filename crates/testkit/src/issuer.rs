//! An issuer of tokens: keys, a server that tells them, tokens good and bad.
//!
//! Lives here: signing as issuers do, and as attackers would like to. Does not: checking a token (the gateway's `edge::jwt`), assertions.
//! The RSA key is a file of this crate, since nothing in the tree makes one; it protects nothing.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use ring::{
    hmac,
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RSA_PSS_SHA256,
        RsaKeyPair, RsaPublicKeyComponents,
    },
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinSet};

/// A key that signs tokens.
#[derive(Debug)]
pub struct Key {
    id: String,
    pair: Pair,
}

#[derive(Debug)]
enum Pair {
    Rsa(RsaKeyPair),
    P256(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl Key {
    /// The RSA key.
    pub fn rsa(id: &str) -> Self {
        let pair = RsaKeyPair::from_pkcs8(include_bytes!("../keys/issuer.pk8")).expect("the file holds an RSA key");
        Self { id: id.to_owned(), pair: Pair::Rsa(pair) }
    }

    /// A new key on P-256.
    pub fn p256(id: &str) -> Self {
        let (algorithm, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).expect("there is randomness");
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random).expect("it was just made");
        Self { id: id.to_owned(), pair: Pair::P256(pair) }
    }

    /// A new key of Ed25519.
    pub fn ed25519(id: &str) -> Self {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("there is randomness");
        let pair = Ed25519KeyPair::from_pkcs8(document.as_ref()).expect("it was just made");
        Self { id: id.to_owned(), pair: Pair::Ed25519(pair) }
    }

    /// Its public half, as issuers tell it.
    pub fn jwk(&self) -> Value {
        let id = &self.id;
        match &self.pair {
            Pair::Rsa(pair) => {
                let RsaPublicKeyComponents { n, e } = RsaPublicKeyComponents::<Vec<u8>>::from(pair.public());
                json!({"kty": "RSA", "use": "sig", "kid": id, "n": encode(&n), "e": encode(&e)})
            }
            Pair::P256(pair) => {
                let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
                json!({"kty": "EC", "crv": "P-256", "alg": "ES256", "kid": id, "x": encode(x), "y": encode(y)})
            }
            Pair::Ed25519(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "kid": id, "x": encode(pair.public_key().as_ref())})
            }
        }
    }

    /// Its public half, as bytes that somebody might take for a shared secret.
    pub fn public_bytes(&self) -> Vec<u8> {
        match &self.pair {
            Pair::Rsa(pair) => pair.public().as_ref().to_vec(),
            Pair::P256(pair) => pair.public_key().as_ref().to_vec(),
            Pair::Ed25519(pair) => pair.public_key().as_ref().to_vec(),
        }
    }

    /// A token with these claims and the key's usual algorithm.
    pub fn sign(&self, claims: &Value) -> String {
        let alg = match &self.pair {
            Pair::Rsa(_) => "RS256",
            Pair::P256(_) => "ES256",
            Pair::Ed25519(_) => "EdDSA",
        };
        self.sign_as(&json!({"alg": alg, "typ": "JWT", "kid": self.id}), claims)
    }

    /// A token with this header, whatever it says; signed by PSS if it says PS256.
    pub fn sign_as(&self, header: &Value, claims: &Value) -> String {
        let signed = parts(header, claims);
        let (message, random) = (signed.as_bytes(), SystemRandom::new());
        let signature = match &self.pair {
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                let pss = header["alg"] == "PS256";
                let signing = if pss {
                    pair.sign(&RSA_PSS_SHA256, &random, message, &mut signature)
                } else {
                    pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature)
                };
                signing.expect("the key signs");
                signature
            }
            Pair::P256(pair) => pair.sign(&random, message).expect("the key signs").as_ref().to_vec(),
            Pair::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
        };
        format!("{signed}.{}", encode(&signature))
    }
}

/// A token that says it needs no signature, and has none.
pub fn unsigned(alg: &str, claims: &Value) -> String {
    format!("{}.", parts(&json!({"alg": alg, "typ": "JWT"}), claims))
}

/// A token signed with a secret, that names a key of `kid`: what an attacker makes of a public key.
pub fn with_secret(secret: &[u8], kid: &str, claims: &Value) -> String {
    let signed = parts(&json!({"alg": "HS256", "typ": "JWT", "kid": kid}), claims);
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), signed.as_bytes());
    format!("{signed}.{}", encode(signature.as_ref()))
}

fn parts(header: &Value, claims: &Value) -> String {
    format!("{}.{}", encode(header.to_string().as_bytes()), encode(claims.to_string().as_bytes()))
}

fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A server that tells keys at `/keys`, and where they are at `/.well-known/openid-configuration`. Ends with this value.
#[derive(Debug)]
pub struct Issuer {
    at: SocketAddr,
    told: Arc<Told>,
    _serving: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Told {
    /// None: it is out of order.
    keys: Mutex<Option<Value>>,
    fetched: AtomicUsize,
}

impl Issuer {
    /// Starts one with these keys.
    pub async fn start(keys: &[&Key]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a free port");
        let at = listener.local_addr().expect("a bound listener has an address");
        let told = Arc::new(Told::default());
        let (shared, mut serving) = (Arc::clone(&told), JoinSet::new());
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let told = Arc::clone(&shared);
                let service = service_fn(move |request: Request<Incoming>| {
                    let answer = answer(&told, at, request.uri().path());
                    async move { Ok::<_, Infallible>(answer) }
                });
                connections.spawn(async move {
                    drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
                });
            }
        });
        let issuer = Self { at, told, _serving: serving };
        issuer.tells(keys);
        issuer
    }

    /// Its name, which leads to its OpenID configuration.
    pub fn url(&self) -> String {
        format!("http://{}", self.at)
    }

    /// Where its keys are.
    pub fn jwks_uri(&self) -> String {
        format!("{}/keys", self.url())
    }

    /// Has these keys from now on, and no others.
    pub fn tells(&self, keys: &[&Key]) {
        let keys: Vec<Value> = keys.iter().map(|it| it.jwk()).collect();
        *self.told.keys.lock().unwrap_or_else(PoisonError::into_inner) = Some(json!({"keys": keys}));
    }

    /// Answers 500 until it tells keys again.
    pub fn fails(&self) {
        *self.told.keys.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// How often its keys were asked for.
    pub fn fetched(&self) -> usize {
        self.told.fetched.load(Ordering::SeqCst)
    }
}

fn answer(told: &Told, at: SocketAddr, path: &str) -> Response<Full<Bytes>> {
    let body = match path {
        "/keys" => {
            told.fetched.fetch_add(1, Ordering::SeqCst);
            told.keys.lock().unwrap_or_else(PoisonError::into_inner).clone()
        }
        "/.well-known/openid-configuration" => {
            Some(json!({"issuer": format!("http://{at}"), "jwks_uri": format!("http://{at}/keys")}))
        }
        _ => None,
    };
    let mut response = Response::new(Full::default());
    match body {
        Some(body) => *response.body_mut() = body.to_string().into(),
        None => *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR,
    }
    response
}
