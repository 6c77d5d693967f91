//! The accept loop: bounded connections, a time limit on each step, and an orderly end.
//!
//! hyper serves each connection directly, without tonic's transport: that leaves the header time-out,
//! the buffer sizes and the drain in our hands, and takes any stream an [`Accept`] makes. What the
//! handshake established about the peer travels with each request as an extension.

use crate::{
    limit::{Gate, network},
    logs::Chain,
    shutdown::Shutdown,
};
use http::{Request, Response};
use hyper::body::{Body, Bytes, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::{
    convert::Infallible,
    error::Error,
    fmt::{Debug, Display},
    hash::Hash,
    io,
    net::{IpAddr, SocketAddr},
    pin::pin,
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    task::JoinSet,
    time::timeout,
};
use tower::Service;

/// What a server speaks and allows.
#[derive(Debug, Clone, Copy)]
pub struct Server {
    /// The version of HTTP.
    pub protocol: Protocol,
    /// Connections at a time, from everybody.
    pub connections: usize,
    /// Connections at a time from one address (of IPv6: from one /64).
    pub connections_per_peer: usize,
    /// From the accepted socket to the accepted peer.
    pub handshake: Duration,
    /// Until the next request's header is complete (HTTP/1.1), or between two pings (HTTP/2).
    pub idle: Duration,
    /// From a request's header to its response's.
    pub request: Duration,
    /// For the work in flight once shutdown is requested.
    pub drain: Duration,
}

/// The version of HTTP on a server's connections: one per server, never guessed from bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1, for gRPC-Web and for plain requests.
    Http1,
    /// HTTP/2 with prior knowledge, for gRPC.
    Http2,
}

/// A socket that yields connections.
pub trait Listener: Send + 'static {
    /// A connection.
    type Io: Send + 'static;
    /// Where it comes from, as far as limits care.
    type Source: Clone + Eq + Hash + Display + Send + Sync + 'static;

    /// The next connection.
    fn next(&mut self) -> impl Future<Output = io::Result<(Self::Io, Self::Source)>> + Send;

    /// What [`Server::connections_per_peer`] counts as one peer.
    fn peer(source: &Self::Source) -> Self::Source;
}

/// Makes a stream and a peer of a connection: the handshake.
pub trait Accept<Io, Source>: Clone + Send + 'static {
    /// The stream that carries HTTP.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    /// What is known about the peer; an extension of each of its requests.
    type Peer: Clone + Send + Sync + 'static;

    /// Shakes hands, or says in the log why not. Dropped when it takes too long.
    fn accept(
        &self,
        io: Io,
        source: Source,
    ) -> impl Future<Output = Option<(Self::Stream, Self::Peer)>> + Send;
}

/// No handshake: the peer is only its address.
#[derive(Debug, Clone, Copy)]
pub struct Plain;

impl<Io, Source> Accept<Io, Source> for Plain
where
    Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    Source: Clone + Send + Sync + 'static,
{
    type Stream = Io;
    type Peer = Source;

    async fn accept(&self, io: Io, source: Source) -> Option<(Io, Source)> {
        Some((io, source))
    }
}

/// An address that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}")]
pub struct BindError {
    /// The address.
    address: SocketAddr,
    /// What the operating system said.
    source: io::Error,
}

/// Listens on an address of the configuration.
///
/// # Errors
/// [`BindError`].
pub async fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| BindError { address, source })
}

impl Listener for TcpListener {
    type Io = TcpStream;
    type Source = IpAddr;

    async fn next(&mut self) -> io::Result<(TcpStream, IpAddr)> {
        let (stream, address) = self.accept().await?;
        stream.set_nodelay(true)?;
        // One peer must not count twice because the listener is dual-stack.
        Ok((stream, address.ip().to_canonical()))
    }

    fn peer(source: &IpAddr) -> IpAddr {
        network(*source)
    }
}

impl Listener for UnixListener {
    type Io = UnixStream;
    type Source = &'static str;

    async fn next(&mut self) -> io::Result<(UnixStream, &'static str)> {
        let (stream, _unnamed) = self.accept().await?;
        Ok((stream, "unix"))
    }

