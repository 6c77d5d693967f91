//! Which certificate a verifier looks for, and that it waits for none that could not help.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use appraisal::{
    Answer, AppraisalError, Appraiser, CredentialSecret, Endorsements, ErrorClass, Policy,
    ReferenceValues, ReportError,
};
use evidence::{AttesterClaim, Binding, Channel, Evidence, Side, SnpEvidence};
use serde_json::{Value, json};
use snp::{KeyKind, VerifyError};
use software_snp::{DevelopmentRoot, Product, ReportFields, Tcb};
use std::{path::Path, sync::LazyLock};

static ROOT: LazyLock<DevelopmentRoot> = LazyLock::new(|| {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    DevelopmentRoot::kept_in(&dir.join("development-root.json")).unwrap()
});

/// 2026-01-01.
const NOW: u64 = 1_767_225_600;
const CHIP: [u8; 64] = [7; 64];
const TCB: Tcb = Tcb {
    fmc: 0,
    bootloader: 3,
    tee: 0,
    snp: 8,
    microcode: 115,
};

type Change = fn(&mut ReportFields);

fn pem(der: &[u8]) -> String {
    software_snp::pem("CERTIFICATE", der)
}

fn product(product: Product) -> Value {
    let chain = ROOT.chain(product);
    json!({
        "product": product.name(),
        "endorsement_key": "vcek",
        "minimum_tcb": { "bootloader": 3, "tee": 0, "snp": 8, "microcode": 115 },
        "development_root": {
            "ark": pem(&chain.ark), "ask": pem(&chain.ask), "asvk": pem(&chain.asvk),
        },
    })
}

fn appraiser(change: impl FnOnce(&mut Value)) -> Appraiser {
    let mut policy = json!({
        "version": 1, "serial": 1, "evidence": ["sev-snp"],
        "sev_snp": {
            "products": [product(Product::Milan)],
            "vmpl": 0,
            "guest_policy":
                { "allow_smt": true, "require_single_socket": false, "minimum_abi": [0, 0] },
            "alias_check": "unavailable",
            "revocation_lists": "when-given",
        },
    });
    change(&mut policy["sev_snp"]);
    let values = json!({
        "version": 1, "serial": 1,
        "images": [{
            "name": "one", "roles": ["worker"],
            "sev_snp": { "measurements": ["00".repeat(48)] },
        }],
    });
    let policy = Policy::parse(policy.to_string().as_bytes()).unwrap();
    let values = ReferenceValues::parse(values.to_string().as_bytes()).unwrap();
    Appraiser::new(policy, values).unwrap()
}

fn fields() -> ReportFields {
    let mut fields = ReportFields::new(Product::Milan, CHIP, TCB);
    fields.report_data = *binding().as_bytes();
    fields
}

fn binding() -> Binding {
    Binding::compute(&Channel {
        attester: Side::Client,
        client_hello: b"client",
        server_hello: b"server",
        client_spki: b"client's key",
        server_spki: b"server's key",
        exporter: &[0; 32],
    })
}

/// A report signed by the key it names, without a certificate beside it.
fn evidence(fields: &ReportFields) -> Evidence {
    let leaf = match fields.signing_key() {
        software_snp::LeafKind::Vcek => ROOT.vcek(Product::Milan, &CHIP, TCB),
        software_snp::LeafKind::Vlek => ROOT.vlek(Product::Milan, "cloud", TCB),
    };
    let report = fields.signed_by(&leaf.unwrap()).unwrap();
    Evidence::SevSnp(SnpEvidence {
        report: report.to_vec(),
        certificates: Vec::new(),
    })
}

fn refusal(appraiser: &Appraiser, evidence: &Evidence) -> AppraisalError {
    let secret = CredentialSecret::try_fill(|_| Ok::<_, ()>(())).unwrap();
    let (challenged, _) = appraiser.challenge(&AttesterClaim::SevSnp, secret).unwrap();
    let answer = Answer {
        activated: None,
        evidence,
        binding: &binding(),
        endorsements: Endorsements::default(),
        now: NOW,
    };
    appraiser.appraise(challenged, &answer).unwrap_err()
}

