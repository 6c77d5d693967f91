//! Sections about SEV-SNP in policy and reference values: each rule with a document that breaks it,
//! and the message that says so.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "support/guest.rs"]
mod guest;

use appraisal::{LoadError, Policy, REQUIRED_PCRS, document::PolicyDocument};
use evidence::EvidenceKind;
use guest::{OTHER_ROOT, ROOT, development_root, entry, load};
use serde_json::{Value, json};
use software_snp::Product;
use std::error::Error;

/// A policy with every section, under AMD's roots for two lines.
fn policy() -> Value {
    let mut policy = guest::policy(&[Product::Milan, Product::Turin, Product::Genoa]);
    for product in [0, 1] {
        let product = policy["sev_snp"]["products"][product].as_object_mut();
        product.unwrap().remove("development_root");
    }
    policy["evidence"] = json!(["tpm", "sev-snp", "azure-sev-snp", "sev-snp-vtpm"]);
    policy["tpm"] = json!({"pcrs": REQUIRED_PCRS, "ek_hashes": ["ab".repeat(32)]});
    policy["azure_sev_snp"] = json!({"pcrs": REQUIRED_PCRS});
    policy["sev_snp_vtpm"] = json!({"pcrs": [0, 23]});
    policy["sev_snp"]["chips"] = json!(["cd".repeat(64)]);
    policy["sev_snp"]["products"][0]["upcoming_tcb"] = json!({
        "effective": "2027-01-31T00:00:00Z",
        "minimum_tcb": {"bootloader": 4, "tee": 0, "snp": 24, "microcode": 222},
    });
    policy
}

/// Two images of each kind.
fn images() -> Value {
    json!([
        bare("one", 0x11),
        bare("two", 0x22),
        azure("three", 0x33),
        azure("four", 0x44),
        tpm("five", 0x55),
        tpm("six", 0x66),
    ])
}

/// Those that `kind` compares.
fn images_of(kind: &str) -> Value {
    let Value::Array(images) = images() else {
        panic!("a list");
    };
    let images = images.into_iter();
    match kind {
        "tpm" => images.skip(4).collect(),
        "azure-sev-snp" => images.skip(2).take(2).collect(),
        _ => images.take(2).collect(),
    }
}

fn bare(name: &str, byte: u8) -> Value {
    json!({
        "name": name,
        "roles": ["worker"],
        "sev_snp": {
            "measurements": [hex::encode([byte; 48])],
            "id_block": {
                "id_key_digest": "1d".repeat(48),
                "author_key_digest": "a0".repeat(48),
                "family_id": "fa".repeat(16),
                "image_id": hex::encode([byte; 16]),
                "minimum_guest_svn": 3,
            },
        },
    })
}

fn azure(name: &str, byte: u8) -> Value {
    let mut image = tpm(name, byte);
    image["azure_sev_snp"] = json!({"measurements": ["99".repeat(48)]});
    image
}

fn tpm(name: &str, byte: u8) -> Value {
    let mut pcrs = json!({});
    for pcr in REQUIRED_PCRS {
        pcrs[pcr.to_string()] = json!([hex::encode([byte; 32])]);
    }
    pcrs["15"] = json!(["0".repeat(64)]);
    json!({"name": name, "roles": ["worker"], "pcrs": pcrs})
}

