use crate::{Peer, Request, Timestamp};
use alloc::string::String;
use appraisal::AttesterIdentity;
use audit::{Action, Check, Outcome, RecordEvent, Text};
use evidence::AdmissionPath;
use identity::{DiskId, Generation, KeyVersion, NodeName, Role};

/// Why a request gets no ticket and no acknowledgement.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The machine's record is active, yet its disk is blank.
    #[error("node {node}: its record for disk {disk} is active, but the disk is blank")]
    ActiveDiskBlank {
        /// The node of the record.
        node: NodeName,
        /// The disk of the record.
        disk: DiskId,
    },
    /// Another machine owns the disk.
    #[error("disk {disk}: expected attester {expected}, got {got}")]
    AttesterMismatch {
        /// The disk.
        disk: DiskId,
        /// The recorded machine.
        expected: AttesterIdentity,
        /// The machine that asks.
        got: AttesterIdentity,
    },
    /// This boot has claimed another disk.
    #[error("boot: claimed for disk {expected}, got {got}")]
    BootClaimed {
        /// The disk of the claim.
        expected: DiskId,
        /// The disk asked for.
        got: DiskId,
    },
    /// This boot has unlocked the disk already.
    #[error("disk {disk}: this boot has committed already and gets no second key")]
    BootSpent {
        /// The disk.
        disk: DiskId,
    },
    /// A worker asks for a name that is, was or will be a control-plane node's.
    #[error("node {node}: a control-plane node's name for ever, give the worker another one")]
    ControlPlaneName {
        /// The node.
        node: NodeName,
    },
    /// No operator entry lets the node become a control-plane node.
    #[error("node {node}: no unused control-plane entry for this name")]
    ControlPlaneNotOpen {
        /// The node.
        node: NodeName,
    },
    /// The disk id belongs to another join.
    #[error("disk {disk}: the id is taken")]
    DiskTaken {
        /// The disk.
        disk: DiskId,
    },
    /// The generation is not above the recorded one.
    #[error("disk {disk}: expected a generation above {recorded}, got {got}")]
    GenerationNotNew {
        /// The disk.
        disk: DiskId,
        /// The recorded generation.
        recorded: Generation,
        /// The generation named.
        got: Generation,
    },
    /// The init is for another machine or disk, or over.
    #[error("init: bound to disk {expected}, got {got}")]
    InitBound {
        /// The disk of the init.
        expected: DiskId,
        /// The disk asked for.
        got: DiskId,
    },
    /// The header was made under another key version.
    #[error("disk {disk}: expected key version {expected}, got {got}")]
    KeyVersion {
        /// The disk.
        disk: DiskId,
        /// The recorded version.
        expected: KeyVersion,
        /// The version in the header.
        got: KeyVersion,
    },
    /// The node still runs, or did a moment ago.
    #[error("node {node}: its lease is live until {until}")]
    LeaseLive {
        /// The node.
        node: NodeName,
        /// When it ends.
        until: Timestamp,
    },
    /// The name belongs to another disk.
    #[error("node {node}: the name is taken by disk {disk}")]
    NameTaken {
        /// The node.
        node: NodeName,
        /// The disk that has it.
        disk: DiskId,
    },
    /// The join that made the disk's header was never committed, and its node joined again: there is
    /// nothing on the disk. See [`Refusal::starts_over`].
    #[error("disk {disk}: its join was never committed, start over as a blank disk")]
    NeverCommitted {
        /// The disk.
        disk: DiskId,
    },
    /// This boot got no ticket for the disk.
    #[error("disk {disk}: no ticket was issued to this boot")]
    NoTicket {
        /// The disk.
        disk: DiskId,
    },
    /// The disk was replaced: its name or its machine has another one.
    #[error("disk {disk}: replaced by disk {current}")]
    NotCurrent {
        /// The disk.
        disk: DiskId,
        /// The one that counts.
        current: DiskId,
    },
    /// Only the disk of a worker that was committed is retired with its node.
    #[error("disk {disk}: not the disk of a committed worker, only `forget` frees its name")]
    NotRetired {
        /// The disk.
        disk: DiskId,
    },
    /// The call does not exist on the path that the hellos named.
    #[error("{request}: not on path {path}")]
    PathMismatch {
        /// The path.
        path: AdmissionPath,
        /// The call.
        request: &'static str,
    },
    /// The operator recovers a disk whose join was never committed. Nothing is on it; handed off, it
    /// would get data while the services' record still says that it has none, and a blank disk in its
    /// place would be taken for a new one.
    #[error("disk {disk}: its join was never committed, there is nothing to recover")]
    NothingToRecover {
        /// The disk.
        disk: DiskId,
    },
    /// The image's reference values do not carry the role.
    #[error("image {image}: not for role {role}")]
    RoleNotInImage {
        /// The image.
        image: String,
        /// The role.
        role: Role,
    },
    /// The store holds something that we never wrote.
    #[error("store: {key} does not hold what it should")]
    StoreCorrupt {
        /// The object.
        key: String,
    },
    /// The disk id is dead.
    #[error("disk {disk}: forgotten, its id is dead")]
    Tombstoned {
        /// The disk.
        disk: DiskId,
    },
    /// There is no record of the disk.
    #[error("disk {disk}: no record")]
    UnknownDisk {
        /// The disk.
        disk: DiskId,
    },
    /// There is no such node.
    #[error("node {node}: no record")]
    UnknownNode {
        /// The node.
        node: NodeName,
    },
}

