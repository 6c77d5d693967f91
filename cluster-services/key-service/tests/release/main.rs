//! The key service over real mutual TLS: who gets keys, who does not, and what the audit log says.
#![allow(
    clippy::unwrap_used,
    reason = "a failed set-up fails the test; the lint knows test functions only"
)]

#[path = "../cluster/client.rs"]
mod client;
mod setup;

use audit::{Action, Outcome};
use setup::{DISK, Setup};
use tonic::Code;

const DISK_KEY: &str = "state-disk/00000000-0000-4000-8000-000000000001";

#[tokio::test]
async fn a_listed_caller_gets_the_key_of_its_class() {
    let setup = Setup::start().await;
    let client = setup.client("join-service").await;
    let key = client.get(DISK_KEY, 32, 1).await.unwrap();
    assert_eq!(key, setup::expected_disk_key(1, DISK));
    let other = client.get(DISK_KEY, 32, 2).await.unwrap();
    assert_eq!(other, setup::expected_disk_key(2, DISK));
    assert_ne!(key, other);
    let events = setup.stop().await;
    assert_eq!(events.len(), 2);
    assert_eq!(events[0].action, Action::Release);
    assert_eq!(events[0].key.as_ref().unwrap().as_str(), DISK_KEY);
    assert_eq!(
        events[0].path.as_ref().unwrap().as_str(),
        "dns:join-service"
    );
}

#[tokio::test]
async fn everything_else_is_refused_and_recorded() {
    let setup = Setup::start().await;
    let join = setup.client("join-service").await;
    let driver = setup.client("volume-driver").await;
    let stranger = setup.client("stranger").await;
    let cases = [
        (&join, "volume/pvc-1", 32, 1, Code::PermissionDenied),
        (
            &join,
            "cluster/measurementSecret",
            32,
            1,
            Code::PermissionDenied,
        ),
        (&driver, DISK_KEY, 32, 1, Code::PermissionDenied),
        (
            &driver,
            "volume/state-disk/v1/00000000-0000-4000-8000-000000000001",
            32,
            1,
            Code::InvalidArgument,
        ),
        (&stranger, DISK_KEY, 32, 1, Code::PermissionDenied),
        (&stranger, "volume/pvc-1", 32, 1, Code::PermissionDenied),
    ];
    let mut count = 0;
    for (client, id, length, version, code) in cases {
        assert_eq!(
            client.get(id, length, version).await.unwrap_err(),
            code,
            "{id}"
        );
        count += 1;
    }
    for (id, length, version, code) in [
        (DISK_KEY, 31, 1, Code::PermissionDenied),
        (DISK_KEY, 33, 1, Code::PermissionDenied),
        (DISK_KEY, 0, 1, Code::PermissionDenied),
        (DISK_KEY, u32::MAX, 1, Code::PermissionDenied),
        (DISK_KEY, 32, 0, Code::PermissionDenied),
        (DISK_KEY, 32, 3, Code::PermissionDenied),
        ("", 32, 1, Code::InvalidArgument),
        ("state-disk/", 32, 1, Code::InvalidArgument),
        ("state-disk/../cluster", 32, 1, Code::InvalidArgument),
        (
            "state-disk/00000000-0000-4000-8000-000000000001\n",
            32,
            1,
            Code::InvalidArgument,
        ),
    ] {
        let got = join.get(id, length, version).await.unwrap_err();
        assert_eq!(got, code, "{id} {length} {version}");
        count += 1;
    }
    let events = setup.stop().await;
    assert_eq!(events.len(), count);
    assert!(events.iter().all(|event| event.action == Action::Refusal));
    assert!(events.iter().all(|event| event.outcome != Outcome::Done));
}

#[tokio::test]
async fn a_certificate_of_another_authority_gets_no_answer() {
    let setup = Setup::start().await;
    let foreign = setup::Authority::new();
    let client = setup.connect(&foreign, "join-service").await;
    assert!(client.unwrap().get(DISK_KEY, 32, 1).await.is_err());
    let client = setup.connect_without_certificate().await;
    assert!(client.unwrap().get(DISK_KEY, 32, 1).await.is_err());
    assert!(setup.stop().await.is_empty());
}

