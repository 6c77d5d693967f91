use super::*;
use crate::state::StateError;
use hand_off::Attachments;
use identity::{ClusterId, DiskId, Generation, NodeName};
use serde_json::json;
use std::fs;
use tempfile::TempDir;

fn hand_off(path: AdmissionPath) -> HandOff {
    HandOff {
        version: 1,
        path,
        cluster_id: ClusterId::from_bytes([7; 32]),
        node_name: "worker-0".parse::<NodeName>().unwrap(),
        role: Role::Worker,
        disk_uuid: DiskId::from_bytes([1; 16]),
        generation: Generation::FIRST,
        state_device: "/dev/mapper/constellation-state".into(),
        attestation_key: None,
    }
}

fn ticket(version: u32, endpoint: &str) -> String {
    json!({
        "version": version,
        "kubernetes": {
            "api_endpoint": endpoint, "certificate_authority": "", "pod_subnet": "10.20.0.0/16",
            "service_subnet": "10.96.0.0/16", "dns_domain": "cluster.local", "version": "v1.20.2",
        },
        "kubelet": {"client_certificate": "", "serving_certificate": ""},
        "control_plane": null,
    })
    .to_string()
}

/// A boot after `before` ones, with this hand-off.
async fn boot(
    folder: &TempDir,
    hand_off: &HandOff,
    material: Option<&str>,
) -> Result<Node, NodeError> {
    let kubelet = folder.path().join("kubelet");
    fs::write(&kubelet, "#!/bin/sh\necho Kubernetes v1.20.2\n").unwrap();
    let mut mode = fs::metadata(&kubelet).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut mode, 0o755);
    fs::set_permissions(&kubelet, mode).unwrap();
    let run = folder.path().join("run");
    if run.exists() {
        fs::remove_dir_all(&run).unwrap();
    }
    let attachments = Attachments {
        material: material.map(|text| text.as_bytes().to_vec().into()),
        kubelet_keys: None,
    };
    hand_off.write(&run, &attachments).unwrap();
    let mut config = Config {
        hand_off: run,
        state: folder.path().join("state"),
        ..Config::default()
    };
    config.programs.kubelet = kubelet;
    Node::read(config).await
}

#[tokio::test]
async fn a_node_remembers_its_cluster_and_learns_what_changed() {
    let folder = tempfile::tempdir().unwrap();
    let endpoint = |node: &Node| node.kubernetes().api_endpoint.clone();
    let first = ticket(1, "127.0.0.1:6443");
    let node = boot(&folder, &hand_off(AdmissionPath::Join), Some(&first))
        .await
        .unwrap();
    assert_eq!(endpoint(&node), "127.0.0.1:6443");
    assert_eq!(node.address, IpAddr::from([127, 0, 0, 1]));
    let moved = ticket(1, "127.0.0.1:7443");
    boot(&folder, &hand_off(AdmissionPath::Rejoin), Some(&moved))
        .await
        .unwrap();
    let recovered = boot(&folder, &hand_off(AdmissionPath::Recover), None)
        .await
        .unwrap();
    assert_eq!(endpoint(&recovered), "127.0.0.1:7443");
    assert!(matches!(recovered.material, Material::None));
}

#[tokio::test]
async fn a_first_boot_without_material_makes_nothing() {
    for path in [
        AdmissionPath::Init,
        AdmissionPath::Join,
        AdmissionPath::Recover,
    ] {
        let folder = tempfile::tempdir().unwrap();
        let error = boot(&folder, &hand_off(path), None).await.unwrap_err();
        assert!(matches!(error, NodeError::NoMaterial), "{path}: {error}");
        assert!(!folder.path().join("state").exists());
    }
}

#[tokio::test]
async fn material_of_another_path_or_format_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let join = ticket(1, "127.0.0.1:6443");
    let error = boot(&folder, &hand_off(AdmissionPath::Init), Some(&join))
        .await
        .unwrap_err();
    assert!(matches!(error, NodeError::HandOff(_)), "{error}");
    let future = ticket(2, "127.0.0.1:6443");
    let error = boot(&folder, &hand_off(AdmissionPath::Join), Some(&future))
        .await
        .unwrap_err();
    assert!(
        matches!(error, NodeError::HandOffVersion { got: 2, .. }),
        "{error}"
    );
}

#[tokio::test]
async fn a_state_disk_of_another_cluster_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let ticket = ticket(1, "127.0.0.1:6443");
    boot(&folder, &hand_off(AdmissionPath::Join), Some(&ticket))
        .await
        .unwrap();
    let other = HandOff {
        cluster_id: ClusterId::from_bytes([8; 32]),
        ..hand_off(AdmissionPath::Rejoin)
    };
    let error = boot(&folder, &other, Some(&ticket)).await.unwrap_err();
    let foreign = |source: &StateError| {
        matches!(
            source,
            StateError::Foreign {
                what: "cluster",
                ..
            }
        )
    };
    assert!(
        matches!(&error, NodeError::State(source) if foreign(source)),
        "{error}"
    );
}
