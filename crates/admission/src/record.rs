use alloc::string::String;
use appraisal::{Appraised, AttesterIdentity};
use aws_lc_rs::digest::{SHA256, digest};
use core::fmt;
use identity::{DiskId, Generation, KeyVersion, NodeName, Role};
use serde::{Deserialize, Serialize};

/// What the admitting side knows about one state disk. The key is the disk's id, which is minted
/// by the admitting side and never used again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeRecord {
    /// The disk.
    pub disk: DiskId,
    /// The node's name, fixed by the join.
    pub node: NodeName,
    /// The node's role, fixed by the join.
    pub role: Role,
    /// The machine that may unlock the disk.
    pub attester: AttesterIdentity,
    /// The image that the last ticket was issued to.
    pub image: String,
    /// The version of the key-encryption key that the disk's data key is derived from.
    pub key_version: KeyVersion,
    /// The largest generation that a Commit named; 0 before the first.
    pub generation: Generation,
    /// Where the disk is in its life.
    pub state: RecordState,
    /// The boot that the last ticket was issued to.
    pub boot: BootId,
    /// The boot that committed the recorded generation.
    pub committed: Option<BootId>,
    /// When the record was made.
    pub created: Timestamp,
    /// When the last ticket was issued or the last Commit came.
    pub last_seen: Timestamp,
}

/// A record's life: `Issued` -> `Active` -> `Tombstone`, or `Issued` -> `Tombstone`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RecordState {
    /// The header of the disk was committed: the disk has data. Blank, it is refused.
    Active,
    /// A join ticket was issued, no Commit came yet. A blank disk gets a new id.
    Issued,
    /// The id is dead for ever.
    Tombstone(TombstoneCause),
}

/// Why an id is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TombstoneCause {
    /// The operator forgot the node. Frees a control-plane name.
    Forgotten,
    /// The join was never committed and its node joined again. Keeps a control-plane name for it.
    Superseded,
}

impl NodeRecord {
    /// Whether the id is dead.
    #[must_use]
    pub const fn is_tombstone(&self) -> bool {
        matches!(self.state, RecordState::Tombstone(_))
    }
}

/// One boot of one machine: a hash of what is made anew at each boot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BootId(#[serde(with = "hex::serde")] [u8; 32]);

impl BootId {
    /// No boot: records and claims that an operator made.
    pub const OPERATOR: Self = Self([0; 32]);

    /// The boot that this sealing key belongs to. Enough where a latch keeps a boot from asking again
    /// with another key.
    #[must_use]
    pub fn of_sealing_key(key: &[u8; 32]) -> Self {
        Self(sha256(key))
    }

    /// The boot of the SEV-SNP guest with this `REPORT_ID`, whatever sealing keys it makes.
    #[must_use]
    pub fn of_report_id(report_id: &[u8; 32]) -> Self {
        const LABEL: &[u8; 32] = b"constellation-boot-report-id-v1\0";
        let mut input = [0; 64];
        input[..32].copy_from_slice(LABEL);
        input[32..].copy_from_slice(report_id);
        Self(sha256(&input))
    }

    /// The boot of an appraised attester whose hello carried `sealing_key`.
    #[must_use]
    pub fn of(appraised: &Appraised, sealing_key: &[u8; 32]) -> Self {
        match appraised.report_id() {
            Some(report_id) => Self::of_report_id(report_id),
            None => Self::of_sealing_key(sealing_key),
        }
    }
}

/// SHA-256 of a sealing key: who holds what a boot got.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SealingKeyHash(#[serde(with = "hex::serde")] [u8; 32]);

impl SealingKeyHash {
    /// The hash of this key.
    #[must_use]
    pub fn of(key: &[u8; 32]) -> Self {
        Self(sha256(key))
    }
}

impl fmt::Debug for SealingKeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealingKeyHash({})", hex::encode(self.0))
    }
}

fn sha256(input: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, input).as_ref());
    hash
}

/// The 32 bytes of a hash, and back.
macro_rules! hash_bytes {
    ($name:ident) => {
        impl $name {
            /// Of these bytes, as they were stored or sent.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }
    };
}

hash_bytes!(BootId);
hash_bytes!(SealingKeyHash);

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BootId({self})")
    }
}

/// Seconds since 1970 by the admitting side's clock. Shown to operators and compared with a lease;
/// no decision about freshness hangs on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
