//! Captured evidence of real machines, where the vectors are at hand (crate `vectors`), through the
//! whole appraisal. It was made for other verifiers: what nothing else refuses, the binding does.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "../../snp/tests/support/captured.rs"]
mod captured;
#[path = "support/guest.rs"]
mod guest;

use appraisal::{
    Answer, AppraisalError, Appraised, Endorsements, ErrorClass, REQUIRED_PCRS, ReportError,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use captured::{Captured, captured, expected};
use evidence::{AttesterClaim, AzureSnpEvidence, Evidence, SnpEvidence, TpmEvidence};
use guest::{binding, load, secret};
use serde_json::{Value, json};
use snp::{HclError, Report, hcl};
use tpm::QuoteError;
use vectors::vector;

/// The loosest policy for one product line, and exactly what the report needs where it needs it.
fn policy(product: &str, case: &Value) -> Value {
    let tcb = &case["reported_tcb"];
    let aliases = case["alias_check_complete"] == true;
    let abi: Vec<u8> = case["abi"]
        .as_str()
        .unwrap()
        .split('.')
        .map(|number| number.parse().unwrap())
        .collect();
    json!({
        "version": 1,
        "serial": 1,
        "evidence": ["sev-snp"],
        "sev_snp": {
            "products": [{
                "product": product,
                "endorsement_key": case["signing_key"].as_str().unwrap().to_lowercase(),
                "minimum_tcb": {
                    "bootloader": tcb["bl"],
                    "tee": tcb["tee"],
                    "snp": tcb["snp"],
                    "microcode": tcb["ucode"],
                },
            }],
            "vmpl": case["vmpl"],
            "guest_policy": {
                "allow_smt": true,
                "require_single_socket": false,
                "minimum_abi": abi,
            },
            "alias_check": if aliases { "required" } else { "unavailable" },
            "revocation_lists": "when-given",
        },
    })
}

fn images(case: &Value) -> Value {
    json!([{
        "name": "captured",
        "roles": ["worker"],
        "sev_snp": {"measurements": [case["measurement"]]},
    }])
}

/// The product line by the root that the expectations name; Milan for those that name none.
fn product(case: &Value) -> &'static str {
    let chain = case["cert_chains_to"].as_str().unwrap_or("milan");
    if chain.starts_with("genoa") {
        "Genoa"
    } else {
        "Milan"
    }
}

fn appraise(
    captured: &Captured,
    policy: &Value,
    images: &Value,
    certificate: Option<&[u8]>,
) -> Result<Appraised, AppraisalError> {
    let appraiser = load(policy, images).unwrap();
    let evidence = SnpEvidence {
        report: captured.report.clone(),
        certificates: Vec::new(),
    };
    let (challenged, _) = appraiser.challenge(&AttesterClaim::SevSnp, secret())?;
    appraiser.appraise(
        challenged,
        &Answer {
            activated: None,
            evidence: &Evidence::SevSnp(evidence),
            binding: &binding(1),
            endorsements: Endorsements {
                leaf: certificate,
                revocations: None,
            },
            now: captured.moment.0,
        },
    )
}

/// Names of the failed checks.
fn failed(verdict: Result<Appraised, AppraisalError>) -> Vec<String> {
    let error = verdict.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Refused, "{error:?}");
    error
        .checks()
        .into_iter()
        .map(|check| check.check)
        .collect()
}

/// Every case with what the expectations say of it.
fn cases() -> Vec<(Captured, Value)> {
    let with = |case: Captured| {
        let expected = expected(case.name)?;
        Some((case, expected))
    };
    captured().into_iter().filter_map(with).collect()
}

#[test]
fn every_captured_report_gets_the_expected_verdict() {
    for (captured, case) in cases() {
        let policy = policy(product(&case), &case);
        let failed = failed(appraise(
            &captured,
            &policy,
            &images(&case),
            Some(&captured.leaf),
        ));
        let name = captured.name;
        if case["signature_valid_with_cert"] == false {
            let cause = failed[0].as_str();
            let certificate = ["certificate of the signing key", "signed report"];
            assert!(certificate.contains(&cause), "{name}: {failed:?}");
        } else if case["debug_allowed"] == true {
            assert_eq!(failed, ["guest policy: debug"], "{name}");
        } else {
            // Nothing is wrong with it but that it was made for somebody else.
            assert_eq!(failed, ["REPORT_DATA"], "{name}");
        }
    }
}

