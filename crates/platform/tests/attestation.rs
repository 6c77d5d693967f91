//! Attestation end to end: a real software TPM with a real endorsement certificate, the attester of
//! this crate, the verifier of `appraisal`. Liars are made by changing bytes on the way to the TPM.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use appraisal::{
    Answer, AppraisalError, Appraised, Appraiser, Challenged, CredentialSecret, Endorsements,
    Policy, REQUIRED_PCRS, ReferenceValues,
};
use evidence::{
    AttesterClaim, Binding, Channel, Evidence, Side, TpmChallenge, TpmEvidence, TpmIdentity,
};
use platform::tpm::{TpmAttester, TpmError, Transport};
use rcgen::{
    BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData, SignatureAlgorithm,
};
use serde_json::json;
use software_tpm::{Authority, Connection, SoftwareTpm};
use std::{
    collections::{BTreeMap, VecDeque},
    io,
    sync::{Arc, Mutex},
};
use tpm::{Curve, Public, PublicKey, QuoteError};

/// What a liar does to a command before the TPM sees it.
type Lie = fn(Vec<u8>) -> Vec<u8>;

struct Wire {
    connection: Connection,
    lie: Lie,
}

impl Transport for Wire {
    fn transact(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        self.connection.transact(&(self.lie)(command.to_vec()))
    }
}

fn honest(command: Vec<u8>) -> Vec<u8> {
    command
}

fn attester(tpm: &SoftwareTpm, lie: Lie) -> TpmAttester {
    let connection = tpm.connect().unwrap();
    let wire = Wire { connection, lie };
    TpmAttester::start(Box::new(wire), Vec::new()).unwrap()
}

/// A TPM of a new authority, and that authority.
fn machine() -> (Authority, SoftwareTpm) {
    let authority = Authority::new().unwrap();
    let tpm = authority.manufacture().unwrap();
    (authority, tpm)
}

/// Trusts the authority's root and knows its intermediate.
fn policy(authority: &Authority) -> Policy {
    policy_of(&json!({
        "pcrs": REQUIRED_PCRS,
        "ek_authorities": [{
            "certificate": authority.root_pem().unwrap(),
            "bound_to_platform": true,
        }],
        "ek_intermediates": [authority.issuer_pem().unwrap()],
    }))
}

fn policy_of(tpm: &serde_json::Value) -> Policy {
    let policy = json!({"version": 1, "serial": 1, "evidence": ["tpm"], "tpm": tpm});
    Policy::parse(policy.to_string().as_bytes()).unwrap()
}

/// A TPM that measured nothing has zeros in every PCR below 16.
fn untouched() -> ReferenceValues {
    let zero = ["0".repeat(64)];
    let pcrs: BTreeMap<u32, _> = REQUIRED_PCRS.map(|pcr| (pcr, zero.clone())).into();
    let image = json!({"name": "blank", "roles": ["worker"], "pcrs": pcrs});
    let values = json!({"version": 1, "serial": 1, "images": [image]});
    ReferenceValues::parse(values.to_string().as_bytes()).unwrap()
}

fn appraiser(authority: &Authority) -> Appraiser {
    Appraiser::new(policy(authority), untouched()).unwrap()
}

fn binding(exporter: u8) -> Binding {
    Binding::compute(&Channel {
        attester: Side::Client,
        client_hello: b"hello",
        server_hello: b"hello yourself",
        client_spki: b"client",
        server_spki: b"server",
        exporter: &[exporter; 32],
    })
}

fn secret() -> CredentialSecret {
    CredentialSecret::from_slice(&[0x5a; 32]).unwrap()
}

/// Step 1 for a TPM that is claimed.
fn challenge(
    appraiser: &Appraiser,
    claimed: &TpmIdentity,
) -> Result<(Challenged, TpmChallenge), AppraisalError> {
    let claim = AttesterClaim::Tpm(claimed.clone());
    let (challenged, challenge) = appraiser.challenge(&claim, secret())?;
    Ok((challenged, challenge.unwrap()))
}

/// Step 2 for what came back.
fn conclude(
    appraiser: &Appraiser,
    challenged: Challenged,
    activated: &[u8],
    evidence: &TpmEvidence,
    binding: &Binding,
) -> Result<Appraised, AppraisalError> {
    let answer = Answer {
        activated: Some(activated),
        evidence: &Evidence::Tpm(evidence.clone()),
        binding,
        endorsements: Endorsements::default(),
        now: 0,
    };
    appraiser.appraise(challenged, &answer)
}

