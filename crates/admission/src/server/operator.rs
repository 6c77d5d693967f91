use super::{Step, ready_when_written};
use crate::{
    Adoption, BootClaim, BootId, Claim, Context, ControlPlaneEntry, Grant, NodeRecord,
    OperatorAction, Plan, Refusal, Snapshot, TombstoneCause,
    record::RecordState,
    store::{Halt, Key, Value, Writes},
};
use alloc::string::String;
use appraisal::AttesterIdentity;
use audit::{Action, Outcome, RecordEvent, Text};
use identity::{DiskId, Generation, NodeName, Role};

pub(super) fn operate(
    action: &OperatorAction,
    context: &Context,
    snapshot: &Snapshot,
) -> Result<Step, Halt> {
    let mut event = RecordEvent::new(Action::OperatorAction, Outcome::Done, action.name());
    let mut writes = Writes::default();
    let desk = Operator { context, snapshot };
    let record = match action {
        OperatorAction::AcceptGeneration { disk, generation } => {
            Some(desk.accept_generation(*disk, *generation, &mut writes)?)
        }
        OperatorAction::Adopt(adoption) => {
            let record = desk.adopted(adoption);
            desk.adopt(&record, &mut writes)?;
            Some(record)
        }
        OperatorAction::FinishInit => Some(desk.finish_init(&mut writes)?),
        OperatorAction::Forget { node } => Some(desk.forget(node, &mut writes)?),
        OperatorAction::OpenControlPlane { node } => {
            desk.open_control_plane(node, &mut writes)?;
            event.node = Some(node.clone());
            None
        }
        OperatorAction::RecordBoot(claim) => {
            desk.record_boot(*claim, &mut writes)?;
            event.disk = Some(claim.disk);
            event.attester = Some(Text::from_display(claim.attester));
            event.generation = claim.committed;
            None
        }
        OperatorAction::Rebind { disk, attester } => {
            Some(desk.rebind(*disk, *attester, &mut writes)?)
        }
        OperatorAction::Retire { disk } => Some(desk.retire(*disk, &mut writes)?),
    };
    if let Some(record) = record {
        event.node = Some(record.node);
        event.role = Some(record.role);
        event.disk = Some(record.disk);
        event.attester = Some(Text::from_display(record.attester));
        event.generation = Some(record.generation);
    }
    Ok(ready_when_written(writes, || {
        Plan::new(Some(event), Grant::Done)
    }))
}

struct Operator<'a> {
    context: &'a Context,
    snapshot: &'a Snapshot,
}

