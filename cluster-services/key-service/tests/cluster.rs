//! The key service in a cluster, on a real API server and with the rights of its manifests.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failed set-up fails the test; the lint knows test functions only"
)]

#[path = "cluster/client.rs"]
mod client;
#[path = "cluster/setup.rs"]
mod setup;

use kube::api::PostParams;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde_json::json;
use setup::{FILES, Site, client_config, disk, disk_key, files};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::time::sleep;
use tonic::Code;

fn key_of(number: u8) -> String {
    format!("state-disk/{}", disk(number))
}

#[tokio::test]
async fn replicas_share_authority_and_certificate() {
    let site = Site::start().await;
    let (one, two, three) = tokio::join!(site.replica(), site.replica(), site.replica());
    for replica in [&one, &two, &three] {
        replica.becomes("ready\n").await;
    }
    let secret = site.tls_secret().await;
    assert_eq!(
        secret.keys().collect::<Vec<_>>(),
        ["ca.crt", "tls.crt", "tls.key"]
    );
    let map = site.config_maps().get("service-ca").await.unwrap();
    assert_eq!(map.data.unwrap()["ca.crt"].as_bytes(), secret["ca.crt"]);
    site.store_record(disk(11), "worker-1", "worker", json!("active"))
        .await;
    for replica in [&one, &two, &three] {
        let client = replica.client(client_config(&secret));
        assert_eq!(
            client.get(&key_of(11), 32, 1).await.unwrap(),
            disk_key(disk(11))
        );
    }
    // Nobody replaces what another one made, not even a replica that starts later.
    let four = site.replica().await;
    four.becomes("ready\n").await;
    assert_eq!(site.tls_secret().await, secret);
    for replica in [one, two, three, four] {
        replica.stop().await;
    }
}

#[tokio::test]
async fn what_was_tampered_with_is_replaced() {
    let site = Site::start().await;
    let replica = site.replica().await;
    replica.becomes("ready\n").await;
    let good = site.tls_secret().await;
    replica.stop().await;
    let foreign = foreign_secret();
    for (key, value) in [
        ("tls.key", foreign["tls.key"].clone()),
        ("tls.crt", foreign["tls.crt"].clone()),
        ("ca.crt", foreign["ca.crt"].clone()),
        ("tls.crt", b"rubbish".to_vec()),
    ] {
        let mut secret = site.secrets().get("join-service-tls").await.unwrap();
        let data = secret.data.as_mut().unwrap();
        data.insert(key.into(), k8s_openapi::ByteString(value));
        let (secrets, parameters) = (site.secrets(), PostParams::default());
        let put = secrets.replace("join-service-tls", &parameters, &secret);
        put.await.unwrap();
        let replica = site.replica().await;
        replica.becomes("ready\n").await;
        let healed = site.tls_secret().await;
        assert_eq!(healed["ca.crt"], good["ca.crt"], "{key}");
        let client = replica.client(client_config(&healed));
        let refused = client.get(&key_of(9), 32, 1).await;
        assert_eq!(
            refused,
            Err(Code::PermissionDenied),
            "{key}: let in, but no record"
        );
        replica.stop().await;
    }
}

