use super::Exit;
use crate::RefusalClass;
use evidence::AdmissionPath;
use identity::{DiskId, Generation, KeyVersion};

/// What the agent sees on the state disk before it has a key. All of it is the host's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskState {
    /// Both header slots are zero.
    Blank,
    /// A slot begins like a header of ours. Nothing of it is authenticated.
    Header {
        /// The disk id in its cleartext.
        disk: DiskId,
        /// The key version in its cleartext.
        key_version: KeyVersion,
    },
    /// Neither: a header half written, or rubbish. Treated as blank, because the admitting side
    /// alone decides whether the disk is new.
    Torn,
}

/// One of the two header slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    /// At the beginning of the partition.
    A,
    /// At 64 KiB.
    B,
}

impl Slot {
    /// The other slot.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

/// The newest header that authenticates under the data key, and where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// Its slot. It is not overwritten before its successor is committed.
    pub slot: Slot,
    /// Its generation.
    pub generation: Generation,
    /// Whether it says that init is not over.
    pub init_unfinished: bool,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A session on this path stands: both verdicts are in, the owner proof among them.
    Admitted {
        /// The path.
        path: AdmissionPath,
    },
    /// The Commit was acknowledged.
    Committed {
        /// The recorded generation.
        generation: Generation,
    },
    /// A request or a session failed.
    Failed(Failure),
    /// Mapping and file system are made. The header slots are still zero.
    Formatted,
    /// The hand-off file is written.
    HandedOff,
    /// A join ticket with a data key came.
    JoinTicket,
    /// PCR 15 is extended.
    Latched,
    /// The state disk is mapped and the live tables were compared.
    Mapped,
    /// No slot opens under the data key.
    NothingOpens,
    /// A header opens under the data key and is for the disk of the ticket.
    Opened(Opened),
    /// A disk id came.
    Registered {
        /// The id.
        disk: DiskId,
    },
    /// A rejoin ticket with a data key came.
    RejoinTicket {
        /// The recorded generation; 0 when no Commit was ever recorded.
        recorded: Generation,
    },
    /// The slot was written, flushed and read back.
    SlotWritten,
    /// Both slots are zero and flushed.
    Wiped,
}

/// Why there is no answer, or not the one that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Connection lost, timeout, nobody there: try again.
    Lost,
    /// The other side said no.
    Refusal {
        /// How.
        class: RefusalClass,
        /// Whether it proved, on this session, to act for the owner. Without, anybody may have
        /// said it.
        owner_proven: bool,
    },
    /// The join that made this header was never committed and its id is dead
    /// ([`Refusal::NeverCommitted`](crate::Refusal::NeverCommitted), gRPC `ABORTED`). Only ever
    /// heard from a side with an owner proof.
    StartOver,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Get a session on one of these paths: dial on the first, accept pushes on the others.
    Admit {
        /// The paths.
        paths: &'static [AdmissionPath],
    },
    /// Call `Commit`.
    Commit {
        /// The disk.
        disk: DiskId,
        /// The generation that is on the disk.
        generation: Generation,
    },
    /// Handed off: switch root and run its init. The end of the machine.
    Exec,
    /// Stop. The end of the machine.
    Exit(Exit),
    /// Zero both slots, make mapping and file system. No header yet.
    Format {
        /// The disk.
        disk: DiskId,
    },
    /// Write the hand-off file and wipe secrets.
    HandOff,
    /// Call `IssueJoinTicket`.
    IssueJoinTicket {
        /// The disk.
        disk: DiskId,
    },
    /// Call `IssueRejoinTicket`.
    IssueRejoinTicket {
        /// The disk.
        disk: DiskId,
        /// The key version in the header's cleartext.
        key_version: KeyVersion,
    },
    /// Extend PCR 15.
    Latch,
    /// Map the disk and compare the live tables.
    Map,
    /// Open the slots under the data key.
    OpenHeader {
        /// The disk that the header must be for.
        disk: DiskId,
    },
    /// Call `RegisterDisk`.
    RegisterDisk,
    /// Zero both slots and flush.
    Wipe,
    /// Write a header into a slot, flush, read back.
    WriteSlot {
        /// The slot.
        slot: Slot,
        /// The generation in the header.
        generation: Generation,
    },
}
