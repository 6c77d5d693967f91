//! Joining and rejoining, and who may not.

use crate::setup::{CONTROL_PLANE_IMAGE, Cluster, IMAGE_PCR, assert_whole, expected_key};
use api::{Class, admin, grpc_web::CallError, join};
use attested_tls::RpcError;
use audit::{Action, Outcome};
use evidence::AdmissionPath;
use identity::Role;

#[tokio::test(flavor = "multi_thread")]
async fn a_real_tpm_joins_and_rejoins_with_the_same_key() {
    let cluster = Cluster::new();
    let authority = software_tpm::Authority::new().unwrap();
    let mut tpm = authority.manufacture().unwrap();
    // `swtpm_localca` certifies with its issuer, which is an authority as good as any.
    cluster.write_policy(2, &[&authority.issuer_pem().unwrap()]);
    let keys = cluster.start_key_service(0).await;
    let service = cluster.start_join_service(keys.address).await;
    let machine = crate::node::Machine::software(&tpm);
    let node = cluster.join(&service, &machine).await;
    let disk = node.register().await;
    assert_eq!(
        node.join(disk, "worker-0").await.unwrap(),
        expected_key(disk)
    );
    assert_eq!(node.commit(disk, 1).await, Ok(1));
    machine.set_pcr(15, [0xc1; 32]);
    drop((node, machine));
    tpm.power_cycle().unwrap();
    let machine = crate::node::Machine::software(&tpm);
    let node = cluster.rejoin(&service, &machine).await;
    let (key, generation, name) = node.rejoin(disk).await.unwrap();
    assert_eq!(
        (key, generation, name.as_str()),
        (expected_key(disk), 1, "worker-0")
    );
    assert_eq!(node.commit(disk, 2).await, Ok(2));
    service.stop().await;
    let actions: Vec<_> = cluster.events().iter().map(|event| event.action).collect();
    let once = [Action::Release, Action::RecordChange];
    assert_eq!(actions, [once, once].concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_boot_gets_one_key() {
    let cluster = Cluster::new();
    let keys = cluster.start_key_service(0).await;
    let service = cluster.start_join_service(keys.address).await;
    let machine = cluster.machine();
    let node = cluster.join(&service, &machine).await;
    let disk = node.register().await;
    node.join(disk, "worker-0").await.unwrap();
    node.commit(disk, 1).await.unwrap();
    let again = cluster.rejoin(&service, &machine).await;
    assert_eq!(again.rejoin(disk).await, Err(Class::Refused));
    // The latch says the same, whatever the records say.
    machine.set_pcr(15, [1; 32]);
    let owner = cluster.owner.public_key().fingerprint();
    let path = AdmissionPath::Rejoin;
    let latched = crate::node::Node::dial(service.address, &machine, owner, path).await;
    assert!(latched.is_err());
    service.stop().await;
    assert!(
        cluster
            .refusals()
            .iter()
            .any(|event| event.checks[0].check.as_str() == "PCR 15")
    );
}

/// The disk of a join that was never committed comes back after the machine began a newer one. Its
/// node must hear `ABORTED`, not a final refusal, or it would be refused in every boot from then on.
#[tokio::test(flavor = "multi_thread")]
async fn a_header_that_was_never_committed_starts_over() {
    let cluster = Cluster::new();
    let keys = cluster.start_key_service(0).await;
    let service = cluster.start_join_service(keys.address).await;
    let mut machine = cluster.machine();
    let mut disks = Vec::new();
    for _ in 0..2 {
        let node = cluster.join(&service, &machine).await;
        let disk = node.register().await;
        node.join(disk, "worker-0").await.unwrap();
        disks.push(disk);
        machine = machine.reboot();
    }
    let request = join::IssueRejoinTicketRequest {
        disk_uuid: disks[0].to_string(),
        key_version: 1,
        certificate_requests: None,
    };
    let node = cluster.rejoin(&service, &machine).await;
    let answer = node
        .call::<_, join::IssueRejoinTicketResponse>("IssueRejoinTicket", request)
        .await;
    let Err(RpcError::Call {
        source: CallError::Status(status),
        ..
    }) = answer
    else {
        panic!("{answer:?}")
    };
    assert_eq!(status.code, 10, "{status}");
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_machine_does_not_get_the_disk_or_the_name() {
    let cluster = Cluster::new();
    let keys = cluster.start_key_service(0).await;
    let service = cluster.start_join_service(keys.address).await;
    let (first, second) = (cluster.machine(), cluster.machine());
    let node = cluster.join(&service, &first).await;
    let disk = node.register().await;
    node.join(disk, "worker-0").await.unwrap();
    node.commit(disk, 1).await.unwrap();
    let thief = cluster.rejoin(&service, &second).await;
    assert_eq!(thief.rejoin(disk).await, Err(Class::Refused));
    let thief = cluster.join(&service, &second).await;
    let other = thief.register().await;
    assert_eq!(thief.join(disk, "worker-1").await, Err(Class::Refused));
    assert_eq!(thief.join(other, "worker-0").await, Err(Class::Refused));
    assert_eq!(thief.commit(disk, 9).await, Err(Class::Refused));
    assert_eq!(
        thief.join(other, "worker-1").await.unwrap(),
        expected_key(other)
    );
    assert_eq!(cluster.nodes().await.len(), 2);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blank_disk_with_an_active_record_is_refused_until_the_operator_forgets_it() {
    let cluster = Cluster::new();
    let keys = cluster.start_key_service(0).await;
    let service = cluster.start_join_service(keys.address).await;
    let machine = cluster.machine();
    let node = cluster.join(&service, &machine).await;
    let disk = node.register().await;
    node.join(disk, "worker-0").await.unwrap();
    node.commit(disk, 1).await.unwrap();
    let rebooted = machine.reboot();
    let blank = cluster.join(&service, &rebooted).await;
    let fresh = blank.register().await;
    assert_ne!(fresh, disk);
    assert_eq!(blank.join(fresh, "worker-0").await, Err(Class::Refused));
    let refusal = cluster.refusals().pop().unwrap();
    let expected = refusal.checks[0].expected.to_string();
    assert!(
        expected.contains("worker-0") && expected.contains(&disk.to_string()),
        "{expected}"
    );
    let forget = admin::ForgetNodeRequest {
        node_name: "worker-0".into(),
    };
    cluster.operator().forget_node(forget).await.unwrap();
    assert_eq!(
        blank.join(fresh, "worker-0").await.unwrap(),
        expected_key(fresh)
    );
    blank.commit(fresh, 1).await.unwrap();
    let old = cluster.rejoin(&service, &machine.reboot()).await;
    assert_eq!(old.rejoin(disk).await, Err(Class::Refused));
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_node_needs_its_image_and_an_entry() {
    let cluster = Cluster::new();
    let keys = cluster.start_key_service(0).await;
    let service = cluster.start_join_service(keys.address).await;
    let role = Role::ControlPlane;
    let open = || admin::OpenControlPlaneRequest {
        node_name: "control-0".into(),
    };
    let worker = cluster.join(&service, &cluster.machine()).await;
    cluster.operator().open_control_plane(open()).await.unwrap();
    let disk = worker.register().await;
    assert_eq!(
        worker.join_as(disk, "control-0", role).await,
        Err(Class::Refused)
    );
    let machine = cluster.machine();
    machine.set_pcr(IMAGE_PCR, CONTROL_PLANE_IMAGE);
    let node = cluster.join(&service, &machine).await;
    let disk = node.register().await;
    assert_eq!(
        node.join_as(disk, "control-1", role).await,
        Err(Class::Refused)
    );
    node.join_as(disk, "control-0", role).await.unwrap();
    node.commit(disk, 1).await.unwrap();
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parallel_requests_make_one_record() {
    let cluster = Cluster::new();
    let keys = cluster.start_key_service(0).await;
    let service = cluster.start_join_service(keys.address).await;
    let machine = cluster.machine();
    let mut racers = Vec::new();
    let mut disk = None;
    for _ in 0..8 {
        let node = cluster.join(&service, &machine).await;
        let disk = match disk {
            Some(disk) => disk,
            None => *disk.insert(node.register().await),
        };
        racers.push(tokio::spawn(
            async move { node.join(disk, "worker-0").await },
        ));
    }
    for racer in racers {
        assert_eq!(racer.await.unwrap().unwrap(), expected_key(disk.unwrap()));
    }
    let mut rivals = Vec::new();
    for _ in 0..8 {
        let node = cluster.join(&service, &cluster.machine()).await;
        rivals.push(tokio::spawn(async move {
            let disk = node.register().await;
            node.join(disk, "worker-1").await
        }));
    }
    let mut winners = 0;
    for rival in rivals {
        winners += usize::from(rival.await.unwrap().is_ok());
    }
    assert_eq!(winners, 1);
    assert_eq!(cluster.nodes().await.len(), 2);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_request_is_named_in_the_log_only() {
    let cluster = Cluster::new();
    let keys = cluster.start_key_service(0).await;
    let service = cluster.start_join_service(keys.address).await;
    let node = cluster.join(&service, &cluster.machine()).await;
    let bad = join::IssueJoinTicketRequest {
        disk_uuid: "../../etc".into(),
        node_name: "worker-0".into(),
        role: 2,
        certificate_requests: None,
    };
    let error = node
        .call::<_, join::IssueJoinTicketResponse>("IssueJoinTicket", bad)
        .await
        .unwrap_err();
    assert_eq!(error.class(), Class::Malformed);
    let huge = join::IssueJoinTicketRequest {
        certificate_requests: Some(join::CertificateRequests {
            kubelet_client: vec![0; 100_000],
            kubelet_serving: vec![1],
        }),
        ..Default::default()
    };
    let answer = node
        .call::<_, join::IssueJoinTicketResponse>("IssueJoinTicket", huge)
        .await;
    assert!(answer.is_err());
    let node = cluster.join(&service, &cluster.machine()).await;
    let commit = node.call::<_, join::CommitResponse>("Commit", join::CommitRequest::default());
    assert_eq!(commit.await.unwrap_err().class(), Class::Malformed);
    service.stop().await;
    let refusals = cluster.refusals();
    assert!(
        refusals
            .iter()
            .all(|event| event.outcome == Outcome::Malformed)
    );
    assert_eq!(refusals.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_whole_and_signed_after_a_stop() {
    let cluster = Cluster::new();
    let keys = cluster.start_key_service(0).await;
    let service = cluster.start_join_service(keys.address).await;
    let node = cluster.join(&service, &cluster.machine()).await;
    let disk = node.register().await;
    node.join(disk, "worker-0").await.unwrap();
    let log = service.log.clone();
    service.stop().await;
    assert_whole(&cluster.join_log(), &log);
    assert!(
        !cluster
            .join_log()
            .contains(&hex::encode(expected_key(disk)))
    );
}
