//! Members of etcd whose nodes are no more.
//!
//! A control-plane node that is lost stays a member, and counts for etcd's majority, until somebody removes it.
//! Each control-plane node looks for members whose node the operator forgot, and removes them where a healthy
//! majority is left; docs/decisions/0022 says why it is the one to do so.

mod api;

use crate::{clients, error::PhaseError, node::Node};
use admission::{Key, NodeRecord, RecordState, TombstoneCause, Value};
use api::{Etcd, Member};
use identity::{NodeName, Role};
use k8s_openapi::api::core::v1::Node as NodeObject;
use kube::{Api, api::ListParams};
use kube_store::KubeStore;
use service_runtime::{Chain, Shutdown};
use std::{
    net::{IpAddr, Ipv4Addr},
    path::Path,
    time::Duration,
};

/// Between two looks.
const PAUSE: Duration = Duration::from_secs(15);

/// Where etcd keeps what makes it a member: there from its first start on.
const MEMBER: &str = "/var/lib/etcd/member";

/// What makes the kubelet start it.
const STATIC_POD: &str = "/etc/kubernetes/manifests/etcd.yaml";

/// What kubeadm and [`crate::rules`] call a control-plane node; a kubelet cannot label itself so.
const CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";

/// Removes members of forgotten nodes until shutdown is requested.
pub async fn keep(node: &Node, shutdown: &Shutdown) {
    if !node.is_control_plane() {
        return;
    }
    loop {
        tokio::select! {
            () = shutdown.requested() => return,
            () = tokio::time::sleep(PAUSE) => {}
        }
        tokio::select! {
            () = shutdown.requested() => return,
            looked = look(node) => if let Err(error) = looked {
                tracing::warn!(error = %Chain(&error), "members of etcd not looked after, again soon");
            }
        }
    }
}

async fn look(node: &Node) -> Result<(), PhaseError> {
    let etcd = Etcd::at(Ipv4Addr::LOCALHOST.into())?;
    // Members before records: one that joins in between is not in the list.
    let members = etcd.members().await?;
    let store = KubeStore::new(clients::administrator().await?);
    let own = store.node(node.hand_off.disk_uuid).await;
    let own = own.map_err(|error| PhaseError::Store(Box::new(error)))?;
    if own.is_none_or(|own| ends_membership(&own.record)) {
        tracing::warn!("the operator forgot this node: it removes no members of etcd");
        return Ok(());
    }
    for member in &members {
        if member.name != node.hand_off.node_name.as_str() && is_forgotten(&store, member).await? {
            return remove(&etcd, member, &members).await;
        }
    }
    Ok(())
}

/// Whether the disk that has the member's name is one that the operator forgot. A disk without a record, and
/// a name that nobody has, are no reason to remove anything.
async fn is_forgotten(store: &KubeStore, member: &Member) -> Result<bool, PhaseError> {
    let failed = |error| PhaseError::Store(Box::new(error));
    let Ok(name) = member.name.parse::<NodeName>() else {
        return Ok(false);
    };
    let claim = store.read(&Key::Name(name)).await.map_err(failed)?;
    let Some(Value::Claim(claim)) = claim else {
        return Ok(false);
    };
    let found = store.node(claim.disk).await.map_err(failed)?;
    Ok(found.is_some_and(|found| ends_membership(&found.record)))
}

/// Only the operator ends a control-plane node. What `kubectl delete node` leaves, or a join that never came to its
/// end, is a worker's or never was a member.
fn ends_membership(record: &NodeRecord) -> bool {
    record.role == Role::ControlPlane
        && record.state == RecordState::Tombstone(TombstoneCause::Forgotten)
}

/// Removes what a control-plane node of this name left in etcd, before this one becomes a member: the operator
/// let this node have the name, so what is there is its predecessor's, or of a join that was killed between two
/// steps. The address is the host's word: it ends a member that never started, or one that the operator forgot.
///
/// # Errors
/// [`PhaseError`]; [`PhaseError::AddressTaken`] if another member lives at this address.
pub async fn make_room(node: &Node) -> Result<(), PhaseError> {
    if Path::new(STATIC_POD).exists() || Path::new(MEMBER).exists() {
        tracing::info!("this node's etcd was started before: what is there is its own");
        return Ok(());
    }
    let (etcd, members) = other_member(node).await?;
    let peer = api::peer_url(node.address);
    let own = node.hand_off.node_name.as_str();
    let store = KubeStore::new(clients::administrator().await?);
    let mut left = members.clone();
    for old in &members {
        match standing(old, own, &peer) {
            Standing::Elsewhere => continue,
            Standing::Leftover => {}
            Standing::AtThisAddress if is_forgotten(&store, old).await? => {}
            Standing::AtThisAddress => {
                return Err(PhaseError::AddressTaken {
                    member: old.name.clone(),
                });
            }
        }
        remove(&etcd, old, &left).await?;
        left.retain(|member| member.id != old.id);
    }
    Ok(())
}

/// What a member is to a node that is about to become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Another node's.
    Elsewhere,
    /// Of the node's name, or of its address and never started.
    Leftover,
    /// Of another name, at the node's address.
    AtThisAddress,
}

