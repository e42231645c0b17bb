//! Data threads: OS threads with a `current_thread` runtime each, which carry connections and nothing else; and threads of one part of a role.
//!
//! Lives here: starting them, handing a connection to the least loaded, noticing their end. Does not: what a connection speaks, accepting.
//! A connection is handed over once and never moves again. Work stealing costs 1.5 times the CPU for the same proxying, hence one thread, one runtime.

use std::{
    io,
    net::SocketAddr,
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
};

use tokio::{
    net::TcpStream,
    sync::{mpsc, oneshot},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::Shutdown;

/// Connections waiting to be taken over by one thread; when full, accepting waits.
const QUEUE: usize = 256;

/// How much a thread carries; connections count by themselves, roles add their streams. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Load(Arc<AtomicUsize>);

impl Load {
    /// Counts one more until the guard is dropped.
    pub fn enter(&self) -> LoadGuard {
        self.0.fetch_add(1, Ordering::Relaxed);
        LoadGuard(self.clone())
    }

    /// Returns what the thread carries now.
    pub fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counts one until dropped.
#[derive(Debug)]
pub struct LoadGuard(Load);

impl Drop for LoadGuard {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Runs a part of a role on a thread of its own: one that must not wait for its turn among thousands of connections. The future that is returned ends
/// with the part, and panics as it did. Dropped earlier, it leaves the part running: stop it by a token.
pub fn alone<P>(name: &str, part: P) -> io::Result<impl Future<Output = ()> + use<P>>
where
    P: Future<Output = ()> + Send + 'static,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (alive, ended) = oneshot::channel::<()>();
    let run = move || {
        let _alive = alive; // dropped at the end, also by a panic
        runtime.block_on(part);
    };
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run)?;
    Ok(async move {
        drop(ended.await);
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic); // its hook has reported it
        }
    })
}

/// A connection on its data thread.
#[derive(Debug)]
pub struct Connection {
    /// The socket, registered with the thread's runtime, `TCP_NODELAY` set.
    pub stream: TcpStream,
    /// Who called.
    pub downstream: SocketAddr,
    /// Load of the thread, for counting streams.
    pub load: Load,
}

/// A data thread ended, although nobody asked it to.
#[derive(Debug, thiserror::Error)]
#[error("data thread {index} ended")]
pub struct ThreadEnded {
    /// Which one.
    pub index: usize,
}

struct Thread {
    connections: mpsc::Sender<Handed>,
    load: Load,
    /// Cancelled by the thread's end; unlike a channel it can be asked again.
    ended: CancellationToken,
}

/// A connection on its way. It counts from the moment it was given to a thread: a burst must not find the thread empty that it just filled.
struct Handed {
    stream: std::net::TcpStream,
    downstream: SocketAddr,
    counted: LoadGuard,
}

/// The data threads of a process. Dropping the value closes their queues; they end when their connections have.
pub struct DataThreads {
    threads: Vec<Thread>,
}

impl DataThreads {
    /// Starts `count` threads. On each, `build` runs once inside its runtime and returns what serves a connection.
    pub fn start<B, S, F>(name: &str, count: NonZeroUsize, shutdown: &Shutdown, build: B) -> io::Result<Self>
    where
        B: Fn(usize) -> S + Clone + Send + 'static,
        S: FnMut(Connection) -> F,
        F: Future<Output = ()> + Send + 'static,
    {
        let start = |index| {
            let (connections, queue) = mpsc::channel(QUEUE);
            let ended = CancellationToken::new();
            let alive = ended.clone().drop_guard();
            let (load, shutdown, build) = (Load::default(), shutdown.clone(), build.clone());
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let carry = {
                let load = load.clone();
                move || {
                    let _alive = alive; // dropped at the end, also by a panic
                    runtime.block_on(async { carry(queue, build(index), load, shutdown).await });
                    drop(runtime); // and with it what was aborted: who waits for the end finds every socket closed
                }
            };
            std::thread::Builder::new().name(format!("{name}-{index}")).spawn(carry)?;
            Ok(Thread { connections, load, ended })
        };
        Ok(Self { threads: (0..count.get()).map(start).collect::<io::Result<_>>()? })
    }

