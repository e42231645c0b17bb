//! weft.registry.v1.Identity over gRPC: who may ask the authority for what.
//!
//! Lives here: parsing, authorising, statuses with the rule that refused. Does not: signing or remembering (`ca`), the TLS handshake (`server`).
//! Every refusal has a rule (`refusals`); the same rule is the reason in `google.rpc.ErrorInfo`.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::TaskTracker;
use tonic::{Code, Request, Response, Status};
use weft_identity::{Peer, Serial, Trust, name};
use weft_model::{Invalid, ServiceName, SpiffeId};
use weft_proto::weft::registry::v1 as pb;
use weft_runtime::Shutdown;

use crate::{
    ca::{
        Ca, ChangeError, Granted, Issued, Listed, Revoke, SignError, TokenError, Trusted,
        kubernetes::{ReviewError, Reviewer},
        state::millis,
        tokens,
    },
    metrics::IdentityMetrics,
    refusals::Refusals,
    server::Caller,
    sources::status,
};

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) ca: Ca,
    pub(crate) trust: Trust,
    /// Asked about tokens that are not ours.
    pub(crate) kubernetes: Option<Reviewer>,
    pub(crate) metrics: IdentityMetrics,
    pub(crate) refusals: Refusals,
    pub(crate) streams: TaskTracker,
    pub(crate) shutdown: Shutdown,
}

#[tonic::async_trait]
impl pb::identity_server::Identity for Identity {
    type BundleStream = ReceiverStream<Result<pb::BundleResponse, Status>>;

    async fn sign(&self, request: Request<pb::SignRequest>) -> Result<Response<pb::SignResponse>, Status> {
        let request = request.into_inner();
        let service = optional_service(&request.service)?;
        let id = match &self.kubernetes {
            Some(reviewer) if !tokens::is_ours(&request.token) => {
                let account = reviewer.review(&request.token).await.map_err(|e| self.not_reviewed(&e))?;
                self.account_as(&account, service.as_ref())?
            }
            Some(_) | None => {
                let granted = self.ca.check_token(&request.token);
                granted.and_then(|it| it.identity_for(service.as_ref())).map_err(|e| self.refused(&e))?
            }
        };
        let (csr, to) = (request.csr, id.clone());
        let issued = self.issue(move |ca| ca.sign(&csr, &to)).await?;
        self.metrics.issued("sign");
        tracing::info!(identity = %id, serial = %issued.leaf.serial, "certificate issued for a token");
        Ok(Response::new(pb::SignResponse { issued: Some(to_wire(&issued)), bundle: Some(bundle(&self.ca.trusted())) }))
    }

    async fn renew(&self, request: Request<pb::RenewRequest>) -> Result<Response<pb::RenewResponse>, Status> {
        let peer = self.known(&request)?;
        let (csr, shown) = (request.get_ref().csr.clone(), peer.leaf.clone());
        let issued = self.issue(move |ca| ca.renew(&csr, &shown)).await?;
        self.metrics.issued("renew");
        tracing::debug!(identity = %peer.id(), serial = %issued.leaf.serial, "certificate renewed");
        Ok(Response::new(pb::RenewResponse {
            issued: Some(to_wire(&issued)),
            bundle: Some(bundle(&self.ca.trusted())),
        }))
    }

    async fn bundle(&self, request: Request<pb::BundleRequest>) -> Result<Response<Self::BundleStream>, Status> {
        self.somebody(&request)?;
        let (out, answers) = mpsc::channel(1);
        let (mut trusted, shutdown) = (self.ca.follow(), self.shutdown.clone());
        self.streams.spawn(async move {
            loop {
                let now = trusted.borrow_and_update().clone();
                if out.send(Ok(bundle(&now))).await.is_err() {
                    return;
                }
                tokio::select! {
                    changed = trusted.changed() => if changed.is_err() { return },
                    () = out.closed() => return,
                    () = shutdown.draining() => break,
                }
            }
            drop(out.send(Err(Status::unavailable("the registry is leaving"))).await); // a reader that has gone needs no reason
        });
        Ok(Response::new(ReceiverStream::new(answers)))
    }

