//! What the cluster says about a disk, looked at before each release: a join service that was taken
//! over gets no key of a disk that has no record.

use admission::{Claim, ControlPlaneEntry, Key, NodeRecord, RecordState, Value};
use identity::{DiskId, NodeName, Role};
use kube_store::{KubeStore, StoreError};
use std::time::Duration;
use tokio::time::timeout;

/// The admission core's objects, read by quorum for each question.
#[derive(Debug)]
pub(crate) struct Claims(KubeStore);

/// Why nothing is released for a disk.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClaimError {
    /// Refused: no entry of the operator's for this disk, and its join is not over.
    #[error("node {node}: no control-plane entry for disk {disk}")]
    NoEntry {
        /// The node.
        node: NodeName,
        /// The disk.
        disk: DiskId,
    },
    /// Refused: nobody has admitted the disk.
    #[error("disk {0}: no record")]
    NoRecord(DiskId),
    /// Refused: the node is not one of the control plane.
    #[error("disk {disk}: expected role {expected}, got {got}")]
    Role {
        /// The disk.
        disk: DiskId,
        /// What would be needed.
        expected: Role,
        /// What the record says.
        got: Role,
    },
    /// Refused: the node's name belongs to another disk.
    #[error("node {node}: its name is not claimed for disk {disk}")]
    NotNamed {
        /// The node.
        node: NodeName,
        /// The disk.
        disk: DiskId,
    },
    /// Unavailable, or our own objects are broken: see the source.
    #[error("cannot read what the cluster says about the disk")]
    Store(#[source] StoreError),
    /// Unavailable: the cluster did not answer in time.
    #[error("no answer of the cluster in time")]
    Timeout,
    /// Refused: the disk's id is dead.
    #[error("disk {0}: forgotten")]
    Tombstone(DiskId),
    /// Internal: an object of ours holds something else.
    #[error("`{0}` does not hold what it should")]
    Unexpected(String),
}

impl Claims {
    pub(crate) const fn new(store: KubeStore) -> Self {
        Self(store)
    }

    /// The disk has a record and is not dead.
    pub(crate) async fn check_disk(&self, disk: DiskId) -> Result<NodeRecord, ClaimError> {
        in_time(self.disk(disk)).await
    }

    /// The disk is that of a control-plane node, or of one that becomes it: by the record, by the
    /// claim on its name, and by an entry that the operator made, unless the join is over.
    pub(crate) async fn check_control_plane(&self, disk: DiskId) -> Result<NodeRecord, ClaimError> {
        in_time(async {
            let record = self.disk(disk).await?;
            let name = Key::Name(record.node.clone());
            let entry = Key::ControlPlane(record.node.clone());
            let (name, entry) = tokio::try_join!(self.read(&name), self.read(&entry))?;
            of_control_plane(&record, name, entry)?;
            Ok(record)
        })
        .await
    }

    async fn disk(&self, disk: DiskId) -> Result<NodeRecord, ClaimError> {
        live(disk, self.read(&Key::Record(disk)).await?)
    }

    async fn read(&self, key: &Key) -> Result<Option<Value>, ClaimError> {
        self.0.read(key).await.map_err(ClaimError::Store)
    }
}

/// How long all reads of one check may take: less than a request may.
const CHECK: Duration = Duration::from_secs(7);

async fn in_time<T>(check: impl Future<Output = Result<T, ClaimError>>) -> Result<T, ClaimError> {
    match timeout(CHECK, check).await {
        Ok(checked) => checked,
        Err(_) => Err(ClaimError::Timeout),
    }
}

impl ClaimError {
    /// Whether the cluster gave no answer.
    pub(crate) const fn is_unavailable(&self) -> bool {
        match self {
            Self::Store(error) => error.is_unavailable(),
            Self::Timeout => true,
            _ => false,
        }
    }

    /// Whether an object, or the right to read it, is not as it should be.
    pub(crate) const fn is_internal(&self) -> bool {
        matches!(self, Self::Store(_) | Self::Unexpected(_)) && !self.is_unavailable()
    }
}

fn live(disk: DiskId, record: Option<Value>) -> Result<NodeRecord, ClaimError> {
    match record {
        None => Err(ClaimError::NoRecord(disk)),
        Some(Value::Record(record)) if record.disk == disk => {
            if record.is_tombstone() {
                Err(ClaimError::Tombstone(disk))
            } else {
                Ok(record)
            }
        }
        Some(_) => Err(ClaimError::Unexpected(Key::Record(disk).to_string())),
    }
}

