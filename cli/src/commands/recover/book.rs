//! The records file as a store of the admission core.

use admission::{
    BootClaim, BootId, Claim, Key, NodeRecord, Persisted, RecordState, Refusal, Snapshot, Step,
    Timestamp, TombstoneCause, Unsettled, Value, settle,
};
use anyhow::{Result, bail};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use crate::{
    admit::{Journal, Ledger},
    documents,
    output::WithHint as _,
    records::{NodeState, Record, Records},
};

/// The records of a cluster, and what this run of the command adds to them.
#[derive(Debug)]
pub(super) struct Book {
    path: PathBuf,
    records: Records,
    objects: BTreeMap<Key, Value>,
    journal: Journal,
}

impl Book {
    /// Opens the records; the file must be writable, because a Commit is recorded in it.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let journal = Journal::open(path, "recover one node at a time")?;
        let records: Records = documents::read(path).hint(
            "write it while the join service runs: `constellation node list --output json`",
        )?;
        if records.nodes.is_empty() {
            bail!("`{}` has no records", path.display());
        }
        let boots = records.boots.iter();
        let boots = boots.map(|claim| (Key::Boot(claim.boot), Value::Boot(*claim)));
        let objects = records
            .nodes
            .iter()
            .flat_map(objects)
            .chain(boots)
            .collect();
        Ok(Self {
            path: path.to_owned(),
            records,
            objects,
            journal,
        })
    }

    fn save(&mut self) -> Result<()> {
        let mut changed = self.take_boots();
        for record in &mut self.records.nodes {
            let Some(Value::Record(stored)) = self.objects.get(&Key::Record(record.disk)) else {
                continue;
            };
            changed |= record.generation != stored.generation || record.image != stored.image;
            record.generation = stored.generation;
            record.image.clone_from(&stored.image);
            record.last_seen = stored.last_seen.0;
            if stored.state == RecordState::Active {
                record.state = NodeState::Active;
            }
        }
        if changed {
            documents::replace(&self.path, &self.records)
        } else {
            Ok(())
        }
    }

    /// Keeps what boots without a latch got; whether that changed.
    fn take_boots(&mut self) -> bool {
        let claims = self.objects.values().filter_map(|value| match value {
            Value::Boot(claim) if !claim.attester.names_machine() => Some(*claim),
            _ => None,
        });
        let claims: Vec<BootClaim> = claims.collect();
        let changed = claims != self.records.boots;
        self.records.boots = claims;
        changed
    }
}

impl Ledger for Book {
    fn settle(
        &mut self,
        decide: &dyn Fn(&Snapshot) -> Result<Step, Refusal>,
    ) -> Result<Result<Persisted, Refusal>> {
        match settle(&mut self.objects, decide) {
            Ok(plan) => {
                self.save()?;
                Ok(Ok(plan.persisted()))
            }
            Err(Unsettled::Refused(refusal)) => Ok(Err(refusal)),
            Err(Unsettled::Store(never)) => match never {},
        }
    }

    fn audit(&self, now: Timestamp, event: &audit::RecordEvent) -> Result<()> {
        self.journal.append(now, event)
    }
}

/// The objects behind a record. A dead one keeps the record only: its claims may be another's.
fn objects(record: &Record) -> Vec<(Key, Value)> {
    let node = node_record(record);
    let claim = Value::Claim(Claim {
        disk: node.disk,
        boot: BootId::OPERATOR,
        attester: node.attester,
    });
    let mut objects = Vec::new();
    if !node.is_tombstone() {
        objects.push((Key::Disk(node.disk), claim.clone()));
        objects.push((Key::Name(node.node.clone()), claim));
        if node.attester.names_machine() {
            objects.push((Key::Attester(node.attester), Value::Attester(node.disk)));
        }
    }
    objects.push((Key::Record(node.disk), Value::Record(node)));
    objects
}

fn node_record(record: &Record) -> NodeRecord {
    NodeRecord {
        disk: record.disk,
        node: record.node.clone(),
        role: record.role,
        attester: record.attester,
        image: record.image.clone(),
        key_version: record.key_version,
        generation: record.generation,
        state: match record.state {
            NodeState::Active => RecordState::Active,
            NodeState::Forgotten => RecordState::Tombstone(TombstoneCause::Forgotten),
            NodeState::Issued => RecordState::Issued,
            NodeState::Superseded => RecordState::Tombstone(TombstoneCause::Superseded),
        },
        boot: BootId::OPERATOR,
        committed: None,
        created: Timestamp(record.created),
        last_seen: Timestamp(record.last_seen),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use admission::{Context, Peer, SealingKeyHash, decide};

    const DISK: &str = "ffffffff-ffff-4fff-bfff-ffffffffffff";

    fn write_records(folder: &Path, attester: &str) -> PathBuf {
        let path = folder.join("nodes.json");
        let record = serde_json::json!({
            "node": "worker-0", "role": "worker", "state": "active",
            "disk": DISK, "attester": attester,
            "image": "image", "generation": 3, "key_version": 1, "created": 1, "last_seen": 2,
        });
        let records = serde_json::json!({ "nodes": [record], "boots": [] });
        std::fs::write(&path, records.to_string()).unwrap();
        path
    }

    /// Each run of the command opens the records anew.
    fn rejoin(path: &Path, boot: u8, sealing_key: u8) -> Result<(), Refusal> {
        let peer = Peer {
            attester: appraisal::AttesterIdentity::SevSnp,
            image: "image".into(),
            roles: [identity::Role::Worker].into(),
            boot: BootId::of_report_id(&[boot; 32]),
            sealing_key: SealingKeyHash::of(&[sealing_key; 32]),
            path: evidence::AdmissionPath::Recover,
        };
        let request = admission::Request::IssueRejoinTicket {
            disk: DISK.parse().unwrap(),
            key_version: identity::KeyVersion(1),
        };
        let context = Context {
            now: Timestamp(3),
            key_version: identity::KeyVersion(1),
            live_until: None,
        };
        let mut book = Book::open(path).unwrap();
        let settled = book.settle(&|snapshot| decide(&request, &peer, &context, snapshot));
        settled.unwrap().map(drop)
    }

    #[test]
    fn a_boot_without_a_latch_is_recovered_once_over_several_runs() {
        let folder = tempfile::tempdir().unwrap();
        let path = write_records(folder.path(), "sev-snp");
        rejoin(&path, 1, 1).unwrap();
        rejoin(&path, 1, 1).unwrap();
        let disk = DISK.parse().unwrap();
        assert_eq!(rejoin(&path, 1, 2), Err(Refusal::BootSpent { disk }));
        rejoin(&path, 2, 2).unwrap();
        assert_eq!(rejoin(&path, 1, 3), Err(Refusal::BootSpent { disk }));
    }

    #[test]
    fn one_run_at_a_time_has_the_records() {
        let folder = tempfile::tempdir().unwrap();
        let path = write_records(folder.path(), &"0f".repeat(32));
        let book = Book::open(&path).unwrap();
        let error = Book::open(&path).unwrap_err();
        assert!(format!("{error:#}").contains("is in use"), "{error:#}");
        drop(book);
        drop(Book::open(&path).unwrap());
    }
}
