//! A question and what its answers say, without a socket.

use smoltcp::wire::{
    DnsFlags, DnsOpcode, DnsPacket, DnsQueryType, DnsQuestion, DnsRcode, DnsRecord, DnsRecordData,
    DnsRepr,
};
use std::net::IpAddr;

/// Longest name (RFC 1035, section 2.3.4) and longest message over UDP (section 4.2.1).
const MAX_NAME: usize = 253;
pub(super) const MAX_MESSAGE: usize = 512;

/// The most answer records read, and addresses kept, of one message.
const MAX_RECORDS: usize = 32;
pub(super) const MAX_ADDRESSES: usize = 8;

/// Which addresses are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4: records of type A (RFC 1035, section 3.4.1).
    V4,
    /// IPv6: records of type AAAA (RFC 3596, section 2.1).
    V6,
}

/// One question for the addresses of a name.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    /// What tells its answers from others; random, so that only who sees the question can answer.
    pub(super) id: u16,
    /// In wire form.
    pub(super) name: &'a [u8],
    pub(super) family: Family,
}

impl<'a> Query<'a> {
    /// A question with this id for a name in wire form ([`encode_name`]).
    #[must_use]
    pub const fn new(id: u16, name: &'a [u8], family: Family) -> Self {
        Self { id, name, family }
    }

    /// The message that asks it.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let repr = DnsRepr {
            transaction_id: self.id,
            opcode: DnsOpcode::Query,
            flags: DnsFlags::RECURSION_DESIRED,
            question: DnsQuestion {
                name: self.name,
                type_: self.record_type(),
            },
        };
        let mut message = vec![0; repr.buffer_len()];
        repr.emit(&mut DnsPacket::new_unchecked(message.as_mut_slice()));
        message
    }

    const fn record_type(&self) -> DnsQueryType {
        match self.family {
            Family::V4 => DnsQueryType::A,
            Family::V6 => DnsQueryType::Aaaa,
        }
    }

    /// The addresses in an answer to this question: `Some` of none when the name has none or does
    /// not exist, `None` when the message is not a usable answer to it.
    #[must_use]
    pub fn parse_answer(&self, message: &[u8]) -> Option<Vec<IpAddr>> {
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
        if question.name != self.name || question.type_ != self.record_type() {
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
                DnsRecordData::A(address) if self.family == Family::V4 => {
                    found.push(address.into());
                }
                DnsRecordData::Aaaa(address) if self.family == Family::V6 => {
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

/// Whether `name` is a host name that can be asked for.
#[must_use]
pub fn is_host_name(name: &str) -> bool {
    encode_name(name).is_some()
}

/// A host name in wire form: each label after its length, the root's last; `None` if it is none.
#[must_use]
pub fn encode_name(name: &str) -> Option<Vec<u8>> {
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
