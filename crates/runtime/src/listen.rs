//! Listeners: addresses as people write them, exclusive binding with an error that names the owner, and the line that says where we listen.
//!
//! Lives here: parsing, choosing a port, binding, announcing. Does not: accepting (roles), TLS.

use std::{
    fmt, fs,
    hash::{BuildHasher, Hasher, RandomState},
    io::{self, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::RangeInclusive,
    path::Path,
    str::FromStr,
};

use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};

use crate::{Context, LogFormat, Usage};

/// Connections the kernel may hold before we accept them.
const BACKLOG: u32 = 1024;

/// An address to listen on: `127.0.0.1:8080`, `[::1]:8080`, `localhost:8080`, or `:8080` for all interfaces. Port 0 takes any free port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenAddr(SocketAddr);

impl ListenAddr {
    /// Loopback at a port: what a flag left out means.
    pub const fn loopback(port: u16) -> Self {
        Self(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port))
    }

    /// The address.
    pub const fn get(self) -> SocketAddr {
        self.0
    }

    /// Where the admin server of a role listens: its port + 80 on the same IP, or any port if its own is 0 or there is none 80 up. The
    /// role announces the port it got.
    pub fn admin(self) -> Self {
        let port = if self.0.port() == 0 { 0 } else { self.0.port().checked_add(80).unwrap_or(0) };
        Self(SocketAddr::new(self.0.ip(), port))
    }

    /// The same address, with a port chosen for port 0: one to close and listen on again later, such as by a process that is started anew.
    /// Ports that the kernel gives out by itself are no such thing: any connection of this machine may be given them meanwhile. Port 0
    /// remains where the kernel gives out all.
    pub fn lasting(self) -> Self {
        if self.0.port() != 0 {
            return self;
        }
        let free = |port: &u16| std::net::TcpListener::bind((self.0.ip(), *port)).is_ok();
        let port = lasting_ports(&ephemeral()).find(free).unwrap_or(0);
        Self(SocketAddr::new(self.0.ip(), port))
    }

    /// Refuses an address off loopback unless `insecure` was asked for: until peers prove who they are, only this machine may call.
    pub fn require_loopback(self, flag: &str, insecure: Insecure) -> Result<Self, Usage> {
        if self.0.ip().is_loopback() || insecure == Insecure::Allowed {
            return Ok(self);
        }
        Err(Usage::new(format!(
            "{flag} {self} is reachable from other machines, and connections are not encrypted or authenticated; \
             listen on 127.0.0.1, or accept that with --insecure"
        )))
    }
}

/// Whether plaintext off loopback is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Insecure {
    /// Only loopback.
    Refused,
    /// Anywhere: `--insecure`.
    Allowed,
}

impl From<bool> for Insecure {
    fn from(flag: bool) -> Self {
        if flag { Self::Allowed } else { Self::Refused }
    }
}

/// Exactly there.
impl From<SocketAddr> for ListenAddr {
    fn from(addr: SocketAddr) -> Self {
        Self(addr)
    }
}

impl FromStr for ListenAddr {
    type Err = Usage;

    fn from_str(text: &str) -> Result<Self, Usage> {
        let wrong =
            || Usage::new(format!("{text:?} is no address to listen on, like 127.0.0.1:8080, [::1]:8080 or :8080"));
        if let Some(port) = text.strip_prefix(':') {
            return Ok(Self(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port.parse().map_err(|_| wrong())?)));
        }
        if let Some(port) = text.strip_prefix("localhost:") {
            return Ok(Self::loopback(port.parse().map_err(|_| wrong())?));
        }
        text.parse().map(Self).map_err(|_| wrong())
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) { write!(f, ":{}", self.0.port()) } else { self.0.fmt(f) }
    }
}

/// Why a listener could not be had.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another process listens there.
    #[error("WEFT0107 {addr} is taken{}; stop that process or choose another address", owner.as_ref().map(|o| format!(" by {o}")).unwrap_or_default())]
    Taken {
        /// The address asked for.
        addr: ListenAddr,
        /// Program and process id, when `/proc` tells.
        owner: Option<Owner>,
    },
    /// Anything else, such as a port that needs more rights.
    #[error("cannot listen on {addr}")]
    Other {
        /// The address asked for.
        addr: ListenAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// Binds exclusively: a second process on the same port fails instead of sharing it. Accepted connections should get `TCP_NODELAY`.
pub fn bind(addr: ListenAddr) -> Result<TcpListener, BindError> {
    let listen = || {
        let socket = if addr.get().is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?; // a restart need not wait for TIME_WAIT; two listeners still exclude each other
        socket.bind(addr.get())?;
        socket.listen(BACKLOG)
    };
    listen().map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => BindError::Taken { addr, owner: owner(addr.get()) },
        _ => BindError::Other { addr, source },
    })
}

