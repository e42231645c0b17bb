//! What a rendered manifest must be: whole in itself, and in every port, flag, variable and path as the code is.
//!
//! Lives here: pods and what stands around them, checked against each other and the code. Does not: rendering, schemas (`kubernetes`).

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use serde_json::Value;
use weft_identity::name::SYSTEM_NAMESPACE;

use crate::{
    code::{self, ADMIN_PATHS, Process},
    docker,
    files::{self, list, port, string, strings},
};

/// A container, with what its command line makes of it if it runs `weft`.
pub(crate) struct Container {
    pub(crate) name: String,
    pub(crate) value: Value,
    pub(crate) process: Option<Process>,
}

/// A template of pods.
pub(crate) struct Pods {
    pub(crate) name: String,
    pub(crate) namespace: String,
    labels: Value,
    spec: Value,
    pub(crate) containers: Vec<Container>,
}

/// Everything that an overlay makes.
pub(crate) struct Cluster {
    objects: Vec<Value>,
    pub(crate) pods: Vec<Pods>,
}

fn namespace(object: &Value) -> &str {
    object["metadata"]["namespace"].as_str().unwrap_or_default()
}

impl Cluster {
    pub(crate) fn read(manifest: &str) -> Self {
        let objects = files::yaml(manifest);
        let pods = objects.iter().filter_map(|it| {
            let template = it.pointer("/spec/template")?;
            let spec = template["spec"].clone();
            let containers = ["initContainers", "containers"].iter().flat_map(|kind| list(&spec[*kind]));
            Some(Pods {
                name: string(&it["metadata"]["name"]).to_owned(),
                namespace: namespace(it).to_owned(),
                labels: template["metadata"]["labels"].clone(),
                containers: containers.map(|container| Container::read(container, namespace(it))).collect(),
                spec,
            })
        });
        Self { pods: pods.collect(), objects }
    }

    pub(crate) fn check(&self, weft: &Path) {
        let names: Vec<_> = self.pods.iter().map(|it| it.name.as_str()).collect();
        assert_eq!(BTreeSet::from_iter(names), BTreeSet::from(["comments", "posts", "users", "gateway", "registry"]));
        for pods in &self.pods {
            pods.check(weft);
            self.registries_are_services(pods);
            self.names_exist(pods);
            self.tokens_are_for_the_registry(pods);
        }
        self.only_the_registry_asks_the_api_server();
        self.services_select_ports();
        self.policies_name_ports();
        self.scaling_finds_its_target();
    }

    fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.objects.iter().filter(move |it| it["kind"] == kind)
    }

    fn named<'a>(&'a self, kind: &'a str, name: &Value, within: &str) -> &'a Value {
        let mut found = self.of_kind(kind).filter(|it| it["metadata"]["name"] == *name && namespace(it) == within);
        found.next().unwrap_or_else(|| panic!("there is no {kind} {name} in {within}"))
    }

    fn registry(&self) -> (&Pods, &Process) {
        let all = self.pods.iter().filter_map(|it| Some((it, it.process()?)));
        all.into_iter().find(|(_, it)| it.role == "registry").unwrap()
    }

    /// Each registry's URL is a Service of its namespace and a port of it.
    fn registries_are_services(&self, pods: &Pods) {
        for url in pods.process().into_iter().flat_map(|it| it.registries.iter().chain(&it.advertised)) {
            let uri: http::Uri = url.parse().unwrap();
            assert_eq!(uri.scheme_str(), Some("https"), "{url}");
            let host: Vec<_> = uri.host().unwrap().split('.').collect();
            let [name, namespace, "svc"] = host[..] else { panic!("{url} is no Service by its full name") };
            let service = self.named("Service", &Value::from(name), namespace);
            let ports = list(&service["spec"]["ports"]);
            assert!(ports.iter().any(|it| uri.port_u16() == Some(port(&it["port"]))), "{url} is no port of {service}");
        }
    }

    fn names_exist(&self, pods: &Pods) {
        self.named("ServiceAccount", &pods.spec["serviceAccountName"], &pods.namespace);
        for volume in list(&pods.spec["volumes"]) {
            if let Some(claim) = volume.pointer("/persistentVolumeClaim/claimName") {
                self.named("PersistentVolumeClaim", claim, &pods.namespace);
            }
        }
        // What no file may hold is made by a command that the overlay tells.
        for variable in pods.containers.iter().flat_map(|it| list(&it.value["env"])) {
            if let Some(secret) = variable.pointer("/valueFrom/secretKeyRef") {
                let told = files::read("deploy/kubernetes/overlays/ha/kustomization.yaml");
                let (name, key) = (string(&secret["name"]), string(&secret["key"]));
                assert_eq!(name, format!("{}-database", pods.name), "an example service has its own database");
                assert!(told.contains("create secret generic users-database") && told.contains(&format!(" {key}=")));
                assert!(told.contains(&pods.name), "nobody is told to make {name}");
            }
        }
    }

    /// Who joins the mesh does it by a token for the audience that the registry takes, and demands a root that somebody was told to put there.
    fn tokens_are_for_the_registry(&self, pods: &Pods) {
        let (registry, authority) = self.registry();
        let process = pods.process().unwrap();
        assert_eq!(pods.namespace == SYSTEM_NAMESPACE, pods.name == registry.name, "{}: who is a service?", pods.name);
        if process.role == "registry" {
            assert!(process.token.is_none() && process.audience.is_some());
            return;
        }
        let token = pods.projected(process.token.as_deref().unwrap(), "serviceAccountToken");
        assert_eq!(token["audience"].as_str(), authority.audience.as_deref(), "{}", pods.name);
        assert!(token["expirationSeconds"].as_u64().unwrap() >= 600, "Kubernetes refuses less");
        let map = pods.projected(process.root.as_deref().unwrap(), "configMap");
        let (name, key) = (string(&map["name"]), string(&map["items"][0]["key"]));
        for text in [files::read("deploy/kubernetes/base/kustomization.yaml"), files::read("README.md")] {
            let command = format!("kubectl -n {} create configmap {name}", pods.namespace);
            assert!(text.contains(&command) && text.contains(&format!("--from-literal={key}=")), "{command}");
            let exec = format!("kubectl -n {} exec {}-0 -- weft identity root", registry.namespace, registry.name);
            assert!(text.contains(&exec), "{exec}");
        }
        // The service that it registers is the one its account makes it.
        let account = format!("{}.{}", string(&pods.spec["serviceAccountName"]), pods.namespace);
        assert!(process.service.as_ref().is_none_or(|it| *it == account), "{}: {account}", pods.name);
    }

    fn only_the_registry_asks_the_api_server(&self) {
        let (registry, _) = self.registry();
        for pods in &self.pods {
            assert_eq!(pods.spec["automountServiceAccountToken"], pods.name == registry.name, "{}", pods.name);
        }
        let bindings: Vec<_> = self.of_kind("ClusterRoleBinding").collect();
        assert_eq!(bindings.len(), 1);
        assert_eq!(bindings[0]["roleRef"]["name"], "system:auth-delegator");
        let [subject] = list(&bindings[0]["subjects"]) else { panic!("{} binds one", bindings[0]) };
        assert_eq!(subject["name"], registry.spec["serviceAccountName"]);
        assert_eq!(subject["namespace"], registry.namespace.as_str());
    }

    fn selected<'a>(&'a self, labels: &'a Value, within: &'a str) -> impl Iterator<Item = &'a Pods> {
        let wanted = labels.as_object().into_iter().flatten();
        let matches = move |pods: &&Pods| wanted.clone().all(|(key, value)| pods.labels[key] == *value);
        self.pods.iter().filter(move |it| it.namespace == within).filter(matches)
    }

    fn services_select_ports(&self) {
        for service in self.of_kind("Service") {
            let pods: Vec<_> = self.selected(&service["spec"]["selector"], namespace(service)).collect();
            assert_eq!(pods.len(), 1, "{service}");
            for entry in list(&service["spec"]["ports"]) {
                let number = pods[0].port(&entry["targetPort"]);
                assert!(pods[0].open().contains(&number), "{entry}");
                // For proxies that choose a protocol by this: the registry's gRPC is TLS, the gateway's own port is not.
                let wanted = match (string(&entry["name"]), pods[0].name.as_str()) {
                    ("http", _) => "http",
                    ("grpc", "registry") => "https",
                    ("grpc", _) => "kubernetes.io/h2c",
                    (other, _) => panic!("{other} is no protocol"),
                };
                assert_eq!(entry["appProtocol"], wanted, "{entry}");
            }
        }
    }

    fn policies_name_ports(&self) {
        for policy in self.of_kind("NetworkPolicy") {
            let labels = &policy["spec"]["podSelector"]["matchLabels"];
            let pods: Vec<_> = self.selected(labels, namespace(policy)).collect();
            assert!(!pods.is_empty(), "{policy}");
            for rule in list(&policy["spec"]["ingress"]).iter().flat_map(|it| list(&it["ports"])) {
                let known = pods.iter().filter_map(|it| it.find_port(&rule["port"])).count();
                assert!(known > 0, "no pod that {} speaks of has the port {rule}", policy["metadata"]["name"]);
            }
        }
        for space in self.of_kind("Namespace").map(|it| string(&it["metadata"]["name"])) {
            let here = self.of_kind("NetworkPolicy").filter(|it| namespace(it) == space);
            let open: BTreeSet<_> = here.map(|it| string(&it["metadata"]["name"])).collect();
            assert!(open.contains("nobody"), "without a policy for all pods, what no other names is open: {open:?}");
        }
    }

    fn scaling_finds_its_target(&self) {
        for scaler in self.of_kind("HorizontalPodAutoscaler") {
            let target = &scaler["spec"]["scaleTargetRef"];
            let workload = self.named(string(&target["kind"]), &target["name"], namespace(scaler));
            assert!(workload["spec"]["replicas"].is_null(), "its replicas are the autoscaler's: {target}");
            let pods = self.pods.iter().find(|it| target["name"] == it.name.as_str()).unwrap();
            for metric in list(&scaler["spec"]["metrics"]) {
                let container = &metric["containerResource"]["container"];
                let found = pods.containers.iter().find(|it| *container == it.name.as_str());
                assert!(found.is_some_and(|it| it.value["resources"]["requests"]["cpu"].is_string()), "{metric}");
            }
            // Several pods of a service with rows need a place that all of them see.
            let apps = pods.containers.iter().filter(|it| it.process.is_none());
            assert!(apps.into_iter().all(|it| it.env().contains_key("DATABASE_URL")), "{target}");
        }
        for budget in self.of_kind("PodDisruptionBudget") {
            let labels = &budget["spec"]["selector"]["matchLabels"];
            assert_eq!(self.selected(labels, namespace(budget)).count(), 1, "{budget}");
        }
    }
}

