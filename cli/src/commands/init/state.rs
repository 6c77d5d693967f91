//! `init.json`: what an init is for and how far it got. Written whole, fsynced, before anything that
//! follows from it leaves this machine.

use admission::{BootClaim, BootId, Claim, InitEntry, Key, NodeRecord, Value};
use hand_off::KubernetesMaterial;
use identity::NodeName;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The cluster that was asked for; a later run must ask for the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Plan {
    /// The first node.
    pub(super) node_name: NodeName,
    /// What all of its nodes will be told.
    pub(super) kubernetes: KubernetesMaterial,
}

/// The whole file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    /// Format version, 1.
    pub(super) version: u32,
    /// What was asked for.
    pub(super) plan: Plan,
    /// The disk and the machine, from the moment a machine was given the disk's id.
    pub(super) init: Option<InitEntry>,
    /// The record, from the moment a key was released.
    pub(super) record: Option<NodeRecord>,
    /// What the boots of this init got.
    pub(super) boots: Vec<BootClaim>,
}

impl State {
    /// Nothing has happened yet.
    pub(super) const fn new(plan: Plan) -> Self {
        Self {
            version: 1,
            plan,
            init: None,
            record: None,
            boots: Vec::new(),
        }
    }

    /// Whether the operator has the result.
    pub(super) fn is_finished(&self) -> bool {
        self.init.is_some_and(|init| init.finished)
    }

    /// Whether a header of this init is on the disk, so that its bootstrapper may be at work.
    pub(super) fn is_committed(&self) -> bool {
        let record = self.record.as_ref();
        record.is_some_and(|record| record.committed.is_some())
    }

    /// The objects of the admission core that this file stands for.
    pub(super) fn objects(&self) -> BTreeMap<Key, Value> {
        let mut objects = BTreeMap::new();
        if let Some(init) = self.init {
            objects.insert(Key::Init, Value::Init(init));
        }
        for boot in &self.boots {
            objects.insert(Key::Boot(boot.boot), Value::Boot(*boot));
        }
        if let Some(record) = &self.record {
            let claim = Value::Claim(Claim {
                disk: record.disk,
                boot: BootId::OPERATOR,
                attester: record.attester,
            });
            objects.insert(Key::Disk(record.disk), claim.clone());
            objects.insert(Key::Name(record.node.clone()), claim);
            if record.attester.names_machine() {
                objects.insert(Key::Attester(record.attester), Value::Attester(record.disk));
            }
            objects.insert(Key::Record(record.disk), Value::Record(record.clone()));
        }
        objects
    }

    /// This file after the core changed the objects.
    pub(super) fn after(&self, objects: &BTreeMap<Key, Value>) -> Self {
        let mut after = Self::new(self.plan.clone());
        for value in objects.values() {
            match value {
                Value::Boot(boot) => after.boots.push(*boot),
                Value::Init(init) => after.init = Some(*init),
                Value::Record(record) => after.record = Some(record.clone()),
                // Made anew from the record; there are no control-plane entries on this path.
                Value::Attester(_) | Value::Claim(_) | Value::ControlPlane(_) => {}
            }
        }
        after
    }
}
