//! Calls through inbound and outbound.

use std::error::Error as _;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustix::process::Signal;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_stream::StreamExt;
use tonic::Code;
use weft_proto::weft::{model::v1::Status, testkit::v1::EchoRequest};
use weft_runtime::listen::ListenAddr;
use weft_testkit::{echo, process, wait};

use crate::fixture::{Fixture, LIMIT, says, signal, soon, under_way};

#[tokio::test]
async fn all_four_kinds_of_call_pass_through_outbound_and_inbound() {
    let fixture = Fixture::fixed();
    let sidecar = fixture.start(fixture.echo("echo")).await;
    fixture.services(&format!("echo = [\"{}\"]", sidecar.addresses.inbound));
    sidecar.ready().await;
    let mut client = sidecar.outbound("echo");
    wait::until("the route", LIMIT, || async { client.clone().unary(says("x")).await.ok() }).await;

    let answer = client.unary(EchoRequest { padding: 300_000, ..says("one") }).await.unwrap().into_inner();
    assert_eq!((answer.text.as_str(), answer.padding.len()), ("one", 300_000));
    assert_eq!(answer.instance, sidecar.id.to_string(), "the app knows its instance");

    let many = client.server_stream(EchoRequest { count: 5, ..says("many") }).await.unwrap().into_inner();
    assert_eq!(many.map(|answer| answer.unwrap().text).collect::<Vec<_>>().await.len(), 5);

    let joined = client.client_stream(tokio_stream::iter([says("a"), says("b")])).await.unwrap().into_inner();
    assert_eq!(joined.text, "a,b");

    let (feed, requests) = echo::feed();
    feed.send(says("0")).await.unwrap();
    let mut answers = client.bidi(requests).await.unwrap().into_inner();
    for turn in 0..10 {
        let answer = soon("an answer to the last message", answers.next()).await.unwrap().unwrap();
        assert_eq!(answer.text, turn.to_string());
        feed.send(says(&(turn + 1).to_string())).await.unwrap();
    }
    drop(feed);
    assert_eq!(answers.next().await.unwrap().unwrap().text, "10");
    assert!(answers.next().await.is_none());
}

