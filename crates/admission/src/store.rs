use crate::{BootId, NodeRecord, Refusal, SealingKeyHash};
use alloc::{collections::BTreeMap, string::ToString, vec::Vec};
use appraisal::AttesterIdentity;
use core::fmt;
use identity::{DiskId, Generation, NodeName};
use serde::{Deserialize, Serialize};

/// The name of one object of the store. `Display` gives the name to store it under; it is a valid
/// Kubernetes object name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// Index: the one disk that an attester may unlock, where evidence names a machine.
    Attester(AttesterIdentity),
    /// Claim of a boot: one disk for each boot. Outlives its node.
    Boot(BootId),
    /// The operator's entry that lets a node become a control-plane node.
    ControlPlane(NodeName),
    /// Claim of a disk id. Outlives its node.
    Disk(DiskId),
    /// The one disk of an init. In the store of the operator's CLI only.
    Init,
    /// Claim of a node name.
    Name(NodeName),
    /// Record of a disk.
    Record(DiskId),
}

/// One object of the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Value {
    /// Under [`Key::Attester`].
    Attester(DiskId),
    /// Under [`Key::Boot`].
    Boot(BootClaim),
    /// Under [`Key::Disk`] and [`Key::Name`].
    Claim(Claim),
    /// Under [`Key::ControlPlane`].
    ControlPlane(ControlPlaneEntry),
    /// Under [`Key::Init`].
    Init(InitEntry),
    /// Under [`Key::Record`].
    Record(NodeRecord),
}

/// What a boot got: one disk, one release. Outlives its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootClaim {
    /// The disk.
    pub disk: DiskId,
    /// The boot, which also is the key.
    pub boot: BootId,
    /// The attester.
    pub attester: AttesterIdentity,
    /// Who asked. A lost answer is repeated to the same sealing key only.
    pub sealing_key: SealingKeyHash,
    /// The generation that this boot committed: from then on it gets no ticket.
    pub committed: Option<Generation>,
}

/// Who holds a name or a disk id. Equal content continues, other content refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// The disk.
    pub disk: DiskId,
    /// The boot that made the claim.
    pub boot: BootId,
    /// The attester. It lets the same machine take over what its last boot left half done.
    pub attester: AttesterIdentity,
}

/// An operator's permission for one control-plane join.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ControlPlaneEntry {
    /// Used by a join that was not committed yet; good for another try of the same machine.
    Bound {
        /// The machine.
        attester: AttesterIdentity,
        /// The disk of its last try.
        disk: DiskId,
    },
    /// Not used yet.
    Open,
    /// Used up.
    Spent,
}

/// The one node that an init is for. Durable before a secret is sent; retried with this id only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InitEntry {
    /// The disk.
    pub disk: DiskId,
    /// The machine. Another one needs a new cluster id and a new master secret.
    pub attester: AttesterIdentity,
    /// Whether init reported success.
    pub finished: bool,
}

/// One write: create-only without `expect`, else compare-and-set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// The object.
    pub key: Key,
    /// What must be stored now; `None`: nothing.
    pub expect: Option<Value>,
    /// What to store.
    pub value: Value,
}

/// How a store applies a write to what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteOutcome {
    /// Store the value.
    Apply,
    /// The value is stored already: continue.
    Equal,
    /// Something else is stored: stop here, read afresh and decide again.
    Conflict,
}

impl Write {
    /// Compares with what is `stored`. The store calls this atomically with storing the value: in a
    /// transaction, or through its own create-only and resource versions.
    #[must_use]
    pub fn against(&self, stored: Option<&Value>) -> WriteOutcome {
        if stored == Some(&self.value) {
            WriteOutcome::Equal
        } else if stored == self.expect.as_ref() {
            WriteOutcome::Apply
        } else {
            WriteOutcome::Conflict
        }
    }
}

/// What was read for one decision, absent objects included. Read durable state only, never a cache:
/// a decision to release rests on it.
#[derive(Debug, Clone, Default)]
pub struct Snapshot(BTreeMap<Key, Option<Value>>);

impl Snapshot {
    /// An empty snapshot: nothing was read.
    #[must_use]
    pub const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// Adds what the store holds under `key`.
    pub fn insert(&mut self, key: Key, value: Option<Value>) {
        self.0.insert(key, value);
    }

    /// Fails with the keys of `keys` that were not read yet. Nothing is indexed for an attester that
    /// names no machine.
    pub(crate) fn need(&self, keys: &[Key]) -> Result<(), Halt> {
        let indexed = |key: &Key| !matches!(key, Key::Attester(by) if !by.names_machine());
        let missing: Vec<Key> = keys
            .iter()
            .filter(|k| indexed(k) && !self.0.contains_key(k))
            .cloned()
            .collect();
        if missing.is_empty() {
            Ok(())
        } else {
            Err(Halt::Read(missing))
        }
    }

