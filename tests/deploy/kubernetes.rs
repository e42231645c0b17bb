//! The Kubernetes manifests: rendered by kustomize, judged by Kubernetes' schemas, held against the code and against each other.
//!
//! Lives here: both overlays, and the manifest that `weft inject` writes. Does not: a cluster.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;
use weft_sidecar::inject::{Injection, inject};
use weft_testkit::outside;

use crate::{
    code::{self, ADMIN_PATHS, Process},
    docker,
    files::{self, list, port, string, strings},
};

const OVERLAYS: [&str; 2] = ["single", "ha"];
/// The oldest version with native sidecars switched on, and the newest that the validator knows.
const VERSIONS: [&str; 2] = ["1.29.0", "1.37.0"];
const SERVICES: [&str; 3] = ["users", "posts", "comments"];

fn render(kustomize: &Path, overlay: &str) -> String {
    let folder = files::root("deploy/kubernetes/overlays").join(overlay);
    let Output { status, stdout, stderr } = Command::new(kustomize).arg("build").arg(folder).output().unwrap();
    assert!(status.success(), "{overlay}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

/// What the validator says of a manifest under each version; none if it has nothing against it.
fn refusal(validate: &Path, manifest: &str) -> Option<String> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("manifest.yaml");
    fs::write(&file, manifest).unwrap();
    VERSIONS.iter().find_map(|version| {
        let mut command = Command::new(validate);
        let out = command.args(["--strict", "--quiet", "-k", version]).arg(&file).output().unwrap();
        let said = [out.stdout, out.stderr].concat();
        (!out.status.success()).then(|| format!("{version}: {}", String::from_utf8_lossy(&said)))
    })
}

fn tools(test: &str) -> Option<(PathBuf, PathBuf)> {
    let kustomize = outside::need(outside::kustomize(), test, "kustomize")?;
    let validate = outside::need(outside::kubernetes_validate(), test, "kubernetes-validate")?;
    Some((kustomize, validate))
}

#[test]
fn every_overlay_fits_the_schemas_of_kubernetes_and_a_misspelt_field_does_not() {
    let Some((kustomize, validate)) =
        tools("every_overlay_fits_the_schemas_of_kubernetes_and_a_misspelt_field_does_not")
    else {
        return;
    };
    for overlay in OVERLAYS {
        let manifest = render(&kustomize, overlay);
        assert_eq!(refusal(&validate, &manifest), None, "{overlay}");
    }
    let manifest = render(&kustomize, "ha");
    for (right, wrong) in [
        ("restartPolicy: Always", "restartPolcy: Always"),
        ("livenessProbe:", "livenesProbe:"),
        ("maxUnavailable: 1\n", "maxUnavalable: 1\n"),
        ("minReplicas: 2", "minReplicas: two"),
        ("  ingress:\n", "  ingres:\n"),
        ("appProtocol:", "appProtokol:"),
    ] {
        let misspelt = manifest.replacen(right, wrong, 1);
        assert_ne!(misspelt, manifest, "{right:?} is not in the manifest");
        let said = refusal(&validate, &misspelt).unwrap_or_else(|| panic!("{wrong:?} was not refused"));
        let word = wrong.split(':').next().unwrap().trim();
        assert!(said.contains(word) || said.contains("two"), "{wrong:?}: {said}");
    }
}

#[test]
fn what_inject_writes_fits_the_schemas_of_kubernetes() {
    let test = "what_inject_writes_fits_the_schemas_of_kubernetes";
    let Some(validate) = outside::need(outside::kubernetes_validate(), test, "kubernetes-validate") else { return };
    let golden = files::read("sidecar/src/inject/fixtures/after.yaml");
    assert!(golden.contains("/readyz"), "the fixture holds a sidecar");
    let apps: Vec<_> = golden.split("---\n").filter(|it| it.contains("kind: Deployment\n")).collect();
    assert_eq!(apps.len(), 1);
    assert_eq!(refusal(&validate, apps[0]), None);
    let misspelt = apps[0].replacen("startupProbe", "startupProb", 1);
    assert!(refusal(&validate, &misspelt).is_some_and(|said| said.contains("startupProb")));
}

#[test]
fn the_services_are_as_inject_writes_them() {
    for service in SERVICES {
        let path = format!("deploy/kubernetes/base/{service}.yaml");
        let text = files::read(&path);
        let image = files::yaml(&text).iter().find_map(|it| {
            let image = it.pointer("/spec/template/spec/initContainers/0/image")?;
            Some(string(image).to_owned())
        });
        let registry = "http://weft-registry:7100".parse().unwrap();
        let injection = Injection { image: image.expect("the service has a sidecar"), registry };
        assert_eq!(inject(&text, &injection).unwrap().text, text, "{path}: run `weft inject -f {path} -o {path}`");
    }
}

#[test]
fn every_port_flag_variable_and_path_is_one_of_the_code() {
    let test = "every_port_flag_variable_and_path_is_one_of_the_code";
    let Some((kustomize, _)) = tools(test) else { return };
    let Some(weft) = outside::need_binaries(&["weft"], test) else { return };
    for overlay in OVERLAYS {
        Cluster::read(&render(&kustomize, overlay)).check(&weft[0]);
    }
}

/// A container, with what its command line makes of it if it runs `weft`.
struct Container {
    name: String,
    value: Value,
    process: Option<Process>,
}

/// A template of pods.
struct Pods {
    name: String,
    labels: Value,
    spec: Value,
    containers: Vec<Container>,
}

/// Everything that an overlay makes.
struct Cluster {
    objects: Vec<Value>,
    pods: Vec<Pods>,
}

impl Cluster {
    fn read(manifest: &str) -> Self {
        let objects = files::yaml(manifest);
        let pods = objects.iter().filter_map(|it| {
            let template = it.pointer("/spec/template")?;
            let spec = template["spec"].clone();
            let containers = ["initContainers", "containers"].iter().flat_map(|kind| list(&spec[*kind]));
            Some(Pods {
                name: string(&it["metadata"]["name"]).to_owned(),
                labels: template["metadata"]["labels"].clone(),
                containers: containers.map(Container::read).collect(),
                spec,
            })
        });
        Self { pods: pods.collect(), objects }
    }

    fn check(&self, weft: &Path) {
        let names: Vec<_> = self.pods.iter().map(|it| it.name.as_str()).collect();
        assert_eq!(
            BTreeSet::from_iter(names),
            BTreeSet::from(["comments", "posts", "users", "weft-gateway", "weft-registry"])
        );
        for pods in &self.pods {
            pods.check(weft);
            self.registries_are_services(pods);
            self.names_exist(pods);
        }
        self.services_select_ports();
        self.policies_name_ports();
        self.scaling_finds_its_target();
    }

    fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.objects.iter().filter(move |it| it["kind"] == kind)
    }

    fn named<'a>(&'a self, kind: &'a str, name: &Value) -> &'a Value {
        let found = self.of_kind(kind).find(|it| it["metadata"]["name"] == *name);
        found.unwrap_or_else(|| panic!("there is no {kind} {name}"))
    }

    /// Each registry's URL is a Service and a port of it.
    fn registries_are_services(&self, pods: &Pods) {
        for url in pods.containers.iter().filter_map(|it| it.process.as_ref()).flat_map(|it| &it.registries) {
            let uri: http::Uri = url.parse().unwrap();
            let service = self.named("Service", &Value::from(uri.host().unwrap()));
            let ports = list(&service["spec"]["ports"]);
            assert!(ports.iter().any(|it| uri.port_u16() == Some(port(&it["port"]))), "{url} is no port of {service}");
        }
    }

    fn names_exist(&self, pods: &Pods) {
        self.named("ServiceAccount", &pods.spec["serviceAccountName"]);
        for volume in list(&pods.spec["volumes"]) {
            if let Some(claim) = volume.pointer("/persistentVolumeClaim/claimName") {
                self.named("PersistentVolumeClaim", claim);
            }
        }
    }

    fn selected<'a>(&'a self, labels: &'a Value) -> impl Iterator<Item = &'a Pods> {
        let wanted = labels.as_object().into_iter().flatten();
        let matches = move |pods: &&Pods| wanted.clone().all(|(key, value)| pods.labels[key] == *value);
        self.pods.iter().filter(matches)
    }

    fn services_select_ports(&self) {
        for service in self.of_kind("Service") {
            let pods: Vec<_> = self.selected(&service["spec"]["selector"]).collect();
            assert_eq!(pods.len(), 1, "{service}");
            for entry in list(&service["spec"]["ports"]) {
                let number = pods[0].port(&entry["targetPort"]);
                assert!(pods[0].open().contains(&number), "{entry}");
                // The registry's HTTP is HTTP/1.1; gRPC is named so that proxies speak HTTP/2 to it.
                let grpc = entry["name"] == "grpc";
                assert_eq!(entry["appProtocol"] == "kubernetes.io/h2c", grpc, "{entry}");
            }
        }
    }

    fn policies_name_ports(&self) {
        for policy in self.of_kind("NetworkPolicy") {
            let pods: Vec<_> = self.selected(&policy["spec"]["podSelector"]["matchLabels"]).collect();
            assert!(!pods.is_empty(), "{policy}");
            for rule in list(&policy["spec"]["ingress"]).iter().flat_map(|it| list(&it["ports"])) {
                let known = pods.iter().filter_map(|it| it.find_port(&rule["port"])).count();
                assert!(known > 0, "no pod that {} speaks of has the port {rule}", policy["metadata"]["name"]);
            }
        }
        let open: BTreeSet<_> = self.of_kind("NetworkPolicy").map(|it| string(&it["metadata"]["name"])).collect();
        assert!(open.contains("nobody"), "without a policy for all pods, what no other names is open: {open:?}");
    }

    fn scaling_finds_its_target(&self) {
        for scaler in self.of_kind("HorizontalPodAutoscaler") {
            let target = &scaler["spec"]["scaleTargetRef"];
            let workload = self.named(string(&target["kind"]), &target["name"]);
            assert!(workload["spec"]["replicas"].is_null(), "its replicas are the autoscaler's: {target}");
            let pods = self.pods.iter().find(|it| target["name"] == it.name.as_str()).unwrap();
            for metric in list(&scaler["spec"]["metrics"]) {
                let container = &metric["containerResource"]["container"];
                let found = pods.containers.iter().find(|it| *container == it.name.as_str());
                assert!(found.is_some_and(|it| it.value["resources"]["requests"]["cpu"].is_string()), "{metric}");
            }
        }
        for budget in self.of_kind("PodDisruptionBudget") {
            let labels = &budget["spec"]["selector"]["matchLabels"];
            assert_eq!(self.selected(labels).count(), 1, "{budget}");
        }
    }
}

