use crate::{BootId, SealingKeyHash};
use alloc::string::String;
use appraisal::{Appraised, AttesterIdentity};
use audit::RecordEvent;
use identity::{DiskId, Generation, KeyVersion, NodeName, Role};

/// A decision in the peer's favour, made on a snapshot that held every claim. What it grants cannot
/// be reached but through [`Plan::persisted`] and [`Persisted::audited`], in this order.
#[derive(Debug)]
#[must_use]
pub struct Plan {
    event: Option<RecordEvent>,
    grant: Grant,
}

/// A plan whose snapshot is known to be durable.
#[derive(Debug)]
#[must_use]
pub struct Persisted(Plan);

/// What the peer gets.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum Grant {
    /// The Commit is recorded with this generation.
    Committed {
        /// At least the one that was sent.
        generation: Generation,
    },
    /// An operator's action is done.
    Done,
    /// A disk id.
    Registered {
        /// The id.
        disk: DiskId,
    },
    /// A ticket with a disk key.
    Ticket(Ticket),
}

/// A ticket whose claims and audit line are durable.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub struct Ticket {
    pub(crate) release: Release,
    pub(crate) attester: AttesterIdentity,
    pub(crate) image: String,
    pub(crate) boot: BootId,
    pub(crate) sealing_key: SealingKeyHash,
}

/// The appraisal is another peer's than the one the ticket was decided for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("ticket: the appraisal belongs to another peer")]
pub struct ForeignAppraisal;

/// Permission to release the data key of one disk to the peer of this request. Consumed by the one
/// place that fetches and seals the key. Only [`Ticket::release`] gives one away.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub struct Release {
    pub(crate) disk: DiskId,
    pub(crate) node: NodeName,
    pub(crate) role: Role,
    pub(crate) key_version: KeyVersion,
    pub(crate) generation: Generation,
}

impl Plan {
    pub(crate) const fn new(event: Option<RecordEvent>, grant: Grant) -> Self {
        Self { event, grant }
    }

    /// The caller states that what the snapshot showed is durable: the transaction it was read in is
    /// committed, or it came from quorum reads.
    pub fn persisted(self) -> Persisted {
        Persisted(self)
    }
}

impl Persisted {
    /// The event to append to the audit log; `None` where nothing happened (`RegisterDisk`).
    #[must_use]
    pub const fn event(&self) -> Option<&RecordEvent> {
        self.0.event.as_ref()
    }

    /// The caller states that the event's audit line is durable.
    pub fn audited(self) -> Grant {
        self.0.grant
    }
}

impl Ticket {
    /// The permission, against the proof that the peer with this sealing key was appraised.
    ///
    /// # Errors
    /// [`ForeignAppraisal`] when it is not the appraisal that the request's facts came from.
    pub fn release(
        self,
        appraised: &Appraised,
        sealing_key: &[u8; 32],
    ) -> Result<Release, ForeignAppraisal> {
        let boot = BootId::of(appraised, sealing_key);
        let asked = SealingKeyHash::of(sealing_key);
        let same = *appraised.identity() == self.attester
            && appraised.image() == self.image
            && self.is_of(boot, asked);
        if same {
            Ok(self.release)
        } else {
            Err(ForeignAppraisal)
        }
    }

    /// Both count: a `REPORT_ID` names the boot of a guest, whatever sealing keys that makes.
    pub(crate) fn is_of(&self, boot: BootId, sealing_key: SealingKeyHash) -> bool {
        self.boot == boot && self.sealing_key == sealing_key
    }

    /// What would be released.
    pub const fn about(&self) -> &Release {
        &self.release
    }
}

impl Release {
    /// The disk.
    #[must_use]
    pub const fn disk(&self) -> DiskId {
        self.disk
    }

    /// The node's name as recorded.
    #[must_use]
    pub const fn node(&self) -> &NodeName {
        &self.node
    }

    /// The node's role as recorded.
    #[must_use]
    pub const fn role(&self) -> Role {
        self.role
    }

    /// The version of the key to derive.
    #[must_use]
    pub const fn key_version(&self) -> KeyVersion {
        self.key_version
    }

    /// The recorded generation; the node refuses an older header. 0 before the first Commit.
    #[must_use]
    pub const fn generation(&self) -> Generation {
        self.generation
    }
}
