//! The crypto-agile TCG event log and its replay, SHA-256 bank.
//!
//! The log is the firmware's and the host's word. It never decides anything: replayed and compared
//! with the quote it only tells an operator *which* event made a PCR differ.
//! "PFP" cites the TCG PC Client Platform Firmware Profile, revision 1.05; its numbers are
//! little-endian.

use crate::{
    constants::alg,
    reader::{Malformed, Reader},
};
use alloc::{collections::BTreeMap, string::String, vec::Vec};
use aws_lc_rs::digest;
use core::fmt;

/// The longest log that an attester sends, in bytes: leaves room in a 64 KiB frame.
pub const MAX_EVENT_LOG: usize = 48 * 1024;

/// The most events in one log; real ones have 30 to 200.
const MAX_EVENTS: usize = 4096;
/// The most hash algorithms of one log, and the longest digest (SHA-512).
const MAX_ALGORITHMS: u32 = 8;
const MAX_DIGEST: u16 = 64;
/// The longest data of one event: a Secure Boot database.
const MAX_EVENT_DATA: usize = 64 * 1024;
/// How much of an event's text is shown.
const MAX_TEXT: usize = 80;
/// How many events are shown where no reference events say which one matters: the sender chooses
/// their number, and they end up in a log.
const MAX_SHOWN: usize = 16;

/// `EV_NO_ACTION`: informative, extends nothing (PFP, section 10.4.1).
const EV_NO_ACTION: u32 = 3;
/// Signature of the first event (PFP, section 10.4.5.1).
const SPEC_ID: &[u8] = b"Spec ID Event03\0";
/// Signature of the event that says what PCR 0 started from (PFP, section 10.4.5.3).
const STARTUP_LOCALITY: &[u8] = b"StartupLocality\0";

/// One event of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The PCR that was extended.
    pub pcr: u32,
    /// `eventType`.
    pub kind: u32,
    /// Digest in the SHA-256 bank, as extended.
    pub digest: [u8; 32],
    /// Event data, not covered by any check.
    pub data: Vec<u8>,
}

/// A parsed event log. Untrusted, whatever it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventLog {
    startup_locality: u8,
    events: Vec<Event>,
}

/// An event that the reference values' image is known to cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpectedEvent {
    /// What is measured, for people.
    pub name: String,
    /// Digest in the SHA-256 bank.
    pub digest: [u8; 32],
}

/// What the log says about one differing PCR.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Difference {
    /// The first event that is not the expected one; `None` where one side ends.
    Event {
        /// The PCR.
        pcr: u32,
        /// Position among the events of this PCR, from 0.
        position: usize,
        /// The reference values' event.
        expected: Option<ExpectedEvent>,
        /// The logged event.
        got: Option<Event>,
    },
    /// Replaying the log does not give the quoted value: the log is wrong or incomplete.
    LogDisagrees {
        /// The PCR.
        pcr: u32,
        /// What the log replays to.
        replayed: [u8; 32],
    },
    /// The log fits the quote, but the reference values list no events to compare with.
    NoReference {
        /// The PCR.
        pcr: u32,
        /// The logged events of this PCR.
        events: Vec<Event>,
    },
}

impl EventLog {
    /// Parses a whole log: a `TCG_PCR_EVENT` with the `Spec ID Event03` structure, then
    /// `TCG_PCR_EVENT2`s (PFP, section 10.2).
    ///
    /// # Errors
    /// If the bytes are anything else, are over a bound, or a PCR event lacks the SHA-256 digest.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new("event log", bytes);
        let sizes = parse_header(&mut reader)?;
        let mut log = Self {
            startup_locality: 0,
            events: Vec::new(),
        };
        while !reader.is_finished() {
            let malformed = reader.malformed("event count");
            let event = parse_event(&mut reader, &sizes)?;
            if event.kind != EV_NO_ACTION {
                log.events.push(event);
            } else if let Some([locality]) = event.data.strip_prefix(STARTUP_LOCALITY) {
                log.startup_locality = *locality;
            }
            if log.events.len() > MAX_EVENTS {
                return Err(malformed);
            }
        }
        Ok(log)
    }

    /// The events that extended a PCR, in order.
    #[must_use]
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// What the PCRs would be if the log were true; a PCR without events is absent and still has
    /// its reset value.
    #[must_use]
    pub fn replay(&self) -> BTreeMap<u32, [u8; 32]> {
        let mut pcrs = BTreeMap::new();
        if self.startup_locality != 0 {
            pcrs.insert(0, self.initial(0));
        }
        for event in &self.events {
            let value = pcrs
                .entry(event.pcr)
                .or_insert_with(|| self.initial(event.pcr));
            *value = extend(value, &event.digest);
        }
        pcrs
    }

    /// Explains why PCR `pcr` is `quoted` and not what `expected` leads to.
    #[must_use]
    pub fn explain(&self, pcr: u32, quoted: &[u8; 32], expected: &[ExpectedEvent]) -> Difference {
        let replayed = self.replay().get(&pcr).copied();
        let replayed = replayed.unwrap_or_else(|| self.initial(pcr));
        if replayed != *quoted {
            return Difference::LogDisagrees { pcr, replayed };
        }
        let events = self.events.iter().filter(|event| event.pcr == pcr);
        if expected.is_empty() {
            let events = events.cloned().collect();
            return Difference::NoReference { pcr, events };
        }
        let same = events.clone().zip(expected);
        let position = same
            .take_while(|(got, expected)| got.digest == expected.digest)
            .count();
        Difference::Event {
            pcr,
            position,
            expected: expected.get(position).cloned(),
            got: events.clone().nth(position).cloned(),
        }
    }

    /// The value a PCR starts from: zero, or for PCR 0 the startup locality (PFP, section 10.4.5.3).
    fn initial(&self, pcr: u32) -> [u8; 32] {
        let mut value = [0; 32];
        if let (0, Some(last)) = (pcr, value.last_mut()) {
            *last = self.startup_locality;
        }
        value
    }
}

