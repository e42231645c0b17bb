//! The Dockerfile: read, held against the code, and run stage by stage by buildah, without a daemon and without a network image.
//!
//! Lives here: its instructions, what its images hold, whether they start. Does not: the release profile, which builds the same lines.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use serde_json::Value;
use weft_runtime::listen::ListenAddr;
use weft_testkit::{outside, process, wait};

use crate::{
    code,
    files::{self, list, strings},
};

const DOCKERFILE: &str = "deploy/docker/Dockerfile";
/// Stages that no image is made of.
const INNER: [&str; 2] = ["build", "base"];

/// How long a program may take to start, on a busy machine.
const START: Duration = Duration::from_secs(60);

/// An instruction, with its lines joined.
struct Instruction {
    stage: String,
    word: String,
    rest: String,
}

fn instructions() -> Vec<Instruction> {
    let text = files::read(DOCKERFILE);
    let lines: Vec<_> = text.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
    let mut stage = String::new();
    let joined = lines.join("\n").replace("\\\n", " ");
    let instructions = joined.lines().filter_map(|line| line.trim().split_once(' ')).map(|(word, rest)| {
        if word == "FROM" {
            stage = rest.split_once(" AS ").map(|(_, name)| name.to_owned()).unwrap_or_default();
        }
        Instruction { stage: stage.clone(), word: word.to_owned(), rest: rest.trim().to_owned() }
    });
    instructions.collect()
}

/// Images that the file makes.
pub(crate) fn targets() -> BTreeSet<String> {
    let stages = instructions().into_iter().map(|it| it.stage);
    stages.filter(|it| !it.is_empty() && !INNER.contains(&it.as_str())).collect()
}

fn of(stage: &str, word: &str) -> Vec<String> {
    instructions().into_iter().filter(|it| it.stage == stage && it.word == word).map(|it| it.rest).collect()
}

/// A JSON list behind `CMD` or alone.
fn exec(text: &str) -> Vec<String> {
    let at = text.find('[').unwrap_or_else(|| panic!("{text} is not in exec form, and there is no shell"));
    strings(&serde_json::from_str(&text[at..]).unwrap())
}

#[test]
fn every_port_command_and_variable_of_the_images_is_one_of_the_code() {
    let test = "every_port_command_and_variable_of_the_images_is_one_of_the_code";
    let Some(weft) = outside::need_binaries(&["weft"], test) else { return };
    assert_eq!(targets(), ["comments", "posts", "users", "weft"].map(str::to_owned).into());
    for target in targets() {
        assert_eq!(exec(&of(&target, "ENTRYPOINT")[0]), [target.as_str()]);
        let open: BTreeSet<u16> = of(&target, "EXPOSE").join(" ").split(' ').map(|it| it.parse().unwrap()).collect();
        if target == "weft" {
            assert_eq!(open, default_ports());
            continue;
        }
        assert_eq!(open, BTreeSet::from([weft::DEFAULT_PORT]));
        let health = exec(&of(&target, "HEALTHCHECK")[0]);
        code::asking_command(&weft[0], &health);
        assert!(health.contains(&format!("127.0.0.1:{}", weft::DEFAULT_PORT)), "{health:?}");
        for variable in of(&target, "ENV") {
            let (name, value) = variable.split_once('=').unwrap();
            assert!(code::reads_variable(name), "nothing reads {name}");
            assert_eq!(value, of("base", "WORKDIR")[0], "the one folder that its user may write");
        }
    }
    assert_eq!(of("base", "USER"), ["65532:65532"]);
}

/// Ports that the roles open to others when no flag names one.
fn default_ports() -> BTreeSet<u16> {
    let line = |text: &str| {
        let process = code::process(&text.split(' ').map(str::to_owned).collect::<Vec<_>>()).unwrap();
        process.open.into_iter().collect::<Vec<_>>()
    };
    let sidecar = "sidecar --service=a --app=127.0.0.1:1 --registry=http://r:1 --inbound=:7300 --advertise=10.0.0.1:7300 --insecure";
    let roles = [
        "registry --listen=:7100 --http=:7180 --insecure",
        "gateway --listen=:8080 --registry=http://r:1 --insecure",
        sidecar,
    ];
    roles.into_iter().flat_map(line).collect()
}

