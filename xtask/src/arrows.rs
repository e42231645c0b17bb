//! Which of our packages may stand on which: the arrows between the rooms, as data, checked against cargo's word.
//!
//! Lives here: the one table. Does not: third parties' packages (`deny.toml`). Why an arrow is there or absent is told in
//! ARCHITECTURE.md. Dev-dependencies are exempt, since a test may join rooms that must not know each other; `weft-testkit` may be
//! nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::metadata::{Metadata, Package};

/// A package and those of ours it may depend on. Lowest first; a row names only rows above it, so the arrows cannot run in a circle.
const ARROWS: &[(&str, &[&str])] = &[
    ("weft-model", &[]),
    ("weft-runtime", &[]),
    ("weft-reflection", &[]),
    ("weft-transcode", &["weft-model"]),
    ("weft-supervise", &[]),
    ("weft-policy", &["weft-model"]),
    ("weft-proto", &["weft-model"]),
    ("weft-identity", &["weft-model"]),
    ("weft-traffic", &["weft-identity", "weft-model"]),
    ("weft-telemetry", &["weft-runtime", "weft-traffic"]),
    ("weft-discovery", &["weft-identity", "weft-model", "weft-proto"]),
    ("weft", &["weft-discovery", "weft-model", "weft-proto", "weft-reflection", "weft-runtime", "weft-traffic"]),
    ("weft-store", &["weft"]),
    (
        "weft-testkit",
        &["weft-discovery", "weft-identity", "weft-model", "weft-proto", "weft-reflection", "weft-runtime"],
    ),
    // the roles: never on each other
    (
        "weft-registry",
        &["weft-identity", "weft-model", "weft-proto", "weft-reflection", "weft-runtime", "weft-transcode"],
    ),
    (
        "weft-gateway",
        &[
            "weft-discovery",
            "weft-identity",
            "weft-model",
            "weft-policy",
            "weft-proto",
            "weft-reflection",
            "weft-runtime",
            "weft-telemetry",
            "weft-traffic",
            "weft-transcode",
        ],
    ),
    (
        "weft-sidecar",
        &[
            "weft-discovery",
            "weft-identity",
            "weft-model",
            "weft-proto",
            "weft-runtime",
            "weft-supervise",
            "weft-telemetry",
            "weft-traffic",
        ],
    ),
    ("weft-up", &["weft-discovery", "weft-identity", "weft-model", "weft-proto", "weft-runtime", "weft-supervise"]),
    // a tool that asks every role from outside, and so stands on none but `up`, whose control socket and file say where they are
    ("weft-check", &["weft-discovery", "weft-identity", "weft-model", "weft-proto", "weft-runtime", "weft-up"]),
    // what composes and what ships
    (
        "weft-cli",
        &[
            "weft-check",
            "weft-discovery",
            "weft-gateway",
            "weft-identity",
            "weft-model",
            "weft-policy",
            "weft-proto",
            "weft-registry",
            "weft-runtime",
            "weft-sidecar",
            "weft-supervise",
            "weft-up",
        ],
    ),
    ("weft-tests", &[]),
    ("weft-bench", &[]),
    ("weft-bench-transcode", &[]),
    ("xtask", &[]),
];

/// What every package below `services/` may depend on; so a service never depends on another.
const SERVICE: &[&str] = &["weft", "weft-proto", "weft-store"];

/// Returns every arrow that is not in the table, and every row that names no package.
pub(crate) fn problems(metadata: &Metadata, root: &Path) -> Vec<String> {
    let rows: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    let ours: BTreeSet<&str> = metadata.packages.iter().map(|package| package.name.as_str()).collect();
    let mut problems = Vec::new();
    for package in &metadata.packages {
        let row = if is_service(package, root) { Some(&SERVICE) } else { rows.get(package.name.as_str()) };
        match row {
            None => {
                problems.push(format!("{} has no row: say in xtask/src/arrows.rs what it may stand on", package.name))
            }
            Some(allowed) => problems.extend(forbidden(package, allowed, &ours)),
        }
    }
    let stale = rows.keys().filter(|name| !ours.contains(*name));
    problems.extend(stale.map(|name| format!("{name} has a row in xtask/src/arrows.rs but is no package")));
    problems
}