/// Ports that the kernel gives to connections and to listeners on port 0.
fn ephemeral() -> RangeInclusive<u16> {
    let told = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok(); // ip(7); for IPv6, too
    let mut bounds = told.iter().flat_map(|told| told.split_whitespace()).map_while(|bound| bound.parse().ok());
    match (bounds.next(), bounds.next()) {
        (Some(first), Some(last)) => first..=last,
        _ => 32_768..=65_535, // Linux's own choice begins here, and what RFC 6335 recommends lies within
    }
}

/// Some ports outside of a range, in random order: below it, where few defaults of programs are, else above. The admin port of each is
/// outside, too.
fn lasting_ports(ephemeral: &RangeInclusive<u16>) -> impl Iterator<Item = u16> + use<> {
    const BELOW: u16 = 10_000;
    const TRIES: usize = 64;
    let below = BELOW..ephemeral.start().saturating_sub(80);
    let above = ephemeral.end().saturating_add(1)..u16::MAX - 80;
    let ports = if below.is_empty() { above } else { below };
    let random = || RandomState::new().build_hasher().finish();
    let pick = move |_| Some(ports.start + u16::try_from(random().checked_rem(ports.len() as u64)?).ok()?);
    (0..TRIES).map_while(pick)
}

/// Closes a listener, and returns the connections that the kernel has accepted for it: those callers may have sent something already, and would
/// be reset. The socket itself is asked, because the runtime may not have heard of them yet. At most as many as the kernel holds: more are
/// those of callers that go on connecting. An error ends them.
pub fn close(listener: TcpListener) -> impl Iterator<Item = io::Result<(TcpStream, SocketAddr)>> {
    let (listener, unheard) = match listener.into_std() {
        Ok(listener) => (Some(listener), None),
        Err(error) => (None, Some(Err(error))),
    };
    let take = move || {
        let (stream, peer) = match listener.as_ref()?.accept() {
            Ok(accepted) => accepted,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
            Err(error) => return Some(Err(error)),
        };
        let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
        Some(stream.map(|stream| (stream, peer)))
    };
    let mut failed = false;
    let accepted = std::iter::from_fn(take).take(BACKLOG as usize);
    unheard.into_iter().chain(accepted).take_while(move |next| !std::mem::replace(&mut failed, next.is_err()))
}

/// Binds a UDP socket, as exclusively. Answers go out from the address they were asked at only if it is not one of all interfaces.
pub fn bind_udp(addr: ListenAddr) -> Result<UdpSocket, BindError> {
    let socket = std::net::UdpSocket::bind(addr.get()).and_then(|socket| {
        socket.set_nonblocking(true)?;
        UdpSocket::from_std(socket)
    });
    socket.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => BindError::Taken { addr, owner: holder(&UDP, addr.get()) },
        _ => BindError::Other { addr, source },
    })
}

/// Says where a role listens: with `--log-format json` one line on stdout, which supervisors read; else a log line for people.
pub fn announce(context: &Context, proto: &str, addr: SocketAddr) {
    let role = context.name();
    tracing::info!(role, proto, %addr, "listening");
    if context.log_format() == LogFormat::Json {
        let line = serde_json::json!({"event": "listening", "role": role, "proto": proto, "addr": addr.to_string()});
        drop(writeln!(io::stdout(), "{line}")); // whoever wanted to read it may have gone, which is no reason not to serve
    }
}

/// A process that listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Name of its program, as the kernel shows it.
    pub program: String,
    /// Its process id.
    pub pid: u32,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {})", self.program, self.pid)
    }
}

/// Returns who listens on this machine where a listener at `addr` would be in the way of, or be reached in the place of: at the address or on all
/// interfaces, read from `/proc`. None if nobody does, or where that is not ours to see.
pub fn owner(addr: SocketAddr) -> Option<Owner> {
    holder(&TCP, addr)
}