#[test]
fn the_image_that_builds_has_a_compiler_that_is_new_enough() {
    let image = instructions().into_iter().find(|it| it.word == "ARG" && it.rest.starts_with("RUST=")).unwrap().rest;
    let version = image.rsplit(':').next().unwrap().split('-').next().unwrap().to_owned();
    let manifest = files::read("Cargo.toml");
    let wanted = manifest.lines().find_map(|line| line.strip_prefix("rust-version = ")).unwrap().trim_matches('"');
    let number = |it: &str| it.split('.').map(|it| it.parse::<u32>().unwrap()).collect::<Vec<_>>();
    assert!(number(&version) >= number(wanted), "{version} is older than {wanted}");
}

#[tokio::test]
async fn the_stages_run_and_every_image_holds_a_static_program_that_starts() {
    let test = "the_stages_run_and_every_image_holds_a_static_program_that_starts";
    let Some(program) = outside::need_from_setup(outside::program("buildah"), test, "buildah") else { return };
    if !outside::need_root(test) {
        return;
    }
    let Some(chroot) = outside::need_from_setup(outside::program("chroot"), test, "chroot") else { return };
    let buildah = Buildah::new(program);
    buildah.make_base();
    for target in targets() {
        buildah.build(&target);
        let image = buildah.image(&target);
        assert_eq!(image["config"]["User"], "65532:65532", "{target}");
        assert_eq!(strings(&image["config"]["Entrypoint"]), [target.as_str()]);
        let healthy = list(&image["config"]["Healthcheck"]["Test"]);
        assert_eq!(healthy.is_empty(), target == "weft", "{target}: {healthy:?}");

        let root = buildah.mount(&target);
        for name in BTreeSet::from(["weft", target.as_str()]) {
            let program = fs::read(root.join("usr/bin").join(name)).unwrap();
            assert!(is_static(&program), "{name} in {target} wants a dynamic linker");
        }
        assert!(!root.join("lib").exists() && !root.join("bin").exists(), "{target} holds more than programs");
        starts(&chroot, &root, &target).await;
    }
}

/// What every container engine puts into a container, and `chroot` does not: the kernel's random numbers (OCI runtime specification, default devices).
fn devices(root: &Path) {
    let dev = root.join("dev");
    fs::create_dir_all(&dev).unwrap();
    for (name, minor) in [("random", "8"), ("urandom", "9")] {
        let node = dev.join(name);
        if !node.exists() {
            let made = Command::new("mknod").args(["-m", "666"]).arg(&node).args(["c", "1", minor]).status().unwrap();
            assert!(made.success(), "mknod {}", node.display());
        }
    }
}

/// Runs the image's program in its own file system, as its own user, and asks it by the image's own health command.
async fn starts(chroot: &Path, root: &Path, target: &str) {
    devices(root);
    let port = free_port();
    let run = |words: &[String]| {
        let mut command = Command::new(chroot);
        command.arg("--userspec=65532:65532").arg(root).args(words).env_clear();
        command.env("WEFT_DATA", "/var/lib/weft").env("PORT", port.to_string());
        command
    };
    let (line, health) = if target == "weft" {
        let http = format!("127.0.0.1:{port}");
        let line = ["/usr/bin/weft", "registry", "--listen=127.0.0.1:0", "--http", &http, "--data=/var/lib/weft"];
        (
            line.map(str::to_owned).to_vec(),
            vec!["/usr/bin/weft".to_owned(), "probe".into(), http, "--health=http:/readyz".into()],
        )
    } else {
        let mut health = exec(&of(target, "HEALTHCHECK")[0]);
        health[0] = "/usr/bin/weft".to_owned();
        let at = format!("127.0.0.1:{port}");
        for word in health.iter_mut().filter(|it| it.starts_with("127.0.0.1:")) {
            word.clone_from(&at);
        }
        (vec![format!("/usr/bin/{target}")], health)
    };
    let process = process::Process::spawn(target, run(&line)).unwrap();
    wait::until(&format!("{target} to be healthy in its image; it says {}", process.log()), START, || async {
        run(&health).output().unwrap().status.success().then_some(())
    })
    .await;
}

fn free_port() -> u16 {
    ListenAddr::loopback(0).lasting().get().port()
}

/// Whether an ELF program has no interpreter, which is what a static one is: nothing is loaded before it.
fn is_static(program: &[u8]) -> bool {
    const INTERPRETER: u32 = 3;
    assert_eq!(&program[..5], b"\x7fELF\x02", "no 64-bit program");
    let short = |at: usize| usize::from(u16::from_le_bytes(program[at..at + 2].try_into().unwrap()));
    let headers = u64::from_le_bytes(program[32..40].try_into().unwrap()) as usize;
    let (size, count) = (short(54), short(56));
    let mut kinds =
        (0..count).map(|it| headers + it * size).map(|at| u32::from_le_bytes(program[at..at + 4].try_into().unwrap()));
    !kinds.any(|kind| kind == INTERPRETER)
}