impl Pods {
    /// Ports that other machines reach.
    fn open(&self) -> BTreeSet<u16> {
        self.containers.iter().filter_map(|it| it.process.as_ref()).flat_map(|it| it.open.clone()).collect()
    }

    fn find_port(&self, named: &Value) -> Option<u16> {
        if named.is_number() {
            return self.open().contains(&port(named)).then(|| port(named));
        }
        let ports = self.containers.iter().flat_map(|it| list(&it.value["ports"]));
        ports.filter(|it| it["name"] == *named).map(|it| port(&it["containerPort"])).next()
    }

    fn port(&self, named: &Value) -> u16 {
        self.find_port(named).unwrap_or_else(|| panic!("{} has no port {named}", self.name))
    }

    fn check(&self, weft: &Path) {
        self.is_locked_down();
        let processes: Vec<_> = self.containers.iter().filter_map(|it| it.process.as_ref()).collect();
        assert_eq!(processes.len(), 1, "{}: one process of weft a pod", self.name);
        let process = processes[0];
        for container in &self.containers {
            self.asks_admin(container, process, weft);
            let target = string(&container.value["image"]).rsplit('/').next().unwrap().split(':').next().unwrap();
            assert!(docker::targets().contains(target), "{target} is no target of the Dockerfile");
            match &container.process {
                Some(process) => self.opens_what_it_says(container, process),
                None => self.is_the_app(container, process),
            }
        }
        if process.role == "sidecar" {
            self.ends_in_order(process);
        }
    }

