use crate::{BootClaim, BootId, SealingKeyHash, Timestamp};
use alloc::{collections::BTreeSet, string::String};
use appraisal::{Appraised, AttesterIdentity};
use core::fmt;
use evidence::AdmissionPath;
use identity::{DiskId, Generation, KeyVersion, NodeName, Role};

/// Who asks: facts from the appraisal and the channel, never from the message. Facts only: the
/// proof is the `Appraised` that [`Ticket::release`](crate::Ticket::release) asks for in the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The attested identity.
    pub attester: AttesterIdentity,
    /// The image whose reference values matched.
    pub image: String,
    /// The roles that the image may take.
    pub roles: BTreeSet<Role>,
    /// This boot.
    pub boot: BootId,
    /// The sealing key in the peer's hello, which the evidence is bound to.
    pub sealing_key: SealingKeyHash,
    /// The path that both hellos named.
    pub path: AdmissionPath,
}

impl Peer {
    /// The facts of an appraisal, on the channel whose hello carried `sealing_key` and named `path`.
    #[must_use]
    pub fn new(appraised: &Appraised, sealing_key: &[u8; 32], path: AdmissionPath) -> Self {
        Self {
            attester: *appraised.identity(),
            image: String::from(appraised.image()),
            roles: appraised.roles().iter().copied().collect(),
            boot: BootId::of(appraised, sealing_key),
            sealing_key: SealingKeyHash::of(sealing_key),
            path,
        }
    }
}

/// What a peer asks for (protos: `JoinService`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// The header of this generation is on the disk and was read back.
    Commit {
        /// The disk.
        disk: DiskId,
        /// The generation written.
        generation: Generation,
    },
    /// For a node whose state disk is blank.
    IssueJoinTicket {
        /// The id that `RegisterDisk` returned in this boot.
        disk: DiskId,
        /// The name it wants, a hint of the host.
        node: NodeName,
        /// The role it wants, a hint of the host.
        role: Role,
    },
    /// For a node whose state disk carries a header.
    IssueRejoinTicket {
        /// The id in the header's cleartext.
        disk: DiskId,
        /// The key version in the header's cleartext.
        key_version: KeyVersion,
    },
    /// A fresh disk id.
    RegisterDisk {
        /// 16 random bytes of the admitting side, as an id.
        minted: DiskId,
    },
}

/// What the caller adds to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context {
    /// The time of the request. The same value for all steps of one request.
    pub now: Timestamp,
    /// The version of the key-encryption key that new records get.
    pub key_version: KeyVersion,
    /// Until when the node's lease is live, if the caller knows one for this disk's node. Standalone
    /// services know none.
    pub live_until: Option<Timestamp>,
}

/// What only an operator may do; each is audited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OperatorAction {
    /// Sets the recorded generation, also to a lower one: the operator put an old disk back.
    AcceptGeneration {
        /// The disk.
        disk: DiskId,
        /// The generation to record.
        generation: Generation,
    },
    /// Makes a record for a disk that has a header and none, as after a restored store.
    Adopt(Adoption),
    /// Init is over: the first node's record becomes active.
    FinishInit,
    /// Makes the node's disk id dead and frees its name.
    Forget {
        /// The node.
        node: NodeName,
    },
    /// Lets one node of this name join as a control-plane node, once.
    OpenControlPlane {
        /// The node.
        node: NodeName,
    },
    /// Records what a boot got elsewhere, from the operator's CLI: it gets nothing more here. What is
    /// recorded of that boot already stays.
    RecordBoot(BootClaim),
    /// Lets another machine unlock the disk.
    Rebind {
        /// The disk.
        disk: DiskId,
        /// The new machine.
        attester: AttesterIdentity,
    },
    /// The operator deleted the worker of this disk from the cluster: its id is dead, its name free.
    /// Names the disk, so that it cannot hit whoever has the name by now. Done once, it changes
    /// nothing more.
    Retire {
        /// The disk.
        disk: DiskId,
    },
}

/// The record of an adopted disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adoption {
    /// The disk.
    pub disk: DiskId,
    /// The node's name.
    pub node: NodeName,
    /// The node's role.
    pub role: Role,
    /// The machine that may unlock it.
    pub attester: AttesterIdentity,
    /// The oldest generation to accept.
    pub generation: Generation,
}

impl Request {
    /// The name of the call.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Commit { .. } => "Commit",
            Self::IssueJoinTicket { .. } => "IssueJoinTicket",
            Self::IssueRejoinTicket { .. } => "IssueRejoinTicket",
            Self::RegisterDisk { .. } => "RegisterDisk",
        }
    }

    /// The disk it is about.
    #[must_use]
    pub const fn disk(&self) -> DiskId {
        match self {
            Self::Commit { disk, .. }
            | Self::IssueJoinTicket { disk, .. }
            | Self::IssueRejoinTicket { disk, .. }
            | Self::RegisterDisk { minted: disk } => *disk,
        }
    }
}

impl OperatorAction {
    /// The operator's verb.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::AcceptGeneration { .. } => "accept-generation",
            Self::Adopt(_) => "adopt",
            Self::FinishInit => "finish-init",
            Self::Forget { .. } => "forget",
            Self::OpenControlPlane { .. } => "open-control-plane",
            Self::RecordBoot(_) => "record-boot",
            Self::Rebind { .. } => "rebind",
            Self::Retire { .. } => "retire",
        }
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
