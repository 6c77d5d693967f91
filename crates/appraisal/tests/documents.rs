//! Policy and reference value documents: each rule with a document that breaks it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use appraisal::{Appraiser, LoadError, Policy, REQUIRED_PCRS, ReferenceValues};
use serde_json::{Value, json};
use software_tpm::keys::KeyAuthority;

fn policy() -> Value {
    json!({
        "version": 1,
        "serial": 7,
        "evidence": ["tpm"],
        "tpm": {"pcrs": REQUIRED_PCRS, "ek_hashes": ["ab".repeat(32)]},
    })
}

fn values() -> Value {
    json!({"version": 1, "serial": 9, "images": [image("one", "11"), image("two", "22")]})
}

fn image(name: &str, byte: &str) -> Value {
    let value = json!([byte.repeat(32)]);
    let mut pcrs = json!({});
    for pcr in REQUIRED_PCRS {
        pcrs[pcr.to_string()] = value.clone();
    }
    pcrs["15"] = json!(["0".repeat(64)]);
    json!({"name": name, "roles": ["worker"], "pcrs": pcrs})
}

fn load(policy: &Value, values: &Value) -> Result<Appraiser, LoadError> {
    Appraiser::new(
        Policy::parse(policy.to_string().as_bytes())?,
        ReferenceValues::parse(values.to_string().as_bytes())?,
    )
}

#[test]
fn good_documents_load() {
    let appraiser = load(&policy(), &values()).unwrap();
    assert_eq!(appraiser.policy().serial(), 7);
    assert_eq!(appraiser.requirements()[0].pcrs, REQUIRED_PCRS);
    assert_eq!(appraiser.reference_values().serial(), 9);
    assert_eq!(appraiser.reference_values().images()[1].name(), "two");
}

#[test]
fn each_broken_policy_is_refused() {
    let pem = KeyAuthority::new("root").unwrap().pem().to_owned();
    let pcrs_without = |gone: u32| {
        json!(
            REQUIRED_PCRS
                .into_iter()
                .filter(|pcr| *pcr != gone)
                .collect::<Vec<_>>()
        )
    };
    let mut broken = vec![
        ("/version", json!(2)),
        ("/serial", json!(-1)),
        ("/serial", json!("7")),
        ("/evidence", json!([])),
        ("/evidence", json!(["tpm", "tpm"])),
        ("/evidence", json!(["sev-snp"])),
        ("/tpm", json!(null)),
        ("/tpm", json!({"pcrs": REQUIRED_PCRS})),
        ("/tpm/ek_hashes", json!([])),
        ("/tpm/ek_hashes", json!(["AB".repeat(32)])),
        ("/tpm/ek_hashes", json!(["ab".repeat(31)])),
        ("/tpm/ek_authorities", json!([])),
        ("/tpm/ek_authorities", json!([{"certificate": pem}])),
        (
            "/tpm/ek_authorities",
            json!([{"certificate": pem, "bound_to_platform": false}]),
        ),
        (
            "/tpm/ek_authorities",
            json!([{"certificate": pem, "bound_to_platform": "true"}]),
        ),
        ("/tpm/ek_intermediates", json!([])),
        ("/tpm/ek_intermediates", json!(["no certificate"])),
        ("/tpm/skip", json!(true)),
        ("/skip", json!(true)),
        ("/tpm/pcrs", json!([])),
        ("/tpm/pcrs", json!([11, 15])),
        ("/tpm/pcrs", json!([0, 2, 3, 4, 7, 9, 11, 12, 13, 15, 15])),
        ("/tpm/pcrs", json!([0, 2, 3, 4, 7, 9, 11, 12, 13, 15, 16])),
        ("/tpm/pcrs", json!([15, 13, 12, 11, 9, 7, 4, 3, 2, 0])),
        ("/tpm/pcrs", json!([0, 2, 3, 4, 7, 9, 11, 12, 13, 15, 99])),
    ];
    broken.extend(REQUIRED_PCRS.map(|pcr| ("/tpm/pcrs", pcrs_without(pcr))));
    for (path, value) in broken {
        let changed = with(policy(), path, value.clone());
        assert!(load(&changed, &values()).is_err(), "{path} = {value}");
    }
    for path in ["/version", "/serial", "/evidence", "/tpm", "/tpm/pcrs"] {
        assert!(
            load(&without(policy(), path), &values()).is_err(),
            "without {path}"
        );
    }
}