impl Pods {
    fn process(&self) -> Option<&Process> {
        self.containers.iter().find_map(|it| it.process.as_ref())
    }

    /// What a container of `weft` finds at this path: the source of this kind in a volume that it may only read.
    fn projected(&self, path: &str, kind: &str) -> &Value {
        let (dir, file) = path.rsplit_once('/').unwrap();
        let ours = self.containers.iter().find(|it| it.process.is_some()).unwrap();
        let mount = list(&ours.value["volumeMounts"]).iter().find(|it| it["mountPath"] == dir);
        let mount = mount.unwrap_or_else(|| panic!("{}: nothing is mounted at {dir}", self.name));
        assert_eq!(mount["readOnly"], true, "{}: {mount}", self.name);
        let volume = list(&self.spec["volumes"]).iter().find(|it| it["name"] == mount["name"]).unwrap();
        let sources = list(&volume["projected"]["sources"]).iter().filter_map(|it| it.get(kind));
        let mut here = sources.filter(|it| it["path"] == file || it["items"][0]["path"] == file);
        here.next().unwrap_or_else(|| panic!("{}: no {kind} is at {path}", self.name))
    }

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

    /// Every HTTP probe goes to the admin port of the pod's process and asks what it answers to others; a drain is asked for within the pod.
    fn asks_admin(&self, container: &Container, process: &Process, weft: &Path) {
        let probes = ["startupProbe", "readinessProbe", "livenessProbe"].map(|it| (it, &container.value[it]));
        for (what, probe) in probes.into_iter().filter(|(_, probe)| !probe.is_null()) {
            if let Some(get) = probe.get("httpGet") {
                assert_eq!(self.port(&get["port"]), process.admin, "{what} of {}", container.name);
                assert!(ADMIN_PATHS.contains(&string(&get["path"])) && get["path"] != "/drain", "{get}");
            } else {
                code::asking_command(weft, &strings(&probe["exec"]["command"]));
            }
        }
        let stop = &container.value["lifecycle"]["preStop"];
        if !stop.is_null() {
            let command = strings(&stop["exec"]["command"]);
            assert_eq!(command[1..], ["drain".to_owned(), format!("127.0.0.1:{}", process.admin)], "{stop}");
            code::asking_command(weft, &command);
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
        let service = sidecar.service.as_ref().map(|it| it.split('.').next().unwrap());
        assert_eq!(Some(env["WEFT_SERVICE"].as_str()), service);
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
            let command = strings(&app["lifecycle"]["preStop"]["exec"]["command"]);
            // The program comes from the sidecar, which puts it there before the app is started.
            let dir = sidecar.program.as_deref().unwrap();
            assert_eq!(command[0], format!("{dir}/weft"));
            let mount =
                |of: &Value| list(&of["volumeMounts"]).iter().find(|it| it["mountPath"] == dir).unwrap().clone();
            assert_eq!(mount(app)["name"], mount(first)["name"], "both see the same volume");
            assert!(mount(first)["readOnly"].is_null() && mount(app)["readOnly"] == true);
        }
        let grace = self.spec["terminationGracePeriodSeconds"].as_u64().unwrap();
        let limits = weft_sidecar::DrainLimits::default();
        assert!(grace > (limits.notice + limits.limit).as_secs(), "{grace} s are over before a drain is");
    }
}

