//! The admission of this boot: drives [`admission::node::Node`] with a disk, an attester and peers.
//!
//! The machine says what comes next; this module only does it and says what happened. Secrets live
//! here between the ticket and the mapping, and nowhere else.

mod disk;
mod session;

pub use disk::MappedDisk;
pub(crate) use disk::disk_reason;

use crate::{
    attest::{self, Attester, Latch},
    calls,
    console::step,
    exit::{ExitReason, Failure, chain, exits},
    hints::Hints,
    peers::Peers,
};
use admission::node::{self, Action, DiskState, Event, Exit, Node, Slot};
use attested_tls::{RpcClient, SealingKey};
use evidence::AdmissionPath;
use hand_off::{Attachments, AttestationKey, HandOff};
use identity::{ClusterId, DiskId, Generation, KeyVersion, NodeName, Role};
use secret::{DataKey, VolumeKeys};
use state_disk::{DmParameters, Header, IntegritySuperblock, Opened};
use std::{
    fmt::Debug,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

/// A state disk as an admission uses it. All that it shows before a key opens its header is the host's
/// word.
pub trait Disk: Debug {
    /// What the slots claim, before there is a key.
    ///
    /// # Errors
    /// The row of the exit table.
    fn inspect(&self) -> Result<DiskState, Failure>;

    /// Zeroes both slots.
    ///
    /// # Errors
    /// The row of the exit table.
    fn wipe(&self) -> Result<(), Failure>;

    /// Makes mapping and file system with new volume keys; the header slots are zero before and
    /// after.
    ///
    /// # Errors
    /// The row of the exit table.
    fn format(&self, disk: &DiskId) -> Result<Made, Failure>;

    /// The newest header for `disk` that opens under `key`; the disk is read again, because the
    /// host may have changed it since.
    ///
    /// # Errors
    /// The row of the exit table.
    fn open_header(&self, disk: &DiskId, key: &DataKey) -> Result<Option<Opened>, Failure>;

    /// Seals a header into a slot, durably.
    ///
    /// # Errors
    /// The row of the exit table.
    fn write_header(&self, slot: Slot, header: &Header, key: &DataKey) -> Result<(), Failure>;

    /// Maps the disk as its header says, live tables compared; gives where it is.
    ///
    /// # Errors
    /// The row of the exit table.
    fn map(&self, header: &Header) -> Result<PathBuf, Failure>;
}

/// What formatting made, for the header.
#[derive(Debug)]
pub struct Made {
    /// The volume keys.
    pub volume_keys: VolumeKeys,
    /// The parameters of the mapping.
    pub parameters: DmParameters,
    /// The superblock that the kernel wrote.
    pub superblock: IntegritySuperblock,
}

/// The way to whoever admits. All of it is the host's word.
pub trait Way: Debug {
    /// The hints known now.
    fn hints(&self) -> &Hints;

    /// The addresses to dial now, and how long they are good for. Reads the hints again while
    /// something is missing.
    ///
    /// # Errors
    /// The row of the exit table.
    fn addresses(&mut self, needs_name: bool) -> Result<(Vec<SocketAddr>, Duration), Failure>;
}

/// What this boot is admitted with.
#[derive(Debug)]
pub struct Machine<'a> {
    /// The state disk.
    pub disk: &'a dyn Disk,
    /// What attests for this machine.
    pub attester: &'a mut Attester,
    /// How to find who admits it.
    pub way: &'a mut dyn Way,
}

/// What a boot needs to be admitted.
#[derive(Debug)]
pub struct Unlock<'a> {
    machine: Machine<'a>,
    peers: Peers,
    sealing_key: SealingKey,
    session: Option<Session>,
    ticket: Option<Ticket>,
    header: Option<Header>,
    hand_off: Option<(HandOff, Attachments)>,
}

/// The admitted channel, and where its peer is.
#[derive(Debug)]
struct Session {
    client: RpcClient,
    address: SocketAddr,
    /// The address at this end.
    local: Option<IpAddr>,
}

/// What a ticket said; the key is wiped once the disk is mapped, the attachments once they are written.
#[derive(Debug)]
struct Ticket {
    path: AdmissionPath,
    cluster: ClusterId,
    key_version: KeyVersion,
    node_name: NodeName,
    role: Role,
    data_key: DataKey,
    attachments: Attachments,
    ak_certificate: Option<String>,
}

