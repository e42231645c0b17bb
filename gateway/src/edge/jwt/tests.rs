//! Tokens that count, and every way in which one does not.

use serde_json::json;
use weft_model::KeySource;
use weft_testkit::issuer::{Key, unsigned, with_secret};

use super::*;

const NOW: u64 = 1_700_000_000;

fn policy() -> Jwt {
    let keys = KeySource::Url("https://issuer.example/keys".into());
    Jwt::new("https://issuer.example", vec!["shop".into(), "other".into()], keys, Duration::from_secs(30)).unwrap()
}

fn set(keys: &[&Key]) -> KeySet {
    let keys: Vec<Value> = keys.iter().map(|it| it.jwk()).collect();
    KeySet::read(json!({ "keys": keys }).to_string().as_bytes()).unwrap()
}

fn claims() -> Value {
    json!({"iss": "https://issuer.example", "aud": "shop", "sub": "ada", "exp": NOW + 60})
}

fn with(claim: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[claim] = value;
    claims
}

fn check(token: &str, keys: &KeySet) -> Result<Claims, TokenError> {
    Token::read(token)?.verify(keys, &policy(), SystemTime::UNIX_EPOCH + Duration::from_secs(NOW))
}

#[test]
fn a_token_by_any_kind_of_key_counts() {
    for key in [Key::rsa("a"), Key::p256("a"), Key::ed25519("a")] {
        let keys = set(&[&Key::p256("b"), &key]);
        assert_eq!(check(&key.sign(&claims()), &keys).unwrap()["sub"], "ada", "{key:?}");
        assert_eq!(check(&key.sign(&with("aud", json!(["x", "other"]))), &keys).unwrap()["sub"], "ada");
    }
    let rsa = Key::rsa("a");
    let pss = rsa.sign_as(&json!({"alg": "PS256", "kid": "a"}), &claims());
    assert!(check(&pss, &set(&[&rsa])).is_ok());
    let nameless = rsa.sign_as(&json!({"alg": "RS256"}), &claims());
    assert!(check(&nameless, &set(&[&Key::p256("b"), &rsa])).is_ok(), "without a key's name, any of the issuer's");
}

#[test]
fn a_token_cannot_choose_how_it_is_checked() {
    let key = Key::rsa("a");
    let keys = set(&[&key]);
    for none in ["none", "None", "NONE", "nOnE", ""] {
        assert_eq!(check(&unsigned(none, &claims()), &keys), Err(TokenError::Algorithm), "{none}");
    }
    let public = key.public_bytes();
    let pem = format!(
        "-----BEGIN RSA PUBLIC KEY-----\n{}\n-----END RSA PUBLIC KEY-----\n",
        base64::engine::general_purpose::STANDARD.encode(&public)
    );
    let modulus = key.jwk()["n"].as_str().unwrap().to_owned();
    for secret in [public.as_slice(), pem.as_bytes(), modulus.as_bytes(), key.jwk().to_string().as_bytes(), b""] {
        assert_eq!(check(&with_secret(secret, "a", &claims()), &keys), Err(TokenError::Algorithm), "key confusion");
    }
    let other = key.sign_as(&json!({"alg": "ES256", "kid": "a"}), &claims());
    assert_eq!(check(&other, &keys), Err(TokenError::Algorithm));
    let only_pss = {
        let mut jwk = key.jwk();
        jwk["alg"] = json!("PS256");
        KeySet::read(json!({"keys": [jwk]}).to_string().as_bytes()).unwrap()
    };
    assert_eq!(check(&key.sign(&claims()), &only_pss), Err(TokenError::Algorithm), "a key is for what its issuer says");
    let own = key.sign_as(&json!({"alg": "RS256", "kid": "a", "crit": ["b64"], "b64": false}), &claims());
    assert_eq!(check(&own, &keys), Err(TokenError::Malformed), "an extension that must be understood");
    let brought = Key::p256("a");
    let header = json!({"alg": "ES256", "kid": "a", "jwk": brought.jwk(), "jku": "https://evil.example/keys"});
    assert_eq!(
        check(&brought.sign_as(&header, &claims()), &keys),
        Err(TokenError::Algorithm),
        "a key that it brings along"
    );
}

