use super::*;
use alloc::{format, vec::Vec};
use serde_json::Value;

extern crate std;

fn hex(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap()).unwrap()
}

fn hierarchy(document: &Value) -> KeyHierarchy {
    let mut versions = document["versions"].as_array().unwrap().iter().map(|v| {
        let key = KeyEncryptionKey {
            secret: MasterSecret::from_slice(&hex(&v["secret"])).unwrap(),
            salt: KeySalt(hex(&v["salt"]).try_into().unwrap()),
        };
        (
            KeyVersion(v["version"].as_u64().unwrap().try_into().unwrap()),
            key,
        )
    });
    let (version, key) = versions.next().unwrap();
    let mut hierarchy = KeyHierarchy::new(version, key);
    for (version, key) in versions {
        hierarchy.add(version, key).unwrap();
    }
    hierarchy
}

fn fixture() -> Value {
    serde_json::from_str(include_str!("../../tests/fixtures/derivations.json")).unwrap()
}

#[test]
fn derives_what_python_derived() {
    let document = fixture();
    let keys = hierarchy(&document);
    for case in document["keys"].as_array().unwrap() {
        let version = KeyVersion(case["version"].as_u64().unwrap().try_into().unwrap());
        let id: DataKeyId = case["id"].as_str().unwrap().parse().unwrap();
        let length = usize::try_from(case["length"].as_u64().unwrap()).unwrap();
        let key = keys.derive(version, &id, length).unwrap();
        assert_eq!(
            key.expose_secret(),
            hex(&case["key"]),
            "{id} version {version}"
        );
        if let DataKeyId::StateDisk(disk) = id {
            let key = keys.derive_state_disk(version, disk).unwrap();
            assert_eq!(key.expose_secret().as_slice(), hex(&case["key"]));
        }
    }
    let salt = MeasurementSalt(hex(&document["measurement_salt"]).try_into().unwrap());
    assert_eq!(
        keys.derive_cluster_id(&salt).unwrap().as_bytes().as_slice(),
        hex(&document["cluster_id"])
    );
}

#[test]
fn wrong_lengths_and_versions_are_refused() {
    let keys = hierarchy(&fixture());
    let disk: DataKeyId = "state-disk/00000000-0000-4000-8000-000000000001"
        .parse()
        .unwrap();
    let volume: DataKeyId = "volume/v".parse().unwrap();
    for (id, length) in [
        (&disk, 31),
        (&disk, 33),
        (&disk, 0),
        (&volume, 15),
        (&volume, 129),
    ] {
        let error = keys.derive(KeyVersion::FIRST, id, length).unwrap_err();
        assert!(
            matches!(error, DeriveError::Length { got, .. } if got == length),
            "{error}"
        );
    }
    for version in [0, 3, u32::MAX].map(KeyVersion) {
        let error = keys.derive(version, &disk, 32).unwrap_err();
        assert_eq!(
            error,
            DeriveError::Version {
                newest: KeyVersion(2),
                got: version
            }
        );
    }
}

#[test]
fn a_version_never_changes() {
    let mut keys = hierarchy(&fixture());
    let other = KeyEncryptionKey {
        secret: MasterSecret::from_slice(&[9; 32]).unwrap(),
        salt: KeySalt([9; 32]),
    };
    assert!(keys.add(KeyVersion(2), other).is_err());
    derives_what_python_derived();
}

#[test]
fn a_derived_key_prints_its_name_only() {
    let keys = hierarchy(&fixture());
    let key = keys
        .derive(KeyVersion(1), &"volume/v".parse().unwrap(), 32)
        .unwrap();
    assert_eq!(format!("{key:?}"), "DerivedKey(..)");
}

/// The vectors of the original's derivation, where they are at hand.
#[test]
fn agrees_with_the_shared_vectors() {
    let Some(json) = vectors::vector("kdf/hkdf_sha256.json") else {
        return;
    };
    let cases: Value = serde_json::from_slice(&json).unwrap();
    let cases = cases.as_array().unwrap();
    assert!(cases.len() >= 7);
    for case in cases {
        let mut info = case["info_prefix"].as_str().unwrap().as_bytes().to_vec();
        info.extend(hex(&case["info_hex"]));
        let expected = hex(&case["output"]);
        let mut output = std::vec![0; expected.len()];
        hkdf::fill(
            &hex(&case["secret"]),
            &hex(&case["salt"]),
            &info,
            &mut output,
        )
        .unwrap();
        assert_eq!(output, expected, "{}", case["name"]);
        assert_typed_derivation(case, &info, &expected);
    }
}

/// The same vector through the public types, where a type of ours can say it.
fn assert_typed_derivation(case: &Value, info: &[u8], expected: &[u8]) {
    let secret = hex(&case["secret"]);
    let Ok(salt) = <[u8; 32]>::try_from(hex(&case["salt"])) else {
        return;
    };
    if info == b"key-clusterID" {
        let id = MeasurementSecret::from_slice(&secret)
            .unwrap()
            .derive_cluster_id(&MeasurementSalt(salt));
        assert_eq!(id.unwrap().as_bytes().as_slice(), expected);
        return;
    }
    let name = core::str::from_utf8(info)
        .unwrap()
        .strip_prefix("key-")
        .unwrap();
    let class = if name == "measurementSecret" {
        "cluster"
    } else {
        "volume"
    };
    let id: DataKeyId = format!("{class}/{name}").parse().unwrap();
    let key = KeyEncryptionKey {
        secret: MasterSecret::from_slice(&secret).unwrap(),
        salt: KeySalt(salt),
    };
    let keys = KeyHierarchy::new(KeyVersion::FIRST, key);
    assert_eq!(
        keys.derive(KeyVersion::FIRST, &id, 32)
            .unwrap()
            .expose_secret(),
        expected
    );
}

/// As Python's `hmac` derives them from the fixture's first version.
#[test]
fn services_derive_seeds_that_no_caller_can_name() {
    let keys = hierarchy(&fixture());
    for (key, expected) in [
        (
            ServiceKey::JoinServiceAudit,
            "755ef0ffc95780c213699a736de5990f52d0b0e6b4a3d1b6f4d483088123b328",
        ),
        (
            ServiceKey::KeyServiceAudit,
            "941a22262964504a66f605d50490e64276806f28f7dd0c46e7bda9848d0af188",
        ),
        (
            ServiceKey::ServiceAuthority,
            "5a01d596023630b959b521186e53b8e5f78e07bc20c86f9f54a2df9b9885b55c",
        ),
    ] {
        let seed = keys.derive_service_seed(key).unwrap();
        assert_eq!(hex::encode(seed.expose_secret()), expected);
        let info = core::str::from_utf8(key.info()).unwrap();
        let volume = info.replacen("key-", "volume/", 1);
        assert!(volume.parse::<DataKeyId>().is_err(), "{volume}");
    }
}
