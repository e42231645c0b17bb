//! What `weft.toml` says by now of what is about to start.
//!
//! Lives here: reading the file again before an action starts a process, and which of its changes count then. Does not: the schema (`config`), starting
//! (`process`).
//! What the processes of a service are started with counts from the next one on. What others have known since the mesh started counts at its next
//! start: `needs` and `scale`, the tables of the roles, and which services there are.

use std::sync::Arc;

use tokio::task;
use weft_model::ServiceName;

use super::{
    Director,
    told::{Failed, Steps},
};
use crate::{
    board::Kind,
    config::{Config, Run, Service},
    text,
};

impl Director {
    /// Takes up what the file says by now of how instances of a service are started. A file that cannot be used starts nothing.
    pub(super) async fn reread(&mut self, service: &ServiceName, steps: &Steps) -> Result<(), Failed> {
        let newer = self.read_again().await;
        let built = |package: &str| self.launch.executables.contains_key(package);
        let now = newer.and_then(|newer| renewed(&self.config, &newer, service, built));
        let now = now.map_err(|problem| Failed::because(format!("{problem}; nothing is started")))?;
        if let Some(now) = now {
            Arc::make_mut(&mut self.config).services.insert(service.clone(), now);
            let file = self.config.file.display();
            self.step(steps, format!("{service}: what starts from here on is as {file} says now")).await;
        }
        Ok(())
    }

    /// Tells who asked where the file says otherwise of a role, or cannot be used: a restart of it does not take that up.
    pub(super) async fn reread_role(&self, role: &Kind, steps: &Steps) {
        let (file, name) = (self.config.file.display(), role.name());
        let told = match self.read_again().await {
            Ok(newer) if role_changed(&self.config, &newer, role) => {
                format!("{file} says otherwise of [{name}] now; that counts when `weft up` is started again")
            }
            Ok(_) => return,
            Err(problem) => format!("{problem}; {name} starts as it was"),
        };
        self.step(steps, told).await;
    }

    async fn read_again(&self) -> Result<Config, String> {
        let (file, root) = (self.config.file.clone(), self.config.root().to_owned());
        let read = task::spawn_blocking(move || Config::load(Some(&file), &root)).await;
        read.map_err(|died| died.to_string())?.map_err(|error| text::in_words(&error))
    }
}

/// Returns what instances of a service are started with from now on, if that is something else, or why they cannot be.
fn renewed(
    known: &Config,
    newer: &Config,
    name: &ServiceName,
    built: impl Fn(&str) -> bool,
) -> Result<Option<Service>, String> {
    let file = newer.file.display();
    let (Some(before), Some(now)) = (known.services.get(name), newer.services.get(name)) else {
        return Err(format!(
            "{file} has no [services.{name}] any more; put it back, or end it with `weft stop {name}`"
        ));
    };
    let now = Service { scale: before.scale, needs: before.needs.clone(), ..now.clone() };
    if now == *before {
        return Ok(None);
    }
    match &now.run {
        Run::Package(package) if !built(package) => Err(format!(
            "{file} has package = {package:?} in [services.{name}] now, and packages are built when the mesh starts: `weft stop`, then `weft up`"
        )),
        Run::Package(_) | Run::Command(_) => Ok(Some(now)),
    }
}

/// Whether the file says something of a role that it did not say when the mesh started. A port 0 is as good as the one that was chosen.
fn role_changed(known: &Config, newer: &Config, role: &Kind) -> bool {
    let (listeners, paths) = match role {
        Kind::Registry => {
            let (was, is) = (&known.registry, &newer.registry);
            (vec![(was.listen, is.listen), (was.http, is.http), (was.dns, is.dns)], was.data != is.data)
        }
        Kind::Gateway => {
            let (was, is) = (&known.gateway, &newer.gateway);
            (vec![(was.listen, is.listen)], was.config != is.config)
        }
        Kind::Instance(_) => (Vec::new(), false),
    };
    paths || listeners.iter().any(|(was, is)| is.get().port() != 0 && is != was)
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;
    use crate::config::FILE;

    fn config(dir: &Path, text: &str) -> Config {
        let file = dir.join(FILE);
        fs::write(&file, text).unwrap();
        Config::load(Some(&file), dir).unwrap()
    }

    #[test]
    fn a_service_starts_as_the_file_says_by_now() {
        let dir = tempfile::tempdir().unwrap();
        let of = |text: &str| config(dir.path(), text);
        let users: ServiceName = "users".parse().unwrap();
        let before = of("[services.users]\ncommand = [\"./users\"]\nscale = 2\n");
        let now = |text: &str| renewed(&before, &of(text), &users, |package| package == "built");
        assert_eq!(now("[services.users]\ncommand = [\"./users\"]\nscale = 2\n"), Ok(None));
        let more = "[services.users]\ncommand = [\"./users\"]\nscale = 3\nneeds = [\"mail\"]\n[services.mail]\npackage = \"mail\"\n";
        assert_eq!(now(more), Ok(None), "scale and needs are of a start of the mesh");
        let other = now("[services.users]\ncommand = [\"./users\", \"-v\"]\nenv = { A = \"1\" }\nweight = 3\n");
        let other = other.unwrap().expect("it is another one");
        assert_eq!(other.run, Run::Command(vec!["./users".to_owned(), "-v".to_owned()]));
        assert_eq!((other.env["A"].as_str(), other.weight.map(|it| it.get()), other.scale), ("1", Some(3), 2));
        assert!(now("[services.users]\npackage = \"built\"\n").unwrap().is_some());
        let new = now("[services.users]\npackage = \"new\"\n").unwrap_err();
        assert!(new.contains("package = \"new\" in [services.users]") && new.contains("`weft up`"), "{new}");
        assert!(now("").unwrap_err().contains("has no [services.users] any more"));
    }

    #[test]
    fn what_counts_for_a_role_at_the_next_start_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let mut known =
            config(dir.path(), "[registry]\nlisten = \"127.0.0.1:0\"\n[gateway]\nlisten = \"127.0.0.1:8081\"\n");
        known.registry.listen = "127.0.0.1:41000".parse().unwrap(); // as chosen
        let changed = |text: &str| {
            let newer = config(dir.path(), text);
            [Kind::Registry, Kind::Gateway].map(|role| role_changed(&known, &newer, &role))
        };
        let gateway = "[gateway]\nlisten = \"127.0.0.1:8081\"\n";
        assert_eq!(changed(&format!("[registry]\nlisten = \"127.0.0.1:0\"\n{gateway}")), [false, false]);
        assert_eq!(changed("[registry]\nlisten = \"127.0.0.1:0\"\n"), [false, true], "8080 again");
        assert_eq!(changed(gateway), [true, false], "7100 again");
        assert_eq!(
            changed(&format!("[registry]\nlisten = \"127.0.0.1:0\"\ndata = \"there\"\n{gateway}")),
            [true, false]
        );
        fs::write(dir.path().join("gateway.toml"), "").unwrap();
        let file = "config = \"gateway.toml\"\n";
        assert_eq!(changed(&format!("[registry]\nlisten = \"127.0.0.1:0\"\n{gateway}{file}")), [false, true]);
    }
}