#[test]
fn signatures_are_of_the_issuers_key_and_of_these_words() {
    let (key, other) = (Key::p256("a"), Key::p256("a"));
    let keys = set(&[&key]);
    assert_eq!(check(&other.sign(&claims()), &keys), Err(TokenError::Signature));
    assert_eq!(check(&Key::p256("b").sign(&claims()), &keys), Err(TokenError::UnknownKey));
    let good = key.sign(&claims());
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let changed = key.sign(&with("sub", json!("eve")));
    let (changed, _) = changed.rsplit_once('.').unwrap();
    assert_eq!(check(&format!("{changed}.{signature}"), &keys), Err(TokenError::Signature));
    for bad in ["", "AA", &signature[..signature.len() - 2]] {
        assert_eq!(check(&format!("{signed}.{bad}"), &keys), Err(TokenError::Signature), "{bad}");
    }
    assert_eq!(check(&format!("{signed}.{}", URL_SAFE_NO_PAD.encode([0; 64])), &keys), Err(TokenError::Signature));
}

#[test]
fn claims_are_for_us_and_for_now() {
    let key = Key::ed25519("a");
    let keys = set(&[&key]);
    let refused = |claim: &str, value: Value| check(&key.sign(&with(claim, value)), &keys).err();
    assert_eq!(refused("exp", json!(NOW - 29)), None, "within the leeway");
    for expired in [json!(NOW - 30), json!(0), json!(-1), json!(null), json!("9999999999"), json!([9_999_999_999_u64])]
    {
        assert_eq!(refused("exp", expired), Some(TokenError::Expired));
    }
    let mut endless = claims();
    endless.as_object_mut().unwrap().remove("exp");
    assert_eq!(check(&key.sign(&endless), &keys), Err(TokenError::Expired), "a token says when it ends");
    assert_eq!(refused("exp", json!(NOW as f64 + 0.5)), None);
    assert_eq!(refused("nbf", json!(NOW + 30)), None);
    assert_eq!(refused("nbf", json!(NOW + 31)), Some(TokenError::NotYet));
    assert_eq!(refused("nbf", json!("soon")), Some(TokenError::NotYet));
    for elsewhere in [json!("shopping"), json!(["x"]), json!([]), json!(null), json!({"shop": 1}), json!("shop other")]
    {
        assert_eq!(refused("aud", elsewhere), Some(TokenError::Audience));
    }
    for other in [json!("https://issuer.example/"), json!(["https://issuer.example"]), json!(null)] {
        assert_eq!(refused("iss", other), Some(TokenError::Issuer));
    }
}

#[test]
fn what_is_no_token_is_told_apart_and_breaks_nothing() {
    let key = Key::p256("a");
    let (keys, good) = (set(&[&key]), key.sign(&claims()));
    for bad in [
        "",
        ".",
        "..",
        "...",
        "a.b",
        "a.b.c",
        "{}.{}.",
        "e30.e30.",
        &good[1..],
        &format!("{good}.x"),
        &format!("{good}="),
    ] {
        assert_eq!(check(bad, &keys), Err(TokenError::Malformed), "{bad}");
    }
    assert_eq!(check(&"a".repeat(10_000), &keys), Err(TokenError::Malformed));
    let list = key.sign(&json!(["not", "claims"]));
    assert_eq!(check(&list, &keys), Err(TokenError::Malformed));
    for cut in 0..good.len() {
        assert!(check(&good[..cut], &keys).is_err(), "{cut}");
    }
}

#[test]
fn of_a_set_what_is_known_is_used() {
    let key = Key::p256("a");
    let mut odd = key.jwk();
    odd["use"] = json!("enc");
    odd["kid"] = json!("enc");
    let others = json!([
        {"kty": "oct", "kid": "secret", "k": "c2VjcmV0"}, {"kty": "EC", "crv": "P-521", "kid": "p", "x": "AA", "y": "AA"},
        {"kty": "EC", "crv": "P-256", "kid": "short", "x": "AA", "y": "AA"}, {"kid": "nothing"}, 7, odd, key.jwk(),
    ]);
    let set = KeySet::read(json!({ "keys": others }).to_string().as_bytes()).unwrap();
    assert_eq!(set.len(), 1);
    assert!(set.has(Some("a")) && set.has(None) && !set.has(Some("secret")) && !set.has(Some("enc")));
    assert!(KeySet::read(b"{}").is_err() && KeySet::read(b"<html>").is_err());
    assert!(!KeySet::read(b"{\"keys\":[]}").unwrap().has(None));
}