    /// Hands a connection to the thread that carries least. Waits while that thread's queue is full.
    pub async fn hand_over(&self, stream: TcpStream, downstream: SocketAddr) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let stream = stream.into_std()?;
        let thread = self.threads.iter().min_by_key(|t| t.load.get()).expect("count is above zero");
        let handed = Handed { stream, downstream, counted: thread.load.enter() };
        thread.connections.send(handed).await.map_err(|_| io::Error::other("the data thread has ended"))
    }

    /// Streams and connections carried now, over all threads.
    pub fn load(&self) -> usize {
        self.threads.iter().map(|t| t.load.get()).sum()
    }

    /// Waits until any thread ends; asked again, it gives the same answer. Cancel-safe.
    pub async fn ended(&mut self) -> ThreadEnded {
        let mut ends: Vec<_> = self.threads.iter().map(|t| Box::pin(t.ended.cancelled())).collect();
        std::future::poll_fn(|cx| match ends.iter_mut().position(|end| end.as_mut().poll(cx).is_ready()) {
            Some(index) => Poll::Ready(ThreadEnded { index }),
            None => Poll::Pending,
        })
        .await
    }

    /// Takes no more connections and waits until those there are have ended, or `abort` ended them.
    pub async fn finish(self) {
        for thread in self.threads {
            drop(thread.connections);
            thread.ended.cancelled().await;
        }
    }
}

/// The whole life of a data thread: takes connections until the queue closes, then waits for the last one; `abort` ends them all.
async fn carry<S, F>(mut queue: mpsc::Receiver<Handed>, mut serve: S, load: Load, shutdown: Shutdown)
where
    S: FnMut(Connection) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    let mut open = true;
    while open || !connections.is_empty() {
        tokio::select! {
            () = shutdown.aborting() => return,
            Some(_) = connections.join_next() => {} // a panic costs its connection and no other
            handed = queue.recv(), if open => match handed {
                None => open = false,
                Some(Handed { stream, downstream, counted }) => match TcpStream::from_std(stream) {
                    Ok(stream) => {
                        let served = serve(Connection { stream, downstream, load: load.clone() });
                        connections.spawn(async move {
                            served.await;
                            drop(counted);
                        });
                    }
                    Err(error) => tracing::warn!(%error, "cannot take over a connection"),
                },
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    async fn pair(listener: &TcpListener) -> (TcpStream, TcpStream, SocketAddr) {
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, from) = listener.accept().await.unwrap();
        (client, server, from)
    }

    #[tokio::test]
    async fn connections_go_to_the_least_loaded_thread_and_finish_before_it_ends() {
        let shutdown = Shutdown::new();
        let gate = Arc::new(std::sync::Barrier::new(3));
        let (opened, gate) = (gate.clone(), gate);
        let build = move |index: usize| {
            gate.wait(); // nothing is taken over before all were handed over: a burst is spread, too
            move |mut connection: Connection| async move {
                let byte = connection.stream.read_u8().await.unwrap_or_default();
                drop(connection.stream.write_all(&[byte, index as u8]).await);
            }
        };
        let threads = DataThreads::start("t", NonZeroUsize::new(2).unwrap(), &shutdown, build).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut clients = Vec::new();
        for _ in 0..4 {
            let (client, server, from) = pair(&listener).await;
            threads.hand_over(server, from).await.unwrap();
            clients.push(client);
        }
        assert_eq!(threads.load(), 4);
        opened.wait();
        let finished = tokio::task::JoinSet::from_iter([threads.finish()]);
        let mut seen = [0; 2];
        for client in &mut clients {
            client.write_u8(7).await.unwrap();
            let mut answer = [0; 2];
            client.read_exact(&mut answer).await.unwrap();
            assert_eq!(answer[0], 7);
            seen[usize::from(answer[1])] += 1;
        }
        assert_eq!(seen, [2, 2]);
        finished.join_all().await;
    }

    #[tokio::test]
    async fn a_thread_that_panics_is_noticed_and_does_not_hold_the_end() {
        let build = |_| -> fn(Connection) -> std::future::Ready<()> { panic!("on purpose") };
        let mut threads = DataThreads::start("t", NonZeroUsize::MIN, &Shutdown::new(), build).unwrap();
        assert_eq!(threads.ended().await.index, 0);
        assert_eq!(threads.ended().await.index, 0);
        threads.finish().await;
    }

    #[tokio::test]
    async fn a_part_alone_ends_with_its_thread() {
        let (told, heard) = oneshot::channel();
        let here = std::thread::current().id();
        alone("t", async move { told.send(std::thread::current().id()).unwrap() }).unwrap().await;
        assert_ne!(heard.await.unwrap(), here);
        let mut parts = JoinSet::new();
        parts.spawn(alone("t", async { panic!("on purpose") }).unwrap());
        assert!(parts.join_next().await.unwrap().unwrap_err().is_panic());
    }

    #[tokio::test]
    async fn abort_ends_connections_that_would_never_end() {
        let shutdown = Shutdown::new();
        let build = |_| {
            |connection: Connection| async move {
                std::future::pending::<()>().await;
                drop(connection);
            }
        };
        let threads = DataThreads::start("t", NonZeroUsize::MIN, &shutdown, build).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (mut client, server, from) = pair(&listener).await;
        threads.hand_over(server, from).await.unwrap();
        shutdown.abort();
        threads.finish().await;
        assert_eq!(client.read(&mut [0; 1]).await.unwrap_or_default(), 0);
    }
}
