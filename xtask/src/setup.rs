//! `cargo xtask setup`: what tests need from the system, found or installed through apt.
//!
//! Lives here: the list, as data, with what each entry is for. Does not: anything a user can fetch without root (`tools`).
//! Doing it twice is doing it once: what answers is not touched.

use anyhow::{Result, bail};

use crate::env::Env;
use crate::run::{self, Limit};
use crate::tools;

/// Minutes for one call of apt.
const APT: u64 = 15;

struct Need {
    what: &'static str,
    for_what: &'static str,
    /// A command that exits with 0 where the need is met.
    probe: &'static [&'static str],
    packages: &'static [&'static str],
    /// Said if the packages did not meet the need.
    otherwise: &'static str,
}

const NEEDS: &[Need] = &[
    Need {
        what: "a C compiler",
        for_what: "SQLite, which the example services bring along as source",
        probe: &["cc", "--version"],
        packages: &["gcc", "libc6-dev"],
        otherwise: "install gcc or clang",
    },
    Need {
        what: "Python with venv",
        for_what: "tests against Python's grpcio",
        probe: &["python3", "-c", "import venv, ensurepip, sys; assert sys.version_info >= (3, 10)"],
        packages: &["python3", "python3-venv"],
        otherwise: "Python 3.10 or newer is needed, with the venv module",
    },
    Need {
        what: "Node.js",
        for_what: "tests against grpc-js and grpc-js-xds, and with a WebSocket that is not ours",
        probe: &["sh", "-c", r"node --version | grep -Eq '^v(20\.[1-9][0-9]|2[1-9]|[3-9][0-9])\.' && npm --version"],
        packages: &["nodejs", "npm"],
        otherwise: "this system's package is too old: take Node.js 20.10 or newer, with npm, from nodejs.org",
    },
    Need {
        what: "Go",
        for_what: "tests against grpcurl and grpc-go",
        // Since 1.21 an older Go fetches the one that grpcurl asks for by itself.
        probe: &["sh", "-c", r"go version | grep -Eq 'go1\.(2[1-9]|[3-9][0-9])'"],
        packages: &["golang-go"],
        otherwise: "this system's package is too old: take Go 1.25 or newer from go.dev",
    },
    Need {
        what: "Java with Maven",
        for_what: "tests against grpc-java",
        probe: &["sh", "-c", "javac -version && mvn --version"],
        packages: &["default-jdk-headless", "maven"],
        otherwise: "a JDK 17 or newer is needed, with Maven",
    },
    Need {
        what: "Prometheus with promtool",
        for_what: "tests of /metrics, of the rules, and of a server that discovers a mesh",
        probe: &["sh", "-c", "promtool --version && prometheus --version"],
        packages: &["prometheus"],
        otherwise: "take both from a release of Prometheus and put them into PATH",
    },
    Need {
        what: "etcd",
        for_what: "`cargo xtask bench registry`, which measures beside it",
        probe: &["etcd", "--version"],
        packages: &["etcd-server"],
        otherwise: "take etcd from one of its releases and put it into PATH",
    },
    Need {
        what: "dig",
        for_what: "tests of the registry's DNS",
        probe: &["dig", "-v"],
        packages: &["bind9-dnsutils"],
        otherwise: "install BIND's dig",
    },
    Need {
        what: "libfaketime",
        for_what: "the test of `weft check` with a registry whose clock is off",
        probe: &["sh", "-c", "ls /usr/lib/*/faketime/libfaketime.so.1"],
        packages: &["libfaketime"],
        otherwise: "install libfaketime where Debian has it",
    },
    Need {
        what: "buildah",
        for_what: "the test that runs the Dockerfile, without a daemon",
        probe: &["buildah", "--version"],
        packages: &["buildah"],
        otherwise: "install buildah 1.28 or newer",
    },
    Need {
        what: "PostgreSQL",
        for_what: "tests of the example services on it, each with a private server",
        probe: &tools::FIND_POSTGRES,
        packages: &["postgresql"],
        otherwise: "PostgreSQL 15 or newer is needed, with its server's programs",
    },
    Need {
        what: "Redis",
        for_what: "the test of rate limits that gateways share, with a private server",
        probe: &["redis-server", "--version"],
        packages: &["redis-server"],
        otherwise: "install redis-server 6 or newer",
    },
    Need {
        what: "Chromium",
        for_what: "the test of the gateway's /docs in a browser",
        probe: &["chromium", "--version"],
        packages: &["chromium"],
        otherwise: "install Chromium as `chromium`",
    },
    Need {
        what: "tcpdump",
        for_what: "the test that looks at what really goes over the wire",
        probe: &["tcpdump", "--version"],
        packages: &["tcpdump"],
        otherwise: "install tcpdump; it captures as root, or with the capability CAP_NET_RAW",
    },
    Need {
        what: "git",
        for_what: "the gate's check that a run leaves the work tree as it was",
        probe: &["git", "--version"],
        packages: &["git"],
        otherwise: "install git",
    },
];

/// Installs what is missing. Fails without root, without apt, or if something is still missing afterwards.
pub(crate) fn run(env: &Env) -> Result<()> {
    let missing: Vec<&Need> = NEEDS.iter().filter(|need| !met(env, need)).collect();
    for need in NEEDS {
        let state = if missing.iter().any(|it| it.what == need.what) { "missing" } else { "there" };
        println!("{state:>8}  {}, for {}", need.what, need.for_what);
    }
    if missing.is_empty() {
        println!("nothing to install");
        return Ok(());
    }
    let packages: Vec<&str> = missing.iter().flat_map(|need| need.packages).copied().collect();
    println!("installing {} with apt", packages.join(" "));
    apt(env, &["update"], &packages)?;
    apt(env, &[["install", "-y", "--no-install-recommends"].as_slice(), &packages].concat(), &packages)?;
    match missing.iter().find(|need| !met(env, need)) {
        Some(need) => bail!("{} is still missing: {}", need.what, need.otherwise),
        None => Ok(()),
    }
}

fn met(env: &Env, need: &Need) -> bool {
    let mut probe = env.command(need.probe[0]);
    probe.args(&need.probe[1..]);
    run::answers(&mut probe)
}

fn apt(env: &Env, arguments: &[&str], packages: &[&str]) -> Result<()> {
    let mut root = env.command("sh");
    root.args(["-c", "test $(id -u) = 0 && command -v apt-get"]);
    if !run::answers(&mut root) {
        bail!(
            "this needs root on a Debian system; elsewhere install what is missing in your own way, or run:\n  \
               sudo apt-get update && sudo apt-get install -y {}",
            packages.join(" ")
        );
    }
    let mut apt = env.command("apt-get");
    apt.args(["-q"]).args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
    run::succeed(apt, Limit::minutes(APT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_need_says_how_to_see_and_how_to_meet_it() {
        for need in NEEDS {
            assert!(!need.probe.is_empty() && !need.packages.is_empty() && !need.otherwise.is_empty(), "{}", need.what);
        }
    }

    #[test]
    fn a_need_whose_probe_fails_or_does_not_exist_is_missing() {
        let env = Env::at(&std::env::temp_dir());
        let need = |probe| Need { what: "", for_what: "", probe, packages: &[], otherwise: "" };
        std::fs::create_dir_all(env.root()).unwrap();
        assert!(met(&env, &need(&["true"])));
        assert!(!met(&env, &need(&["false"])));
        assert!(!met(&env, &need(&["no-such-program", "--version"])));
    }
}
