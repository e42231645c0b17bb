//! The command lines of the mesh's processes.
//!
//! Lives here: what each is started with, how long it has to leave. Does not: when (`director`), keeping it running (`weft-supervise`).
//! Every one is a process of its own, `weft <role> …`, started through `weft trampoline`, so that it ends with us however we end.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use weft_runtime::Env;
use weft_supervise::{Restart, Spec};

use crate::{
    config::{Config, Data, Run, Service},
    keys,
    plan::Slot,
};

/// A sidecar drains for at most 5 s of notice and 30 s of calls in flight, then its app has 10 s; see design of drain in `weft-sidecar`.
const INSTANCE_GRACE: Duration = Duration::from_secs(50);
/// A gateway finishes its calls within 30 s.
const GATEWAY_GRACE: Duration = Duration::from_secs(35);
/// How traces are sampled, unless the person says so: see `weft_runtime::Sampling`.
const SAMPLER: &str = "OTEL_TRACES_SAMPLER";
const REGISTRY_GRACE: Duration = Duration::from_secs(10);

/// What all command lines share.
#[derive(Debug)]
pub(crate) struct Launch {
    /// Our own binary, which holds every role.
    exe: PathBuf,
    env: Vec<(String, String)>,
    root: PathBuf,
    /// Directory of the services' tokens.
    tokens: PathBuf,
    /// Executables of the packages built.
    pub(crate) executables: BTreeMap<String, PathBuf>,
}

impl Launch {
    pub(crate) fn new(exe: &Path, env: &Env, root: &Path, tokens: &Path) -> Self {
        let mut env: Vec<_> = env.without_cargo().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        env.retain(|(name, _)| name != "OTEL_SERVICE_NAME"); // each process has a name of its own
        if env.iter().all(|(name, _)| name != SAMPLER) {
            env.push((SAMPLER.to_owned(), "parentbased_always_on".to_owned())); // a person looks at this mesh: every call counts
        }
        Self {
            exe: exe.to_owned(),
            env,
            root: root.to_owned(),
            tokens: tokens.to_owned(),
            executables: BTreeMap::new(),
        }
    }

    pub(crate) fn registry(&self, child: String, config: &Config) -> Spec {
        let registry = &config.registry;
        let args = self.role("registry").flag("--listen", registry.listen.to_string());
        let args = args.flag("--http", registry.http.to_string()).flag("--dns", registry.dns.to_string());
        let args = args.flag("--data", &registry.data);
        self.spec(child, args).grace(REGISTRY_GRACE)
    }

    pub(crate) fn gateway(&self, child: String, config: &Config) -> Spec {
        let args = self.role("gateway").flag("--listen", config.gateway.listen.to_string());
        let args = args.flag("--token-file", keys::file(&self.tokens, &keys::gateway()));
        let args = args.given("--config", config.gateway.config.as_ref());
        self.spec(child, args).grace(GATEWAY_GRACE)
    }

    /// A sidecar and behind it the app.
    pub(crate) fn instance(&self, child: String, slot: &Slot, service: &Service) -> Spec {
        self.spec(child, self.sidecar(slot, service)).envs(service.env.clone()).grace(INSTANCE_GRACE)
    }

    fn sidecar(&self, slot: &Slot, service: &Service) -> Args {
        let any_port = "127.0.0.1:0";
        (self.role("sidecar"))
            .flag("--service", slot.service.to_string())
            .flag("--slot", slot.to_string())
            .flag("--token-file", keys::file(&self.tokens, &slot.service))
            .flag("--plaintext", service.plaintext.as_str())
            .flag("--app", any_port)
            .flag("--inbound", any_port)
            .flag("--outbound", any_port)
            .flag("--data", self.data(slot, service.data))
            .given("--descriptor-set", service.descriptor_set.as_ref())
            .given("--locality", service.locality.as_ref().map(ToString::to_string))
            .given("--weight", service.weight.map(|it| it.get().to_string()))
            .rest(self.app(&service.run))
    }

