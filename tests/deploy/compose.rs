//! `deploy/compose.yaml`: keys that compose knows, names that exist, and every command line, port and variable held against the code.
//!
//! Lives here: the file and what it mounts. Does not: an engine that runs it.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::Command,
};

use serde::Deserialize;
use serde_json::Value;
use weft_testkit::outside;

use crate::{
    code::{self, ADMIN_PATHS, Process},
    docker, files,
};

/// The part of the compose specification that the file uses; any other key is a misspelling.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Compose {
    name: String,
    #[serde(rename = "x-weft")]
    _weft: Value,
    #[serde(rename = "x-token")]
    _token: Value,
    #[serde(rename = "x-service")]
    _service: Value,
    services: BTreeMap<String, Service>,
    networks: BTreeMap<String, Network>,
    volumes: BTreeMap<String, Empty>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Service {
    image: String,
    build: Option<Build>,
    #[serde(default)]
    command: Vec<String>,
    #[serde(default)]
    environment: BTreeMap<String, String>,
    healthcheck: Option<Health>,
    #[serde(default)]
    depends_on: BTreeMap<String, Condition>,
    #[serde(default)]
    ports: Vec<String>,
    #[serde(default)]
    volumes: Vec<String>,
    #[serde(default)]
    networks: Value,
    network_mode: Option<String>,
    #[serde(default)]
    read_only: bool,
    #[serde(default)]
    cap_drop: Vec<String>,
    #[serde(default)]
    security_opt: Vec<String>,
    restart: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Build {
    context: String,
    dockerfile: String,
    target: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Health {
    test: Vec<String>,
    interval: String,
    timeout: String,
    start_period: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Condition {
    condition: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Network {
    #[serde(default, rename = "internal")]
    _internal: bool,
    #[serde(rename = "ipam")]
    _ipam: Option<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Empty {}

fn compose() -> Compose {
    serde_saphyr::from_str(&files::read("deploy/compose.yaml")).unwrap_or_else(|error| panic!("{error}"))
}

impl Compose {
    /// Jobs that make tokens, by the service each is for.
    fn tokens(&self) -> BTreeMap<&str, (&str, &Service)> {
        let jobs = self.services.iter().filter(|(_, it)| it.command.first().is_some_and(|it| it == "token"));
        jobs.map(|(name, it)| (flag(it, "--service").unwrap(), (name.as_str(), it))).collect()
    }

    fn processes(&self) -> BTreeMap<&str, Process> {
        let jobs: BTreeSet<_> = self.tokens().into_values().map(|(name, _)| name).collect();
        let ours = self.services.iter().filter(|(name, it)| it.image == "weft" && !jobs.contains(name.as_str()));
        let parsed = ours.map(|(name, it)| {
            (name.as_str(), code::process(&it.command).unwrap_or_else(|why| panic!("{name}: {why}")))
        });
        parsed.collect()
    }
}

/// The command of each service that has one.
pub(crate) fn commands() -> BTreeMap<String, Vec<String>> {
    compose().services.into_iter().map(|(name, it)| (name, it.command)).collect()
}

/// The value of a flag of a service's command.
fn flag<'s>(service: &'s Service, name: &str) -> Option<&'s str> {
    service.command.iter().find_map(|it| it.strip_prefix(name)?.strip_prefix('='))
}

/// The volume behind a path of a service, and whether it may only read it.
fn volume<'s>(service: &'s Service, path: &str) -> Option<(&'s str, bool)> {
    service.volumes.iter().find_map(|it| {
        let mut parts = it.split(':');
        let (source, target) = (parts.next()?, parts.next()?);
        Path::new(path).starts_with(target).then_some((source, parts.next() == Some("ro")))
    })
}

#[test]
fn a_key_that_compose_does_not_have_is_refused() {
    let text = files::read("deploy/compose.yaml").replacen("network_mode:", "network-mode:", 1);
    assert!(serde_saphyr::from_str::<Compose>(&text).is_err_and(|it| it.to_string().contains("network-mode")));
}

#[test]
fn names_in_the_file_exist() {
    let compose = compose();
    assert_eq!(compose.name, "weft");
    let mut built = BTreeSet::new();
    for (name, service) in &compose.services {
        for other in service.depends_on.keys() {
            assert!(compose.services.contains_key(other), "{name} depends on {other}");
            match service.depends_on[other].condition.as_str() {
                "service_healthy" => assert!(compose.services[other].healthcheck.is_some(), "{other} has no health"),
                "service_completed_successfully" => assert_eq!(compose.services[other].restart, "no", "{other}"),
                unknown => panic!("{name} waits until {other} is {unknown}"),
            }
        }
        for network in networks(service) {
            assert!(compose.networks.contains_key(&network), "{name}: there is no network {network}");
        }
        for volume in &service.volumes {
            let source = volume.split(':').next().unwrap();
            match source.strip_prefix("./") {
                Some(file) => assert!(files::root("deploy").join(file).exists(), "{name} mounts {source}"),
                None => assert!(compose.volumes.contains_key(source), "{name}: there is no volume {source}"),
            }
        }
        if let Some(build) = &service.build {
            assert!(files::root("deploy").join(&build.context).join(&build.dockerfile).is_file(), "{name}");
            assert_eq!(build.target, service.image);
            built.insert(build.target.clone());
        }
        if let Some(health) = &service.healthcheck {
            assert!([&health.interval, &health.timeout, &health.start_period].iter().all(|it| it.ends_with('s')));
        }
        let job = service.command.first().is_some_and(|it| it == "token");
        assert_eq!(service.restart, if job { "no" } else { "unless-stopped" }, "{name}");
    }
    assert_eq!(built, docker::targets(), "each image is built once");
}

fn networks(service: &Service) -> Vec<String> {
    match &service.networks {
        Value::Object(them) => them.keys().cloned().collect(),
        them => files::strings(them),
    }
}

fn address(service: &Service) -> &str {
    files::string(&service.networks["mesh"]["ipv4_address"])
}

#[test]
fn every_command_line_port_and_health_command_is_one_of_the_code() {
    let test = "every_command_line_port_and_health_command_is_one_of_the_code";
    let Some(weft) = outside::need_binaries(&["weft"], test) else { return };
    let compose = compose();
    let processes = compose.processes();
    for (name, process) in &processes {
        let service = &compose.services[*name];
        let test = &service.healthcheck.as_ref().unwrap_or_else(|| panic!("{name} has no health")).test;
        assert_eq!(test[0], "CMD", "{name}: there is no shell");
        code::asking_command(&weft[0], &test[1..]);
        assert!(test.contains(&format!("127.0.0.1:{}", process.admin)), "{name}: {test:?}");
        let path = test.iter().find_map(|it| it.strip_prefix("--health=http:")).unwrap();
        assert!(ADMIN_PATHS.contains(&path), "{name}: {path}");
        for variable in service.environment.keys() {
            assert!(code::reads_variable(variable), "nothing reads {variable} of {name}");
        }
        for port in service.ports.iter().map(|it| it.rsplit(':').next().unwrap().parse().unwrap()) {
            assert!(process.open.contains(&port), "{name} does not open {port}");
        }
        for url in process.registries.iter().chain(&process.advertised) {
            let url: http::Uri = url.parse().unwrap();
            assert_eq!(url.scheme_str(), Some("https"), "{name}");
            assert!(processes[url.host().unwrap()].open.contains(&url.port_u16().unwrap()), "{name}: {url}");
        }
        if let Some(data) = &process.data {
            assert!(service.volumes.iter().any(|it| it.split(':').nth(1) == Some(data)), "{name} cannot write {data}");
        }
    }
}

/// Files that the registry makes and the jobs read are where they look for them; a token is in the hands of one sidecar or gateway.
#[test]
fn each_sidecar_and_gateway_joins_with_a_token_that_is_its_own() {
    let test = "each_sidecar_and_gateway_joins_with_a_token_that_is_its_own";
    let Some(weft) = outside::need_binaries(&["weft"], test) else { return };
    let compose = compose();
    let (processes, mut jobs) = (compose.processes(), compose.tokens());
    let registry = processes.values().find(|it| it.role == "registry").unwrap();
    assert!(!registry.advertised.is_empty() && registry.token.is_none());
    let operator = format!("{}/ca/operator.token", registry.data.as_ref().unwrap());
    assert_eq!(compose.services["registry"].environment["WEFT_TOKEN_FILE"], operator, "of commands that are run there");
    for (name, process) in processes.iter().filter(|(_, it)| it.role != "registry") {
        let service = process.service.as_deref().unwrap_or("gateway");
        let (job_name, job) = jobs.remove(service).unwrap_or_else(|| panic!("nobody makes a token for {service}"));
        let token = process.token.as_deref().unwrap_or_else(|| panic!("{name} has no token"));
        let (source, read_only) = volume(&compose.services[*name], token).unwrap();
        assert!(read_only, "{name}");
        assert_eq!(volume(job, flag(job, "--out").unwrap()), Some((source, false)), "{job_name}");
        assert_eq!(token.rsplit('/').next(), flag(job, "--out").unwrap().rsplit('/').next(), "{job_name}");
        let holders =
            compose.services.values().filter(|it| it.volumes.iter().any(|it| it.split(':').next() == Some(source)));
        assert_eq!(holders.count(), 2, "{source} is of one job and one process");
        assert!(
            compose.services[*name].depends_on.contains_key(job_name),
            "{name} would start before its token is there"
        );

        let shown = &job.environment["WEFT_TOKEN_FILE"];
        assert_eq!(volume(job, shown), Some(("registry", true)), "{job_name}");
        let below = shown.strip_prefix("/registry/").unwrap();
        assert_eq!(operator, format!("{}/{below}", registry.data.as_ref().unwrap()), "{job_name}");
        // Nothing is there to ask in the test: 1, and not 2 for how it was called, or for the file that is missing.
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("operator.token");
        weft_discovery::write_token(&file, &code::token()).unwrap();
        let mut command = Command::new(&weft[0]);
        command.args(&job.command).env("WEFT_TOKEN_FILE", &file).args(["--registry", "https://127.0.0.1:1"]);
        let out = command.output().unwrap();
        assert_eq!(out.status.code(), Some(1), "{job_name}: {}", String::from_utf8_lossy(&out.stderr));
    }
    assert!(jobs.is_empty(), "tokens that nobody joins with: {:?}", jobs.keys());
}

#[test]
fn every_app_shares_the_network_of_its_sidecar_and_knows_it() {
    let compose = compose();
    let processes = compose.processes();
    let mut apps = BTreeSet::new();
    for (name, process) in processes.iter().filter(|(_, it)| it.role == "sidecar") {
        let sidecar = &compose.services[*name];
        let app = sidecar.network_mode.as_deref().and_then(|it| it.strip_prefix("service:")).unwrap();
        let service = &compose.services[app];
        let env = &service.environment;
        for variable in env.keys() {
            assert!(code::reads_variable(variable), "nothing reads {variable} of {app}");
        }
        assert_eq!(Some(&env["WEFT_SERVICE"]), process.service.as_ref());
        assert_eq!(env["PORT"].parse().ok(), process.app);
        assert_eq!(env["WEFT_OUTBOUND"], format!("http://127.0.0.1:{}", process.outbound.unwrap()));
        let advertised = sidecar.command.iter().find_map(|it| it.strip_prefix("--advertise=")).unwrap();
        assert_eq!(advertised.split(':').next().unwrap(), address(service), "{name} is not where it says it is");
        apps.insert(service.image.clone());
    }
    apps.insert("weft".to_owned());
    assert_eq!(apps, docker::targets(), "every service has its sidecar");
}

#[test]
fn nothing_of_ours_writes_outside_of_a_volume_or_gains_rights() {
    for (name, service) in compose().services.iter().filter(|(_, it)| docker::targets().contains(&it.image)) {
        assert!(service.read_only, "{name}");
        assert_eq!(service.cap_drop, ["ALL"], "{name}");
        assert_eq!(service.security_opt, ["no-new-privileges:true"], "{name}");
    }
}

#[test]
fn prometheus_scrapes_registry_and_gateway_by_name_and_asks_the_registry_for_the_rest() {
    let compose = compose();
    let (mut wanted, mut registry) = (BTreeSet::new(), String::new());
    for (name, process) in compose.processes() {
        let at = format!("{name}:{}", process.admin);
        if process.role == "registry" {
            registry.clone_from(&at);
        }
        if process.role != "sidecar" {
            wanted.insert((format!("weft-{}", process.role), at));
        }
    }
    let mut scraped = BTreeSet::new();
    let mut asked = Vec::new();
    for job in files::list(&files::document("deploy/prometheus/prometheus.yml")["scrape_configs"]) {
        let name = files::string(&job["job_name"]).to_owned();
        match job.get("http_sd_configs") {
            Some(discovery) => asked.push((name, files::string(&discovery[0]["url"]).to_owned())),
            None => scraped
                .extend(files::strings(&job["static_configs"][0]["targets"]).into_iter().map(|it| (name.clone(), it))),
        }
    }
    assert_eq!(scraped, wanted);
    let url = format!("http://{registry}/prometheus/sd?role=sidecar&role=service");
    assert_eq!(asked, [("weft-sidecar".to_owned(), url)]);
}
