use super::{
    disk::{Disk, SealedHeader, SlotContent},
    job::{Answer, Job},
    world::{HandOff, World},
};
use admission::{
    BootId, Peer, Request, SealingKeyHash,
    node::{Action, Event, Exit, Failure, Node, Slot},
};
use appraisal::AttesterIdentity;
use evidence::AdmissionPath;
use identity::{DiskId, Generation, NodeName, Role};
use std::collections::BTreeSet;

/// A machine: its TPM, its disk, what the host tells it, and the boot it is in.
pub(crate) struct Machine {
    pub(crate) attester: AttesterIdentity,
    pub(crate) name: NodeName,
    pub(crate) role: Role,
    pub(crate) roles: BTreeSet<Role>,
    pub(crate) disk: Disk,
    pub(crate) saved: Option<Disk>,
    pub(crate) push: bool,
    pub(crate) boot: Option<Boot>,
    pub(crate) exits: Vec<Exit>,
}

/// One boot, with the state machine under test.
pub(crate) struct Boot {
    pub(crate) id: BootId,
    pub(crate) sealing_key: SealingKeyHash,
    pub(crate) node: Node,
    pub(crate) action: Option<Action>,
    pub(crate) awaiting: Option<u64>,
    pub(crate) path: Option<AdmissionPath>,
    /// The disk whose data key the agent holds.
    pub(crate) key: Option<DiskId>,
    /// The recorded generation of the last rejoin ticket.
    pub(crate) recorded: Generation,
    pub(crate) committed: Option<(DiskId, Generation)>,
    pub(crate) latched: bool,
    pub(crate) handed_off: bool,
}

impl World {
    pub(crate) fn power_on(&mut self, m: u8) {
        if self.machine(m).boot.is_some() {
            return;
        }
        self.next_boot = self.next_boot.wrapping_add(1);
        let unique = [self.next_boot; 32];
        let id = if self.sev_snp {
            BootId::of_report_id(&unique)
        } else {
            BootId::of_sealing_key(&unique)
        };
        let machine = self.machine(m);
        let (node, action) = Node::start(machine.disk.state());
        machine.boot = Some(Boot {
            id,
            sealing_key: SealingKeyHash::of(&unique),
            node,
            action: Some(action),
            awaiting: None,
            path: None,
            key: None,
            recorded: Generation(0),
            committed: None,
            latched: false,
            handed_off: false,
        });
    }

    /// The power goes while the disk is being written.
    pub(crate) fn torn_cut(&mut self, m: u8, cleartext: bool) {
        let machine = self.machine(m);
        let Some(boot) = machine.boot.take() else {
            return;
        };
        match boot.action {
            Some(Action::WriteSlot { slot, generation }) => {
                let cleartext = boot
                    .key
                    .filter(|_| cleartext)
                    .map(|disk| (disk, generation));
                *machine.disk.slot(slot) = SlotContent::Torn { cleartext };
            }
            Some(Action::Wipe | Action::Format { .. }) => {
                let slot = if cleartext { Slot::A } else { Slot::B };
                *machine.disk.slot(slot) = SlotContent::Zero;
            }
            _ => {}
        }
    }

    pub(crate) fn timeout(&mut self, m: u8) {
        if let Some(boot) = self.running(m)
            && boot.awaiting.take().is_some()
        {
            self.feed(m, Event::Failed(Failure::Lost));
        }
    }

    /// Does what the state machine asked for.
    pub(crate) fn step(&mut self, m: u8) {
        let Some(action) = self.running(m).and_then(|boot| boot.action.take()) else {
            return;
        };
        match action {
            Action::Admit { paths } => self.admit(m, paths),
            Action::RegisterDisk => {
                let minted = self.mint();
                self.send(m, Request::RegisterDisk { minted });
            }
            Action::IssueJoinTicket { disk } => {
                let (node, role) = (self.machine(m).name.clone(), self.machine(m).role);
                self.send(m, Request::IssueJoinTicket { disk, node, role });
            }
            Action::IssueRejoinTicket { disk, key_version } => {
                self.send(m, Request::IssueRejoinTicket { disk, key_version });
            }
            Action::Commit { disk, generation } => {
                self.send(m, Request::Commit { disk, generation });
            }
            on_disk => self.step_on_disk(m, on_disk),
        }
    }

    fn step_on_disk(&mut self, m: u8, action: Action) {
        match action {
            Action::OpenHeader { disk } => {
                self.check_key(m, disk);
                let opened = self.machine(m).disk.open(disk);
                self.feed(m, opened.map_or(Event::NothingOpens, Event::Opened));
            }
            Action::Format { disk } => {
                self.check_key(m, disk);
                self.check_format(m);
                self.machine(m).disk = Disk::BLANK;
                self.feed(m, Event::Formatted);
            }
            Action::Wipe => {
                self.check_format(m);
                self.machine(m).disk = Disk::BLANK;
                self.feed(m, Event::Wiped);
            }
            Action::WriteSlot { slot, generation } => {
                self.write_slot(m, slot, generation);
                self.feed(m, Event::SlotWritten);
            }
            Action::Map => self.feed(m, Event::Mapped),
            Action::Latch => {
                if let Some(boot) = self.running(m) {
                    boot.latched = true;
                }
                self.feed(m, Event::Latched);
            }
            Action::HandOff => {
                self.hand_off(m);
                self.feed(m, Event::HandedOff);
            }
            Action::Exit(exit) => {
                self.note(format!("machine {m} exits: {exit}"));
                let machine = self.machine(m);
                machine.exits.push(exit);
                machine.boot = None;
            }
            _ => {}
        }
    }

