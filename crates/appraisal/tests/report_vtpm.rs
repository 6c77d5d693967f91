//! Reports with a vTPM: Azure's, whose key the report vouches for, and one beside the guest, which
//! nothing vouches for.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "support/guest.rs"]
mod guest;
#[path = "support/paravisor.rs"]
mod paravisor;

use appraisal::{
    AppraisalError, Appraised, AttesterIdentity, ErrorClass, REQUIRED_PCRS, ReportError,
};
use evidence::{
    AttesterClaim, AzureSnpEvidence, Evidence, EvidenceKind, SnpVtpmEvidence, TpmEvidence,
};
use guest::{Guest, MEASUREMENT, TCB, binding, secret};
use paravisor::{AzureGuest, KEY, OTHER_KEY, image, report_data, wrap};
use serde_json::{Value, json};
use snp::{HclError, hcl, hcl::ClaimsError, layout};
use software_snp::Product;
use software_tpm::keys::{KeyAuthority, KeyTpm};
use tpm::QuoteError;

fn hcl_error(error: HclError) -> AppraisalError {
    AppraisalError::Report(ReportError::Hcl(error))
}

#[test]
fn azure_evidence_is_accepted_and_names_the_machine() {
    for product in [Product::Milan, Product::Genoa] {
        let mut azure = AzureGuest::new();
        let other = Guest::on(product);
        azure.guest.report = other.report;
        azure.guest.sign_with((*other.signer).clone());
        azure.guest.policy["sev_snp"] = other.policy["sev_snp"].clone();
        let appraised = azure.appraise().unwrap();
        assert_eq!(appraised.image(), "v1");
        assert_eq!(appraised.evidence_kind(), EvidenceKind::AzureSevSnp);
        assert!(appraised.identity().names_machine());
        // The latch says whether a key was released in this boot.
        assert_eq!(appraised.report_id(), None);
        assert_eq!(appraised.claims().tpm.as_ref().unwrap().pcrs, azure.pcrs);
        let report = appraised.claims().sev_snp.as_ref().unwrap();
        assert_eq!(report.product, product.into());
    }
}

#[test]
fn the_machine_is_its_attestation_key_and_survives_reboots() {
    let identity = |claims: Value, key: &paravisor::RsaKey, report_id| {
        let mut azure = AzureGuest::new();
        azure.claims = claims;
        azure.guest.report.report_id = report_id;
        let data = azure.guest.binding.qualifying_data();
        let appraised = azure.appraise_evidence(AzureSnpEvidence {
            hcl_report: azure.hcl_report(),
            quote: key.quote(&data, &azure.pcrs),
        });
        *appraised.unwrap().identity()
    };
    let one = json!({"keys": [KEY.claim("HCLAkPub")]});
    let first: AttesterIdentity = identity(one.clone(), &KEY, [1; 32]);
    let more = json!({"keys": [KEY.claim("HCLAkPub")], "vm-configuration": {"a": 1}});
    assert_eq!(first, identity(one, &KEY, [2; 32]));
    assert_eq!(first, identity(more, &KEY, [1; 32]));
    let other = json!({"keys": [OTHER_KEY.claim("HCLAkPub")]});
    assert_ne!(first, identity(other, &OTHER_KEY, [1; 32]));
}

#[test]
fn a_set_latch_refuses_on_azure() {
    let mut azure = AzureGuest::new();
    azure.pcrs.insert(15, [1; 32]);
    let error = azure.appraise().unwrap_err();
    assert!(matches!(error, AppraisalError::Latched { .. }));
    assert_eq!(error.class(), ErrorClass::Refused);
    assert!(error.is_by_proven_attester());
}

#[test]
fn a_quote_by_another_key_than_the_vouched_one_is_refused() {
    let azure = AzureGuest::new();
    let data = azure.guest.binding.qualifying_data();
    let mut evidence = azure.evidence();
    // The other key is among the claims too, under another name.
    evidence.quote = OTHER_KEY.quote(&data, &azure.pcrs);
    let error = azure.appraise_evidence(evidence).unwrap_err();
    assert_eq!(error, AppraisalError::Quote(QuoteError::BadSignature));
    assert!(!error.is_by_proven_attester());
}

