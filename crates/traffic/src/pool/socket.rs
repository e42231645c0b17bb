//! A client's TCP connection that is read to its end before it counts as broken.
//!
//! Lives here: what becomes of a write that the peer no longer takes. Does not: opening it (`connect`), the bytes' meaning.
//! A peer that closes while bytes are under way to it (a WINDOW_UPDATE is enough) answers them with RST. What it said before, answers and the GOAWAY that tells
//! which streams it never took, may then still lie unread here, and a failed write would be the end of the connection for h2, with all of that lost. So the
//! write counts as done, the bytes go nowhere, and the read, which gives what is left and then the end, tells what happened.

use std::{
    io::{self, ErrorKind, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// Whether the peer takes no more bytes; shared with who gives the connection requests, which would be lost on it.
#[derive(Debug, Clone, Default)]
pub(super) struct Deaf(Arc<AtomicBool>);

impl Deaf {
    pub(super) fn is_set(&self) -> bool {
        self.0.load(Relaxed)
    }
}

pub(super) struct Socket {
    tcp: TcpStream,
    /// A peer that has never said anything has no last words: it never was there.
    heard: bool,
    deaf: Deaf,
}

impl Socket {
    pub(super) fn new(tcp: TcpStream) -> Self {
        Self { tcp, heard: false, deaf: Deaf::default() }
    }

    /// Whether the peer has said anything.
    pub(super) fn has_heard(&self) -> bool {
        self.heard
    }

    pub(super) fn deaf(&self) -> Deaf {
        self.deaf.clone()
    }

    /// Writes, or lets `len` bytes go if the peer takes none any more.
    fn write(
        &mut self,
        len: usize,
        cx: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut TcpStream>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if self.deaf.is_set() {
            return Poll::Ready(Ok(len));
        }
        match write(Pin::new(&mut self.tcp), cx) {
            Poll::Ready(Err(error)) if self.heard && is_gone(&error) => {
                self.deaf.0.store(true, Relaxed);
                cx.waker().wake_by_ref(); // to read at once
                Poll::Ready(Ok(len))
            }
            written => written,
        }
    }
}

/// Errors after which the kernel gives what it has received, then the end: a reader never waits.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let read = Pin::new(&mut self.tcp).poll_read(cx, into);
        self.heard |= into.filled().len() > before;
        read
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.write(bytes.len(), cx, |tcp, cx| tcp.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let len = parts.iter().map(|part| part.len()).sum();
        self.write(len, cx, |tcp, cx| tcp.poll_write_vectored(cx, parts))
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    #[tokio::test]
    async fn what_a_peer_said_before_it_reset_the_connection_is_still_read() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut peer, _) = listener.accept().await.unwrap();
        let mut client = Socket::new(client);
        client.write_all(b"never read").await.unwrap();
        peer.readable().await.unwrap();
        peer.write_all(b"hello").await.unwrap();
        client.read_exact(&mut [0; 5]).await.unwrap();
        peer.write_all(b"the last word").await.unwrap();
        drop(peer); // with bytes unread: the kernel resets
        client.tcp.ready(tokio::io::Interest::ERROR).await.unwrap();
        assert!(!client.deaf().is_set(), "nobody has written yet");
        client.write_all(b"goes nowhere").await.unwrap();
        client.write_all(b"so does this").await.unwrap();
        assert!(client.deaf().is_set());
        let mut heard = vec![0; 13];
        client.read_exact(&mut heard).await.unwrap();
        assert_eq!(heard, b"the last word");
        assert!(matches!(client.read(&mut heard).await, Ok(0) | Err(_)), "the end");
    }

    #[tokio::test]
    async fn a_peer_that_never_spoke_is_gone_at_the_first_write() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        drop(listener.accept().await.unwrap());
        let mut client = Socket::new(client);
        client.write_all(b"answered by a reset").await.unwrap();
        client.tcp.ready(tokio::io::Interest::ERROR).await.unwrap();
        assert!(client.write_all(b"who is there?").await.is_err() && !client.deaf().is_set());
    }
}
