//! An API server that goes away, a replica that dies, documents that change: each with a control plane
//! of its own.

use crate::{
    setup::{Running, expected_key, http, image, images},
    site::{Kubelet, Site, apply, ask_join, start, store, until},
};
use api::Class;
use child_process::free_port;
use join_service::{Config, JoinService, StartError};
use native_kubernetes::ControlPlane;
use service_runtime::{Shutdown, config};
use std::{
    net::{Ipv4Addr, SocketAddr},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

async fn site() -> (ControlPlane, Site) {
    let control_plane = tokio::task::block_in_place(start);
    let site = Site::on(&control_plane).await;
    (control_plane, site)
}

/// Half a minute without API server: every call is unavailable, nothing is half made for good, and
/// everything goes on by itself.
#[tokio::test(flavor = "multi_thread")]
async fn without_api_server_it_is_unavailable_and_loses_nothing() {
    let (mut control_plane, site) = site().await;
    let service = site.replica().await;
    let (known, old) = site.worker(&service, "worker-0").await;
    let machine = site.cluster.machine();
    let node = site.join(&service, &machine).await;
    let disk = node.register().await;
    let gone = Instant::now();
    control_plane.kill_api_server().unwrap();
    let kubelet = Kubelet::new("worker-1");
    let asked = ask_join(&node, disk, "worker-1", Some(&kubelet)).await;
    assert_eq!(asked.unwrap_err(), Class::Unavailable);
    assert_eq!(node.commit(disk, 1).await, Err(Class::Unavailable));
    let again = site.rejoin(&service, &known).await;
    let asked = crate::site::ask_rejoin(&again, old, None).await;
    assert_eq!(asked.unwrap_err(), Class::Unavailable);
    until("not ready", async || service.http("/readyz").await.0 == 503).await;
    let (_, missing) = service.http("/readyz").await;
    assert!(missing.contains("api-server"), "{missing}");
    // A replica that starts meanwhile has nothing to begin with, and waits: alive and not ready.
    let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port().unwrap()));
    let config = site.config_with("127.0.0.1:0", &admin.to_string());
    let config: Config = config::load(&config).unwrap();
    let back = async {
        until("probes", async || {
            tokio::net::TcpStream::connect(admin).await.is_ok()
        })
        .await;
        assert_eq!(http(admin, "/healthz").await.0, 200);
        let (status, missing) = http(admin, "/readyz").await;
        assert_eq!(status, 503);
        assert!(missing.contains("api-server"), "{missing}");
        tokio::time::sleep(Duration::from_secs(30).saturating_sub(gone.elapsed())).await;
        tokio::task::block_in_place(|| control_plane.start_api_server().unwrap());
    };
    let waiting = async {
        let begun = Running::join_service(&config).await.unwrap();
        (begun, gone.elapsed())
    };
    let ((late, waited), ()) = tokio::join!(waiting, back);
    assert!(waited >= Duration::from_secs(30), "{waited:?}");
    until("the late one is ready", async || {
        late.http("/readyz").await.0 == 200
    })
    .await;
    late.stop().await;
    until("ready again", async || {
        service.http("/readyz").await.0 == 200
    })
    .await;
    // The signers need a while to find the API server again; a node asks until it has its ticket.
    until("a ticket", async || {
        let asked = ask_join(&node, disk, "worker-1", Some(&kubelet)).await;
        match asked {
            Ok((key, _)) => key == expected_key(disk),
            Err(class) => {
                assert_eq!(class, Class::Unavailable);
                false
            }
        }
    })
    .await;
    assert_eq!(node.commit(disk, 1).await, Ok(1));
    crate::site::ask_rejoin(&again, old, None).await.unwrap();
    assert_eq!(store(&control_plane).nodes().await.unwrap().len(), 2);
    service.stop().await;
}

/// A replica that is told to stop while it waits does.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_waits_for_the_api_server_can_be_stopped() {
    let (mut control_plane, site) = site().await;
    control_plane.kill_api_server().unwrap();
    let config: Config = config::load(&site.config("127.0.0.1:0")).unwrap();
    let (trigger, shutdown) = Shutdown::new();
    let stop = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        trigger.request();
    };
    let (begun, ()) = tokio::join!(JoinService::bind(&config, &shutdown), stop);
    assert!(matches!(begun, Err(StartError::Stopped)));
}

