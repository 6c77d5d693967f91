//! The folder and the bundle: what survives, what is ignored, what is refused.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "support/development.rs"]
mod development;

use development::{NOW, TCB, authorities, list, store, vcek, vlek};
use endorsements::{
    AuthoritySet, Bundle, BundleError, Config, EndorsementId, Endorsements, RejectedLeaf, Store,
    system_clock,
};
use snp::{KeyKind, Report, UnixTime};
use software_snp::{Product, ReportFields, Tcb};
use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime},
};
use tempfile::tempdir;

fn import(folder: &Path, leaves: &[&(EndorsementId, Vec<u8>)]) {
    let leaves = leaves.iter().map(|(id, der)| (id.kind(), der.clone()));
    let bundle = Bundle::new(leaves.collect(), Vec::new());
    bundle.import(&store(folder), NOW).unwrap();
}

fn set_age(path: &Path, seconds: u64) {
    let file = fs::File::options().write(true).open(path).unwrap();
    let time = SystemTime::now() - Duration::from_secs(seconds);
    file.set_modified(time).unwrap();
}

fn files(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

#[test]
fn certificates_are_told_apart_by_chip_tcb_product_and_kind() {
    let folder = tempdir().unwrap();
    let older = Tcb {
        bootloader: 2,
        ..TCB
    };
    let all = [
        vcek(Product::Milan, 1, TCB),
        vcek(Product::Milan, 2, TCB),
        vcek(Product::Milan, 1, older),
        vcek(Product::Genoa, 1, TCB),
        vcek(Product::Turin, 1, TCB),
        vlek(Product::Milan, TCB),
        vlek(Product::Turin, TCB),
    ];
    import(folder.path(), &all.iter().collect::<Vec<_>>());
    let store = store(folder.path());
    for (id, der) in &all {
        assert_eq!(store.leaf(id, NOW).as_ref(), Some(der), "{id}");
    }
    assert_eq!(files(folder.path()).len(), all.len());
}

#[test]
fn a_report_says_which_certificate_it_needs() {
    for product in Product::ALL {
        let fields = ReportFields::new(product, development::chip(1), TCB);
        let of = |fields: &ReportFields, key: &software_snp::Leaf, product: Product| {
            let bytes = fields.signed_by(key).unwrap();
            let report = Report::parse(&bytes).unwrap();
            EndorsementId::of_report(&report, product.into())
        };
        let chip_key = development::ROOT
            .vcek(product, &development::chip(1), TCB)
            .unwrap();
        let expected = Some(vcek(product, 1, TCB).0);
        assert_eq!(of(&fields, &chip_key, product), expected);
        // A report of version 2 does not say what it is of: the caller tries each line.
        let v2 = fields.clone().with_version(2);
        assert_eq!(of(&v2, &chip_key, product), expected);
        for other in Product::ALL.into_iter().filter(|other| *other != product) {
            assert_eq!(of(&fields, &chip_key, other), None);
        }
        let provider_key = development::ROOT.vlek(product, "cloud", TCB).unwrap();
        let expected = Some(vlek(product, TCB).0);
        assert_eq!(
            of(&fields.clone().with_vlek(), &provider_key, product),
            expected
        );
        let mut masked = fields;
        masked.chip_id = [0; 64];
        assert_eq!(of(&masked, &chip_key, product), None);
    }
}

#[test]
fn broken_files_count_as_missing() {
    let (id, der) = vcek(Product::Milan, 1, TCB);
    let (_, other) = vcek(Product::Milan, 2, TCB);
    let mut flipped = der.clone();
    flipped[700] ^= 1;
    let folder = tempdir().unwrap();
    import(folder.path(), &[&(id, der.clone())]);
    let path = folder.path().join(&files(folder.path())[0]);
    let broken = [
        Vec::new(),
        der[..der.len() / 2].to_vec(),
        [der.clone(), vec![0]].concat(),
        flipped,
        other,
        vec![0x30; 100_000],
    ];
    for bytes in broken {
        fs::write(&path, bytes).unwrap();
        assert_eq!(store(folder.path()).leaf(&id, NOW), None);
    }
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert_eq!(store(folder.path()).leaf(&id, NOW), None);
    fs::remove_dir(&path).unwrap();
    fs::write(&path, &der).unwrap();
    assert_eq!(store(folder.path()).leaf(&id, NOW), Some(der));
}

/// A certificate of an authority that this store does not know, in a folder that another one filled.
#[test]
fn other_authorities_certificates_count_as_missing() {
    let (id, der) = vcek(Product::Milan, 1, TCB);
    let folder = tempdir().unwrap();
    import(folder.path(), &[&(id, der.clone())]);
    let amd = Store::open(folder.path(), 100, AuthoritySet::amd().unwrap()).unwrap();
    assert_eq!(amd.leaf(&id, NOW), None);
    let bundle = Bundle::new(vec![(KeyKind::Vcek, der)], Vec::new());
    let error = bundle.import(&amd, NOW).unwrap_err();
    let refused = |error: &BundleError| match error {
        BundleError::Leaf { index, source } => {
            *index == 0 && matches!(source, RejectedLeaf::Authority(_))
        }
        _ => false,
    };
    assert!(refused(&error), "{error}");
}

#[test]
fn amds_own_certificates_are_kept() {
    let folder = tempdir().unwrap();
    let amd = Store::open(folder.path(), 100, AuthoritySet::amd().unwrap()).unwrap();
    for (kind, name) in [
        (KeyKind::Vcek, "snp/verifier__snp__test-vcek.der"),
        (KeyKind::Vlek, "snp/verifier__snp__test-vlek.der"),
        (KeyKind::Vcek, "snp/tests__certs_data__vcek_turin.der"),
    ] {
        let Some(der) = vectors::vector(name) else {
            return;
        };
        let bundle = Bundle::new(vec![(kind, der.clone())], Vec::new());
        // Each is valid in the first months after it was made.
        let leaf = snp::Leaf::parse(kind, &der).unwrap();
        let now = leaf.validity().from;
        let imported = bundle.import(&amd, now).unwrap();
        assert_eq!(amd.leaf(&imported.leaves[0], now), Some(der), "{name}");
    }
}

#[test]
fn the_oldest_files_go_first() {
    let folder = tempdir().unwrap();
    let all: Vec<_> = (0..5)
        .map(|number| vcek(Product::Milan, number, TCB))
        .collect();
    for (age, entry) in (1..=5).rev().zip(&all) {
        import(folder.path(), &[entry]);
        let names = files(folder.path());
        let age_of = |name: &&String| fs::metadata(folder.path().join(name)).unwrap().modified();
        let newest = names.iter().max_by_key(|name| age_of(name).unwrap());
        set_age(&folder.path().join(newest.unwrap()), age * 1000);
    }
    fs::write(folder.path().join("1-0.tmp"), "half").unwrap();
    let store = Store::open(folder.path(), 3, authorities()).unwrap();
    let kept: Vec<_> = all
        .iter()
        .map(|(id, _)| store.leaf(id, NOW).is_some())
        .collect();
    assert_eq!(kept, [false, false, true, true, true]);
    // Another process may be writing it.
    assert_eq!(files(folder.path()).len(), 4);
    set_age(&folder.path().join("1-0.tmp"), 7200);
    drop(Store::open(folder.path(), 3, authorities()).unwrap());
    assert_eq!(files(folder.path()).len(), 3);
}

#[test]
fn certificates_do_not_push_out_revocation_lists() {
    let folder = tempdir().unwrap();
    let old = list(Product::Milan, NOW.0 - 10);
    let lists = Bundle::new(Vec::new(), vec![(snp::Product::Milan, old.clone())]);
    let small = || Store::open(folder.path(), 2, authorities()).unwrap();
    lists.import(&small(), NOW).unwrap();
    set_age(&folder.path().join(&files(folder.path())[0]), 5000);
    for number in 0..4 {
        let (id, der) = vcek(Product::Milan, number, TCB);
        let bundle = Bundle::new(vec![(id.kind(), der)], Vec::new());
        bundle.import(&small(), NOW).unwrap();
    }
    assert_eq!(files(folder.path()).len(), 3);
    let authorities = authorities();
    let milan = authorities.iter().next().unwrap();
    assert_eq!(small().revocation_list(milan, NOW), Some(old));
}

/// A revocation that an operator imports must not wait for a restart.
#[test]
fn a_newer_list_of_another_process_counts_at_once_and_an_older_one_never() {
    let folder = tempdir().unwrap();
    let [first, newer, oldest] = [20, 10, 30].map(|age| list(Product::Milan, NOW.0 - age));
    let authorities = authorities();
    let milan = authorities.iter().next().unwrap();
    let put = |list: &[u8]| {
        let lists = Bundle::new(Vec::new(), vec![(snp::Product::Milan, list.to_vec())]);
        lists.import(&store(folder.path()), NOW).unwrap();
    };
    put(&first);
    let service = store(folder.path());
    assert_eq!(service.revocation_list(milan, NOW), Some(first));
    put(&newer);
    assert_eq!(service.revocation_list(milan, NOW), Some(newer.clone()));
    let path = folder.path().join(&files(folder.path())[0]);
    for replaced in [&*oldest, b"garbage"] {
        fs::write(&path, replaced).unwrap();
        assert_eq!(service.revocation_list(milan, NOW), Some(newer.clone()));
    }
    fs::remove_file(&path).unwrap();
    assert_eq!(service.revocation_list(milan, NOW), Some(newer));
}

#[test]
fn a_bundle_carries_everything_to_a_folder() {
    let there = tempdir().unwrap();
    let all = [
        vcek(Product::Milan, 1, TCB),
        vlek(Product::Genoa, TCB),
        vcek(Product::Turin, 3, TCB),
    ];
    let genoa_list = list(Product::Genoa, NOW.0 - 10);
    let leaves = all.iter().map(|(id, der)| (id.kind(), der.clone()));
    let bundle = Bundle::new(
        leaves.collect(),
        vec![(Product::Genoa.into(), genoa_list.clone())],
    );
    assert_eq!(bundle.len(), 4);
    let file = bundle.encode().unwrap();
    let parsed = Bundle::parse(file.as_bytes()).unwrap();
    assert_eq!(parsed, bundle);
    let imported = parsed.import(&store(there.path()), NOW).unwrap();
    assert_eq!(imported.leaves.len(), 3);
    assert_eq!(files(there.path()).len(), 4);
    let store = store(there.path());
    for (id, der) in &all {
        assert_eq!(store.leaf(id, NOW).as_ref(), Some(der));
    }
    let authorities = authorities();
    let genoa = authorities.iter().nth(1).unwrap();
    assert_eq!(store.revocation_list(genoa, NOW), Some(genoa_list));
    // Not past its next update.
    let late = UnixTime(NOW.0 + 366 * 86_400);
    assert_eq!(store.revocation_list(genoa, late), None);
}

#[test]
fn a_bundle_with_one_bad_entry_changes_nothing() {
    let (good, bad) = (vcek(Product::Milan, 1, TCB).1, vlek(Product::Milan, TCB).1);
    let mut flipped = good.clone();
    flipped[900] ^= 1;
    let vcek = KeyKind::Vcek;
    let bundles = [
        vec![(vcek, good.clone()), (vcek, flipped)],
        // A VLEK that calls itself a VCEK, and the other way round.
        vec![(vcek, good.clone()), (vcek, bad)],
        vec![(vcek, good.clone()), (KeyKind::Vlek, good)],
        vec![(vcek, Vec::new())],
    ];
    for leaves in bundles {
        let folder = tempdir().unwrap();
        let last = leaves.len() - 1;
        let bundle = Bundle::new(leaves, Vec::new());
        let error = bundle.import(&store(folder.path()), NOW).unwrap_err();
        assert!(
            matches!(error, BundleError::Leaf { index, .. } if index == last),
            "{error}"
        );
        assert!(files(folder.path()).is_empty());
    }
    // Certificates of the future, and of a past long gone.
    let bundle = Bundle::new(
        vec![(vcek, development::vcek(Product::Milan, 1, TCB).1)],
        Vec::new(),
    );
    for now in [UnixTime(1_500_000_000), UnixTime(4_000_000_000)] {
        let folder = tempdir().unwrap();
        bundle.import(&store(folder.path()), now).unwrap_err();
    }
}

#[test]
fn files_that_are_no_bundles_are_refused() {
    let leaf = r#"{"kind":"vcek","der":"AA=="}"#;
    let with = |certificates: &str| {
        format!(r#"{{"version":1,"certificates":[{certificates}],"revocation_lists":[]}}"#)
    };
    Bundle::parse(with(leaf).as_bytes()).unwrap();
    let many = vec![leaf; 16 * 1024 + 1].join(",");
    let long = format!(r#"{{"kind":"vcek","der":"{}"}}"#, base64(&[0; 8193]));
    let malformed = [
        String::new(),
        "[]".to_owned(),
        with(leaf).replace("\"version\":1", "\"version\":2"),
        with(leaf).replace("vcek", "VCEK"),
        with(leaf).replace("AA==", "A"),
        with(leaf).replace("\"kind\"", "\"extra\":1,\"kind\""),
        with(leaf).replace("{\"version\"", "{\"extra\":1,\"version\""),
        with(leaf).replace("{\"version\"", "{\"version\":1,\"version\""),
        with(leaf).replace(",\"revocation_lists\":[]", ""),
        with(leaf).replace(
            "\"revocation_lists\":[]",
            r#""revocation_lists":[{"product":"Rome","der":"AA=="}]"#,
        ),
        with(leaf) + "x",
        with(&many),
        with(&long),
        " ".repeat((32 << 20) + 1),
    ];
    for text in malformed {
        assert!(Bundle::parse(text.as_bytes()).is_err(), "{:.200}", text);
    }
}

#[test]
fn offline_nothing_is_fetched() {
    let folder = tempdir().unwrap();
    let config = Config {
        folder: folder.path().to_owned(),
        max_files: 10,
        authorities: authorities(),
        kds: None,
        clock: system_clock(),
    };
    let endorsements = Endorsements::open(config).unwrap();
    let (id, der) = vcek(Product::Milan, 1, TCB);
    assert_eq!(endorsements.request(&id), None);
    // Another process imports; this one finds it.
    import(folder.path(), &[&(id, der.clone())]);
    assert_eq!(endorsements.request(&id), Some(der));
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