/// The whole exchange of one session.
fn attest(appraiser: &Appraiser, attester: &mut TpmAttester) -> Result<Appraised, AppraisalError> {
    let identity = attester.identity().clone();
    let step = challenge(appraiser, &identity)?;
    attest_as(appraiser, step, attester, &REQUIRED_PCRS, |_| {})
}

/// The rest of the exchange, with the evidence changed on its way.
fn attest_as(
    appraiser: &Appraiser,
    (challenged, challenge): (Challenged, TpmChallenge),
    attester: &mut TpmAttester,
    pcrs: &[u32],
    change: impl FnOnce(&mut TpmEvidence),
) -> Result<Appraised, AppraisalError> {
    let activated = attester.activate(&challenge).unwrap();
    let binding = binding(1);
    let mut evidence = attester.quote(&binding.qualifying_data(), pcrs).unwrap();
    change(&mut evidence);
    conclude(appraiser, challenged, &*activated, &evidence, &binding)
}

#[test]
fn an_rsa_tpm_is_accepted_in_two_sessions_of_one_boot() {
    let (authority, tpm) = machine();
    let appraiser = appraiser(&authority);
    let mut attester = attester(&tpm, honest);
    for _ in 0..2 {
        let appraised = attest(&appraiser, &mut attester).unwrap();
        assert_eq!(appraised.image(), "blank");
        assert_eq!(appraised.roles(), [identity::Role::Worker]);
        assert!(appraised.claims().tpm.as_ref().unwrap().clock.clock > 0);
    }
}

#[test]
fn the_attestation_key_is_another_one_each_time_and_the_endorsement_key_is_not() {
    let (_, tpm) = machine();
    let first = attester(&tpm, honest).identity().clone();
    let second = attester(&tpm, honest).identity().clone();
    assert_ne!(first.ak_public, second.ak_public);
    assert_eq!(first.ek_public, second.ek_public);
}

/// An ECC endorsement key as the certificate maker takes it.
struct EccKey(Vec<u8>);

impl PublicKeyData for EccKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

/// Certifies the TPM's P-256 endorsement key, stores the certificate with padding as vendors do,
/// and returns the authority.
fn certify_ecc(tpm: &SoftwareTpm) -> String {
    tpm.connect()
        .unwrap()
        .store_ecc_certificate(&[0; 64])
        .unwrap();
    let ek_public = attester(tpm, honest).identity().ek_public.clone();
    let PublicKey::Ecc { point, .. } = Public::parse(&ek_public).unwrap().key else {
        panic!("not an ECC key");
    };
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = params.self_signed(&key).unwrap().pem();
    let mut leaf = CertificateParams::new(Vec::new()).unwrap();
    leaf.key_usages = vec![KeyUsagePurpose::KeyAgreement];
    let leaf = leaf
        .signed_by(&EccKey(point), &Issuer::new(params, key))
        .unwrap();
    let mut stored = leaf.der().to_vec();
    stored.resize(1500, 0);
    tpm.connect()
        .unwrap()
        .store_ecc_certificate(&stored)
        .unwrap();
    root
}

#[test]
fn an_ecc_tpm_is_accepted_though_another_key_is_at_the_persistent_handle() {
    let (_, tpm) = machine();
    let root = certify_ecc(&tpm);
    let policy = policy_of(&json!({
        "pcrs": REQUIRED_PCRS,
        "ek_authorities": [{"certificate": root, "bound_to_platform": true}],
    }));
    let appraiser = Appraiser::new(policy, untouched()).unwrap();
    // Also with a P-384 attestation key, which our own attester would not make.
    let p384 = |command| {
        replace(
            command,
            &[0, 0x18, 0, 0x0b, 0, 3],
            &[0, 0x18, 0, 0x0b, 0, 4],
        )
    };
    for (lie, expected) in [(honest as Lie, Curve::P256), (p384, Curve::P384)] {
        let mut attester = attester(&tpm, lie);
        let ak = Public::parse(&attester.identity().ak_public).unwrap();
        assert!(matches!(ak.key, PublicKey::Ecc { curve, .. } if curve == expected));
        attest(&appraiser, &mut attester).map(drop).unwrap();
    }
}

#[test]
fn an_attestation_key_with_rsa_pss_is_accepted() {
    let (authority, tpm) = machine();
    let pss = |command| replace(command, &[0, 0x14, 0, 0x0b], &[0, 0x16, 0, 0x0b]);
    let mut attester = attester(&tpm, pss);
    let ak = Public::parse(&attester.identity().ak_public).unwrap();
    assert_eq!(ak.scheme.algorithm, tpm::constants::alg::RSAPSS);
    attest(&appraiser(&authority), &mut attester)
        .map(drop)
        .unwrap();
}

