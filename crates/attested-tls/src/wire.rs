//! One TLS connection that carries frames: bounds, turns and the binding.

use evidence::{Binding, EXPORTER_LABEL, Side, exporter_context};
use prost::Message;
use rustls::Connection;
use std::{
    io::{self, IoSlice, Read, Write},
    time::Duration,
};

use crate::{
    FrameError, MAX_FRAME, SessionError, TlsEnd,
    frame::{self, FrameReader, Payload, Reading},
    tls::{self, ALPN},
};

/// The most bytes that a session reads from its peer before both verdicts: three frames, and more
/// than the TLS handshake and record headers need.
pub const MAX_RECEIVED: usize = 4 * MAX_FRAME;

/// What a session starts with, given by its driver.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// 32 random bytes, fresh for this session.
    pub nonce: [u8; 32],
    /// When the session must be over, on the clock whose reading is passed to `step`.
    pub deadline: Duration,
}

pub(crate) struct Wire {
    connection: Connection,
    side: Side,
    own_spki: Vec<u8>,
    frames: FrameReader,
    received: usize,
    deadline: Duration,
    eof: bool,
}

impl Wire {
    pub(crate) fn new(end: &TlsEnd, side: Side, start: &Start) -> Result<Self, SessionError> {
        Ok(Self {
            connection: end.connection(side).map_err(SessionError::Tls)?,
            side,
            own_spki: end.spki().to_vec(),
            frames: FrameReader::default(),
            received: 0,
            deadline: start.deadline,
            eof: false,
        })
    }

    pub(crate) fn read_tls(&mut self, stream: &mut dyn Read) -> io::Result<usize> {
        let left = MAX_RECEIVED.saturating_sub(self.received);
        if left == 0 {
            return Ok(0);
        }
        let got = self
            .connection
            .read_tls(&mut Read::take(stream, left as u64))?;
        self.received = self.received.saturating_add(got);
        self.eof |= got == 0;
        Ok(got)
    }

    pub(crate) fn write_tls(&mut self, stream: &mut dyn Write) -> io::Result<usize> {
        self.connection.write_tls(stream)
    }

    pub(crate) fn wants_read(&self) -> bool {
        self.connection.wants_read() && !self.eof && self.received < MAX_RECEIVED
    }

    pub(crate) fn wants_write(&self) -> bool {
        self.connection.wants_write()
    }

    /// Processes what arrived; `true` once the TLS handshake is complete and frames may flow.
    pub(crate) fn process(&mut self, now: Duration) -> Result<bool, SessionError> {
        if now >= self.deadline {
            return Err(SessionError::Deadline);
        }
        self.connection
            .process_new_packets()
            .map_err(SessionError::Tls)?;
        if self.connection.is_handshaking() {
            return self.still_open().map(|()| false);
        }
        if self.connection.alpn_protocol() != Some(ALPN) {
            return Err(SessionError::Alpn);
        }
        Ok(true)
    }

    /// The next frame's message, once it is complete.
    pub(crate) fn receive<M: Message + Default>(
        &mut self,
        number: u8,
    ) -> Result<Option<M>, SessionError> {
        self.receive_payload(number)?
            .map(|payload| frame::decode(&payload).map_err(in_frame(number)))
            .transpose()
    }

    /// The next frame as it was sent, once it is complete.
    pub(crate) fn receive_payload(&mut self, number: u8) -> Result<Option<Payload>, SessionError> {
        let reading = self
            .frames
            .read(&mut self.connection.reader())
            .map_err(in_frame(number))?;
        match reading {
            Reading::Closed => Err(SessionError::Closed),
            Reading::Frame(payload) => Ok(Some(payload)),
            Reading::Partial => self.still_open().map(|()| None),
        }
    }

    /// It is this side's turn: whatever the peer sent by now is out of turn.
    pub(crate) fn expect_silence(&mut self) -> Result<(), SessionError> {
        match self.connection.reader().into_first_chunk() {
            Ok([]) => Err(SessionError::Closed),
            Ok(_) => Err(SessionError::EarlyData),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(_) => Err(SessionError::Closed),
        }
    }

    /// Queues a frame and gives its message as sent.
    pub(crate) fn send(&mut self, message: &impl Message) -> Result<Payload, SessionError> {
        let (len, payload) = frame::encode(message).ok_or(SessionError::Internal {
            what: "own message does not fit a frame",
        })?;
        let header = len.to_be_bytes();
        // One record for both.
        let frame = [IoSlice::new(&header), IoSlice::new(&payload)];
        let written = self.connection.writer().write_vectored(&frame);
        if written.ok() != Some(header.len() + payload.len()) {
            return Err(SessionError::Internal {
                what: "send buffer is full",
            });
        }
        Ok(payload)
    }

    /// The binding of this connection with these two hellos.
    pub(crate) fn binding(
        &self,
        attester: Side,
        client_hello: &[u8],
        server_hello: &[u8],
    ) -> Result<Binding, SessionError> {
        let peer_spki = self.peer_spki()?;
        let (client_spki, server_spki) = match self.side {
            Side::Client => (&self.own_spki, &peer_spki),
            Side::Server => (&peer_spki, &self.own_spki),
        };
        let context = exporter_context(client_hello, server_hello);
        let exporter = self
            .connection
            .export_keying_material([0; 32], EXPORTER_LABEL, Some(&context))
            .map_err(SessionError::Tls)?;
        Ok(Binding::compute(&evidence::Channel {
            attester,
            client_hello,
            server_hello,
            client_spki,
            server_spki,
            exporter: &exporter,
        }))
    }

    pub(crate) fn into_connection(self) -> Connection {
        self.connection
    }

    fn peer_spki(&self) -> Result<Vec<u8>, SessionError> {
        let certificates = self.connection.peer_certificates().unwrap_or_default();
        let leaf = certificates
            .first()
            .ok_or(SessionError::Tls(rustls::Error::NoCertificatesPresented))?;
        tls::spki(leaf).map_err(SessionError::Tls)
    }

    fn still_open(&self) -> Result<(), SessionError> {
        if self.received >= MAX_RECEIVED {
            return Err(SessionError::TooMuch { max: MAX_RECEIVED });
        }
        if self.eof {
            return Err(SessionError::Closed);
        }
        Ok(())
    }
}

pub(crate) fn in_frame(number: u8) -> impl FnOnce(FrameError) -> SessionError {
    move |source| SessionError::Frame { number, source }
}
