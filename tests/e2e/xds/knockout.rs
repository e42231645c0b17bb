//! The knock-out matrix: between a stock client and the registry stands a relay that takes one field out of what the registry says. What then goes
//! wrong, if anything, is what the field is for; that nothing goes wrong without the relay is what the other tests show.
//!
//! Lives here: the faults, the relay, what each client is known to make of each. Does not: rules on what we send (the registry's tests).
//! `rds.config_source` has no row: the routes of a gRPC client are inline.
//! A client's refusal goes on to the registry, which counts it and shows it in `weft clients`, in the client's words.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use envoy_types::pb::{
    envoy::{
        config::{
            cluster::v3::{Cluster, cluster},
            core::v3::{
                ApiVersion, ConfigSource, HealthStatus, SelfConfigSource, address::Address,
                config_source::ConfigSourceSpecifier,
            },
            endpoint::v3::{ClusterLoadAssignment, lb_endpoint::HostIdentifier},
            listener::v3::Listener,
            route::v3::{Route, VirtualHost},
        },
        extensions::filters::network::http_connection_manager::v3::{
            HttpConnectionManager, http_connection_manager::RouteSpecifier,
        },
        service::discovery::v3::{
            DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
            aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
            aggregated_discovery_service_server::{AggregatedDiscoveryService, AggregatedDiscoveryServiceServer},
        },
    },
    google::protobuf::Any,
};
use prost::{Message, Name};
use serde_json::Value;
use tokio::{net::TcpListener, process::Command, time::Instant};
use tokio_stream::{Stream, StreamExt, wrappers::TcpListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming, transport::Channel};
use weft_testkit::{mesh::Mesh, wait};

use super::{
    mesh, rejections,
    stock::{self, Client, Lang},
};

use crate::ALONE;

/// Longest time until a client that was started has asked the registry.
const STARTED: Duration = Duration::from_secs(60);
/// Longest time until a rejection that was sent is counted.
const COUNTED: Duration = Duration::from_secs(30);

/// What a client makes of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Makes {
    /// Nothing: the call succeeds.
    Nothing,
    /// It rejects the response, and its calls fail.
    Rejects,
    /// It takes the response, or says nothing, and its calls fail.
    Fails,
}

use Makes::{Fails, Nothing, Rejects};

/// What the first row takes out.
const NOTHING: &str = "nothing";

struct Knockout {
    what: &'static str,
    /// Of Python, Node, Go and Java.
    makes: [Makes; 4],
    out: Out,
}

/// What is done to responses.
#[derive(Clone, Copy)]
enum Out {
    /// To each as a whole.
    Response(fn(&mut DiscoveryResponse)),
    /// To each of its resources.
    Resource(fn(&mut Any)),
}

impl Out {
    fn of(self, response: &mut DiscoveryResponse) {
        match self {
            Self::Response(out) => out(response),
            Self::Resource(out) => response.resources.iter_mut().for_each(out),
        }
    }
}

impl Knockout {
    fn of(&self, lang: Lang) -> Makes {
        let [python, node, go, java] = self.makes;
        match lang {
            Lang::Python => python,
            Lang::Node => node,
            Lang::Go => go,
            Lang::Java => java,
        }
    }
}

