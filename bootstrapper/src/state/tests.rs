use super::*;
use evidence::AdmissionPath;
use identity::Generation;
use std::fs;

fn hand_off() -> HandOff {
    HandOff {
        version: 1,
        path: AdmissionPath::Join,
        cluster_id: ClusterId::from_bytes([7; 32]),
        node_name: "worker-0".parse().unwrap(),
        role: Role::Worker,
        disk_uuid: DiskId::from_bytes([1; 16]),
        generation: Generation::FIRST,
        state_device: "/dev/mapper/constellation-state".into(),
        attestation_key: None,
    }
}

fn state() -> State {
    let hand_off = hand_off();
    State {
        version: 1,
        cluster_id: hand_off.cluster_id,
        node_name: hand_off.node_name,
        role: hand_off.role,
        disk_uuid: hand_off.disk_uuid,
        origin: Origin::Join,
        kubernetes: KubernetesMaterial {
            api_endpoint: "10.0.0.1:6443".into(),
            certificate_authority: String::new(),
            pod_subnet: "10.20.0.0/16".into(),
            service_subnet: "10.96.0.0/16".into(),
            dns_domain: "cluster.local".into(),
            version: "v1.20.2".into(),
        },
        done: vec![],
        images: std::collections::BTreeMap::new(),
    }
}

#[test]
fn what_was_done_is_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    assert!(
        StateFile::load(folder.path(), &hand_off())
            .unwrap()
            .is_none()
    );
    let mut file = StateFile::create(folder.path(), state()).unwrap();
    assert!(!file.is_done("certificates"));
    file.set_done("certificates").unwrap();
    let file = StateFile::load(folder.path(), &hand_off())
        .unwrap()
        .unwrap();
    assert!(file.is_done("certificates") && !file.is_done("kubeconfigs"));
}

/// What a power cut leaves of a replacement is a file beside the old one, never half a file.
#[test]
fn a_leftover_of_a_replacement_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut file = StateFile::create(folder.path(), state()).unwrap();
    fs::write(
        folder.path().join("constellation/bootstrap.json.new"),
        "{\"vers",
    )
    .unwrap();
    assert!(
        StateFile::load(folder.path(), &hand_off())
            .unwrap()
            .is_some()
    );
    file.set_done("one").unwrap();
    let file = StateFile::load(folder.path(), &hand_off())
        .unwrap()
        .unwrap();
    assert!(file.is_done("one"));
}

#[test]
fn a_state_of_someone_else_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    StateFile::create(folder.path(), state()).unwrap();
    let whole = hand_off();
    for (other, expected) in [
        (
            HandOff {
                cluster_id: ClusterId::from_bytes([8; 32]),
                ..whole.clone()
            },
            "cluster",
        ),
        (
            HandOff {
                disk_uuid: DiskId::from_bytes([2; 16]),
                ..whole.clone()
            },
            "disk",
        ),
        (
            HandOff {
                node_name: "worker-1".parse().unwrap(),
                ..whole.clone()
            },
            "node name",
        ),
        (
            HandOff {
                role: Role::ControlPlane,
                ..whole
            },
            "role",
        ),
    ] {
        let error = StateFile::load(folder.path(), &other).unwrap_err();
        assert!(
            matches!(error, StateError::Foreign { what, .. } if what == expected),
            "{error}"
        );
    }
}

#[test]
fn what_this_program_did_not_write_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    StateFile::create(folder.path(), state()).unwrap();
    let path = folder.path().join(FILE);
    let text = fs::read_to_string(&path).unwrap();
    let load = |text: &str| {
        fs::write(&path, text).unwrap();
        StateFile::load(folder.path(), &hand_off()).unwrap_err()
    };
    for (malformed, what) in [
        (String::new(), "empty"),
        (text[..text.len() / 2].to_owned(), "half"),
        (text.replace("\"done\"", "\"finished\""), "unknown field"),
    ] {
        let error = load(&malformed);
        assert!(
            matches!(error, StateError::Malformed { .. }),
            "{what}: {error}"
        );
    }
    let future = load(&text.replace("\"version\": 1", "\"version\": 2"));
    assert!(
        matches!(future, StateError::Version { got: 2, .. }),
        "{future}"
    );
    let long = " ".repeat(usize::try_from(MAX_FILE).unwrap() + 1);
    assert!(matches!(load(&long), StateError::File(_)));
}