/// `TPM2_PCR_Extend` in software: `SHA-256(old || digest)` (Part 1, section 17.3).
fn extend(value: &[u8; 32], event: &[u8; 32]) -> [u8; 32] {
    let mut hash = digest::Context::new(&digest::SHA256);
    hash.update(value);
    hash.update(event);
    let mut out = [0; 32];
    out.copy_from_slice(hash.finish().as_ref());
    out
}

/// The first event: gives the digest size of each algorithm of the log.
fn parse_header(reader: &mut Reader<'_>) -> Result<BTreeMap<u16, u16>, Malformed> {
    let malformed = reader.malformed("Spec ID Event03");
    let pcr = u32_le(reader, "pcrIndex")?;
    let kind = u32_le(reader, "eventType")?;
    reader.take("digest", 20)?;
    let size = u32_le(reader, "eventSize")?;
    let data = take(reader, "event", size)?;
    if pcr != 0 || kind != EV_NO_ACTION || !data.starts_with(SPEC_ID) {
        return Err(malformed);
    }
    let mut event = Reader::new("TCG_EfiSpecIDEvent", data);
    event.take("signature", SPEC_ID.len())?;
    event.take("platformClass, version, uintnSize", 8)?;
    let malformed = event.malformed("numberOfAlgorithms");
    let count = u32_le(&mut event, "numberOfAlgorithms")?;
    if count == 0 || count > MAX_ALGORITHMS {
        return Err(malformed);
    }
    let mut sizes = BTreeMap::new();
    for _ in 0..count {
        let algorithm = u16_le(&mut event, "algorithmId")?;
        let malformed = event.malformed("digestSize");
        let size = u16_le(&mut event, "digestSize")?;
        if size > MAX_DIGEST || sizes.insert(algorithm, size).is_some() {
            return Err(malformed);
        }
    }
    let vendor = usize::from(event.u8("vendorInfoSize")?);
    event.take("vendorInfo", vendor)?;
    event.finish()?;
    Ok(sizes)
}

fn parse_event(reader: &mut Reader<'_>, sizes: &BTreeMap<u16, u16>) -> Result<Event, Malformed> {
    let pcr = u32_le(reader, "pcrIndex")?;
    let kind = u32_le(reader, "eventType")?;
    let malformed = reader.malformed("digests.count");
    let count = u32_le(reader, "digests.count")?;
    if count > MAX_ALGORITHMS {
        return Err(malformed);
    }
    let mut sha256 = None;
    for _ in 0..count {
        let unknown = reader.malformed("digests.hashAlg");
        let algorithm = u16_le(reader, "digests.hashAlg")?;
        let size = sizes.get(&algorithm).ok_or(unknown)?;
        let digest = reader.take("digests.digest", usize::from(*size))?;
        if algorithm == alg::SHA256 {
            sha256 = Some(digest.try_into().map_err(|_| unknown)?);
        }
    }
    let size = u32_le(reader, "eventSize")?;
    let data = take(reader, "event", size)?.to_vec();
    Ok(Event {
        pcr,
        kind,
        digest: sha256.ok_or(malformed)?,
        data,
    })
}

fn u16_le(reader: &mut Reader<'_>, field: &'static str) -> Result<u16, Malformed> {
    reader.array(field).map(u16::from_le_bytes)
}

fn u32_le(reader: &mut Reader<'_>, field: &'static str) -> Result<u32, Malformed> {
    reader.array(field).map(u32::from_le_bytes)
}

fn take<'a>(
    reader: &mut Reader<'a>,
    field: &'static str,
    size: u32,
) -> Result<&'a [u8], Malformed> {
    let malformed = reader.malformed(field);
    let size = usize::try_from(size).map_err(|_| malformed)?;
    if size > MAX_EVENT_DATA {
        return Err(malformed);
    }
    reader.take(field, size)
}

impl fmt::Display for Event {
    /// Type, digest and the printable part of the data, which is ASCII or UTF-16 by event type.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "type {:#010x} digest ", self.kind)?;
        hex(f, &self.digest)?;
        let printable = |byte: &&u8| byte.is_ascii_graphic() || **byte == b' ';
        let text = self.data.iter().filter(printable).take(MAX_TEXT);
        let text: String = text.map(|byte| char::from(*byte)).collect();
        write!(f, " `{text}`")
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Event {
                pcr,
                position,
                expected,
                got,
            } => {
                write!(f, "PCR {pcr}: event {position}: expected ")?;
                match expected {
                    Some(event) => {
                        write!(f, "{} digest ", event.name)?;
                        hex(f, &event.digest)?;
                    }
                    None => f.write_str("no further event")?,
                }
                f.write_str(", got ")?;
                match got {
                    Some(event) => event.fmt(f),
                    None => f.write_str("no further event"),
                }
            }
            Self::LogDisagrees { pcr, replayed } => {
                write!(
                    f,
                    "PCR {pcr}: the event log does not explain it: it replays to "
                )?;
                hex(f, replayed)
            }
            Self::NoReference { pcr, events } => {
                write!(
                    f,
                    "PCR {pcr}: no reference events; the log has {}",
                    events.len()
                )?;
                let mut shown = events.iter().take(MAX_SHOWN);
                shown.try_for_each(|event| write!(f, "; {event}"))?;
                match events.len().saturating_sub(MAX_SHOWN) {
                    0 => Ok(()),
                    more => write!(f, "; and {more} more"),
                }
            }
        }
    }
}

fn hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}
