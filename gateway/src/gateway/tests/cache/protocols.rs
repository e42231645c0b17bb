//! The cache and the other protocols: what is kept of Connect, and what calls by any protocol make untrue.

use hyper::client::conn::http2;
use hyper_util::rt::TokioExecutor;
use prost::Message;
use tonic::transport::Channel;
use weft_proto::shop::users::v1::users_client::UsersClient;

use super::*;

/// GetUser by Connect, of this user.
fn connect(id: &str) -> String {
    format!("/shop.users.v1.Users/GetUser?connect=v1&encoding=json&message=%7B%22id%22%3A%22{id}%22%7D")
}

const UPDATE: &str = "/shop.users.v1.Users/UpdateUser";
const LIST: &str = "/api/users?page_size=3";

/// The user that writes are about.
fn update() -> UpdateUserRequest {
    UpdateUserRequest { user: Some(User { id: "ada".into(), ..User::default() }), ..UpdateUserRequest::default() }
}

impl Kept {
    async fn native(&self) -> UsersClient<Channel> {
        UsersClient::new(Channel::from_shared(format!("http://{}", self.mesh.addr)).unwrap().connect().await.unwrap())
    }

    /// A call of one message by its method.
    async fn post(&self, path: &str, content_type: &str, message: Vec<u8>) -> StatusCode {
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(TcpStream::connect(self.mesh.addr).await.unwrap())).await.unwrap();
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        let request = Request::post(path).header("host", "a").header("content-type", content_type);
        let response = sender.send_request(request.body(Full::new(Bytes::from(message))).unwrap()).await.unwrap();
        let status = response.status();
        response.into_body().collect().await.unwrap();
        status
    }

    /// A native call, whatever its method; returns how it ended.
    async fn native_to(&self, path: &str) -> String {
        let stream = TcpStream::connect(self.mesh.addr).await.unwrap();
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        let request = Request::post(format!("http://a{path}")).header("content-type", "application/grpc");
        let request = request.body(Full::new(Bytes::from_static(&[0; 5]))).unwrap();
        let response = sender.send_request(request).await.unwrap();
        response.headers()["grpc-status"].to_str().unwrap().to_owned()
    }

    /// Which of these are still answered from what is kept; afterwards all are kept.
    async fn kept(&self, paths: &[&str]) -> Vec<bool> {
        let mut kept = Vec::new();
        for path in paths {
            let answer = self.get(path, &[]).await;
            assert_eq!(answer.status, StatusCode::OK, "{path}: {}", answer.body);
            kept.push(answer.cache().starts_with("weft; hit"));
        }
        kept
    }
}

#[tokio::test]
async fn a_get_of_connect_is_answered_from_what_is_kept() {
    let kept = Kept::start(FOR_A_DAY).await;
    let path = connect("ada");
    let first = kept.get(&path, &[]).await;
    assert_eq!((first.status, first.call(), first.cache()), (StatusCode::OK, 1, "weft; fwd=miss; stored"));
    let again = kept.get(&path, &[]).await;
    assert_eq!((again.call(), again.body.as_str()), (1, first.body.as_str()));
    assert!(again.cache().starts_with("weft; hit") && again.headers.contains_key("age"), "{:?}", again.headers);
    let short = kept.get(&path, &[("if-none-match", first.headers["etag"].to_str().unwrap())]).await;
    assert_eq!((short.status, kept.calls()), (StatusCode::NOT_MODIFIED, 1));
    assert_eq!(kept.get(&connect("bob"), &[]).await.call(), 2, "another message");
    assert_eq!(kept.get(ADA, &[]).await.call(), 3, "REST has another form");
    let as_bytes =
        path.replace("encoding=json", "encoding=proto&base64=1").replace("%7B%22id%22%3A%22ada%22%7D", "CgNhZGE");
    let as_bytes = [kept.get(&as_bytes, &[]).await, kept.get(&as_bytes, &[]).await];
    assert_eq!(as_bytes[0].headers["content-type"], "application/proto");
    assert_eq!((as_bytes[1].call(), as_bytes[1].cache().split(';').nth(1)), (4, Some(" hit")));

    // With a credential neither from there nor kept, and errors never.
    let ada = ("authorization", "Bearer ada");
    assert_eq!([kept.get(&path, &[ada]).await.call(), kept.get(&path, &[ada]).await.call()], [5, 6]);
    for _ in 0..2 {
        assert_eq!(kept.get(&connect("gone"), &[]).await.status, StatusCode::NOT_FOUND);
    }
    assert_eq!(kept.calls(), 8);
    let none = kept.get(&connect("eve"), &[("cache-control", "only-if-cached")]).await;
    assert_eq!((none.status, kept.calls()), (StatusCode::GATEWAY_TIMEOUT, 8), "{}", none.body);
    assert!(none.body.contains("deadline_exceeded") && none.body.contains("only-if-cached"), "{}", none.body);
    let wrong = kept.get(&path, &[("connect-timeout-ms", "x")]).await;
    assert_eq!(wrong.status, StatusCode::BAD_REQUEST, "what is kept is for calls that are right: {}", wrong.body);

    let metrics = kept.mesh.context.metrics().encode();
    let line =
        "weft_gateway_cache_lookups_total{method=\"GET\",route=\"/shop.users.v1.Users/GetUser\",result=\"hit\"} 3\n";
    assert!(metrics.contains(line), "{metrics}");
}

