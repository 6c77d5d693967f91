//! `tests/vectors/slots.json`: made here, read here, and read by the independent Python reader.

use crate::sample::{BLANK, data_key, header, slot};
use identity::{DiskId, Role};
use secret::DataKey;
use serde_json::{Value, json};
use state_disk::{DmParameters, Header, Inspection, Opened, SLOT_LEN, SLOT_OFFSETS, inspect};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

type Slots = [[u8; SLOT_LEN]; 2];

fn cases() -> Vec<(&'static str, Slots)> {
    let mut control_plane = header(1);
    control_plane.role = Role::ControlPlane;
    control_plane.init_unfinished = true;
    control_plane.node_name = "a".repeat(63).parse().unwrap();
    let mut other_disk = header(2);
    other_disk.disk = DiskId::from_random([0x33; 16]);
    let seal = |header: &Header| header.seal(&data_key(), [0xee; 12]).unwrap();
    vec![
        ("blank", [BLANK, BLANK]),
        ("joined", [slot(1), BLANK]),
        ("rejoined", [slot(1), slot(2)]),
        ("many-boots", [slot(257), slot(256)]),
        ("init-unfinished", [seal(&control_plane), BLANK]),
        ("torn-newest", [change(slot(7), 300, 0xff), slot(6)]),
        ("malformed-beside-sealed", [change(slot(7), 8, 2), slot(6)]),
        ("foreign-disk", [change(BLANK, 510, 0x55), BLANK]),
        ("flags-set", [change(slot(1), 10, 1), BLANK]),
        ("reserved-set", [change(slot(1), 60, 1), BLANK]),
        ("padding-set", [change(slot(1), 4095, 1), BLANK]),
        (
            "tag-altered",
            [change(slot(1), 399, slot(1)[399] ^ 1), BLANK],
        ),
        ("generation-raised", [change(slot(1), 32, 2), BLANK]),
        ("uuid-swapped", [change(slot(1), 16, 0x12), BLANK]),
        ("two-disks", [slot(1), seal(&other_disk)]),
        ("other-key", [other_key(), BLANK]),
    ]
}

fn change(mut slot: [u8; SLOT_LEN], at: usize, byte: u8) -> [u8; SLOT_LEN] {
    assert_ne!(slot[at], byte);
    slot[at] = byte;
    slot
}

fn other_key() -> [u8; SLOT_LEN] {
    let key = DataKey::from_slice(&[0; 32]).unwrap();
    header(1).seal(&key, [1; 12]).unwrap()
}

fn open(slots: &Slots) -> Result<Option<Opened>, ()> {
    match inspect(slots).map_err(|_| ())? {
        Inspection::Blank => Ok(None),
        Inspection::Sealed(sealed) => sealed.open(&data_key()).map(Some).map_err(|_| ()),
    }
}

/// What both readers must say.
fn expected(slots: &Slots) -> Value {
    match open(slots) {
        Ok(None) => json!("blank"),
        Ok(Some(opened)) => json!({
            "text": describe(&opened),
            "volume_keys": hex::encode(opened.header.volume_keys.expose_secret()),
        }),
        Err(()) => json!("refused"),
    }
}

/// The Python reader's text, made from our tables.
fn describe(opened: &Opened) -> String {
    let header = &opened.header;
    let device = state_disk::DeviceNumber { major: 0, minor: 0 };
    let integrity = header.parameters.integrity_table(device);
    let crypt = header.parameters.crypt_table(device, &header.disk);
    let lines = [
        format!("slot: {}", opened.slot as u8),
        format!("disk: {}", header.disk),
        format!("generation: {}", header.generation),
        format!("key version: {}", header.key_version),
        format!("cluster: {}", header.cluster),
        format!("node: {}", header.node_name),
        format!("role: {}", header.role),
        format!(
            "init unfinished: {}",
            if header.init_unfinished { "yes" } else { "no" }
        ),
        format!("superblock: {}", hex::encode(header.superblock.as_bytes())),
        format!("key: {}", DmParameters::key_description(&header.disk)),
        format!(
            "table constellation-state-integrity: 0 {} integrity {}",
            integrity.sectors,
            integrity.parameters.replacen("0:0", "DISK", 1)
        ),
        format!(
            "table constellation-state: 0 {} crypt {}",
            crypt.sectors,
            crypt
                .parameters
                .replacen("0:0", "/dev/mapper/constellation-state-integrity", 1)
        ),
    ];
    lines.join("\n")
}