/// buildah with a store of its own below the target directory; what it built before is used again, its images are not kept.
struct Buildah {
    program: PathBuf,
    home: PathBuf,
}

/// What of this machine stands in for the image with Rust: its compilers, read-only.
const FROM_HERE: [&str; 8] = [
    "/usr/bin",
    "/usr/lib",
    "/usr/lib64",
    "/usr/libexec",
    "/usr/include",
    "/usr/share",
    "/etc/ssl",
    "/etc/alternatives",
];
const BASE: &str = "localhost/rust";

impl Buildah {
    fn new(program: PathBuf) -> Self {
        let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("buildah");
        fs::create_dir_all(home.join("tmp")).unwrap();
        Self { program, home }
    }

    fn run(&self, words: &[&str]) -> String {
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(self.home.join("storage")).arg("--runroot").arg(self.home.join("run"));
        // `vfs` works inside of containers, too. The caches of RUN lie below TMPDIR.
        command.args(["--storage-driver", "vfs"]).args(words).env("TMPDIR", self.home.join("tmp"));
        let Output { status, stdout, stderr } = command.output().unwrap();
        let said = String::from_utf8_lossy(&stderr);
        let last = said.lines().rev().take(60).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n");
        assert!(status.success(), "buildah {} failed:\n{}\n{last}", words.join(" "), String::from_utf8_lossy(&stdout));
        String::from_utf8_lossy(&stdout).trim().to_owned()
    }

    /// An image of folders to mount this machine's compilers on: what `rust:…` is to somebody with a registry of images.
    fn make_base(&self) {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["usr/local", "etc", "tmp", "var/tmp", "proc", "sys", "dev", "root", "toolchain"] {
            fs::create_dir_all(dir.path().join(folder)).unwrap();
        }
        for linked in ["bin", "lib", "lib64", "sbin"] {
            symlink(format!("usr/{linked}"), dir.path().join(linked)).unwrap();
        }
        for file in ["etc/passwd", "etc/group"] {
            fs::copy(Path::new("/").join(file), dir.path().join(file)).unwrap();
        }
        let container = self.run(&["from", "scratch"]);
        self.run(&["copy", "--quiet", &container, &dir.path().to_string_lossy(), "/"]);
        let path = "PATH=/toolchain/bin:/usr/bin:/bin";
        self.run(&["config", "--env", path, "--env", "CARGO_HOME=/usr/local/cargo", &container]);
        self.run(&["commit", "--quiet", "--rm", &container, BASE]);
    }

    fn build(&self, target: &str) {
        let toolchain = Command::new("rustc").args(["--print", "sysroot"]).output().unwrap().stdout;
        let toolchain = format!("{}:/toolchain:ro", String::from_utf8(toolchain).unwrap().trim());
        let here = FROM_HERE.iter().filter(|it| Path::new(it).exists()).map(|it| format!("{it}:{it}:ro"));
        let volumes: Vec<_> = here.chain([toolchain]).collect();
        let (file, context) = (files::root(DOCKERFILE), files::root(""));
        let base = format!("RUST={BASE}");
        let mut words = vec!["build", "--isolation", "chroot", "--format", "docker", "--pull-never", "--layers"];
        words.extend(["--build-arg", "PROFILE=dev", "--build-arg", &base, "--target", target, "--tag", target]);
        words.extend(volumes.iter().flat_map(|it| ["--volume", it]));
        let (file, context) = (file.to_string_lossy(), context.to_string_lossy());
        words.extend(["--file", &file, &context]);
        self.run(&words);
    }

    /// What the image says of itself.
    fn image(&self, target: &str) -> Value {
        let inspected: Value = serde_json::from_str(&self.run(&["inspect", "--type", "image", target])).unwrap();
        inspected["Docker"].clone()
    }

    /// The image's file system as it would be under its process.
    fn mount(&self, target: &str) -> PathBuf {
        let container = self.run(&["from", "--pull-never", target]);
        PathBuf::from(self.run(&["mount", &container]))
    }
}

impl Drop for Buildah {
    fn drop(&mut self) {
        let quietly = |words: &[&str]| {
            let mut command = Command::new(&self.program);
            command.arg("--root").arg(self.home.join("storage")).arg("--runroot").arg(self.home.join("run"));
            drop(command.args(["--storage-driver", "vfs"]).args(words).output()); // what stays is removed by the next run
        };
        quietly(&["umount", "--all"]);
        quietly(&["rm", "--all"]);
        quietly(&["rmi", "--all", "--force"]);
    }
}
