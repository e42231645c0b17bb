//! `ps`, `logs`, `probe` and `drain`: what runs, what it writes, whether it takes calls, and that it shall take no more.
//!
//! Lives here: flags, what is asked of `weft up`, what a row says. Does not: formats (`output`), how a log line reads (`weft_up::text`).

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::Context as _;
use serde::Serialize;
use weft_proto::weft::up::v1 as pb;
use weft_runtime::{admin, clock};
use weft_sidecar::HealthCheck;
use weft_up::{client::ConnectError, text};

use crate::output::{self, Format};

/// Which mesh is meant.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Mesh {
    /// The file the mesh was started from; else weft.toml in this directory or above
    #[arg(long, value_name = "FILE", global = true)]
    file: Option<PathBuf>,
}

impl Mesh {
    pub(crate) async fn connect(&self) -> anyhow::Result<weft_up::client::Client> {
        let dir = std::env::current_dir()?;
        Ok(weft_up::client::connect(self.file.as_deref(), &dir).await?)
    }

    /// What is in the way of whoever wants something of this mesh: nobody runs it, or it is not ready yet. None if it is ready, or another runs it.
    pub(crate) async fn trouble(&self) -> Option<anyhow::Error> {
        let mut up = match self.connect().await {
            Ok(up) => up,
            Err(error) => {
                let down =
                    matches!(error.downcast_ref(), Some(ConnectError::NoMesh { .. } | ConnectError::Silent { .. }));
                return down.then_some(error);
            }
        };
        let status = up.status(pb::StatusRequest {}).await.ok()?.into_inner();
        not_ready(&status).map(|what| anyhow::anyhow!("{what}; try again when it says that it is ready"))
    }

    /// Where the operator's token of this mesh's registry lies.
    pub(crate) fn operator_token(&self) -> anyhow::Result<PathBuf> {
        let dir = std::env::current_dir()?;
        Ok(weft_up::config::operator_token(self.file.as_deref(), &dir)?)
    }
}

/// Flags of `weft ps`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct PsArgs {
    /// Format of the output
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    mesh: Mesh,
}

/// The mesh at one moment, as programs read it. The names are those of `weft.up.v1`.
#[derive(Serialize)]
struct Everything {
    processes: Vec<Process>,
    urls: BTreeMap<String, String>,
    started_at_s: i64,
}

#[derive(Serialize)]
struct Process {
    name: String,
    service: String,
    state: String,
    reason: String,
    pid: u32,
    app_pid: u32,
    restarts: u32,
    since_s: i64,
    addresses: BTreeMap<String, String>,
    instance_id: String,
}

/// Says so if `weft up` is on its way: where people reach the mesh is known when it is ready.
pub(crate) fn not_ready(status: &pb::StatusResponse) -> Option<&'static str> {
    match (status.urls.is_empty(), status.processes.is_empty()) {
        (false, _) => None,
        (true, true) => Some("`weft up` is still building"),
        (true, false) => Some("`weft up` is still starting"),
    }
}

pub(crate) async fn ps(args: PsArgs) -> anyhow::Result<()> {
    let status = args.mesh.connect().await?.status(pb::StatusRequest {}).await?.into_inner();
    if let Some(what) = not_ready(&status) {
        eprintln!("{what}");
    }
    let now = clock::wall().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs().cast_signed());
    let everything = Everything {
        processes: status.processes.into_iter().map(Process::from).collect(),
        urls: status.urls.into_iter().map(|url| (url.name, url.url)).collect(),
        started_at_s: status.started_at_s,
    };
    output::print(args.output, &everything, |format| {
        let mut heading = vec!["NAME", "STATE", "PID", "APP", "RESTARTS", "AGE"];
        heading.extend::<&[_]>(match format {
            Format::Wide => &["ADDRESSES", "INSTANCE", "WHY"],
            Format::Table | Format::Json | Format::Yaml => &["ADDRESS"],
        });
        (heading, everything.processes.iter().map(|process| process.row(now, format)).collect())
    })
}

impl From<pb::Process> for Process {
    fn from(it: pb::Process) -> Self {
        Self {
            name: it.name,
            service: it.service,
            state: it.state,
            reason: it.reason,
            pid: it.pid,
            app_pid: it.app_pid,
            restarts: it.restarts,
            since_s: it.since_s,
            addresses: it.addresses.into_iter().collect(),
            instance_id: it.instance_id,
        }
    }
}

impl Process {
    fn row(&self, now: i64, format: Format) -> [String; 9] {
        let dash = |text: String| if text.is_empty() { "-".to_owned() } else { text };
        let id = |pid: u32| if pid == 0 { "-".to_owned() } else { pid.to_string() };
        let addresses = match format {
            Format::Wide => {
                let all = self.addresses.iter().map(|(proto, addr)| format!("{proto}={addr}"));
                all.collect::<Vec<_>>().join(" ")
            }
            Format::Table | Format::Json | Format::Yaml => {
                let main = ["inbound", "http", "grpc"].iter().find_map(|proto| self.addresses.get(*proto));
                main.cloned().unwrap_or_default()
            }
        };
        let age = if self.since_s == 0 { String::new() } else { age(now - self.since_s) };
        [
            self.name.clone(),
            self.state.clone(),
            id(self.pid),
            id(self.app_pid),
            self.restarts.to_string(),
            dash(age),
            dash(addresses),
            dash(self.instance_id.clone()),
            dash(self.reason.clone()),
        ]
    }
}