    async fn create_token(
        &self,
        request: Request<pb::CreateTokenRequest>,
    ) -> Result<Response<pb::CreateTokenResponse>, Status> {
        self.operator(&request)?;
        let request = request.into_inner();
        let service = optional_service(&request.service)?;
        if service.is_some() == request.operator {
            return Err(status::invalid(&Invalid::new("service", "name a service, or set `operator`, and not both")));
        }
        let life = (request.life_ms > 0).then(|| Duration::from_millis(request.life_ms));
        let (token, listed) = self.blocking(move |ca| ca.create_token(service.as_ref(), life)).await?;
        Ok(Response::new(pb::CreateTokenResponse { token, listed: Some(listed_to_wire(&listed)) }))
    }

    async fn list_tokens(
        &self,
        request: Request<pb::ListTokensRequest>,
    ) -> Result<Response<pb::ListTokensResponse>, Status> {
        self.operator(&request)?;
        let tokens = self.ca.list_tokens().iter().map(listed_to_wire).collect();
        Ok(Response::new(pb::ListTokensResponse { tokens }))
    }

    async fn revoke_token(
        &self,
        request: Request<pb::RevokeTokenRequest>,
    ) -> Result<Response<pb::RevokeTokenResponse>, Status> {
        self.operator(&request)?;
        let id = request.into_inner().id;
        self.blocking(move |ca| ca.revoke_token(&id)).await?;
        Ok(Response::new(pb::RevokeTokenResponse {}))
    }

    async fn revoke(&self, request: Request<pb::RevokeRequest>) -> Result<Response<pb::RevokeResponse>, Status> {
        self.operator(&request)?;
        let what = request.into_inner().what.ok_or_else(|| Invalid::new("what", "set one of serial, identity"));
        let what = what.and_then(revoke).map_err(|e| status::invalid(&e))?;
        self.blocking(move |ca| ca.revoke(&what)).await?;
        Ok(Response::new(pb::RevokeResponse {}))
    }

    async fn rotate_root(
        &self,
        request: Request<pb::RotateRootRequest>,
    ) -> Result<Response<pb::RotateRootResponse>, Status> {
        self.operator(&request)?;
        let notice = match request.into_inner().notice_ms {
            0 => None,
            ms => Some(Duration::from_millis(ms)),
        };
        let (pin, signs_from) = self.blocking(move |ca| Ok(ca.rotate(notice)?)).await?;
        Ok(Response::new(pb::RotateRootResponse {
            root: pin.as_bytes().to_vec().into(),
            signs_from_ms: millis(signs_from),
        }))
    }
}

impl Identity {
    async fn issue(
        &self,
        sign: impl FnOnce(&Ca) -> Result<Issued, SignError> + Send + 'static,
    ) -> Result<Issued, Status> {
        let ca = self.ca.clone();
        let signed = self.streams.spawn_blocking(move || sign(&ca)).await;
        signed.map_err(|e| Status::internal(format!("the authority: {e}")))?.map_err(|error| match error {
            SignError::Invalid(error) => status::invalid(&error),
            SignError::Foreign { .. } => self.refuse(Code::PermissionDenied, "foreign_trust_domain", error.to_string()),
            SignError::Revoked { .. } => {
                self.refuse(Code::Unauthenticated, weft_identity::Refusal::Revoked.rule(), error.to_string())
            }
            SignError::Authority(error) => Status::unavailable(error.to_string()),
        })
    }