#[tokio::test]
async fn a_failure_of_the_app_passes_through_with_its_code() {
    let fixture = Fixture::fixed();
    let sidecar = fixture.start(fixture.echo("echo")).await;
    sidecar.ready().await;
    let failed = sidecar.inbound().unary(EchoRequest { fail_with: 7, ..says("x") }).await.unwrap_err();
    assert_eq!(failed.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn an_app_that_cannot_be_reached_makes_refused_stream() {
    let fixture = Fixture::fixed();
    let nobody = ListenAddr::loopback(0).lasting().get();
    let config = weft_sidecar::Config { app: nobody, ..fixture.config("echo", &[]) };
    let sidecar = fixture.start(config).await;
    let stream = TcpStream::connect(sidecar.addresses.inbound).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let mut driving = JoinSet::new();
    driving.spawn(connection);
    let request = Request::post(format!("http://{}/weft.testkit.v1.Echo/Unary", sidecar.addresses.inbound));
    let request = request.header("content-type", "application/grpc").body(Empty::<Bytes>::new()).unwrap();
    let refused = soon("the answer", sender.send_request(request)).await.unwrap_err();
    let reason = refused.source().and_then(|source| source.downcast_ref::<h2::Error>()).and_then(h2::Error::reason);
    assert_eq!(reason, Some(h2::Reason::REFUSED_STREAM), "{refused:?}");
}

#[tokio::test]
async fn a_call_that_fails_on_its_way_is_answered_in_the_form_it_was_made() {
    let fixture = Fixture::fixed();
    let sidecar = fixture.start(fixture.echo("echo")).await;
    fixture.services(&format!("echo = [\"{}\"]", sidecar.addresses.inbound));
    sidecar.ready().await;
    let client = sidecar.outbound("echo");
    wait::until("the route", LIMIT, || async { client.clone().unary(says("x")).await.ok() }).await;
    let to = sidecar.addresses.outbound;
    let stream = TcpStream::connect(to).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let mut driving = JoinSet::new();
    driving.spawn(connection);
    for (asked, status, told, code, body) in [
        ("application/grpc", 200, "application/grpc", Some("12"), ""),
        ("application/grpc+json", 200, "application/grpc+json", Some("12"), ""),
        ("application/json", 501, "text/plain; charset=utf-8", None, "no service offers /no.Such/Method\n"),
    ] {
        let request = Request::post(format!("http://{to}/no.Such/Method")).header("content-type", asked);
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        let (head, said) = soon("the answer", sender.send_request(request)).await.unwrap().into_parts();
        let told_code = head.headers.get("grpc-status").map(|it| it.to_str().unwrap());
        assert_eq!((head.status.as_u16(), told_code), (status, code), "{asked}: {head:?}");
        assert_eq!(head.headers["content-type"], told, "{asked}");
        assert_eq!(soon("the body", said.collect()).await.unwrap().to_bytes(), body, "{asked}");
    }
}

#[tokio::test]
async fn an_app_that_dies_costs_the_call_in_flight_and_no_other() {
    let fixture = Fixture::fixed();
    let sidecar = fixture.start(fixture.echo("echo")).await;
    fixture.services(&format!("echo = [\"{}\"]", sidecar.addresses.inbound));
    sidecar.ready().await;
    let client = sidecar.outbound("echo");
    wait::until("the route", LIMIT, || async { client.clone().unary(says("x")).await.ok() }).await;
    let pid = sidecar.pid(None).await;

    let mut in_flight = client.clone();
    let in_flight = in_flight.unary(EchoRequest { delay_ms: 20_000, ..says("slow") });
    let others = async {
        under_way(client.clone()).await;
        signal(pid, Signal::KILL);
        process::gone(pid.as_raw_nonzero().get().cast_unsigned(), LIMIT).await; // a call on a dying process may be lost with it
        // Refused by the inbound while nobody listens, and sent again by the outbound until somebody does.
        soon("an answer of the next process", client.clone().unary(says("y"))).await.unwrap();
        assert_ne!(sidecar.pid(Some(pid)).await, pid);
    };
    let (lost, ()) = tokio::join!(soon("the end of the call", in_flight), others);
    assert_eq!(lost.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn an_edit_of_the_services_file_moves_calls_and_a_broken_one_does_not() {
    let fixture = Fixture::fixed();
    let (one, other) = (fixture.start(fixture.echo("one")).await, fixture.start(fixture.echo("other")).await);
    one.ready().await;
    other.ready().await;
    let client = one.outbound("echo");
    let answers_from = |id: String| {
        let client = client.clone();
        wait::until("answers from the right instance", LIMIT, move || {
            let (mut client, id) = (client.clone(), id.clone());
            async move { client.unary(says("x")).await.ok().filter(|answer| answer.get_ref().instance == id).map(drop) }
        })
    };
    fixture.services(&format!("echo = [\"{}\"]", one.addresses.inbound));
    answers_from(one.id.to_string()).await;
    fixture.services("echo = [\"nowhere\"]");
    fixture.services(&format!("echo = [\"{}\"]", other.addresses.inbound));
    answers_from(other.id.to_string()).await;
    fixture.services("echo = [");
    for _ in 0..20 {
        assert_eq!(client.clone().unary(says("x")).await.unwrap().into_inner().instance, other.id.to_string());
    }
}

#[tokio::test]
async fn a_service_is_found_at_its_first_call_by_authority_or_by_grpc_name() {
    let fixture = Fixture::with_registry().await;
    let callee = fixture.start(fixture.echo("echo")).await;
    fixture.listed_as(&callee, Status::Serving).await;
    let caller = fixture.start(fixture.echo("caller")).await;
    for authority in ["echo", "echo.default.weft"] {
        let answer = soon("an answer", caller.outbound(authority).unary(says("x"))).await.unwrap().into_inner();
        assert_eq!(answer.instance, callee.id.to_string(), "{authority}");
    }
    let unknown = caller.outbound("127.0.0.1:9");
    wait::until("the directory", LIMIT, || async { unknown.clone().unary(says("x")).await.ok() }).await;
}