#[test]
fn a_quote_of_another_channel_is_refused_on_azure() {
    let azure = AzureGuest::new();
    let mut evidence = azure.evidence();
    evidence.quote = KEY.quote(&binding(2).qualifying_data(), &azure.pcrs);
    let error = azure.appraise_evidence(evidence).unwrap_err();
    assert!(matches!(error, AppraisalError::Binding { .. }));
    assert!(!error.is_by_proven_attester());
}

#[test]
fn a_flipped_bit_of_any_claim_is_refused() {
    let azure = AzureGuest::new();
    let blob = azure.hcl_report();
    assert!(azure.appraise_blob(blob.clone()).is_ok());
    for offset in hcl::JSON..blob.len() {
        let mut flipped = blob.clone();
        flipped[offset] ^= 1;
        let error = azure.appraise_blob(flipped).unwrap_err();
        assert_eq!(error, hcl_error(HclError::Unbound), "{offset:#x}");
        assert_eq!(error.class(), ErrorClass::Malformed);
    }
}

#[test]
fn a_flipped_bit_of_the_hardware_report_is_refused() {
    let azure = AzureGuest::new();
    let blob = azure.hcl_report();
    for offset in hcl::HARDWARE_REPORT..hcl::CLAIMS_SIZE {
        let mut flipped = blob.clone();
        flipped[offset] ^= 1 << (offset % 8);
        assert!(azure.appraise_blob(flipped).is_err(), "{offset:#x}");
    }
}

#[test]
fn every_truncation_of_the_paravisors_report_is_refused() {
    let azure = AzureGuest::new();
    let blob = azure.hcl_report();
    for length in 0..blob.len() {
        let error = azure.appraise_blob(blob[..length].to_vec()).unwrap_err();
        assert_eq!(error.class(), ErrorClass::Malformed, "{length}");
    }
    assert!(azure.appraise_blob([&blob[..], &[0; 100]].concat()).is_ok());
    let longer = [&blob[..], &[1]].concat();
    assert!(azure.appraise_blob(longer).is_err());
}

#[test]
fn report_data_that_is_not_exactly_the_hash_of_the_claims_is_refused() {
    let azure = AzureGuest::new();
    let json = azure.claims.to_string().into_bytes();
    let with = |report_data| {
        let mut guest = azure.guest.clone();
        guest.report.report_data = report_data;
        azure.appraise_blob(wrap(&guest.signed(), &json))
    };
    assert!(with(report_data(&json)).is_ok());
    let mut padded = report_data(&json);
    padded[63] = 1;
    // A report for this channel, as a bare guest makes it, vouches for no claims.
    let bare = *azure.guest.binding.as_bytes();
    for other in [report_data(b"{}"), padded, bare, [0; 64]] {
        assert_eq!(with(other), Err(hcl_error(HclError::Unbound)));
    }
}

#[test]
fn the_paravisors_report_of_another_machine_vouches_for_its_own_key_only() {
    // A host that mixes the report of one machine with the quote of another.
    let azure = AzureGuest::new();
    let mut other = AzureGuest::new();
    other.guest = azure.guest.clone();
    other.claims = json!({"keys": [OTHER_KEY.claim("HCLAkPub")]});
    let error = azure.appraise_blob(other.hcl_report()).unwrap_err();
    assert_eq!(error, AppraisalError::Quote(QuoteError::BadSignature));
}

#[test]
fn claims_without_exactly_one_key_are_refused() {
    let with = |claims| {
        let mut azure = AzureGuest::new();
        azure.claims = claims;
        azure.appraise().unwrap_err()
    };
    let claims = |error| hcl_error(HclError::Claims(error));
    let none = json!({"keys": [KEY.claim("HCLEkPub")]});
    assert_eq!(with(none), claims(ClaimsError::NotOneKey(0)));
    let two = json!({"keys": [KEY.claim("HCLAkPub"), OTHER_KEY.claim("HCLAkPub")]});
    assert_eq!(with(two), claims(ClaimsError::NotOneKey(2)));
    assert_eq!(with(json!([])), claims(ClaimsError::Malformed));
}