/// Who is to blame, and so what the node does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalClass {
    /// A fault of our own.
    Internal,
    /// The message makes no sense.
    Malformed,
    /// Final for this boot when it came with an owner proof.
    Refused,
    /// Try again.
    Unavailable,
}

impl Refusal {
    /// The class: all that an unproven peer learns.
    #[must_use]
    pub const fn class(&self) -> RefusalClass {
        match self {
            Self::LeaseLive { .. } => RefusalClass::Unavailable,
            Self::PathMismatch { .. } => RefusalClass::Malformed,
            Self::StoreCorrupt { .. } => RefusalClass::Internal,
            _ => RefusalClass::Refused,
        }
    }

    /// Whether the node wipes its header and joins as new in its next boot
    /// ([`Failure::StartOver`](crate::node::Failure::StartOver)). On the wire: gRPC `ABORTED`.
    #[must_use]
    pub const fn starts_over(&self) -> bool {
        matches!(self, Self::NeverCommitted { .. })
    }

    /// The check that failed: its name, what was expected and what came.
    #[must_use]
    pub fn check(&self) -> Check {
        match self {
            Self::ActiveDiskBlank { node, disk } => Check::new(
                "record",
                format_args!("node {node} with disk {disk}"),
                "a blank disk",
            ),
            Self::AttesterMismatch { expected, got, .. } => Check::new("attester", expected, got),
            Self::BootClaimed { expected, got } => Check::new("boot-claim", expected, got),
            Self::BootSpent { .. } => Check::new("boot", "one release", "a second request"),
            Self::ControlPlaneName { node } => {
                Check::new("control-plane-entry", "none for a worker's name", node)
            }
            Self::ControlPlaneNotOpen { .. } => {
                Check::new("control-plane-entry", "open", "none or spent")
            }
            Self::DiskTaken { disk } => Check::new("disk-claim", "a fresh id", disk),
            Self::GenerationNotNew { recorded, got, .. } => {
                Check::new("generation", format_args!("above {recorded}"), got)
            }
            Self::InitBound { expected, got } => Check::new("init", expected, got),
            Self::KeyVersion { expected, got, .. } => Check::new("key-version", expected, got),
            Self::LeaseLive { until, .. } => Check::new("lease", "ended", until),
            Self::NameTaken { node, disk } => {
                Check::new("name-claim", format_args!("a free name, not {node}"), disk)
            }
            Self::NeverCommitted { disk } => Check::new("record", "a committed disk", disk),
            Self::NoTicket { disk } => Check::new("boot-claim", "a ticket", disk),
            Self::NotCurrent { disk, current } => Check::new("current-disk", current, disk),
            Self::NotRetired { disk } => Check::new("record", "a committed worker", disk),
            Self::NothingToRecover { disk } => Check::new("record", "a committed disk", disk),
            Self::PathMismatch { path, request } => Check::new("path", request, path),
            Self::RoleNotInImage { image, role } => Check::new("role", image, role),
            Self::StoreCorrupt { key } => Check::new("store", "our own format", key),
            Self::Tombstoned { disk } => Check::new("record", "a live disk", disk),
            Self::UnknownDisk { disk } => Check::new("record", "a known disk", disk),
            Self::UnknownNode { node } => Check::new("record", "a known node", node),
        }
    }

    /// What the audit log says about it.
    #[must_use]
    pub fn event(&self, request: &Request, peer: &Peer) -> RecordEvent {
        let outcome = match self.class() {
            RefusalClass::Internal => Outcome::Internal,
            RefusalClass::Malformed => Outcome::Malformed,
            RefusalClass::Refused => Outcome::Refused,
            RefusalClass::Unavailable => Outcome::Unavailable,
        };
        let mut event = RecordEvent::new(Action::Refusal, outcome, request.name());
        event.describe(peer);
        event.disk = Some(request.disk());
        if let Request::IssueJoinTicket { node, role, .. } = request {
            event.node = Some(node.clone());
            event.role = Some(*role);
        }
        event.checks.push(self.check());
        event
    }
}

/// Puts a peer's facts into an event.
pub(crate) trait Describe {
    fn describe(&mut self, peer: &Peer);
}

impl Describe for RecordEvent {
    fn describe(&mut self, peer: &Peer) {
        self.path = Some(Text::from_display(peer.path));
        self.attester = Some(Text::from_display(peer.attester));
        self.image = Some(Text::new(&peer.image));
    }
}