#[test]
fn a_good_report_waits_for_its_certificate() {
    let appraiser = appraiser(|_| ());
    let evidence = evidence(&fields());
    let wanted = appraiser.wanted(&evidence, NOW).unwrap();
    assert_eq!(wanted.report.chip_id.0, CHIP);
    assert_eq!(wanted.in_table, None);
    let products: Vec<_> = wanted.authorities.iter().map(|it| it.product()).collect();
    assert_eq!(products, [snp::Product::Milan]);
    let error = refusal(&appraiser, &evidence);
    assert_eq!(error.class(), ErrorClass::Unavailable, "{error}");
}

#[test]
fn a_report_that_names_no_product_may_be_of_each() {
    let appraiser = appraiser(|rules| {
        rules["products"] = json!([product(Product::Genoa), product(Product::Milan)]);
    });
    let evidence = evidence(&fields().with_version(2));
    let wanted = appraiser.wanted(&evidence, NOW).unwrap();
    let products: Vec<_> = wanted.authorities.iter().map(|it| it.product()).collect();
    assert_eq!(products, [snp::Product::Genoa, snp::Product::Milan]);
}

/// What a report says against itself needs no certificate to be refused, and makes nobody fetch one.
#[test]
fn nobody_looks_for_a_certificate_of_a_report_that_is_refused_anyway() {
    let lies: [(&str, Change); 8] = [
        ("guest policy: debug", |it| it.policy |= 1 << 19),
        ("guest policy: migration agent", |it| it.policy |= 1 << 18),
        ("VMPL", |it| it.vmpl = 1),
        ("reported TCB: bootloader", |it| it.reported_tcb[0] = 2),
        ("reported TCB: snp", |it| it.reported_tcb[6] = 7),
        ("reported TCB: microcode", |it| it.reported_tcb[7] = 114),
        ("CHIP_ID", |it| it.chip_id = [8; 64]),
        ("CHIP_ID", |it| it.chip_id = [0; 64]),
    ];
    for revocation_lists in ["when-given", "required"] {
        let appraiser = appraiser(|rules| {
            rules["chips"] = json!([hex::encode(CHIP)]);
            rules["revocation_lists"] = json!(revocation_lists);
        });
        for (check, lie) in &lies {
            let mut fields = fields();
            lie(&mut fields);
            let evidence = evidence(&fields);
            assert!(appraiser.wanted(&evidence, NOW).is_none(), "{check}");
            let error = refusal(&appraiser, &evidence);
            assert_eq!(error.class(), ErrorClass::Refused, "{error}");
            let AppraisalError::Report(ReportError::Rules(failed)) = error else {
                panic!("{check}: {error}");
            };
            assert!(
                failed.iter().any(|failed| failed.check == *check),
                "{check}"
            );
        }
    }
}

#[test]
fn the_wrong_kind_of_key_is_refused_at_once() {
    let appraiser = appraiser(|_| ());
    let evidence = evidence(&fields().with_vlek());
    assert!(appraiser.wanted(&evidence, NOW).is_none());
    let error = refusal(&appraiser, &evidence);
    let expected = VerifyError::KeyKind {
        expected: KeyKind::Vcek,
        got: KeyKind::Vlek,
    };
    assert_eq!(error, AppraisalError::Report(ReportError::Verify(expected)));
}

#[test]
fn what_is_no_report_wants_nothing() {
    let appraiser = appraiser(|_| ());
    for report in [Vec::new(), vec![0; 1184], vec![2; 1183]] {
        let evidence = Evidence::SevSnp(SnpEvidence {
            report,
            certificates: Vec::new(),
        });
        assert!(appraiser.wanted(&evidence, NOW).is_none());
    }
}
