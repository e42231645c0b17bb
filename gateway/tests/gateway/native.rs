//! Native gRPC: passed through, and reflection and health for all of it.

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use http::Response;
use http_body_util::{BodyExt, Full};
use hyper::{client::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use prost_reflect::DescriptorPool;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};
use tokio_stream::StreamExt;
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tonic_reflection::pb::{v1, v1alpha};
use weft_proto::{
    shop::users::v1::{GetUserRequest, users_client::UsersClient},
    weft::testkit::v1::{EchoRequest, echo_client::EchoClient},
};

use crate::support::{Running, channel, start, start_gateway};

fn says(text: &str) -> EchoRequest {
    EchoRequest { text: text.into(), count: 3, ..EchoRequest::default() }
}

#[tokio::test]
async fn all_four_kinds_of_call_pass_through() {
    let gateway = start().await;
    let mut echo = EchoClient::new(channel(&gateway).await);
    let one = echo.unary(says("a")).await.unwrap().into_inner();
    assert_eq!((one.text.as_str(), one.deadline_ms), ("a", 0), "no deadline is added to a native call");
    assert!(one.metadata.contains_key("traceparent"));
    let many: Vec<_> = echo.server_stream(says("b")).await.unwrap().into_inner().collect().await;
    assert_eq!(many.len(), 3);
    let texts = tokio_stream::iter(["x", "y", "z"].map(says));
    assert_eq!(echo.client_stream(texts).await.unwrap().into_inner().text, "x,y,z");

    let (sender, requests) = weft_testkit::echo::feed();
    let mut answers = echo.bidi(requests).await.unwrap().into_inner();
    for text in ["ping", "pong"] {
        sender.send(says(text)).await.unwrap();
        let answer = timeout(Duration::from_secs(5), answers.message()).await.expect("each answer comes at once");
        assert_eq!(answer.unwrap().unwrap().text, text);
    }
    drop(sender);
    assert!(answers.message().await.unwrap().is_none());
}

#[tokio::test]
async fn a_status_passes_through_with_its_message() {
    let gateway = start().await;
    let error =
        UsersClient::new(channel(&gateway).await).get_user(GetUserRequest { id: "é".into() }).await.unwrap_err();
    assert_eq!((error.code(), error.message()), (Code::NotFound, "no user \"é\""));
    let mut failing = says("x");
    failing.fail_with = 9;
    let error = EchoClient::new(channel(&gateway).await).unary(failing).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
}

/// By hand: tonic's own client would end the call before the gateway could.
#[tokio::test]
async fn a_deadline_ends_a_native_call() {
    let gateway = start().await;
    let stream = TcpStream::connect(gateway.addr).await.unwrap();
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let slow = EchoRequest { delay_ms: 60_000, ..says("x") }.encode_to_vec();
    let framed = [&[0, 0, 0, 0, u8::try_from(slow.len()).unwrap()], slow.as_slice()].concat();
    let request = http::Request::post(format!("http://{}/weft.testkit.v1.Echo/Unary", gateway.addr))
        .header("content-type", "application/grpc+proto")
        .header("te", "trailers")
        .header("grpc-timeout", "50m")
        .body(Full::new(Bytes::from(framed)))
        .unwrap();
    let (head, body) =
        timeout(Duration::from_secs(5), sender.send_request(request)).await.unwrap().unwrap().into_parts();
    let collected = body.collect().await.unwrap();
    let status = head.headers.get("grpc-status").or_else(|| collected.trailers()?.get("grpc-status"));
    assert_eq!(status.map(|it| it.to_str().unwrap()), Some("4"), "{head:?}");
    assert_eq!(head.headers["content-type"], "application/grpc+proto", "as it was asked for");
}

#[tokio::test]
async fn an_upstream_that_is_down_is_unavailable() {
    let unused = weft_runtime::listen::ListenAddr::loopback(0).lasting().get(); // no other test is given it meanwhile
    let upstream = unused.to_string();
    let gateway = start_gateway(upstream, |_| {}).await;
    let error = EchoClient::new(channel(&gateway).await).unary(says("x")).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
}

#[tokio::test]
async fn grpc_over_http_1_is_told_to_use_http_2() {
    let gateway = start().await;
    let headers = [("content-type", "application/grpc")];
    let answer = crate::support::send(gateway.addr, "POST", "/shop.users.v1.Users/GetUser", &headers, "").await;
    assert_eq!(answer.status, 505);
}

