//! What a node of a cluster does not get, and what is left of its asking: nothing.

use crate::{
    setup::Running,
    site::{Kubelet, Site, ask_join, ask_rejoin, shared, store},
};
use api::Class;
use native_kubernetes::ControlPlane;

/// Asks for `name` with these requests, and looks whether anything was stored or asked for.
async fn refused(
    (control_plane, site): (&ControlPlane, &Site),
    service: &Running,
    name: &str,
    kubelet: Option<&Kubelet>,
) -> Class {
    let node = site.join(service, &site.cluster.machine()).await;
    let disk = node.register().await;
    let class = ask_join(&node, disk, name, kubelet).await.unwrap_err();
    let record = store(control_plane).node(disk).await.unwrap();
    assert_eq!(record, None, "a record although the requests were refused");
    class
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_for_somebody_else() {
    let (control_plane, site) = shared();
    let at = (control_plane, site);
    let service = site.replica().await;
    assert_eq!(
        refused(at, &service, "bare-0", None).await,
        Class::Malformed
    );
    // Another node, an API server, an address that is not the peer's, one that is everybody's.
    let mixed = Kubelet {
        requests: api::CertificateRequests {
            kubelet_client: Kubelet::new("victim").requests.kubelet_client,
            ..Kubelet::new("bare-0").requests
        },
        ..Kubelet::new("bare-0")
    };
    for kubelet in [
        Kubelet::new("victim"),
        mixed,
        Kubelet::asking("bare-0", &["bare-0", "victim"]),
        Kubelet::asking("bare-0", &["bare-0", "kubernetes.default.svc"]),
        Kubelet::asking("bare-0", &["bare-0", "192.0.2.1"]),
        Kubelet::asking("bare-0", &["bare-0", "127.0.0.1"]),
        Kubelet::asking("bare-0", &[]),
    ] {
        let class = refused(at, &service, "bare-0", Some(&kubelet)).await;
        assert_eq!(class, Class::Refused, "{}", kubelet.name);
    }
    // Behind a translation of addresses: no certificate, and nothing final.
    let translated = Kubelet::asking("bare-0", &["bare-0", "10.0.0.7"]);
    let class = refused(at, &service, "bare-0", Some(&translated)).await;
    assert_eq!(class, Class::Unavailable);
    let posing = Kubelet::new("kubernetes");
    let class = refused(at, &service, "kubernetes", Some(&posing)).await;
    assert_eq!(class, Class::Refused);
    let mut rubbish = Kubelet::new("bare-0");
    rubbish.requests.kubelet_serving = vec![0x30, 0x80, 0xff];
    assert_eq!(
        refused(at, &service, "bare-0", Some(&rubbish)).await,
        Class::Malformed
    );
    service.stop().await;
}

/// On a rejoin, too: the right name with too much in it is no mistake of a node that is not sure.
#[tokio::test(flavor = "multi_thread")]
async fn a_rejoin_does_not_get_more_than_a_join() {
    let (_, site) = shared();
    let service = site.replica().await;
    let (machine, disk) = site.worker(&service, "greedy").await;
    let node = site.rejoin(&service, &machine).await;
    let greedy = Kubelet::asking("greedy", &["greedy", "kubernetes"]);
    let refused = ask_rejoin(&node, disk, Some(&greedy)).await;
    assert_eq!(refused.unwrap_err(), Class::Refused);
    // Another machine, whatever it asks for.
    let thief = site.rejoin(&service, &site.cluster.machine()).await;
    let asked = ask_rejoin(&thief, disk, Some(&Kubelet::new("greedy"))).await;
    assert_eq!(asked.unwrap_err(), Class::Refused);
    service.stop().await;
}

/// A refusal before the decision is in the audit log as one by the decision is.
#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_recorded() {
    let (_, site) = shared();
    let service = site.replica().await;
    let node = site.join(&service, &site.cluster.machine()).await;
    let disk = node.register().await;
    // Nothing else is recorded by this replica meanwhile: it has no other node.
    let head = || service.log.head().seq;
    let before = head();
    ask_join(&node, disk, "noted", None).await.unwrap_err();
    ask_join(&node, disk, "noted", Some(&Kubelet::new("other")))
        .await
        .unwrap_err();
    assert_eq!(head(), before + 2);
    service.stop().await;
}