#[test]
fn the_twin_on_tdx_is_refused_by_name() {
    let azure = AzureGuest::new();
    let mut blob = azure.hcl_report();
    blob[hcl::HARDWARE] = 4;
    let error = azure.appraise_blob(blob).unwrap_err();
    assert!(error.checks()[0].got.contains("Intel TDX"));
}

#[test]
fn every_rule_of_the_report_holds_under_a_paravisor_too() {
    type Change = fn(&mut Guest);
    let broken: [(&str, Change); 5] = [
        ("VMPL", |guest| guest.report.vmpl = 2),
        ("guest policy: debug", |guest| {
            guest.report.policy |= layout::POLICY_DEBUG;
        }),
        ("platform: ALIAS_CHECK_COMPLETE", |guest| {
            guest.report.platform_info = 0;
        }),
        ("reported TCB: microcode", |guest| {
            *guest.rule("/sev_snp/products/0/minimum_tcb/microcode") = json!(TCB.microcode + 1);
        }),
        ("certificate of the signing key", |guest| guest.own = None),
    ];
    for (check, change) in broken {
        let mut azure = AzureGuest::new();
        change(&mut azure.guest);
        let error = azure.appraise().unwrap_err();
        assert_eq!(error.checks()[0].check, check);
    }
}

#[test]
fn paravisor_and_pcrs_must_both_be_the_images() {
    let mut azure = AzureGuest::new();
    azure.guest.report.measurement[0] ^= 1;
    let error = azure.appraise().unwrap_err();
    assert_eq!(error.checks().len(), 1);
    assert_eq!(error.checks()[0].check, "launch measurement of image `v1`");
    assert!(error.is_by_proven_attester());

    for pcr in REQUIRED_PCRS {
        let mut azure = AzureGuest::new();
        azure.pcrs.insert(pcr, [9; 32]);
        assert!(azure.appraise().is_err(), "{pcr}");
    }
    let mut azure = AzureGuest::new();
    azure.pcrs.insert(9, [9; 32]);
    let checks = azure.appraise().unwrap_err().checks();
    assert_eq!(checks[0].check, "PCR 9 of image `v1`");
}

#[test]
fn a_quote_over_fewer_pcrs_or_of_other_values_is_refused() {
    let azure = AzureGuest::new();
    let data = azure.guest.binding.qualifying_data();
    let mut fewer = azure.pcrs.clone();
    fewer.remove(&15);
    let mut evidence = azure.evidence();
    evidence.quote = KEY.quote(&data, &fewer);
    let error = azure.appraise_evidence(evidence.clone()).unwrap_err();
    assert!(matches!(error, AppraisalError::Selection { .. }));
    evidence.quote = azure.quote();
    evidence.quote.pcrs.insert(9, [9; 32]);
    let error = azure.appraise_evidence(evidence).unwrap_err();
    assert!(matches!(error, AppraisalError::PcrDigest { .. }));
}

/// What the firmware measured of the image that attests with bare reports.
const BARE: [u8; 48] = [0x44; 48];

/// An Azure guest and rules that accept bare guests, of another image, too.
fn azure_beside_bare() -> AzureGuest {
    let mut azure = AzureGuest::new();
    azure.guest.policy["evidence"] = json!(["azure-sev-snp", "sev-snp"]);
    azure.guest.images = json!([image("azure", 1), guest::image("bare", &BARE)]);
    azure
}

/// Root inside a bare guest may ask the firmware for any `REPORT_DATA`: it must not pass for a
/// paravisor, whose latch and key it would make up.
#[test]
fn a_bare_guest_never_passes_for_a_paravisor_nor_the_other_way_round() {
    let mut azure = azure_beside_bare();
    assert_eq!(azure.appraise().unwrap().image(), "azure");
    // The paravisor's measurement makes no bare node.
    assert_eq!(
        azure.guest.appraise().unwrap_err().checks()[0].check,
        "launch measurement of image `bare`"
    );
    // The bare guest with a paravisor's blob of its own making is a node as what it is alone.
    azure.guest.report.measurement = BARE;
    let error = azure.appraise().unwrap_err();
    assert_eq!(
        error.checks()[0].check,
        "launch measurement of image `azure`"
    );
    assert_eq!(azure.guest.appraise().unwrap().image(), "bare");
}

