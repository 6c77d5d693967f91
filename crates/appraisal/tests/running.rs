//! Statements of running nodes, by software keys: what is verified, and each rule with the smallest lie
//! that breaks it.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "running/certified.rs"]
mod certified;
#[path = "support/keys.rs"]
mod keys;

use appraisal::{
    Answer, AppraisalError, Appraiser, Challenged, Endorsements, ErrorClass, Membership, Stated,
    Statement, Verified,
};
use aws_lc_rs::digest::{SHA256, digest};
use evidence::{
    AttesterClaim, Binding, Bound, Channel, Evidence, EvidenceKind, Nonce, Side, StatementBinding,
    Subject, TpmChallenge, TpmEvidence,
};
use identity::{ClusterId, NodeName};
use keys::{appraiser, image, image_pcrs, secret};
use software_tpm::keys::{KeyAuthority, KeyTpm};

/// What the service quotes: every PCR that cannot be reset.
const QUOTED: [u32; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

const NONCE: Nonce = Nonce([9; 32]);

struct Node {
    appraiser: Appraiser,
    tpm: KeyTpm,
    cluster: ClusterId,
    name: NodeName,
}

impl Node {
    /// A node that booted image `new` and unlocked a disk of its cluster.
    fn new() -> Self {
        let authority = KeyAuthority::new("vTPM authority").unwrap();
        let mut tpm = authority.manufacture().unwrap();
        let cluster = ClusterId::from_bytes([7; 32]);
        tpm.pcrs = image_pcrs(2);
        tpm.pcrs.insert(15, extended([0; 32], &cluster));
        // No image has values for these, and no policy asks for them.
        tpm.pcrs.insert(10, [0xee; 32]);
        Self {
            appraiser: appraiser(authority.pem(), &[image("old", 1), image("new", 2)]),
            tpm,
            cluster,
            name: "worker-0".parse().unwrap(),
        }
    }

    fn subject(&self) -> Subject<'_> {
        Subject {
            nonce: &NONCE,
            cluster: &self.cluster,
            node: &self.name,
        }
    }

    /// The honest statement about `subject`.
    fn state(&self, subject: &Subject<'_>) -> TpmEvidence {
        let data = StatementBinding::compute(subject).qualifying_data();
        self.tpm.quote(&data, &QUOTED).unwrap()
    }

    fn challenge(&self) -> (Challenged, TpmChallenge) {
        let claim = AttesterClaim::Tpm(self.tpm.identity().clone());
        let (challenged, challenge) = self.appraiser.challenge(&claim, secret()).unwrap();
        (challenged, challenge.unwrap())
    }

    /// Judges a statement as the answer to this node's subject.
    fn verify(&self, evidence: TpmEvidence) -> Result<Verified, AppraisalError> {
        let (challenged, challenge) = self.challenge();
        let activated = self.tpm.activate(&challenge).unwrap();
        self.verify_with(challenged, Some(&activated), evidence)
    }

    fn verify_with(
        &self,
        challenged: Challenged,
        activated: Option<&[u8]>,
        evidence: TpmEvidence,
    ) -> Result<Verified, AppraisalError> {
        let (subject, evidence) = (self.subject(), Evidence::Tpm(evidence));
        self.appraiser
            .verify(challenged, activated, &statement(&subject, &evidence))
    }

    fn read(&self, evidence: TpmEvidence) -> Result<Stated, AppraisalError> {
        let (subject, evidence) = (self.subject(), Evidence::Tpm(evidence));
        let (challenged, _) = self.challenge();
        self.appraiser
            .read(challenged, &statement(&subject, &evidence))
    }
}

fn statement<'a>(subject: &'a Subject<'a>, evidence: &'a Evidence) -> Statement<'a> {
    Statement {
        subject,
        evidence,
        endorsements: Endorsements::default(),
        now: 0,
    }
}

fn extended(pcr: [u8; 32], cluster: &ClusterId) -> [u8; 32] {
    let data = [&pcr[..], cluster.as_bytes()].concat();
    digest(&SHA256, &data).as_ref().try_into().unwrap()
}