impl Operator<'_> {
    /// Create-only, as every claim of a boot.
    fn record_boot(&self, claim: BootClaim, writes: &mut Writes) -> Result<(), Halt> {
        if self.snapshot.boot(claim.boot)?.is_none() {
            writes.put(Key::Boot(claim.boot), None, Value::Boot(claim));
        }
        Ok(())
    }

    fn accept_generation(
        &self,
        disk: DiskId,
        generation: Generation,
        writes: &mut Writes,
    ) -> Result<NodeRecord, Halt> {
        let stored = self.live(disk)?;
        let record = NodeRecord {
            generation: committed(generation),
            ..stored.clone()
        };
        writes.record(Some(stored), record.clone());
        Ok(record)
    }

    fn adopted(&self, adoption: &Adoption) -> NodeRecord {
        NodeRecord {
            disk: adoption.disk,
            node: adoption.node.clone(),
            role: adoption.role,
            attester: adoption.attester,
            image: String::new(),
            key_version: self.context.key_version,
            generation: committed(adoption.generation),
            state: RecordState::Active,
            boot: BootId::OPERATOR,
            committed: None,
            created: self.context.now,
            last_seen: self.context.now,
        }
    }

    fn adopt(&self, record: &NodeRecord, writes: &mut Writes) -> Result<(), Halt> {
        let disk = record.disk;
        match self.snapshot.record(disk)? {
            Some(stored) if stored == record => {}
            Some(stored) if stored.is_tombstone() => {
                return Err(Refusal::Tombstoned { disk }.into());
            }
            Some(_) => return Err(Refusal::DiskTaken { disk }.into()),
            None => {}
        }
        let claim = Claim {
            disk,
            boot: BootId::OPERATOR,
            attester: record.attester,
        };
        self.take_name(&record.node, claim, writes)?;
        let stored = self.snapshot.claim(Key::Disk(disk))?;
        writes.claim(Key::Disk(disk), stored, claim);
        self.take_attester(record.attester, disk, writes)?;
        self.spend_control_plane(record, writes)?;
        writes.record(self.snapshot.record(disk)?, record.clone());
        Ok(())
    }

    /// The name of an adopted control-plane node is one, as if it had joined by an entry.
    fn spend_control_plane(&self, record: &NodeRecord, writes: &mut Writes) -> Result<(), Halt> {
        if record.role == Role::ControlPlane {
            let stored = self.snapshot.control_plane(&record.node)?;
            writes.put(
                Key::ControlPlane(record.node.clone()),
                stored.map(Value::ControlPlane),
                Value::ControlPlane(ControlPlaneEntry::Spent),
            );
        }
        Ok(())
    }

    fn take_name(&self, node: &NodeName, claim: Claim, writes: &mut Writes) -> Result<(), Halt> {
        let key = Key::Name(node.clone());
        let stored = self.snapshot.claim(key.clone())?;
        if let Some(held) = stored
            && held.disk != claim.disk
            && self.is_live(held.disk)?
        {
            return Err(Refusal::NameTaken {
                node: node.clone(),
                disk: held.disk,
            }
            .into());
        }
        writes.claim(key, stored, claim);
        Ok(())
    }

    fn take_attester(
        &self,
        attester: AttesterIdentity,
        disk: DiskId,
        writes: &mut Writes,
    ) -> Result<(), Halt> {
        let stored = self.snapshot.attester(attester)?;
        if let Some(current) = stored
            && current != disk
            && let Some(record) = self.snapshot.record(current)?
            && !record.is_tombstone()
            && record.attester == attester
        {
            return Err(Refusal::NotCurrent { disk, current }.into());
        }
        writes.index(attester, stored, disk);
        Ok(())
    }

    /// The record dies first: from then on no key is released, whatever else is still to be written.
    fn forget(&self, node: &NodeName, writes: &mut Writes) -> Result<NodeRecord, Halt> {
        let claim = self.snapshot.claim(Key::Name(node.clone()))?;
        let claim = claim.ok_or_else(|| Refusal::UnknownNode { node: node.clone() })?;
        let stored = self.snapshot.record(claim.disk)?;
        let record = NodeRecord {
            state: RecordState::Tombstone(TombstoneCause::Forgotten),
            ..stored
                .cloned()
                .unwrap_or_else(|| self.half_joined(node, claim))
        };
        writes.record(stored, record.clone());
        let entry = self.snapshot.control_plane(node)?;
        if let Some(ControlPlaneEntry::Bound { disk, .. }) = entry
            && disk == record.disk
        {
            writes.put(
                Key::ControlPlane(node.clone()),
                entry.map(Value::ControlPlane),
                Value::ControlPlane(ControlPlaneEntry::Spent),
            );
        }
        Ok(record)
    }

    /// A join that got as far as its name claim and no further.
    fn half_joined(&self, node: &NodeName, claim: &Claim) -> NodeRecord {
        self.adopted(&Adoption {
            disk: claim.disk,
            node: node.clone(),
            role: Role::Worker,
            attester: claim.attester,
            generation: Generation(0),
        })
    }

    fn finish_init(&self, writes: &mut Writes) -> Result<NodeRecord, Halt> {
        let entry = self.snapshot.init()?;
        let mut finished = entry.ok_or_else(|| Refusal::StoreCorrupt {
            key: alloc::format!("{}", Key::Init),
        })?;
        let stored = self.live(finished.disk)?;
        let record = NodeRecord {
            state: RecordState::Active,
            ..stored.clone()
        };
        writes.record(Some(stored), record.clone());
        finished.finished = true;
        writes.put(Key::Init, entry.map(Value::Init), Value::Init(finished));
        Ok(record)
    }

    fn open_control_plane(&self, node: &NodeName, writes: &mut Writes) -> Result<(), Halt> {
        let stored = self.snapshot.control_plane(node)?;
        if let Some(ControlPlaneEntry::Bound { disk, .. }) = stored {
            return Err(Refusal::NameTaken {
                node: node.clone(),
                disk,
            }
            .into());
        }
        writes.put(
            Key::ControlPlane(node.clone()),
            stored.map(Value::ControlPlane),
            Value::ControlPlane(ControlPlaneEntry::Open),
        );
        Ok(())
    }

    fn rebind(
        &self,
        disk: DiskId,
        attester: AttesterIdentity,
        writes: &mut Writes,
    ) -> Result<NodeRecord, Halt> {
        let stored = self.live(disk)?;
        self.take_attester(attester, disk, writes)?;
        for key in [Key::Name(stored.node.clone()), Key::Disk(disk)] {
            let claim = self.snapshot.claim(key.clone())?;
            if let Some(held) = claim
                && held.disk == disk
            {
                writes.claim(key, claim, Claim { attester, ..*held });
            }
        }
        let record = NodeRecord {
            attester,
            ..stored.clone()
        };
        writes.record(Some(stored), record.clone());
        Ok(record)
    }

    /// A control-plane name is freed by `forget` alone, and a disk that was never committed has no
    /// node that could have been deleted.
    fn retire(&self, disk: DiskId, writes: &mut Writes) -> Result<NodeRecord, Halt> {
        let stored = self.snapshot.record(disk)?;
        let record = stored.ok_or(Refusal::UnknownDisk { disk })?;
        let state = match (record.state, record.role) {
            (RecordState::Tombstone(_), _) => record.state,
            (RecordState::Active, Role::Worker) => {
                RecordState::Tombstone(TombstoneCause::Forgotten)
            }
            (RecordState::Active | RecordState::Issued, _) => {
                return Err(Refusal::NotRetired { disk }.into());
            }
        };
        let record = NodeRecord {
            state,
            ..record.clone()
        };
        writes.record(stored, record.clone());
        Ok(record)
    }

    fn live(&self, disk: DiskId) -> Result<&NodeRecord, Halt> {
        let record = self.snapshot.record(disk)?;
        let record = record.ok_or(Refusal::UnknownDisk { disk })?;
        if record.is_tombstone() {
            return Err(Refusal::Tombstoned { disk }.into());
        }
        Ok(record)
    }

    fn is_live(&self, disk: DiskId) -> Result<bool, Halt> {
        let record = self.snapshot.record(disk)?;
        Ok(record.is_some_and(|record| !record.is_tombstone()))
    }
}

/// A node formats over a damaged header when no Commit was ever recorded, so an operator's record
/// never says that.
fn committed(generation: Generation) -> Generation {
    generation.max(Generation::FIRST)
}
