//! The reviewer against an API server that speaks TLS and answers as Kubernetes does.

use serde_json::json;
use weft_testkit::kubernetes::{AUTHENTICATED, ApiServer, EXPIRED, FORBIDDEN, WRONG_AUDIENCE};

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
    let service = reviewer(&server).review("e30.e30.c2ln").await.unwrap();
    assert_eq!(service, "users.shop".parse().unwrap());
    let heard = server.heard().remove(0);
    assert_eq!(heard.line, "POST /apis/authentication.k8s.io/v1/tokenreviews");
    assert_eq!(heard.authorization, "Bearer registrys-own");
    let wanted = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
        "spec": { "token": "e30.e30.c2ln", "audiences": ["weft"] },
    });
    assert_eq!(heard.body, wanted);
}

#[tokio::test]
async fn what_the_api_server_does_not_vouch_for_is_refused_by_its_rule() {
    let server = ApiServer::start().await;
    let (refused, said) = rule(&server, 201, EXPIRED).await;
    assert!(refused == Some("token_unauthenticated") && said.contains("has expired"), "{said}");
    let (refused, said) = rule(&server, 201, WRONG_AUDIENCE).await;
    assert!(refused == Some("token_unauthenticated") && said.contains("invalid for the target audiences"), "{said}");
    // A server that does not know audiences answers without: such a token is good for the API server only.
    let (refused, said) = rule(
        &server,
        201,
        &AUTHENTICATED.replace(
            r#""audiences": ["weft"]
  }"#,
            r#""audiences": []
  }"#,
        ),
    )
    .await;
    assert!(refused == Some("token_other_audience") && said.contains("weft"), "{said}");
    for (user, says) in [
        ("kubernetes-admin", "no service account"),
        ("system:serviceaccount:weft:operator", "the mesh's own"),
        ("system:serviceaccount:shop:users.v2", "users.v2"),
    ] {
        let answer = AUTHENTICATED.replace("system:serviceaccount:shop:users", user);
        let (refused, said) = rule(&server, 201, &answer).await;
        assert!(refused == Some("token_no_service") && said.contains(says), "{user}: {said}");
    }
}

#[tokio::test]
async fn a_server_that_cannot_answer_refuses_nobody() {
    let server = ApiServer::start().await;
    let (refused, said) = rule(&server, 403, FORBIDDEN).await;
    assert!(refused.is_none() && said.contains("system:auth-delegator"), "{said}");
    for (status, body) in [(500, ""), (201, "{}"), (201, "not json")] {
        let (refused, said) = rule(&server, status, body).await;
        assert!(refused.is_none(), "{status} {body}: {said}");
    }
    let stranger = ApiServer::start().await;
    let misled = Settings { ca: stranger.ca(), ..settings(&server) };
    let failed = Reviewer::new(misled).unwrap().review("e30.e30.c2ln").await.unwrap_err();
    assert!(
        failed.rule().is_none() && server.heard().len() == 4,
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