impl Container {
    fn read(value: &Value, namespace: &str) -> Self {
        let name = string(&value["name"]).to_owned();
        let args = strings(&value["args"]);
        let known = [("$(POD_IP)", "10.0.0.7"), ("$(POD_NAME)", "users-0"), ("$(POD_NAMESPACE)", namespace)];
        let at_start = args.iter().map(|it| known.iter().fold(it.clone(), |it, (name, value)| it.replace(name, value)));
        let at_start: Vec<_> = at_start.collect();
        assert!(at_start.iter().all(|it| !it.contains("$(")), "{name}: {at_start:?}");
        let from_fields: Vec<_> =
            list(value.get("env").unwrap_or(&Value::Null)).iter().map(|it| string(&it["name"])).collect();
        let set = |placeholder: &str| from_fields.contains(&placeholder.trim_matches(['$', '(', ')']));
        for (placeholder, _) in known.iter().filter(|(it, _)| args.iter().any(|arg| arg.contains(it))) {
            assert!(set(placeholder), "{name}: nothing sets {placeholder}");
        }
        let process =
            (!args.is_empty()).then(|| code::process(&at_start).unwrap_or_else(|why| panic!("{name}: {why}")));
        Self { name, value: value.clone(), process }
    }

    /// Variables by name; the value is empty where something else than the manifest knows it.
    pub(crate) fn env(&self) -> BTreeMap<String, String> {
        let pair = |it: &Value| (string(&it["name"]).to_owned(), it["value"].as_str().unwrap_or_default().to_owned());
        list(&self.value["env"]).iter().map(pair).collect()
    }

    fn mounts(&self) -> BTreeSet<&str> {
        list(&self.value["volumeMounts"]).iter().map(|it| string(&it["mountPath"])).collect()
    }
}
