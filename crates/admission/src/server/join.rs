use super::{Desk, Step, ready_when_written};
use crate::{
    Claim, ControlPlaneEntry, Grant, NodeRecord, Plan, Refusal, Release, Ticket, TombstoneCause,
    record::RecordState,
    refusal::Describe,
    store::{Halt, Key, Value, Writes},
};
use alloc::boxed::Box;
use audit::{Action, Outcome, RecordEvent};
use evidence::AdmissionPath;
use identity::{DiskId, Generation, NodeName, Role};

/// `RegisterDisk` on the join path stores nothing: a random id is unused, and the claim of
/// `IssueJoinTicket` makes sure of it.
pub(super) fn register(minted: DiskId) -> Step {
    Step::Ready(Box::new(Plan::new(
        None,
        Grant::Registered { disk: minted },
    )))
}

impl Desk<'_> {
    /// `IssueJoinTicket`: boot, name and disk are claimed in this order, then come the attester's
    /// index, the control-plane entry and last the record. A dead predecessor is buried first, so
    /// that no prefix of the writes leaves two live disks.
    pub(super) fn join(&self, disk: DiskId, node: &NodeName, role: Role) -> Result<Step, Halt> {
        self.snapshot.need(&[
            Key::Boot(self.peer.boot),
            Key::Name(node.clone()),
            Key::Disk(disk),
            Key::Attester(self.peer.attester),
            Key::Record(disk),
            Key::ControlPlane(node.clone()),
        ])?;
        self.role_in_image(role)?;
        self.init_allows(disk)?;
        self.record_allows(disk, node, role)?;
        let mut writes = Writes::default();
        self.bury_predecessors(disk, node, &mut writes)?;
        self.claim_boot(disk, &mut writes)?;
        self.claim_name(disk, node, &mut writes)?;
        self.claim_disk(disk, &mut writes)?;
        self.index_attester(disk, &mut writes)?;
        self.bind_control_plane(disk, node, role, &mut writes)?;
        let record = self.issue_record(disk, node, role, &mut writes)?;
        Ok(ready_when_written(writes, || {
            self.release(&record, "IssueJoinTicket")
        }))
    }

    /// The plan that releases the disk's key to this peer.
    pub(super) fn release(&self, record: &NodeRecord, request: &str) -> Plan {
        let mut event = RecordEvent::new(Action::Release, Outcome::Done, request);
        event.describe(self.peer);
        event.node = Some(record.node.clone());
        event.role = Some(record.role);
        event.disk = Some(record.disk);
        event.generation = Some(record.generation);
        event.key_version = Some(record.key_version);
        let release = Release {
            disk: record.disk,
            node: record.node.clone(),
            role: record.role,
            key_version: record.key_version,
            generation: record.generation,
        };
        let ticket = Ticket {
            release,
            attester: self.peer.attester,
            image: self.peer.image.clone(),
            boot: self.peer.boot,
            sealing_key: self.peer.sealing_key,
        };
        Plan::new(Some(event), Grant::Ticket(ticket))
    }

    /// An id that is known already goes on only where this is a retry of the same ticket.
    fn record_allows(&self, disk: DiskId, node: &NodeName, role: Role) -> Result<(), Halt> {
        let Some(record) = self.snapshot.record(disk)? else {
            return Ok(());
        };
        let retry = record.boot == self.peer.boot || self.peer.path == AdmissionPath::Init;
        let same = record.attester == self.peer.attester
            && record.node == *node
            && record.role == role
            && retry;
        match record.state {
            RecordState::Tombstone(_) => Err(Refusal::Tombstoned { disk }.into()),
            RecordState::Active if record.attester == self.peer.attester => {
                Err(active_but_blank(record).into())
            }
            RecordState::Issued if same => Ok(()),
            RecordState::Active | RecordState::Issued => Err(Refusal::DiskTaken { disk }.into()),
        }
    }

    /// A join that was never committed and whose disk is blank again: its id dies. An active record
    /// of this machine refuses, whatever name the host gives the machine now.
    fn bury_predecessors(
        &self,
        disk: DiskId,
        node: &NodeName,
        writes: &mut Writes,
    ) -> Result<(), Halt> {
        let indexed = self.snapshot.attester(self.peer.attester)?;
        let named = self
            .snapshot
            .claim(Key::Name(node.clone()))?
            .map(|claim| claim.disk);
        let named = named.filter(|disk| indexed != Some(*disk));
        for old in indexed.into_iter().chain(named).filter(|old| *old != disk) {
            let Some(record) = self.snapshot.record(old)? else {
                continue;
            };
            if record.attester != self.peer.attester {
                continue;
            }
            match record.state {
                RecordState::Active => return Err(active_but_blank(record).into()),
                RecordState::Issued => writes.record(Some(record), buried(record)),
                RecordState::Tombstone(_) => {}
            }
        }
        Ok(())
    }

    fn claim_name(&self, disk: DiskId, node: &NodeName, writes: &mut Writes) -> Result<(), Halt> {
        let key = Key::Name(node.clone());
        let stored = self.snapshot.claim(key.clone())?;
        if let Some(claim) = stored {
            self.name_is_ours(disk, node, claim)?;
        }
        writes.claim(key, stored, self.claim(disk));
        Ok(())
    }

    /// A name goes on to the machine that has it, and to others once its disk is dead; a
    /// control-plane name only once the operator forgot the node.
    fn name_is_ours(&self, disk: DiskId, node: &NodeName, claim: &Claim) -> Result<(), Halt> {
        if claim.attester == self.peer.attester {
            return Ok(());
        }
        let freed = claim.disk != disk
            && self
                .snapshot
                .record(claim.disk)?
                .is_some_and(|record| match record.state {
                    RecordState::Tombstone(TombstoneCause::Forgotten) => true,
                    RecordState::Tombstone(TombstoneCause::Superseded) => {
                        record.role == Role::Worker
                    }
                    RecordState::Active | RecordState::Issued => false,
                });
        if freed {
            return Ok(());
        }
        Err(Refusal::NameTaken {
            node: node.clone(),
            disk: claim.disk,
        }
        .into())
    }

    fn claim_disk(&self, disk: DiskId, writes: &mut Writes) -> Result<(), Halt> {
        let key = Key::Disk(disk);
        let stored = self.snapshot.claim(key.clone())?;
        if let Some(claim) = stored {
            // Init retries one id over several boots; everything else mints a new one.
            let retry = claim.boot == self.peer.boot || self.peer.path == AdmissionPath::Init;
            if claim.disk != disk || claim.attester != self.peer.attester || !retry {
                return Err(Refusal::DiskTaken { disk }.into());
            }
        }
        writes.claim(key, stored, self.claim(disk));
        Ok(())
    }

    fn index_attester(&self, disk: DiskId, writes: &mut Writes) -> Result<(), Halt> {
        let stored = self.snapshot.attester(self.peer.attester)?;
        writes.index(self.peer.attester, stored, disk);
        Ok(())
    }

    /// A control-plane join uses up the operator's entry for its name. On the init path the
    /// operator is the one who admits; there is no entry to use. No worker gets a name with an entry,
    /// used up or not: a host chooses names, and the cluster may still trust this one.
    fn bind_control_plane(
        &self,
        disk: DiskId,
        node: &NodeName,
        role: Role,
        writes: &mut Writes,
    ) -> Result<(), Halt> {
        let stored = self.snapshot.control_plane(node)?;
        if role == Role::Worker && stored.is_some() {
            return Err(Refusal::ControlPlaneName { node: node.clone() }.into());
        }
        if role == Role::Worker || self.peer.path == AdmissionPath::Init {
            return Ok(());
        }
        let attester = self.peer.attester;
        let usable = match stored {
            Some(ControlPlaneEntry::Open) => true,
            Some(ControlPlaneEntry::Bound { attester: by, .. }) => by == attester,
            Some(ControlPlaneEntry::Spent) | None => false,
        };
        if !usable {
            return Err(Refusal::ControlPlaneNotOpen { node: node.clone() }.into());
        }
        let bound = ControlPlaneEntry::Bound { attester, disk };
        writes.put(
            Key::ControlPlane(node.clone()),
            stored.map(Value::ControlPlane),
            Value::ControlPlane(bound),
        );
        Ok(())
    }

    fn issue_record(
        &self,
        disk: DiskId,
        node: &NodeName,
        role: Role,
        writes: &mut Writes,
    ) -> Result<NodeRecord, Halt> {
        let stored = self.snapshot.record(disk)?;
        let record = match stored {
            Some(record) if record.boot == self.peer.boot => return Ok(record.clone()),
            Some(record) => self.seen(record),
            None => NodeRecord {
                disk,
                node: node.clone(),
                role,
                attester: self.peer.attester,
                image: self.peer.image.clone(),
                key_version: self.context.key_version,
                generation: Generation(0),
                state: RecordState::Issued,
                boot: self.peer.boot,
                committed: None,
                created: self.context.now,
                last_seen: self.context.now,
            },
        };
        writes.record(stored, record.clone());
        Ok(record)
    }

    /// The record with this boot as the latest one that got a ticket.
    pub(super) fn seen(&self, record: &NodeRecord) -> NodeRecord {
        NodeRecord {
            boot: self.peer.boot,
            image: self.peer.image.clone(),
            last_seen: self.context.now,
            ..record.clone()
        }
    }

    /// The init path knows one disk and one machine.
    fn init_allows(&self, disk: DiskId) -> Result<(), Halt> {
        if self.peer.path != AdmissionPath::Init {
            return Ok(());
        }
        self.snapshot.need(&[Key::Init])?;
        match self.snapshot.init()? {
            Some(entry)
                if entry.disk == disk
                    && entry.attester == self.peer.attester
                    && !entry.finished =>
            {
                Ok(())
            }
            Some(entry) => Err(Refusal::InitBound {
                expected: entry.disk,
                got: disk,
            }
            .into()),
            None => Err(Refusal::UnknownDisk { disk }.into()),
        }
    }
}

fn active_but_blank(record: &NodeRecord) -> Refusal {
    Refusal::ActiveDiskBlank {
        node: record.node.clone(),
        disk: record.disk,
    }
}

fn buried(record: &NodeRecord) -> NodeRecord {
    NodeRecord {
        state: RecordState::Tombstone(TombstoneCause::Superseded),
        ..record.clone()
    }
}
