//! Limits that gateways count together: the account of each counted thing lies in a Redis that all of them were given.
//!
//! Lives here: the address, the one task that speaks to the server, the script that takes a call. Does not: the rule (`edge::rate_limit`), RESP
//! (`edge::shared::resp`).
//! The script is the same arithmetic as of local counts, by the server's clock, so that gateways need not agree on the time. An account goes by itself when
//! it is empty. Keys hold hashes, not names of callers.
//! A Redis that is away or slow is no reason to refuse or to wait: a call waits at most 50 ms, then its gateway counts for itself, and for a while does not ask.
//! Bounds: 1,024 questions wait or are under way; more count locally. One connection a gateway: questions follow each other without waiting for answers.

use std::{collections::VecDeque, fmt, io, str::FromStr, sync::Arc, time::Duration};

use bytes::BytesMut;
use prometheus_client::metrics::counter::Counter;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{mpsc, oneshot},
    time::{Instant, sleep, timeout},
};

use crate::edge::{
    outside::{Kind, Outside, Part, State},
    rate_limit::Rate,
};

mod resp;

use resp::{Reply, command};

const QUEUE: usize = 1_024;
/// How long a call waits.
const WAIT: Duration = Duration::from_millis(50);
/// How long connecting, and an answer on a connection, may take.
const LIMIT: Duration = Duration::from_secs(1);
/// How long the server is left alone after it failed.
const PAUSE: Duration = Duration::from_secs(1);
/// How long an answer to no question is waited for: as good as for good.
const FOREVER: Duration = Duration::from_secs(86_400 * 365);
/// Most bytes of commands that are written at once.
const BATCH: usize = 64 << 10;

/// KEYS: the account. ARGV: worth of a call and of the burst, in microseconds. Returns 0, or how long until there is room.
const TAKE: &str = "local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local account = tonumber(redis.call('GET', KEYS[1]) or '0')
if account < now then account = now end
account = account + tonumber(ARGV[1])
local beyond = account - now - tonumber(ARGV[2])
if beyond > 0 then return beyond end
redis.call('SET', KEYS[1], string.format('%.0f', account), 'PX', math.ceil((account - now) / 1000))
return 0";

/// Where the server is: `redis://[:PASSWORD@]HOST[:PORT][/DATABASE]`.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl {
    host: String,
    port: u16,
    password: Option<String>,
    database: u32,
}

impl FromStr for RedisUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "is no URL of a Redis, like redis://:PASSWORD@10.0.0.9:6379/0".to_owned(); // does not repeat it: a password may be in it
        let rest = text.strip_prefix("redis://").ok_or_else(wrong)?;
        let (rest, database) = match rest.split_once('/') {
            Some((rest, "")) => (rest, 0),
            Some((rest, database)) => (rest, database.parse().map_err(|_| wrong())?),
            None => (rest, 0),
        };
        let (password, address) = match rest.rsplit_once('@') {
            Some((user, address)) => (Some(user.strip_prefix(':').ok_or_else(wrong)?.to_owned()), address),
            None => (None, rest),
        };
        let (host, port) = match address.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().map_err(|_| wrong())?),
            _ => (address, 6379),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err(wrong());
        }
        Ok(Self { host: host.to_owned(), port, password, database })
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "redis://{}:{}/{}", self.host, self.port, self.database) // never the password
    }
}

/// Takes calls of accounts that gateways share. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct SharedCounts {
    asks: mpsc::Sender<Ask>,
    /// Calls that were counted locally instead.
    alone: Counter,
}

#[derive(Debug)]
struct Ask {
    key: Arc<str>,
    rate: Rate,
    answer: oneshot::Sender<Duration>,
}

/// The task that speaks to the server.
#[derive(Debug)]
pub(crate) struct SharedTask {
    url: RedisUrl,
    asks: mpsc::Receiver<Ask>,
    /// Whether the server can be reached, for people.
    outside: Part,
}

/// Why a connection is done with, and nothing is wrong.
enum Served {
    /// Nobody asks any more.
    All,
    /// The server closed it with nothing asked.
    ToItsEnd,
}

/// Returns both ends. How the server is is told to `outside`.
pub(crate) fn shared_counts(url: RedisUrl, alone: Counter, outside: &Outside) -> (SharedCounts, SharedTask) {
    let (sender, asks) = mpsc::channel(QUEUE);
    let outside = outside.part(Kind::Redis, &format!("{url:?}"));
    (SharedCounts { asks: sender, alone }, SharedTask { url, asks, outside })
}

impl SharedCounts {
    /// Takes one call, or tells how long until there is one; none if the server does not answer in time.
    pub(crate) async fn take(&self, key: Arc<str>, rate: Rate) -> Option<Result<(), Duration>> {
        let (answer, answered) = oneshot::channel();
        let asked = self.asks.try_send(Ask { key, rate, answer }).is_ok();
        let wait = match asked {
            true => timeout(WAIT, answered).await.ok().and_then(Result::ok),
            false => None,
        };
        match wait {
            Some(Duration::ZERO) => Some(Ok(())),
            Some(wait) => Some(Err(wait)),
            None => {
                self.alone.inc();
                None
            }
        }
    }
}

