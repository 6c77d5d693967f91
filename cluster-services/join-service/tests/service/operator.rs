//! The operator's socket.

use crate::setup::{Cluster, expected_key, mode};
use api::{Class, admin};
use audit::{Action, Outcome};
use tonic::Code;

#[tokio::test(flavor = "multi_thread")]
async fn the_socket_is_for_its_owner_only_and_gone_after_a_stop() {
    let cluster = Cluster::new();
    let keys = cluster.start_key_service(0).await;
    let service = cluster.start_join_service(keys.address).await;
    assert_eq!(mode(&cluster.path("operator.socket")), 0o600);
    assert_eq!(mode(&cluster.path("store.redb")), 0o600);
    service.stop().await;
    assert!(!cluster.path("operator.socket").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_action_is_done_and_recorded() {
    let cluster = Cluster::new();
    let keys = cluster.start_key_service(0).await;
    let service = cluster.start_join_service(keys.address).await;
    let mut operator = cluster.operator();
    let (first, second) = (cluster.machine(), cluster.machine());
    let node = cluster.join(&service, &first).await;
    let disk = node.register().await;
    node.join(disk, "worker-0").await.unwrap();
    node.commit(disk, 1).await.unwrap();
    let listed = cluster.nodes().await.remove(0);
    assert_eq!(listed.node_name, "worker-0");
    assert_eq!(listed.disk_uuid, disk.to_string());
    assert_eq!(listed.state(), admin::NodeState::Active);
    assert_eq!(listed.generation, 1);
    assert_eq!(listed.image, "worker-1");
    // The board was replaced: the disk is in another machine now.
    let other = cluster.rejoin(&service, &second).await;
    assert_eq!(other.rejoin(disk).await, Err(Class::Refused));
    let got = cluster.refusals().pop().unwrap().checks[0].got.to_string();
    let rebind = admin::RebindDiskRequest {
        disk_uuid: disk.to_string(),
        attester: got,
    };
    operator.rebind_disk(rebind).await.unwrap();
    assert_eq!(other.rejoin(disk).await.unwrap().0, expected_key(disk));
    let accept = admin::AcceptGenerationRequest {
        disk_uuid: disk.to_string(),
        generation: 7,
    };
    operator.accept_generation(accept).await.unwrap();
    assert_eq!(cluster.nodes().await[0].generation, 7);
    service.stop().await;
    let actions: Vec<_> = cluster
        .events()
        .into_iter()
        .filter(|event| event.action == Action::OperatorAction)
        .map(|event| (event.request.to_string(), event.path.unwrap().to_string()))
        .collect();
    let verbs: Vec<_> = actions.iter().map(|(verb, _)| verb.as_str()).collect();
    assert_eq!(verbs, ["rebind", "accept-generation"]);
    assert!(actions.iter().all(|(_, who)| who.starts_with("uid ")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_without_a_record_is_adopted() {
    let cluster = Cluster::new();
    let keys = cluster.start_key_service(0).await;
    let service = cluster.start_join_service(keys.address).await;
    let machine = cluster.machine();
    let node = cluster.join(&service, &machine).await;
    let known = node.register().await;
    node.join(known, "worker-0").await.unwrap();
    let attester = cluster.nodes().await[0].attester.clone();
    let forget = admin::ForgetNodeRequest {
        node_name: "worker-0".into(),
    };
    cluster.operator().forget_node(forget).await.unwrap();
    let lost = "00000000-0000-4000-8000-000000000009";
    let node = cluster.rejoin(&service, &machine.reboot()).await;
    assert_eq!(
        node.rejoin(lost.parse().unwrap()).await,
        Err(Class::Refused)
    );
    let adopt = admin::AdoptDiskRequest {
        disk_uuid: lost.into(),
        node_name: "worker-0".into(),
        role: admin::NodeRole::Worker.into(),
        attester,
        generation: 4,
    };
    cluster.operator().adopt_disk(adopt).await.unwrap();
    let (key, generation, name) = node.rejoin(lost.parse().unwrap()).await.unwrap();
    assert_eq!(key, expected_key(lost.parse().unwrap()));
    assert_eq!((generation, name.as_str()), (4, "worker-0"));
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_done_says_why() {
    let cluster = Cluster::new();
    let keys = cluster.start_key_service(0).await;
    let service = cluster.start_join_service(keys.address).await;
    let mut operator = cluster.operator();
    let forget = |name: &str| admin::ForgetNodeRequest {
        node_name: name.into(),
    };
    let absent = operator.forget_node(forget("worker-9")).await.unwrap_err();
    assert_eq!(absent.code(), Code::FailedPrecondition);
    assert!(absent.message().contains("worker-9"), "{absent}");
    let malformed = operator.forget_node(forget("Worker 9")).await.unwrap_err();
    assert_eq!(malformed.code(), Code::InvalidArgument);
    assert!(malformed.message().contains("node_name"), "{malformed}");
    let adopt = admin::AdoptDiskRequest::default();
    let malformed = operator.adopt_disk(adopt).await.unwrap_err();
    assert!(malformed.message().contains("disk_uuid"), "{malformed}");
    service.stop().await;
    let events = cluster.events();
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].outcome, Outcome::Refused);
    assert_eq!(events[0].checks[0].check.as_str(), "record");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_head_is_the_last_line() {
    let cluster = Cluster::new();
    let keys = cluster.start_key_service(0).await;
    let service = cluster.start_join_service(keys.address).await;
    let mut operator = cluster.operator();
    let head = operator
        .audit_head(admin::AuditHeadRequest {})
        .await
        .unwrap()
        .into_inner();
    let last = cluster.join_log().lines().last().unwrap().to_owned();
    assert!(last.contains(&hex::encode(&head.hash)), "{last}");
    let head: audit::Head = serde_json::from_str(&head.head).unwrap();
    let text = cluster.join_log();
    let report = audit::verify(text.lines(), &[*service.log.public_key()], &[head]);
    assert_eq!(report.fault, None);
    service.stop().await;
}
