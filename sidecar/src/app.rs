//! The app's process, when the sidecar runs it: its environment, its port, its output.
//!
//! Lives here: how the child is described and where its lines go. Does not: its life (`weft-supervise`), what a restart means to
//! callers (`lifecycle`).

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::Path;

use rand::seq::IteratorRandom;
use weft_runtime::Env;
use weft_supervise::{Child, Followed, Logs, Restart, Spawner, Spec};

use crate::Config;

/// Ports given to apps lie below the range from which kernels choose for outgoing connections (Linux: 32768 up), so that none takes the
/// port of an app that is being restarted.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
/// Ports tried before the kernel is asked for any.
const TRIES: usize = 64;

/// What the app is told.
pub(crate) struct Told<'a> {
    pub(crate) app: SocketAddr,
    pub(crate) instance: String,
    pub(crate) outbound: SocketAddr,
    pub(crate) data: Option<&'a Path>,
}

/// Returns the app as a child that is not started yet; `None` when there is no command.
pub(crate) fn child(config: &Config, env: &Env, told: &Told<'_>) -> io::Result<Option<Child>> {
    let Some((program, args)) = config.command.split_first() else { return Ok(None) };
    let mut spec = Spec::new(config.service.to_string(), program)
        .args(args)
        .envs(env.iter())
        .env("PORT", told.app.port().to_string())
        .env("WEFT_SERVICE", config.service.to_string())
        .env("WEFT_INSTANCE", &told.instance)
        .env("WEFT_OUTBOUND", format!("http://{}", dialled(told.outbound)))
        .env("OTEL_SERVICE_NAME", config.service.to_string())
        .restart(Restart::Transient)
        .grace(config.drain.app)
        .trampoline(&config.trampoline);
    if let Some(data) = told.data {
        spec = spec.env("WEFT_DATA", data);
    }
    Ok(Some(Child::new(spec, Spawner::new()?)))
}

/// Returns the address under which a process on this machine reaches a listener.
pub(crate) fn dialled(listener: SocketAddr) -> SocketAddr {
    let ip = match listener.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => std::net::Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => std::net::Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listener.port())
}

/// Returns a port on `ip` that nobody listens on. Nothing holds it: whoever gets it told should listen soon.
pub(crate) fn free_port(ip: IpAddr) -> io::Result<u16> {
    let candidates = PORTS.choose_multiple(&mut rand::rng(), TRIES);
    let free = candidates.into_iter().find(|port| TcpListener::bind((ip, *port)).is_ok());
    match free {
        Some(port) => Ok(port),
        None => Ok(TcpListener::bind((ip, 0))?.local_addr()?.port()),
    }
}

/// Passes on what the app writes, line by line on stderr: stdout is kept for our own data. Ends with the child.
pub(crate) async fn relay(logs: Logs) {
    let mut lines = logs.follow(0);
    while let Some(followed) = lines.next().await {
        let mut stderr = io::stderr().lock();
        // Nobody to tell: stderr is where we would say so.
        let _ = match followed {
            Followed::Line(line) => writeln!(stderr, "{line}"),
            Followed::Missed(lines) => {
                writeln!(stderr, "({lines} lines of the app are lost: it wrote faster than they were read)")
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_free_port_can_be_listened_on_and_is_not_one_the_kernel_would_choose() {
        let port = free_port([127, 0, 0, 1].into()).unwrap();
        assert!(PORTS.contains(&port));
        assert!(TcpListener::bind(("127.0.0.1", port)).is_ok());
    }

    #[test]
    fn a_listener_on_all_interfaces_is_dialled_on_loopback() {
        assert_eq!(dialled("0.0.0.0:80".parse().unwrap()).to_string(), "127.0.0.1:80");
        assert_eq!(dialled("[::]:80".parse().unwrap()).to_string(), "[::1]:80");
    }
}
