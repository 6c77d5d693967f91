//! An established channel as an asynchronous stream.

use rustls::Connection;
use std::{
    io::{self, Read, Write},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{AcceptedAttester, Channel, bridge::Bridge};

/// The most that one write takes, one TLS record (RFC 8446, section 5.1), so that a slow peer cannot
/// make us buffer more.
const MAX_WRITE: usize = 16 << 10;

/// A stream to an accepted attester; `A` is the result of its appraisal.
pub struct AttestedStream<S, A> {
    stream: S,
    // On the heap: it moves through several futures, and each has room for it as long as it lives.
    connection: Box<Connection>,
    peer: Arc<AcceptedAttester<A>>,
}

impl<S, A> AttestedStream<S, A> {
    /// Joins an established channel with the stream that its session ran over.
    #[must_use]
    pub fn new(stream: S, channel: Channel<AcceptedAttester<A>>) -> Self {
        let (connection, peer) = channel.into_parts();
        Self {
            stream,
            connection: Box::new(connection),
            peer: Arc::new(peer),
        }
    }

    /// The attester at the other end.
    #[must_use]
    pub const fn peer(&self) -> &Arc<AcceptedAttester<A>> {
        &self.peer
    }
}

impl<S, A> std::fmt::Debug for AttestedStream<S, A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AttestedStream(..)")
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin, A> AttestedStream<S, A> {
    /// Writes every queued TLS byte.
    fn poll_write_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self {
            stream, connection, ..
        } = self;
        while connection.wants_write() {
            match ready!(Bridge::new(stream, cx).poll(|stream| connection.write_tls(stream)))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                _ => continue,
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads TLS bytes once and processes them.
    fn poll_read_in(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self {
            stream, connection, ..
        } = self;
        ready!(Bridge::new(stream, cx).poll(|stream| connection.read_tls(stream)))?;
        let processed = connection.process_new_packets();
        if processed.is_err() {
            // rustls queued an alert; whether the peer gets it changes nothing.
            drop(self.poll_write_out(cx));
        }
        Poll::Ready(
            processed
                .map(drop)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error)),
        )
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin, A> AsyncRead for AttestedStream<S, A> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // Queued bytes, the last frame of the handshake among them, must not wait for a write.
        if let Poll::Ready(outcome) = this.poll_write_out(cx) {
            outcome?;
        }
        loop {
            let got = this.connection.reader().read(buffer.initialize_unfilled());
            match got {
                Ok(got) => {
                    buffer.advance(got);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                    return Poll::Ready(Err(error));
                }
                Err(_) => ready!(this.poll_read_in(cx))?,
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin, A> AsyncWrite for AttestedStream<S, A> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_write_out(cx))?;
        let chunk = bytes.get(..MAX_WRITE).unwrap_or(bytes);
        let written = this.connection.writer().write(chunk)?;
        if let Poll::Ready(outcome) = this.poll_write_out(cx) {
            outcome?;
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_write_out(cx))?;
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // rustls sends it once, however often it is asked.
        this.connection.send_close_notify();
        ready!(this.poll_write_out(cx))?;
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}
