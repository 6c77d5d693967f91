use crate::{
    Record,
    chain::{ChainId, Head},
};
use alloc::string::String;
use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

/// The longest line in bytes, line feed included. The largest record fits; a longer line is not ours.
pub const MAX_LINE: usize = 16 * 1024;

/// What a line says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Entry {
    /// A signature over the chain so far.
    Checkpoint {
        /// Ed25519 over [`crate::Checkpoint::message`], hexadecimal.
        #[serde(with = "hex::serde")]
        signature: [u8; 64],
    },
    /// Something happened.
    Record(Record),
    /// The first line of a further file.
    Rotated {
        /// The chain's how manieth file this is; the first one is 0 and has no such line.
        file: u32,
    },
    /// The first line of a chain.
    Started {
        /// Version of this format: `VERSION`.
        version: u32,
        /// Which replica started, as its configuration names it.
        replica: crate::Text,
        /// The head of the chain before this one in the same log.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        previous: Option<Head>,
    },
}

/// The version of the format that this crate writes and reads.
pub(crate) const VERSION: u32 = 1;

/// Everything in a line but the hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Body {
    pub(crate) chain: ChainId,
    pub(crate) seq: u64,
    #[serde(with = "hex::serde")]
    pub(crate) prev: [u8; 32],
    pub(crate) entry: Entry,
}

/// A line whose hash fits. `parse` is the only way in.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) body: Body,
    pub(crate) hash: [u8; 32],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LineError {
    Malformed,
    WrongHash,
}

impl Line {
    /// Parses a line without its line feed. The hash is taken over the body's bytes as they stand
    /// in the line, never over a re-encoding.
    pub(crate) fn parse(line: &str) -> Result<Self, LineError> {
        let (body, hash) = split(line).ok_or(LineError::Malformed)?;
        if digest_of(body) != hash {
            return Err(LineError::WrongHash);
        }
        let body = serde_json::from_str(body).map_err(|_| LineError::Malformed)?;
        Ok(Self { body, hash })
    }
}

/// The line for a body, with its line feed, and the body's hash. `None` when it would be too long.
pub(crate) fn encode(body: &Body) -> Option<(String, [u8; 32])> {
    let body = serde_json::to_string(body).ok()?;
    let hash = digest_of(&body);
    let mut line = String::from(PREFIX);
    line.push_str(&body);
    line.push_str(HASH);
    line.push_str(&hex::encode(hash));
    line.push_str(SUFFIX);
    line.push('\n');
    (line.len() <= MAX_LINE).then_some((line, hash))
}

fn split(line: &str) -> Option<(&str, [u8; 32])> {
    if line.len() >= MAX_LINE {
        return None;
    }
    let inner = line.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
    let (body, digits) = inner.rsplit_once(HASH)?;
    let mut hash = [0; 32];
    hex::decode_to_slice(digits, &mut hash).ok()?;
    Some((body, hash))
}

fn digest_of(body: &str) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, body.as_bytes()).as_ref());
    hash
}

// A line is this frame around the body; whoever reads it finds the hashed bytes without a parser.
const PREFIX: &str = "{\"body\":";
const HASH: &str = ",\"hash\":\"";
const SUFFIX: &str = "\"}";
