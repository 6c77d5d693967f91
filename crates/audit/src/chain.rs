use crate::{
    Record, Text,
    line::{self, Body, Entry, VERSION},
};
use alloc::{string::String, vec::Vec};
use core::fmt;
use serde::{Deserialize, Serialize};

/// A chain being written: the head and nothing else. Appending gives the line; the caller makes it
/// durable before it acts on it, and drops the chain when it cannot (a later line would hang from
/// one that is not in the file).
#[derive(Debug)]
pub struct Chain {
    id: ChainId,
    next: u64,
    head: [u8; 32],
    file: u32,
}

/// One start of one replica: 16 random bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChainId(#[serde(with = "hex::serde")] [u8; 16]);

/// The last line of a chain: what an operator keeps to notice a cut or a rewritten log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// The chain.
    pub chain: ChainId,
    /// The line's sequence number.
    pub seq: u64,
    /// The line's hash.
    #[serde(with = "hex::serde")]
    pub hash: [u8; 32],
}

/// What a checkpoint signs: that the chain had this head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint(pub Head);

/// Why there is no line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// The chain has used up its sequence numbers.
    #[error("audit chain: sequence numbers are used up")]
    Exhausted,
    /// The signer failed.
    #[error("audit checkpoint: the signer failed")]
    Signer,
    /// The record is larger than a line may be.
    #[error("audit line: expected at most {max} bytes", max = crate::MAX_LINE)]
    TooLong,
}

impl Chain {
    /// Starts a chain and gives its first two lines: the start and a checkpoint, so that no chain
    /// exists which the audit key did not sign. `previous` is the head of the chain before it.
    ///
    /// # Errors
    /// [`AppendError::Signer`] when `sign` returns nothing.
    pub fn start(
        id: ChainId,
        replica: &str,
        previous: Option<Head>,
        sign: impl FnOnce(&[u8]) -> Option<[u8; 64]>,
    ) -> Result<(Self, Vec<String>), AppendError> {
        let mut chain = Self {
            id,
            next: 0,
            head: [0; 32],
            file: 0,
        };
        let started = chain.push(Entry::Started {
            version: VERSION,
            replica: Text::new(replica),
            previous,
        })?;
        let checkpoint = chain.checkpoint(sign)?;
        Ok((chain, alloc::vec![started, checkpoint]))
    }

    /// The line, line feed included, that records `record`.
    ///
    /// # Errors
    /// [`AppendError::TooLong`] with more checks than [`crate::RecordEvent::MAX_CHECKS`] can reach
    /// only through their texts, which are bounded; so in practice [`AppendError::Exhausted`].
    pub fn append(&mut self, record: &Record) -> Result<String, AppendError> {
        let mut record = record.clone();
        record.event.checks.truncate(crate::RecordEvent::MAX_CHECKS);
        self.push(Entry::Record(record))
    }

    /// A line that signs the head. `sign` makes an Ed25519 signature over the message.
    ///
    /// # Errors
    /// [`AppendError::Signer`] when `sign` returns nothing.
    pub fn checkpoint(
        &mut self,
        sign: impl FnOnce(&[u8]) -> Option<[u8; 64]>,
    ) -> Result<String, AppendError> {
        let head = self.head().ok_or(AppendError::Signer)?;
        let signature = sign(&Checkpoint(head).message()).ok_or(AppendError::Signer)?;
        self.push(Entry::Checkpoint { signature })
    }

    /// The first line of the next file; the chain goes on there.
    ///
    /// # Errors
    /// [`AppendError::Exhausted`].
    pub fn rotate(&mut self) -> Result<String, AppendError> {
        let file = self.file.checked_add(1).ok_or(AppendError::Exhausted)?;
        let line = self.push(Entry::Rotated { file })?;
        self.file = file;
        Ok(line)
    }

    /// The last line's place and hash; `None` before the first line.
    #[must_use]
    pub fn head(&self) -> Option<Head> {
        let seq = self.next.checked_sub(1)?;
        Some(Head {
            chain: self.id,
            seq,
            hash: self.head,
        })
    }

    fn push(&mut self, entry: Entry) -> Result<String, AppendError> {
        let next = self.next.checked_add(1).ok_or(AppendError::Exhausted)?;
        let body = Body {
            chain: self.id,
            seq: self.next,
            prev: self.head,
            entry,
        };
        let (line, hash) = line::encode(&body).ok_or(AppendError::TooLong)?;
        self.next = next;
        self.head = hash;
        Ok(line)
    }
}

impl Checkpoint {
    /// The bytes signed: label, chain, sequence number (big-endian) and hash of the head.
    #[must_use]
    pub fn message(&self) -> Vec<u8> {
        let Self(head) = self;
        let mut message = b"constellation-audit-v1\0".to_vec();
        message.extend_from_slice(&head.chain.0);
        message.extend_from_slice(&head.seq.to_be_bytes());
        message.extend_from_slice(&head.hash);
        message
    }
}

impl ChainId {
    /// An id of 16 random bytes, fresh at each start.
    #[must_use]
    pub const fn from_random(random: [u8; 16]) -> Self {
        Self(random)
    }
}

impl fmt::Display for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChainId({self})")
    }
}
