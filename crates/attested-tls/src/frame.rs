//! Frames: a big-endian u32 length, at most 64 KiB, and one protobuf message.

use prost::Message;
use std::io::{self, Read};
use zeroize::Zeroizing;

/// The longest message in a frame, in bytes (docs/protocol.md, "Frames").
pub const MAX_FRAME: usize = 64 << 10;

const HEADER: usize = 4;

/// Why a frame is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The announced length is 0 or above [`MAX_FRAME`].
    #[error("expected a length of 1 to {MAX_FRAME}, got {got}")]
    Length {
        /// The announced length.
        got: usize,
    },
    /// Not the protobuf message that this frame carries.
    #[error("malformed message")]
    Message(#[source] prost::DecodeError),
    /// Not the one canonical encoding of its message: unknown, repeated or unordered fields.
    #[error("message is not in its canonical encoding")]
    NotCanonical,
    /// A field of the message is not what it should be.
    #[error("malformed field")]
    Field(#[source] api::Malformed),
    /// A field contradicts the session.
    #[error("{field}: expected {expected}, got {got}")]
    Contradiction {
        /// Message and field.
        field: &'static str,
        /// What the session fixes.
        expected: String,
        /// What the peer sent.
        got: String,
    },
}

impl From<api::Malformed> for FrameError {
    fn from(malformed: api::Malformed) -> Self {
        Self::Field(malformed)
    }
}

/// A frame's message as it travels. The bytes stay, because the binding is over them.
pub(crate) type Payload = Zeroizing<Vec<u8>>;

/// Collects one frame and never reads a byte beyond it.
#[derive(Default)]
pub(crate) struct FrameReader {
    header: Vec<u8>,
    payload: Payload,
}

/// What reading gave.
pub(crate) enum Reading {
    /// A whole frame.
    Frame(Payload),
    /// More has to arrive.
    Partial,
    /// The peer closed the stream inside or before the frame.
    Closed,
}

impl FrameReader {
    /// Reads as much of one frame as `stream` has.
    pub(crate) fn read(&mut self, stream: &mut impl Read) -> Result<Reading, FrameError> {
        match read_up_to(stream, &mut self.header, HEADER) {
            Filled::Full => {}
            Filled::Partial => return Ok(Reading::Partial),
            Filled::Closed => return Ok(Reading::Closed),
        }
        let len = parse_length(&self.header)?;
        match read_up_to(stream, &mut self.payload, len) {
            Filled::Full => {}
            Filled::Partial => return Ok(Reading::Partial),
            Filled::Closed => return Ok(Reading::Closed),
        }
        self.header.clear();
        Ok(Reading::Frame(std::mem::take(&mut self.payload)))
    }
}

enum Filled {
    Full,
    Partial,
    Closed,
}

fn read_up_to(stream: &mut impl Read, buffer: &mut Vec<u8>, len: usize) -> Filled {
    let missing = len.saturating_sub(buffer.len());
    // The reader is rustls's plaintext buffer: its errors are "nothing there" and "closed".
    let outcome = Read::take(stream, missing as u64).read_to_end(buffer);
    match outcome {
        _ if buffer.len() == len => Filled::Full,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Filled::Partial,
        _ => Filled::Closed,
    }
}

fn parse_length(header: &[u8]) -> Result<usize, FrameError> {
    let bytes = header
        .try_into()
        .map_err(|_| FrameError::Length { got: 0 })?;
    let got = u32::from_be_bytes(bytes) as usize;
    if (1..=MAX_FRAME).contains(&got) {
        Ok(got)
    } else {
        Err(FrameError::Length { got })
    }
}

/// Encodes a message; `None` if it does not fit a frame.
pub(crate) fn encode(message: &impl Message) -> Option<(u32, Payload)> {
    let payload = Zeroizing::new(message.encode_to_vec());
    let fits = (1..=MAX_FRAME).contains(&payload.len());
    let len = u32::try_from(payload.len()).ok()?;
    fits.then_some((len, payload))
}

/// Decodes a message and refuses every encoding but the canonical one, so that one meaning has one
/// form and nothing unknown is carried along.
pub(crate) fn decode<M: Message + Default>(payload: &[u8]) -> Result<M, FrameError> {
    let message = M::decode(payload).map_err(FrameError::Message)?;
    if *Zeroizing::new(message.encode_to_vec()) != payload {
        return Err(FrameError::NotCanonical);
    }
    Ok(message)
}