/// The replica is a process that is killed while it writes; the node's next try is another replica's.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_dies_between_writes_is_continued_by_another() {
    let (control_plane, site) = site().await;
    let other = site.replica().await;
    for round in 0..4_u64 {
        let address = format!("127.0.0.1:{}", free_port().unwrap());
        let mut dying = Command::new(env!("CARGO_BIN_EXE_join-service"))
            .arg("--config")
            .arg(site.config(&address))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let listens = async || tokio::net::TcpStream::connect(&address).await.is_ok();
        until("the replica listens", listens).await;
        let machine = site.cluster.machine();
        let path = evidence::AdmissionPath::Join;
        let node = site.dial(address.parse().unwrap(), &machine, path).await;
        let disk = node.register().await;
        let name = format!("worker-{round}");
        let kubelet = Kubelet::new(&name);
        // About ten steps, one after the other: the kill comes in the middle of them.
        control_plane.delay_etcd(Duration::from_millis(25));
        let asked = {
            let (node, name) = (node.clone(), name.clone());
            let kubelet = Kubelet {
                name: name.clone(),
                client: rcgen::KeyPair::generate().unwrap(),
                requests: kubelet.requests.clone(),
            };
            tokio::spawn(
                async move { ask_join(&node, disk, &name, Some(&kubelet)).await.map(drop) },
            )
        };
        tokio::time::sleep(Duration::from_millis(120 + 120 * round)).await;
        dying.kill().unwrap();
        dying.wait().unwrap();
        let answered = asked.await.unwrap();
        control_plane.delay_etcd(Duration::ZERO);
        println!("round {round}: {answered:?}");
        let node = site.join(&other, &machine).await;
        let (key, _) = ask_join(&node, disk, &name, Some(&kubelet)).await.unwrap();
        assert_eq!(key, expected_key(disk));
        assert_eq!(node.commit(disk, 1).await, Ok(1));
        let records = store(&control_plane).nodes().await.unwrap();
        let ours = records.iter().filter(|record| record.node.as_str() == name);
        assert_eq!(ours.count(), 1);
    }
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_change_together_and_never_back() {
    let (control_plane, site) = site().await;
    let service = site.replica().await;
    let machine = site.cluster.machine();
    machine.set_pcr(crate::setup::IMAGE_PCR, [9; 32]);
    let owner = site.cluster.owner.public_key().fingerprint();
    let path = evidence::AdmissionPath::Join;
    let dial = || crate::node::Node::dial(service.address, &machine, owner, path);
    assert!(dial().await.is_err());
    let mut updated = images().to_vec();
    updated.push(image("worker-9", &["worker"], [9; 32]));
    site.cluster.write_reference_values(5, &updated);
    site.publish(&control_plane).await;
    until("the new image", async || dial().await.is_ok()).await;
    // An older serial, another content of the same one, and a foreign signature change nothing.
    let failed = async || {
        let (_, text) = service.http("/metrics").await;
        let count = |line: &str| {
            line.starts_with("reload_failed_total")
                .then(|| line.to_owned())
        };
        text.lines().find_map(count)
    };
    for serial in [4, 5] {
        site.cluster.write_reference_values(serial, &images());
        let before = failed().await;
        site.publish(&control_plane).await;
        until("a refusal", async || failed().await != before).await;
        dial().await.unwrap();
    }
    // Not even by a replica that starts with nothing.
    site.cluster.write_reference_values(4, &images());
    site.publish(&control_plane).await;
    let error = site.try_replica().await.map(drop).unwrap_err();
    let error = service_runtime::Chain(&error).to_string();
    assert!(error.contains("serial 4 is below 5"), "{error}");
    // Nor are facts taken that are another cluster's.
    site.cluster.write_reference_values(6, &updated);
    site.publish(&control_plane).await;
    site.replica().await.stop().await;
    let mut foreign = site.facts(&control_plane);
    foreign.cluster_id = identity::ClusterId::from_bytes([9; 32]);
    let before = failed().await;
    let client = control_plane.kube_client().unwrap();
    apply(
        client,
        "constellation-cluster",
        foreign.config_map().data.unwrap(),
    )
    .await;
    until("a refusal", async || failed().await != before).await;
    dial().await.unwrap();
    service.stop().await;
}
