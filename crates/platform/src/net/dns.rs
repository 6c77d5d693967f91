//! The one lookup the initramfs needs: a name to addresses, over UDP, from the name servers the
//! link was given.
//!
//! Answers are hints: whoever stands behind an address must prove itself in the attested channel.

use crate::random::{self, RandomError};
use smoltcp::wire::{
    DnsFlags, DnsOpcode, DnsPacket, DnsQueryType, DnsQuestion, DnsRcode, DnsRecord, DnsRecordData,
    DnsRepr,
};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

/// How long one server may take for one question before the next is asked.
const ANSWER_TIME: Duration = Duration::from_millis(1500);

/// Longest name (RFC 1035, section 2.3.4) and longest message over UDP (section 4.2.1).
const MAX_NAME: usize = 253;
const MAX_MESSAGE: usize = 512;

/// The most answer records read, and addresses kept, of one message.
const MAX_RECORDS: usize = 32;
const MAX_ADDRESSES: usize = 8;

/// A name that led to no address.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// Not a host name.
    #[error(
        "malformed host name: expected labels of 1 to 63 letters, digits, `-` or `_`, 253 in all"
    )]
    MalformedName,
    /// The link has no name server.
    #[error("no name server to ask")]
    NoServer,
    /// The servers know the name and it has no address, or say that it does not exist.
    #[error("name has no address")]
    NoAddress,
    /// No usable answer before the deadline.
    #[error("no usable answer from {servers} name servers")]
    NoAnswer {
        /// How many were asked.
        servers: usize,
    },
    /// No random bytes for the question's id.
    #[error("make a question id")]
    Random(#[source] RandomError),
}

/// Looks `name` up, asking `servers` in turn until `deadline`; IPv4 addresses come first.
///
/// # Errors
/// [`ResolveError`]; only the malformed name is final, everything else may pass.
pub fn resolve(
    name: &str,
    servers: &[IpAddr],
    deadline: Instant,
) -> Result<Vec<IpAddr>, ResolveError> {
    let name = encode_name(name).ok_or(ResolveError::MalformedName)?;
    if servers.is_empty() {
        return Err(ResolveError::NoServer);
    }
    let mut answered = false;
    let mut addresses = Vec::new();
    for kind in [DnsQueryType::A, DnsQueryType::Aaaa] {
        if let Some(found) = ask_any(&name, kind, servers, deadline)? {
            answered = true;
            addresses.extend(found);
        }
    }
    match (addresses.is_empty(), answered) {
        (false, _) => Ok(addresses),
        (true, true) => Err(ResolveError::NoAddress),
        (true, false) => Err(ResolveError::NoAnswer {
            servers: servers.len(),
        }),
    }
}

/// The first answer that any server gives; `None` when none does in time.
fn ask_any(
    name: &[u8],
    kind: DnsQueryType,
    servers: &[IpAddr],
    deadline: Instant,
) -> Result<Option<Vec<IpAddr>>, ResolveError> {
    for server in servers {
        let until = deadline.min(Instant::now() + ANSWER_TIME);
        let id = random::array().map_err(ResolveError::Random)?;
        let query = Query {
            id: u16::from_be_bytes(id),
            name,
            kind,
        };
        // An unreachable server is one more that does not answer.
        if let Ok(Some(found)) = ask(&query, SocketAddr::new(*server, 53), until) {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn ask(query: &Query<'_>, server: SocketAddr, until: Instant) -> io::Result<Option<Vec<IpAddr>>> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(server)?;
    socket.send(&query.encode())?;
    let mut message = [0; MAX_MESSAGE];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        socket.set_read_timeout(Some(left))?;
        let len = match socket.recv(&mut message) {
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        };
        if let Some(found) = query.parse_answer(&message[..len]) {
            return Ok(Some(found));
        }
    }
}

/// One question; `name` in wire form.
struct Query<'a> {
    id: u16,
    name: &'a [u8],
    kind: DnsQueryType,
}

impl Query<'_> {
    fn encode(&self) -> Vec<u8> {
        let repr = DnsRepr {
            transaction_id: self.id,
            opcode: DnsOpcode::Query,
            flags: DnsFlags::RECURSION_DESIRED,
            question: DnsQuestion {
                name: self.name,
                type_: self.kind,
            },
        };
        let mut message = vec![0; repr.buffer_len()];
        repr.emit(&mut DnsPacket::new_unchecked(message.as_mut_slice()));
        message
    }

    /// The addresses in an answer to this question: `Some` of none when the name has none or does
    /// not exist, `None` when the message is not a usable answer to it.
    fn parse_answer(&self, message: &[u8]) -> Option<Vec<IpAddr>> {
        let packet = DnsPacket::new_checked(message).ok()?;
        let ours = packet.transaction_id() == self.id
            && packet.flags().contains(DnsFlags::RESPONSE)
            && packet.opcode() == DnsOpcode::Query
            && packet.question_count() == 1;
        if !ours {
            return None;
        }
        match packet.rcode() {
            DnsRcode::NoError => {}
            DnsRcode::NXDomain => return Some(Vec::new()),
            _ => return None,
        }
        let (mut rest, question) = DnsQuestion::parse(packet.payload()).ok()?;
        if question.name != self.name || question.type_ != self.kind {
            return None;
        }
        let mut wanted = labels(&packet, self.name)?;
        let mut found = Vec::new();
        let count = usize::from(packet.answer_record_count()).min(MAX_RECORDS);
        for _ in 0..count {
            let (after, record) = DnsRecord::parse(rest).ok()?;
            rest = after;
            if labels(&packet, record.name)? != wanted {
                continue;
            }
            match record.data {
                DnsRecordData::Cname(target) => wanted = labels(&packet, target)?,
                DnsRecordData::A(address) if self.kind == DnsQueryType::A => {
                    found.push(address.into());
                }
                DnsRecordData::Aaaa(address) if self.kind == DnsQueryType::Aaaa => {
                    found.push(address.into());
                }
                _ => {}
            }
        }
        found.truncate(MAX_ADDRESSES);
        Some(found)
    }
}

/// The labels of a name, lower case, each followed by a full stop.
fn labels(packet: &DnsPacket<&[u8]>, name: &[u8]) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    for label in packet.parse_name(name) {
        text.extend(label.ok()?.to_ascii_lowercase());
        text.push(b'.');
        // A compressed name can be longer than the message that carries it.
        if text.len() > MAX_NAME + 1 {
            return None;
        }
    }
    Some(text)
}

/// Whether `name` is a host name that [`resolve`] can ask for.
#[must_use]
pub fn is_host_name(name: &str) -> bool {
    encode_name(name).is_some()
}

fn encode_name(name: &str) -> Option<Vec<u8>> {
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.is_empty() || name.len() > MAX_NAME {
        return None;
    }
    let mut wire = Vec::with_capacity(name.len() + 2);
    for label in name.split('.') {
        let ok = (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if !ok {
            return None;
        }
        wire.push(u8::try_from(label.len()).ok()?);
        wire.extend_from_slice(label.as_bytes());
    }
    wire.push(0);
    Some(wire)
}

#[cfg(test)]
mod tests;
