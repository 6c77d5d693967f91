//! What the front door refuses, what the peer learns of it, and what the operator does.

use crate::{
    node::{Machine, Node},
    setup::{Cluster, IMAGE_PCR, Running},
};
use api::Class;
use attested_tls::SessionError;
use audit::{Outcome, RecordEvent};
use evidence::AdmissionPath;
use owner::{DocumentKind, OwnerFingerprint, OwnerKey, Seed};
use serde_json::json;
use software_tpm::keys::KeyAuthority;
use std::time::{Duration, Instant};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

async fn refused(cluster: &Cluster, service: &Running, machine: &Machine) -> RecordEvent {
    let owner = cluster.owner.public_key().fingerprint();
    let session = Node::dial(service.address, machine, owner, AdmissionPath::Join).await;
    match session.err().unwrap() {
        SessionError::RefusedByOwner(refusal) => {
            assert_eq!(refusal.class, Class::Refused);
            assert_eq!(refusal.checks, [], "an attester learns the class only");
        }
        error => panic!("{error:?}"),
    }
    // The record is queued when the peer is told; this one comes after it.
    let witness = cluster.join(service, &cluster.machine()).await;
    witness.join(witness.register().await, "witness").await.ok();
    cluster.refusals().remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_pcr_is_named_with_expected_and_got() {
    let cluster = Cluster::new();
    let keys = cluster.start_key_service(0).await;
    let service = cluster.start_join_service(keys.address).await;
    let machine = cluster.machine();
    machine.set_pcr(12, [0xee; 32]);
    let event = refused(&cluster, &service, &machine).await;
    assert_eq!(event.outcome, Outcome::Refused);
    let check = &event.checks[0];
    assert!(
        check.check.as_str().starts_with("PCR 12 of image"),
        "{check:?}"
    );
    assert_eq!(check.expected.as_str(), "0".repeat(64));
    assert_eq!(check.got.as_str(), "ee".repeat(32));
    assert!(event.attester.is_some());
    service
        .metric("handshakes_total{outcome=\"refused\"}")
        .await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tpm_of_another_authority_is_refused() {
    let cluster = Cluster::new();
    let keys = cluster.start_key_service(0).await;
    let service = cluster.start_join_service(keys.address).await;
    let foreign = KeyAuthority::new("somebody else's vtpm authority").unwrap();
    let machine = Machine::keys(foreign.manufacture().unwrap());
    let event = refused(&cluster, &service, &machine).await;
    assert_eq!(
        event.checks[0].check.as_str(),
        "endorsement key certificate"
    );
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tpm_without_a_certificate_needs_its_key_in_the_policy() {
    let cluster = Cluster::new();
    let mut tpm = cluster.authority.manufacture().unwrap();
    tpm.forget_certificate();
    let machine = Machine::keys(tpm);
    let listing = |serial: u32, hash: &str| {
        let policy = json!({
            "version": 1, "serial": serial, "evidence": ["tpm"],
            "tpm": {"pcrs": appraisal::REQUIRED_PCRS, "ek_hashes": [hash]},
        });
        cluster.write_signed("policy.json", DocumentKind::Policy, &policy, &cluster.owner);
    };
    listing(2, &"ab".repeat(32));
    let keys = cluster.start_key_service(0).await;
    let service = cluster.start_join_service(keys.address).await;
    let owner = cluster.owner.public_key().fingerprint();
    let dial = async || Node::dial(service.address, &machine, owner, AdmissionPath::Join).await;
    assert!(dial().await.is_err());
    while cluster.refusals().is_empty() {}
    let check = cluster.refusals().remove(0).checks.remove(0);
    assert_eq!(check.check.as_str(), "endorsement key");
    listing(3, check.got.as_str());
    let node = loop {
        match dial().await {
            Ok(node) => break node,
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    };
    node.join(node.register().await, "worker-0").await.unwrap();
    service.stop().await;
}

/// The public parts of a TPM are no secret: whoever sends them is not that TPM, and the audit log
/// must not say so.
#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_with_a_nodes_public_keys_is_recorded_without_its_name() {
    let cluster = Cluster::new();
    let keys = cluster.start_key_service(0).await;
    let service = cluster.start_join_service(keys.address).await;
    let (victim, own) = (cluster.machine(), cluster.machine());
    let stranger = own.claiming(&victim);
    let event = refused(&cluster, &service, &stranger).await;
    assert_eq!(event.checks[0].check.as_str(), "credential activation");
    assert_eq!(event.attester, None);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_cannot_fill_the_audit_log() {
    let cluster = Cluster::new();
    let keys = cluster.start_key_service(0).await;
    let limits = "handshakes_per_second = 1000\nhandshake_burst = 1000";
    let service = cluster.start_limited(keys.address, limits).await;
    let foreign = KeyAuthority::new("somebody else's vtpm authority").unwrap();
    let stranger = Machine::keys(foreign.manufacture().unwrap());
    let started = Instant::now();
    for _ in 0..100 {
        let owner = cluster.owner.public_key().fingerprint();
        let node = Node::dial(service.address, &stranger, owner, AdmissionPath::Join).await;
        assert!(node.is_err());
    }
    let changed = cluster.machine();
    changed.set_pcr(12, [0xee; 32]);
    refused(&cluster, &service, &changed).await;
    let refusals = cluster.refusals();
    let (proven, strangers): (Vec<_>, Vec<_>) = refusals
        .iter()
        .partition(|refusal| refusal.attester.is_some());
    assert_eq!(proven.len(), 1, "what nodes did is recorded all the same");
    let most = 61 + usize::try_from(started.elapsed().as_secs()).unwrap();
    assert!(strangers.len() <= most, "{} of 100", strangers.len());
    service.metric("refusals_not_recorded_total").await;
    service.stop().await;
}

/// Root on a node of ours can ask again and again, each time as that node, and be refused: it must not
/// make the log forget what it did before.
#[tokio::test(flavor = "multi_thread")]
async fn one_machine_cannot_fill_the_audit_log() {
    let cluster = Cluster::new();
    let keys = cluster.start_key_service(0).await;
    let limits = "handshakes_per_second = 1000\nhandshake_burst = 1000";
    let service = cluster.start_limited(keys.address, limits).await;
    let insider = cluster.machine();
    insider.set_pcr(15, [0xee; 32]);
    let started = Instant::now();
    for _ in 0..100 {
        let owner = cluster.owner.public_key().fingerprint();
        let node = Node::dial(service.address, &insider, owner, AdmissionPath::Rejoin).await;
        assert!(node.is_err());
    }
    let other = cluster.machine();
    other.set_pcr(12, [0xee; 32]);
    refused(&cluster, &service, &other).await;
    let refusals = cluster.refusals();
    let last = refusals.last().unwrap();
    let (others, insiders): (Vec<_>, Vec<_>) = refusals
        .iter()
        .partition(|refusal| refusal.attester == last.attester);
    assert_eq!(others.len(), 1, "another machine is recorded all the same");
    let most = 61 + usize::try_from(started.elapsed().as_secs()).unwrap();
    assert!(insiders.len() <= most, "{} of 100", insiders.len());
    service.metric("refusals_not_recorded_total").await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_another_owner_refuses_the_service() {
    let cluster = Cluster::new();
    let keys = cluster.start_key_service(0).await;
    let service = cluster.start_join_service(keys.address).await;
    let foreign = OwnerKey::from_seed(&Seed::from_slice(&[8; 32]).unwrap()).unwrap();
    let owner: OwnerFingerprint = foreign.public_key().fingerprint();
    let path = AdmissionPath::Join;
    let error = Node::dial(service.address, &cluster.machine(), owner, path)
        .await
        .err();
    assert!(matches!(error, Some(SessionError::Owner(_))), "{error:?}");
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_path_has_no_place_here() {
    let cluster = Cluster::new();
    let keys = cluster.start_key_service(0).await;
    let service = cluster.start_join_service(keys.address).await;
    let machine = cluster.machine();
    let owner = cluster.owner.public_key().fingerprint();
    for path in [AdmissionPath::Recover, AdmissionPath::Init] {
        assert!(
            Node::dial(service.address, &machine, owner, path)
                .await
                .is_err()
        );
    }
    let rejoin = cluster.rejoin(&service, &machine).await;
    let disk = rejoin.call::<_, api::join::RegisterDiskResponse>(
        "RegisterDisk",
        api::join::RegisterDiskRequest {},
    );
    assert_eq!(disk.await.unwrap_err().class(), Class::Malformed);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_and_noise_end_in_bounded_time() {
    let cluster = Cluster::new();
    let keys = cluster.start_key_service(0).await;
    let service = cluster
        .start_limited(keys.address, "handshake_seconds = 1")
        .await;
    let started = Instant::now();
    let mut silent = TcpStream::connect(service.address).await.unwrap();
    let mut noisy = TcpStream::connect(service.address).await.unwrap();
    noisy.write_all(&[0xff; 4096]).await.unwrap();
    let mut nothing = Vec::new();
    // Either an orderly end or a reset, but an end.
    let _ended = silent.read_to_end(&mut nothing).await;
    let _ended = noisy.read_to_end(&mut nothing).await;
    assert!(started.elapsed().as_secs() < 8, "{:?}", started.elapsed());
    cluster.join(&service, &cluster.machine()).await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_handshakes_of_one_address_are_turned_away() {
    let cluster = Cluster::new();
    let keys = cluster.start_key_service(0).await;
    let limits = "handshakes_per_second = 1\nhandshake_burst = 2";
    let service = cluster.start_limited(keys.address, limits).await;
    let owner = cluster.owner.public_key().fingerprint();
    let mut turned_away = 0;
    for _ in 0..8 {
        let node = Node::dial(
            service.address,
            &cluster.machine(),
            owner,
            AdmissionPath::Join,
        )
        .await;
        turned_away += usize::from(node.is_err());
    }
    assert!((4..=6).contains(&turned_away), "{turned_away}");
    service
        .metric("handshakes_total{outcome=\"limited\"}")
        .await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_images_are_valid_at_once() {
    let cluster = Cluster::new();
    let keys = cluster.start_key_service(0).await;
    let service = cluster.start_join_service(keys.address).await;
    let machine = cluster.machine();
    cluster.join(&service, &machine).await;
    machine.set_pcr(IMAGE_PCR, crate::setup::CONTROL_PLANE_IMAGE);
    cluster.join(&service, &machine).await;
    service.stop().await;
}
