//! Synchronous calls over an established channel: gRPC-Web over HTTP/1.1, by ureq.
//!
//! There is exactly one connection. It is never replaced: no name is resolved, no proxy asked, no
//! redirect followed, and once the stream is closed every call fails.

use api::{
    Class,
    grpc_web::{self, CallError},
};
use prost::Message;
use rustls::Connection;
use std::{
    io::{self, Read, Write},
    net::TcpStream,
    sync::Mutex,
    time::{Duration, Instant},
};
use ureq::{
    Agent,
    config::Config,
    http::Uri,
    unversioned::{
        resolver::{ResolvedSocketAddrs, Resolver},
        transport::{Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport},
    },
};

use crate::{Channel, ProvenAdmitter};

/// ureq's buffers, in bytes each; a request of ours is a few hundred.
const BUFFER: usize = 16 << 10;

/// The largest answer head, in bytes.
const MAX_HEAD: usize = 8 << 10;

/// Bound for the URI of a call; nobody resolves it.
const AUTHORITY: &str = "http://channel";

/// A stream whose reads and writes can be limited in time.
pub trait TimedStream: Read + Write + Send + Sync + std::fmt::Debug + 'static {
    /// Limits every following read and write; `None` waits for ever. Never called with zero.
    ///
    /// # Errors
    /// What the system says.
    fn set_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()>;
}

impl TimedStream for TcpStream {
    fn set_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.set_read_timeout(timeout)?;
        self.set_write_timeout(timeout)
    }
}

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RpcError {
    /// The server answered, with an error or not as the protocol wants.
    #[error("{method}")]
    Call {
        /// The method.
        method: String,
        /// What it said.
        #[source]
        source: CallError,
    },
    /// An HTTP status other than 200.
    #[error("{method}: expected HTTP status 200, got {got}")]
    HttpStatus {
        /// The method.
        method: String,
        /// The status.
        got: u16,
    },
    /// The channel failed; whether the server acted is unknown.
    #[error("{method}: channel")]
    Transport {
        /// The method.
        method: String,
        /// What failed.
        #[source]
        source: Box<ureq::Error>,
    },
}

impl RpcError {
    /// The class to act upon. The peer is the proven admitter, so its refusals are final.
    #[must_use]
    pub const fn class(&self) -> Class {
        match self {
            Self::Call { source, .. } => source.class(),
            Self::HttpStatus { .. } => Class::Malformed,
            Self::Transport { .. } => Class::Unavailable,
        }
    }
}

/// Calls the admitter's services over the channel.
#[derive(Debug)]
pub struct RpcClient {
    agent: Agent,
    peer: ProvenAdmitter,
}

impl RpcClient {
    /// A client over `channel` and the stream, in blocking mode, that its session ran over. Each
    /// call takes at most `limit`.
    #[must_use]
    pub fn new(
        channel: Channel<ProvenAdmitter>,
        stream: impl TimedStream,
        limit: Duration,
    ) -> Self {
        let (connection, peer) = channel.into_parts();
        let transport = ChannelTransport {
            connection,
            stream,
            buffers: LazyBuffers::new(BUFFER, BUFFER),
            deadline: None,
            open: true,
        };
        let config = Config::builder()
            .proxy(None)
            .max_redirects(0)
            .http_status_as_error(false)
            .max_response_header_size(MAX_HEAD)
            .timeout_global(Some(limit))
            // The one connection lives as long as the client.
            .max_idle_age(Duration::from_secs(u64::from(u32::MAX)))
            .user_agent("")
            .accept("")
            .accept_encoding("")
            .build();
        let connector = OneConnection(Mutex::new(Some(transport)));
        Self {
            agent: Agent::with_parts(config, connector, NoResolver),
            peer,
        }
    }

    /// The admitter at the other end.
    #[must_use]
    pub const fn peer(&self) -> &ProvenAdmitter {
        &self.peer
    }