    fn write_slot(&mut self, m: u8, slot: Slot, generation: Generation) {
        let machine = self.machine(m);
        let Some(boot) = &machine.boot else { return };
        let Some(disk) = boot.key else { return };
        let old = match *machine.disk.slot(slot) {
            SlotContent::Header(header) if header.disk == disk => Some(header.generation),
            _ => None,
        };
        let recorded = boot.recorded;
        let init_unfinished = boot.path == Some(AdmissionPath::Init);
        *machine.disk.slot(slot) = SlotContent::Header(SealedHeader {
            disk,
            generation,
            init_unfinished,
        });
        if generation <= recorded || old.is_some_and(|old| old > generation) {
            let detail = format!("machine {m} wrote generation {generation}, recorded {recorded}");
            self.violate("no header older than its record is accepted", detail);
        }
    }

    fn hand_off(&mut self, m: u8) {
        let Some(boot) = self.running(m) else { return };
        boot.handed_off = true;
        let (latched, committed, id) = (boot.latched, boot.committed, boot.id);
        let by_services = matches!(boot.path, Some(AdmissionPath::Join | AdmissionPath::Rejoin));
        match committed {
            Some((disk, generation)) if latched => self.hand_offs.push(HandOff {
                disk,
                generation,
                boot: id,
                by_services,
            }),
            _ => self.violate("no acknowledgement, no hand-off", format!("machine {m}")),
        }
    }

    fn admit(&mut self, m: u8, paths: &'static [AdmissionPath]) {
        let push = std::mem::take(&mut self.machine(m).push);
        // An operator whose init is not over goes on with that.
        let initialises = m == 0 && self.cli.init_is_open();
        let pushed = paths.iter().find(|p| {
            push && match p {
                AdmissionPath::Init => m == 0,
                AdmissionPath::Recover => !initialises,
                AdmissionPath::Join | AdmissionPath::Rejoin => false,
            }
        });
        let path = *pushed.unwrap_or(&paths[0]);
        if let Some(boot) = self.running(m) {
            if boot.latched {
                return self.violate("no admission after the latch", format!("machine {m}"));
            }
            boot.path = Some(path);
        }
        self.feed(m, Event::Admitted { path });
    }

    pub(crate) fn peer(&mut self, m: u8) -> Option<Peer> {
        let machine = self.machine(m);
        let boot = machine.boot.as_ref()?;
        Some(Peer {
            attester: machine.attester,
            image: format!("image-{}", machine.roles.len()),
            roles: machine.roles.clone(),
            boot: boot.id,
            sealing_key: boot.sealing_key,
            path: boot.path?,
        })
    }

    fn send(&mut self, m: u8, request: Request) {
        let Some(peer) = self.peer(m) else { return };
        self.next_job += 1;
        let id = self.next_job;
        if let Some(boot) = self.running(m) {
            boot.awaiting = Some(id);
        }
        self.jobs.push(Job::new(id, m, request, peer));
    }

    /// An answer reaches the machine, if it still waits for it.
    pub(crate) fn answer(&mut self, job: &Job, answer: Answer) {
        let Some(boot) = self.running(job.machine) else {
            return;
        };
        if boot.awaiting != Some(job.id) || boot.id != job.peer.boot {
            return;
        }
        boot.awaiting = None;
        let event = match answer {
            Answer::Registered { disk } => Event::Registered { disk },
            Answer::Ticket { disk, recorded } => {
                boot.key = Some(disk);
                match job.request {
                    Request::IssueJoinTicket { .. } => Event::JoinTicket,
                    _ => {
                        boot.recorded = recorded;
                        Event::RejoinTicket { recorded }
                    }
                }
            }
            Answer::Committed { generation } => {
                if let Request::Commit { disk, generation } = job.request {
                    boot.committed = Some((disk, generation));
                }
                Event::Committed { generation }
            }
            Answer::StartOver => Event::Failed(Failure::StartOver),
            Answer::Refused { class } => Event::Failed(Failure::Refusal {
                class,
                owner_proven: true,
            }),
        };
        self.feed(job.machine, event);
    }

    fn feed(&mut self, m: u8, event: Event) {
        let Some(boot) = self.running(m) else { return };
        match boot.node.clone().handle(event) {
            Ok((node, action)) => {
                boot.node = node;
                boot.action = Some(action);
            }
            Err(error) => self.violate("no unexpected event", error.to_string()),
        }
        self.note(format!("  machine {m}: {event:?}"));
    }

    fn check_key(&mut self, m: u8, disk: DiskId) {
        if self.running(m).is_some_and(|boot| boot.key != Some(disk)) {
            self.violate(
                "no disk is touched without its key",
                format!("machine {m}, {disk}"),
            );
        }
    }

    /// Formatting must never destroy a committed disk whose record is live, unless the host pushed
    /// it under a machine: what a host can reach it can destroy anyway.
    fn check_format(&mut self, m: u8) {
        if self.exchanged {
            return;
        }
        let headers: Vec<SealedHeader> = self.machine(m).disk.headers().collect();
        for header in headers {
            let record = self.services.record(header.disk);
            let committed = record.is_some_and(|r| !r.is_tombstone() && r.generation.0 > 0);
            if committed {
                let detail = format!("machine {m} destroys disk {}", header.disk);
                self.violate("no committed disk is destroyed", detail);
            }
        }
    }
}
