//! Who the processes of the mesh are: the operator that `weft up` itself is, and a token for each service in a file of its own.
//!
//! Lives here: joining as the operator, making tokens, renewing them before they run out. Does not: what a process does with its token.
//! A token that is still good is kept over restarts, so that a mesh started a thousand times does not leave a thousand tokens. The files lie in `.weft/tokens`,
//! mode 600 in a directory of mode 700; a sidecar that starts again reads the file anew. A token leads to a root: one that leads to another than signs
//! now is replaced, since that root leaves the bundle in time. The registry keeps its operator's token in step, and that token says which root it is.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use tokio::time::sleep;
use weft_discovery::{
    Credential, IdentityTask, ListedToken, Operator, RegistryUrls, TokenFor, join, read_token, write_token,
};
use weft_identity::{Identity, RootPin};
use weft_model::ServiceName;
use weft_runtime::clock;

use crate::{config::Config, place::Place};

/// How long a token may be used, and how much of it must be left for one that is kept.
const LIFE: Duration = Duration::from_secs(30 * 86_400);
const LEFT: Duration = Duration::from_secs(15 * 86_400);
/// How often the tokens are looked at while the mesh runs, if not sooner: at each renewal of our own certificate. A root stays in the bundle for
/// longer than a certificate lives once its successor signs, so no token is left behind.
const LOOK: Duration = Duration::from_secs(12 * 3_600);
/// The registry is ready when it is asked.
const JOIN: Duration = Duration::from_secs(10);

/// The mesh's operator and the tokens of its services.
pub(crate) struct Keys {
    identity: Identity,
    task: IdentityTask,
    tokens: Tokens,
}

impl Keys {
    /// Joins the registry of `config` as its operator and sees to it that every service has a token.
    pub(crate) async fn open(config: &Config, place: &Place) -> anyhow::Result<Self> {
        let file = config.registry.operator_token();
        let credential = Credential::read(&file, None).context("the operator's token that the registry wrote")?;
        let operator = Operator::new(credential.clone(), Arc::new(clock::wall));
        let services = config.services.keys().cloned().chain([gateway()]).collect();
        let tokens = Tokens { operator, dir: place.tokens().to_owned(), services };
        let joined = tokio::try_join!(
            async {
                join(credential, None, Arc::new(clock::wall), JOIN).await.context("joining the mesh as its operator")
            },
            async { tokens.renew().await }
        );
        let ((task, identity), ()) = joined?;
        Ok(Self { identity, task, tokens })
    }

    /// Who `weft up` is.
    pub(crate) fn identity(&self) -> Identity {
        self.identity.clone()
    }

    /// Keeps identity and tokens fresh. Runs until dropped.
    pub(crate) async fn run(self) {
        let Self { identity, task, tokens } = self;
        tokio::join!(task.run(Default::default()), tokens.run(identity));
    }
}

/// The name of the gateway among the services.
pub(crate) fn gateway() -> ServiceName {
    "gateway".parse().expect("a constant that is a name")
}

/// Where the token of a service lies, below the directory of tokens.
pub(crate) fn file(dir: &Path, service: &ServiceName) -> PathBuf {
    dir.join(format!("{service}.token"))
}

struct Tokens {
    operator: Operator,
    dir: PathBuf,
    services: Vec<ServiceName>,
}

impl Tokens {
    async fn run(mut self, identity: Identity) {
        loop {
            let rotations = identity.rotations();
            tokio::select! {
                () = identity.rotated_since(rotations) => {}
                () = sleep(LOOK) => {}
            }
            self.operator = self.operator.fresh();
            if let Err(error) = self.renew().await {
                tracing::warn!(error = format!("{error:#}"), "tokens of the services not renewed");
            }
        }
    }

    /// Makes the tokens that are missing, or will be before long.
    async fn renew(&self) -> anyhow::Result<()> {
        let (listed, root) = (self.operator.list_tokens().await?, self.operator.pin());
        for service in &self.services {
            let file = file(&self.dir, service);
            if is_good(&file, &listed, root, self.operator.registries(), clock::wall()) {
                continue;
            }
            let (text, _) = self.operator.create_token(&TokenFor::Service(service.clone()), Some(LIFE)).await?;
            write_token(&file, &text).with_context(|| format!("writing {}", file.display()))?;
        }
        Ok(())
    }
}

/// Whether a file holds a token that the registry still takes and that leads to it.
fn is_good(file: &Path, listed: &[ListedToken], root: RootPin, registries: &RegistryUrls, now: SystemTime) -> bool {
    let Ok(token) = read_token(file) else { return false };
    let known = listed.iter().find(|it| it.id == token.id());
    let lasts = known.is_some_and(|it| it.revoked.is_none() && it.expires > now + LEFT);
    let leads_here = token.registries().iter().map(String::as_str).eq(registries.iter());
    lasts && leads_here && token.pin() == root
}