#[tokio::test]
async fn a_caller_with_two_names_gets_no_answer() {
    let setup = Setup::start().await;
    let client = setup
        .connect_as(&setup.authority, &["join-service", "volume-driver"])
        .await;
    assert!(client.unwrap().get(DISK_KEY, 32, 1).await.is_err());
    assert!(setup.stop().await.is_empty());
}

#[tokio::test]
async fn an_eager_caller_is_told_to_wait_without_a_record() {
    let setup = Setup::start_with(|config| {
        config.limits.burst = 3.try_into().unwrap();
        config.limits.requests_per_second = 1.try_into().unwrap();
    })
    .await;
    let client = setup.client("join-service").await;
    let other = setup.client("volume-driver").await;
    let mut refused = 0;
    for _ in 0..20 {
        match client.get(DISK_KEY, 32, 1).await {
            Ok(_) => {}
            Err(code) => {
                assert_eq!(code, Code::Unavailable);
                refused += 1;
            }
        }
    }
    assert!(refused >= 10, "{refused}");
    other.get("volume/pvc-1", 64, 1).await.unwrap();
    assert_eq!(setup.stop().await.len(), 21 - refused);
}

#[tokio::test]
async fn without_an_audit_record_no_key_leaves() {
    let setup = Setup::start().await;
    let client = setup.client("join-service").await;
    client.get(DISK_KEY, 32, 1).await.unwrap();
    setup.close_audit_log().await;
    assert_eq!(
        client.get(DISK_KEY, 32, 1).await.unwrap_err(),
        Code::Unavailable
    );
    assert_eq!(setup.stop().await.len(), 1);
}

#[tokio::test]
async fn health_and_metrics_tell_how_it_goes() {
    let setup = Setup::start().await;
    assert_eq!(setup.http("/healthz").await.0, 200);
    assert_eq!(setup.http("/readyz").await, (200, "ready\n".into()));
    assert_eq!(setup.http("/secrets").await.0, 404);
    let client = setup.client("join-service").await;
    client.get(DISK_KEY, 32, 1).await.unwrap();
    client.get("volume/a", 32, 1).await.unwrap_err();
    let (status, metrics) = setup.http("/metrics").await;
    assert_eq!(status, 200);
    for line in [
        "data_key_requests_total{outcome=\"released\"}",
        "data_key_requests_total{outcome=\"refused\"}",
        "audit_records_total",
    ] {
        assert!(metrics.contains(line), "{metrics}");
    }
    setup.stop().await;
}

#[tokio::test]
async fn after_a_shutdown_nobody_is_answered() {
    let setup = Setup::start().await;
    let client = setup.client("join-service").await;
    client.get(DISK_KEY, 32, 1).await.unwrap();
    // `stop` also checks that the log is whole and signed to its end.
    assert_eq!(setup.stop().await.len(), 1);
    assert!(client.get(DISK_KEY, 32, 1).await.is_err());
}

#[tokio::test]
async fn alone_it_has_no_control_plane() {
    let setup = Setup::start().await;
    let client = setup.client("join-service").await;
    let request = api::key::GetControlPlaneFilesRequest {
        disk_uuid: DISK.to_string(),
    };
    let refused = client.0.clone().get_control_plane_files(request).await;
    assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(setup.stop().await.len(), 1);
}

#[tokio::test]
async fn it_is_either_alone_or_in_a_cluster() {
    use key_service::{ClusterConfig, KeyService, StartError};
    let cluster = |folder: &std::path::Path| ClusterConfig {
        server_name: "key-service".into(),
        master_secret: folder.into(),
        control_plane_files: folder.join("files.json"),
        certificate_seconds: service_runtime::config::Seconds::new(1.try_into().unwrap()),
        kubeconfig: None,
        client: Vec::new(),
    };
    for (alone, clustered) in [(true, true), (false, false)] {
        let folder = tempfile::tempdir().unwrap();
        let mut config = setup::configuration(folder.path(), &setup::Authority::new());
        if !alone {
            config.tls = None;
            config.key.clear();
        }
        config.cluster = clustered.then(|| cluster(folder.path()));
        let started = KeyService::bind(&config).await;
        assert!(matches!(started, Err(StartError::Mode)));
    }
}