/// A vTPM beside the guest.
struct Beside {
    guest: Guest,
    tpm: KeyTpm,
}

impl Beside {
    fn new() -> Self {
        let mut guest = Guest::new();
        guest.policy["evidence"] = json!(["sev-snp-vtpm"]);
        guest.policy["sev_snp_vtpm"] = json!({"pcrs": [0, 15, 23]});
        let mut tpm = KeyAuthority::new("host").unwrap().manufacture().unwrap();
        tpm.pcrs = [(0, [7; 32]), (15, [8; 32]), (23, [9; 32])].into();
        Self { guest, tpm }
    }

    fn quote(&self) -> TpmEvidence {
        let data = self.guest.binding.qualifying_data();
        self.tpm.quote(&data, &[0, 15, 23]).unwrap()
    }

    fn appraise(&self, quote: TpmEvidence) -> Result<Appraised, AppraisalError> {
        let ak_public = self.tpm.identity().ak_public.clone();
        let evidence = Evidence::SevSnpVtpm(SnpVtpmEvidence {
            snp: self.guest.evidence(),
            quote,
        });
        self.guest
            .appraise_evidence(&AttesterClaim::SevSnpVtpm { ak_public }, &evidence)
    }
}

#[test]
fn pcrs_of_a_vtpm_beside_the_guest_are_shown_and_decide_nothing() {
    let mut beside = Beside::new();
    let appraised = beside.appraise(beside.quote()).unwrap();
    assert_eq!(appraised.evidence_kind(), EvidenceKind::SevSnpVtpm);
    // No latch, no machine: as a bare report.
    assert_eq!(*appraised.identity(), AttesterIdentity::SevSnp);
    assert_eq!(appraised.report_id(), Some(&beside.guest.report.report_id));
    assert_eq!(
        appraised.claims().tpm.as_ref().unwrap().pcrs,
        beside.tpm.pcrs
    );

    // Neither do the PCRs of an image make up for its measurement.
    beside.tpm.pcrs = paravisor::pcrs(1);
    beside.guest.report.measurement[0] ^= 1;
    let error = beside.appraise(beside.quote()).unwrap_err();
    assert_eq!(error.checks().len(), 1);
    assert_eq!(error.checks()[0].check, "launch measurement of image `v1`");
}

#[test]
fn a_quote_beside_the_guest_must_verify() {
    let beside = Beside::new();
    let mut tampered = beside.quote();
    tampered.signature[10] ^= 1;
    let error = beside.appraise(tampered).unwrap_err();
    assert_eq!(error, AppraisalError::Quote(QuoteError::BadSignature));
    let other = beside
        .tpm
        .quote(&binding(2).qualifying_data(), &[0, 15, 23])
        .unwrap();
    assert!(matches!(
        beside.appraise(other),
        Err(AppraisalError::Binding { .. })
    ));
    let fewer = beside
        .tpm
        .quote(&beside.guest.binding.qualifying_data(), &[0, 15])
        .unwrap();
    assert!(matches!(
        beside.appraise(fewer),
        Err(AppraisalError::Selection { .. })
    ));
    let mut values = beside.quote();
    values.pcrs.insert(0, [0; 32]);
    assert!(matches!(
        beside.appraise(values),
        Err(AppraisalError::PcrDigest { .. })
    ));
    let foreign = Beside::new().quote();
    assert_eq!(
        beside.appraise(foreign),
        Err(AppraisalError::Quote(QuoteError::BadSignature))
    );
}