    /// Calls `method`, given as `package.Service/Method`.
    ///
    /// # Errors
    /// [`RpcError`]; only a [`CallError::Status`] in it is the server's own word.
    pub fn call<R: Message + Default>(
        &self,
        method: &str,
        request: &impl Message,
    ) -> Result<R, RpcError> {
        let transport = |source| RpcError::Transport {
            method: method.to_owned(),
            source: Box::new(source),
        };
        let response = self
            .agent
            .post(format!("{AUTHORITY}/{method}"))
            .header("content-type", grpc_web::CONTENT_TYPE)
            .header("x-grpc-web", "1")
            .send(grpc_web::encode_request(request).as_slice())
            .map_err(transport)?;
        let (head, mut body) = response.into_parts();
        let body = zeroize::Zeroizing::new(
            body.with_config()
                .limit(grpc_web::MAX_BODY as u64)
                .read_to_vec()
                .map_err(transport)?,
        );
        if head.status != 200 {
            return Err(RpcError::HttpStatus {
                method: method.to_owned(),
                got: head.status.as_u16(),
            });
        }
        let header = |name: &str| {
            let value = head.headers.get(name)?;
            value.to_str().ok().map(str::to_owned)
        };
        grpc_web::decode_response(header, &body).map_err(|source| RpcError::Call {
            method: method.to_owned(),
            source,
        })
    }
}

/// Hands out its connection once.
#[derive(Debug)]
struct OneConnection<S>(Mutex<Option<ChannelTransport<S>>>);

impl<S: TimedStream> Connector for OneConnection<S> {
    type Out = ChannelTransport<S>;

    fn connect(
        &self,
        _details: &ConnectionDetails<'_>,
        _chained: Option<()>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        let transport = self.0.lock().ok().and_then(|mut slot| slot.take());
        transport.map(Some).ok_or(ureq::Error::ConnectionFailed)
    }
}

/// Resolves nothing: the connection is there already.
#[derive(Debug)]
struct NoResolver;

impl Resolver for NoResolver {
    fn resolve(
        &self,
        _uri: &Uri,
        _config: &Config,
        _timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        Ok(self.empty())
    }
}

struct ChannelTransport<S> {
    connection: Connection,
    stream: S,
    buffers: LazyBuffers,
    deadline: Option<Instant>,
    open: bool,
}

impl<S: TimedStream> ChannelTransport<S> {
    /// Writes every queued TLS byte.
    fn write_out(&mut self) -> io::Result<()> {
        while self.connection.wants_write() {
            self.arm()?;
            if self.connection.write_tls(&mut self.stream)? == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        Ok(())
    }

    /// Reads plaintext into ureq's buffer; 0 at a clean end.
    fn read_in(&mut self) -> io::Result<usize> {
        self.write_out()?;
        loop {
            match self
                .connection
                .reader()
                .read(self.buffers.input_append_buf())
            {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                outcome => return outcome,
            }
            self.arm()?;
            self.connection.read_tls(&mut self.stream)?;
            self.connection
                .process_new_packets()
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        }
    }

    /// Leaves the next read or write what is left of the time, however the peer slices its bytes.
    fn arm(&mut self) -> io::Result<()> {
        let now = Instant::now();
        let left = self.deadline.map(|end| end.saturating_duration_since(now));
        if left == Some(Duration::ZERO) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.set_timeout(left)
    }

    /// Runs `io` within ureq's time limit; after a failure the stream is not used again.
    fn within<T>(
        &mut self,
        timeout: NextTimeout,
        io: impl FnOnce(&mut Self) -> io::Result<T>,
    ) -> Result<T, ureq::Error> {
        let limit = (!timeout.after.is_not_happening()).then(|| *timeout.after);
        self.deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
        let outcome = io(self);
        self.open &= outcome.is_ok();
        outcome.map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                ureq::Error::Timeout(timeout.reason)
            }
            _ => ureq::Error::Io(error),
        })
    }
}

impl<S: TimedStream> Transport for ChannelTransport<S> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.within(timeout, |this| {
            let mut sent = 0;
            while let Some(rest) = this.buffers.output().get(sent..amount) {
                if rest.is_empty() {
                    break;
                }
                sent += this.connection.writer().write(rest)?;
                this.write_out()?;
            }
            Ok(())
        })
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        let got = self.within(timeout, Self::read_in)?;
        self.buffers.input_appended(got);
        Ok(got > 0)
    }

    fn is_open(&mut self) -> bool {
        self.open
    }
}

impl<S> std::fmt::Debug for ChannelTransport<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ChannelTransport(..)")
    }
}
