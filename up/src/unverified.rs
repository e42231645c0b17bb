//! A gateway asked how it is, whoever it may be.
//!
//! Lives here: its health, and whether it is spoken to in plaintext, by TLS, or not by us. Does not: TLS of the mesh, where it matters who answers
//! (`weft-identity`).
//! A gateway's certificate is for the names that its clients call it by, and is checked by them; here it is addressed as it listens, often by a loopback
//! address. Nothing secret is sent to it, and what it says is only reported, so whose certificate it shows is not looked at.

mod tls;

use std::{fmt, pin::pin, time::Duration};

use futures_util::future::{Either, select};
use tokio::time::timeout;
use tonic::{
    Status,
    transport::{Channel, Endpoint, Uri},
};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tower::service_fn;

use crate::text;

/// Time a gateway has for an answer.
pub const ANSWER: Duration = Duration::from_secs(3);
/// Time it has to answer in plaintext before it is asked by TLS beside.
const PLAINTEXT_FIRST: Duration = Duration::from_secs(1);

/// How a gateway is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// In plaintext.
    Http,
    /// By TLS.
    Https,
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http => "http",
            Self::Https => "https",
        })
    }
}

/// A gateway that said how it is.
#[derive(Debug)]
pub struct Gateway {
    /// How it was asked.
    pub scheme: Scheme,
    /// The connection it answered by.
    pub channel: Channel,
    /// Whether it serves what it was asked for.
    pub serves: bool,
}

/// Why a gateway did not say how it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unheard {
    /// It speaks TLS, with those only who show a certificate; we have none.
    CertificateWanted,
    /// It did not answer, or with an error.
    Failed {
        /// How it is spoken to; plaintext where nothing shows that it is TLS.
        scheme: Scheme,
        /// What came instead, in words.
        why: String,
    },
}

/// Asks a gateway for the health of a gRPC service, of itself by the empty name. Without a scheme in plaintext first, and by TLS where that is not understood
/// or no answer comes.
///
/// # Errors
/// [`Unheard`], within [`ANSWER`].
pub async fn ask(host: &str, port: u16, scheme: Option<Scheme>, service: &str) -> Result<Gateway, Unheard> {
    let at = At { host, port, service };
    let asked = async {
        match scheme {
            Some(Scheme::Http) => at.plaintext().await.map_err(|why| failed(Scheme::Http, why)),
            Some(Scheme::Https) => at.tls().await.map_err(|refusal| match refusal {
                Refusal::CertificateWanted => Unheard::CertificateWanted,
                Refusal::Answered(why) | Refusal::Nothing(why) => failed(Scheme::Https, why),
            }),
            None => at.either().await,
        }
    };
    let late = || Err(failed(scheme.unwrap_or(Scheme::Http), format!("no answer within {ANSWER:?}")));
    timeout(ANSWER, asked).await.unwrap_or_else(|_| late())
}

const fn failed(scheme: Scheme, why: String) -> Unheard {
    Unheard::Failed { scheme, why }
}

/// What came by TLS in place of an answer that can be used.
enum Refusal {
    /// A demand for a certificate, and then nothing.
    CertificateWanted,
    /// An error, said by somebody who had let us in.
    Answered(String),
    /// Nothing by TLS.
    Nothing(String),
}

#[derive(Clone, Copy)]
struct At<'a> {
    host: &'a str,
    port: u16,
    service: &'a str,
}