/// The matrix.
fn knockouts() -> Vec<Knockout> {
    let row = |what, makes, out| Knockout { what, makes, out: Out::Resource(out) };
    let whole = |what, makes, out| Knockout { what, makes, out: Out::Response(out) };
    let harmless = [Nothing; 4];
    vec![
        row(NOTHING, harmless, |_| {}),
        whole("version_info", harmless, |it| it.version_info.clear()),
        whole("nonce", harmless, |it| it.nonce.clear()),
        row("Listener.name is another", [Fails, Fails, Fails, Fails], |any| {
            change(any, |it: &mut Listener| it.name = "other".into())
        }),
        row("Listener.api_listener", [Rejects, Rejects, Rejects, Fails], |any| {
            change(any, |it: &mut Listener| it.api_listener = None)
        }),
        row("http_filters", [Rejects, Nothing, Rejects, Rejects], |any| manager(any, |it| it.http_filters.clear())),
        row("virtual_hosts.domains", [Rejects, Fails, Fails, Fails], |any| host(any, |it| it.domains.clear())),
        row("routes.match", [Rejects, Rejects, Rejects, Rejects], |any| routes(any, |it| it.r#match = None)),
        row("routes.match.path_specifier", [Rejects, Rejects, Rejects, Rejects], |any| {
            routes(any, |it| it.r#match.as_mut().expect("it is set").path_specifier = None);
        }),
        row("Cluster.type", [Rejects, Rejects, Rejects, Rejects], |any| {
            change(any, |it: &mut Cluster| it.cluster_discovery_type = None)
        }),
        row("Cluster.lb_policy is RANDOM", [Rejects, Rejects, Rejects, Rejects], |any| {
            change(any, |it: &mut Cluster| {
                it.load_balancing_policy = None;
                it.lb_policy = cluster::LbPolicy::Random.into();
            });
        }),
        row("eds_config", [Rejects, Rejects, Rejects, Rejects], |any| {
            change(any, |it: &mut Cluster| it.eds_cluster_config.as_mut().expect("it is set").eds_config = None);
        }),
        row("eds_config.resource_api_version", harmless, |any| {
            source(any, |it| it.resource_api_version = ApiVersion::Auto.into());
        }),
        row("eds_config is self instead of ads", harmless, |any| {
            source(any, |it| {
                it.config_source_specifier = Some(ConfigSourceSpecifier::Self_(SelfConfigSource::default()));
            });
        }),
        row("eds_cluster_config.service_name", harmless, |any| {
            change(any, |it: &mut Cluster| {
                it.eds_cluster_config.as_mut().expect("it is set").service_name.clear();
            });
        }),
        row("cluster_name is another", [Fails, Fails, Fails, Fails], |any| {
            change(any, |it: &mut ClusterLoadAssignment| it.cluster_name = "other".into());
        }),
        row("endpoints.locality", [Rejects, Rejects, Rejects, Nothing], |any| {
            change(any, |it: &mut ClusterLoadAssignment| it.endpoints.iter_mut().for_each(|it| it.locality = None));
        }),
        row("endpoints.load_balancing_weight", [Fails, Fails, Fails, Fails], |any| {
            change(any, |it: &mut ClusterLoadAssignment| {
                it.endpoints.iter_mut().for_each(|it| it.load_balancing_weight = None);
            });
        }),
        row("health is DRAINING", [Fails, Fails, Fails, Fails], |any| health(any, HealthStatus::Draining)),
        row("health is UNHEALTHY", [Fails, Fails, Fails, Fails], |any| health(any, HealthStatus::Unhealthy)),
        row("an address is a host's name", [Rejects, Rejects, Nothing, Rejects], |any| {
            change(any, |it: &mut ClusterLoadAssignment| {
                for endpoint in it.endpoints.iter_mut().flat_map(|it| &mut it.lb_endpoints) {
                    let Some(HostIdentifier::Endpoint(it)) = &mut endpoint.host_identifier else { continue };
                    let Some(Address::SocketAddress(it)) = it.address.as_mut().and_then(|it| it.address.as_mut())
                    else {
                        continue;
                    };
                    it.address = "localhost".into();
                }
            });
        }),
        row("endpoints", [Fails, Fails, Fails, Fails], |any| {
            change(any, |it: &mut ClusterLoadAssignment| it.endpoints.clear())
        }),
    ]
}

/// Changes a resource of this type.
fn change<M: Message + Name + Default>(any: &mut Any, how: impl FnOnce(&mut M)) {
    if any.type_url == M::type_url() {
        let mut message = M::decode(any.value.as_slice()).expect("the registry sends what it says");
        how(&mut message);
        any.value = message.encode_to_vec();
    }
}

fn manager(any: &mut Any, how: impl FnOnce(&mut HttpConnectionManager)) {
    change(any, |it: &mut Listener| {
        let inner = it.api_listener.as_mut().and_then(|it| it.api_listener.as_mut()).expect("a client's listener");
        change(inner, how);
    });
}

fn host(any: &mut Any, how: impl Fn(&mut VirtualHost)) {
    manager(any, |it| {
        let Some(RouteSpecifier::RouteConfig(routes)) = &mut it.route_specifier else { panic!("routes are inline") };
        routes.virtual_hosts.iter_mut().for_each(how);
    });
}

fn routes(any: &mut Any, how: impl Fn(&mut Route)) {
    host(any, |it| it.routes.iter_mut().for_each(&how));
}

fn source(any: &mut Any, how: impl FnOnce(&mut ConfigSource)) {
    change(any, |it: &mut Cluster| {
        let eds = it.eds_cluster_config.as_mut().expect("it is set");
        how(eds.eds_config.as_mut().expect("it is set"));
    });
}

fn health(any: &mut Any, is: HealthStatus) {
    change(any, |it: &mut ClusterLoadAssignment| {
        let all = it.endpoints.iter_mut().flat_map(|it| &mut it.lb_endpoints);
        all.for_each(|it| it.health_status = is.into());
    });
}

/// Stands between, for one client.
struct Relay {
    registry: Channel,
    out: Out,
    heard: Heard,
}

/// What passed a relay.
#[derive(Clone, Default)]
struct Heard {
    /// What the client said when it rejected something.
    rejected: Arc<Mutex<Vec<String>>>,
    /// Something was taken out of what it got.
    without: Arc<AtomicBool>,
}

impl Heard {
    fn reasons(&self) -> Vec<String> {
        self.rejected.lock().expect("nobody panics with it").clone()
    }
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Relay {
    type StreamAggregatedResourcesStream = Responses<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Responses<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        let (Heard { rejected, without }, out) = (self.heard.clone(), self.out);
        let requests = request.into_inner().map_while(Result::ok).map(move |it| {
            if let Some(error) = &it.error_detail {
                rejected.lock().expect("nobody panics with it").push(error.message.clone());
            }
            it
        });
        let mut registry = AggregatedDiscoveryServiceClient::new(self.registry.clone());
        let responses = registry.stream_aggregated_resources(requests).await?.into_inner();
        let responses = responses.map(move |response| {
            response.map(|mut it| {
                let before = it.clone();
                out.of(&mut it);
                without.fetch_or(it != before, Relaxed);
                it
            })
        });
        Ok(Response::new(Box::pin(responses)))
    }

    async fn delta_aggregated_resources(
        &self,
        _: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("no gRPC client asks for it"))
    }
}

async fn relay(registry: Channel, out: Out, ended: CancellationToken) -> (SocketAddr, Heard) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has free ports");
    let (at, heard) = (listener.local_addr().expect("it is bound"), Heard::default());
    let relay = Relay { registry, out, heard: heard.clone() };
    let server = tonic::transport::Server::builder().add_service(AggregatedDiscoveryServiceServer::new(relay));
    let served = server.serve_with_incoming_shutdown(TcpListenerStream::new(listener), ended.cancelled_owned());
    #[expect(clippy::disallowed_methods, reason = "it ends with the token of its test")]
    tokio::spawn(served);
    (at, heard)
}

async fn knocked_out(lang: Lang, test: &str) {
    if !stock::there(lang, test) {
        return;
    }
    let _shared = ALONE.read().await;
    let Some(mut mesh) = mesh(test, 1).await else { return };
    for knockout in knockouts() {
        let ended = CancellationToken::new();
        let (at, heard) = relay(mesh.registry_channel(), knockout.out, ended.clone()).await;
        let before = rejections(&mut mesh).await;
        let mut client = Client::start_at(lang, &mesh, "xds:///echo", &format!("http://{at}")).await;
        let expected = knockout.of(lang);
        // A call that is to succeed has all the time that a busy machine needs; one that is not counts once the client has got what is to be missed.
        let told = if expected == Nothing {
            client.calls(1, "timeout=60").await
        } else {
            let until = Instant::now() + STARTED;
            loop {
                let told = client.calls(1, "timeout=4").await;
                if heard.without.load(Relaxed) || Instant::now() > until {
                    break told;
                }
            }
        };
        assert_eq!(heard.without.load(Relaxed), knockout.what != NOTHING, "without {}: {told:?}", knockout.what);
        // A client may fail its call before it has told what it rejects.
        let until = Instant::now() + COUNTED;
        while expected == Rejects && heard.reasons().is_empty() && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let reasons = heard.reasons();
        let made = match (told.failed.is_empty(), reasons.is_empty()) {
            (true, true) => Nothing,
            (_, false) => Rejects,
            (false, true) => Fails,
        };
        assert_eq!(made, expected, "without {}: {told:?}, rejected {reasons:?}", knockout.what);
        // The relay hears a rejection before the registry has counted it.
        let until = Instant::now() + COUNTED;
        let mut counted = rejections(&mut mesh).await - before;
        while made == Rejects && counted == 0 && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(20)).await;
            counted = rejections(&mut mesh).await - before;
        }
        assert_eq!(counted > 0, made == Rejects, "without {}: the registry counted {counted}", knockout.what);
        if made == Rejects {
            wait::until(&format!("`weft clients` to say what {:?} rejects", knockout.what), COUNTED, async || {
                let said = heard.reasons().pop()?;
                shown(&mesh).await.iter().any(|it| !it.is_empty() && said.starts_with(it)).then_some(())
            })
            .await;
        }
        ended.cancel();
    }
}

