use super::{Action, DiskState, Event, Exit, Failure, Opened, Slot};
use crate::RefusalClass;
use evidence::AdmissionPath::{self, Init, Join, Recover, Rejoin};
use identity::{DiskId, Generation, KeyVersion};

/// The node's state machine. Each state is one struct; docs/protocol.md draws them.
///
/// It never sees a key: the driver holds the data key from the ticket until the disk is mapped.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Node {
    /// Waiting for a first session.
    Waiting(Waiting),
    /// `RegisterDisk` is out.
    Registering(Registering),
    /// A ticket is asked for.
    Requesting(Requesting),
    /// A key came; the header is being opened.
    Opening(Opening),
    /// The disk is being formatted.
    Formatting(Formatting),
    /// The new header is being written.
    Writing(Writing),
    /// `Commit` is out.
    Committing(Committing),
    /// The other slot is being written.
    Mirroring(Mirroring),
    /// The disk is being mapped.
    Mapping(Mapping),
    /// PCR 15 is being extended.
    Latching(Latching),
    /// The hand-off is being written.
    HandingOff(HandingOff),
    /// The session broke; a new one is waited for.
    Reconnecting(Reconnecting),
    /// A never-committed header is being wiped.
    Wiping(Wiping),
    /// Handed off or stopped. No event is expected any more.
    Done,
}

/// See [`Node::Waiting`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// What is on the disk.
    pub start: DiskState,
}

/// See [`Node::Registering`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registering {
    /// What is on the disk.
    pub start: DiskState,
    /// Join or init.
    pub path: AdmissionPath,
}

/// See [`Node::Requesting`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Requesting {
    /// What is on the disk.
    pub start: DiskState,
    /// The path of the session.
    pub path: AdmissionPath,
    /// What is asked for.
    pub ticket: TicketRequest,
}

/// The two tickets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TicketRequest {
    /// With the id of `RegisterDisk`, which is kept for the whole boot.
    Join {
        /// The disk.
        disk: DiskId,
    },
    /// With the id in the header.
    Rejoin {
        /// The disk.
        disk: DiskId,
        /// The key version.
        key_version: KeyVersion,
    },
}

/// The disk and the path on which its key came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The disk.
    pub disk: DiskId,
    /// The path.
    pub path: AdmissionPath,
}

/// See [`Node::Opening`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opening {
    /// The disk.
    pub header: Header,
    /// The recorded generation. 0 on the init path: nothing was ever handed off.
    pub recorded: Generation,
}

/// See [`Node::Formatting`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Formatting {
    /// The disk.
    pub header: Header,
}

/// See [`Node::Writing`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Writing {
    /// The disk.
    pub header: Header,
    /// The slot that is written: never the one with the newest header.
    pub slot: Slot,
    /// The generation.
    pub generation: Generation,
}

/// See [`Node::Committing`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committing {
    /// What was written.
    pub written: Writing,
}

/// See [`Node::Mirroring`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mirroring {
    /// What was committed.
    pub committed: Writing,
}

/// See [`Node::Mapping`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapping {
    /// What was committed.
    pub committed: Writing,
}

/// See [`Node::Latching`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Latching {
    /// What was committed.
    pub committed: Writing,
}

/// See [`Node::HandingOff`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HandingOff {
    /// What was committed.
    pub committed: Writing,
}

/// See [`Node::Reconnecting`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reconnecting {
    /// The request to repeat.
    pub pending: Pending,
}

/// A request that got no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pending {
    /// `Commit`.
    Commit(Committing),
    /// A ticket.
    Ticket(Requesting),
}

/// See [`Node::Wiping`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wiping;

/// An event that the state does not expect: a fault of the driver.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("event {event:?}: not expected in state {state:?}")]
pub struct UnexpectedEvent {
    state: Node,
    event: Event,
}

impl Node {
    /// Starts with what is on the disk.
    pub const fn start(disk: DiskState) -> (Self, Action) {
        wait(disk)
    }