#[test]
fn each_broken_reference_value_document_is_refused() {
    let zero = "0".repeat(64);
    let broken = [
        ("/version", json!(0)),
        ("/images", json!([])),
        ("/images/1/name", json!("one")),
        ("/images/0/name", json!("")),
        ("/images/0/roles", json!([])),
        ("/images/0/roles", json!(["admin"])),
        ("/images/0/pcrs/11", json!([])),
        ("/images/0/pcrs/11", json!(["11"])),
        ("/images/0/pcrs/11", json!(["GG".repeat(32)])),
        ("/images/0/pcrs/11", json!("11".repeat(32))),
        ("/images/0/pcrs/x", json!(["11".repeat(32)])),
        ("/images/0/pcrs/15", json!(["11".repeat(32)])),
        ("/images/0/pcrs/15", json!([zero, "11".repeat(32)])),
        ("/images/0/skip", json!(1)),
        ("/images/1", image("other name, same values", "11")),
    ];
    for (path, value) in broken {
        let changed = with(values(), path, value.clone());
        assert!(load(&policy(), &changed).is_err(), "{path} = {value}");
    }
    let mut paths: Vec<String> = [
        "/version",
        "/serial",
        "/images",
        "/images/0/name",
        "/images/0/roles",
    ]
    .map(str::to_owned)
    .into();
    paths.extend(REQUIRED_PCRS.map(|pcr| format!("/images/0/pcrs/{pcr}")));
    for path in paths {
        assert!(
            load(&policy(), &without(values(), &path)).is_err(),
            "without {path}"
        );
    }
}

#[test]
fn duplicate_fields_and_pcrs_are_refused_and_named() {
    let text = values().to_string().replace("\"11\":", "\"12\":");
    let error = ReferenceValues::parse(text.as_bytes()).unwrap_err();
    let LoadError::Json { source, .. } = error else {
        panic!("{error:?}");
    };
    assert!(
        source.to_string().contains("duplicate PCR `12`"),
        "{source}"
    );
    let text = policy().to_string().replacen('{', "{\"serial\":9,", 1);
    assert!(Policy::parse(text.as_bytes()).is_err());
    assert!(Policy::parse(format!("{}x", policy()).as_bytes()).is_err());
}

#[test]
fn a_refused_rule_says_what_was_expected() {
    let unbound = json!([{"certificate": "", "bound_to_platform": false}]);
    let error = load(&with(policy(), "/tpm/ek_authorities", unbound), &values()).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("bound_to_platform: expected true"),
        "{error}"
    );
    let error = load(&policy(), &without(values(), "/images/0/pcrs/12")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "image `one`: pcrs: expected a value for PCR 12 of the policy, got none"
    );
}

#[test]
fn several_values_of_one_pcr_are_alternatives() {
    let two = json!(["11".repeat(32), "33".repeat(32)]);
    load(&policy(), &with(values(), "/images/0/pcrs/0", two)).unwrap();
}

/// `document` with the value at `path`, whose parent exists, replaced or added.
fn with(mut document: Value, path: &str, value: Value) -> Value {
    let (parent, field) = path.rsplit_once('/').unwrap();
    match document.pointer_mut(parent).unwrap() {
        Value::Array(list) => list[field.parse::<usize>().unwrap()] = value,
        object => object[field] = value,
    }
    document
}

fn without(mut document: Value, path: &str) -> Value {
    let (parent, field) = path.rsplit_once('/').unwrap();
    let object = document
        .pointer_mut(parent)
        .unwrap()
        .as_object_mut()
        .unwrap();
    object.remove(field).unwrap();
    document
}
