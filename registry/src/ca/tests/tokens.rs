//! Tokens: good ones, and every way in which one can be bad.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{hmac, signature::KeyPair as _};
use weft_identity::token::{Claims, Token};

use super::*;

const DAY: Duration = Duration::from_secs(86_400);

impl Fixture {
    fn token(&self, service: &str) -> String {
        self.ca.create_token(Some(&service.parse().unwrap()), None).unwrap().0
    }

    fn rule(&self, token: &str) -> &'static str {
        self.ca.check_token(token).expect_err("the token is bad").rule()
    }
}

fn parts(token: &str) -> [String; 3] {
    token.split('.').map(str::to_owned).collect::<Vec<_>>().try_into().unwrap()
}

fn encode(json: &serde_json::Value) -> String {
    URL_SAFE_NO_PAD.encode(json.to_string())
}

#[test]
fn a_token_leads_its_holder_here_and_grants_one_identity() {
    let it = Fixture::new();
    let text = it.token("users");
    let token: Token = text.parse().unwrap();
    assert_eq!(token.registries(), ["https://127.0.0.1:7100"]);
    assert_eq!(token.pin(), RootPin::of(&it.ca.trusted().bundle.roots()[0]));
    assert_eq!(token.expires(), it.hand.now() + DAY);
    let granted = it.ca.check_token(&text).unwrap();
    assert_eq!((&granted.identity, granted.is_operator()), (&it.id("users"), false));
    assert_eq!(granted.identity_for(None), Ok(it.id("users")));
    assert_eq!(granted.identity_for(Some(&"users".parse().unwrap())), Ok(it.id("users")));
}

#[test]
fn a_token_is_no_good_for_another_service_or_namespace() {
    let it = Fixture::new();
    let granted = it.ca.check_token(&it.token("users")).unwrap();
    for other in ["posts", "users.eu", "registry.weft", "operator.weft"] {
        let refused = granted.identity_for(Some(&other.parse().unwrap())).unwrap_err();
        assert_eq!(refused.rule(), "token_other_service", "{other}");
    }
}

#[test]
fn an_operator_may_be_any_service_but_not_the_registry() {
    let it = Fixture::new();
    let (text, listed) = it.ca.create_token(None, None).unwrap();
    assert_eq!(listed.identity, it.id("operator.weft"));
    let granted = it.ca.check_token(&text).unwrap();
    assert!(granted.is_operator());
    assert_eq!(granted.identity_for(Some(&"users".parse().unwrap())), Ok(it.id("users")));
    assert!(granted.identity_for(Some(&"registry.weft".parse().unwrap())).is_err());
    for reserved in ["registry.weft", "operator.weft"] {
        let refused = it.ca.create_token(Some(&reserved.parse().unwrap()), None);
        assert!(matches!(refused, Err(ChangeError::Invalid(e)) if e.field() == "service"), "{reserved}");
    }
}

#[test]
fn a_token_expires_and_can_be_revoked() {
    let it = Fixture::new();
    let (short, listed) = it.ca.create_token(Some(&"users".parse().unwrap()), Some(MINUTE)).unwrap();
    let long = it.token("users");
    it.hand.advance(MINUTE + Duration::from_secs(1));
    assert_eq!(it.rule(&short), "token_expired");
    assert_eq!(it.ca.list_tokens().len(), 1, "what ran out is not listed");
    let id = long.parse::<Token>().unwrap().id().to_owned();
    it.ca.revoke_token(&id).unwrap();
    it.ca.revoke_token(&id).unwrap();
    assert_eq!(it.rule(&long), "token_revoked");
    assert!(it.ca.list_tokens()[0].revoked.is_some());
    assert!(matches!(it.ca.revoke_token("nobody"), Err(ChangeError::Unknown { .. })));
    assert!(listed.revoked.is_none());
    let too_long = it.ca.create_token(None, Some(400 * DAY));
    assert!(matches!(too_long, Err(ChangeError::Invalid(e)) if e.field() == "life_ms"));
}

#[test]
fn the_file_holds_no_token_that_could_be_used() {
    let it = Fixture::new();
    let [_, claims, signature] = parts(&it.token("users"));
    let text = std::fs::read_to_string(it.file()).unwrap();
    assert!(!text.contains(&claims) && !text.contains(&signature));
}

#[test]
fn claims_that_were_altered_are_refused() {
    let it = Fixture::new();
    let [header, claims, signature] = parts(&it.token("users"));
    let mut claims: Claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
    claims.sub = it.id("operator.weft").to_string();
    let claims = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&claims).unwrap());
    assert_eq!(it.rule(&format!("{header}.{claims}.{signature}")), "token_altered");
}