    fn app(&self, run: &Run) -> Vec<OsString> {
        match run {
            // A package that was not built is reported by the build; its name makes the failure readable if it ever gets here.
            Run::Package(name) => vec![self.executables.get(name).map_or_else(|| name.into(), |path| path.into())],
            Run::Command(command) => command.iter().map(Into::into).collect(),
        }
    }

    fn data(&self, slot: &Slot, data: Data) -> PathBuf {
        let name = match data {
            Data::Shared => slot.service.to_string(),
            Data::PerInstance => slot.to_string(),
        };
        self.root.join(".weft/data").join(name)
    }

    fn role(&self, role: &str) -> Args {
        Args(vec![role.into(), "--log-format".into(), "json".into()])
    }

    fn spec(&self, child: String, args: Args) -> Spec {
        Spec::new(child, &self.exe)
            .args(args.0)
            .envs(self.env.iter().cloned())
            .cwd(&self.root)
            .trampoline([self.exe.as_os_str(), "trampoline".as_ref(), "--".as_ref()])
            .restart(Restart::Permanent)
    }
}

struct Args(Vec<OsString>);

impl Args {
    fn flag(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.0.extend([name.into(), value.into()]);
        self
    }

    fn given(self, name: &str, value: Option<impl Into<OsString>>) -> Self {
        match value {
            Some(value) => self.flag(name, value),
            None => self,
        }
    }

    fn rest(mut self, command: Vec<OsString>) -> Self {
        self.0.push("--".into());
        self.0.extend(command);
        self
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use weft_model::Weight;

    use super::*;
    use crate::config::Plaintext;

    /// The sidecar's flag in a command line, and what stands behind it.
    fn flag<'a>(args: &'a Args, name: &str) -> Option<&'a OsStr> {
        let end = args.0.iter().position(|it| it == "--").unwrap();
        let at = args.0[..end].iter().position(|it| it == name)?;
        Some(&args.0[at + 1])
    }

    #[test]
    fn what_the_file_says_of_a_service_reaches_its_sidecar() {
        let launch = Launch::new(Path::new("weft"), &Env::from_pairs([("", ""); 0]), Path::new("/m"), Path::new("/t"));
        let slot = Slot { service: "mail".parse().unwrap(), number: 2 };
        let plain = Service {
            run: Run::Command(vec!["./mail".to_owned(), "--weight".to_owned()]),
            scale: 2,
            needs: Vec::new(),
            env: BTreeMap::new(),
            data: Data::PerInstance,
            plaintext: Plaintext::Loopback,
            descriptor_set: None,
            locality: None,
            weight: None,
        };
        let told = Service {
            descriptor_set: Some("/m/mail.binpb".into()),
            locality: Some("eu/a".parse().unwrap()),
            weight: Some(Weight::new(3).unwrap()),
            ..plain.clone()
        };
        let (plain, told) = (launch.sidecar(&slot, &plain), launch.sidecar(&slot, &told));
        for (name, value) in [("--descriptor-set", "/m/mail.binpb"), ("--locality", "eu/a"), ("--weight", "3")] {
            assert_eq!((flag(&plain, name), flag(&told, name)), (None, Some(OsStr::new(value))), "{name}");
        }
        for (name, value) in [("--slot", "mail-2"), ("--plaintext", "loopback"), ("--data", "/m/.weft/data/mail-2")] {
            assert_eq!(flag(&told, name), Some(OsStr::new(value)), "{name}");
        }
        assert!(told.0.ends_with(&["--", "./mail", "--weight"].map(OsString::from)));
    }

    #[test]
    fn every_call_is_traced_unless_the_person_says_otherwise_and_no_process_takes_anothers_name() {
        let env = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            let env = Env::from_pairs(pairs.iter().copied());
            Launch::new(Path::new("weft"), &env, Path::new("/"), Path::new("/tokens")).env.into_iter().collect()
        };
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317");
        let told = env(&[endpoint, ("OTEL_SERVICE_NAME", "mine")]);
        assert_eq!(told[SAMPLER], "parentbased_always_on");
        assert_eq!((told.get(endpoint.0).map(String::as_str), told.get("OTEL_SERVICE_NAME")), (Some(endpoint.1), None));
        assert_eq!(env(&[(SAMPLER, "always_off")])[SAMPLER], "always_off");
    }
}