#[test]
fn every_bare_rule_holds_beside_a_vtpm() {
    let mut beside = Beside::new();
    beside.guest.report.vmpl = 1;
    let error = beside.appraise(beside.quote()).unwrap_err();
    assert_eq!(error.checks()[0].check, "VMPL");
    let mut beside = Beside::new();
    beside.guest.report.report_data = *binding(2).as_bytes();
    let error = beside.appraise(beside.quote()).unwrap_err();
    assert_eq!(error.checks()[0].check, "REPORT_DATA");
}

#[test]
fn an_attestation_key_beside_the_guest_that_is_none_is_refused_at_its_hello() {
    let beside = Beside::new();
    let appraiser = beside.guest.appraiser().unwrap();
    let mut unrestricted = beside.tpm.identity().ak_public.clone();
    // `restricted` is bit 16 of `objectAttributes`, bytes 4 to 8 of the public area.
    unrestricted[5] ^= 1;
    for ak_public in [unrestricted, Vec::new()] {
        let claim = AttesterClaim::SevSnpVtpm { ak_public };
        let error = appraiser.challenge(&claim, secret()).unwrap_err();
        assert!(matches!(error, AppraisalError::AttestationKey(_)));
    }
}

#[test]
fn evidence_is_of_the_kind_that_was_claimed_and_the_policy_accepts() {
    let (azure, beside) = (AzureGuest::new(), Beside::new());
    let mut guest = azure.guest.clone();
    guest.policy["evidence"] = json!(["azure-sev-snp", "sev-snp", "sev-snp-vtpm"]);
    guest.policy["sev_snp_vtpm"] = json!({"pcrs": [0]});
    guest.images = json!([image("azure", 1), guest::image("bare", &MEASUREMENT)]);
    let ak_public = beside.tpm.identity().ak_public.clone();
    let claims = [
        AttesterClaim::AzureSevSnp,
        AttesterClaim::SevSnp,
        AttesterClaim::SevSnpVtpm { ak_public },
    ];
    let evidence = [
        Evidence::AzureSevSnp(azure.evidence()),
        Evidence::SevSnp(guest.evidence()),
        Evidence::SevSnpVtpm(SnpVtpmEvidence {
            snp: guest.evidence(),
            quote: beside
                .tpm
                .quote(&guest.binding.qualifying_data(), &[0])
                .unwrap(),
        }),
        Evidence::Tpm(azure.quote()),
    ];
    for claim in &claims {
        for evidence in &evidence {
            let verdict = guest.appraise_evidence(claim, evidence);
            if claim.kind() == evidence.kind() {
                assert!(verdict.is_ok(), "{claim:?}: {verdict:?}");
                continue;
            }
            let error = verdict.unwrap_err();
            assert!(matches!(error, AppraisalError::Kind { .. }), "{error:?}");
            assert_eq!(error.class(), ErrorClass::Refused);
        }
        // Each kind alone is refused where the policy does not have it.
        let other = if claim.kind() == EvidenceKind::SevSnp {
            azure.guest.appraiser()
        } else {
            Guest::new().appraiser()
        };
        let error = other.unwrap().challenge(claim, secret()).unwrap_err();
        assert!(matches!(error, AppraisalError::Kind { .. }));
    }
}

/// A claim that older rules accepted is judged by the newer ones.
#[test]
fn a_kind_that_the_policy_dropped_in_the_middle_of_a_session_is_refused() {
    let mut azure = azure_beside_bare();
    azure.guest.report.measurement = BARE;
    let after = AzureGuest::new().guest.appraiser().unwrap();
    let before = azure.guest.appraiser().unwrap();
    let appraise = |appraiser: &appraisal::Appraiser| {
        let claim = AttesterClaim::SevSnp;
        let (challenged, _) = before.challenge(&claim, secret()).unwrap();
        let answer = appraisal::Answer {
            activated: None,
            evidence: &Evidence::SevSnp(azure.guest.evidence()),
            binding: &azure.guest.binding,
            endorsements: appraisal::Endorsements {
                leaf: azure.guest.own.as_deref(),
                revocations: None,
            },
            now: azure.guest.now,
        };
        appraiser.appraise(challenged, &answer)
    };
    assert!(appraise(&before).is_ok());
    assert!(matches!(appraise(&after), Err(AppraisalError::Kind { .. })));
}
