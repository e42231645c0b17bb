//! The bytes of a connection: as they are, or sealed by TLS.
//!
//! Lives here: both kinds behind one type, and the ear for a sealed connection's first word. Does not: the handshake (`seal`), what the bytes mean.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::oneshot,
};
use tokio_rustls::client::TlsStream;

use super::socket::Socket;

/// A connection's bytes.
pub(super) enum Wire {
    Plain(Socket),
    Sealed(Box<Sealed>),
}

pub(super) struct Sealed {
    tls: TlsStream<Socket>,
    /// None once it was told.
    first: Option<oneshot::Sender<io::Result<()>>>,
}

/// The peer's first word after the handshake. In TLS 1.3 a client has done its part before the server has looked at the client's certificate, so only this tells
/// whether the peer has let us in: bytes, or an error that may hold its alert.
pub(super) type First = oneshot::Receiver<io::Result<()>>;

impl Sealed {
    pub(super) fn new(tls: TlsStream<Socket>) -> (Self, First) {
        let (tell, first) = oneshot::channel();
        (Self { tls, first: Some(tell) }, first)
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let read = ready!(Pin::new(&mut self.tls).poll_read(cx, into));
        let Some(first) = self.first.take() else { return Poll::Ready(read) };
        let (word, read) = match read {
            Ok(()) if into.filled().len() > before => (Ok(()), Ok(())),
            Ok(()) => (Err(io::ErrorKind::UnexpectedEof.into()), Ok(())),
            // Who opens the connection gets the error itself; of h2, whose own goes to nobody, one of the same kind is enough.
            Err(error) => {
                let kind = error.kind();
                (Err(error), Err(kind.into()))
            }
        };
        drop(first.send(word)); // who opens it may have run out of time
        Poll::Ready(read)
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(cx, into),
            Self::Sealed(sealed) => sealed.poll_read(cx, into),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Self::Sealed(sealed) => Pin::new(&mut sealed.tls).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write_vectored(cx, parts),
            Self::Sealed(sealed) => Pin::new(&mut sealed.tls).poll_write_vectored(cx, parts),
        }
    }

    /// The truth once the peer has spoken; before, no. h2 asks for the first time when it takes a connection, and goes by that for good in what it copies of a
    /// message to write it together with other frames: less than 256 bytes where parts can be written at once, else less than 1,024. Most messages lie between:
    /// they, and calls beside each other, cost one write in place of one each. What is longer is not copied.
    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(tcp) => tcp.has_heard() && tcp.is_write_vectored(),
            Self::Sealed(sealed) => sealed.first.is_none() && sealed.tls.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Sealed(sealed) => Pin::new(&mut sealed.tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Sealed(sealed) => Pin::new(&mut sealed.tls).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    #[tokio::test]
    async fn parts_are_written_at_once_from_the_peers_first_word_on() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut peer, _) = listener.accept().await.unwrap();
        let mut wire = Wire::Plain(Socket::new(client));
        wire.write_all(b"the preface").await.unwrap();
        assert!(!wire.is_write_vectored(), "h2 takes the connection now");
        peer.write_all(b"hello").await.unwrap();
        wire.read_exact(&mut [0; 5]).await.unwrap();
        assert!(wire.is_write_vectored());
    }
}
