//! The node's side: what the agent does between finding its disk and handing off.

mod event;
mod exit;
mod state;

pub use event::{Action, DiskState, Event, Failure, Opened, Slot};
pub use exit::Exit;
pub use state::{
    Committing, Formatting, HandingOff, Header, Latching, Mapping, Mirroring, Node, Opening,
    Pending, Reconnecting, Registering, Requesting, TicketRequest, UnexpectedEvent, Waiting,
    Wiping, Writing,
};