#[tokio::test]
async fn health_answers_for_the_gateway_and_for_every_service() {
    let gateway = start().await;
    let mut health = HealthClient::new(channel(&gateway).await);
    for name in ["", "shop.users.v1.Users", "weft.testkit.v1.Echo", "grpc.health.v1.Health"] {
        let answer = health.check(HealthCheckRequest { service: name.into() }).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{name:?}");
    }
    let unknown = health.check(HealthCheckRequest { service: "no.Such".into() }).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    let watch = |service: &str| HealthCheckRequest { service: service.into() };
    let mut watching = health.watch(watch("no.Such")).await.unwrap().into_inner();
    assert_eq!(watching.message().await.unwrap().unwrap().status(), ServingStatus::ServiceUnknown);
}

/// The backend has no health service: its own word is proof that the probe came through.
#[tokio::test]
async fn a_probe_is_passed_on_to_the_app_and_counted_as_one() {
    let gateway = start().await;
    let probe = async |names: &str| {
        let mut request = tonic::Request::new(HealthCheckRequest::default());
        request.metadata_mut().insert("weft-probe", names.parse().unwrap());
        HealthClient::new(channel(&gateway).await).check(request).await.unwrap_err().code()
    };
    assert_eq!(probe("Not A Name").await, Code::InvalidArgument);
    assert_eq!(probe("users/no-id").await, Code::InvalidArgument);
    assert_eq!(probe("nobody").await, Code::Unavailable);
    assert_eq!(probe("upstream").await, Code::Unimplemented);
    let metrics = crate::support::send(gateway.admin, "GET", "/metrics", &[], "").await.body;
    for line in [
        r#"weft_gateway_calls_total{protocol="grpc",method="POST",route="/grpc.health.v1.Health/Check",status="UNIMPLEMENTED"} 1"#,
        r#"rpc_client_call_duration_seconds_count{rpc_system_name="grpc",rpc_method="grpc.health.v1.Health/Check",rpc_response_status_code="UNIMPLEMENTED"} 1"#,
    ] {
        assert!(metrics.contains(line), "{line} in\n{metrics}");
    }
}

/// On its machine an operator is told all that is known; what a trusted proxy passes on comes from somebody outside.
#[tokio::test]
async fn a_probe_from_outside_hears_what_any_caller_outside_does() {
    let unused = weft_runtime::listen::ListenAddr::loopback(0).lasting().get(); // no other test is given it meanwhile
    let networks = vec!["127.0.0.0/8".parse().unwrap()];
    let proxies = weft_gateway::TrustedProxies { networks, ..weft_gateway::TrustedProxies::default() };
    let gateway = start_gateway(unused.to_string(), |config| config.proxies = proxies).await;
    let probe = async |way: Option<&'static str>| {
        let mut request = tonic::Request::new(HealthCheckRequest::default());
        request.set_timeout(Duration::from_secs(30));
        request.metadata_mut().insert("weft-probe", "upstream".parse().unwrap());
        if let Some(way) = way {
            request.metadata_mut().insert("x-forwarded-for", way.parse().unwrap());
        }
        HealthClient::new(channel(&gateway).await).check(request).await.unwrap_err().message().to_owned()
    };
    assert_eq!(probe(Some("203.0.113.7")).await, "cannot connect to upstream: connection refused");
    let here = probe(None).await;
    assert!(here.starts_with("cannot connect to upstream: connect failed: "), "{here}");
}

const LISTED: [&str; 5] = [
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
    "shop.users.v1.Users",
    "weft.testkit.v1.Echo",
];

async fn ask(
    gateway: &Running,
    asked: Vec<v1::server_reflection_request::MessageRequest>,
) -> Vec<v1::server_reflection_response::MessageResponse> {
    let mut client = v1::server_reflection_client::ServerReflectionClient::new(channel(gateway).await);
    let asked =
        asked.into_iter().map(|it| v1::ServerReflectionRequest { host: String::new(), message_request: Some(it) });
    let answers =
        client.server_reflection_info(tokio_stream::iter(asked.collect::<Vec<_>>())).await.unwrap().into_inner();
    answers.map(|answer| answer.unwrap().message_response.unwrap()).collect().await
}