/// A slot's bytes without the zeros at its end.
fn trimmed(slot: &[u8; SLOT_LEN]) -> String {
    let end = slot
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |at| at + 1);
    hex::encode(&slot[..end])
}

fn generate() -> String {
    let cases: Vec<Value> = cases()
        .iter()
        .map(|(name, slots)| {
            json!({
                "name": name,
                "slots": slots.each_ref().map(trimmed),
                "expected": expected(slots),
            })
        })
        .collect();
    let vectors = json!({
        "format": "docs/state-disk.md, version 1; slots in hex, the zeros up to 4096 bytes left out",
        "data_key": hex::encode(data_key().expose_secret()),
        "cases": cases,
    });
    serde_json::to_string_pretty(&vectors).unwrap() + "\n"
}

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/slots.json")
}

/// A change of the format shows as a change of the vectors; `UPDATE_VECTORS=1` writes them anew.
#[test]
fn the_vectors_are_what_this_code_makes() {
    if std::env::var_os("UPDATE_VECTORS").is_some() {
        fs::write(path(), generate()).unwrap();
    }
    assert!(
        fs::read_to_string(path()).unwrap() == generate(),
        "tests/vectors/slots.json differs from what the code makes"
    );
}

#[test]
fn the_vectors_open_and_refuse_as_they_say() {
    let vectors: Value = serde_json::from_str(&fs::read_to_string(path()).unwrap()).unwrap();
    let cases = vectors["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 16);
    let refused = cases.iter().filter(|case| case["expected"] == "refused");
    assert_eq!(refused.count(), 9);
    for case in cases {
        assert_eq!(expected(&slots(case)), case["expected"], "{}", case["name"]);
    }
}

#[test]
fn the_independent_reader_agrees_on_every_vector() {
    let vectors: Value = serde_json::from_str(&fs::read_to_string(path()).unwrap()).unwrap();
    let key = hex::decode(vectors["data_key"].as_str().unwrap()).unwrap();
    for case in vectors["cases"].as_array().unwrap() {
        let directory = tempfile::tempdir().unwrap();
        let output = read_with_python(directory.path(), &slots(case), &key);
        let text = String::from_utf8(output.stdout).unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        let name = &case["name"];
        match &case["expected"] {
            Value::String(word) if word == "blank" => {
                assert_eq!(
                    (output.status.code(), text.trim()),
                    (Some(2), "blank"),
                    "{name}"
                );
            }
            Value::String(_) => {
                assert_eq!(output.status.code(), Some(1), "{name}: {errors}");
                assert!(errors.starts_with("refused: "), "{name}: {errors}");
            }
            opened => {
                assert_eq!(text.trim_end(), opened["text"].as_str().unwrap(), "{name}");
                let keys = fs::read(directory.path().join("volume-keys")).unwrap();
                assert_eq!(hex::encode(keys), opened["volume_keys"], "{name}");
            }
        }
    }
}

fn slots(case: &Value) -> Slots {
    [0, 1].map(|index| {
        let bytes = hex::decode(case["slots"][index].as_str().unwrap()).unwrap();
        let mut slot = BLANK;
        slot[..bytes.len()].copy_from_slice(&bytes);
        slot
    })
}

fn read_with_python(directory: &Path, slots: &Slots, key: &[u8]) -> Output {
    let mut disk = vec![0; 68 * 1024];
    for (slot, offset) in slots.iter().zip(SLOT_OFFSETS) {
        let at = usize::try_from(offset).unwrap();
        disk[at..at + SLOT_LEN].copy_from_slice(slot);
    }
    fs::write(directory.join("disk"), disk).unwrap();
    fs::write(directory.join("data-key"), key).unwrap();
    Command::new("python3")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/state_disk_reader.py"))
        .args(["disk", "data-key", "--volume-keys", "volume-keys"])
        .current_dir(directory)
        .output()
        .unwrap()
}
