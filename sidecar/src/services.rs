//! The static mode's file: which addresses answer for which service, read again when it changes.
//!
//! Lives here: the file's form, noticing a change. Does not: what calls do with it (`weft-traffic`).
//! ```toml
//! users = ["127.0.0.1:7300", "127.0.0.1:7310"]
//! posts = []
//! ```
//! A file that cannot be read or parsed leaves the old map in place and is logged with its line, once for each content. The file is
//! looked at every 200 ms: that works for editors that replace it, for links that are swapped (Kubernetes), and on every file system.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use weft_model::{Endpoint, Protocol, ServiceInfo, ServiceName, Transport};
use weft_traffic::{Claims, StaticCluster, Worlds};

const LOOK: Duration = Duration::from_millis(200);

/// The file, and what it said last.
#[derive(Debug)]
pub(crate) struct Services {
    path: PathBuf,
    content: Result<String, String>,
}

/// Why the file does not say where services are.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub(crate) struct BadServices {
    path: PathBuf,
    problem: String,
}

impl Services {
    /// Reads the file for the first time and stores what it says.
    pub(crate) fn load(path: PathBuf, worlds: &Worlds) -> Result<Self, BadServices> {
        let content = fs::read_to_string(&path).map_err(|error| error.to_string());
        let services = Self { path, content };
        worlds.set_static(services.clusters()?);
        Ok(services)
    }

    /// Follows the file until `shutdown`.
    pub(crate) async fn run(mut self, worlds: Worlds, shutdown: CancellationToken) {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = looks.tick() => {}
                () = shutdown.cancelled() => return,
            }
            let content = read(self.path.clone()).await;
            if content == self.content {
                continue;
            }
            self.content = content;
            match self.clusters() {
                Ok(clusters) => {
                    tracing::info!(file = %self.path.display(), services = clusters.len(), "the services file changed");
                    worlds.set_static(clusters);
                }
                Err(error) => tracing::error!(%error, "the services file is not used; keeping what it said before"),
            }
        }
    }

    fn clusters(&self) -> Result<Vec<StaticCluster>, BadServices> {
        let bad = |problem: &str| BadServices { path: self.path.clone(), problem: problem.to_owned() };
        parse(self.content.as_ref().map_err(|problem| bad(problem))?).map_err(|problem| bad(&problem))
    }
}

async fn read(path: PathBuf) -> Result<String, String> {
    let mut reading = JoinSet::new();
    reading.spawn_blocking(move || fs::read_to_string(Path::new(&path)).map_err(|error| error.to_string()));
    match reading.join_next().await {
        Some(Ok(content)) => content,
        Some(Err(error)) => Err(error.to_string()),
        None => Err("was not read".to_owned()),
    }
}

fn parse(content: &str) -> Result<Vec<StaticCluster>, String> {
    let map: BTreeMap<String, Vec<toml::Spanned<String>>> =
        toml::from_str(content).map_err(|error| error.to_string())?;
    map.into_iter().map(|(name, addresses)| cluster(content, &name, addresses)).collect()
}

fn cluster(content: &str, name: &str, addresses: Vec<toml::Spanned<String>>) -> Result<StaticCluster, String> {
    let service: ServiceName = name.parse().map_err(|error| format!("{name:?}: {error}"))?;
    let endpoints =
        addresses.into_iter().map(|address| endpoint(&address).map_err(|problem| at(content, &address, &problem)));
    Ok(StaticCluster {
        name: service,
        endpoints: endpoints.collect::<Result<_, _>>()?,
        info: ServiceInfo::default(),
        claims: Claims::Names,
    })
}

fn endpoint(address: &toml::Spanned<String>) -> Result<Endpoint, String> {
    let text = address.get_ref();
    let plain = text.strip_prefix("http://").unwrap_or(text);
    let plain = plain.strip_prefix("localhost:").map_or_else(|| plain.to_owned(), |port| format!("127.0.0.1:{port}"));
    if text.starts_with("https://") {
        return Err(format!("{text:?} wants TLS, which this version does not speak to static services"));
    }
    let address: SocketAddr =
        plain.parse().map_err(|_| format!("{text:?} is no IP with a port, like 127.0.0.1:7300"))?;
    if address.port() == 0 || address.ip().is_unspecified() {
        return Err(format!("{text:?} cannot be called: it needs a certain IP and a port above 0"));
    }
    Ok(Endpoint { address, transport: Transport::Plaintext, protocol: Protocol::H2 })
}

fn at(content: &str, place: &toml::Spanned<String>, problem: &str) -> String {
    let line = content[..place.span().start].matches('\n').count() + 1;
    format!("line {line}: {problem}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_have_addresses_or_none() {
        let clusters =
            parse("users = [\"127.0.0.1:1\", \"http://[::1]:2\", \"localhost:3\"]\n\"posts.eu\" = []\n").unwrap();
        let shape: Vec<_> = clusters.iter().map(|c| (c.name.to_string(), c.endpoints.len())).collect();
        assert_eq!(shape, [("posts.eu".to_owned(), 0), ("users".to_owned(), 3)]);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (content, says) in [
            ("\nusers = [\"nowhere\"]", "line 2"),
            ("\n\nusers = [\n\"127.0.0.1:1\",\n\"0.0.0.0:1\"]", "line 5"),
            ("a = [\"https://127.0.0.1:1\"]", "line 1"),
            ("users = [", "line 1"),
            ("users = \"127.0.0.1:1\"", "line 1"),
            ("Users = []", "\"Users\""),
        ] {
            let error = parse(content).unwrap_err();
            assert!(error.contains(says), "{content:?}: {error}");
        }
    }
}