    /// Takes an event, gives the next state and what to do.
    ///
    /// # Errors
    /// [`UnexpectedEvent`]; the node stops.
    pub fn handle(self, event: Event) -> Result<(Self, Action), UnexpectedEvent> {
        match (self, event) {
            (Self::Waiting(state), Event::Admitted { path }) => Ok(admitted(state.start, path)),
            (Self::Waiting(state), Event::Failed(failure)) => {
                Ok(failed(failure, || wait(state.start)))
            }
            (Self::Registering(state), Event::Registered { disk }) => Ok(state.registered(disk)),
            (Self::Registering(state), Event::Failed(failure)) => {
                Ok(failed(failure, || wait(state.start)))
            }
            (Self::Requesting(state), Event::JoinTicket) => Ok(state.join_ticket()),
            (Self::Requesting(state), Event::RejoinTicket { recorded }) => {
                Ok(state.rejoin_ticket(recorded))
            }
            (Self::Requesting(state), Event::Failed(failure)) => {
                Ok(failed(failure, || reconnect(Pending::Ticket(state))))
            }
            (Self::Opening(state), Event::Opened(opened)) => Ok(state.opened(opened)),
            (Self::Opening(state), Event::NothingOpens) => Ok(state.nothing_opens()),
            (Self::Formatting(state), Event::Formatted) => {
                Ok(write(state.header, Slot::A, Generation::FIRST))
            }
            (Self::Writing(state), Event::SlotWritten) => Ok(commit(Committing { written: state })),
            (Self::Committing(state), Event::Committed { .. }) => Ok(state.committed()),
            (Self::Committing(state), Event::Failed(failure)) => {
                Ok(failed(failure, || reconnect(Pending::Commit(state))))
            }
            (Self::Mirroring(Mirroring { committed }), Event::SlotWritten) => {
                Ok((Self::Mapping(Mapping { committed }), Action::Map))
            }
            (Self::Mapping(Mapping { committed }), Event::Mapped) => {
                Ok((Self::Latching(Latching { committed }), Action::Latch))
            }
            (Self::Latching(Latching { committed }), Event::Latched) => {
                Ok((Self::HandingOff(HandingOff { committed }), Action::HandOff))
            }
            (Self::HandingOff(_), Event::HandedOff) => Ok((Self::Done, Action::Exec)),
            (Self::Reconnecting(state), Event::Admitted { path }) => Ok(state.admitted(path)),
            (Self::Reconnecting(state), Event::Failed(failure)) => {
                Ok(failed(failure, || reconnect(state.pending)))
            }
            (Self::Wiping(_), Event::Wiped) => Ok(exit(Exit::StartOver)),
            (state, event) => Err(UnexpectedEvent { state, event }),
        }
    }
}

const fn wait(start: DiskState) -> (Node, Action) {
    let paths: &[AdmissionPath] = match start {
        DiskState::Blank | DiskState::Torn => &[Join, Init],
        DiskState::Header { .. } => &[Rejoin, Recover, Init],
    };
    (Node::Waiting(Waiting { start }), Action::Admit { paths })
}

/// A session stands: ask for an id, or for the key of the disk that is there.
fn admitted(start: DiskState, path: AdmissionPath) -> (Node, Action) {
    match (path, start) {
        (Rejoin | Recover, DiskState::Header { disk, key_version }) => request(Requesting {
            start,
            path,
            ticket: TicketRequest::Rejoin { disk, key_version },
        }),
        (Join, DiskState::Blank | DiskState::Torn) | (Init, _) => (
            Node::Registering(Registering { start, path }),
            Action::RegisterDisk,
        ),
        // Not one of the paths asked for: as if nobody had come.
        (Rejoin | Recover, DiskState::Blank | DiskState::Torn)
        | (Join, DiskState::Header { .. }) => wait(start),
    }
}

fn request(state: Requesting) -> (Node, Action) {
    let action = match state.ticket {
        TicketRequest::Join { disk } => Action::IssueJoinTicket { disk },
        TicketRequest::Rejoin { disk, key_version } => {
            Action::IssueRejoinTicket { disk, key_version }
        }
    };
    (Node::Requesting(state), action)
}

fn open(header: Header, recorded: Generation) -> (Node, Action) {
    let disk = header.disk;
    let state = Opening { header, recorded };
    (Node::Opening(state), Action::OpenHeader { disk })
}

fn format(header: Header) -> (Node, Action) {
    let disk = header.disk;
    (
        Node::Formatting(Formatting { header }),
        Action::Format { disk },
    )
}

fn write(header: Header, slot: Slot, generation: Generation) -> (Node, Action) {
    let state = Writing {
        header,
        slot,
        generation,
    };
    (Node::Writing(state), Action::WriteSlot { slot, generation })
}