#[test]
fn a_listed_endorsement_key_needs_no_certificate_and_an_unlisted_one_is_refused() {
    let (authority, tpm) = machine();
    let mut attester = attester(&tpm, honest);
    let accepted = attest(&appraiser(&authority), &mut attester).unwrap();
    let listing = |hash: &str| {
        let policy = policy_of(&json!({"pcrs": REQUIRED_PCRS, "ek_hashes": [hash]}));
        Appraiser::new(policy, untouched()).unwrap()
    };
    let identity = accepted.identity().to_string();
    let listed = attest(&listing(&identity), &mut attester).unwrap();
    assert_eq!(listed.identity(), accepted.identity());
    assert!(matches!(
        attest(&listing(&"ab".repeat(32)), &mut attester),
        Err(AppraisalError::UnknownEndorsementKey { got }) if got == *accepted.identity()
    ));
}

#[test]
fn a_tpm_of_another_authority_is_refused() {
    let (_, tpm) = machine();
    let (other, _) = machine();
    let refused = attest(&appraiser(&other), &mut attester(&tpm, honest));
    assert!(matches!(
        refused,
        Err(AppraisalError::Certificate(
            appraisal::CertificateError::Untrusted
        ))
    ));
}

#[test]
fn an_attestation_key_of_another_tpm_is_refused() {
    let authority = Authority::new().unwrap();
    let (trusted, other) = (
        authority.manufacture().unwrap(),
        authority.manufacture().unwrap(),
    );
    let (mut trusted, mut other) = (attester(&trusted, honest), attester(&other, honest));
    let appraiser = appraiser(&authority);
    let mixed = TpmIdentity {
        ak_public: other.identity().ak_public.clone(),
        ..trusted.identity().clone()
    };
    let (challenged, mixture) = challenge(&appraiser, &mixed).unwrap();
    assert!(matches!(
        trusted.activate(&mixture),
        Err(TpmError::Refused { .. })
    ));
    assert!(matches!(
        other.activate(&mixture),
        Err(TpmError::Refused { .. })
    ));
    let binding = binding(1);
    let quote = other
        .quote(&binding.qualifying_data(), &REQUIRED_PCRS)
        .unwrap();
    let guess = conclude(&appraiser, challenged, &[0; 32], &quote, &binding);
    assert_eq!(guess, Err(AppraisalError::Activation));
    // The other way round: the trusted TPM's key is proven, and the other one's signs.
    let step = challenge(&appraiser, trusted.identity()).unwrap();
    let forged = attest_as(&appraiser, step, &mut trusted, &REQUIRED_PCRS, |evidence| {
        *evidence = quote;
    });
    assert_eq!(forged, Err(AppraisalError::Quote(QuoteError::BadSignature)));
}

/// Makes the attestation key without the restricted attribute, so that it would sign anything.
fn unrestricted(command: Vec<u8>) -> Vec<u8> {
    replace(
        command,
        &[0x00, 0x05, 0x04, 0x72],
        &[0x00, 0x04, 0x04, 0x72],
    )
}

/// Quotes the SHA-1 bank.
fn other_bank(command: Vec<u8>) -> Vec<u8> {
    replace(
        command,
        &[0, 0, 0, 1, 0, 0x0b, 3],
        &[0, 0, 0, 1, 0, 0x04, 3],
    )
}

fn replace(mut command: Vec<u8>, from: &[u8], to: &[u8]) -> Vec<u8> {
    let is_read = command.get(6..10) == Some(&[0, 0, 1, 0x7e]);
    let found = command
        .windows(from.len())
        .position(|window| window == from);
    if let (Some(at), false) = (found, is_read) {
        command[at..at + to.len()].copy_from_slice(to);
    }
    command
}

#[test]
fn an_unrestricted_attestation_key_is_refused_also_when_it_claims_to_be_restricted() {
    let (authority, tpm) = machine();
    let appraiser = appraiser(&authority);
    let mut attester = attester(&tpm, unrestricted);
    let refused = challenge(&appraiser, attester.identity())
        .map(drop)
        .unwrap_err();
    let check = &refused.checks()[0];
    assert_eq!(check.check, "attestation key objectAttributes");
    assert_eq!(check.got, "0x00040472");

    let mut claimed = attester.identity().clone();
    claimed.ak_public[4..8].copy_from_slice(&[0x00, 0x05, 0x04, 0x72]);
    let (_, challenge) = challenge(&appraiser, &claimed).unwrap();
    assert!(matches!(
        attester.activate(&challenge),
        Err(TpmError::Refused { .. })
    ));
}

