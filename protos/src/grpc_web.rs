//! gRPC-Web framing of one unary call over HTTP/1.1, for a client without an HTTP/2 stack.
//!
//! The wire format is that of gRPC's `PROTOCOL-WEB.md`: a flag byte, a big-endian u32 length, the
//! message; the last frame has flag 0x80 and holds the trailers as text. A server that answers with
//! an error alone may put `grpc-status` and `grpc-message` into the HTTP headers and send no body.
//! Nothing here is compressed, and every length is bounded before anything is copied.

use prost::Message;

use crate::Class;

/// The media type of requests and answers.
pub const CONTENT_TYPE: &str = "application/grpc-web+proto";

/// The largest message, in bytes: a ticket with the largest material (`tickets`), and a little more.
/// Nobody but a peer that has proved itself is asked.
pub const MAX_MESSAGE: usize = (1 << 20) + (8 << 10);

/// The largest trailer frame, in bytes.
pub const MAX_TRAILERS: usize = 4 << 10;

/// The largest answer body: a message and trailers with their headers. A client reads no more.
pub const MAX_BODY: usize = FRAME_HEADER + MAX_MESSAGE + FRAME_HEADER + MAX_TRAILERS;

/// The longest error text kept from a peer, in bytes.
pub const MAX_ERROR_TEXT: usize = 1 << 10;

const FRAME_HEADER: usize = 5;
const FLAG_DATA: u8 = 0x00;
const FLAG_TRAILERS: u8 = 0x80;

/// The server's answer is an error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("grpc status {code}: {text}")]
pub struct Status {
    /// The gRPC status code, never 0.
    pub code: u32,
    /// The server's text, printable and at most [`MAX_ERROR_TEXT`] bytes long.
    pub text: String,
}

impl Status {
    /// The class to act upon.
    #[must_use]
    pub const fn class(&self) -> Class {
        Class::from_grpc_code(self.code)
    }
}

