use super::*;
use std::{fs, os::unix::fs::PermissionsExt};

fn hand_off() -> HandOff {
    HandOff {
        version: 1,
        path: AdmissionPath::Rejoin,
        cluster_id: ClusterId::from_bytes([0xab; 32]),
        node_name: "worker-0".parse().unwrap(),
        role: Role::Worker,
        disk_uuid: DiskId::from_random([0xff; 16]),
        generation: Generation(7),
        state_device: "/dev/mapper/constellation-state".into(),
        attestation_key: None,
    }
}

/// A certified key is a part of the file, and its absence is none.
#[test]
fn the_attestation_key_is_handed_over_where_there_is_one() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("constellation");
    let certified = HandOff {
        attestation_key: Some(AttestationKey {
            public: vec![1, 2],
            unique: [3; 32],
            certificate: "{}".into(),
        }),
        ..hand_off()
    };
    certified.write(&folder, &Attachments::default()).unwrap();
    assert_eq!(HandOff::read(&folder).unwrap(), certified);
    let text = fs::read_to_string(folder.join("handoff.json")).unwrap();
    let key = format!(
        r#""attestation_key":{{"public":"0102","unique":"{}","certificate":"{{}}"}}"#,
        "03".repeat(32)
    );
    assert!(text.contains(&key), "{text}");
    let short = text.replace(&"03".repeat(32), &"03".repeat(31));
    fs::write(folder.join("handoff.json"), short).unwrap();
    assert!(HandOff::read(&folder).is_err());
}

#[test]
fn the_file_is_for_root_and_says_all() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("constellation");
    hand_off().write(&folder, &Attachments::default()).unwrap();
    let file = folder.join("handoff.json");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&folder), mode(&file)), (0o700, 0o600));
    let cluster = "ab".repeat(32);
    assert_eq!(
        fs::read_to_string(file).unwrap(),
        format!(
            r#"{{"version":1,"path":"rejoin","cluster_id":"{cluster}","node_name":"worker-0","role":"worker","disk_uuid":"ffffffff-ffff-4fff-bfff-ffffffffffff","generation":7,"state_device":"/dev/mapper/constellation-state"}}"#
        )
    );
    assert_eq!(HandOff::read(&folder).unwrap(), hand_off());
    assert!(read_material::<u32>(&folder).unwrap().is_none());
}

#[test]
fn attachments_are_for_root_too() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("constellation");
    let attachments = Attachments {
        material: Some(Zeroizing::new(b"7".to_vec())),
        kubelet_keys: Some(["client", "serving"].map(|key| Zeroizing::new(key.to_owned()))),
    };
    hand_off().write(&folder, &attachments).unwrap();
    for name in [MATERIAL, KUBELET_CLIENT_KEY, KUBELET_SERVING_KEY] {
        let mode = fs::metadata(folder.join(name))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    assert_eq!(read_material(&folder).unwrap(), Some(7));
}

#[test]
fn a_folder_that_is_there_is_refused() {
    let parent = tempfile::tempdir().unwrap();
    let attachments = Attachments::default();
    assert!(hand_off().write(parent.path(), &attachments).is_err());
}

#[test]
fn what_is_not_a_hand_off_is_refused() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("constellation");
    hand_off().write(&folder, &Attachments::default()).unwrap();
    let file = folder.join(HAND_OFF);
    let text = fs::read_to_string(&file).unwrap();
    let unknown = text.replace("\"version\"", "\"more\":1,\"version\"");
    let foreign = text.replace("rejoin", "rejoice");
    for text in [unknown, foreign, "{}".into()] {
        fs::write(&file, text).unwrap();
        let error = HandOff::read(&folder).unwrap_err();
        assert!(matches!(error, ReadError::Content { .. }), "{error}");
    }
    File::create(&file).unwrap().set_len(MAX_FILE + 1).unwrap();
    let error = HandOff::read(&folder).unwrap_err();
    assert!(matches!(error, ReadError::TooLong(_)), "{error}");
}
