//! The Kubernetes manifests: rendered by kustomize, judged by Kubernetes' schemas, held against the code and against each other.
//!
//! Lives here: both overlays, and the manifest that `weft inject` writes. Does not: what a manifest must say (`cluster`), starting what it says
//! (`play`).

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use weft_sidecar::inject::{Identity, Injection, inject};
use weft_testkit::outside;

use crate::files::{self, string};
use cluster::Cluster;

pub(crate) mod cluster;

const OVERLAYS: [&str; 2] = ["single", "ha"];
/// The oldest version with native sidecars switched on, and the newest that the validator knows.
const VERSIONS: [&str; 2] = ["1.29.0", "1.37.0"];
const SERVICES: [&str; 3] = ["users", "posts", "comments"];

pub(crate) fn render(kustomize: &Path, overlay: &str) -> String {
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
        ("serviceAccountToken:", "serviceAcountToken:"),
        ("secretKeyRef:", "secretKeyReff:"),
        ("subjects:", "subjets:"),
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
        let path = format!("deploy/kubernetes/base/shop/{service}.yaml");
        let text = files::read(&path);
        let image = files::yaml(&text).iter().find_map(|it| {
            let image = it.pointer("/spec/template/spec/initContainers/0/image")?;
            Some(string(image).to_owned())
        });
        let identity = Identity {
            audience: "weft".to_owned(),
            root: "weft-root".to_owned(),
            trust_domain: "weft.local".parse().unwrap(),
        };
        let registry = "https://registry.weft.svc:7100".parse().unwrap();
        let image = image.expect("the service has a sidecar");
        let injection = Injection { image, registry, identity: Some(identity) };
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
