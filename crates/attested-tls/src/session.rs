//! What both kinds of session are: one state at a time over one wire.

use evidence::{AdmissionPath, Side};
use std::time::Duration;

use crate::{Channel, SessionError, Start, TlsEnd, wire::Wire};

/// The states of one kind of session.
pub(crate) trait States: Sized {
    /// Whether this kind attests, or admits.
    const ATTESTS: bool;
    /// What a session is begun with.
    type Terms;
    /// What the driver is told.
    type Progress;
    /// What an established session knows of its peer.
    type Peer;

    /// Moves on as far as the bytes read so far allow.
    fn advance(self, wire: &mut Wire, party: &Given<Self::Terms>) -> Turn<Self>;

    /// The peer, if this is the last state.
    fn into_peer(self) -> Option<Self::Peer>;
}

/// What a state's step leads to.
pub(crate) type Turn<S> = Result<(S, Flow<<S as States>::Progress>), SessionError>;

/// What comes after a step.
pub(crate) enum Flow<P> {
    Continue,
    Report(P),
    Wait,
}

/// What a session was given, for all its states.
pub(crate) struct Given<T> {
    pub(crate) terms: T,
    pub(crate) nonce: [u8; 32],
}

pub(crate) struct Session<S: States> {
    pub(crate) wire: Wire,
    pub(crate) party: Given<S::Terms>,
    /// Taken for each step and answer, and put back only by one that succeeds: `None` is the end.
    pub(crate) state: Option<S>,
}

impl<S: States> Session<S> {
    pub(crate) fn new(
        end: &TlsEnd,
        start: Start,
        terms: S::Terms,
        (side, paths): (Side, &[AdmissionPath]),
        state: S,
    ) -> Result<Self, SessionError> {
        let other_kind = |path: &&AdmissionPath| (path.attester() == side) != S::ATTESTS;
        if let Some(&path) = paths.iter().find(other_kind) {
            return Err(SessionError::Path { path });
        }
        Ok(Self {
            wire: Wire::new(end, side, &start)?,
            party: Given {
                terms,
                nonce: start.nonce,
            },
            state: Some(state),
        })
    }

    /// What the driver is to be told, if anything.
    pub(crate) fn step(&mut self, now: Duration) -> Result<Option<S::Progress>, SessionError> {
        let mut state = self.state.take().ok_or(SessionError::Internal {
            what: "session is over",
        })?;
        if !self.wire.process(now)? {
            self.state = Some(state);
            return Ok(None);
        }
        loop {
            let (next, flow) = state.advance(&mut self.wire, &self.party)?;
            state = next;
            let progress = match flow {
                Flow::Continue => continue,
                Flow::Report(progress) => Some(progress),
                Flow::Wait => None,
            };
            self.state = Some(state);
            return Ok(progress);
        }
    }

    /// Puts back a state that was not waiting for the driver's answer.
    pub(crate) fn not_asked(&mut self, state: Option<S>) -> Result<(), SessionError> {
        self.state = state;
        Err(SessionError::Internal {
            what: "this answer was not asked for",
        })
    }

    pub(crate) fn into_channel(self) -> Result<Channel<S::Peer>, SessionError> {
        let peer = self.state.and_then(S::into_peer);
        let peer = peer.ok_or(SessionError::Internal {
            what: "session is not established",
        })?;
        Ok(Channel::new(self.wire.into_connection(), peer))
    }
}

/// The methods through which a driver moves bytes; the same for both kinds of session.
macro_rules! tls_io {
    () => {
        /// Reads TLS bytes from `stream`, one read at most; 0 when nothing more will be read. Then
        /// `step`. Call it when [`Self::wants_read`].
        ///
        /// # Errors
        /// What `stream` returned, `WouldBlock` among it.
        pub fn read_tls(&mut self, stream: &mut dyn std::io::Read) -> std::io::Result<usize> {
            self.session.wire.read_tls(stream)
        }

        /// Writes queued TLS bytes to `stream`. Call it while [`Self::wants_write`].
        ///
        /// # Errors
        /// What `stream` returned, `WouldBlock` among it.
        pub fn write_tls(&mut self, stream: &mut dyn std::io::Write) -> std::io::Result<usize> {
            self.session.wire.write_tls(stream)
        }

        /// Whether the session waits for bytes of the peer.
        #[must_use]
        pub fn wants_read(&self) -> bool {
            self.session.wire.wants_read()
        }

        /// Whether bytes for the peer are queued; also after an error, for a last courtesy write.
        #[must_use]
        pub fn wants_write(&self) -> bool {
            self.session.wire.wants_write()
        }
    };
}
pub(crate) use tls_io;