/// A step that the node machine asked for in an order it never asks in: a bug.
#[derive(Debug, thiserror::Error)]
#[error("internal: {0} missing")]
struct Missing(&'static str);

impl<'a> Unlock<'a> {
    /// Nothing asked yet.
    #[must_use]
    pub const fn new(machine: Machine<'a>, peers: Peers, sealing_key: SealingKey) -> Self {
        Self {
            machine,
            peers,
            sealing_key,
            session: None,
            ticket: None,
            header: None,
            hand_off: None,
        }
    }

    /// Runs until the disk is mapped, the machine latched and the hand-off written into `folder`;
    /// all secrets are wiped on return.
    ///
    /// # Errors
    /// The row of the exit table that ends this boot.
    pub fn run(mut self, folder: &Path) -> Result<(), Failure> {
        let start = self.machine.disk.inspect()?;
        let (mut node, mut action) = Node::start(start);
        loop {
            let event = match action {
                Action::Exec => return Ok(()),
                Action::Exit(exit) => return Err(exits(reason(exit))(exit)),
                action => self.perform(action, folder)?,
            };
            (node, action) = node.handle(event).map_err(exits(ExitReason::Panic))?;
        }
    }

    fn perform(&mut self, action: Action, folder: &Path) -> Result<Event, Failure> {
        match action {
            Action::Admit { paths } => self.admit(paths),
            Action::RegisterDisk => self.register_disk(),
            Action::IssueJoinTicket { disk } => self.join_ticket(disk),
            Action::IssueRejoinTicket { disk, key_version } => {
                self.rejoin_ticket(disk, key_version)
            }
            Action::Format { disk } => self.format(disk),
            Action::OpenHeader { disk } => self.open_header(disk),
            Action::WriteSlot { slot, generation } => self.write_slot(slot, generation),
            Action::Commit { disk, generation } => self.commit(disk, generation),
            Action::Wipe => self.machine.disk.wipe().map(|()| Event::Wiped),
            Action::Map => self.map(),
            Action::Latch => self.latch(),
            Action::HandOff => self.write_hand_off(folder),
            Action::Exec | Action::Exit(_) => {
                Err(exits(ExitReason::Panic)(Missing("an action to perform")))
            }
        }
    }

    fn ticket(&self) -> Result<&Ticket, Failure> {
        self.ticket
            .as_ref()
            .ok_or_else(|| exits(ExitReason::Panic)(Missing("ticket")))
    }

    fn format(&mut self, disk: DiskId) -> Result<Event, Failure> {
        let ticket = self.ticket()?;
        let made = self.machine.disk.format(&disk)?;
        self.header = Some(Header {
            disk,
            key_version: ticket.key_version,
            generation: Generation::FIRST,
            volume_keys: made.volume_keys,
            cluster: ticket.cluster,
            role: ticket.role,
            init_unfinished: ticket.path == AdmissionPath::Init,
            node_name: ticket.node_name.clone(),
            parameters: made.parameters,
            superblock: made.superblock,
        });
        Ok(Event::Formatted)
    }

    fn open_header(&mut self, disk: DiskId) -> Result<Event, Failure> {
        let ticket = self.ticket()?;
        let Some(opened) = self.machine.disk.open_header(&disk, &ticket.data_key)? else {
            step("header").with("opens", "no").end();
            return Ok(Event::NothingOpens);
        };
        let header = opened.header;
        ticket.compare(&header)?;
        let event = Event::Opened(node::Opened {
            slot: disk::slot_of(opened.slot),
            generation: header.generation,
            init_unfinished: header.init_unfinished,
        });
        step("header")
            .with("opens", "yes")
            .with("generation", header.generation)
            .end();
        self.header = Some(header);
        Ok(event)
    }

    fn write_slot(&mut self, slot: Slot, generation: Generation) -> Result<Event, Failure> {
        let missing = |what| exits(ExitReason::Panic)(Missing(what));
        let ticket = self.ticket.as_ref().ok_or_else(|| missing("ticket"))?;
        let header = self.header.as_mut().ok_or_else(|| missing("header"))?;
        header.generation = generation;
        // Whoever lets this node in on another path says by it that its init is over.
        header.init_unfinished = ticket.path == AdmissionPath::Init;
        self.machine
            .disk
            .write_header(slot, header, &ticket.data_key)?;
        step("header")
            .with("written", format!("{slot:?}"))
            .with("generation", generation)
            .end();
        Ok(Event::SlotWritten)
    }

    /// Maps the disk; the volume keys and the data key are wiped with header and ticket.
    fn map(&mut self) -> Result<Event, Failure> {
        let missing = |what| exits(ExitReason::Panic)(Missing(what));
        let header = self.header.take().ok_or_else(|| missing("header"))?;
        let ticket = self.ticket.take().ok_or_else(|| missing("ticket"))?;
        let device = self.machine.disk.map(&header)?;
        let attester: &Attester = self.machine.attester;
        let certified = ticket.ak_certificate.zip(attester.certifiable_key());
        let attestation_key = certified.map(|(certificate, (public, unique))| AttestationKey {
            public: public.to_vec(),
            unique: *unique,
            certificate,
        });
        let hand_off = HandOff {
            version: 1,
            path: ticket.path,
            cluster_id: header.cluster,
            node_name: ticket.node_name,
            role: ticket.role,
            disk_uuid: header.disk,
            generation: header.generation,
            state_device: device.display().to_string(),
            attestation_key,
        };
        self.hand_off = Some((hand_off, ticket.attachments));
        step("mapping").with("device", device.display()).end();
        Ok(Event::Mapped)
    }

    fn latch(&mut self) -> Result<Event, Failure> {
        let hand_off = self.hand_off.as_ref();
        let (hand_off, _) =
            hand_off.ok_or_else(|| exits(ExitReason::Panic)(Missing("hand-off")))?;
        let cluster = hand_off.cluster_id;
        let latch = match attest::latch(self.machine.attester, cluster.as_bytes())? {
            Latch::Extended => "pcr-15",
            Latch::Server => "none",
        };
        step("latch")
            .with("kind", latch)
            .with("cluster", cluster)
            .end();
        Ok(Event::Latched)
    }

    fn write_hand_off(&mut self, folder: &Path) -> Result<Event, Failure> {
        // The channel is over: nothing is asked for any more.
        self.session = None;
        let hand_off = self.hand_off.take();
        let (hand_off, attachments) =
            hand_off.ok_or_else(|| exits(ExitReason::Panic)(Missing("hand-off")))?;
        hand_off
            .write(folder, &attachments)
            .map_err(exits(ExitReason::HandOff))?;
        let material = attachments.material.as_ref().map_or(0, |bytes| bytes.len());
        let certified = hand_off.attestation_key.is_some();
        step("hand-off")
            .with("folder", folder.display())
            .with("material", material)
            .with("ak_certificate", if certified { "yes" } else { "no" })
            .end();
        Ok(Event::HandedOff)
    }
}

impl Ticket {
    /// What the record says and what the header says are one thing; anything else is a mixed-up disk
    /// or store.
    fn compare(&self, header: &Header) -> Result<(), Failure> {
        same("cluster", &self.cluster, &header.cluster)?;
        same("node name", &self.node_name, &header.node_name)?;
        same("role", &self.role, &header.role)
    }
}

fn same<T: PartialEq + std::fmt::Display>(
    what: &'static str,
    expected: &T,
    got: &T,
) -> Result<(), Failure> {
    if expected == got {
        return Ok(());
    }
    Err(exits(ExitReason::HeaderRefused)(Foreign {
        what,
        expected: expected.to_string(),
        got: got.to_string(),
    }))
}

/// An authentic header that is not what the ticket says.
#[derive(Debug, thiserror::Error)]
#[error("header: expected {what} {expected}, got {got}")]
struct Foreign {
    what: &'static str,
    expected: String,
    got: String,
}

/// The row of the table for an exit of the node machine.
const fn reason(exit: Exit) -> ExitReason {
    match exit {
        Exit::ForeignInit { .. } | Exit::InitFinished => ExitReason::InitRefused,
        Exit::HeaderTooOld { .. } => ExitReason::HeaderTooOld,
        Exit::Refused { .. } => ExitReason::Refused,
        Exit::StartOver => ExitReason::StartOver,
        _ => ExitReason::HeaderRefused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use secret::VolumeKeys;
    use state_disk::{DmParameters, IntegritySuperblock};

    fn header() -> Header {
        let mut superblock = [0; 4096];
        superblock[..8].copy_from_slice(b"integrt\0");
        Header {
            disk: DiskId::from_random([1; 16]),
            key_version: KeyVersion::FIRST,
            generation: Generation::FIRST,
            volume_keys: VolumeKeys::try_fill(|bytes| platform::random::fill(bytes)).unwrap(),
            cluster: ClusterId::from_bytes([2; 32]),
            role: Role::Worker,
            init_unfinished: false,
            node_name: "worker-0".parse().unwrap(),
            parameters: DmParameters::new(8).unwrap(),
            superblock: IntegritySuperblock::parse(&superblock).unwrap(),
        }
    }

    fn ticket() -> Ticket {
        Ticket {
            path: AdmissionPath::Recover,
            cluster: ClusterId::from_bytes([2; 32]),
            key_version: KeyVersion::FIRST,
            node_name: "worker-0".parse().unwrap(),
            role: Role::Worker,
            data_key: DataKey::from_slice(&[3; 32]).unwrap(),
            attachments: Attachments::default(),
            ak_certificate: None,
        }
    }

    /// The header authenticated under the right key, and still is not this ticket's.
    #[test]
    fn a_header_of_another_cluster_name_or_role_is_refused() {
        ticket().compare(&header()).unwrap();
        let others: [fn(&mut Header); 3] = [
            |header| header.cluster = ClusterId::from_bytes([9; 32]),
            |header| header.node_name = "worker-1".parse().unwrap(),
            |header| header.role = Role::ControlPlane,
        ];
        for change in others {
            let mut other = header();
            change(&mut other);
            let failure = ticket().compare(&other).unwrap_err();
            assert_eq!(failure.reason, ExitReason::HeaderRefused);
        }
    }
}
