//! The process around the services: environment in, listener, exit code out.
//!
//! Lives here: `serve` and what it tells the author. Does not: serving itself (`services`), logs and signals (`weft-runtime`).

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use http::Uri;
use weft_runtime::listen::{self, ListenAddr};
use weft_runtime::{Context, Process, Usage};

use crate::{Channel, Services};

/// Where a service listens when `PORT` is not set: what gRPC examples use.
pub const DEFAULT_PORT: u16 = 50051;

/// What a service may know about its place.
#[derive(Clone)] // no `Debug`: the database's URL may hold a password
pub struct App {
    name: String,
    instance: Option<String>,
    data: PathBuf,
    database_url: Option<String>,
    outbound: Option<Uri>,
}

impl App {
    fn new(context: &Context) -> Result<Self, Usage> {
        let name = context.env().service().unwrap_or(context.name()).to_owned();
        let instance = context.env().instance().map(str::to_owned);
        let data = context.env().data().unwrap_or_else(|| [".weft", "data", &name].iter().collect());
        let outbound = context.env().outbound().map(outbound).transpose()?;
        let database_url = context.env().database_url().map(str::to_owned);
        Ok(App { name, instance, data, database_url, outbound })
    }

    /// Returns the name of the service: `WEFT_SERVICE`, else the one given to [`serve`].
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the id of this instance in the mesh: `WEFT_INSTANCE`, which a sidecar sets.
    pub fn instance(&self) -> Option<&str> {
        self.instance.as_deref()
    }

    /// Returns the directory for its data, created if it was not there: `WEFT_DATA`, else `.weft/data/<name>` in the working
    /// directory. Several instances may share it.
    ///
    /// # Errors
    /// The system's, when the directory cannot be created.
    pub fn data_dir(&self) -> io::Result<PathBuf> {
        std::fs::create_dir_all(&self.data)?;
        Ok(self.data.clone())
    }

    /// Returns `DATABASE_URL`: the server that keeps the service's data instead of its directory. May hold a password, so it must not
    /// get into a log.
    pub fn database_url(&self) -> Option<&str> {
        self.database_url.as_deref()
    }

    /// Returns a channel to another service, by its name in the mesh (`users`, `users.other-namespace`), through this app's sidecar. It
    /// connects when first used; without a sidecar every call on it fails and says so.
    ///
    /// # Panics
    /// If `service` cannot be the name of a service.
    pub fn channel(&self, service: &str) -> Channel {
        Channel::new(self.outbound.clone(), service)
    }
}

/// Runs a service until SIGTERM or SIGINT: `setup` opens what it needs and returns what it serves. The whole body of a `main`.
///
/// The port is taken first, calls are accepted once `setup` is done. A first signal finishes what is in flight, a second one ends at
/// once. Exit codes: 0 ended as asked, 1 failed, 2 started wrongly.
pub fn serve<F>(name: &'static str, setup: impl FnOnce(App) -> F) -> ExitCode
where
    F: Future<Output = anyhow::Result<Services>>,
{
    weft_runtime::run(Process::new(name).traces_by_tracing(), |context| run(context, setup))
}

async fn run<F>(context: Context, setup: impl FnOnce(App) -> F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<Services>>,
{
    let port = context.env().port()?.unwrap_or(DEFAULT_PORT);
    let app = App::new(&context)?;
    let listener = listen::bind(ListenAddr::loopback(port))?;
    let shutdown = context.shutdown();
    let services = tokio::select! {
        services = setup(app) => services.context("starting")?,
        () = shutdown.draining() => return Ok(()), // nothing was served yet, so nothing is in flight
    };
    tracing::info!(service = context.env().service(), instance = context.env().instance(), "ready");
    listen::announce(&context, "grpc", listener.local_addr()?);
    let services = services.exports_spans(context.spans().is_on());
    services.run(listener, shutdown).await.context("serving")
}

fn outbound(text: &str) -> Result<Uri, Usage> {
    let uri = text.parse().ok().filter(|uri: &Uri| uri.scheme_str() == Some("http") && uri.authority().is_some());
    uri.ok_or_else(|| Usage::new(format!("WEFT_OUTBOUND={text:?} is no URL like http://127.0.0.1:7301")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outbound_is_a_plaintext_url() {
        assert_eq!(outbound("http://127.0.0.1:7301").unwrap(), "http://127.0.0.1:7301");
        for wrong in ["127.0.0.1:7301", "7301", "https://127.0.0.1:7301", "/run/weft.sock"] {
            assert!(outbound(wrong).unwrap_err().to_string().contains("WEFT_OUTBOUND"), "{wrong:?}");
        }
    }
}
