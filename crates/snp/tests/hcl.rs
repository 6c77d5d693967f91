//! Azure's paravisor reports: the captured ones, and what must refuse.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/captured.rs"]
mod captured;
#[path = "support/development.rs"]
mod development;

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use development::{authenticate, report, vcek};
use snp::{
    HclError, HclReport, KeyKind, Report, RuntimeClaims,
    hcl::{self, ClaimsError, MAX_HCL_REPORT},
    layout::REPORT_LEN,
};
use software_snp::Product;
use vectors::vector;

/// Generation, and how the modulus of its key starts.
const VECTORS: [(&str, &str); 4] = [
    ("v0", "mHSRbgAAhfrY"),
    ("v1", "mHSRbgAAhfrY"),
    ("v2", "mUK7fQAAxMMh"),
    ("genoa", "v5q34gAAqd1K"),
];

#[test]
fn captured_claims_are_vouched_for_and_name_the_key() {
    for (generation, start) in VECTORS {
        let name = format!("azure-snp/verifier__az-snp-vtpm__evidence-{generation}.json");
        let Some(json) = vector(&name) else {
            return;
        };
        let azure = captured::azure(&json);
        let hcl = HclReport::parse(&azure.hcl_report).unwrap();
        let report = Report::parse(hcl.hardware_report()).unwrap();
        let leaf = captured::authorities(report.product.unwrap())
            .authenticate_leaf(
                KeyKind::Vcek,
                &azure.leaf,
                None,
                captured::moment("2025-06-01"),
            )
            .unwrap();
        let verified = leaf.verify(report).unwrap();
        let key = hcl.authenticate(&verified).unwrap().attestation_key;
        assert_eq!((key.modulus.len(), key.exponent), (256, 65537));
        assert!(URL_SAFE_NO_PAD.encode(&key.modulus).starts_with(start));
    }
}

/// A report of version 2: the product line is its certificate's.
#[test]
fn an_older_captured_blob_is_vouched_for_too() {
    let folder = "azure-snp/verifier__az-snp-vtpm__";
    let read = |name| vector(&format!("{folder}{name}"));
    let (Some(blob), Some(leaf)) = (read("hcl-report.bin"), read("vcek.pem")) else {
        return;
    };
    let hcl = HclReport::parse(&blob).unwrap();
    let report = Report::parse(hcl.hardware_report()).unwrap();
    assert_eq!((report.version, report.product), (2, None));
    let now = captured::moment("2024-01-01");
    let leaf = captured::authorities(snp::Product::Milan)
        .authenticate_leaf(KeyKind::Vcek, &captured::der(leaf), None, now)
        .unwrap();
    let verified = leaf.verify(report).unwrap();
    assert_eq!(verified.product(), snp::Product::Milan);
    let key = hcl.authenticate(&verified).unwrap().attestation_key;
    assert_eq!(key.modulus.len(), 256);
}

#[test]
fn every_truncation_of_a_captured_blob_into_its_claims_refuses() {
    let Some(blob) = vector("azure-snp/verifier__az-snp-vtpm__hcl-report.bin") else {
        return;
    };
    let json = blob.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    for length in 0..json {
        assert!(HclReport::parse(&blob[..length]).is_err(), "{length}");
    }
    for length in json..blob.len() {
        assert!(HclReport::parse(&blob[..length]).is_ok(), "{length}");
    }
}

/// What the paravisor writes around a hardware report and claims.
fn encode(report: &[u8; REPORT_LEN], json: &[u8]) -> Vec<u8> {
    let length = u32::try_from(json.len()).unwrap();
    let mut bytes = hcl::MAGIC.to_vec();
    for field in [2, 0x4d4 + length, 2, 0, 0, 0, 0] {
        bytes.extend(u32::to_le_bytes(field));
    }
    bytes.extend(report);
    for field in [20 + length, 1, 2, 1, length] {
        bytes.extend(u32::to_le_bytes(field));
    }
    bytes.extend(json);
    bytes
}