fn pool_of(answer: &v1::server_reflection_response::MessageResponse) -> DescriptorPool {
    let v1::server_reflection_response::MessageResponse::FileDescriptorResponse(files) = answer else {
        panic!("{answer:?}")
    };
    let mut set = Vec::new();
    for file in &files.file_descriptor_proto {
        prost::encoding::bytes::encode(1, file, &mut set);
    }
    DescriptorPool::decode(set.as_slice()).unwrap()
}

#[tokio::test]
async fn reflection_lists_exactly_the_mesh_and_keeps_custom_options() {
    use v1::{server_reflection_request::MessageRequest as Ask, server_reflection_response::MessageResponse as Answer};
    let gateway = start().await;
    let answers = ask(
        &gateway,
        vec![
            Ask::ListServices(String::new()),
            Ask::FileContainingSymbol("shop.users.v1.Users.GetUser".into()),
            Ask::FileContainingSymbol("no.Such".into()),
            Ask::AllExtensionNumbersOfType("google.protobuf.MethodOptions".into()),
        ],
    )
    .await;
    let Answer::ListServicesResponse(list) = &answers[0] else { panic!("{answers:?}") };
    assert_eq!(list.service.iter().map(|it| it.name.as_str()).collect::<Vec<_>>(), LISTED);

    let pool = pool_of(&answers[1]);
    let http = pool.get_extension_by_name("google.api.http").unwrap();
    let users = pool.get_service_by_name("shop.users.v1.Users").unwrap();
    let get = users.methods().find(|method| method.name() == "GetUser").unwrap();
    assert!(format!("{}", get.options().get_extension(&http)).contains("/api/users/{id}"));

    assert!(matches!(&answers[2], Answer::ErrorResponse(error) if error.error_code == Code::NotFound as i32));
    assert!(
        matches!(&answers[3], Answer::AllExtensionNumbersResponse(it) if it.extension_number.contains(&72_295_728))
    );
}

#[tokio::test]
async fn every_listed_service_can_be_described_by_name_and_by_file() {
    use v1::server_reflection_request::MessageRequest as Ask;
    let gateway = start().await;
    let mut files = BTreeSet::new();
    for name in LISTED {
        let answers = ask(&gateway, vec![Ask::FileContainingSymbol(name.into())]).await;
        let service = pool_of(&answers[0]).get_service_by_name(name).unwrap();
        files.insert(service.parent_file().name().to_owned());
    }
    for file in files {
        let answers = ask(&gateway, vec![Ask::FileByFilename(file.clone())]).await;
        assert!(pool_of(&answers[0]).get_file_by_name(&file).is_some());
    }
}

#[tokio::test]
async fn older_clients_get_the_same_from_v1alpha() {
    use v1alpha::{
        server_reflection_request::MessageRequest as Ask, server_reflection_response::MessageResponse as Answer,
    };
    let gateway = start().await;
    let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(channel(&gateway).await);
    let asked = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(Ask::ListServices(String::new())),
    };
    let mut answers = client.server_reflection_info(tokio_stream::iter([asked])).await.unwrap().into_inner();
    let Some(Answer::ListServicesResponse(list)) = answers.message().await.unwrap().unwrap().message_response else {
        panic!()
    };
    assert_eq!(list.service.iter().map(|it| it.name.as_str()).collect::<Vec<_>>(), LISTED);
}

/// Answers every call with one empty message and no trailers.
async fn never_says_how_it_went(listener: TcpListener) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(async move {
            let answer = service_fn(async |_| {
                let response = Response::builder().header("content-type", "application/grpc");
                response.body(Full::new(Bytes::from_static(&[0; 5])))
            });
            let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            drop(http.serve_connection(TokioIo::new(stream), answer).await);
        });
    }
}

#[tokio::test]
async fn an_answer_that_ends_without_a_status_is_counted_as_unknown() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = listener.local_addr().unwrap().to_string();
    let mut backend = JoinSet::new();
    backend.spawn(never_says_how_it_went(listener));
    let gateway = start_gateway(upstream, |_| {}).await;
    let mut users = UsersClient::new(channel(&gateway).await);
    users.get_user(GetUserRequest::default()).await.unwrap_err();
    let counted = r#"weft_gateway_calls_total{protocol="grpc",method="POST",route="/shop.users.v1.Users/GetUser",status="UNKNOWN"} 1"#;
    let metrics = crate::support::send(gateway.admin, "GET", "/metrics", &[], "").await.body;
    assert!(metrics.contains(counted), "{metrics}");
}