#[test]
fn a_stricter_policy_refuses_each_captured_report_by_name() {
    type Stricter = (&'static str, &'static str, fn(&Value) -> Value);
    let stricter: [Stricter; 7] = [
        (
            "/products/0/minimum_tcb/bootloader",
            "reported TCB: bootloader",
            one_more,
        ),
        ("/products/0/minimum_tcb/tee", "reported TCB: tee", one_more),
        ("/products/0/minimum_tcb/snp", "reported TCB: snp", one_more),
        (
            "/products/0/minimum_tcb/microcode",
            "reported TCB: microcode",
            one_more,
        ),
        ("/vmpl", "VMPL", one_more),
        (
            "/guest_policy/minimum_abi/1",
            "guest policy: ABI version",
            one_more,
        ),
        (
            "/guest_policy/require_single_socket",
            "guest policy: single socket",
            |_| json!(true),
        ),
    ];
    for (captured, case) in cases() {
        if case["signature_valid_with_cert"] == false {
            continue;
        }
        for (pointer, check, change) in stricter {
            let mut policy = policy(product(&case), &case);
            let rule = policy["sev_snp"].pointer_mut(pointer).unwrap();
            *rule = change(rule);
            let failed = failed(appraise(
                &captured,
                &policy,
                &images(&case),
                Some(&captured.leaf),
            ));
            let expected: Vec<_> = failed.iter().filter(|got| *got != check).collect();
            let name = captured.name;
            assert!(failed.iter().any(|got| got == check), "{name}: {failed:?}");
            assert!(
                expected.is_empty() || *expected == ["guest policy: debug"],
                "{name}: {failed:?}"
            );
        }
        // What the report does not say is refused where the policy asks for it.
        let mut policy = policy(product(&case), &case);
        policy["sev_snp"]["alias_check"] = json!("required");
        if case["alias_check_complete"] == false {
            let failed = failed(appraise(
                &captured,
                &policy,
                &images(&case),
                Some(&captured.leaf),
            ));
            let aliases = "platform: ALIAS_CHECK_COMPLETE";
            assert!(failed.iter().any(|check| check == aliases), "{failed:?}");
        }
    }
}

fn one_more(number: &Value) -> Value {
    json!(number.as_u64().unwrap() + 1)
}

#[test]
fn a_captured_report_is_refused_under_the_other_kind_of_key_and_line() {
    for (captured, case) in cases() {
        if case["signature_valid_with_cert"] == false {
            continue;
        }
        let mut policy = policy(product(&case), &case);
        let other = if case["signing_key"] == "VCEK" {
            "vlek"
        } else {
            "vcek"
        };
        policy["sev_snp"]["products"][0]["endorsement_key"] = json!(other);
        let refused = appraise(&captured, &policy, &images(&case), Some(&captured.leaf));
        assert_eq!(failed(refused), ["certificate of the signing key"]);
    }
    for (captured, case) in cases() {
        let other = if product(&case) == "Milan" {
            "Genoa"
        } else {
            "Milan"
        };
        let policy = policy(other, &case);
        let refused = appraise(&captured, &policy, &images(&case), Some(&captured.leaf));
        let failed = failed(refused);
        // A report of version 2 names no line; then the certificate is of the wrong one.
        let expected = if case["version"] == 2 {
            "certificate of the signing key"
        } else {
            "product line"
        };
        assert_eq!(failed, [expected], "{}", captured.name);
    }
}

#[test]
fn a_captured_report_without_its_certificate_waits_for_it() {
    for (captured, case) in cases() {
        if case["debug_allowed"] == true {
            continue;
        }
        let policy = policy(product(&case), &case);
        let error = appraise(&captured, &policy, &images(&case), None).unwrap_err();
        assert!(matches!(
            error,
            AppraisalError::Report(ReportError::NoEndorsement { .. })
        ));
        assert_eq!(error.class(), ErrorClass::Unavailable);
    }
}

/// A captured quote, in the four shapes that the vectors have.
fn quote(json: &Value) -> TpmEvidence {
    let quote = json.get("quote").unwrap_or_else(|| &json["tpm_quote"]);
    let bytes = |value: &Value| match value {
        Value::String(hex) => hex::decode(hex).unwrap(),
        numbers => serde_json::from_value(numbers.clone()).unwrap(),
    };
    let values = quote["pcrs"].as_array().unwrap().iter().map(bytes);
    // A `TPMT_SIGNATURE`: RSASSA, SHA-256, 256 bytes.
    let header = [0x00, 0x14, 0x00, 0x0b, 0x01, 0x00];
    TpmEvidence {
        attestation: bytes(&quote["message"]),
        signature: [&header[..], &bytes(&quote["signature"])].concat(),
        pcrs: (0..)
            .zip(values.map(|value| value.try_into().unwrap()))
            .collect(),
        event_log: Vec::new(),
    }
}

struct Azure {
    evidence: AzureSnpEvidence,
    leaf: Vec<u8>,
    case: Value,
}