#[test]
fn a_token_that_chooses_its_algorithm_is_refused() {
    let it = Fixture::new();
    let [header, claims, signature] = parts(&it.token("users"));
    for alg in ["none", "None", "HS256", "ES384", "RS256", ""] {
        let header = encode(&serde_json::json!({"alg": alg, "typ": "JWT"}));
        for signature in ["", &signature] {
            assert_eq!(it.rule(&format!("{header}.{claims}.{signature}")), "token_algorithm", "{alg}");
        }
    }
    // The classic: our public key as the secret of an HMAC.
    let state = it.ca.shared.state.load();
    let public = ring::signature::EcdsaKeyPair::from_pkcs8(
        &ring::signature::ECDSA_P256_SHA256_FIXED_SIGNING,
        &state.token_key,
        &ring::rand::SystemRandom::new(),
    );
    let secret = hmac::Key::new(hmac::HMAC_SHA256, public.unwrap().public_key().as_ref());
    for header in [encode(&serde_json::json!({"alg": "HS256", "typ": "JWT"})), header] {
        let signed = format!("{header}.{claims}");
        let forged = URL_SAFE_NO_PAD.encode(hmac::sign(&secret, signed.as_bytes()));
        assert!(it.ca.check_token(&format!("{signed}.{forged}")).is_err());
    }
}

#[test]
fn a_header_with_anything_else_in_it_is_refused() {
    let it = Fixture::new();
    let [_, claims, signature] = parts(&it.token("users"));
    for header in [
        serde_json::json!({"alg": "ES256", "typ": "JWT", "jwk": {}}),
        serde_json::json!({"alg": "ES256", "typ": "JWT", "crit": ["b64"], "b64": false}),
        serde_json::json!({"alg": "ES256", "typ": "at+jwt"}),
        serde_json::json!({"alg": "ES256"}),
    ] {
        assert_eq!(it.rule(&format!("{}.{claims}.{signature}", encode(&header))), "token_malformed", "{header}");
    }
    assert_eq!(it.rule(&format!("{}.{claims}.{signature}", encode(&serde_json::json!([])))), "token_algorithm");
    assert_eq!(it.rule("a.b"), "token_malformed");
    assert_eq!(it.rule(&"a".repeat(9 << 10)), "token_malformed");
}

#[test]
fn a_token_of_another_registry_is_refused() {
    let (ours, theirs) = (Fixture::new(), Fixture::new());
    assert_eq!(ours.rule(&theirs.token("users")), "token_altered");
}

#[test]
fn a_token_that_the_authority_forgot_is_refused() {
    let it = Fixture::new();
    let backup = std::fs::read(it.file()).unwrap();
    let token = it.token("users");
    std::fs::write(it.file(), backup).unwrap();
    assert_eq!(it.again().unwrap().check_token(&token).unwrap_err().rule(), "token_unknown");
}

#[test]
fn a_token_outlives_the_root_it_pins() {
    let it = Fixture::new();
    let old = it.token("users");
    it.ca.rotate(Some(Duration::ZERO)).unwrap();
    assert!(it.ca.check_token(&old).is_ok());
    let newest = it.token("users").parse::<Token>().unwrap().pin();
    assert_eq!(newest, RootPin::of(&it.ca.trusted().bundle.roots()[1]), "a new token pins the root that signs");
}

#[test]
fn an_operators_token_lies_in_the_directory_and_is_replaced_when_it_is_no_good() {
    let it = Fixture::new();
    let keep = || {
        it.ca.keep_operator_token(vec!["https://unused:1".into()]).unwrap();
        std::fs::read_to_string(it.dir.path().join("ca/operator.token")).unwrap()
    };
    let first = keep();
    assert!(it.ca.check_token(first.trim()).unwrap().is_operator());
    assert_eq!(keep(), first);
    it.ca.revoke_token(first.parse::<Token>().unwrap().id()).unwrap();
    let second = keep();
    assert_ne!(second, first);
    it.ca.rotate(Some(Duration::ZERO)).unwrap();
    assert_ne!(keep(), second, "it pins a root that is leaving");
}

#[test]
fn without_an_address_of_its_own_a_registry_makes_no_token() {
    let it = Fixture::new();
    let lost = Ca::open(&Settings { advertise: vec![], ..settings(&it.dir) }, it.hand.clock()).unwrap();
    assert!(lost.create_token(None, None).unwrap_err().to_string().contains("--advertise"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_text_is_refused_as_a_token_without_panic(text in ".{0,120}", a in "[A-Za-z0-9_-]{0,40}", b in "[A-Za-z0-9_-]{0,40}") {
        let it = Fixture::new();
        prop_assert!(it.ca.check_token(&text).is_err());
        let header = encode(&serde_json::json!({"alg": "ES256", "typ": "JWT"}));
        let token = format!("{header}.{a}.{b}");
        prop_assert!(it.ca.check_token(&token).is_err());
    }

    #[test]
    fn a_token_with_any_character_changed_is_refused(at in 0usize..10_000, to in "[A-Za-z0-9_.-]") {
        let it = Fixture::new();
        let token = it.token("users");
        let at = at % token.len();
        let mut spoilt = token.clone();
        spoilt.replace_range(at..=at, &to);
        prop_assert!(spoilt == token || it.ca.check_token(&spoilt).is_err());
    }
}
