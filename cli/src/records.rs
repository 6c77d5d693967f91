//! Node records as the operator keeps them: listed by the join service, read by `recover`.

use admission::{BootClaim, BootId, NodeRecord, RecordState, SealingKeyHash, TombstoneCause};
use anyhow::{Context as _, Result, bail};
use api::admin::{ListNodesResponse, Node, NodeRole, NodeState as StateMessage, SpentBoot};
use appraisal::AttesterIdentity;
use identity::{DiskId, Generation, KeyVersion, NodeName, Role};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, path::Path};

use crate::documents;

/// What `constellation node list --output json` prints.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Records {
    pub(crate) nodes: Vec<Record>,
    /// What boots without a latch got: `recover` gives such a boot no second release.
    pub(crate) boots: Vec<BootClaim>,
}

/// One record.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    pub(crate) node: NodeName,
    pub(crate) role: Role,
    pub(crate) state: NodeState,
    pub(crate) disk: DiskId,
    pub(crate) attester: AttesterIdentity,
    pub(crate) image: String,
    pub(crate) generation: Generation,
    pub(crate) key_version: KeyVersion,
    /// Seconds since 1970.
    pub(crate) created: u64,
    /// Seconds since 1970.
    pub(crate) last_seen: u64,
}

/// Where a record is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum NodeState {
    /// Committed: the disk has data.
    Active,
    /// The operator forgot the node; the disk id is dead.
    Forgotten,
    /// A ticket was issued, no Commit came yet.
    Issued,
    /// A join that was never committed; the disk id is dead.
    Superseded,
}

impl NodeState {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Forgotten => "forgotten",
            Self::Issued => "issued",
            Self::Superseded => "superseded",
        }
    }
}

impl Records {
    /// Reads the service's answer.
    pub(crate) fn from_message(message: ListNodesResponse) -> Result<Self> {
        let nodes = message.nodes.into_iter().map(Record::from_message);
        let boots = message.boots.iter().map(spent_boot);
        Ok(Self {
            nodes: nodes
                .collect::<Result<_>>()
                .context("answer of the join service")?,
            boots: boots
                .collect::<Result<_>>()
                .context("answer of the join service")?,
        })
    }
}

impl Records {
    /// Replaces the file by these records, and keeps the boots in it that the service knows nothing of.
    pub(crate) fn update(&self, path: &Path) -> Result<()> {
        if !path.exists() {
            return documents::create(path, self);
        }
        let kept: Self = documents::read(path)?;
        let mut records = self.clone();
        records.boots.extend(kept.boots_beside(self));
        documents::replace(path, &records)
    }

    /// The boots of these records that `others` lack.
    pub(crate) fn boots_beside(&self, others: &Self) -> impl Iterator<Item = &BootClaim> {
        let known: BTreeSet<BootId> = others.boots.iter().map(|claim| claim.boot).collect();
        let unknown = move |claim: &&BootClaim| !known.contains(&claim.boot);
        self.boots.iter().filter(unknown)
    }
}

fn spent_boot(message: &SpentBoot) -> Result<BootClaim> {
    Ok(BootClaim {
        disk: message.disk_uuid.parse()?,
        boot: BootId::from_bytes(message.boot.as_slice().try_into()?),
        attester: AttesterIdentity::SevSnp,
        sealing_key: SealingKeyHash::from_bytes(message.sealing_key.as_slice().try_into()?),
        committed: message.committed.map(Generation),
    })
}

impl From<NodeRecord> for Record {
    fn from(record: NodeRecord) -> Self {
        Self {
            node: record.node,
            role: record.role,
            state: match record.state {
                RecordState::Active => NodeState::Active,
                RecordState::Issued => NodeState::Issued,
                RecordState::Tombstone(TombstoneCause::Forgotten) => NodeState::Forgotten,
                RecordState::Tombstone(TombstoneCause::Superseded) => NodeState::Superseded,
            },
            disk: record.disk,
            attester: record.attester,
            image: record.image,
            generation: record.generation,
            key_version: record.key_version,
            created: record.created.0,
            last_seen: record.last_seen.0,
        }
    }
}

impl Record {
    fn from_message(node: Node) -> Result<Self> {
        let (role, state) = (node.role(), node.state());
        Ok(Self {
            node: node.node_name.parse()?,
            role: match role {
                NodeRole::ControlPlane => Role::ControlPlane,
                NodeRole::Worker => Role::Worker,
                NodeRole::Unspecified => bail!("node without a role"),
            },
            state: match state {
                StateMessage::Active => NodeState::Active,
                StateMessage::Forgotten => NodeState::Forgotten,
                StateMessage::Issued => NodeState::Issued,
                StateMessage::Superseded => NodeState::Superseded,
                StateMessage::Unspecified => bail!("node without a state"),
            },
            disk: node.disk_uuid.parse()?,
            attester: node.attester.parse()?,
            image: node.image,
            generation: Generation(node.generation),
            key_version: KeyVersion(node.key_version),
            created: node.created,
            last_seen: node.last_seen,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(boots: &[u8]) -> Records {
        let claim = |boot: &u8| BootClaim {
            disk: DiskId::from_bytes([1; 16]),
            boot: BootId::of_report_id(&[*boot; 32]),
            attester: AttesterIdentity::SevSnp,
            sealing_key: SealingKeyHash::of(&[*boot; 32]),
            committed: None,
        };
        Records {
            nodes: Vec::new(),
            boots: boots.iter().map(claim).collect(),
        }
    }

    #[test]
    fn an_updated_file_keeps_what_the_service_knows_nothing_of() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nodes.json");
        records(&[1, 2]).update(&path).unwrap();
        records(&[2, 3]).update(&path).unwrap();
        let kept: Records = documents::read(&path).unwrap();
        assert_eq!(kept.boots, records(&[2, 3, 1]).boots);
        let unknown: Vec<_> = kept.boots_beside(&records(&[2, 3])).copied().collect();
        assert_eq!(unknown, records(&[1]).boots);
    }
}
