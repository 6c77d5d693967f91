//! Machines that ask, and how a store decides for them.

use admission::{BootId, OperatorAction, Peer, Request, SealingKeyHash, Timestamp};
use appraisal::AttesterIdentity;
use evidence::AdmissionPath;
use identity::{DiskId, KeyVersion, NodeName, Role};
use kube_store::{DecisionError, KubeStore};

pub(crate) const CONTEXT: admission::Context = admission::Context {
    now: Timestamp(100),
    key_version: KeyVersion::FIRST,
    live_until: None,
};

pub(crate) fn peer(machine: u8, boot: u8) -> Peer {
    Peer {
        attester: AttesterIdentity::Machine([machine; 32]),
        image: "image".into(),
        roles: [Role::Worker, Role::ControlPlane].into(),
        boot: BootId::of_sealing_key(&[boot; 32]),
        sealing_key: SealingKeyHash::of(&[boot; 32]),
        path: AdmissionPath::Join,
    }
}

pub(crate) const fn disk(number: u8) -> DiskId {
    DiskId::from_bytes([number; 16])
}

pub(crate) fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

/// A worker's request.
pub(crate) fn join(number: u8, node: &str) -> Request {
    join_as(number, node, Role::Worker)
}

pub(crate) fn join_as(number: u8, node: &str, role: Role) -> Request {
    Request::IssueJoinTicket {
        disk: disk(number),
        node: name(node),
        role,
    }
}

pub(crate) async fn ask(
    store: &KubeStore,
    peer: &Peer,
    request: &Request,
) -> Result<(), DecisionError> {
    let decided = store.settle(|snapshot| admission::decide(request, peer, &CONTEXT, snapshot));
    decided.await.map(|persisted| drop(persisted.audited()))
}

pub(crate) async fn act(store: &KubeStore, action: &OperatorAction) -> Result<(), DecisionError> {
    let decided = store.settle(|snapshot| admission::operate(action, &CONTEXT, snapshot));
    decided.await.map(|persisted| drop(persisted.audited()))
}
