//! One connection and its session.

use super::Admitted;
use api::Class;
use attested_tls::{
    Attestation, AttesterProgress, AttesterSession, EvidenceRequest, SessionError, Start,
};
use platform::random::RandomError;
use rustix::{
    event::{PollFd, PollFlags},
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt},
};
use std::{
    io,
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// The whole handshake: an emulated machine with a software TPM needs seconds, nobody needs more.
pub(super) const SESSION_TIME: Duration = Duration::from_secs(20);

/// Until TCP stands; a black hole is left sooner than a slow peer.
const CONNECT_TIME: Duration = Duration::from_secs(5);

/// How long one call on an established channel may wait for the peer.
const CALL_TIME: Duration = Duration::from_secs(30);

/// Why a connection ended without a channel.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// TCP did not stand in time.
    #[error("no connection within {} s", CONNECT_TIME.as_secs())]
    ConnectTime,
    /// TCP failed.
    #[error("connection")]
    Connection(#[source] io::Error),
    /// No random bytes for a nonce.
    #[error("make a nonce")]
    Random(#[source] RandomError),
    /// The session ended.
    #[error("session")]
    Session(#[source] SessionError),
}

impl PeerError {
    /// The class, for the console.
    pub(super) const fn class(&self) -> Class {
        match self {
            Self::ConnectTime | Self::Connection(_) => Class::Unavailable,
            Self::Random(_) => Class::Internal,
            Self::Session(error) => error.class(),
        }
    }
}

/// Where a connection stands.
pub(super) enum Progress {
    Attest(EvidenceRequest),
    Established,
    Waiting,
}

#[derive(Debug)]
pub(super) struct Peer {
    pub(super) address: SocketAddr,
    pub(super) dialled: bool,
    stream: TcpStream,
    session: AttesterSession,
    /// Set until TCP stands.
    connect_until: Option<Duration>,
    session_until: Duration,
}

type Session = Result<AttesterSession, SessionError>;

impl Peer {
    pub(super) fn dial(
        address: SocketAddr,
        (now, start): (Duration, Start),
        session: impl FnOnce(Start) -> Session,
    ) -> Result<Self, PeerError> {
        let failed = |errno: Errno| PeerError::Connection(errno.into());
        let family = match address {
            SocketAddr::V4(_) => AddressFamily::INET,
            SocketAddr::V6(_) => AddressFamily::INET6,
        };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(family, SocketType::STREAM, flags, None).map_err(failed)?;
        match connect(&socket, &address) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(errno) => return Err(failed(errno)),
        }
        Ok(Self {
            address,
            dialled: true,
            stream: socket.into(),
            session: session(start).map_err(PeerError::Session)?,
            connect_until: Some(now.saturating_add(CONNECT_TIME)),
            session_until: start.deadline,
        })
    }

    pub(super) fn accepted(
        (stream, address): (TcpStream, SocketAddr),
        (_, start): (Duration, Start),
        session: impl FnOnce(Start) -> Session,
    ) -> Result<Self, PeerError> {
        stream
            .set_nonblocking(true)
            .map_err(PeerError::Connection)?;
        Ok(Self {
            address,
            dialled: false,
            stream,
            session: session(start).map_err(PeerError::Session)?,
            connect_until: None,
            session_until: start.deadline,
        })
    }

    /// Moves bytes and the session as far as they go without waiting.
    pub(super) fn advance(&mut self, now: Duration) -> Result<Progress, PeerError> {
        if !self.is_connected(now)? {
            return Ok(Progress::Waiting);
        }
        loop {
            let flushed = self.flush();
            let progress = match self.session.step(now) {
                Ok(progress) => progress,
                Err(error) => {
                    // A last word to the peer, as far as it goes out by itself.
                    self.flush().unwrap_or_default();
                    return Err(PeerError::Session(error));
                }
            };
            flushed.map_err(PeerError::Connection)?;
            match progress {
                AttesterProgress::Established => return Ok(Progress::Established),
                AttesterProgress::NeedEvidence(request) => return Ok(Progress::Attest(request)),
                AttesterProgress::Pending if self.session.wants_write() => {
                    if !self.flush().map_err(PeerError::Connection)? {
                        return Ok(Progress::Waiting);
                    }
                }
                AttesterProgress::Pending => {
                    if !self.read()? {
                        return Ok(Progress::Waiting);
                    }
                }
            }
        }
    }

    pub(super) fn supply(&mut self, evidence: Result<Attestation, Class>) -> Result<(), PeerError> {
        let supplied = self.session.supply_evidence(evidence);
        if supplied.is_err() {
            self.flush().unwrap_or_default();
        }
        supplied.map_err(PeerError::Session)
    }

    /// When the session or the attempt to connect is over.
    pub(super) fn deadline(&self) -> Duration {
        self.connect_until
            .unwrap_or(self.session_until)
            .min(self.session_until)
    }

    /// What [`Self::advance`] waits for, and nothing else: while it has something to write it does
    /// not read, and a peer that only sends would keep the loop spinning.
    pub(super) fn poll_fd(&self) -> PollFd<'_> {
        let writes = self.connect_until.is_some() || self.session.wants_write();
        let flags = match writes {
            true => PollFlags::OUT,
            false => PollFlags::IN,
        };
        PollFd::new(&self.stream, flags)
    }

    /// The channel, on a stream that waits for the peer.
    pub(super) fn into_admitted(self) -> Result<Admitted, PeerError> {
        let stream = self.stream;
        stream
            .set_nonblocking(false)
            .and_then(|()| stream.set_nodelay(true))
            .and_then(|()| stream.set_read_timeout(Some(CALL_TIME)))
            .and_then(|()| stream.set_write_timeout(Some(CALL_TIME)))
            .map_err(PeerError::Connection)?;
        Ok(Admitted {
            channel: self.session.into_channel().map_err(PeerError::Session)?,
            stream,
            address: self.address,
        })
    }

    fn is_connected(&mut self, now: Duration) -> Result<bool, PeerError> {
        let Some(until) = self.connect_until else {
            return Ok(true);
        };
        let failed = |errno: Errno| PeerError::Connection(errno.into());
        sockopt::socket_error(&self.stream)
            .and_then(|pending| pending)
            .map_err(failed)?;
        match self.stream.peer_addr() {
            Ok(_) => {
                self.stream
                    .set_nodelay(true)
                    .map_err(PeerError::Connection)?;
                self.connect_until = None;
                Ok(true)
            }
            Err(_) if now >= until => Err(PeerError::ConnectTime),
            Err(_) => Ok(false),
        }
    }

    /// Writes what is queued; whether all of it went out.
    fn flush(&mut self) -> io::Result<bool> {
        while self.session.wants_write() {
            match self.session.write_tls(&mut self.stream) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if waits(&error) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Reads once; whether there was anything, the peer's end among it.
    fn read(&mut self) -> Result<bool, PeerError> {
        if !self.session.wants_read() {
            return Err(PeerError::Session(SessionError::Closed));
        }
        match self.session.read_tls(&mut self.stream) {
            Ok(_) => Ok(true),
            Err(error) if waits(&error) => Ok(false),
            Err(error) => Err(PeerError::Connection(error)),
        }
    }
}

fn waits(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}