#[test]
fn a_quote_over_fewer_pcrs_or_another_bank_is_refused() {
    let (authority, tpm) = machine();
    let appraiser = appraiser(&authority);
    let mut fewer = attester(&tpm, honest);
    let step = challenge(&appraiser, fewer.identity()).unwrap();
    let fill = |evidence: &mut TpmEvidence| {
        evidence.pcrs = REQUIRED_PCRS.map(|pcr| (pcr, [0; 32])).into();
    };
    let refused = attest_as(&appraiser, step, &mut fewer, &REQUIRED_PCRS[..9], fill);
    assert!(
        matches!(refused, Err(AppraisalError::Selection { .. })),
        "{refused:?}"
    );
    drop(fewer);

    let mut other = attester(&tpm, other_bank);
    let step = challenge(&appraiser, other.identity()).unwrap();
    let refused = attest_as(&appraiser, step, &mut other, &REQUIRED_PCRS, fill);
    assert!(
        matches!(&refused, Err(AppraisalError::Selection { got, .. }) if got.contains("0x0004")),
        "{refused:?}"
    );
}

#[test]
fn a_quote_for_another_channel_is_refused() {
    let (authority, tpm) = machine();
    let appraiser = appraiser(&authority);
    let mut attester = attester(&tpm, honest);
    let relayed = attester
        .quote(&binding(2).qualifying_data(), &REQUIRED_PCRS)
        .unwrap();
    let step = challenge(&appraiser, attester.identity()).unwrap();
    let refused = attest_as(
        &appraiser,
        step,
        &mut attester,
        &REQUIRED_PCRS,
        |evidence| {
            *evidence = relayed;
        },
    );
    assert!(
        matches!(refused, Err(AppraisalError::Binding { .. })),
        "{refused:?}"
    );
}

#[test]
fn a_changed_pcr_is_named_and_the_latch_holds_until_the_power_is_cut() {
    let (authority, mut tpm) = machine();
    let appraiser = appraiser(&authority);
    let mut first = attester(&tpm, honest);
    first.extend(11, &[7; 32]).unwrap();
    let refused = attest(&appraiser, &mut first).unwrap_err();
    let AppraisalError::ImageMismatch { image, pcrs, .. } = &refused else {
        panic!("{refused:?}");
    };
    assert_eq!(image, "blank");
    assert_eq!(pcrs.iter().map(|pcr| pcr.pcr).collect::<Vec<_>>(), [11]);
    assert_eq!(
        pcrs[0].got.0,
        first.quote(&[0; 32], &[11]).unwrap().pcrs[&11]
    );
    assert_eq!(refused.checks()[0].expected, "0".repeat(64));

    // What the TPM quoted may not be papered over with other values.
    let step = challenge(&appraiser, first.identity()).unwrap();
    let hidden = attest_as(&appraiser, step, &mut first, &REQUIRED_PCRS, |evidence| {
        evidence.pcrs.insert(11, [0; 32]);
    });
    assert!(
        matches!(hidden, Err(AppraisalError::PcrDigest { .. })),
        "{hidden:?}"
    );

    first.extend(15, &[1; 32]).unwrap();
    let latched = attest(&appraiser, &mut first);
    assert!(
        matches!(latched, Err(AppraisalError::Latched { .. })),
        "{latched:?}"
    );
    drop(first);
    tpm.power_cycle().unwrap();
    attest(&appraiser, &mut attester(&tpm, honest))
        .map(drop)
        .unwrap();
}

#[test]
fn every_changed_or_missing_byte_of_evidence_is_refused() {
    let (authority, tpm) = machine();
    let appraiser = appraiser(&authority);
    let mut attester = attester(&tpm, honest);
    let identity = attester.identity().clone();
    let binding = binding(1);
    let good = attester
        .quote(&binding.qualifying_data(), &REQUIRED_PCRS)
        .unwrap();
    let appraise = |evidence: &TpmEvidence| {
        let (challenged, _) = challenge(&appraiser, &identity).unwrap();
        let activated = secret();
        conclude(
            &appraiser,
            challenged,
            activated.expose_secret(),
            evidence,
            &binding,
        )
    };
    appraise(&good).map(drop).unwrap();
    let fields: [fn(&mut TpmEvidence) -> &mut Vec<u8>; 2] = [
        |evidence| &mut evidence.attestation,
        |evidence| &mut evidence.signature,
    ];
    for field in fields {
        let len = field(&mut good.clone()).len();
        for at in 0..len {
            let (mut flipped, mut cut) = (good.clone(), good.clone());
            field(&mut flipped)[at] ^= 1 << (at % 8);
            assert!(appraise(&flipped).is_err(), "byte {at} changed");
            field(&mut cut).truncate(at);
            assert!(appraise(&cut).is_err(), "cut at {at}");
        }
        let mut longer = good.clone();
        field(&mut longer).push(0);
        assert!(appraise(&longer).is_err());
    }
}