fn azure() -> Vec<Azure> {
    let read = |generation| {
        let file = format!("verifier__az-snp-vtpm__evidence-{generation}.json");
        let bytes = vector(&format!("azure-snp/{file}"))?;
        let captured = captured::azure(&bytes);
        Some(Azure {
            evidence: AzureSnpEvidence {
                quote: quote(&serde_json::from_slice(&bytes).unwrap()),
                hcl_report: captured.hcl_report,
            },
            leaf: captured.leaf,
            case: expected(&format!("trustee/{file}"))?,
        })
    };
    ["v0", "v1", "v2", "genoa"]
        .into_iter()
        .filter_map(read)
        .collect()
}

fn appraise_azure(azure: &Azure) -> AppraisalError {
    let mut policy = policy(product(&azure.case), &azure.case);
    policy["evidence"] = json!(["azure-sev-snp"]);
    policy["azure_sev_snp"] = json!({"pcrs": REQUIRED_PCRS});
    let zero = json!(["00".repeat(32)]);
    let pcrs: serde_json::Map<_, _> = REQUIRED_PCRS
        .into_iter()
        .map(|pcr| (pcr.to_string(), zero.clone()))
        .collect();
    let images = json!([{
        "name": "captured",
        "roles": ["worker"],
        "pcrs": pcrs,
        "azure_sev_snp": {"measurements": [azure.case["measurement"]]},
    }]);
    let appraiser = load(&policy, &images).unwrap();
    let (challenged, _) = appraiser
        .challenge(&AttesterClaim::AzureSevSnp, secret())
        .unwrap();
    let answer = Answer {
        activated: None,
        evidence: &Evidence::AzureSevSnp(azure.evidence.clone()),
        binding: &binding(1),
        endorsements: Endorsements {
            leaf: Some(&azure.leaf),
            revocations: None,
        },
        now: captured::moment("2025-06-01").0,
    };
    appraiser.appraise(challenged, &answer).unwrap_err()
}

/// Report, claims and the quote's signature all hold: only the nonce is of another verifier.
#[test]
fn captured_azure_evidence_fails_by_its_nonce_alone() {
    for azure in azure() {
        let error = appraise_azure(&azure);
        let AppraisalError::Binding { got, .. } = error else {
            panic!("{error:?}");
        };
        let quote = hex::encode(&azure.evidence.quote.attestation);
        assert!(quote.contains(&got));
    }
}

#[test]
fn captured_azure_evidence_with_any_part_of_another_machine_is_refused() {
    let all = azure();
    for (i, one) in all.iter().enumerate() {
        for other in all.iter().skip(i + 1) {
            if product(&one.case) == product(&other.case) {
                continue;
            }
            let mixed = Azure {
                evidence: AzureSnpEvidence {
                    quote: other.evidence.quote.clone(),
                    ..one.evidence.clone()
                },
                leaf: one.leaf.clone(),
                case: one.case.clone(),
            };
            let error = appraise_azure(&mixed);
            assert_eq!(error, AppraisalError::Quote(QuoteError::BadSignature));
            let mixed = Azure {
                leaf: other.leaf.clone(),
                ..mixed
            };
            let error = appraise_azure(&mixed);
            assert_eq!(error.checks()[0].check, "certificate of the signing key");
        }
    }
}

#[test]
fn captured_azure_evidence_with_a_changed_claim_or_quote_is_refused() {
    for mut azure in azure() {
        let (blob, quote) = (
            azure.evidence.hcl_report.clone(),
            azure.evidence.quote.clone(),
        );
        azure.evidence.hcl_report[hcl::JSON + 20] ^= 1;
        assert_eq!(
            appraise_azure(&azure),
            AppraisalError::Report(ReportError::Hcl(HclError::Unbound))
        );
        azure.evidence.hcl_report = blob;
        azure.evidence.quote.attestation[60] ^= 1;
        assert_eq!(
            appraise_azure(&azure),
            AppraisalError::Quote(QuoteError::BadSignature)
        );
        azure.evidence.quote = quote;
        azure.evidence.hcl_report[hcl::HARDWARE] = 4;
        assert_eq!(appraise_azure(&azure).class(), ErrorClass::Malformed);
    }
}

/// Base64 that other tools wrap reports in is not what the firmware gives.
#[test]
fn a_wrapped_report_is_refused() {
    for (captured, case) in cases().into_iter().take(1) {
        assert!(Report::parse(&captured.report).is_ok());
        for wrapped in [
            [&[0, 0, 4, 0xa0][..], &captured.report].concat(),
            STANDARD.encode(&captured.report).into_bytes(),
        ] {
            let wrapped = Captured {
                report: wrapped,
                leaf: captured.leaf.clone(),
                ..captured
            };
            let policy = policy(product(&case), &case);
            let verdict = appraise(&wrapped, &policy, &images(&case), Some(&captured.leaf));
            assert!(verdict.is_err());
        }
    }
}
