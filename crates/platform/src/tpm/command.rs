//! The frame of a TPM command and of its response (Part 1, section 18).

use super::{
    TpmError,
    commands::{Handle, SUCCESS},
    transport::{MAX_RESPONSE, Transport},
};
use std::{fmt, thread::sleep, time::Duration};
use tpm::{Malformed, Reader};
use zeroize::Zeroizing;

/// `TPM_ST_NO_SESSIONS` and `TPM_ST_SESSIONS` (Part 2, section 6.9).
const ST_NO_SESSIONS: u16 = 0x8001;
const ST_SESSIONS: u16 = 0x8002;
/// `TPM_RS_PW`: authorization by password (Part 2, section 7.4). Ours are all empty.
pub(super) const PASSWORD: Handle = Handle(0x4000_0009);
/// `TPMA_SESSION.continueSession` (Part 2, section 8.4).
const CONTINUE_SESSION: u8 = 1;

/// `TPM_RC_YIELDED`, `TESTING`, `NV_RATE` and `RETRY`: nothing happened yet, ask again (Part 2,
/// section 6.6.3).
const TRY_AGAIN: [u32; 4] = [0x908, 0x90a, 0x920, 0x922];
/// With the pause, about ten seconds: a self-test takes one or two.
const MAX_TRIES: usize = 200;
const PAUSE: Duration = Duration::from_millis(50);

/// A command under construction: handles, then authorizations, then parameters.
#[derive(Debug)]
pub(super) struct Command {
    name: &'static str,
    code: u32,
    handles: Vec<u8>,
    sessions: Vec<u8>,
    parameters: Vec<u8>,
}

impl Command {
    pub(super) const fn new(name: &'static str, code: u32) -> Self {
        Self {
            name,
            code,
            handles: Vec::new(),
            sessions: Vec::new(),
            parameters: Vec::new(),
        }
    }

    pub(super) fn handle(mut self, handle: Handle) -> Self {
        self.handles.extend_from_slice(&handle.0.to_be_bytes());
        self
    }

    /// Authorizes the next handle that needs it by `session`, with empty nonce and HMAC.
    pub(super) fn auth(mut self, session: Handle) -> Self {
        self.sessions.extend_from_slice(&session.0.to_be_bytes());
        self.sessions
            .extend_from_slice(&[0, 0, CONTINUE_SESSION, 0, 0]);
        self
    }

    pub(super) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.parameters.extend_from_slice(bytes);
        self
    }

    pub(super) fn u16(self, number: u16) -> Self {
        self.bytes(&number.to_be_bytes())
    }

    pub(super) fn u32(self, number: u32) -> Self {
        self.bytes(&number.to_be_bytes())
    }

    /// A `TPM2B`. All of ours are shorter than 64 KiB.
    pub(super) fn sized(self, bytes: &[u8]) -> Self {
        let len = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
        self.u16(len).bytes(bytes)
    }

    fn encode(&self) -> Vec<u8> {
        let mut body = self.handles.clone();
        if !self.sessions.is_empty() {
            body.extend_from_slice(&length(&self.sessions, 0));
            body.extend_from_slice(&self.sessions);
        }
        body.extend_from_slice(&self.parameters);
        let tag = if self.sessions.is_empty() {
            ST_NO_SESSIONS
        } else {
            ST_SESSIONS
        };
        let mut command = Vec::from(tag.to_be_bytes());
        command.extend_from_slice(&length(&body, 10));
        command.extend_from_slice(&self.code.to_be_bytes());
        command.append(&mut body);
        command
    }

    /// Runs the command, again while the TPM asks for patience.
    pub(super) fn run(self, transport: &mut dyn Transport) -> Result<Response, TpmError> {
        let command = self.encode();
        for _ in 1..MAX_TRIES {
            match self.exchange(transport, &command) {
                Err(TpmError::Refused { code, .. }) if TRY_AGAIN.contains(&code) => sleep(PAUSE),
                result => return result,
            }
        }
        self.exchange(transport, &command)
    }

    fn exchange(
        &self,
        transport: &mut dyn Transport,
        command: &[u8],
    ) -> Result<Response, TpmError> {
        let exchange = |source| TpmError::Exchange {
            command: self.name,
            source,
        };
        let response = Response {
            command: self.name,
            has_sessions: !self.sessions.is_empty(),
            bytes: Zeroizing::new(transport.transact(command).map_err(exchange)?),
        };
        match response.code()? {
            SUCCESS => Ok(response),
            code => Err(TpmError::Refused {
                command: self.name,
                code,
            }),
        }
    }
}