/// Tables of sockets, and the state in which one waits for others; format: proc(5), /proc/net/tcp.
type Tables = ([&'static str; 2], &'static str);
const TCP: Tables = (["/proc/net/tcp", "/proc/net/tcp6"], "0A");
const UDP: Tables = (["/proc/net/udp", "/proc/net/udp6"], "07");

fn holder((tables, state): &Tables, addr: SocketAddr) -> Option<Owner> {
    let tables = tables.map(|table| fs::read_to_string(table).unwrap_or_default());
    let inode = tables.iter().find_map(|table| waiting_inode(table, state, addr))?;
    let link = format!("socket:[{inode}]");
    let holds = |pid: &str| {
        let fds = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
        fds.flatten().any(|fd| fs::read_link(fd.path()).is_ok_and(|l| l == Path::new(&link))).then_some(())
    };
    let pids = fs::read_dir("/proc").ok()?.flatten().filter_map(|d| d.file_name().into_string().ok());
    let pid = pids.filter(|name| name.bytes().all(|b| b.is_ascii_digit())).find(|pid| holds(pid).is_some())?;
    let program = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some(Owner { program: program.trim().to_owned(), pid: pid.parse().ok()? })
}

/// Inode of a socket in this state that shares connections with `addr`.
fn waiting_inode(table: &str, waiting: &str, addr: SocketAddr) -> Option<String> {
    table.lines().skip(1).find_map(|line| {
        let mut columns = line.split_whitespace();
        let local = local(columns.nth(1)?)?;
        let state = columns.nth(1)?;
        let inode = columns.nth(5)?;
        (state == waiting && meet(local, addr)).then(|| inode.to_owned())
    })
}

/// Whether connections to one address may reach a listener at the other. All interfaces of IPv6 are taken as those of IPv4, too, as they are unless
/// a socket says otherwise.
fn meet(one: SocketAddr, other: SocketAddr) -> bool {
    let (a, b) = (one.ip().to_canonical(), other.ip().to_canonical());
    let all = |it: IpAddr, of: IpAddr| it.is_unspecified() && (it.is_ipv6() || of.is_ipv4());
    one.port() == other.port() && (a == b || all(a, b) || all(b, a))
}

/// Reads `0100007F:1F90`: each 32 bits of the address in the order of this machine's bytes.
fn local(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let word = |at: usize| Some(u32::from_str_radix(ip.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    let ip = match ip.len() {
        8 => Ipv4Addr::from(word(0)?).into(),
        _ => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?];
            Ipv6Addr::from(<[u8; 16]>::try_from(words.concat()).ok()?).into()
        }
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_as_people_write_them() {
        let get = |text: &str| text.parse::<ListenAddr>().map(|a| a.get().to_string()).unwrap_or_default();
        assert_eq!(get("127.0.0.1:80"), "127.0.0.1:80");
        assert_eq!(get("localhost:80"), "127.0.0.1:80");
        assert_eq!(get(":80"), "[::]:80");
        assert_eq!(get("example.com:80"), "");
        assert_eq!(get("80"), "");
    }

    #[test]
    fn admin_listens_eighty_ports_up_or_anywhere() {
        assert_eq!(ListenAddr::loopback(7100).admin(), ListenAddr::loopback(7180));
        assert_eq!(ListenAddr::loopback(0).admin(), ListenAddr::loopback(0));
        assert_eq!(ListenAddr::loopback(65_455).admin(), ListenAddr::loopback(65_535));
        assert_eq!(ListenAddr::loopback(65_456).admin(), ListenAddr::loopback(0), "there is no port 65,536");
    }

    #[test]
    fn an_address_off_loopback_needs_a_word() {
        let open: ListenAddr = ":80".parse().unwrap();
        assert!(open.require_loopback("--listen", Insecure::Refused).is_err());
        assert!(open.require_loopback("--listen", Insecure::Allowed).is_ok());
        assert!(ListenAddr::loopback(80).require_loopback("--listen", Insecure::Refused).is_ok());
    }

    #[test]
    fn a_lasting_port_is_none_that_the_kernel_gives_out() {
        let within = |ephemeral: RangeInclusive<u16>, wanted: RangeInclusive<u16>| {
            let ports: Vec<_> = lasting_ports(&ephemeral).collect();
            assert_eq!(ports.len(), 64);
            assert!(ports.iter().all(|port| wanted.contains(port)), "{ports:?} for {ephemeral:?}");
            assert!(ports.iter().any(|port| *port != ports[0]), "{ports:?}");
        };
        within(32_768..=60_999, 10_000..=32_687);
        within(1_024..=60_999, 61_000..=65_454);
        within(10_000..=49_151, 49_152..=65_454);
        assert_eq!(lasting_ports(&(1_024..=65_535)).count(), 0);
        assert_eq!(lasting_ports(&(1_024..=65_500)).count(), 0);
    }

    #[tokio::test]
    async fn port_0_lasts_as_a_port_that_can_be_had_again_and_again() {
        let chosen = ListenAddr::loopback(0).lasting();
        assert_eq!(chosen.lasting(), chosen);
        for _ in 0..2 {
            assert_eq!(bind(chosen).unwrap().local_addr().unwrap(), chosen.get());
        }
        assert!(!ephemeral().contains(&chosen.get().port()), "{chosen}");
        let kernels = bind(ListenAddr::loopback(0)).unwrap().local_addr().unwrap().port();
        assert!(ephemeral().contains(&kernels), "what the kernel gives out is known: {kernels}");
    }

    #[tokio::test]
    async fn a_listener_that_closes_gives_back_what_the_kernel_accepted_before_the_runtime_heard_of_it() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = bind(ListenAddr::loopback(0)).unwrap();
        let at = listener.local_addr().unwrap();
        let clients: Vec<_> = (0..3).map(|_| std::net::TcpStream::connect(at).unwrap()).collect();
        let accepted: Vec<_> = close(listener).collect::<io::Result<_>>().unwrap();
        let peers: Vec<_> = accepted.iter().map(|(_, peer)| *peer).collect();
        assert_eq!(peers, clients.iter().map(|client| client.local_addr().unwrap()).collect::<Vec<_>>());
        assert!(std::net::TcpStream::connect(at).is_err(), "nobody listens any more");
        for ((mut stream, _), client) in accepted.into_iter().zip(clients) {
            client.set_nonblocking(true).unwrap();
            let mut client = TcpStream::from_std(client).unwrap();
            client.write_all(b"hi").await.unwrap();
            let mut heard = [0; 2];
            stream.read_exact(&mut heard).await.unwrap();
            assert_eq!(&heard, b"hi");
        }
    }

    #[test]
    fn who_listens_elsewhere_on_the_port_is_in_nobodys_way() {
        let meet = |one: &str, other: &str| {
            let meets = meet(one.parse().unwrap(), other.parse().unwrap());
            assert_eq!(meets, super::meet(other.parse().unwrap(), one.parse().unwrap()), "{one} and {other}");
            meets
        };
        assert!(meet("127.0.0.1:80", "127.0.0.1:80") && meet("127.0.0.1:80", "0.0.0.0:80"));
        assert!(meet("127.0.0.1:80", "[::]:80") && meet("[::1]:80", "[::]:80"));
        assert!(meet("127.0.0.1:80", "[::ffff:127.0.0.1]:80"));
        assert!(!meet("127.0.0.1:80", "127.0.0.2:80") && !meet("127.0.0.1:80", "[::1]:80"));
        assert!(!meet("127.0.0.1:80", "127.0.0.1:81") && !meet("[::1]:80", "0.0.0.0:80"));
    }

    #[tokio::test]
    async fn an_owner_is_found_by_its_address_and_on_all_interfaces() {
        let owned = |text: String| owner(text.parse().unwrap()).map(|it| it.pid);
        let (ours, other) = (bind("127.0.0.2:0".parse().unwrap()).unwrap(), bind(":0".parse().unwrap()).unwrap());
        let (port, all) = (ours.local_addr().unwrap().port(), other.local_addr().unwrap().port());
        assert_eq!(owned(format!("127.0.0.2:{port}")), Some(std::process::id()));
        assert_eq!(owned(format!("127.0.0.3:{port}")), None, "the same port at another address is another's to have");
        assert_eq!(owned(format!("127.0.0.3:{all}")), Some(std::process::id()));
    }

    #[tokio::test]
    async fn a_taken_port_names_its_owner() {
        let first = bind(ListenAddr::loopback(0)).unwrap();
        let port = first.local_addr().unwrap().port();
        let error = bind(ListenAddr::loopback(port)).unwrap_err().to_string();
        assert!(error.starts_with("WEFT0107 "), "the id of `weft check --explain`: {error}");
        assert!(error.contains(&format!("pid {}", std::process::id())), "{error}");

        let first = bind_udp(ListenAddr::loopback(0)).unwrap();
        let error = bind_udp(first.local_addr().unwrap().into()).unwrap_err().to_string();
        assert!(error.contains(&format!("pid {}", std::process::id())), "{error}");
    }
}