/// Why a call has no answer message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The body ends inside a frame.
    #[error("gRPC-Web answer: truncated frame")]
    Truncated,
    /// A frame announces more than its bound.
    #[error("gRPC-Web answer: expected a frame of at most {max} bytes, got {got}")]
    TooLong {
        /// The bound in bytes.
        max: usize,
        /// The length announced.
        got: usize,
    },
    /// A frame is compressed or of an unknown kind.
    #[error("gRPC-Web answer: unknown frame flags {got:#04x}")]
    Flags {
        /// The flag byte.
        got: u8,
    },
    /// Not one message followed by trailers.
    #[error("gRPC-Web answer: expected one message and then trailers")]
    Shape,
    /// No `grpc-status`, or not a number.
    #[error("gRPC-Web answer: missing or malformed grpc-status")]
    NoStatus,
    /// The message is not its protobuf type.
    #[error("gRPC-Web answer: malformed message")]
    Message(#[source] prost::DecodeError),
    /// The server answered with an error.
    #[error("call failed")]
    Status(#[source] Status),
}

impl CallError {
    /// The class to act upon.
    #[must_use]
    pub const fn class(&self) -> Class {
        match self {
            Self::Status(status) => status.class(),
            _ => Class::Malformed,
        }
    }
}

/// Encodes a request body.
#[must_use]
pub fn encode_request(message: &impl Message) -> Vec<u8> {
    encode_frame(FLAG_DATA, &message.encode_to_vec())
}

/// Decodes an answer. `header` looks up an HTTP header of the response by its lower-case name;
/// `body` is the whole body, of which the caller read at most [`MAX_BODY`] bytes.
///
/// # Errors
/// [`CallError::Status`] is the server's own answer; every other variant a malformed one.
pub fn decode_response<M: Message + Default>(
    header: impl Fn(&str) -> Option<String>,
    body: &[u8],
) -> Result<M, CallError> {
    if let Some(status) = header("grpc-status") {
        ok_or_status(&status, header("grpc-message").as_deref())?;
    }
    let (message, trailers) = split_body(body)?;
    let trailers = Trailers::parse(trailers);
    let status = trailers.lookup("grpc-status").ok_or(CallError::NoStatus)?;
    ok_or_status(status, trailers.lookup("grpc-message"))?;
    M::decode(message.ok_or(CallError::Shape)?).map_err(CallError::Message)
}

/// An answer is at most one data frame, then exactly one trailer frame, then nothing.
fn split_body(body: &[u8]) -> Result<(Option<&[u8]>, &[u8]), CallError> {
    let mut message = None;
    let mut rest = body;
    loop {
        let (flags, payload, after) = split_frame(rest)?;
        match flags {
            FLAG_DATA if message.is_none() => message = Some(payload),
            FLAG_TRAILERS if after.is_empty() => return Ok((message, payload)),
            _ => return Err(CallError::Shape),
        }
        rest = after;
    }
}

fn split_frame(bytes: &[u8]) -> Result<(u8, &[u8], &[u8]), CallError> {
    let (&[flags, a, b, c, d], rest) = bytes
        .split_first_chunk::<FRAME_HEADER>()
        .ok_or(CallError::Truncated)?;
    let max = match flags {
        FLAG_DATA => MAX_MESSAGE,
        FLAG_TRAILERS => MAX_TRAILERS,
        got => return Err(CallError::Flags { got }),
    };
    let got = u32::from_be_bytes([a, b, c, d]) as usize;
    if got > max {
        return Err(CallError::TooLong { max, got });
    }
    let (payload, rest) = rest.split_at_checked(got).ok_or(CallError::Truncated)?;
    Ok((flags, payload, rest))
}

fn encode_frame(flags: u8, payload: &[u8]) -> Vec<u8> {
    // Our own messages are far below 4 GiB; a saturated length is refused by every reader.
    let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    [&[flags], len.to_be_bytes().as_slice(), payload].concat()
}

/// Trailers in HTTP/1.1 form: `name:value` lines ended by CR LF.
struct Trailers<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Trailers<'a> {
    /// Lines that are not trailers are left out; a missing status is then noticed.
    fn parse(block: &'a [u8]) -> Self {
        let text = core::str::from_utf8(block).unwrap_or_default();
        let pair = |line: &'a str| line.split_once(':');
        Self(text.split("\r\n").filter_map(pair).collect())
    }

    fn lookup(&self, name: &str) -> Option<&'a str> {
        let found = |(key, _): &&(&str, &str)| key.eq_ignore_ascii_case(name);
        self.0.iter().find(found).map(|(_, value)| value.trim())
    }
}

fn ok_or_status(status: &str, text: Option<&str>) -> Result<(), CallError> {
    match status.parse() {
        Ok(0) => Ok(()),
        Ok(code) => Err(CallError::Status(Status {
            code,
            text: percent_decode(text.unwrap_or_default()),
        })),
        Err(_) => Err(CallError::NoStatus),
    }
}

/// Percent-decodes `grpc-message`. As gRPC demands, a wrong escape is no error: it stays as it is.
/// The text ends up on a console, so control characters become `?` and the length is bounded.
fn percent_decode(text: &str) -> String {
    let mut decoded = Vec::with_capacity(text.len().min(MAX_ERROR_TEXT));
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        if decoded.len() == MAX_ERROR_TEXT {
            break;
        }
        let escaped = match rest {
            [b'%', high, low, tail @ ..] => hex_pair(*high, *low).map(|byte| (byte, tail)),
            _ => None,
        };
        let (byte, tail) = escaped.unwrap_or((*first, after));
        decoded.push(byte);
        rest = tail;
    }
    let printable = |c: char| if c.is_control() { '?' } else { c };
    String::from_utf8_lossy(&decoded)
        .chars()
        .map(printable)
        .collect()
}

fn hex_pair(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| {
        let value = char::from(byte).to_digit(16)?;
        u8::try_from(value).ok()
    };
    Some((digit(high)? << 4) | digit(low)?)
}

#[cfg(test)]
mod tests;