    /// Returns the caller its connection proved, if it is still welcome: the connection may be older than its certificate's end.
    fn known<'r, T>(&self, request: &'r Request<T>) -> Result<&'r Peer, Status> {
        match request.extensions().get::<Caller>() {
            Some(Caller::Known(peer)) => match self.trust.judge(peer) {
                Ok(()) => Ok(peer),
                Err(refusal) => Err(self.refuse(Code::Unauthenticated, refusal.rule(), refusal.to_string())),
            },
            Some(Caller::Anonymous) | None => Err(self.refusals.nobody()),
        }
    }

    /// Returns who asks: by its token, or by its certificate.
    fn somebody<T>(&self, request: &Request<T>) -> Result<SpiffeId, Status> {
        match request.metadata().get("authorization").map(|value| value.to_str().unwrap_or_default()) {
            Some(header) => {
                let granted = self.ca.check_token(bearer(header));
                granted.map(|granted: Granted| granted.identity).map_err(|e| self.refused(&e))
            }
            None => Ok(self.known(request)?.id().clone()),
        }
    }

    /// Lets an operator pass.
    pub(crate) fn operator<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let id = self.somebody(request)?;
        if name::service_of(&id) == Some(name::operator()) {
            Ok(())
        } else {
            Err(self.refuse(Code::PermissionDenied, "not_an_operator", format!("{id} is no operator")))
        }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        change: impl FnOnce(&Ca) -> Result<T, ChangeError> + Send + 'static,
    ) -> Result<T, Status> {
        let ca = self.ca.clone();
        let done = self.streams.spawn_blocking(move || change(&ca)).await;
        done.map_err(|e| Status::internal(format!("the authority: {e}")))?.map_err(|error| match error {
            ChangeError::Invalid(error) => status::invalid(&error),
            ChangeError::Unknown { .. } => Status::not_found(error.to_string()),
            ChangeError::Store(error) => Status::unavailable(error.to_string()),
        })
    }

    fn refused(&self, error: &TokenError) -> Status {
        let code = match error {
            TokenError::OtherService { .. } => Code::PermissionDenied,
            TokenError::Malformed { .. }
            | TokenError::Algorithm { .. }
            | TokenError::Altered
            | TokenError::Elsewhere
            | TokenError::Expired { .. }
            | TokenError::Revoked { .. }
            | TokenError::Unknown { .. } => Code::Unauthenticated,
        };
        self.refuse(code, error.rule(), error.to_string())
    }

    fn not_reviewed(&self, error: &ReviewError) -> Status {
        match error.rule() {
            Some(rule) => self.refuse(Code::Unauthenticated, rule, error.to_string()),
            None => {
                self.refusals.note("review_out_of_reach", None, error);
                Status::unavailable(error.to_string())
            }
        }
    }

    /// A service account is one service, as a token of ours is.
    fn account_as(&self, account: &ServiceName, service: Option<&ServiceName>) -> Result<SpiffeId, Status> {
        match service {
            Some(service) if service != account => {
                let message = format!("the token is for the service account {account}, not for {service}");
                Err(self.refuse(Code::PermissionDenied, "token_other_service", message))
            }
            Some(_) | None => Ok(self.ca.domain().service(account)),
        }
    }

    fn refuse(&self, code: Code, rule: &'static str, message: String) -> Status {
        self.refusals.status(code, rule, &message)
    }
}

/// Returns the token in a header `authorization`.
pub(crate) fn bearer(header: &str) -> &str {
    header.strip_prefix("Bearer ").unwrap_or(header)
}

fn optional_service(text: &str) -> Result<Option<ServiceName>, Status> {
    match text {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|e: Invalid| status::invalid(&e.within("service"))),
    }
}

fn revoke(what: pb::revoke_request::What) -> Result<Revoke, Invalid> {
    match what {
        pb::revoke_request::What::Serial(text) => {
            text.parse::<Serial>().map(Revoke::Serial).map_err(|e| e.within("serial"))
        }
        pb::revoke_request::What::Identity(text) => {
            text.parse::<SpiffeId>().map(Revoke::Identity).map_err(|e| e.within("identity"))
        }
    }
}

fn to_wire(issued: &Issued) -> pb::Issued {
    pb::Issued {
        chain: issued.chain.iter().map(|der| der.to_vec().into()).collect(),
        not_after_ms: millis(issued.leaf.not_after),
        renew_after_ms: millis(issued.leaf.half_life()),
    }
}

fn bundle(it: &Trusted) -> pb::BundleResponse {
    let identities = it.revocations.identities.iter();
    pb::BundleResponse {
        trust_domain: it.bundle.domain().to_string(),
        roots: it.bundle.roots().iter().map(|der| der.to_vec().into()).collect(),
        revoked_serials: it.revocations.serials.iter().map(|serial| serial.as_bytes().to_vec().into()).collect(),
        revoked_identities: identities
            .map(|(id, before)| pb::RevokedIdentity { id: id.to_string(), before_ms: millis(*before) })
            .collect(),
    }
}

fn listed_to_wire(it: &Listed) -> pb::Token {
    pb::Token {
        id: it.id.clone(),
        identity: it.identity.to_string(),
        created_ms: millis(it.created),
        expires_ms: millis(it.expires),
        revoked_ms: it.revoked.map_or(0, millis),
    }
}