fn channel() -> Binding {
    Binding::compute(&Channel {
        attester: Side::Client,
        client_hello: b"a",
        server_hello: b"b",
        client_spki: b"c",
        server_spki: b"d",
        exporter: &[1; 32],
    })
}

#[test]
fn a_running_node_of_the_cluster_is_verified() {
    let node = Node::new();
    let verified = node.verify(node.state(&node.subject())).unwrap();
    assert_eq!(verified.image(), "new");
    assert_eq!(verified.roles(), [identity::Role::Worker]);
    assert_eq!(verified.evidence_kind(), EvidenceKind::Tpm);
    assert_eq!(verified.membership(), Membership::Latched);
    let claims = verified.claims().tpm.as_ref().unwrap();
    assert_eq!(claims.pcrs.len(), QUOTED.len());
}

/// Which of the two PCR 15 is, an operator sees from the refusal.
#[test]
fn the_latch_must_be_this_clusters_and_nothing_more() {
    let other = ClusterId::from_bytes([8; 32]);
    let node = Node::new();
    let ours = extended([0; 32], &node.cluster);
    for (latch, meaning) in [
        ([0; 32], "no disk unlocked"),
        (extended([0; 32], &other), "another cluster"),
        (extended(ours, &node.cluster), "something else"),
        (extended(ours, &other), "something else"),
        ([0xff; 32], "something else"),
    ] {
        let mut node = Node::new();
        node.tpm.pcrs.insert(15, latch);
        let refused = node.verify(node.state(&node.subject())).unwrap_err();
        assert!(
            matches!(refused, AppraisalError::Latch { .. }),
            "{refused:?}"
        );
        assert_eq!(refused.class(), ErrorClass::Refused);
        assert!(refused.is_by_proven_attester());
        let checks = refused.checks();
        assert_eq!(checks[0].check, "PCR 15");
        assert!(checks[0].expected.contains(&hex::encode(ours)));
        assert!(checks[0].got.contains(&hex::encode(latch)));
        assert!(checks[0].got.contains(meaning), "{}", checks[0].got);
    }
}

#[test]
fn a_statement_about_anything_else_is_refused() {
    let node = Node::new();
    let (nonce, cluster) = (Nonce([10; 32]), ClusterId::from_bytes([8; 32]));
    let name = "worker-1".parse().unwrap();
    let subject = node.subject();
    for other in [
        // Also a replay: the answer to an earlier question.
        Subject {
            nonce: &nonce,
            ..subject
        },
        Subject {
            cluster: &cluster,
            ..subject
        },
        Subject {
            node: &name,
            ..subject
        },
    ] {
        let expected = StatementBinding::compute(&subject).qualifying_data();
        let got = StatementBinding::compute(&other).qualifying_data();
        assert_eq!(
            node.verify(node.state(&other)),
            Err(AppraisalError::Binding {
                expected: hex::encode(expected),
                got: hex::encode(got)
            }),
            "{other:?}"
        );
    }
}

/// What a node sent into an admission is no statement, even if its verifier had the same policy.
#[test]
fn evidence_of_a_channel_is_no_statement() {
    let node = Node::new();
    let evidence = node.tpm.quote(&channel().qualifying_data(), &QUOTED);
    let refused = node.verify(evidence.unwrap());
    assert!(
        matches!(refused, Err(AppraisalError::Binding { .. })),
        "{refused:?}"
    );
}

/// A statement opens nothing: not on a channel, and not even without the latch.
#[test]
fn a_statement_is_no_evidence_of_a_channel() {
    for latched in [true, false] {
        let mut node = Node::new();
        if !latched {
            node.tpm.pcrs.insert(15, [0; 32]);
        }
        let data = StatementBinding::compute(&node.subject()).qualifying_data();
        let evidence = node.tpm.quote(&data, &appraisal::REQUIRED_PCRS).unwrap();
        let (challenged, challenge) = node.challenge();
        let answer = Answer {
            activated: Some(&node.tpm.activate(&challenge).unwrap()),
            evidence: &Evidence::Tpm(evidence),
            binding: &channel(),
            endorsements: Endorsements::default(),
            now: 0,
        };
        let refused = node.appraiser.appraise(challenged, &answer);
        assert!(
            matches!(refused, Err(AppraisalError::Binding { .. })),
            "{refused:?}"
        );
    }
}