impl At<'_> {
    async fn either(self) -> Result<Gateway, Unheard> {
        let mut plaintext = pin!(self.plaintext());
        let unheard = match timeout(PLAINTEXT_FIRST, &mut plaintext).await {
            Ok(Ok(gateway)) => return Ok(gateway),
            Ok(Err(why)) => (self.tls().await, why),
            // It may be slow, or wait for what is no plaintext.
            Err(_) => match select(plaintext, pin!(self.tls())).await {
                Either::Left((Ok(gateway), _)) => return Ok(gateway),
                Either::Left((Err(why), tls)) => (tls.await, why),
                Either::Right((Err(Refusal::Nothing(_)), plaintext)) => {
                    return plaintext.await.map_err(|why| failed(Scheme::Http, why));
                }
                Either::Right((by_tls, _)) => (by_tls, String::new()),
            },
        };
        match unheard {
            (Ok(gateway), _) => Ok(gateway),
            (Err(Refusal::CertificateWanted), _) => Err(Unheard::CertificateWanted),
            (Err(Refusal::Answered(why)), _) => Err(failed(Scheme::Https, why)),
            (Err(Refusal::Nothing(_)), why) => Err(failed(Scheme::Http, why)), // it is not TLS that is missing
        }
    }

    async fn plaintext(self) -> Result<Gateway, String> {
        let channel = self.endpoint().connect_lazy();
        match self.health(&channel).await {
            Ok(serves) => Ok(Gateway { scheme: Scheme::Http, channel, serves }),
            Err(status) => Err(text::status_in_words(&status)),
        }
    }

    async fn tls(self) -> Result<Gateway, Refusal> {
        let client = tls::Client::new();
        let origin = Uri::try_from(format!("https://{}", self.authority())).expect("an authority makes a URL");
        let (host, port, connecting) = (self.host.to_owned(), self.port, client.clone());
        let connect = service_fn(move |_: Uri| connecting.clone().connect(host.clone(), port));
        let channel = self.endpoint().origin(origin).connect_with_connector_lazy(connect);
        match self.health(&channel).await {
            Ok(serves) => Ok(Gateway { scheme: Scheme::Https, channel, serves }),
            Err(status) if client.was_answered() => Err(Refusal::Answered(text::status_in_words(&status))),
            Err(_) if client.was_asked() => Err(Refusal::CertificateWanted), // its alert may be lost with the connection
            Err(status) => Err(Refusal::Nothing(text::status_in_words(&status))),
        }
    }

    /// Where a channel connects to when it is used; plain for tonic, since what is TLS is a connector's.
    fn endpoint(self) -> Endpoint {
        let endpoint = Channel::from_shared(format!("http://{}", self.authority())).expect("an authority makes a URL");
        endpoint.connect_timeout(ANSWER).tcp_nodelay(true)
    }

    fn authority(self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }

    async fn health(self, channel: &Channel) -> Result<bool, Status> {
        let request = HealthCheckRequest { service: self.service.to_owned() };
        let answer = HealthClient::new(channel.clone()).check(request).await?;
        Ok(answer.into_inner().status() == ServingStatus::Serving)
    }
}

#[cfg(test)]
mod tests {
    use std::{net::SocketAddr, sync::Arc};

    use hyper::server::conn::http2;
    use hyper_util::{
        rt::{TokioExecutor, TokioIo},
        service::TowerToHyperService,
    };
    use rustls::ServerConfig;
    use tokio::{
        io::{AsyncRead, AsyncWrite},
        net::TcpListener,
        task::JoinSet,
    };
    use tokio_rustls::TlsAcceptor;
    use tokio_stream::Empty;
    use tonic::{Code, Request, Response};
    use tonic_health::pb::{
        HealthCheckResponse,
        health_server::{Health, HealthServer},
    };
    use weft_identity::Callers;
    use weft_testkit::authority::{Authority, HOUR, Hand};

    use super::*;

    /// Says this of every service.
    #[derive(Clone, Copy)]
    struct Says(Result<ServingStatus, Code>);

    #[tonic::async_trait]
    impl Health for Says {
        type WatchStream = Empty<Result<HealthCheckResponse, Status>>;

        async fn check(&self, _: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
            let status = self.0.map_err(|code| Status::new(code, "so it was told to say"))?;
            Ok(Response::new(HealthCheckResponse { status: status.into() }))
        }

        async fn watch(&self, _: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
            Err(Status::unimplemented("nobody watches"))
        }
    }

    async fn serve(says: Says, stream: impl AsyncRead + AsyncWrite + Unpin) {
        let service = TowerToHyperService::new(HealthServer::new(says));
        drop(http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await);
    }

