use crate::RefusalClass;
use identity::{DiskId, Generation};

/// Why a node stops in this boot. The agent gives each a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Exit {
    /// The disk of the init is not the one that the header names.
    #[error("init: expected disk {expected}, the header names {got}")]
    ForeignInit {
        /// The disk of the init.
        expected: DiskId,
        /// The disk in the header.
        got: DiskId,
    },
    /// 2^64 boots are over.
    #[error("header: generations are used up")]
    GenerationsUsedUp,
    /// The header is older than its record: the host put an old one back.
    #[error("header: expected generation {recorded} or later, got {got}")]
    HeaderTooOld {
        /// The recorded generation.
        recorded: Generation,
        /// The header's.
        got: Generation,
    },
    /// A committed disk whose header does not open: it was damaged or exchanged.
    #[error("header: no slot opens under the disk's key")]
    HeaderUnreadable,
    /// Init was asked for on a disk whose init is over.
    #[error("init: the disk's init is over")]
    InitFinished,
    /// The owner's side refused.
    #[error("refused by the owner's side ({class:?})")]
    Refused {
        /// The class.
        class: RefusalClass,
    },
    /// The header of a join that was never committed is wiped; the next boot joins as new.
    #[error("header: never committed, wiped, reboot to join as new")]
    StartOver,
}
