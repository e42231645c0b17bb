//! The app's process, when the sidecar runs it: its environment, its port, its output.
//!
//! Lives here: how the child is described and where its lines go. Does not: its life (`weft-supervise`), what a restart means to
//! callers (`lifecycle`).

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{self as unix, UnixDatagram};
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

/// A port that this sidecar has picked for its app. As long as it lives, no other sidecar of this machine picks the same.
#[derive(Debug)]
pub(crate) struct PickedPort {
    pub(crate) port: u16,
    _claim: UnixDatagram,
}

impl PickedPort {
    /// Picks a port on `ip` that nobody listens on. Nothing holds it against strangers: whoever gets it told should listen soon.
    pub(crate) fn on(ip: IpAddr) -> io::Result<Self> {
        let candidates = PORTS.choose_multiple(&mut rand::rng(), TRIES).into_iter();
        let picked = candidates.filter(|port| listen(ip, *port).is_ok()).find_map(|port| Self::claim(port).ok());
        match picked {
            Some(picked) => Ok(picked),
            None => Self::claim(listen(ip, 0)?.local_addr()?.port()),
        }
    }

    /// Until the app listens, only sidecars know that the port is to be its own. What tells them is a name that ends with the process and counts for
    /// those that share its ports: an abstract Unix address, one a network namespace (unix(7)).
    fn claim(port: u16) -> io::Result<Self> {
        let name = unix::SocketAddr::from_abstract_name(format!("weft/app-port/{port}"))?;
        Ok(Self { port, _claim: UnixDatagram::bind_addr(&name)? })
    }
}

fn listen(ip: IpAddr, port: u16) -> io::Result<TcpListener> {
    TcpListener::bind((ip, port))
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
    fn a_picked_port_can_be_listened_on_and_is_not_one_the_kernel_would_choose() {
        let picked = PickedPort::on([127, 0, 0, 1].into()).unwrap();
        assert!(PORTS.contains(&picked.port));
        assert!(TcpListener::bind(("127.0.0.1", picked.port)).is_ok());
    }

    #[test]
    fn nobody_picks_what_another_has_picked_and_not_let_go() {
        let picked = PickedPort::on([127, 0, 0, 1].into()).unwrap();
        let port = picked.port;
        assert_eq!(PickedPort::claim(port).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(picked);
        assert!(PickedPort::claim(port).is_ok());
    }

    #[test]
    fn a_listener_on_all_interfaces_is_dialled_on_loopback() {
        assert_eq!(dialled("0.0.0.0:80".parse().unwrap()).to_string(), "127.0.0.1:80");
        assert_eq!(dialled("[::]:80".parse().unwrap()).to_string(), "[::1]:80");
    }
}
