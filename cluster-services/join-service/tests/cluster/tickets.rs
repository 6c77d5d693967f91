//! Tickets that make a node of the cluster.

use crate::{
    node::Machine,
    setup::expected_key,
    site::{Kubelet, ask_join, ask_rejoin, kube_node, shared, store},
};
use admission::Key;
use api::Class;
use evidence::AdmissionPath;
use k8s_openapi::{
    api::{
        coordination::v1::{Lease, LeaseSpec},
        core::v1::{Node, Secret},
    },
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{Api, api::PostParams};
use rcgen::PublicKeyData;
use x509_cert::{Certificate, der::Encode};

/// The whole way: join, Commit, reboot, wait for the lease, rejoin.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_joins_and_rejoins_and_its_kubelet_is_its_own() {
    let (control_plane, site) = shared();
    let service = site.replica().await;
    let machine = site.cluster.machine();
    let node = site.join(&service, &machine).await;
    let disk = node.register().await;
    let kubelet = Kubelet::new("worker-a");
    let (key, material) = ask_join(&node, disk, "worker-a", Some(&kubelet))
        .await
        .unwrap();
    assert_eq!(key, expected_key(disk));
    // The same ticket again.
    let (again, _) = ask_join(&node, disk, "worker-a", Some(&kubelet))
        .await
        .unwrap();
    assert_eq!(again, key);
    assert_eq!(material.version, 1);
    assert_eq!(
        material.kubernetes.certificate_authority,
        control_plane.ca_pem()
    );
    assert!(material.control_plane.is_none());
    // Its key, and its name.
    let serving = Certificate::load_pem_chain(material.kubelet.serving_certificate.as_bytes());
    let serving = serving.unwrap().remove(0);
    let subject = serving.tbs_certificate().subject().to_string();
    assert!(subject.contains("CN=system:node:worker-a"), "{subject}");
    let client = Certificate::load_pem_chain(material.kubelet.client_certificate.as_bytes());
    let client = client.unwrap().remove(0);
    let spki = client.tbs_certificate().subject_public_key_info();
    assert_eq!(
        spki.to_der().unwrap(),
        kubelet.client.subject_public_key_info()
    );
    // The node authorizer knows it as this node and no other.
    let access = kubelet.client(control_plane, &material).await;
    let nodes: Api<Node> = Api::all(access.clone());
    nodes
        .create(&PostParams::default(), &kube_node("worker-a"))
        .await
        .unwrap();
    nodes.get("worker-a").await.unwrap();
    let other = nodes
        .create(&PostParams::default(), &kube_node("worker-z"))
        .await;
    assert!(matches!(other, Err(kube::Error::Api(status)) if status.code == 403));
    let secrets: Api<Secret> = Api::namespaced(access.clone(), "constellation-system");
    assert!(secrets.get("master-secret").await.is_err());
    assert_eq!(node.commit(disk, 1).await, Ok(1));
    // While its lease is live nobody gets the disk; later its next boot does.
    let leases: Api<Lease> = Api::namespaced(access, "kube-node-lease");
    let mut lease = Lease::default();
    lease.metadata.name = Some("worker-a".into());
    lease.spec = Some(LeaseSpec {
        holder_identity: Some("worker-a".into()),
        lease_duration_seconds: Some(40),
        renew_time: Some(MicroTime(Timestamp::now())),
        ..LeaseSpec::default()
    });
    let lease = leases.create(&PostParams::default(), &lease).await.unwrap();
    let machine = machine.reboot();
    let node = site.rejoin(&service, &machine).await;
    assert_eq!(
        ask_rejoin(&node, disk, None).await.unwrap_err(),
        Class::Unavailable
    );
    let mut ended = lease;
    let spec = ended.spec.as_mut().unwrap();
    spec.renew_time = Some(MicroTime(Timestamp::from_second(1_000_000_000).unwrap()));
    leases
        .replace("worker-a", &PostParams::default(), &ended)
        .await
        .unwrap();
    // It does not know its name before it has the key: first without, or with a wrong one.
    let hinted = Kubelet::new("worker-hinted");
    for kubelet in [None, Some(&hinted)] {
        let (name, material) = ask_rejoin(&node, disk, kubelet).await.unwrap();
        assert_eq!((name.as_str(), material), ("worker-a", None));
    }
    let kubelet = Kubelet::new("worker-a");
    let (_, material) = ask_rejoin(&node, disk, Some(&kubelet)).await.unwrap();
    let access = kubelet.client(control_plane, &material.unwrap()).await;
    let nodes: Api<Node> = Api::all(access);
    nodes.get("worker-a").await.unwrap();
    assert_eq!(node.commit(disk, 2).await, Ok(2));
    service.stop().await;
}

/// One machine in one boot asks two replicas at once: one disk, one claim, and both give the ticket.
#[tokio::test(flavor = "multi_thread")]
async fn one_node_asks_two_replicas() {
    let (control_plane, site) = shared();
    let replicas = [site.replica().await, site.replica().await];
    for round in 0..3 {
        let name = format!("twice-{round}");
        let machine = site.cluster.machine();
        let first = site.join(&replicas[0], &machine).await;
        let second = site.join(&replicas[1], &machine).await;
        let disk = first.register().await;
        let kubelet = Kubelet::new(&name);
        let (a, b) = tokio::join!(
            ask_join(&first, disk, &name, Some(&kubelet)),
            ask_join(&second, disk, &name, Some(&kubelet)),
        );
        assert_eq!(a.unwrap().0, expected_key(disk));
        assert_eq!(b.unwrap().0, expected_key(disk));
        // Committed through the one, acknowledged again by the other.
        assert_eq!(first.commit(disk, 1).await, Ok(1));
        assert_eq!(second.commit(disk, 1).await, Ok(1));
        let records = store(control_plane).nodes().await.unwrap();
        let ours = records.iter().filter(|record| record.node.as_str() == name);
        assert_eq!(ours.count(), 1);
        let claim = store(control_plane)
            .read(&Key::Name(name.parse().unwrap()))
            .await;
        assert!(claim.unwrap().is_some());
    }
    for replica in replicas {
        replica.stop().await;
    }
}

/// Two machines want one name from two replicas.
#[tokio::test(flavor = "multi_thread")]
async fn two_machines_race_for_a_name() {
    let (control_plane, site) = shared();
    let replicas = [site.replica().await, site.replica().await];
    let machines: [Machine; 2] = [site.cluster.machine(), site.cluster.machine()];
    let first = site
        .dial(replicas[0].address, &machines[0], AdmissionPath::Join)
        .await;
    let second = site
        .dial(replicas[1].address, &machines[1], AdmissionPath::Join)
        .await;
    let disks = [first.register().await, second.register().await];
    let kubelet = Kubelet::new("wanted");
    let (a, b) = tokio::join!(
        ask_join(&first, disks[0], "wanted", Some(&kubelet)),
        ask_join(&second, disks[1], "wanted", Some(&kubelet)),
    );
    assert!(a.is_ok() != b.is_ok(), "{a:?} {b:?}");
    assert_eq!(a.err().or_else(|| b.err()), Some(Class::Refused));
    let live = store(control_plane).nodes().await.unwrap();
    let live = live
        .iter()
        .filter(|record| record.node.as_str() == "wanted");
    assert_eq!(live.count(), 1);
    for replica in replicas {
        replica.stop().await;
    }
}