    fn peer(source: &&'static str) -> &'static str {
        source
    }
}

impl Server {
    /// Serves until shutdown is requested, then lets the work in flight finish for [`Self::drain`].
    pub async fn run<L, A, S, B>(self, mut listener: L, acceptor: A, service: S, shutdown: Shutdown)
    where
        L: Listener,
        A: Accept<L::Io, L::Source> + Sync,
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>
            + Clone
            + Send
            + 'static,
        S::Future: Send,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let gate = Gate::new(self.connections, self.connections_per_peer);
        let mut connections = JoinSet::new();
        loop {
            let next = tokio::select! {
                () = shutdown.requested() => break,
                Some(_finished) = connections.join_next() => continue,
                next = listener.next() => next,
            };
            let Some((io, source)) = opened(next).await else {
                continue;
            };
            let Some(pass) = gate.enter(L::peer(&source)) else {
                metrics::counter!("connections_refused_total").increment(1);
                tracing::debug!(peer = %source, "too many connections");
                continue;
            };
            let (acceptor, service) = (acceptor.clone(), service.clone());
            let shutdown = shutdown.clone();
            connections.spawn(async move {
                let _pass = pass;
                // Boxed: its memory is gone while the connection lives.
                let handshake = Box::pin(acceptor.accept(io, source.clone()));
                match timeout(self.handshake, handshake).await {
                    Ok(Some((stream, peer))) => {
                        let service = with_peer(service, peer, self.request);
                        self.connection(stream, service, shutdown).await;
                    }
                    Ok(None) => {}
                    Err(_elapsed) => {
                        metrics::counter!("handshakes_timed_out_total").increment(1);
                        tracing::info!(peer = %source, "handshake took too long");
                    }
                }
            });
        }
        // Closed now, so that peers try another replica instead of waiting in the backlog.
        drop(listener);
        self.finish(connections).await;
    }

    async fn finish(self, mut connections: JoinSet<()>) {
        let finished = async { while connections.join_next().await.is_some() {} };
        if timeout(self.drain, finished).await.is_err() {
            tracing::warn!(
                open = connections.len(),
                "connections cut off after the drain"
            );
            connections.shutdown().await;
        }
    }
}

async fn opened<Io, Source>(next: io::Result<(Io, Source)>) -> Option<(Io, Source)> {
    match next {
        Ok(connection) => Some(connection),
        Err(error) => {
            tracing::warn!(error = %Chain(&error), "cannot accept a connection");
            // Out of descriptors, mostly: wait for connections to end instead of spinning.
            tokio::time::sleep(Duration::from_millis(50)).await;
            None
        }
    }
}

/// A request took longer than [`Server::request`]; its connection (HTTP/1.1) or stream (HTTP/2) ends.
#[derive(Debug, thiserror::Error)]
#[error("request took too long")]
struct RequestTimeout;

/// Gives each request its peer and its time limit.
fn with_peer<S, P, B>(
    service: S,
    peer: P,
    limit: Duration,
) -> impl hyper::service::Service<
    Request<Incoming>,
    Response = Response<B>,
    Error = RequestTimeout,
    Future = impl Future<Output = Result<Response<B>, RequestTimeout>> + Send,
>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send,
    S::Future: Send,
    P: Clone + Send + Sync + 'static,
    B: Body,
{
    hyper::service::service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer.clone());
        // These services are always ready: none of them holds a queue of its own.
        let response = service.clone().call(request);
        async move {
            match timeout(limit, response).await {
                Ok(Ok(response)) => Ok(response),
                Ok(Err(never)) => match never {},
                Err(_elapsed) => Err(RequestTimeout),
            }
        }
    })
}

/// The largest request head, in bytes: gRPC's takes a few hundred (hyper's own minimum is 8 KiB).
const MAX_HEAD: usize = 16 * 1024;

/// Streams at a time on one HTTP/2 connection, and the bytes a peer may have in flight on each.
const MAX_STREAMS: u32 = 256;
const STREAM_WINDOW: u32 = 64 * 1024;

impl Server {
    /// Serves one connection; on shutdown it answers what it has begun and closes.
    async fn connection<IO, S, B>(self, stream: IO, service: S, shutdown: Shutdown)
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        S: hyper::service::Service<
                Request<Incoming>,
                Response = Response<B>,
                Error = RequestTimeout,
            >,
        S::Future: Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let io = TokioIo::new(stream);
        let ended = match self.protocol {
            Protocol::Http1 => {
                let served = hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(self.idle)
                    .max_buf_size(MAX_HEAD)
                    .serve_connection(io, service);
                let mut served = pin!(served);
                tokio::select! {
                    ended = &mut served => ended,
                    () = shutdown.requested() => {
                        served.as_mut().graceful_shutdown();
                        served.await
                    }
                }
            }
            Protocol::Http2 => {
                let served = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .timer(TokioTimer::new())
                    .keep_alive_interval(self.idle)
                    .max_concurrent_streams(MAX_STREAMS)
                    .initial_stream_window_size(STREAM_WINDOW)
                    .initial_connection_window_size(STREAM_WINDOW * 4)
                    .serve_connection(io, service);
                let mut served = pin!(served);
                tokio::select! {
                    ended = &mut served => ended,
                    () = shutdown.requested() => {
                        served.as_mut().graceful_shutdown();
                        served.await
                    }
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(error = %Chain(&error), "connection ended early");
        }
    }
}

#[cfg(test)]
mod tests;