#[test]
fn every_changed_or_missing_byte_of_the_identity_is_refused() {
    let (authority, tpm) = machine();
    let appraiser = appraiser(&authority);
    let mut attester = attester(&tpm, honest);
    let good = attester.identity().clone();
    let fields: [fn(&mut TpmIdentity) -> &mut Vec<u8>; 3] = [
        |identity| &mut identity.ek_certificate,
        |identity| &mut identity.ek_public,
        |identity| &mut identity.ak_public,
    ];
    for field in fields {
        for at in 0..field(&mut good.clone()).len() {
            let mut cut = good.clone();
            field(&mut cut).truncate(at);
            assert!(challenge(&appraiser, &cut).is_err(), "cut at {at}");
        }
        let mut longer = good.clone();
        field(&mut longer).push(0);
        assert!(challenge(&appraiser, &longer).is_err());
    }
    for field in &fields[..2] {
        for at in 0..field(&mut good.clone()).len() {
            let mut flipped = good.clone();
            field(&mut flipped)[at] ^= 1 << (at % 8);
            assert!(
                challenge(&appraiser, &flipped).is_err(),
                "byte {at} changed"
            );
        }
    }
    // A changed attestation key may be a well-formed one; then the TPM does not activate it.
    for at in (0..good.ak_public.len()).step_by(7) {
        let mut flipped = good.clone();
        flipped.ak_public[at] ^= 0x40;
        if let Ok((_, challenge)) = challenge(&appraiser, &flipped) {
            assert!(attester.activate(&challenge).is_err(), "byte {at} changed");
        }
    }
}

/// Answers from a list, without a TPM.
struct Replay(VecDeque<Vec<u8>>);

impl Transport for Replay {
    fn transact(&mut self, _command: &[u8]) -> io::Result<Vec<u8>> {
        self.0
            .pop_front()
            .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

/// Writes down what a TPM answers.
struct Recorder {
    connection: Connection,
    answers: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Transport for Recorder {
    fn transact(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        let answer = self.connection.transact(command)?;
        self.answers.lock().unwrap().push(answer.clone());
        Ok(answer)
    }
}

#[test]
fn a_response_cut_anywhere_is_an_error() {
    let (_, tpm) = machine();
    let answers = Arc::default();
    let connection = tpm.connect().unwrap();
    let recorder = Recorder {
        connection,
        answers: Arc::clone(&answers),
    };
    drop(TpmAttester::start(Box::new(recorder), Vec::new()).unwrap());
    let answers: Vec<Vec<u8>> = answers.lock().unwrap().clone();
    let replay = |answers: &[Vec<u8>]| {
        let replay = Replay(answers.to_vec().into());
        TpmAttester::start(Box::new(replay), Vec::new()).map(drop)
    };
    replay(&answers).unwrap();
    // The last answer belongs to the flush on drop, whose result is of no interest.
    for i in 0..answers.len() - 1 {
        for at in 0..answers[i].len() {
            let mut cut = answers.clone();
            cut[i].truncate(at);
            assert!(replay(&cut).is_err(), "answer {i} cut at {at}");
        }
    }
}

#[test]
fn a_device_that_does_not_exist_is_named() {
    for place in ["/nonexistent/tpm", "unix:/nonexistent/socket"] {
        let error = TpmAttester::open(&place.parse().unwrap()).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("cannot open TPM device `{place}`")
        );
    }
}

#[test]
fn a_pcr_that_no_tpm_has_is_refused() {
    let (_, tpm) = machine();
    let mut attester = attester(&tpm, honest);
    assert!(matches!(
        attester.quote(&[0; 32], &[24]),
        Err(TpmError::Selection(_))
    ));
    assert!(matches!(
        attester.quote(&[0; 32], &[]),
        Err(TpmError::Selection(_))
    ));
    assert!(matches!(
        attester.extend(24, &[0; 32]),
        Err(TpmError::Selection(_))
    ));
}
