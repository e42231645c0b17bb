//! What an operator asks of the authority: tokens, whom the mesh trusts, taking certificates back, a new root.
//!
//! Lives here: the calls, each authorised by the token itself, so that a command needs no certificate first. Does not: where the token is found
//! (`weft-cli`), who may do what (the registry's `ca`).
//! Bounds: each registry has 5 s to answer and is asked once.

use std::time::{Duration, SystemTime};

use tonic::{Request, Response, Status, transport::Channel};
use weft_identity::{Bundle, Clock, Revocations, RootPin, Serial, bootstrap_config};
use weft_model::{Invalid, ServiceName, SpiffeId};
use weft_proto::weft::registry::v1::{self as pb, identity_client::IdentityClient};

use crate::{
    RegistryUrls,
    credential::Credential,
    dial::{self, Dial},
    identity::{IdentityError, ask, join, trusted},
};

/// The authority as the holder of a token reaches it.
#[derive(Clone)]
pub struct Operator {
    credential: Credential,
    clock: Clock,
}

impl std::fmt::Debug for Operator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Operator").field("credential", &self.credential).finish_non_exhaustive()
    }
}

/// Whom a token is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenFor {
    /// Instances of this service.
    Service(ServiceName),
    /// Operators, who may do everything.
    Operator,
}

/// A token as the authority lists it; its string is nowhere but in its maker's hands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedToken {
    /// Its id.
    pub id: String,
    /// Whom its holder may become, a SPIFFE id.
    pub identity: String,
    /// When it was made.
    pub created: SystemTime,
    /// When it runs out.
    pub expires: SystemTime,
    /// When it was revoked, if it was.
    pub revoked: Option<SystemTime>,
}

/// What to take back before its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Revoked {
    /// One certificate.
    Serial(Serial),
    /// All that an identity holds now.
    Identity(SpiffeId),
}

impl Operator {
    /// Returns the authority that `credential` leads to. Nothing is dialled yet. For calls that an operator alone may make, it must be an operator's.
    pub fn new(credential: Credential, clock: Clock) -> Self {
        Self { credential, clock }
    }

    /// The same with the token that its file holds now: it is replaced when another root signs. Blocks for a file of a few kilobytes.
    #[must_use]
    pub fn fresh(&self) -> Self {
        Self { credential: self.credential.fresh(), clock: self.clock.clone() }
    }

    /// The root that the token leads to.
    pub fn pin(&self) -> RootPin {
        self.credential.pin()
    }

    /// Where the registries are.
    pub fn registries(&self) -> &RegistryUrls {
        self.credential.registries()
    }

    /// Returns a channel to the registries' other services, for calls that want a certificate: becomes whom the token names and shows that. Meant for a
    /// command: nobody renews the certificate. Fails if no registry answers within `within`.
    pub async fn channel(&self, within: Duration) -> Result<Channel, IdentityError> {
        let (task, identity) = join(self.credential.clone(), None, self.clock.clone(), within).await?;
        Ok(dial::secure(task.answered(), Dial::As(identity)))
    }

    /// Makes a token and returns its string, a secret, and how it will be listed. Without `life` it may be used for a day.
    pub async fn create_token(
        &self,
        whom: &TokenFor,
        life: Option<Duration>,
    ) -> Result<(String, ListedToken), IdentityError> {
        let life_ms = life.map_or(0, |life| u64::try_from(life.as_millis()).unwrap_or(u64::MAX));
        let (service, operator) = match whom {
            TokenFor::Service(service) => (service.full().to_owned(), false),
            TokenFor::Operator => (String::new(), true),
        };
        let request = pb::CreateTokenRequest { service, operator, life_ms };
        let answer = self.call(request, async |mut client, request| client.create_token(request).await).await?;
        let listed = answer.listed.ok_or_else(|| Invalid::new("listed", "is required"))?;
        Ok((answer.token, listed.into()))
    }