    pub(crate) fn record(&self, disk: DiskId) -> Result<Option<&NodeRecord>, Halt> {
        self.value(Key::Record(disk), |value| match value {
            Value::Record(record) if record.disk == disk => Some(record),
            _ => None,
        })
    }

    pub(crate) fn claim(&self, key: Key) -> Result<Option<&Claim>, Halt> {
        self.value(key, |value| match value {
            Value::Claim(claim) => Some(claim),
            _ => None,
        })
    }

    pub(crate) fn boot(&self, boot: BootId) -> Result<Option<BootClaim>, Halt> {
        self.value(Key::Boot(boot), |value| match value {
            Value::Boot(claim) if claim.boot == boot => Some(claim),
            _ => None,
        })
        .map(Option::<&BootClaim>::copied)
    }

    /// The one disk of a machine; none where `attester` names no machine.
    pub(crate) fn attester(&self, attester: AttesterIdentity) -> Result<Option<DiskId>, Halt> {
        if !attester.names_machine() {
            return Ok(None);
        }
        self.value(Key::Attester(attester), |value| match value {
            Value::Attester(disk) => Some(disk),
            _ => None,
        })
        .map(Option::<&DiskId>::copied)
    }

    pub(crate) fn control_plane(&self, node: &NodeName) -> Result<Option<ControlPlaneEntry>, Halt> {
        self.value(Key::ControlPlane(node.clone()), |value| match value {
            Value::ControlPlane(entry) => Some(entry),
            _ => None,
        })
        .map(Option::<&ControlPlaneEntry>::copied)
    }

    pub(crate) fn init(&self) -> Result<Option<InitEntry>, Halt> {
        self.value(Key::Init, |value| match value {
            Value::Init(entry) => Some(entry),
            _ => None,
        })
        .map(Option::<&InitEntry>::copied)
    }

    fn value<'a, T>(
        &'a self,
        key: Key,
        pick: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, Halt> {
        match self.0.get(&key) {
            None => Err(Halt::Read(alloc::vec![key])),
            Some(None) => Ok(None),
            Some(Some(value)) => pick(value).map(Some).ok_or_else(|| {
                Halt::Refuse(Refusal::StoreCorrupt {
                    key: key.to_string(),
                })
            }),
        }
    }
}

/// Why a decision stopped early.
#[derive(Debug)]
pub(crate) enum Halt {
    Read(Vec<Key>),
    Refuse(Refusal),
}

impl From<Refusal> for Halt {
    fn from(refusal: Refusal) -> Self {
        Self::Refuse(refusal)
    }
}

/// The writes of one decision, in order.
#[derive(Debug, Default)]
pub(crate) struct Writes(pub(crate) Vec<Write>);

impl Writes {
    /// Stores `value` where `stored` is now, unless it is there already.
    pub(crate) fn put(&mut self, key: Key, stored: Option<Value>, value: Value) {
        if stored.as_ref() != Some(&value) {
            self.0.push(Write {
                key,
                expect: stored,
                value,
            });
        }
    }

    /// [`Self::put`] of a claim.
    pub(crate) fn claim(&mut self, key: Key, stored: Option<&Claim>, claim: Claim) {
        self.put(key, stored.copied().map(Value::Claim), Value::Claim(claim));
    }

    /// Holds a machine to one disk, where `attester` names one.
    pub(crate) fn index(
        &mut self,
        attester: AttesterIdentity,
        stored: Option<DiskId>,
        disk: DiskId,
    ) {
        if attester.names_machine() {
            self.put(
                Key::Attester(attester),
                stored.map(Value::Attester),
                Value::Attester(disk),
            );
        }
    }

    /// [`Self::put`] of a record.
    pub(crate) fn record(&mut self, stored: Option<&NodeRecord>, record: NodeRecord) {
        let key = Key::Record(record.disk);
        self.put(
            key,
            stored.cloned().map(Value::Record),
            Value::Record(record),
        );
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Attester(attester) => write!(f, "attester-{attester}"),
            Self::Boot(boot) => write!(f, "boot-{boot}"),
            Self::ControlPlane(node) => write!(f, "control-plane-{node}"),
            Self::Disk(disk) => write!(f, "disk-{disk}"),
            Self::Init => f.write_str("init"),
            Self::Name(node) => write!(f, "name-{node}"),
            Self::Record(disk) => write!(f, "node-{disk}"),
        }
    }
}