/// `42s`, `3m`, `5h`, `2d`.
pub(crate) fn age(seconds: i64) -> String {
    match seconds.max(0) {
        seconds @ ..60 => format!("{seconds}s"),
        seconds @ ..3_600 => format!("{}m", seconds / 60),
        seconds @ ..86_400 => format!("{}h", seconds / 3_600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

/// What is left of a time, as `age` but to the nearest: what was given for a day a moment ago is good for `24h`.
pub(crate) fn left(seconds: u64) -> String {
    let nearest = |unit: u64| seconds.saturating_add(unit / 2) / unit;
    match (nearest(60), nearest(3_600)) {
        _ if seconds < 60 => format!("{seconds}s"),
        (minutes @ ..60, _) => format!("{minutes}m"),
        (_, hours @ ..48) => format!("{hours}h"),
        _ => format!("{}d", nearest(86_400)),
    }
}

/// Flags of `weft logs`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct LogsArgs {
    /// A service, one slot of it (users-1), registry or gateway; everything if left out
    name: Option<String>,
    /// Go on with new lines
    #[arg(short, long)]
    follow: bool,
    /// Lines from the past, of each process
    #[arg(long, value_name = "N", default_value_t = 100)]
    tail: u32,
    /// Only the lines of one trace, by its id: 32 hexadecimal digits
    #[arg(long, value_name = "ID", value_parser = text::trace_id)]
    trace: Option<String>,
    /// Lines as they were written, JSON and all, without the process's name
    #[arg(long)]
    raw: bool,
    #[command(flatten)]
    mesh: Mesh,
}

impl LogsArgs {
    /// Whether it goes on until it is told to end.
    pub(crate) const fn follows(&self) -> bool {
        self.follow
    }
}

pub(crate) async fn logs(args: LogsArgs) -> anyhow::Result<()> {
    let (name, trace) = (args.name.unwrap_or_default(), args.trace.unwrap_or_default());
    let request = pb::LogsRequest { name, tail: args.tail, follow: args.follow, trace: trace.clone() };
    let mut lines = args.mesh.connect().await?.logs(request).await?.into_inner();
    let mut any = false;
    while let Some(line) = lines.message().await? {
        if line.lost > 0 {
            eprintln!("({} lines of {} lost: they came faster than they were read)", line.lost, line.process);
        }
        any = true;
        match args.raw {
            true => output::line(&line.line)?,
            false => output::line(&format!("{:<10} | {}", line.process, text::for_people(&line.line)))?,
        }
    }
    if !any && !trace.is_empty() {
        eprintln!("no process has a line of trace {trace}: it is of another mesh, too old, or was not sampled");
    }
    Ok(())
}

/// Flags of `weft probe`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ProbeArgs {
    /// Where the process listens
    #[arg(value_name = "IP:PORT")]
    addr: SocketAddr,
    /// How it is asked: grpc (falls back to tcp), http:/PATH, or tcp
    #[arg(long, value_name = "CHECK", default_value = "grpc")]
    health: HealthCheck,
    /// Seconds until it must have said yes
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    timeout: u64,
}

pub(crate) async fn probe(args: ProbeArgs) -> anyhow::Result<()> {
    Ok(weft_sidecar::healthy_within(args.addr, args.health, Duration::from_secs(args.timeout)).await?)
}

/// Flags of `weft drain`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct DrainArgs {
    /// Where the process has its /healthz: an address of this machine, as it is asked from nowhere else
    #[arg(value_name = "IP:PORT")]
    addr: SocketAddr,
    /// Seconds it may take
    #[arg(long, value_name = "SECONDS", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    timeout: u64,
}

pub(crate) async fn drain(args: DrainArgs) -> anyhow::Result<()> {
    let asked = admin::drain(args.addr, Duration::from_secs(args.timeout)).await;
    Ok(output::line(&asked.with_context(|| format!("{} does not drain", args.addr))?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_one_number_and_its_unit() {
        let ages = [(-5, "0s"), (59, "59s"), (60, "1m"), (3_599, "59m"), (7_200, "2h"), (200_000, "2d")];
        for (seconds, text) in ages {
            assert_eq!(age(seconds), text);
        }
    }

    #[test]
    fn a_mesh_that_is_not_ready_says_whether_it_builds_or_starts() {
        let mut status = pb::StatusResponse::default();
        assert_eq!(not_ready(&status), Some("`weft up` is still building"));
        status.processes.push(pb::Process::default());
        assert_eq!(not_ready(&status), Some("`weft up` is still starting"));
        status.urls.push(pb::Url::default());
        assert_eq!(not_ready(&status), None);
    }

    #[test]
    fn what_is_left_is_told_to_the_nearest_of_the_unit_that_fits_it_then() {
        let told = [0, 59, 60, 3_569, 3_570, 3_590, 3_600, 86_399, 171_000, 172_799, u64::MAX].map(left);
        let wanted = ["0s", "59s", "1m", "59m", "1h", "1h", "1h", "24h", "2d", "2d"];
        assert_eq!(told[..10], wanted);
    }

    #[test]
    fn a_row_has_a_dash_where_nothing_is_known() {
        let process =
            Process::from(pb::Process { name: "users-1".into(), state: "starting".into(), ..Default::default() });
        assert_eq!(process.row(0, Format::Table), ["users-1", "starting", "-", "-", "0", "-", "-", "-", "-"]);
    }
}