/// The two rules about the latch exclude each other: no boot is good for both.
#[test]
fn a_node_that_can_be_verified_can_not_be_admitted() {
    let node = Node::new();
    let binding = channel();
    let quote = |pcrs| node.tpm.quote(&binding.qualifying_data(), pcrs).unwrap();
    let (challenged, challenge) = node.challenge();
    let answer = Answer {
        activated: Some(&node.tpm.activate(&challenge).unwrap()),
        evidence: &Evidence::Tpm(quote(&appraisal::REQUIRED_PCRS)),
        binding: &binding,
        endorsements: Endorsements::default(),
        now: 0,
    };
    let refused = node.appraiser.appraise(challenged, &answer);
    assert!(
        matches!(refused, Err(AppraisalError::Latched { .. })),
        "{refused:?}"
    );
}

#[test]
fn an_image_that_is_not_listed_is_refused() {
    let mut node = Node::new();
    node.tpm.pcrs.insert(11, [3; 32]);
    let refused = node.verify(node.state(&node.subject())).unwrap_err();
    let names: Vec<_> = refused.checks().into_iter().map(|c| c.check).collect();
    assert_eq!(names, ["PCR 11 of image `new`"]);
}

#[test]
fn a_quote_over_less_than_the_policys_pcrs_is_refused() {
    let node = Node::new();
    let data = StatementBinding::compute(&node.subject()).qualifying_data();
    let fewer = node.tpm.quote(&data, &QUOTED[..15]).unwrap();
    let refused = node.verify(fewer.clone());
    assert!(
        matches!(refused, Err(AppraisalError::Selection { .. })),
        "{refused:?}"
    );
    // The missing value made up beside it.
    let mut filled = fewer;
    filled.pcrs.insert(15, extended([0; 32], &node.cluster));
    let refused = node.verify(filled);
    assert!(
        matches!(refused, Err(AppraisalError::Selection { .. })),
        "{refused:?}"
    );
}

#[test]
fn sent_values_must_be_the_quoted_ones() {
    let mut node = Node::new();
    node.tpm.pcrs.insert(11, [3; 32]);
    let mut lie = node.state(&node.subject());
    lie.pcrs.insert(11, [2; 32]);
    let refused = node.verify(lie);
    assert!(
        matches!(refused, Err(AppraisalError::PcrDigest { .. })),
        "{refused:?}"
    );
}

/// Somebody with a key of its own and the public parts of a good TPM.
#[test]
fn an_attestation_key_that_is_not_activated_proves_nothing() {
    let node = Node::new();
    let honest = || node.state(&node.subject());
    for activated in [None, Some(&[0x76; 32][..]), Some(&[])] {
        let (challenged, _) = node.challenge();
        let refused = node.verify_with(challenged, activated, honest());
        assert_eq!(refused, Err(AppraisalError::Activation));
    }
    let stated = node.read(honest()).unwrap();
    assert_eq!(stated.image(), "new");
    let verified = node.verify(honest()).unwrap();
    assert_eq!(stated.claimed_identity(), verified.identity());
}

/// What needs no proof is checked all the same.
#[test]
fn an_unproven_statement_keeps_every_other_rule() {
    let mut node = Node::new();
    let other = Nonce([10; 32]);
    let replay = node.state(&Subject {
        nonce: &other,
        ..node.subject()
    });
    let refused = node.read(replay);
    assert!(matches!(refused, Err(AppraisalError::Binding { .. })));
    let mut bad = node.state(&node.subject());
    bad.signature[20] ^= 1;
    assert!(matches!(node.read(bad), Err(AppraisalError::Quote(_))));
    node.tpm.pcrs.insert(15, [0; 32]);
    let refused = node.read(node.state(&node.subject()));
    assert!(matches!(refused, Err(AppraisalError::Latch { .. })));
}
