use super::{Desk, Step, ready_when_written};
use crate::{
    NodeRecord, Refusal, TombstoneCause,
    record::RecordState,
    store::{Halt, Key, Writes},
};
use evidence::AdmissionPath;
use identity::{DiskId, KeyVersion};

impl Desk<'_> {
    /// `IssueRejoinTicket`: name and disk were claimed by the join; the boot is claimed now.
    pub(super) fn rejoin(&self, disk: DiskId, key_version: KeyVersion) -> Result<Step, Halt> {
        let record = self.live_record(disk)?;
        self.recoverable(record)?;
        self.role_in_image(record.role)?;
        if record.key_version != key_version {
            return Err(Refusal::KeyVersion {
                disk,
                expected: record.key_version,
                got: key_version,
            }
            .into());
        }
        let mut writes = Writes::default();
        self.claim_boot(disk, &mut writes)?;
        self.lease_ended(record)?;
        if record.boot != self.peer.boot {
            writes.record(Some(record), self.seen(record));
        }
        Ok(ready_when_written(writes, || {
            self.release(record, "IssueRejoinTicket")
        }))
    }

    /// The record of a disk that this machine may unlock: neither dead nor replaced, and with all
    /// of its claims. The claim of this boot is there to be looked at, too.
    pub(super) fn live_record(&self, disk: DiskId) -> Result<&NodeRecord, Halt> {
        self.snapshot.need(&[
            Key::Boot(self.peer.boot),
            Key::Disk(disk),
            Key::Attester(self.peer.attester),
            Key::Record(disk),
        ])?;
        let record = self.snapshot.record(disk)?;
        let record = record.ok_or(Refusal::UnknownDisk { disk })?;
        if let RecordState::Tombstone(cause) = record.state {
            return Err(self.dead(record, cause).into());
        }
        if record.attester != self.peer.attester {
            return Err(Refusal::AttesterMismatch {
                disk,
                expected: record.attester,
                got: self.peer.attester,
            }
            .into());
        }
        let named = self.snapshot.claim(Key::Name(record.node.clone()))?;
        let claimed = self.snapshot.claim(Key::Disk(disk))?;
        let mut holders = alloc::vec![named.map(|c| c.disk), claimed.map(|c| c.disk)];
        if record.attester.names_machine() {
            holders.push(self.snapshot.attester(record.attester)?);
        }
        for held in holders {
            match held {
                Some(held) if held == disk => {}
                Some(current) => return Err(Refusal::NotCurrent { disk, current }.into()),
                None => return Err(Refusal::UnknownDisk { disk }.into()),
            }
        }
        Ok(record)
    }

    /// Only a committed disk is handed off on the operator's word alone: the services do not learn of
    /// it, and an issued record promises that its disk is empty.
    fn recoverable(&self, record: &NodeRecord) -> Result<(), Refusal> {
        match (self.peer.path, record.state) {
            (AdmissionPath::Recover, RecordState::Issued) => {
                Err(Refusal::NothingToRecover { disk: record.disk })
            }
            _ => Ok(()),
        }
    }

    /// A header whose join was never committed guards nothing; its own machine starts over.
    fn dead(&self, record: &NodeRecord, cause: TombstoneCause) -> Refusal {
        let disk = record.disk;
        let ours = record.attester == self.peer.attester;
        match cause {
            TombstoneCause::Superseded if ours => Refusal::NeverCommitted { disk },
            TombstoneCause::Superseded | TombstoneCause::Forgotten => Refusal::Tombstoned { disk },
        }
    }

    fn lease_ended(&self, record: &NodeRecord) -> Result<(), Refusal> {
        match self.context.live_until {
            Some(until) if until > self.context.now => Err(Refusal::LeaseLive {
                node: record.node.clone(),
                until,
            }),
            _ => Ok(()),
        }
    }
}