fn commit(state: Committing) -> (Node, Action) {
    let action = Action::Commit {
        disk: state.written.header.disk,
        generation: state.written.generation,
    };
    (Node::Committing(state), action)
}

const fn reconnect(pending: Pending) -> (Node, Action) {
    let paths: &[AdmissionPath] = match (pending, pending.path()) {
        (_, Init) => &[Init],
        (_, Join) => &[Join],
        (Pending::Commit(_), Recover) => &[Recover],
        (Pending::Commit(_), Rejoin) => &[Rejoin],
        (Pending::Ticket(_), Recover | Rejoin) => &[Rejoin, Recover],
    };
    (
        Node::Reconnecting(Reconnecting { pending }),
        Action::Admit { paths },
    )
}

const fn exit(exit: Exit) -> (Node, Action) {
    (Node::Done, Action::Exit(exit))
}

/// Only a refusal with owner proof is final, and only for this boot.
fn failed(failure: Failure, again: impl FnOnce() -> (Node, Action)) -> (Node, Action) {
    match failure {
        Failure::StartOver => (Node::Wiping(Wiping), Action::Wipe),
        Failure::Refusal {
            class: class @ (RefusalClass::Refused | RefusalClass::Malformed),
            owner_proven: true,
        } => exit(Exit::Refused { class }),
        Failure::Lost | Failure::Refusal { .. } => again(),
    }
}

impl Registering {
    fn registered(self, disk: DiskId) -> (Node, Action) {
        match self.start {
            DiskState::Header { disk: got, .. } if got != disk => exit(Exit::ForeignInit {
                expected: disk,
                got,
            }),
            _ => request(Requesting {
                start: self.start,
                path: self.path,
                ticket: TicketRequest::Join { disk },
            }),
        }
    }
}

impl Requesting {
    fn header(&self) -> Header {
        let (TicketRequest::Join { disk } | TicketRequest::Rejoin { disk, .. }) = self.ticket;
        Header {
            disk,
            path: self.path,
        }
    }

    /// A blank disk is formatted. On the init path a header may be there from the last try.
    fn join_ticket(self) -> (Node, Action) {
        match self.start {
            DiskState::Header { .. } => open(self.header(), Generation(0)),
            DiskState::Blank | DiskState::Torn => format(self.header()),
        }
    }

    fn rejoin_ticket(self, recorded: Generation) -> (Node, Action) {
        open(self.header(), recorded)
    }
}

impl Opening {
    fn opened(self, opened: Opened) -> (Node, Action) {
        let Opened {
            slot, generation, ..
        } = opened;
        if self.header.path == Init && !opened.init_unfinished {
            return exit(Exit::InitFinished);
        }
        if generation < self.recorded {
            return exit(Exit::HeaderTooOld {
                recorded: self.recorded,
                got: generation,
            });
        }
        match generation.next() {
            Some(next) => write(self.header, slot.other(), next),
            None => exit(Exit::GenerationsUsedUp),
        }
    }

    /// Before the first Commit a torn header is the trace of a power cut and there is no data yet;
    /// after it, it is damage. Only who keeps the records knows that a Commit never came: on the
    /// recover path, where they may be older than the disk, nothing is formatted.
    fn nothing_opens(self) -> (Node, Action) {
        if self.recorded == Generation(0) && self.header.path != Recover {
            format(self.header)
        } else {
            exit(Exit::HeaderUnreadable)
        }
    }
}

impl Committing {
    fn committed(self) -> (Node, Action) {
        let committed = self.written;
        let action = Action::WriteSlot {
            slot: committed.slot.other(),
            generation: committed.generation,
        };
        (Node::Mirroring(Mirroring { committed }), action)
    }
}

impl Pending {
    const fn path(&self) -> AdmissionPath {
        match self {
            Self::Commit(state) => state.written.header.path,
            Self::Ticket(state) => state.path,
        }
    }
}

impl Reconnecting {
    /// A ticket may as well come on another path: nothing was written yet. A Commit goes where the
    /// ticket came from, because another store knows nothing of it.
    fn admitted(self, path: AdmissionPath) -> (Node, Action) {
        let same = self.pending.path() == path;
        match self.pending {
            Pending::Commit(state) if same => commit(state),
            Pending::Ticket(state) if same => request(state),
            Pending::Ticket(state) => admitted(state.start, path),
            Pending::Commit(_) => reconnect(self.pending),
        }
    }
}

#[cfg(test)]
mod tests;