    /// Serves at an address, by TLS if there is a config for it, as long as the tasks are kept.
    async fn gateway(tls: Option<Arc<ServerConfig>>, says: Says) -> (SocketAddr, JoinSet<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let tls = tls.clone();
                connections.spawn(async move {
                    let Some(config) = tls else { return serve(says, stream).await };
                    // Whoever is not let in is only told so.
                    if let Ok(stream) = TlsAcceptor::from(config).accept(stream).await {
                        serve(says, stream).await;
                    }
                });
            }
        });
        (at, tasks)
    }

    fn config(callers: Callers) -> Arc<ServerConfig> {
        let authority = Authority::new("shop.example", &Hand::default());
        let mut config = (*authority.identity("gateway", HOUR).server_config(callers)).clone();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Arc::new(config)
    }

    async fn asked(at: SocketAddr, scheme: Option<Scheme>) -> Result<(Scheme, bool), Unheard> {
        ask(&at.ip().to_string(), at.port(), scheme, "").await.map(|it| (it.scheme, it.serves))
    }

    fn scheme_and_words(said: Result<(Scheme, bool), Unheard>) -> (Scheme, String) {
        match said {
            Err(Unheard::Failed { scheme, why }) => (scheme, why),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_gateway_is_asked_as_it_understands() {
        for (tls, scheme) in [(None, Scheme::Http), (Some(config(Callers::MayShow)), Scheme::Https)] {
            for (status, serves) in [(ServingStatus::Serving, true), (ServingStatus::NotServing, false)] {
                let (at, _tasks) = gateway(tls.clone(), Says(Ok(status))).await;
                assert_eq!(asked(at, None).await, Ok((scheme, serves)));
                assert_eq!(asked(at, Some(scheme)).await, Ok((scheme, serves)));
            }
        }
    }

    #[tokio::test]
    async fn a_scheme_that_was_named_is_the_only_one_tried() {
        let (plaintext, _tasks) = gateway(None, Says(Ok(ServingStatus::Serving))).await;
        assert_eq!(scheme_and_words(asked(plaintext, Some(Scheme::Https)).await).0, Scheme::Https);
        let (tls, _tasks) = gateway(Some(config(Callers::MayShow)), Says(Ok(ServingStatus::Serving))).await;
        assert_eq!(scheme_and_words(asked(tls, Some(Scheme::Http)).await).0, Scheme::Http);
    }

    #[tokio::test]
    async fn a_demand_for_a_certificate_is_noticed_whatever_becomes_of_the_connection() {
        let (at, _tasks) = gateway(Some(config(Callers::MustShow)), Says(Ok(ServingStatus::Serving))).await;
        for scheme in [None, Some(Scheme::Https)] {
            assert_eq!(asked(at, scheme).await, Err(Unheard::CertificateWanted));
        }
    }

    #[tokio::test]
    async fn an_error_of_a_gateway_that_takes_callers_without_a_certificate_is_no_demand_for_one() {
        for code in [Code::Unavailable, Code::Internal, Code::Unimplemented, Code::Cancelled] {
            let (at, _tasks) = gateway(Some(config(Callers::MayShow)), Says(Err(code))).await;
            for scheme in [None, Some(Scheme::Https)] {
                let expected = (Scheme::Https, "so it was told to say".to_owned());
                assert_eq!(scheme_and_words(asked(at, scheme).await), expected, "{code:?}");
            }
        }
    }

    #[tokio::test]
    async fn a_gateway_by_tls_that_waits_for_more_when_it_is_asked_in_plaintext_is_asked_by_tls_beside() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let acceptor = TlsAcceptor::from(config(Callers::MayShow));
        let serve = async {
            let (silent, _) = listener.accept().await.unwrap();
            let (stream, _) = listener.accept().await.unwrap();
            serve(Says(Ok(ServingStatus::Serving)), acceptor.accept(stream).await.unwrap()).await;
            drop(silent);
        };
        let said = tokio::select! {
            said = asked(at, None) => said,
            () = serve => panic!("the server ended first"),
        };
        assert_eq!(said, Ok((Scheme::Https, true)));
    }
}