/// A length field that counts `more` bytes beside `bytes`.
fn length(bytes: &[u8], more: u32) -> [u8; 4] {
    let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    len.saturating_add(more).to_be_bytes()
}

/// A successful response, wiped on drop and never printed: one of them carries an activated secret.
pub(super) struct Response {
    command: &'static str,
    has_sessions: bool,
    bytes: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Response")
            .field("command", &self.command)
            .finish_non_exhaustive()
    }
}

impl Response {
    /// Checks tag and length; gives the response code.
    fn code(&self) -> Result<u32, TpmError> {
        let mut reader = Reader::new("response", &self.bytes);
        let parse = |reader: &mut Reader<'_>| {
            let at_tag = reader.malformed("tag");
            let tag = reader.u16("tag")?;
            let at_size = reader.malformed("responseSize");
            let size = reader.u32("responseSize")?;
            let code = reader.u32("responseCode")?;
            let sessions = self.has_sessions && code == SUCCESS;
            if tag
                != if sessions {
                    ST_SESSIONS
                } else {
                    ST_NO_SESSIONS
                }
            {
                return Err(at_tag);
            }
            let len = self.bytes.len();
            if usize::try_from(size) != Ok(len) || len > MAX_RESPONSE {
                return Err(at_size);
            }
            Ok(code)
        };
        self.malformed(parse(&mut reader))
    }

    /// Parses a response that has no handle.
    pub(super) fn parse<T>(
        &self,
        fields: impl FnOnce(&mut Reader<'_>) -> Result<T, Malformed>,
    ) -> Result<T, TpmError> {
        let mut reader = Reader::new("response", &self.bytes);
        let parsed =
            skip_header(&mut reader).and_then(|()| self.parse_parameters(&mut reader, fields));
        self.malformed(parsed)
    }

    /// Parses a response that starts with a handle.
    pub(super) fn parse_with_handle<T>(
        &self,
        fields: impl FnOnce(&mut Reader<'_>) -> Result<T, Malformed>,
    ) -> Result<(Handle, T), TpmError> {
        let mut reader = Reader::new("response", &self.bytes);
        let parsed = skip_header(&mut reader).and_then(|()| {
            let handle = Handle(reader.u32("handle")?);
            Ok((handle, self.parse_parameters(&mut reader, fields)?))
        });
        self.malformed(parsed)
    }

    /// Parses the parameters; with sessions, exactly `parameterSize` bytes of them, and the
    /// authorizations after them are ignored because a password needs no answer.
    fn parse_parameters<T>(
        &self,
        reader: &mut Reader<'_>,
        fields: impl FnOnce(&mut Reader<'_>) -> Result<T, Malformed>,
    ) -> Result<T, Malformed> {
        if !self.has_sessions {
            return fields(reader);
        }
        let malformed = reader.malformed("parameterSize");
        let size = usize::try_from(reader.u32("parameterSize")?).map_err(|_| malformed)?;
        let mut parameters = Reader::new("parameters", reader.take("parameters", size)?);
        let parsed = fields(&mut parameters)?;
        parameters.finish()?;
        Ok(parsed)
    }

    fn malformed<T>(&self, parsed: Result<T, Malformed>) -> Result<T, TpmError> {
        parsed.map_err(|source| TpmError::Response {
            command: self.command,
            source,
        })
    }
}

fn skip_header(reader: &mut Reader<'_>) -> Result<(), Malformed> {
    reader.take("header", 10).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_is_printed_without_its_bytes() {
        let response = Response {
            command: "TPM2_ActivateCredential",
            has_sessions: true,
            bytes: Zeroizing::new(vec![171; 32]),
        };
        let text = format!("{response:?}");
        assert!(
            text.contains("TPM2_ActivateCredential") && !text.contains("171"),
            "{text}"
        );
    }
}
