use alloc::string::String;
use appraisal::AttesterIdentity;
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

/// One boot of one machine: SHA-256 of its sealing key, which is made anew at each boot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BootId(#[serde(with = "hex::serde")] [u8; 32]);

impl BootId {
    /// No boot: records and claims that an operator made.
    pub const OPERATOR: Self = Self([0; 32]);

    /// The boot that this sealing key belongs to.
    #[must_use]
    pub fn of_sealing_key(key: &[u8; 32]) -> Self {
        let mut id = [0; 32];
        id.copy_from_slice(digest(&SHA256, key).as_ref());
        Self(id)
    }
}

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