fn standing(member: &Member, own: &str, peer: &String) -> Standing {
    match member.peer_urls.contains(peer) {
        _any if member.name == own => Standing::Leftover,
        false => Standing::Elsewhere,
        true if member.name.is_empty() => Standing::Leftover,
        true => Standing::AtThisAddress,
    }
}

/// An etcd that answers, of another control-plane node, and the members.
async fn other_member(node: &Node) -> Result<(Etcd, Vec<Member>), PhaseError> {
    let mut error = PhaseError::Missing("address of another control-plane node");
    for address in addresses(node).await? {
        let etcd = Etcd::at(address)?;
        match etcd.members().await {
            Ok(members) => return Ok((etcd, members)),
            Err(failed) => error = failed,
        }
    }
    Err(error)
}

/// Addresses of the other control-plane nodes. What a node says of its own is not trusted: an etcd there
/// needs a certificate of etcd's own authority.
async fn addresses(node: &Node) -> Result<Vec<IpAddr>, PhaseError> {
    let nodes: Api<NodeObject> = Api::all(clients::administrator().await?);
    let nodes = nodes
        .list(&ListParams::default().labels(CONTROL_PLANE))
        .await;
    let nodes = nodes.map_err(PhaseError::api("look at the control-plane nodes"))?;
    let own = Some(node.hand_off.node_name.as_str());
    let others = nodes
        .into_iter()
        .filter(|node| node.metadata.name.as_deref() != own);
    let addresses = others.filter_map(|node| node.status?.addresses).flatten();
    let internal = addresses.filter(|address| address.type_ == "InternalIP");
    Ok(internal
        .filter_map(|found| found.address.parse().ok())
        .collect())
}

/// Removes a member, if more than half of the others are well. etcd's own check lets a member go whose end
/// leaves one of two.
async fn remove(etcd: &Etcd, member: &Member, members: &[Member]) -> Result<(), PhaseError> {
    let others: Vec<_> = members
        .iter()
        .filter(|other| other.id != member.id)
        .collect();
    let mut healthy = 0;
    for other in &others {
        healthy += usize::from(other.is_healthy().await);
    }
    if !is_majority(healthy, others.len()) {
        return Err(PhaseError::NoMajority {
            member: member.name.clone(),
            healthy,
            others: others.len(),
        });
    }
    etcd.remove(member).await?;
    tracing::warn!(
        member = %member.name,
        id = %member.id,
        peers = %member.peer_urls.join(" "),
        "a member of etcd is removed: the operator forgot its node, or gave its name to another one"
    );
    Ok(())
}

const fn is_majority(healthy: usize, of: usize) -> bool {
    healthy > of / 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use admission::{BootId, Timestamp};
    use appraisal::AttesterIdentity;
    use identity::{DiskId, Generation, KeyVersion};

    #[test]
    fn only_the_operator_ends_a_member() {
        let record = |role, state| NodeRecord {
            disk: DiskId::from_bytes([1; 16]),
            node: "control-0".parse().unwrap(),
            role,
            attester: "77".repeat(32).parse::<AttesterIdentity>().unwrap(),
            image: String::new(),
            key_version: KeyVersion::FIRST,
            generation: Generation::FIRST,
            state,
            boot: BootId::OPERATOR,
            committed: None,
            created: Timestamp(0),
            last_seen: Timestamp(0),
        };
        let forgotten = RecordState::Tombstone(TombstoneCause::Forgotten);
        assert!(ends_membership(&record(Role::ControlPlane, forgotten)));
        assert!(
            !ends_membership(&record(Role::Worker, forgotten)),
            "`kubectl delete node` ends a worker, which may delete its own Node"
        );
        let superseded = RecordState::Tombstone(TombstoneCause::Superseded);
        for alive in [superseded, RecordState::Active, RecordState::Issued] {
            assert!(!ends_membership(&record(Role::ControlPlane, alive)));
        }
    }

    #[test]
    fn an_address_alone_ends_no_member_that_lives() {
        let peer = api::peer_url([10, 0, 0, 2].into());
        let member = |name: &str, at: &str| Member {
            id: "1".to_owned(),
            name: name.to_owned(),
            peer_urls: vec![at.to_owned()],
            client_urls: Vec::new(),
        };
        let of = |name, at| standing(&member(name, at), "control-1", &peer);
        let other = "https://10.0.0.3:2380";
        assert_eq!(of("control-0", &peer), Standing::AtThisAddress);
        assert_eq!(of("control-0", other), Standing::Elsewhere);
        assert_eq!(of("", other), Standing::Elsewhere);
        assert_eq!(of("", &peer), Standing::Leftover);
        assert_eq!(of("control-1", &peer), Standing::Leftover);
        assert_eq!(of("control-1", other), Standing::Leftover);
    }

    #[test]
    fn more_than_half_is_a_majority() {
        let majorities = [(1, 1), (2, 2), (2, 3), (3, 4), (3, 5)];
        assert!(
            majorities
                .iter()
                .all(|(healthy, of)| is_majority(*healthy, *of))
        );
        let none = [(0, 0), (0, 1), (1, 2), (1, 3), (2, 4), (2, 5)];
        assert!(none.iter().all(|(healthy, of)| !is_majority(*healthy, *of)));
    }
}