#[tokio::test]
async fn a_write_forgets_what_it_may_have_changed_by_whatever_protocol_it_comes() {
    let kept = Kept::start(FOR_A_DAY).await;
    let get = connect("ada");
    let all = [ADA, LIST, &get];
    let mut native = kept.native().await;
    kept.kept(&all).await;

    // Reads change nothing, and neither do calls that are refused.
    native.get_user(GetUserRequest { id: "ada".into() }).await.unwrap();
    let read = kept.post("/shop.users.v1.Users/GetUser", "application/proto", vec![]).await;
    assert_eq!(read, StatusCode::OK);
    native.delete_user(DeleteUserRequest { id: "ada".into() }).await.unwrap_err();
    let refused = kept.post("/shop.users.v1.Users/DeleteUser", "application/json", b"{}".to_vec()).await;
    assert_eq!(refused, StatusCode::BAD_REQUEST);
    assert_eq!(kept.kept(&all).await, [true; 3]);

    // By its method a write does not say what it is about.
    native.update_user(update()).await.unwrap();
    assert_eq!(kept.kept(&all).await, [false; 3], "gRPC");
    let message = update().encode_to_vec();
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    let frame = [&[0], &length[..], &message].concat();
    assert_eq!(kept.post(UPDATE, "application/grpc-web+proto", frame).await, StatusCode::OK);
    assert_eq!(kept.kept(&all).await, [false; 3], "gRPC-Web");
    assert_eq!(kept.post(UPDATE, "application/proto", message).await, StatusCode::OK);
    assert_eq!(kept.kept(&all).await, [false; 3], "Connect");
    assert_eq!(kept.post(UPDATE, "application/json", b"{}".to_vec()).await, StatusCode::OK);
    assert_eq!(kept.kept(&all).await, [false; 3], "REST by the method's path");
    // By a path it does.
    assert_eq!(send(kept.mesh.addr, "PATCH", ADA, &[], "{}").await.status, StatusCode::OK);
    assert_eq!(kept.kept(&all).await, [false, true, false], "REST");
    assert_eq!(kept.kept(&all).await, [true; 3]);

    // An answer that is under way meanwhile is not kept.
    kept.service.may_answer.forget_permits(usize::MAX);
    let (to, calls) = (kept.mesh.addr, kept.calls());
    let mut old = JoinSet::new();
    for path in ["/api/users/bob".to_owned(), connect("bob")] {
        old.spawn(async move { send(to, "GET", &path, &[], "").await.call() });
    }
    kept.until_called(calls + 2).await;
    native.update_user(update()).await.unwrap();
    kept.service.may_answer.add_permits(100);
    while let Some(call) = old.join_next().await {
        assert!(call.unwrap() <= calls + 2);
    }
    assert_eq!(kept.kept(&["/api/users/bob", &connect("bob")]).await, [false; 2]);
}

