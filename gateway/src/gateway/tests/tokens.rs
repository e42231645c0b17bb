//! Tokens while the policies about them change: what was checked by one says nothing to another.

use serde_json::json;
use weft_testkit::issuer::{Issuer, Key};

use super::{cache::Kept, *};

#[tokio::test]
async fn a_token_that_is_known_is_judged_by_the_policy_of_the_moment() {
    let key = Key::p256("one");
    let issuer = Issuer::start(&[&key]).await;
    let policy = |audience: &str, more: &str| {
        let url = issuer.url();
        format!(
            "name: callers\nservice: users\nauthentication: {{ jwt: [{{ issuer: '{url}', audiences: [{audience}] }}]{more} }}\n"
        )
    };
    let mut mesh = Kept::start(&policy("shop", "")).await;
    let wall = weft_runtime::clock::wall().duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let claims = json!({"iss": issuer.url(), "aud": "shop", "sub": "ada", "exp": wall + 600});
    let bearer = format!("Bearer {}", key.sign(&claims));
    let shown = [("authorization", bearer.as_str())];
    for _ in 0..2 {
        let answer = mesh.get("/api/users/ada", &shown).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    }
    mesh.apply(&policy("bank", "")).await;
    let refused = mesh.get("/api/users/ada", &shown).await;
    assert!(refused.status == StatusCode::UNAUTHORIZED && refused.body.contains("token-audience"), "{}", refused.body);
    mesh.apply(&policy("shop", ", rules: [{ name: admins, claims: [{ claim: sub, is: eve }] }]")).await;
    assert_eq!(mesh.get("/api/users/ada", &shown).await.status, StatusCode::FORBIDDEN);
    mesh.apply(&policy("shop", "")).await;
    assert_eq!(mesh.get("/api/users/ada", &shown).await.status, StatusCode::OK);
}