fn is_service(package: &Package, root: &Path) -> bool {
    package.manifest_path.starts_with(root.join("services"))
}

fn forbidden(package: &Package, allowed: &[&str], ours: &BTreeSet<&str>) -> Vec<String> {
    let shipped = package.dependencies.iter().filter(|it| it.kind.as_deref() != Some("dev")).map(|it| it.name.as_str());
    let not_allowed = shipped.filter(|name| ours.contains(name) && !allowed.contains(name));
    not_allowed.map(|name| format!("{} must not depend on {name}", package.name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::Dependency;

    fn package(name: &str, folder: &str, dependencies: &[(&str, Option<&str>)]) -> Package {
        let dependency =
            |(name, kind): &(&str, Option<&str>)| Dependency { name: (*name).into(), kind: kind.map(str::to_owned) };
        Package {
            name: name.into(),
            manifest_path: Path::new("/weft").join(folder).join("Cargo.toml"),
            dependencies: dependencies.iter().map(dependency).collect(),
            targets: vec![],
        }
    }

    /// The problems of a workspace with every room of the table and the given packages in place of or beside theirs.
    fn check(changed: Vec<Package>, wanted: &[&str]) {
        let names: Vec<String> = changed.iter().map(|package| package.name.clone()).collect();
        let rest = ARROWS.iter().filter(|(name, _)| !names.iter().any(|it| it == name));
        let packages = rest.map(|(name, _)| package(name, name, &[])).chain(changed).collect();
        let metadata = Metadata { packages, target_directory: "/t".into() };
        assert_eq!(problems(&metadata, Path::new("/weft")), wanted);
    }

    #[test]
    fn the_tables_arrows_point_up_the_table_only() {
        let mut above = BTreeSet::new();
        for (name, allowed) in ARROWS {
            assert!(allowed.iter().all(|it| above.contains(it)), "{name} names a row that is not above it");
            assert!(!allowed.contains(&"weft-testkit"), "{name}: testkit is for tests");
            assert!(above.insert(name), "{name} has two rows");
        }
    }

    #[test]
    fn a_role_that_depends_on_a_role_is_named() {
        let gateway =
            package("weft-gateway", "gateway", &[("weft-registry", None), ("weft-model", None), ("tokio", None)]);
        check(vec![gateway], &["weft-gateway must not depend on weft-registry"]);
    }

    #[test]
    fn build_dependencies_count_and_dev_dependencies_do_not() {
        let dependencies =
            [("weft-proto", Some("build")), ("weft-registry", Some("dev")), ("weft-testkit", Some("dev"))];
        check(
            vec![package("weft-model", "crates/model", &dependencies)],
            &["weft-model must not depend on weft-proto"],
        );
    }

    #[test]
    fn a_service_stands_on_the_sdk_and_the_contract_and_never_on_a_service() {
        let users = package("weft-users", "services/users", &[("weft", None), ("weft-proto", None)]);
        let posts = package("weft-posts", "services/posts", &[("weft", None), ("weft-users", None)]);
        check(vec![users, posts], &["weft-posts must not depend on weft-users"]);
    }

    #[test]
    fn a_room_without_a_row_and_a_row_without_a_room_are_named() {
        check(
            vec![package("weft-broker", "broker", &[])],
            &["weft-broker has no row: say in xtask/src/arrows.rs what it may stand on"],
        );
        let metadata = Metadata { packages: vec![], target_directory: "/t".into() };
        assert_eq!(problems(&metadata, Path::new("/weft")).len(), ARROWS.len());
    }
}
