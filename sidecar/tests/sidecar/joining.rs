//! A sidecar whose registry does not answer yet: what it says meanwhile, and how it goes on.
//!
//! Lives here: from bound ports to an identity, or to the end without one. Does not: how an identity is asked for and kept (`weft-discovery`).

use std::io::ErrorKind;

use http::Method;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tonic::Code;
use tonic::transport::{Channel, Endpoint};
use weft_proto::weft::testkit::v1::echo_client::EchoClient;
use weft_sidecar::Config;
use weft_testkit::{http::send, wait};

use crate::fixture::{Fixture, LIMIT, Running, says, soon};

impl Fixture {
    /// A sidecar that has to join, with the echo app.
    fn joining(&self) -> Config {
        Config { credential: Some(self.credential("echo", &self.dir.path().join("ca"))), ..self.echo("echo") }
    }
}

impl Running {
    async fn admin(&self, path: &str) -> (u16, String) {
        let answer = send(self.addresses.admin, Method::GET, path, "").await.unwrap();
        (answer.status.as_u16(), answer.body)
    }

    /// The app's way to the echo service, by a connection that is open now.
    async fn connected(&self) -> EchoClient<Channel> {
        let to = Endpoint::from_shared(format!("http://{}", self.addresses.outbound)).unwrap();
        let channel = soon("a connection", to.origin("http://echo".parse().unwrap()).connect()).await.unwrap();
        EchoClient::new(channel)
    }
}

#[tokio::test]
async fn a_sidecar_answers_before_it_has_an_identity_and_goes_on_when_it_has() {
    let mut fixture = Fixture::before_registry();
    let sidecar = fixture.start(fixture.joining()).await;
    let (status, why) = sidecar.admin("/readyz").await;
    assert!(status == 503 && why.starts_with("not ready: joining the mesh: "), "{status} {why}");
    assert_eq!((sidecar.admin("/healthz").await.0, sidecar.admin("/metrics").await.0), (200, 200));
    wait::until("the reason", LIMIT, || async {
        let (status, why) = sidecar.admin("/readyz").await;
        (status == 503 && why.starts_with("not ready: joining the mesh: no registry answers yet")).then_some(())
    })
    .await;

    let mut app = sidecar.connected().await;
    let refused = soon("an answer", app.unary(says("x"))).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    assert!(refused.message().starts_with("the sidecar is not ready: joining the mesh: "), "{refused}");
    let mut caller = TcpStream::connect(sidecar.addresses.inbound).await.unwrap();
    match soon("callers to be turned away", caller.read(&mut [0; 1])).await {
        Ok(bytes) => assert_eq!(bytes, 0),
        Err(reset) => assert_eq!(reset.kind(), ErrorKind::ConnectionReset),
    }
    assert!(!sidecar.data.join("pid").exists(), "the app is started when the sidecar is somebody");

    fixture.start_registry().await;
    let answer = wait::until("an answer of the app", LIMIT, || async {
        match app.clone().unary(says("x")).await {
            Ok(answer) => Some(answer.into_inner()),
            // By its own word each time: the connection is the one from before.
            Err(status) if status.message().contains("the sidecar is not ready") => None,
            Err(status) if status.message().contains("echo is not known") => None,
            Err(status) => panic!("{status:?}"),
        }
    })
    .await;
    assert_eq!(answer.instance, sidecar.id.to_string());
    sidecar.ready().await;
    assert!(sidecar.metric("weft_sidecar_certificate_expires_seconds ").await.starts_with('1'));
}

#[tokio::test]
async fn a_sidecar_that_is_refused_ends_with_the_rule_and_has_not_started_its_app() {
    let mut fixture = Fixture::before_registry();
    let other = fixture.credential("echo", &fixture.dir.path().join("other"));
    let mut sidecar = fixture.start(Config { credential: Some(other), ..fixture.echo("echo") }).await;
    fixture.start_registry().await;
    let refused = format!("{:#}", sidecar.ended().await.unwrap_err());
    assert!(refused.starts_with("joining the mesh: what answers at https://"), "{refused}");
    assert!(!sidecar.data.join("pid").exists());
}

#[tokio::test]
async fn a_sidecar_that_is_told_to_leave_before_it_has_joined_leaves_in_order() {
    let fixture = Fixture::before_registry();
    let mut sidecar = fixture.start(fixture.joining()).await;
    sidecar.shutdown.drain();
    sidecar.ended().await.unwrap();
    assert!(!sidecar.data.join("pid").exists());

    // Beside an app that somebody else runs it stays for that one's calls, as ever.
    let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = Config { app: app.local_addr().unwrap(), command: Vec::new(), ..fixture.joining() };
    let mut sidecar = fixture.start(config).await;
    let drained = soon("an answer", sidecar.admin("/drain")).await;
    assert_eq!(drained, (200, "draining: no registry lists this instance\n".to_owned()));
    let refused = soon("an answer", sidecar.connected().await.unary(says("x"))).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::Unavailable, "the sidecar is not ready: leaving"));
    drop(app);
    sidecar.ended().await.unwrap();
}
