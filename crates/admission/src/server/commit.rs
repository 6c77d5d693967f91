use super::{Desk, Step, ready_when_written};
use crate::{
    BootClaim, ControlPlaneEntry, Grant, NodeRecord, Plan, Refusal,
    record::RecordState,
    refusal::Describe,
    store::{Halt, Key, Value, Writes},
};
use audit::{Action, Outcome, RecordEvent};
use evidence::AdmissionPath;
use identity::{DiskId, Generation};

impl Desk<'_> {
    /// `Commit`: only a boot that got a ticket for this disk, only upwards, and the same generation
    /// twice when the acknowledgement was lost. The boot is spent first, so that no prefix of the
    /// writes leaves a committed boot that gets another key.
    pub(super) fn commit(&self, disk: DiskId, generation: Generation) -> Result<Step, Halt> {
        let record = self.live_record(disk)?;
        let mut writes = Writes::default();
        self.spend_boot(record, generation, &mut writes)?;
        if record.committed != Some(self.peer.boot) {
            writes.record(Some(record), self.committed(record, generation)?);
        }
        self.spend_control_plane(record, &mut writes)?;
        Ok(ready_when_written(writes, || self.acknowledge(record)))
    }

    fn spend_boot(
        &self,
        record: &NodeRecord,
        generation: Generation,
        writes: &mut Writes,
    ) -> Result<(), Halt> {
        let disk = record.disk;
        let stored = self.snapshot.boot(self.peer.boot)?;
        let ours =
            |claim: &BootClaim| claim.disk == disk && claim.sealing_key == self.peer.sealing_key;
        let claim = stored.filter(ours);
        let claim = claim.ok_or(Refusal::NoTicket { disk })?;
        match claim.committed {
            Some(committed) if committed == generation => {}
            Some(_) => return Err(Refusal::BootSpent { disk }.into()),
            None => {
                let spent = BootClaim {
                    committed: Some(generation),
                    ..claim
                };
                self.above_record(record, generation)?;
                writes.put(
                    Key::Boot(claim.boot),
                    stored.map(Value::Boot),
                    Value::Boot(spent),
                );
            }
        }
        Ok(())
    }

    fn above_record(&self, record: &NodeRecord, got: Generation) -> Result<(), Refusal> {
        if got > record.generation {
            return Ok(());
        }
        Err(Refusal::GenerationNotNew {
            disk: record.disk,
            recorded: record.generation,
            got,
        })
    }

    fn committed(
        &self,
        record: &NodeRecord,
        generation: Generation,
    ) -> Result<NodeRecord, Refusal> {
        self.above_record(record, generation)?;
        // Init is not over with the first Commit: the operator's CLI ends it (`FinishInit`), and
        // until then the same machine may try again with the same id.
        let state = match self.peer.path {
            AdmissionPath::Init => record.state,
            AdmissionPath::Join | AdmissionPath::Rejoin | AdmissionPath::Recover => {
                RecordState::Active
            }
        };
        Ok(NodeRecord {
            generation,
            state,
            committed: Some(self.peer.boot),
            last_seen: self.context.now,
            ..record.clone()
        })
    }

    fn spend_control_plane(&self, record: &NodeRecord, writes: &mut Writes) -> Result<(), Halt> {
        let stored = self.snapshot.control_plane(&record.node)?;
        if let Some(ControlPlaneEntry::Bound { disk, .. }) = stored
            && disk == record.disk
        {
            writes.put(
                Key::ControlPlane(record.node.clone()),
                stored.map(Value::ControlPlane),
                Value::ControlPlane(ControlPlaneEntry::Spent),
            );
        }
        Ok(())
    }

    fn acknowledge(&self, record: &NodeRecord) -> Plan {
        let mut event = RecordEvent::new(Action::RecordChange, Outcome::Done, "Commit");
        event.describe(self.peer);
        event.node = Some(record.node.clone());
        event.role = Some(record.role);
        event.disk = Some(record.disk);
        event.generation = Some(record.generation);
        Plan::new(
            Some(event),
            Grant::Committed {
                generation: record.generation,
            },
        )
    }
}
