//! Statements that were saved: the certificate of an admission stands for the challenge.

use super::{NONCE, Node, channel, extended, keys::secret, statement};
use appraisal::{
    Answer, AppraisalError, AttesterIdentity, Endorsements, ErrorClass, KeyProof, Verified,
};
use evidence::{AttesterClaim, Evidence, Nonce, Subject, TpmEvidence};
use identity::{ClusterId, DiskId};
use owner::{AdmittedKey, AkCertificate, AkCertificateError, OwnerKey, Seed};

fn owner(byte: u8) -> OwnerKey {
    OwnerKey::from_seed(&Seed::from_slice(&[byte; 32]).unwrap()).unwrap()
}

/// What an admission of this node says of its key: taken from the appraisal, as every admitter does it.
fn admitted(node: &mut Node) -> AdmittedKey {
    let claim = AttesterClaim::Tpm(node.tpm.identity().clone());
    let (challenged, challenge) = node.appraiser.challenge(&claim, secret()).unwrap();
    // The latch as it was then.
    let latched = node.tpm.pcrs.insert(15, [0; 32]).unwrap();
    let data = channel().qualifying_data();
    let quote = node.tpm.quote(&data, &appraisal::REQUIRED_PCRS).unwrap();
    node.tpm.pcrs.insert(15, latched);
    let answer = Answer {
        activated: Some(&node.tpm.activate(&challenge.unwrap()).unwrap()),
        evidence: &Evidence::Tpm(quote),
        binding: &channel(),
        endorsements: Endorsements::default(),
        now: 0,
    };
    let appraised = node.appraiser.appraise(challenged, &answer).unwrap();
    AdmittedKey {
        attestation_key: *appraised.attestation_key().unwrap(),
        attester: *appraised.identity().machine().unwrap(),
        cluster: node.cluster,
        disk: DiskId::from_random([1; 16]),
        node: node.name.clone(),
        issued: 0,
    }
}

fn verify(
    node: &Node,
    certificate: &AkCertificate,
    evidence: TpmEvidence,
) -> Result<Verified, AppraisalError> {
    let claim = AttesterClaim::Tpm(node.tpm.identity().clone());
    let evidence = Evidence::Tpm(evidence);
    node.appraiser.verify_certified(
        &claim,
        (certificate, &owner(1).public_key().fingerprint()),
        &statement(&node.subject(), &evidence),
    )
}

#[test]
fn an_admitted_key_is_proven_by_its_certificate() {
    let mut node = Node::new();
    let certificate = owner(1).certify_key(admitted(&mut node));
    let verified = verify(&node, &certificate, node.state(&node.subject())).unwrap();
    assert_eq!(verified.image(), "new");
    assert_eq!(verified.key_proof(), KeyProof::Certified);
    let asked = node.verify(node.state(&node.subject())).unwrap();
    assert_eq!(asked.key_proof(), KeyProof::Activated);
    assert_eq!(asked.identity(), verified.identity());
}

/// Another cluster, another name, another machine's key, another key of the same machine, another owner.
#[test]
fn a_certificate_of_something_else_vouches_for_nothing() {
    type Change = fn(&mut AdmittedKey);
    let mut node = Node::new();
    let ours = admitted(&mut node);
    let state = || node.state(&node.subject());
    let changes: [(&str, Change); 4] = [
        ("cluster", |key| {
            key.cluster = ClusterId::from_bytes([8; 32])
        }),
        ("node", |key| key.node = "worker-1".parse().unwrap()),
        ("machine", |key| key.attester[0] ^= 1),
        ("attestation key", |key| key.attestation_key[0] ^= 1),
    ];
    for (expected, change) in changes {
        let mut key = ours.clone();
        change(&mut key);
        let refused = verify(&node, &owner(1).certify_key(key), state()).unwrap_err();
        assert_eq!(refused.class(), ErrorClass::Refused);
        assert_eq!(
            refused.checks()[0].check,
            format!("AK certificate, {expected}")
        );
    }
    let foreign = verify(&node, &owner(9).certify_key(ours), state());
    assert!(matches!(
        foreign,
        Err(AppraisalError::AkCertificate(
            AkCertificateError::ForeignOwner { .. }
        ))
    ));
}

/// Somebody shows the good machine's certificate and public parts, and signs with another key.
#[test]
fn a_stolen_certificate_signs_nothing() {
    let mut node = Node::new();
    let certificate = owner(1).certify_key(admitted(&mut node));
    let other = Node::new();
    let refused = verify(&node, &certificate, other.state(&other.subject()));
    assert!(
        matches!(refused, Err(AppraisalError::Quote(_))),
        "{refused:?}"
    );
}

/// The key is the same after a reset into something else, and so is the certificate: what runs there, the
/// quote says.
#[test]
fn a_certificate_makes_no_image_and_no_latch_good() {
    let mut node = Node::new();
    let certificate = owner(1).certify_key(admitted(&mut node));
    node.tpm.pcrs.insert(15, [0; 32]);
    let refused = verify(&node, &certificate, node.state(&node.subject()));
    assert!(matches!(refused, Err(AppraisalError::Latch { .. })));
    let latched = extended([0; 32], &node.cluster);
    node.tpm.pcrs.insert(15, latched);
    node.tpm.pcrs.insert(11, [3; 32]);
    let refused = verify(&node, &certificate, node.state(&node.subject()));
    assert!(matches!(refused, Err(AppraisalError::ImageMismatch { .. })));
}

#[test]
fn a_saved_answer_answers_one_question() {
    let mut node = Node::new();
    let certificate = owner(1).certify_key(admitted(&mut node));
    let other = Nonce([10; 32]);
    assert_ne!(other, NONCE);
    let replay = node.state(&Subject {
        nonce: &other,
        ..node.subject()
    });
    let refused = verify(&node, &certificate, replay);
    assert!(matches!(refused, Err(AppraisalError::Binding { .. })));
}

/// The machine must still be one that the policy trusts, and the kind one that has certificates.
#[test]
fn a_certificate_replaces_no_endorsement() {
    let mut node = Node::new();
    let certificate = owner(1).certify_key(admitted(&mut node));
    let state = node.state(&node.subject());
    let claim = AttesterClaim::SevSnp;
    let evidence = Evidence::Tpm(state.clone());
    let refused = node.appraiser.verify_certified(
        &claim,
        (&certificate, &owner(1).public_key().fingerprint()),
        &statement(&node.subject(), &evidence),
    );
    assert!(matches!(refused, Err(AppraisalError::Kind { .. })));
    node.tpm.forget_certificate();
    let refused = verify(&node, &certificate, state);
    assert!(
        matches!(refused, Err(AppraisalError::Certificate(_))),
        "{refused:?}"
    );
    assert!(AttesterIdentity::SevSnp.machine().is_none());
}