impl SharedTask {
    /// Runs for as long as it is polled.
    pub(crate) async fn run(mut self) {
        let (mut told, mut closed) = (false, None::<Instant>);
        loop {
            let problem = match self.serve(&mut told).await {
                Ok(Served::All) => return std::future::pending().await, // nobody asks any more
                // Servers close what is idle: nothing is wrong until a new one cannot be had. One that closes that, too, is not to be asked without end.
                Ok(Served::ToItsEnd) => match closed.replace(Instant::now()) {
                    Some(before) if before.elapsed() < PAUSE => io::Error::from(io::ErrorKind::UnexpectedEof),
                    Some(_) | None => continue,
                },
                Err(problem) => problem,
            };
            self.outside.is(State::Without(problem.to_string()));
            if !std::mem::replace(&mut told, true) {
                tracing::warn!(redis = ?self.url, %problem, "shared limits are counted by each gateway until Redis answers again");
            }
            let rest = sleep(PAUSE);
            tokio::pin!(rest);
            loop {
                tokio::select! {
                    () = &mut rest => break,
                    asked = self.asks.recv() => match asked {
                        Some(ask) => drop(ask), // who waits is told at once
                        None => return std::future::pending().await,
                    },
                }
            }
        }
    }

    /// Answers on one connection until it fails, or nobody asks any more.
    async fn serve(&mut self, told: &mut bool) -> io::Result<Served> {
        let (mut connection, script) = timeout(LIMIT, self.connect()).await.map_err(|_| io::ErrorKind::TimedOut)??;
        self.outside.is(State::Well);
        if std::mem::take(told) {
            tracing::info!(redis = ?self.url, "Redis answers again; limits are shared");
        }
        let mut waiting: VecDeque<oneshot::Sender<Duration>> = VecDeque::new();
        let (mut out, mut heard) = (BytesMut::new(), BytesMut::with_capacity(4096));
        loop {
            while let Some(reply) = resp::read(&mut heard)? {
                let Some(answer) = waiting.pop_front() else { return Err(io::ErrorKind::InvalidData.into()) };
                match reply {
                    Reply::Integer(micros) => {
                        let _ = answer.send(Duration::from_micros(micros.max(0).unsigned_abs())); // who asked may be gone
                    }
                    Reply::Text(_) | Reply::Nothing => return Err(io::ErrorKind::InvalidData.into()),
                    Reply::Error(error) => return Err(io::Error::other(error)), // NOSCRIPT after a flush: the next connection brings it
                }
            }
            // With nothing asked, only the connection's end is waited for: that the server is gone is not to be the next call's news.
            let patience = if waiting.is_empty() { FOREVER } else { LIMIT };
            let more = tokio::select! {
                asked = self.asks.recv(), if waiting.len() < QUEUE => match asked {
                    None => return Ok(Served::All),
                    some => some,
                },
                read = timeout(patience, connection.read_buf(&mut heard)) => match read {
                    Ok(Ok(0)) if waiting.is_empty() => return Ok(Served::ToItsEnd),
                    Ok(Ok(0)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Ok(Ok(_)) => None,
                    Ok(Err(error)) => return Err(error),
                    Err(_) => return Err(io::ErrorKind::TimedOut.into()),
                },
            };
            let mut next = more;
            while let Some(ask) = next {
                let (interval, burst) = (micros(ask.rate.interval), micros(ask.rate.burst));
                command(&mut out, &["EVALSHA", &script, "1", &ask.key, &interval, &burst]);
                waiting.push_back(ask.answer);
                next = if out.len() < BATCH { self.asks.try_recv().ok() } else { None };
            }
            if !out.is_empty() {
                timeout(LIMIT, connection.write_all_buf(&mut out)).await.map_err(|_| io::ErrorKind::TimedOut)??;
            }
        }
    }

    async fn connect(&self) -> io::Result<(TcpStream, String)> {
        let mut connection = TcpStream::connect((self.url.host.as_str(), self.url.port)).await?;
        connection.set_nodelay(true)?;
        let mut out = BytesMut::new();
        let mut expected = 2;
        if let Some(password) = &self.url.password {
            command(&mut out, &["AUTH", password]);
            expected += 1;
        }
        command(&mut out, &["SELECT", &self.url.database.to_string()]);
        command(&mut out, &["SCRIPT", "LOAD", TAKE]);
        connection.write_all_buf(&mut out).await?;
        let mut heard = BytesMut::new();
        loop {
            while let Some(reply) = resp::read(&mut heard)? {
                expected -= 1;
                match reply {
                    Reply::Text(script) if expected == 0 => return Ok((connection, script)),
                    Reply::Text(_) => {}
                    Reply::Error(error) => return Err(io::Error::other(error)),
                    Reply::Integer(_) | Reply::Nothing => return Err(io::ErrorKind::InvalidData.into()),
                }
            }
            if connection.read_buf(&mut heard).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

/// The finest that the server's clock knows.
fn micros(nanos: u64) -> String {
    nanos.div_ceil(1_000).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_says_where_and_keeps_its_password() {
        let url: RedisUrl = "redis://:s3cret@10.0.0.9:6380/2".parse().unwrap();
        assert_eq!((url.host.as_str(), url.port, url.database), ("10.0.0.9", 6380, 2));
        assert!(url.password.as_deref() == Some("s3cret") && !format!("{url:?}").contains("s3cret"));
        let short: RedisUrl = "redis://localhost".parse().unwrap();
        assert_eq!((short.port, short.database, short.password), (6379, 0, None));
        assert_eq!("redis://[::1]:7/".parse::<RedisUrl>().unwrap().host, "::1");
        for bad in
            ["", "localhost", "redis://", "redis://:7", "redis://u:p@h", "redis://h:x", "redis://h/x", "rediss://h"]
        {
            assert!(bad.parse::<RedisUrl>().is_err(), "{bad}");
        }
    }
}