/// What is wrong, with its causes.
fn fault(policy: &Value, images: &Value) -> String {
    let error: LoadError = load(policy, images).unwrap_err();
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[test]
fn documents_with_every_section_load() {
    let appraiser = load(&policy(), &images()).unwrap();
    assert_eq!(
        appraiser.policy().kinds(),
        [
            EvidenceKind::Tpm,
            EvidenceKind::SevSnp,
            EvidenceKind::AzureSevSnp,
            EvidenceKind::SevSnpVtpm
        ]
    );
    let requirements = appraiser.requirements();
    let pcrs: Vec<_> = requirements.iter().map(|it| it.pcrs.as_slice()).collect();
    assert_eq!(pcrs, [&REQUIRED_PCRS[..], &[], &REQUIRED_PCRS, &[0, 23]]);
    assert_eq!(
        appraiser.policy().development_roots(),
        [snp::Product::Genoa]
    );
}

#[test]
fn a_document_is_written_as_it_was_read() {
    let document: PolicyDocument = serde_json::from_value(policy()).unwrap();
    assert_eq!(serde_json::to_value(&document).unwrap(), policy());
}

#[test]
fn a_section_is_there_exactly_if_a_kind_reads_it() {
    let sections = ["tpm", "sev_snp", "azure_sev_snp", "sev_snp_vtpm"];
    let kinds: [(&str, &[&str]); 4] = [
        ("tpm", &["tpm"]),
        ("sev-snp", &["sev_snp"]),
        ("azure-sev-snp", &["sev_snp", "azure_sev_snp"]),
        ("sev-snp-vtpm", &["sev_snp", "sev_snp_vtpm"]),
    ];
    for (kind, wanted) in kinds {
        let mut exact = policy();
        exact["evidence"] = json!([kind]);
        let object = exact.as_object_mut().unwrap();
        object.retain(|field, _| !sections.contains(&field.as_str()) || wanted.contains(&&**field));
        load(&exact, &images_of(kind)).unwrap();
        for section in sections {
            let mut other = exact.clone();
            let expected = if wanted.contains(&section) {
                other.as_object_mut().unwrap().remove(section).unwrap();
                format!("{section}: expected the section that `evidence` asks for, got none")
            } else {
                other[section] = policy()[section].clone();
                format!("{section}: expected none, because no kind of `evidence` reads it, got one")
            };
            assert_eq!(fault(&other, &images_of(kind)), expected, "{kind}");
        }
    }
}

#[test]
fn each_broken_rule_about_products_is_refused_by_name() {
    let turin = json!({"bootloader": 1, "tee": 1, "snp": 1, "microcode": 1});
    let broken = [
        ("/products", json!([]), "expected at least one entry"),
        ("/products/1", entry(Product::Milan), "Milan twice"),
        (
            "/products/0/product",
            json!("milan"),
            "expected `Milan`, `Genoa` or `Turin`",
        ),
        (
            "/products/0/product",
            json!("Siena"),
            "expected `Milan`, `Genoa` or `Turin`",
        ),
        (
            "/products/0/endorsement_key",
            json!("any"),
            "unknown variant `any`",
        ),
        (
            "/products/0/endorsement_key",
            json!(["vcek", "vlek"]),
            "not valid JSON",
        ),
        ("/products/0/minimum_tcb/snp", json!(256), "not valid JSON"),
        ("/products/0/minimum_tcb/snp", json!(-1), "not valid JSON"),
        (
            "/products/0/minimum_tcb/fmc",
            json!(0),
            "products Milan: minimum_tcb: expected no `fmc`",
        ),
        (
            "/products/1/minimum_tcb",
            turin,
            "products Turin: minimum_tcb: expected `fmc`",
        ),
        (
            "/products/0/minimum_tcb/psp",
            json!(0),
            "unknown field `psp`",
        ),
        ("/products/0/skip", json!(true), "unknown field `skip`"),
        (
            "/products/0/upcoming_tcb/minimum_tcb/fmc",
            json!(0),
            "products Milan: upcoming_tcb: expected no `fmc`",
        ),
        (
            "/products/0/upcoming_tcb/from",
            json!(0),
            "unknown field `from`",
        ),
    ];
    refuse(&broken);
    for date in [
        json!("2027-01-31"),
        json!("2027-01-31T00:00:00"),
        json!("2027-01-31T00:00:00+01:00"),
        json!("2027-02-30T00:00:00Z"),
        json!("1969-12-31T00:00:00Z"),
        json!(""),
        json!(1_800_000_000),
    ] {
        refuse(&[("/products/0/upcoming_tcb/effective", date, "not valid JSON")]);
    }
    missing(&[
        "/products/0/product",
        "/products/0/endorsement_key",
        "/products/0/minimum_tcb",
        "/products/0/minimum_tcb/bootloader",
        "/products/0/minimum_tcb/tee",
        "/products/0/minimum_tcb/snp",
        "/products/0/minimum_tcb/microcode",
        "/products/1/minimum_tcb/fmc",
        "/products/0/upcoming_tcb/minimum_tcb",
    ]);
}

#[test]
fn each_broken_rule_about_reports_is_refused_by_name() {
    refuse(&[
        ("/vmpl", json!(256), "not valid JSON"),
        (
            "/vmpl",
            json!(1),
            "sev_snp.vmpl: expected 0 with `azure-sev-snp`",
        ),
        ("/guest_policy/allow_smt", json!("yes"), "not valid JSON"),
        (
            "/guest_policy/allow_debug",
            json!(false),
            "unknown field `allow_debug`",
        ),
        ("/guest_policy/minimum_abi", json!([1]), "not valid JSON"),
        (
            "/guest_policy/minimum_abi",
            json!([1, 2, 3]),
            "not valid JSON",
        ),
        ("/guest_policy/minimum_abi", json!("1.55"), "not valid JSON"),
        ("/alias_check", json!(false), "not valid JSON"),
        (
            "/alias_check",
            json!("optional"),
            "unknown variant `optional`",
        ),
        (
            "/revocation_lists",
            json!("never"),
            "unknown variant `never`",
        ),
        (
            "/chips",
            json!([]),
            "sev_snp.chips: expected at least one entry",
        ),
        (
            "/chips",
            json!(["cd".repeat(8)]),
            "expected 128 lower-case hex digits",
        ),
        (
            "/chips",
            json!(["CD".repeat(64)]),
            "expected 128 lower-case hex digits",
        ),
        (
            "/chips",
            json!(["cd".repeat(65)]),
            "expected 128 lower-case hex digits",
        ),
        ("/skip", json!(true), "unknown field `skip`"),
    ]);
    missing(&[
        "/products",
        "/vmpl",
        "/guest_policy",
        "/guest_policy/allow_smt",
        "/guest_policy/require_single_socket",
        "/guest_policy/minimum_abi",
        "/alias_check",
        "/revocation_lists",
    ]);
}

#[test]
fn a_privilege_level_below_the_paravisor_loads_without_the_paravisor() {
    let mut policy = guest::policy(&[Product::Milan]);
    for vmpl in 0..=3 {
        policy["sev_snp"]["vmpl"] = json!(vmpl);
        load(&policy, &images_of("sev-snp")).unwrap();
    }
    policy["sev_snp"]["vmpl"] = json!(4);
    assert_eq!(
        fault(&policy, &images()),
        "sev_snp.vmpl: expected 0 to 3, got 4"
    );
}

#[test]
fn each_broken_development_root_is_refused_by_name() {
    let genoa = || development_root(&ROOT, Product::Genoa);
    let with = |name: &str, value: Value| {
        let mut root = genoa();
        root[name] = value;
        root
    };
    let other = development_root(&OTHER_ROOT, Product::Genoa);
    let path = "/products/2/development_root";
    refuse(&[
        (path, json!(true), "not valid JSON"),
        (path, with("ark", json!("")), "expected certificates in PEM"),
        (
            path,
            with("ask", json!("00")),
            "expected certificates in PEM",
        ),
        (
            path,
            with("ask", other["ask"].clone()),
            "ASK is not signed by the root",
        ),
        (
            path,
            with("asvk", other["asvk"].clone()),
            "ASVK is not signed by the root",
        ),
        (path, with("ark", genoa()["ask"].clone()), "unusable root"),
        (path, with("extra", json!("")), "unknown field `extra`"),
    ]);
    missing(&[
        "/products/2/development_root/ark",
        "/products/2/development_root/ask",
        "/products/2/development_root/asvk",
    ]);
}

#[test]
fn each_broken_list_of_pcrs_is_refused_by_name() {
    for (section, pcrs) in [
        ("azure_sev_snp", json!([])),
        ("azure_sev_snp", json!([0, 15])),
        ("azure_sev_snp", json!([0, 2, 3, 4, 7, 9, 11, 12, 13])),
        (
            "azure_sev_snp",
            json!([0, 2, 3, 4, 7, 9, 11, 12, 13, 15, 16]),
        ),
        ("azure_sev_snp", json!([2, 0, 3, 4, 7, 9, 11, 12, 13, 15])),
        ("sev_snp_vtpm", json!([])),
        ("sev_snp_vtpm", json!([1, 0])),
        ("sev_snp_vtpm", json!([0, 0])),
        ("sev_snp_vtpm", json!([24])),
    ] {
        let mut policy = policy();
        policy[section]["pcrs"] = pcrs;
        let fault = fault(&policy, &images());
        assert!(
            fault.starts_with(&format!("{section}.pcrs: expected")),
            "{fault}"
        );
    }
}

#[test]
fn each_broken_launch_is_refused_by_name() {
    let broken = [
        (
            "/0/sev_snp",
            json!({}),
            "image `one`: sev_snp: expected `measurements` or `id_block`",
        ),
        (
            "/0/sev_snp/measurements",
            json!([]),
            "expected at least one entry",
        ),
        (
            "/0/sev_snp/measurements/0",
            json!("11".repeat(32)),
            "expected 96 lower-case hex digits",
        ),
        (
            "/0/sev_snp/measurements/0",
            json!("AA".repeat(48)),
            "expected 96 lower-case hex digits",
        ),
        ("/0/sev_snp/skip", json!(1), "unknown field `skip`"),
        (
            "/0/sev_snp/id_block/id_key_digest",
            json!("00".repeat(48)),
            "expected the digest of a key, got zero",
        ),
        (
            "/0/sev_snp/id_block/author_key_digest",
            json!("00".repeat(48)),
            "expected the digest of a key, got zero",
        ),
        (
            "/0/sev_snp/id_block/family_id",
            json!("00".repeat(15)),
            "expected 32 lower-case hex digits",
        ),
        (
            "/0/sev_snp/id_block/minimum_guest_svn",
            json!(-1),
            "not valid JSON",
        ),
        (
            "/0/sev_snp/id_block/policy",
            json!(0),
            "unknown field `policy`",
        ),
        (
            "/0/sev_snp/id_block",
            json!({"family_id": "00".repeat(16), "image_id": "00".repeat(16), "minimum_guest_svn": 0}),
            "expected `id_key_digest` or `author_key_digest`, got neither",
        ),
        (
            "/2/azure_sev_snp",
            json!({}),
            "image `three`: azure_sev_snp: expected `measurements` or `id_block`",
        ),
        (
            "/2/azure_sev_snp/measurements",
            json!([]),
            "expected at least one entry",
        ),
        (
            "/2/pcrs",
            json!(null),
            "image `three`: azure_sev_snp: expected `pcrs` beside it",
        ),
    ];
    for (path, value, expected) in broken {
        let mut images = images();
        set(&mut images, path, value.clone());
        let fault = fault(&policy(), &images);
        assert!(fault.contains(expected), "{path} = {value}: {fault}");
    }
}

/// So that the one latch or claim of its kind counts for it.
#[test]
fn an_image_that_could_attest_with_two_kinds_is_refused() {
    let broken = [
        (
            "/0/pcrs",
            tpm("", 0x11)["pcrs"].clone(),
            "image `one`: sev_snp: expected no `pcrs` beside it",
        ),
        (
            "/2/sev_snp",
            bare("", 0x33)["sev_snp"].clone(),
            "image `three`: sev_snp: expected no `pcrs` beside it",
        ),
    ];
    for (path, value, expected) in broken {
        let mut images = images();
        set(&mut images, path, value);
        let fault = fault(&policy(), &images);
        assert!(fault.contains(expected), "{path}: {fault}");
    }
}

#[test]
fn an_id_block_says_all_of_it() {
    for field in ["family_id", "image_id", "minimum_guest_svn"] {
        let mut images = images();
        let block = images[0]["sev_snp"]["id_block"].as_object_mut().unwrap();
        block.remove(field).unwrap();
        let fault = fault(&policy(), &images);
        assert!(
            fault.contains(&format!("missing field `{field}`")),
            "{fault}"
        );
    }
}

/// A policy that accepts one kind, which has a report.
fn only(kind: &str) -> Value {
    let mut policy = guest::policy(&[Product::Milan]);
    policy["evidence"] = json!([kind]);
    if kind == "azure-sev-snp" {
        policy["azure_sev_snp"] = json!({"pcrs": REQUIRED_PCRS});
    }
    policy
}

#[test]
fn an_image_of_a_kind_that_is_not_accepted_is_refused() {
    for kind in ["sev-snp", "azure-sev-snp"] {
        for other in ["sev-snp", "azure-sev-snp", "tpm"] {
            let Err(error) = load(&only(kind), &images_of(other)) else {
                assert_eq!(kind, other);
                continue;
            };
            assert_ne!(kind, other);
            let expected = "expected values for a kind of evidence that the policy accepts";
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
}

/// An image in a paravisor has PCRs as well, and is none of a bare TPM's.
#[test]
fn an_image_in_a_paravisor_is_no_image_of_a_tpm() {
    let mut policy = policy();
    policy["evidence"] = json!(["tpm"]);
    for section in ["sev_snp", "azure_sev_snp", "sev_snp_vtpm"] {
        policy.as_object_mut().unwrap().remove(section);
    }
    load(&policy, &images_of("tpm")).unwrap();
    let fault = fault(&policy, &images_of("azure-sev-snp"));
    assert!(
        fault.starts_with("image `three`: expected values"),
        "{fault}"
    );
}

#[test]
fn images_that_cannot_be_told_apart_are_refused() {
    let fault = |change: fn(&mut Value)| {
        let mut images = images_of("sev-snp");
        change(&mut images);
        load(&only("sev-snp"), &images)
            .err()
            .map(|error| error.to_string())
    };
    assert_eq!(fault(|_| {}), None);
    let same = "images: expected images that can be told apart, got `one` and `two` accept the same sev-snp evidence";
    let measurement = |images: &mut Value| {
        images[0]["sev_snp"]["measurements"] = json!(["22".repeat(48)]);
    };
    assert_eq!(fault(measurement).as_deref(), Some(same));
    let image_id = |images: &mut Value| {
        images[0]["sev_snp"]["id_block"]["image_id"] = json!("22".repeat(16));
    };
    assert_eq!(fault(image_id).as_deref(), Some(same));
    // Blocks of two signers are apart, but not if one image takes any signer under one author.
    let signer = |images: &mut Value| {
        images[0]["sev_snp"]["id_block"]["image_id"] = json!("22".repeat(16));
        images[0]["sev_snp"]["id_block"]["id_key_digest"] = json!("2d".repeat(48));
    };
    assert_eq!(fault(signer), None);
    let any_signer = |images: &mut Value| {
        images[0]["sev_snp"]["id_block"]["image_id"] = json!("22".repeat(16));
        let block = images[0]["sev_snp"]["id_block"].as_object_mut();
        block.unwrap().remove("id_key_digest");
    };
    assert_eq!(fault(any_signer).as_deref(), Some(same));
}

/// Images in one paravisor are told apart by their PCRs.
#[test]
fn images_in_one_paravisor_need_different_pcrs() {
    let policy = only("azure-sev-snp");
    let mut images = images_of("azure-sev-snp");
    load(&policy, &images).unwrap();
    images[1]["pcrs"] = images[0]["pcrs"].clone();
    let fault = fault(&policy, &images);
    assert!(
        fault.contains("accept the same azure-sev-snp evidence"),
        "{fault}"
    );
}

/// Each change in section `sev_snp` must be refused, with a message that contains the text.
fn refuse(broken: &[(&str, Value, &str)]) {
    for (path, value, expected) in broken {
        let mut policy = policy();
        set(&mut policy["sev_snp"], path, value.clone());
        let fault = fault(&policy, &images());
        assert!(fault.contains(expected), "{path} = {value}: {fault}");
    }
}

/// Each of these fields of section `sev_snp` must be there.
fn missing(paths: &[&str]) {
    for path in paths {
        let mut policy = policy();
        let (parent, field) = path.rsplit_once('/').unwrap();
        let parent = policy["sev_snp"].pointer_mut(parent).unwrap();
        parent.as_object_mut().unwrap().remove(field).unwrap();
        let error = Policy::parse(policy.to_string().as_bytes());
        assert!(error.is_err(), "without {path}");
    }
}

fn set(document: &mut Value, path: &str, value: Value) {
    let (parent, field) = path.rsplit_once('/').unwrap();
    match document.pointer_mut(parent).unwrap() {
        Value::Array(list) => list[field.parse::<usize>().unwrap()] = value,
        object => object[field] = value,
    }
}
