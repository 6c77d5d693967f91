//! Evidence with reports, through the whole appraisal: whatever the bytes say, AMD signed none of it.
#![no_main]
use appraisal::{Answer, Appraiser, CredentialSecret, Endorsements};
use evidence::{
    AttesterClaim, AzureSnpEvidence, Binding, Channel, Evidence, Side, SnpEvidence, TpmEvidence,
};
use fuzz::{appraiser, got_through, lacks_only_amd, part};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

/// 2025-01-01, when the seeds are valid.
const NOW: u64 = 1_735_689_600;

/// The loosest policy there is.
const POLICY: &[u8] = include_bytes!("../policy.json");
const VALUES: &[u8] = include_bytes!("../reference-values.json");

static APPRAISER: LazyLock<Appraiser> = LazyLock::new(|| appraiser(POLICY, VALUES));

// A kind, then report, certificate table, our own certificate and our own list, each but the last
// with its length in two bytes before it. Azure has a quote and its signature for the table and the list.
fuzz_target!(|data: &[u8]| got_through(run(data)));

fn run(data: &[u8]) -> bool {
    let Some((kind, rest)) = data.split_first() else {
        return false;
    };
    let mut rest = rest;
    let [report, certificates, leaf] = [(); 3].map(|()| part(&mut rest));
    let (claim, evidence, revocations) = match kind % 2 {
        0 => (
            AttesterClaim::SevSnp,
            Evidence::SevSnp(SnpEvidence {
                report: report.to_vec(),
                certificates: certificates.to_vec(),
            }),
            Some(rest),
        ),
        _ => (
            AttesterClaim::AzureSevSnp,
            Evidence::AzureSevSnp(AzureSnpEvidence {
                hcl_report: report.to_vec(),
                quote: TpmEvidence {
                    attestation: certificates.to_vec(),
                    signature: rest.to_vec(),
                    pcrs: [(0, [0; 32])].into(),
                    event_log: Vec::new(),
                },
            }),
            None,
        ),
    };
    let secret = CredentialSecret::from_slice(&[1; 32]).expect("32 bytes");
    let (challenged, challenge) = APPRAISER.challenge(&claim, secret).expect("accepted");
    assert!(challenge.is_none());
    drop(APPRAISER.wanted(&evidence, NOW));
    let answer = Answer {
        activated: None,
        evidence: &evidence,
        binding: &binding(),
        endorsements: Endorsements {
            leaf: (!leaf.is_empty()).then_some(leaf),
            revocations: revocations.filter(|list| !list.is_empty()),
        },
        now: NOW,
    };
    let error = APPRAISER.appraise(challenged, &answer);
    let error = error.expect_err("nothing here is by AMD");
    assert!(!error.is_by_proven_attester());
    assert!(!error.checks().is_empty());
    lacks_only_amd(&error)
}

fn binding() -> Binding {
    Binding::compute(&Channel {
        attester: Side::Client,
        client_hello: &[],
        server_hello: &[],
        client_spki: &[],
        server_spki: &[],
        exporter: &[0; 32],
    })
}