fn of_control_plane(
    record: &NodeRecord,
    name: Option<Value>,
    entry: Option<Value>,
) -> Result<(), ClaimError> {
    let (node, disk) = (&record.node, record.disk);
    if record.role != Role::ControlPlane {
        return Err(ClaimError::Role {
            disk,
            expected: Role::ControlPlane,
            got: record.role,
        });
    }
    match name {
        Some(Value::Claim(Claim { disk: claimed, .. })) if claimed == disk => {}
        None | Some(Value::Claim(_)) => {
            let node = node.clone();
            return Err(ClaimError::NotNamed { node, disk });
        }
        Some(_) => return Err(ClaimError::Unexpected(Key::Name(node.clone()).to_string())),
    }
    // Once active, the node has the files already; its entry is spent.
    if record.state == RecordState::Active {
        return Ok(());
    }
    match entry {
        Some(Value::ControlPlane(ControlPlaneEntry::Bound {
            attester,
            disk: bound,
        })) if bound == disk && attester == record.attester => Ok(()),
        None | Some(Value::ControlPlane(_)) => Err(ClaimError::NoEntry {
            node: node.clone(),
            disk,
        }),
        Some(_) => Err(ClaimError::Unexpected(
            Key::ControlPlane(node.clone()).to_string(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{from_value, json};

    const DISK: &str = "00000000-0000-4000-8000-000000000001";
    const OTHER: &str = "00000000-0000-4000-8000-000000000002";

    fn record(role: &str, state: &serde_json::Value) -> NodeRecord {
        from_value(json!({
            "disk": DISK, "node": "cp-1", "role": role, "attester": "aa".repeat(32),
            "image": "image", "key_version": 1, "generation": 1, "state": state,
            "boot": "bb".repeat(32), "committed": null, "created": 1, "last_seen": 1,
        }))
        .unwrap()
    }

    fn claim(disk: &str) -> Option<Value> {
        let boot = "bb".repeat(32);
        let claim = json!({"claim": {"disk": disk, "boot": boot, "attester": "aa".repeat(32)}});
        Some(from_value(claim).unwrap())
    }

    fn entry(entry: &serde_json::Value) -> Option<Value> {
        Some(from_value(json!({"control-plane": entry})).unwrap())
    }

    fn bound(disk: &str, attester: &str) -> Option<Value> {
        entry(&json!({"bound": {"attester": attester.repeat(32), "disk": disk}}))
    }

    #[test]
    fn only_a_live_record_of_this_disk_counts() {
        let disk = DISK.parse().unwrap();
        let value = |state| Some(Value::Record(record("worker", &state)));
        assert!(live(disk, value(json!("issued"))).is_ok());
        assert!(live(disk, value(json!("active"))).is_ok());
        let forgotten = live(disk, value(json!({"tombstone": "forgotten"})));
        assert!(matches!(forgotten, Err(ClaimError::Tombstone(_))));
        assert!(matches!(live(disk, None), Err(ClaimError::NoRecord(_))));
        let other = live(OTHER.parse().unwrap(), value(json!("active")));
        assert!(matches!(other, Err(ClaimError::Unexpected(_))));
        assert!(matches!(
            live(disk, claim(DISK)),
            Err(ClaimError::Unexpected(_))
        ));
    }

    #[test]
    fn control_plane_files_need_record_name_and_entry() {
        let issued = record("control-plane", &json!("issued"));
        let active = record("control-plane", &json!("active"));
        let check = |record: &NodeRecord, name, entry| of_control_plane(record, name, entry);
        assert!(check(&issued, claim(DISK), bound(DISK, "aa")).is_ok());
        assert!(check(&active, claim(DISK), entry(&json!("spent"))).is_ok());
        assert!(check(&active, claim(DISK), None).is_ok());
        let worker = record("worker", &json!("active"));
        let refused = check(&worker, claim(DISK), bound(DISK, "aa"));
        assert!(matches!(refused, Err(ClaimError::Role { .. })));
        for name in [None, claim(OTHER)] {
            for record in [&issued, &active] {
                let refused = check(record, name.clone(), bound(DISK, "aa"));
                assert!(matches!(refused, Err(ClaimError::NotNamed { .. })));
            }
        }
        for entry in [
            None,
            entry(&json!("open")),
            entry(&json!("spent")),
            bound(OTHER, "aa"),
            bound(DISK, "cc"),
        ] {
            let refused = check(&issued, claim(DISK), entry);
            assert!(matches!(refused, Err(ClaimError::NoEntry { .. })));
        }
        let rubbish = check(&issued, entry(&json!("open")), bound(DISK, "aa"));
        assert!(matches!(rubbish, Err(ClaimError::Unexpected(_))));
        let rubbish = check(&issued, claim(DISK), claim(DISK));
        assert!(matches!(rubbish, Err(ClaimError::Unexpected(_))));
    }
}
