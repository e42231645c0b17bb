//! The reviewer against a server that speaks TLS and gives the answers that a real API server gave.

use serde_json::{Value, json};
use weft_testkit::kubernetes::{
    ACCOUNT_DELETED, ALTERED, AUTHENTICATED, ApiServer, EXPIRED, FORBIDDEN, NOT_A_TOKEN, POD_DELETED, UNAUTHORIZED,
    WRONG_AUDIENCE, token,
};

use super::*;

fn settings(server: &ApiServer) -> Settings {
    Settings { audience: "weft".into(), api: server.url().parse().unwrap(), ca: server.ca(), token: server.token() }
}

fn reviewer(server: &ApiServer) -> Reviewer {
    Reviewer::new(settings(server)).unwrap()
}

async fn rule(server: &ApiServer, status: u16, body: &str) -> (Option<&'static str>, String) {
    server.says(status, body);
    let refused = reviewer(server).review("e30.e30.c2ln").await.unwrap_err();
    (refused.rule(), refused.to_string())
}

#[tokio::test]
async fn a_projected_token_is_the_service_its_account_names() {
    let server = ApiServer::start().await;
    server.says(201, AUTHENTICATED);
    let service = reviewer(&server).review(&token(AUTHENTICATED)).await.unwrap();
    assert_eq!(service, "users.shop".parse().unwrap());
    let heard = server.heard().remove(0);
    assert_eq!(heard.line, "POST /apis/authentication.k8s.io/v1/tokenreviews");
    assert_eq!(heard.authorization, "Bearer registrys-own");
    let wanted = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
        "spec": { "token": token(AUTHENTICATED), "audiences": ["weft"] },
    });
    assert_eq!(heard.body, wanted);
}

/// The good answer with something else in this place of its status.
fn but(path: &str, says: impl Into<Value>) -> String {
    let mut answer: Value = serde_json::from_str(AUTHENTICATED).unwrap();
    *answer["status"].pointer_mut(path).unwrap() = says.into();
    answer.to_string()
}

#[tokio::test]
async fn what_the_api_server_does_not_vouch_for_is_refused_by_its_rule() {
    let server = ApiServer::start().await;
    for (answer, says) in [
        (EXPIRED, "service account token has expired"),
        (WRONG_AUDIENCE, "is invalid for the target audiences [\"weft\"]"),
        (ALTERED, "error in cryptographic primitive"),
        (ACCOUNT_DELETED, "serviceaccounts \"gone\" not found"),
        (POD_DELETED, "service account token has been invalidated"),
        (NOT_A_TOKEN, "invalid bearer token"),
    ] {
        let (refused, said) = rule(&server, 201, answer).await;
        assert!(refused == Some("token_unauthenticated") && said.contains(says), "{says}: {said}");
    }
    // A server that does not know audiences answers without: such a token is good for the API server only.
    let (refused, said) = rule(&server, 201, &but("/audiences", json!([]))).await;
    assert!(refused == Some("token_other_audience") && said.contains("weft"), "{said}");
    for (user, says) in [
        ("kubernetes-admin", "no service account"),
        ("system:serviceaccount:weft:operator", "the mesh's own"),
        ("system:serviceaccount:shop:users.v2", "users.v2"),
    ] {
        let (refused, said) = rule(&server, 201, &but("/user/username", user)).await;
        assert!(refused == Some("token_no_service") && said.contains(says), "{user}: {said}");
    }
}

#[tokio::test]
async fn a_server_that_cannot_answer_refuses_nobody() {
    let server = ApiServer::start().await;
    for (status, answer) in [(403, FORBIDDEN), (401, UNAUTHORIZED)] {
        let (refused, said) = rule(&server, status, answer).await;
        assert!(refused.is_none() && said.contains("system:auth-delegator"), "{said}");
    }
    for (status, body) in [(500, ""), (201, "{}"), (201, "not json")] {
        let (refused, said) = rule(&server, status, body).await;
        assert!(refused.is_none(), "{status} {body}: {said}");
    }
    let stranger = ApiServer::start().await;
    let misled = Settings { ca: stranger.ca(), ..settings(&server) };
    let failed = Reviewer::new(misled).unwrap().review("e30.e30.c2ln").await.unwrap_err();
    assert!(
        failed.rule().is_none() && server.heard().len() == 5,
        "a server of another authority is told no token: {failed}"
    );
    assert!(Reviewer::new(Settings { ca: "/nowhere".into(), ..settings(&server) }).is_err());
}

#[tokio::test]
async fn an_answer_is_remembered_for_a_moment_and_an_outage_is_not() {
    let server = ApiServer::start().await;
    let reviewer = reviewer(&server);
    server.says(500, "");
    reviewer.review("a").await.unwrap_err();
    server.says(201, AUTHENTICATED);
    for _ in 0..3 {
        reviewer.review("a").await.unwrap();
    }
    assert_eq!(server.heard().len(), 2);
    reviewer.review("b").await.unwrap();
    assert_eq!(server.heard().len(), 3, "another token is another question");
    tokio::time::pause();
    tokio::time::advance(REMEMBERED).await;
    tokio::time::resume();
    reviewer.review("a").await.unwrap();
    assert_eq!(server.heard().len(), 4);
}

#[tokio::test]
async fn a_token_that_is_none_by_its_length_is_not_sent_on() {
    let server = ApiServer::start().await;
    let refused = reviewer(&server).review(&"e".repeat(MAX + 1)).await.unwrap_err();
    assert_eq!(refused.rule(), Some("token_malformed"));
    assert!(server.heard().is_empty());
}

#[tokio::test]
async fn more_than_so_many_questions_at_once_are_not_asked() {
    // Accepts and never answers.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = ApiServer::start().await;
    let api = format!("https://{}", silent.local_addr().unwrap()).parse().unwrap();
    let reviewer = Reviewer::new(Settings { api, ..settings(&server) }).unwrap();
    let mut asking = tokio::task::JoinSet::new();
    for n in 0..AT_ONCE {
        let reviewer = reviewer.clone();
        asking.spawn(async move { reviewer.review(&format!("token-{n}")).await });
    }
    while reviewer.shared.asking.available_permits() > 0 {
        tokio::task::yield_now().await;
    }
    let refused = reviewer.review("one more").await.unwrap_err();
    assert!(refused.rule().is_none() && refused.to_string().contains("under review"), "{refused}");
    asking.shutdown().await;
    assert_eq!(reviewer.shared.asking.available_permits(), AT_ONCE, "whoever goes away leaves its place");
}
