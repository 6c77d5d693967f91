//! Statements of running nodes with SEV-SNP reports: with a latch that a paravisor keeps, and without
//! any.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "support/guest.rs"]
mod guest;
#[path = "support/paravisor.rs"]
mod paravisor;

use appraisal::{
    AppraisalError, Endorsements, Membership, ReportError, Stated, Statement, Verified,
};
use aws_lc_rs::digest::{SHA256, digest};
use evidence::{
    AttesterClaim, AzureSnpEvidence, Bound, Evidence, Nonce, StatementBinding, Subject,
};
use guest::{Guest, secret};
use identity::ClusterId;
use paravisor::{AzureGuest, KEY};
use software_snp::Product;

const NONCE: Nonce = Nonce([9; 32]);
const CLUSTER: [u8; 32] = [7; 32];

/// Calls `judge` with the one question of these tests.
fn ask<T>(judge: impl FnOnce(&Subject<'_>) -> T) -> T {
    judge(&Subject {
        nonce: &NONCE,
        cluster: &ClusterId::from_bytes(CLUSTER),
        node: &"worker-0".parse().unwrap(),
    })
}

fn binding() -> StatementBinding {
    ask(StatementBinding::compute)
}

fn verify(
    guest: &Guest,
    claim: &AttesterClaim,
    evidence: &Evidence,
) -> Result<Verified, AppraisalError> {
    let appraiser = guest.appraiser().unwrap();
    let (challenged, challenge) = appraiser.challenge(claim, secret())?;
    assert!(challenge.is_none());
    ask(|subject| appraiser.verify(challenged, None, &statement(guest, subject, evidence)))
}

fn read(
    guest: &Guest,
    claim: &AttesterClaim,
    evidence: &Evidence,
) -> Result<Stated, AppraisalError> {
    let appraiser = guest.appraiser().unwrap();
    let (challenged, _) = appraiser.challenge(claim, secret())?;
    ask(|subject| appraiser.read(challenged, &statement(guest, subject, evidence)))
}

fn statement<'a>(
    guest: &'a Guest,
    subject: &'a Subject<'a>,
    evidence: &'a Evidence,
) -> Statement<'a> {
    Statement {
        subject,
        evidence,
        endorsements: Endorsements {
            leaf: guest.own.as_deref(),
            revocations: guest.revocations.as_deref(),
        },
        now: guest.now,
    }
}

fn verify_bare(guest: &Guest) -> Result<Verified, AppraisalError> {
    let evidence = Evidence::SevSnp(guest.evidence());
    verify(guest, &AttesterClaim::SevSnp, &evidence)
}

#[test]
fn a_bare_report_is_verified_and_the_cluster_is_the_nodes_word() {
    for product in [Product::Milan, Product::Turin] {
        let mut guest = Guest::on(product);
        guest.report.report_data = *binding().report_data();
        let verified = verify_bare(&guest).unwrap();
        assert_eq!(verified.image(), "v1");
        assert_eq!(verified.membership(), Membership::Stated);
        assert!(!verified.identity().names_machine());
    }
}

#[test]
fn a_report_of_a_channel_is_no_statement_nor_the_other_way_round() {
    let mut guest = Guest::new();
    let refused = verify_bare(&guest);
    assert!(
        matches!(
            refused,
            Err(AppraisalError::Report(ReportError::Binding { .. }))
        ),
        "{refused:?}"
    );
    guest.report.report_data = *binding().report_data();
    let refused = guest.appraise();
    assert!(
        matches!(
            refused,
            Err(AppraisalError::Report(ReportError::Binding { .. }))
        ),
        "{refused:?}"
    );
}

#[test]
fn a_running_guest_keeps_the_rules_of_an_admission() {
    let mut guest = Guest::new();
    guest.report.report_data = *binding().report_data();
    guest.report.measurement = [0x44; 48];
    let refused = verify_bare(&guest);
    assert!(
        matches!(refused, Err(AppraisalError::ImageMismatch { .. })),
        "{refused:?}"
    );
    let mut guest = Guest::new();
    guest.report.report_data = *binding().report_data();
    guest.report.vmpl = 1;
    let refused = verify_bare(&guest);
    assert!(
        matches!(refused, Err(AppraisalError::Report(ReportError::Rules(_)))),
        "{refused:?}"
    );
}

/// A paravisor's guest that unlocked a disk of `cluster`, and its statement.
fn azure(latch: [u8; 32]) -> (AzureGuest, Evidence) {
    let mut azure = AzureGuest::new();
    azure.pcrs.insert(15, latch);
    let evidence = Evidence::AzureSevSnp(AzureSnpEvidence {
        hcl_report: azure.hcl_report(),
        quote: KEY.quote(&binding().qualifying_data(), &azure.pcrs),
    });
    (azure, evidence)
}

fn latched(cluster: [u8; 32]) -> [u8; 32] {
    let extended = digest(&SHA256, &[[0; 32], cluster].concat());
    extended.as_ref().try_into().unwrap()
}

#[test]
fn under_a_paravisor_the_latch_is_the_clusters() {
    let (node, evidence) = azure(latched(CLUSTER));
    let claim = AttesterClaim::AzureSevSnp;
    let verified = verify(&node.guest, &claim, &evidence).unwrap();
    assert_eq!(verified.membership(), Membership::Latched);
    assert!(verified.identity().names_machine());
    // Without a challenge as well: the report vouches for the key.
    let stated = read(&node.guest, &claim, &evidence).unwrap();
    assert_eq!(stated.claimed_identity(), verified.identity());
    for latch in [[0; 32], latched([8; 32]), CLUSTER] {
        let (node, evidence) = azure(latch);
        let refused = verify(&node.guest, &claim, &evidence);
        assert!(
            matches!(refused, Err(AppraisalError::Latch { .. })),
            "{refused:?}"
        );
    }
}