    /// Lists the tokens that have not run out, oldest first, the revoked ones included.
    pub async fn list_tokens(&self) -> Result<Vec<ListedToken>, IdentityError> {
        let request = pb::ListTokensRequest {};
        let answer = self.call(request, async |mut client, request| client.list_tokens(request).await).await?;
        Ok(answer.tokens.into_iter().map(ListedToken::from).collect())
    }

    /// Revokes a token. Certificates it led to live on.
    pub async fn revoke_token(&self, id: &str) -> Result<(), IdentityError> {
        let request = pb::RevokeTokenRequest { id: id.to_owned() };
        self.call(request, async |mut client, request| client.revoke_token(request).await).await.map(drop)
    }

    /// Takes certificates back.
    pub async fn revoke(&self, what: &Revoked) -> Result<(), IdentityError> {
        let what = match what {
            Revoked::Serial(serial) => pb::revoke_request::What::Serial(serial.to_string()),
            Revoked::Identity(id) => pb::revoke_request::What::Identity(id.to_string()),
        };
        let request = pb::RevokeRequest { what: Some(what) };
        self.call(request, async |mut client, request| client.revoke(request).await).await.map(drop)
    }

    /// Makes a new root; returns its hash and from when on it signs. Without `notice` that is half the life of a certificate away.
    pub async fn rotate_root(&self, notice: Option<Duration>) -> Result<(RootPin, SystemTime), IdentityError> {
        let notice_ms = notice.map_or(0, |notice| u64::try_from(notice.as_millis()).unwrap_or(u64::MAX).max(1));
        let request = pb::RotateRootRequest { notice_ms };
        let answer = self.call(request, async |mut client, request| client.rotate_root(request).await).await?;
        let digest: String = answer.root.iter().map(|byte| format!("{byte:02x}")).collect();
        let pin = digest.parse().map_err(|e: Invalid| e.within("root"))?;
        Ok((pin, at(answer.signs_from_ms)))
    }

    /// Asks whom the mesh trusts now. Any token will do.
    pub async fn trusted(&self) -> Result<(Bundle, Revocations), IdentityError> {
        let mut stream =
            self.call(pb::BundleRequest {}, async |mut client, request| client.bundle(request).await).await?;
        let first = stream.message().await.map_err(|status| IdentityError::Refused(Box::new(status)))?;
        trusted(first.ok_or_else(|| Invalid::new("bundle", "is required"))?)
    }

    /// Asks the registries in turn until one gives its word.
    async fn call<T: Clone, U>(
        &self,
        request: T,
        mut call: impl AsyncFnMut(IdentityClient<Channel>, Request<T>) -> Result<Response<U>, Status>,
    ) -> Result<U, IdentityError> {
        let mut last = None;
        for url in self.credential.registries().iter() {
            let config = bootstrap_config(self.credential.pin(), self.credential.registry(), &self.clock);
            let client = IdentityClient::new(dial::secure(url, Dial::Pinned(config)));
            match ask(url, call(client, self.signed(request.clone()))).await {
                Err(error @ IdentityError::OutOfReach { .. }) => last = Some(error),
                word => return word,
            }
        }
        Err(last.expect("a credential names at least one registry"))
    }

    fn signed<T>(&self, request: T) -> Request<T> {
        let mut request = Request::new(request);
        // A token that is no header would be refused as none, in the registry's words.
        if let Ok(mut bearer) =
            format!("Bearer {}", self.credential.secret()).parse::<tonic::metadata::AsciiMetadataValue>()
        {
            bearer.set_sensitive(true);
            request.metadata_mut().insert("authorization", bearer);
        }
        request
    }
}

impl From<pb::Token> for ListedToken {
    fn from(it: pb::Token) -> Self {
        let revoked = (it.revoked_ms > 0).then(|| at(it.revoked_ms));
        Self { id: it.id, identity: it.identity, created: at(it.created_ms), expires: at(it.expires_ms), revoked }
    }
}

/// Times beyond all time are the last there is: they are shown, and nothing is decided by them here.
fn at(millis: u64) -> SystemTime {
    const LAST: u64 = 253_402_300_799_000; // the end of the year 9999
    SystemTime::UNIX_EPOCH + Duration::from_millis(millis.min(LAST))
}