    /// What the namespace's policy asks for, and a root file system that nobody writes to.
    fn is_locked_down(&self) {
        assert_eq!(self.spec["automountServiceAccountToken"], false);
        assert_eq!(self.spec["securityContext"]["runAsNonRoot"], true);
        for container in &self.containers {
            let context = &container.value["securityContext"];
            assert_eq!(context["readOnlyRootFilesystem"], true, "{}", container.name);
            assert_eq!(context["allowPrivilegeEscalation"], false, "{}", container.name);
            assert_eq!(strings(&context["capabilities"]["drop"]), ["ALL"], "{}", container.name);
            let resources = &container.value["resources"];
            assert!(resources["requests"]["cpu"].is_string() && resources["limits"]["memory"].is_string());
        }
    }

    /// Every HTTP probe and hook goes to the admin port of the pod's process, and asks what it answers.
    fn asks_admin(&self, container: &Container, process: &Process, weft: &Path) {
        let hooks = ["startupProbe", "readinessProbe", "livenessProbe"].map(|it| (it, &container.value[it]));
        let stop = ("preStop", &container.value["lifecycle"]["preStop"]);
        for (what, hook) in hooks.into_iter().chain([stop]).filter(|(_, hook)| !hook.is_null()) {
            if let Some(get) = hook.get("httpGet") {
                assert_eq!(self.port(&get["port"]), process.admin, "{what} of {}", container.name);
                assert!(ADMIN_PATHS.contains(&string(&get["path"])), "{get}");
                assert_eq!(what == "preStop", get["path"] == "/drain", "{what} asks {get}");
            } else {
                code::health_command(weft, &strings(&hook["exec"]["command"]));
            }
        }
    }