fn key(kid: &str, n: &[u8], e: &[u8]) -> String {
    let [n, e] = [n, e].map(|number| URL_SAFE_NO_PAD.encode(number));
    format!(r#"{{"kid":"{kid}","kty":"RSA","n":"{n}","e":"{e}","key_ops":["sign"]}}"#)
}

fn claims(keys: &[String]) -> Vec<u8> {
    format!(r#"{{"keys":[{}],"vm-configuration":{{}}}}"#, keys.join(",")).into_bytes()
}

fn good() -> Vec<u8> {
    claims(&[
        key("HCLAkPub", &[0xa5; 256], &[1, 0, 1]),
        key("HCLEkPub", &[1], &[3]),
    ])
}

/// `REPORT_DATA` for claims.
fn report_data(json: &[u8]) -> [u8; 64] {
    let mut data = [0; 64];
    data[..32].copy_from_slice(digest(&SHA256, json).as_ref());
    data
}

/// What comes of claims that a report with `report_data` vouches for.
fn authenticate_claims(json: &[u8], report_data: [u8; 64]) -> Result<RuntimeClaims, HclError> {
    let leaf = vcek(Product::Milan);
    let mut fields = report(Product::Milan);
    fields.report_data = report_data;
    let bytes = encode(&fields.signed_by(&leaf).unwrap(), json);
    let hcl = HclReport::parse(&bytes).unwrap();
    let report = Report::parse(hcl.hardware_report()).unwrap();
    let leaf = authenticate(Product::Milan, &leaf).unwrap();
    hcl.authenticate(&leaf.verify(report).unwrap())
}

fn refused(change: impl FnOnce(&mut Vec<u8>)) -> Option<HclError> {
    let mut bytes = encode(&[7; REPORT_LEN], &good());
    change(&mut bytes);
    HclReport::parse(&bytes).err()
}

/// Sets a field of the headers.
fn with(offset: usize, value: u32) -> Option<HclError> {
    refused(|bytes| bytes[offset..offset + 4].copy_from_slice(&value.to_le_bytes()))
}

#[test]
fn claims_that_the_report_was_made_for_give_their_key() {
    let claims = authenticate_claims(&good(), report_data(&good())).unwrap();
    assert_eq!(claims.attestation_key.modulus, [0xa5; 256]);
    assert_eq!(claims.attestation_key.exponent, 65537);
}

#[test]
fn claims_that_the_report_was_not_made_for_refuse() {
    let json = good();
    let data = report_data(&json);
    for at in 0..64 {
        let mut other = data;
        other[at] ^= 1;
        assert_eq!(
            authenticate_claims(&json, other),
            Err(HclError::Unbound),
            "byte {at}"
        );
    }
    let other = claims(&[key("HCLAkPub", &[0xa6; 256], &[1, 0, 1])]);
    assert_eq!(authenticate_claims(&other, data), Err(HclError::Unbound));
}

#[test]
fn fields_of_the_headers_that_do_not_fit_refuse() {
    let json = u32::try_from(good().len()).unwrap();
    let length = |offset| Some(HclError::Length(offset));
    assert_eq!(refused(|_| {}), None);
    assert_eq!(refused(|bytes| bytes[0] = b'h'), Some(HclError::Magic));
    for version in [0, 3, u32::MAX] {
        assert_eq!(
            with(hcl::VERSION, version),
            Some(HclError::Version(version))
        );
    }
    for hash in [0, 2, 3] {
        assert_eq!(with(hcl::HASH, hash), Some(HclError::Hash(hash)));
    }
    for size in [0, 0x4d4, 0x4d4 + json - 1, 0x4d4 + json + 1, u32::MAX] {
        assert_eq!(with(hcl::SIZE, size), length(hcl::SIZE));
    }
    for size in [0, json, json + 19, json + 21, u32::MAX] {
        assert_eq!(with(hcl::CLAIMS_SIZE, size), length(hcl::CLAIMS_SIZE));
    }
    for size in [json + 1, 0x8000_0000, u32::MAX] {
        assert_eq!(with(hcl::JSON_SIZE, size), length(hcl::JSON_SIZE));
    }
    for size in [0, json - 1] {
        assert_eq!(with(hcl::JSON_SIZE, size), length(hcl::SIZE));
    }
}

#[test]
fn the_twin_over_tdx_refuses_as_what_it_is() {
    for (kind, name) in [
        (4, "Intel TDX"),
        (3, "a VM without hardware protection"),
        (9, "unknown kind 9"),
    ] {
        let refused = with(hcl::HARDWARE, kind).unwrap();
        let text = format!("hardware report is of {name}, not of SEV-SNP");
        assert_eq!(refused.to_string(), text);
    }
}

#[test]
fn only_zeros_follow_the_claims_and_not_too_many() {
    assert_eq!(refused(|bytes| bytes.resize(2600, 0)), None);
    assert_eq!(refused(|bytes| bytes.push(1)), Some(HclError::Trailing));
    let long = MAX_HCL_REPORT + 1;
    assert_eq!(
        refused(|bytes| bytes.resize(long, 0)),
        Some(HclError::TooLong(long))
    );
    for length in 4..hcl::JSON {
        let refused = refused(|bytes| bytes.truncate(length));
        assert_eq!(refused, Some(HclError::TooShort(length)), "{length}");
    }
}

#[test]
fn claims_without_exactly_one_rsa_key_refuse() {
    let refused = |json: &[u8]| match authenticate_claims(json, report_data(json)) {
        Err(HclError::Claims(error)) => error,
        other => panic!("{other:?}"),
    };
    let ak = |n: &[u8], e: &[u8]| claims(&[key("HCLAkPub", n, e)]);
    for malformed in [
        &b""[..],
        b"{}",
        b"[]",
        b"{\"keys\":[],\"keys\":[]}",
        b"{\"keys\":{}}",
        &[0xff; 8],
    ] {
        assert_eq!(refused(malformed), ClaimsError::Malformed);
    }
    let deep = [b"{\"keys\":[],\"x\":".to_vec(), vec![b'['; 3000]].concat();
    assert_eq!(refused(&deep), ClaimsError::Malformed);
    let trailing = [&good()[..], b" 1"].concat();
    assert_eq!(refused(&trailing), ClaimsError::Malformed);

    assert_eq!(refused(&claims(&[])), ClaimsError::NotOneKey(0));
    let one = key("HCLAkPub", &[1; 256], &[3]);
    assert_eq!(
        refused(&claims(&[one.clone(), one])),
        ClaimsError::NotOneKey(2)
    );

    let wrong = [
        ak(&[1; 255], &[3]),
        ak(&[1; 513], &[3]),
        ak(&[], &[3]),
        ak(&[0; 256], &[3]),
        ak(&[1; 256], &[]),
        ak(&[1; 256], &[0, 3]),
        ak(&[1; 256], &[1, 0, 0, 0, 1]),
        br#"{"keys":[{"kid":"HCLAkPub","kty":"EC","x":"AQ","y":"AQ"}]}"#.to_vec(),
        br#"{"keys":[{"kid":"HCLAkPub","kty":"RSA","n":"+/==","e":"AQAB"}]}"#.to_vec(),
    ];
    for json in wrong {
        assert_eq!(refused(&json), ClaimsError::Key);
    }
}