#[tokio::test]
async fn who_calls_what_is_not_there_or_in_a_way_that_is_none_makes_nothing_be_forgotten() {
    let kept = Kept::start(FOR_A_DAY).await;
    let get = connect("ada");
    let all = [ADA, LIST, &get];
    kept.kept(&all).await;
    let calls = kept.calls();
    let nope = "/shop.users.v1.Users/Nope";
    assert_eq!(kept.native_to(nope).await, "12");
    assert_eq!(kept.post(nope, "application/grpc-web+proto", vec![0; 5]).await, StatusCode::OK, "it ends in its body");
    let by_connect = async |method: &str, path: &str, content_type: &str| {
        let headers = [("connect-protocol-version", "1"), ("content-type", content_type)];
        send(kept.mesh.addr, method, path, &headers, "{}").await.status
    };
    let json = "application/json";
    assert_eq!(by_connect("POST", nope, json).await, StatusCode::NOT_FOUND);
    assert_eq!(by_connect("POST", UPDATE, "text/plain").await, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert_eq!(by_connect("PUT", UPDATE, json).await, StatusCode::METHOD_NOT_ALLOWED);
    let late = [("connect-protocol-version", "1"), ("content-type", json), ("connect-timeout-ms", "x")];
    assert_eq!(send(kept.mesh.addr, "POST", UPDATE, &late, "{}").await.status, StatusCode::BAD_REQUEST);
    assert_eq!((kept.calls(), kept.kept(&all).await), (calls, vec![true; 3]));
}

#[tokio::test]
async fn a_write_that_was_aborted_may_have_changed_something() {
    let kept = Kept::start(FOR_A_DAY).await;
    let get = connect("ada");
    let all = [ADA, LIST, &get];
    kept.kept(&all).await;
    let by_rest = send(kept.mesh.addr, "PATCH", ADA, &[("aborted", "yes")], "{}").await;
    assert_eq!((by_rest.status, kept.kept(&all).await), (StatusCode::CONFLICT, vec![false, true, false]));
    let mut request = tonic::Request::new(update());
    request.metadata_mut().insert("aborted", "yes".parse().unwrap());
    assert_eq!(kept.native().await.update_user(request).await.unwrap_err().code(), tonic::Code::Aborted);
    assert_eq!(kept.kept(&all).await, [false; 3]);
}

#[tokio::test]
async fn a_write_that_its_caller_leaves_may_have_changed_something() {
    let kept = Kept::start(FOR_A_DAY).await;
    kept.kept(&[ADA]).await;
    let calls = kept.calls();
    let mut native = kept.native().await;
    kept.service.may_write.forget_permits(usize::MAX);
    let mut leaves = JoinSet::new();
    leaves.spawn(async move { native.update_user(update()).await });
    kept.until_called(calls + 1).await;
    assert_eq!(kept.kept(&[ADA]).await, [true], "it has not ended");
    leaves.shutdown().await;
    until("what was kept to be forgotten", SOON, || async { (!kept.kept(&[ADA]).await[0]).then_some(()) }).await;

    let to = kept.mesh.addr;
    let calls = kept.calls();
    let mut leaves = JoinSet::new();
    leaves.spawn(async move { send(to, "PATCH", ADA, &[], "{}").await.status });
    kept.until_called(calls + 1).await;
    assert_eq!(kept.kept(&[ADA]).await, [true]);
    leaves.shutdown().await;
    until("what was kept to be forgotten", SOON, || async { (!kept.kept(&[ADA]).await[0]).then_some(()) }).await;
}

#[tokio::test]
async fn a_write_forgets_every_spelling_of_its_path() {
    let kept = Kept::start(FOR_A_DAY).await;
    let first = kept.get(ADA, &[]).await.call();
    assert_eq!(kept.get("/api/users/%61d%61", &[]).await.call(), first, "the same path in other letters");
    let spellings = ["/api/users/a%40b", "/api/users/a@b", "/api/users/a%40b/"];
    assert_eq!(kept.kept(&spellings).await, [false, false, true], "a rule of unescaping may tell these apart");
    for by in ["/api/users/a@b", "/api/users/%61%40b"] {
        assert_eq!(send(kept.mesh.addr, "PATCH", by, &[], "{}").await.status, StatusCode::OK);
        assert_eq!(kept.kept(&spellings).await, [false, false, true], "{by}");
        assert_eq!(kept.kept(&spellings).await, [true; 3], "{by}");
    }
    let orders = ["/api/users?page_size=3&page_token=a", "/api/users?page_token=a&page_size=3"];
    assert_eq!(kept.kept(&orders).await, [false; 2]);
    assert_eq!(send(kept.mesh.addr, "POST", "/api/users", &[], "{}").await.status, StatusCode::OK);
    assert_eq!(kept.kept(&orders).await, [false; 2], "with whatever query");
}
