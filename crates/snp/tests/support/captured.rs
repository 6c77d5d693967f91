//! The captured cases of `expected_reports.json`.
#![allow(dead_code, reason = "each test program uses a part")]

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE},
};
use serde_json::Value;
use snp::{Authorities, Product, UnixTime};
use vectors::vector;
use x509::x509_cert::der::DateTime;

/// A report, the certificate beside it, and a time at which that is valid.
pub(crate) struct Captured {
    pub(crate) name: &'static str,
    pub(crate) report: Vec<u8>,
    pub(crate) leaf: Vec<u8>,
    pub(crate) moment: UnixTime,
}

/// Name in `expected_reports.json`, file of the report, of the certificate, a day.
const CASES: [(&str, &str, &str, &str); 11] = [
    (
        "trustee test-report.bin + test-vcek.der",
        "snp/verifier__snp__test-report.bin",
        "snp/verifier__snp__test-vcek.der",
        "2024-01-01",
    ),
    (
        "trustee test-report.bin + test-vcek-invalid-legacy.der",
        "snp/verifier__snp__test-report.bin",
        "snp/verifier__snp__test-vcek-invalid-legacy.der",
        "2024-01-01",
    ),
    (
        "trustee test-report.bin + test-vcek-invalid-new.der",
        "snp/verifier__snp__test-report.bin",
        "snp/verifier__snp__test-vcek-invalid-new.der",
        "2024-01-01",
    ),
    (
        "trustee test-vlek-report.bin + test-vlek.der",
        "snp/verifier__snp__test-vlek-report.bin",
        "snp/verifier__snp__test-vlek.der",
        "2025-01-01",
    ),
    (
        "virtee report_milan.hex + vcek_milan.der",
        "snp/tests__certs_data__report_milan.hex",
        "snp/tests__certs_data__vcek_milan.der",
        "2024-01-01",
    ),
    (
        "go-sev-guest attestation.bin + vcek.testcer",
        "snp/go-sev-guest__attestation.bin",
        "snp/go-sev-guest__vcek.testcer",
        "2024-01-01",
    ),
    (
        "dstack sev_snp_attestation.bin @4",
        "snp/sev_snp_attestation.bin",
        "snp/sev_snp_vcek.pem",
        "2026-07-01",
    ),
    (
        "trustee/verifier__az-snp-vtpm__evidence-v0.json",
        "azure-snp/verifier__az-snp-vtpm__evidence-v0.json",
        "",
        "2025-06-01",
    ),
    (
        "trustee/verifier__az-snp-vtpm__evidence-v1.json",
        "azure-snp/verifier__az-snp-vtpm__evidence-v1.json",
        "",
        "2025-06-01",
    ),
    (
        "trustee/verifier__az-snp-vtpm__evidence-v2.json",
        "azure-snp/verifier__az-snp-vtpm__evidence-v2.json",
        "",
        "2025-06-01",
    ),
    (
        "trustee/verifier__az-snp-vtpm__evidence-genoa.json",
        "azure-snp/verifier__az-snp-vtpm__evidence-genoa.json",
        "",
        "2025-06-01",
    ),
];

/// All cases; none, said aloud, where the vectors are missing.
pub(crate) fn captured() -> Vec<Captured> {
    CASES.iter().filter_map(read).collect()
}

fn read(case: &(&'static str, &str, &str, &str)) -> Option<Captured> {
    let (name, report, leaf, day) = *case;
    let bytes = vector(report)?;
    let (report, leaf) = if leaf.is_empty() {
        let azure = azure(&bytes);
        (azure.hcl_report[0x20..0x4c0].to_vec(), azure.leaf)
    } else {
        (bare_report(report, bytes), der(vector(leaf)?))
    };
    Some(Captured {
        name,
        report,
        leaf,
        moment: moment(day),
    })
}

/// A report out of what it was captured in.
fn bare_report(name: &str, bytes: Vec<u8>) -> Vec<u8> {
    if name.ends_with(".hex") {
        return hex::decode(bytes.trim_ascii()).unwrap();
    }
    if name.ends_with("sev_snp_attestation.bin") {
        return bytes[4..4 + 1184].to_vec();
    }
    bytes
}

/// A certificate as DER, be it PEM.
pub(crate) fn der(bytes: Vec<u8>) -> Vec<u8> {
    let Some(text) = std::str::from_utf8(&bytes)
        .ok()
        .filter(|text| text.contains("-----BEGIN"))
    else {
        return bytes;
    };
    let lines = text.lines().skip_while(|line| !line.contains("BEGIN"));
    let body: String = lines
        .skip(1)
        .take_while(|line| !line.contains("END"))
        .collect();
    STANDARD.decode(body).unwrap()
}

/// What an Azure vector holds of the report.
pub(crate) struct Azure {
    pub(crate) hcl_report: Vec<u8>,
    pub(crate) leaf: Vec<u8>,
}

/// The oldest generation has arrays of numbers and PEM, the later ones base64url.
pub(crate) fn azure(json: &[u8]) -> Azure {
    let json: Value = serde_json::from_slice(json).unwrap();
    let text = |name: &str| json[name].as_str().unwrap();
    if json["report"].is_array() {
        return Azure {
            hcl_report: serde_json::from_value(json["report"].clone()).unwrap(),
            leaf: der(text("vcek").into()),
        };
    }
    Azure {
        hcl_report: URL_SAFE.decode(text("hcl_report")).unwrap(),
        leaf: URL_SAFE.decode(text("vcek")).unwrap(),
    }
}

/// The expected fields and verdicts of a case.
pub(crate) fn expected(name: &str) -> Option<Value> {
    let json: Value = serde_json::from_slice(&vector("snp/expected_reports.json")?).unwrap();
    let case = json[name].clone();
    assert!(case.is_object(), "no case `{name}`");
    Some(case)
}

/// AMD's authorities.
pub(crate) fn authorities(product: Product) -> Authorities {
    Authorities::amd(product).unwrap()
}

/// Midnight of a day, `2024-01-31`, in UTC.
pub(crate) fn moment(day: &str) -> UnixTime {
    let midnight: DateTime = format!("{day}T00:00:00Z").parse().unwrap();
    UnixTime(midnight.unix_duration().as_secs())
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    hex::encode(bytes)
}
