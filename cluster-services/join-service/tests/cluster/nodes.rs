//! `kubectl delete node`.

use crate::site::{Kubelet, ask_join, ask_rejoin, kube_node, kube_nodes, shared, store, until};
use api::Class;
use identity::DiskId;
use kube::api::{DeleteParams, PostParams};
use native_kubernetes::ControlPlane;
use std::time::Duration;

async fn observed(control_plane: &ControlPlane, disk: DiskId) -> kube_store::ObservedNode {
    store(control_plane).node(disk).await.unwrap().unwrap()
}

async fn until_buried(control_plane: &ControlPlane, disk: DiskId) {
    until("the tombstone", async || {
        observed(control_plane, disk).await.record.is_tombstone()
    })
    .await;
}

async fn until_seen(control_plane: &ControlPlane, disk: DiskId, uid: Option<&str>) {
    until("the node is observed", async || {
        observed(control_plane, disk).await.node_uid.as_deref() == uid
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_worker_is_buried_and_its_name_is_free() {
    let (control_plane, site) = shared();
    let service = site.replica().await;
    let (machine, disk) = site.worker(&service, "doomed").await;
    let nodes = kube_nodes(control_plane);
    let created = nodes
        .create(&PostParams::default(), &kube_node("doomed"))
        .await;
    let uid = created.unwrap().metadata.uid;
    until_seen(control_plane, disk, uid.as_deref()).await;
    nodes
        .delete("doomed", &DeleteParams::default())
        .await
        .unwrap();
    until_buried(control_plane, disk).await;
    let node = site.rejoin(&service, &machine).await;
    let asked = ask_rejoin(&node, disk, Some(&Kubelet::new("doomed"))).await;
    assert_eq!(asked.unwrap_err(), Class::Refused);
    // Another machine takes the name, and is not hit by the old deletion.
    let (_, later) = site.worker(&service, "doomed").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!observed(control_plane, later).await.record.is_tombstone());
    service.stop().await;
}

/// Nobody watched; the disk asks before anybody looked.
#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_during_downtime_is_noticed() {
    let (control_plane, site) = shared();
    let service = site.replica().await;
    let (machine, asking) = site.worker(&service, "missed-0").await;
    let (_, silent) = site.worker(&service, "missed-1").await;
    let nodes = kube_nodes(control_plane);
    for (name, disk) in [("missed-0", asking), ("missed-1", silent)] {
        let created = nodes.create(&PostParams::default(), &kube_node(name)).await;
        let uid = created.unwrap().metadata.uid;
        until_seen(control_plane, disk, uid.as_deref()).await;
    }
    service.stop().await;
    // Replicas of other tests may watch; then this shows less, and is no less true.
    for name in ["missed-0", "missed-1"] {
        nodes.delete(name, &DeleteParams::default()).await.unwrap();
    }
    let service = site.replica().await;
    let node = site.rejoin(&service, &machine).await;
    let asked = ask_rejoin(&node, asking, Some(&Kubelet::new("missed-0"))).await;
    assert_eq!(asked.unwrap_err(), Class::Refused);
    until_buried(control_plane, silent).await;
    service.stop().await;
}

/// A Node that nobody ever saw was not deleted.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_never_registered_keeps_its_disk() {
    let (control_plane, site) = shared();
    let service = site.replica().await;
    let (machine, disk) = site.worker(&service, "unregistered").await;
    let node = site.rejoin(&service, &machine).await;
    ask_rejoin(&node, disk, Some(&Kubelet::new("unregistered")))
        .await
        .unwrap();
    assert!(!observed(control_plane, disk).await.record.is_tombstone());
    // Blank, its active record still refuses.
    let blank = site.join(&service, &machine.reboot()).await;
    let fresh = blank.register().await;
    let asked = ask_join(
        &blank,
        fresh,
        "unregistered",
        Some(&Kubelet::new("unregistered")),
    )
    .await;
    assert_eq!(asked.unwrap_err(), Class::Refused);
    service.stop().await;
}

/// Deleted and registered anew before anybody looked.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_another_uid_means_that_it_was_deleted() {
    let (control_plane, site) = shared();
    let service = site.replica().await;
    let (machine, disk) = site.worker(&service, "renewed").await;
    let nodes = kube_nodes(control_plane);
    let (create, node) = (PostParams::default(), kube_node("renewed"));
    let uid = nodes.create(&create, &node).await.unwrap().metadata.uid;
    until_seen(control_plane, disk, uid.as_deref()).await;
    service.stop().await;
    nodes
        .delete("renewed", &DeleteParams::default())
        .await
        .unwrap();
    nodes.create(&create, &node).await.unwrap();
    let service = site.replica().await;
    let node = site.rejoin(&service, &machine).await;
    let asked = ask_rejoin(&node, disk, Some(&Kubelet::new("renewed"))).await;
    assert_eq!(asked.unwrap_err(), Class::Refused);
    until_buried(control_plane, disk).await;
    service.stop().await;
}

/// What the Node's pods may read is not a new machine's.
#[tokio::test(flavor = "multi_thread")]
async fn no_join_takes_over_a_node_that_is_there() {
    let (control_plane, site) = shared();
    let service = site.replica().await;
    let nodes = kube_nodes(control_plane);
    let create = PostParams::default();
    nodes.create(&create, &kube_node("left")).await.unwrap();
    let node = site.join(&service, &site.cluster.machine()).await;
    let disk = node.register().await;
    let before = service.log.head().seq;
    let kubelet = Kubelet::new("left");
    let asked = ask_join(&node, disk, "left", Some(&kubelet)).await;
    assert_eq!(asked.unwrap_err(), Class::Unavailable);
    // The claims, which keep the name from everybody else, and the refusal; no key.
    assert_eq!(service.log.head().seq, before + 2);
    let claimed = store(control_plane).node(disk).await.unwrap();
    assert_eq!(
        claimed.unwrap().record.state,
        admission::RecordState::Issued
    );
    nodes
        .delete("left", &DeleteParams::default())
        .await
        .unwrap();
    ask_join(&node, disk, "left", Some(&kubelet)).await.unwrap();
    service.stop().await;
}