/// Why xDS clients rejected something, as `weft clients` shows it to an operator: the words of each, or as much of them as the registry keeps.
async fn shown(mesh: &Mesh) -> Vec<String> {
    let mut command = Command::new(mesh.weft());
    command.args(["clients", "--output", "json", "--token-file"]).arg(mesh.operator_token());
    let said: Value = serde_json::from_str(&stock::succeed(&mut command).await).expect("it says JSON");
    let all = |it: &Value, field: &str| it[field].as_array().expect("a list").clone();
    let subscriptions = all(&said, "clients").iter().flat_map(|it| all(it, "subscriptions")).collect::<Vec<_>>();
    let errors = subscriptions.iter().filter_map(|it| it["rejection"]["error"].as_str());
    errors.map(str::to_owned).collect()
}

#[tokio::test]
async fn what_is_missing_is_missed_by_python() {
    knocked_out(Lang::Python, "what_is_missing_is_missed_by_python").await;
}

#[tokio::test]
async fn what_is_missing_is_missed_by_node() {
    knocked_out(Lang::Node, "what_is_missing_is_missed_by_node").await;
}

#[tokio::test]
async fn what_is_missing_is_missed_by_go() {
    knocked_out(Lang::Go, "what_is_missing_is_missed_by_go").await;
}

#[tokio::test]
async fn what_is_missing_is_missed_by_java() {
    knocked_out(Lang::Java, "what_is_missing_is_missed_by_java").await;
}
