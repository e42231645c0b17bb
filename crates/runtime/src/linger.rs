//! Closing an accepted connection so that what was said last arrives.
//!
//! Lives here: the way from a server that has said its last word to a closed socket. Does not: deciding that it ends.
//! A kernel that closes a socket with bytes unread sends a reset, and drops what it had not sent yet. In HTTP/2 there is always something under way that nobody
//! will read, a WINDOW_UPDATE or a stream above the last id of a GOAWAY, so a server that leaves in order may still take its last answers with it. A server
//! therefore ends its own direction first, and reads on until its peer has closed, within bounds.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
    sync::oneshot,
    time::timeout,
};

/// Time a peer has to close after us.
const LINGER: Duration = Duration::from_secs(1);
/// Bytes of it that are read and thrown away at most: what fits on its way.
const LEFT: u64 = 16 << 20;

/// A connection whose socket outlives it: dropped, it leaves the socket to its [`Remains`].
#[derive(Debug)]
pub struct Lingering {
    /// Taken by `drop` alone.
    stream: Option<TcpStream>,
    leave: Option<oneshot::Sender<TcpStream>>,
}

/// What is left of a connection once its server has dropped it.
#[derive(Debug)]
pub struct Remains(oneshot::Receiver<TcpStream>);

/// Splits a connection into what a server gets and what closes it afterwards. [`Remains`] dropped first make the connection close as any other.
pub fn lingering(stream: TcpStream) -> (Lingering, Remains) {
    let (leave, remains) = oneshot::channel();
    (Lingering { stream: Some(stream), leave: Some(leave) }, Remains(remains))
}

impl Remains {
    /// Waits until the server has dropped its connection, then closes it: within a second, earlier if the peer closes. Cancelled, it closes at once.
    pub async fn close(self) {
        if let Ok(stream) = self.0.await {
            close(stream).await;
        }
    }
}

/// Closes a connection so that what was said last arrives, within a second. Cancelled, it closes at once.
pub async fn close(mut stream: TcpStream) {
    let closing = async {
        stream.shutdown().await?;
        tokio::io::copy(&mut (&mut stream).take(LEFT), &mut tokio::io::sink()).await
    };
    drop(timeout(LINGER, closing).await);
}

impl Lingering {
    /// The socket itself.
    pub fn socket(&self) -> &TcpStream {
        self.stream.as_ref().expect("there until dropped")
    }

    fn pinned(&mut self) -> Pin<&mut TcpStream> {
        Pin::new(self.stream.as_mut().expect("there until dropped"))
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        if let (Some(stream), Some(leave)) = (self.stream.take(), self.leave.take()) {
            drop(leave.send(stream)); // nobody waits for it: it closes here
        }
    }
}

impl AsyncRead for Lingering {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.pinned().poll_read(cx, into)
    }
}

impl AsyncWrite for Lingering {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.pinned().poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.pinned().poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket().is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.pinned().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.pinned().poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// A client with a small receive window, so that answers wait in the server's kernel, and a server that has been sent what it will never read.
    async fn last_words(server: impl AsyncFnOnce(TcpStream, &[u8])) -> io::Result<usize> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4 << 10).unwrap();
        let mut client = socket.connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        client.write_all(b"never read").await.unwrap();
        stream.readable().await.unwrap();
        let (words, mut heard) = (vec![b'w'; 256 << 10], Vec::new());
        let ((), read) = tokio::join!(server(stream, &words), client.read_to_end(&mut heard));
        read
    }

    #[tokio::test]
    async fn what_was_said_last_arrives_although_something_is_unread() {
        let heard = last_words(async |stream, words| {
            let (mut server, remains) = lingering(stream);
            server.write_all(words).await.unwrap();
            drop(server);
            remains.close().await;
        });
        assert_eq!(heard.await.unwrap(), 256 << 10);
    }

    #[tokio::test]
    async fn without_it_the_last_words_are_lost() {
        let heard = last_words(async |mut stream, words| stream.write_all(words).await.unwrap()).await;
        assert!(heard.is_err(), "the kernel's reset is what this room is for: {heard:?}");
    }

    #[tokio::test]
    async fn a_peer_that_does_not_close_is_waited_for_within_bounds() {
        tokio::time::pause();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let (server, remains) = lingering(stream);
        drop(server);
        tokio::time::timeout(2 * LINGER, remains.close()).await.unwrap();
    }
}