#[tokio::test]
async fn strangers_are_not_let_in() {
    let site = Site::shared().await;
    let replica = site.replica().await;
    site.store_record(disk(21), "worker-1", "worker", json!("active"))
        .await;
    let ours = site.join_service().await;
    assert!(replica.client(ours).get(&key_of(21), 32, 1).await.is_ok());
    // A certificate of another authority, for the same name.
    let mut foreign = foreign_secret();
    foreign.insert("ca.crt".into(), site.tls_secret().await["ca.crt"].clone());
    let client = replica.client(client_config(&foreign));
    assert!(client.get(&key_of(21), 32, 1).await.is_err());
    // None at all.
    let mut roots = rustls::RootCertStore::empty();
    let authority = site.tls_secret().await["ca.crt"].clone();
    roots
        .add(CertificateDer::from_pem_slice(&authority).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let client = replica.client(Arc::new(config));
    assert!(client.get(&key_of(21), 32, 1).await.is_err());
    // Neither got as far as a record in the audit log.
    let log = replica.stop().await;
    assert_eq!(log.matches("GetDataKey").count(), 1, "{log}");
}

#[tokio::test]
async fn certificates_renew_and_expired_ones_heal() {
    let site = Site::start().await;
    let replica = site.replica_with(4).await;
    replica.becomes("ready\n").await;
    site.store_record(disk(1), "worker-1", "worker", json!("active"))
        .await;
    let first = site.tls_secret().await;
    let old = client_config(&first);
    assert!(
        replica
            .client(Arc::clone(&old))
            .get(&key_of(1), 32, 1)
            .await
            .is_ok()
    );
    // Beyond the life of the first ones: both sides have new ones without a restart.
    sleep(Duration::from_secs(6)).await;
    let second = site.tls_secret().await;
    assert_ne!(second["tls.crt"], first["tls.crt"]);
    let client = replica.client(client_config(&second));
    assert_eq!(
        client.get(&key_of(1), 32, 1).await.unwrap(),
        disk_key(disk(1))
    );
    let expired = replica
        .client(Arc::clone(&old))
        .get(&key_of(1), 32, 1)
        .await;
    assert!(expired.is_err(), "an expired certificate was let in");
    let (_, metrics) = replica.http("/metrics").await;
    assert!(
        metrics.contains("service_certificates_renewed_total"),
        "{metrics}"
    );
    replica.stop().await;
    // Nobody was there to renew: what is in the Secret has expired when the next replica starts.
    sleep(Duration::from_secs(5)).await;
    let replica = site.replica_with(60).await;
    replica.becomes("ready\n").await;
    let third = site.tls_secret().await;
    assert_ne!(third["tls.crt"], second["tls.crt"]);
    let client = replica.client(client_config(&third));
    assert!(client.get(&key_of(1), 32, 1).await.is_ok());
    replica.stop().await;
}

#[tokio::test]
async fn a_disk_needs_a_live_record() {
    let site = Site::shared().await;
    let replica = site.replica().await;
    let client = replica.client(site.join_service().await);
    for (number, state, expected) in [
        (31, Some(json!("active")), Ok(disk_key(disk(31)))),
        (32, Some(json!("issued")), Ok(disk_key(disk(32)))),
        (33, None, Err(Code::PermissionDenied)),
        (
            34,
            Some(json!({"tombstone": "forgotten"})),
            Err(Code::PermissionDenied),
        ),
        (
            35,
            Some(json!({"tombstone": "superseded"})),
            Err(Code::PermissionDenied),
        ),
    ] {
        if let Some(state) = state {
            site.store_record(disk(number), "worker-1", "worker", state)
                .await;
        }
        assert_eq!(
            client.get(&key_of(number), 32, 1).await,
            expected,
            "disk {number}"
        );
    }
    // What is seen is what is stored now, not what was.
    site.store_record(
        disk(31),
        "worker-1",
        "worker",
        json!({"tombstone": "forgotten"}),
    )
    .await;
    assert_eq!(
        client.get(&key_of(31), 32, 1).await,
        Err(Code::PermissionDenied)
    );
    // The classes that this caller has not got stay closed, service authority included.
    for id in [
        "cluster/measurementSecret",
        "cluster/service-ca",
        "volume/pvc-1",
    ] {
        assert!(client.get(id, 32, 1).await.is_err(), "{id}");
    }
    let log = replica.stop().await;
    assert!(log.contains("forgotten"), "{log}");
    assert_no_secrets(&log);
}

#[tokio::test]
async fn control_plane_files_are_for_control_planes() {
    let site = Site::shared().await;
    let replica = site.replica().await;
    let client = replica.client(site.join_service().await);
    let bound = |number: u8, attester: &str| json!({"bound": {"attester": attester.repeat(32), "disk": disk(number)}});
    let ask = async |number: u8| files(&client, disk(number)).await;
    let refused = Err(Code::PermissionDenied);

    // Without a record, and a worker, whatever else is there.
    assert_eq!(ask(41).await, refused);
    site.store_record(disk(41), "worker-1", "worker", json!("active"))
        .await;
    site.store_name("worker-1", disk(41)).await;
    site.store_entry("worker-1", bound(41, setup::ATTESTER))
        .await;
    assert_eq!(ask(41).await, refused);

    // A control-plane join: record, then name, then entry.
    site.store_record(disk(42), "cp-1", "control-plane", json!("issued"))
        .await;
    site.store_entry("cp-1", bound(42, setup::ATTESTER)).await;
    assert_eq!(ask(42).await, refused, "no claim on the name");
    site.store_name("cp-1", disk(43)).await;
    assert_eq!(ask(42).await, refused, "another disk's name");
    site.store_name("cp-1", disk(42)).await;
    assert_eq!(ask(42).await, Ok(FILES.as_bytes().to_vec()));
    for entry in [
        json!("open"),
        json!("spent"),
        bound(43, setup::ATTESTER),
        bound(42, "cc"),
    ] {
        site.store_entry("cp-1", entry.clone()).await;
        assert_eq!(ask(42).await, refused, "{entry}");
    }
    // Once active its entry is spent, and it has the files anyway.
    site.store_entry("cp-1", json!("spent")).await;
    site.store_record(disk(42), "cp-1", "control-plane", json!("active"))
        .await;
    assert_eq!(ask(42).await, Ok(FILES.as_bytes().to_vec()));
    site.store_record(
        disk(42),
        "cp-1",
        "control-plane",
        json!({"tombstone": "forgotten"}),
    )
    .await;
    assert_eq!(ask(42).await, refused);

    let malformed = api::key::GetControlPlaneFilesRequest {
        disk_uuid: "../files".into(),
    };
    let refused = client.0.clone().get_control_plane_files(malformed).await;
    assert_eq!(refused.unwrap_err().code(), Code::InvalidArgument);
    let log = replica.stop().await;
    let released = |line: &&str| line.contains("\"release\"");
    let released: Vec<_> = log.lines().filter(released).collect();
    assert_eq!(released.len(), 2, "{log}");
    assert!(
        released.iter().all(|line| line.contains("cp-1")),
        "{released:?}"
    );
    assert_no_secrets(&log);
}

#[tokio::test]
async fn without_the_api_server_everything_is_unavailable() {
    let mut site = Site::start().await;
    let replica = site.replica_with(60).await;
    let client = replica.client(site.join_service().await);
    site.store_record(disk(1), "cp-1", "control-plane", json!("active"))
        .await;
    site.store_name("cp-1", disk(1)).await;
    assert!(client.get(&key_of(1), 32, 1).await.is_ok());
    site.control_plane.kill_api_server().unwrap();
    assert_eq!(client.get(&key_of(1), 32, 1).await, Err(Code::Unavailable));
    assert_eq!(files(&client, disk(1)).await, Err(Code::Unavailable));
    replica.becomes("kubernetes").await;
    // A replica that starts meanwhile serves, and says so.
    let late = site.replica_with(60).await;
    late.becomes("kubernetes").await;
    site.control_plane.start_api_server().unwrap();
    for replica in [&replica, &late] {
        replica.becomes("ready\n").await;
    }
    let client = replica.client(site.join_service().await);
    assert_eq!(
        client.get(&key_of(1), 32, 1).await.unwrap(),
        disk_key(disk(1))
    );
    assert_eq!(files(&client, disk(1)).await.unwrap(), FILES.as_bytes());
    // It answers nothing, but keeps connections: that is unavailable in bounded time, too.
    site.control_plane.pause_api_server().unwrap();
    let begun = std::time::Instant::now();
    assert_eq!(client.get(&key_of(1), 32, 1).await, Err(Code::Unavailable));
    assert!(
        begun.elapsed() < Duration::from_secs(8),
        "{:?}",
        begun.elapsed()
    );
    site.control_plane.resume_api_server().unwrap();
    late.stop().await;
    replica.stop().await;
}

fn foreign_secret() -> BTreeMap<String, Vec<u8>> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["join-service".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &ca).unwrap();
    [
        ("ca.crt", ca.pem()),
        ("tls.crt", leaf.pem()),
        ("tls.key", key.serialize_pem()),
    ]
    .map(|(name, pem)| (name.to_owned(), pem.into_bytes()))
    .into()
}

/// Neither in the audit log, nor in what was logged.
fn assert_no_secrets(audit: &str) {
    let logs = setup::logs();
    assert!(logs.contains("released"), "logs are not captured");
    let master = hex::encode(setup::MASTER);
    for secret in [master.as_str(), "very secret", "PRIVATE KEY"] {
        assert!(!audit.contains(secret), "{audit}");
        assert!(!logs.contains(secret), "`{secret}` is in the logs");
    }
}