    fn opens_what_it_says(&self, container: &Container, process: &Process) {
        let said: BTreeSet<_> = list(&container.value["ports"]).iter().map(|it| port(&it["containerPort"])).collect();
        assert_eq!(said, process.open, "{}", container.name);
        if let Some(data) = &process.data {
            assert!(container.mounts().contains(data.as_str()), "{data} of {} is not writable", container.name);
        }
    }

    fn is_the_app(&self, container: &Container, sidecar: &Process) {
        let env = container.env();
        for name in env.keys() {
            assert!(code::reads_variable(name), "nothing reads {name} of {}", container.name);
        }
        assert_eq!(env["PORT"].parse().ok(), sidecar.app);
        assert_eq!(Some(&env["WEFT_SERVICE"]), sidecar.service.as_ref());
        let outbound = sidecar.outbound.map(|port| format!("http://127.0.0.1:{port}"));
        assert_eq!(Some(&env["WEFT_OUTBOUND"]), outbound.as_ref());
        assert!(container.mounts().contains(env["WEFT_DATA"].as_str()), "{}", container.name);
        assert_eq!(container.name, self.name);
    }

    /// Started before the app, stopped after it, and drained before either.
    fn ends_in_order(&self, sidecar: &Process) {
        let first = &list(&self.spec["initContainers"])[0];
        assert_eq!((&first["name"], &first["restartPolicy"]), (&Value::from("weft"), &Value::from("Always")));
        let startup = &first["startupProbe"]["httpGet"]["path"];
        assert_eq!(startup, "/healthz", "/readyz would wait for an app that is not started before");
        for app in list(&self.spec["containers"]) {
            let drain = &app["lifecycle"]["preStop"]["httpGet"];
            assert_eq!((string(&drain["path"]), port(&drain["port"])), ("/drain", sidecar.admin));
        }
        let grace = self.spec["terminationGracePeriodSeconds"].as_u64().unwrap();
        let limits = weft_sidecar::DrainLimits::default();
        assert!(grace > (limits.notice + limits.limit).as_secs(), "{grace} s are over before a drain is");
    }
}

impl Container {
    fn read(value: &Value) -> Self {
        let name = string(&value["name"]).to_owned();
        let args = strings(&value["args"]);
        let at_start = args.iter().map(|it| it.replace("$(POD_IP)", "10.0.0.7").replace("$(POD_NAME)", "users-0"));
        let at_start: Vec<_> = at_start.collect();
        let process =
            (!args.is_empty()).then(|| code::process(&at_start).unwrap_or_else(|why| panic!("{name}: {why}")));
        let unset =
            args.iter().find(|it| it.contains("$(") && !it.contains("$(POD_IP)") && !it.contains("$(POD_NAME)"));
        assert_eq!(unset, None, "{name}");
        Self { name, value: value.clone(), process }
    }

    /// Variables by name; the value is empty where something else than the manifest knows it.
    fn env(&self) -> BTreeMap<String, String> {
        let pair = |it: &Value| (string(&it["name"]).to_owned(), it["value"].as_str().unwrap_or_default().to_owned());
        list(&self.value["env"]).iter().map(pair).collect()
    }

    fn mounts(&self) -> BTreeSet<&str> {
        list(&self.value["volumeMounts"]).iter().map(|it| string(&it["mountPath"])).collect()
    }
}
