//! xDS for the app by way of its sidecar.

use envoy_types::pb::envoy::{
    config::core::v3::Node,
    service::discovery::v3::{
        DiscoveryRequest, DiscoveryResponse, aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
    },
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status as Answer, Streaming};
use weft_proto::weft::{
    discovery::v1::{ClientsRequest, discovery_client::DiscoveryClient},
    model::v1::Status,
};
use weft_testkit::wait;

use crate::fixture::{Fixture, LIMIT, Running, soon};

const CLUSTERS: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";

/// An ADS stream that asks for all clusters.
async fn ads(sidecar: &Running) -> Result<(mpsc::Sender<DiscoveryRequest>, Streaming<DiscoveryResponse>), Answer> {
    let at = format!("http://{}", sidecar.addresses.outbound);
    let mut client = AggregatedDiscoveryServiceClient::connect(at).await.map_err(|e| Answer::from_error(e.into()))?;
    let (requests, stream) = mpsc::channel(4);
    let node = Some(Node { id: "app-1".into(), ..Node::default() });
    requests.try_send(DiscoveryRequest { node, type_url: CLUSTERS.into(), ..DiscoveryRequest::default() }).unwrap();
    let answers = client.stream_aggregated_resources(ReceiverStream::new(stream)).await?.into_inner();
    Ok((requests, answers))
}

/// Whether the registry knows the app's client as one that acknowledged something.
async fn is_up_to_date(fixture: &Fixture) -> Option<()> {
    let mut client = DiscoveryClient::connect(fixture.registry_url()).await.ok()?;
    let request = ClientsRequest { name: "app-1".into(), resources: false };
    let known = client.clients(request).await.ok()?.into_inner().message().await.ok()??;
    (known.subscriptions[0].acknowledged > 0).then_some(())
}

#[tokio::test]
async fn the_apps_ads_stream_goes_to_the_registry_and_again_to_the_next() {
    let mut fixture = Fixture::with_registry().await;
    let sidecar = fixture.start(fixture.echo("echo")).await;
    fixture.listed_as(&sidecar, Status::Serving).await;
    let (requests, mut answers) = soon("a stream", ads(&sidecar)).await.unwrap();
    let answer = soon("clusters", answers.message()).await.unwrap().unwrap();
    assert_eq!(answer.type_url, CLUSTERS);
    let (response_nonce, version_info) = (answer.nonce, answer.version_info);
    let ack = DiscoveryRequest { type_url: CLUSTERS.into(), response_nonce, version_info, ..Default::default() };
    requests.send(ack).await.unwrap();
    wait::until("the acknowledgement", LIMIT, || is_up_to_date(&fixture)).await;

    fixture.stop_registry().await;
    let ended = soon("the end of the stream", answers.message()).await.unwrap_err();
    assert_eq!(ended.code(), Code::Unavailable, "{ended:?}");
    // A client that comes back meanwhile waits for the registry.
    let again = async {
        loop {
            let Ok((requests, mut answers)) = ads(&sidecar).await else { continue };
            if let Ok(Some(answer)) = answers.message().await {
                return (requests, answer);
            }
        }
    };
    let (_, (_requests, answer)) = tokio::join!(fixture.start_registry(), soon("clusters", again));
    assert_eq!(answer.type_url, CLUSTERS);
}

#[tokio::test]
async fn without_a_registry_nothing_is_relayed_and_the_app_is_told_so() {
    let fixture = Fixture::fixed();
    let sidecar = fixture.start(fixture.echo("echo")).await;
    sidecar.ready().await;
    let refused = soon("an answer", ads(&sidecar)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
    assert!(refused.message().contains("no registry"), "{refused:?}");
}
