use super::{Desk, Step, ready_when_written};
use crate::{
    ControlPlaneEntry, Grant, NodeRecord, Plan, Refusal,
    record::RecordState,
    refusal::Describe,
    store::{Halt, Key, Value, Writes},
};
use audit::{Action, Outcome, RecordEvent};
use evidence::AdmissionPath;
use identity::{DiskId, Generation};

impl Desk<'_> {
    /// `Commit`: only the boot that got the latest ticket, only upwards, and the same one twice when
    /// the acknowledgement was lost.
    pub(super) fn commit(&self, disk: DiskId, generation: Generation) -> Result<Step, Halt> {
        self.snapshot.need(&[
            Key::Disk(disk),
            Key::Attester(self.peer.attester),
            Key::Record(disk),
        ])?;
        let record = self.live_record(disk)?;
        if record.boot != self.peer.boot {
            return Err(Refusal::Superseded { disk }.into());
        }
        let mut writes = Writes::default();
        if record.committed != Some(self.peer.boot) || record.generation != generation {
            writes.record(Some(record), self.committed(record, generation)?);
        }
        self.spend_control_plane(record, &mut writes)?;
        Ok(ready_when_written(writes, || self.acknowledge(record)))
    }

    fn committed(
        &self,
        record: &NodeRecord,
        generation: Generation,
    ) -> Result<NodeRecord, Refusal> {
        let spent = record.committed == Some(self.peer.boot);
        if generation <= record.generation || spent {
            return Err(Refusal::GenerationNotNew {
                disk: record.disk,
                recorded: record.generation,
                got: generation,
            });
        }
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
