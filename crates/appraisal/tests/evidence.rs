//! Evidence of software keys against policy and reference values: what is accepted, and each rule
//! with the smallest lie that breaks it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "support/keys.rs"]
mod keys;

use appraisal::{
    Answer, AppraisalError, Appraised, Appraiser, Challenged, Endorsements, ErrorClass,
    REQUIRED_PCRS,
};
use aws_lc_rs::digest::{SHA256, digest};
use evidence::{
    AttesterClaim, Binding, Channel, Evidence, Side, TpmChallenge, TpmEvidence, TpmIdentity,
};
use keys::{appraiser, image, image_pcrs, secret};
use serde_json::json;
use software_tpm::{
    event_log::LogBuilder,
    keys::{KeyAuthority, KeyTpm, attestation},
};
use tpm::{EventLog, PcrSet, QuoteError, composite_digest};

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

struct Session {
    appraiser: Appraiser,
    tpm: KeyTpm,
    binding: Binding,
}

impl Session {
    /// A TPM that booted image `new` of two, and a verifier that trusts its authority.
    fn new() -> Self {
        let authority = KeyAuthority::new("vTPM authority").unwrap();
        let mut tpm = authority.manufacture().unwrap();
        tpm.pcrs = image_pcrs(2);
        Self {
            appraiser: appraiser(authority.pem(), &[image("old", 1), image("new", 2)]),
            tpm,
            binding: binding(1),
        }
    }

    fn quote(&self) -> TpmEvidence {
        let data = self.binding.qualifying_data();
        self.tpm.quote(&data, &REQUIRED_PCRS).unwrap()
    }

    fn appraise(&self, evidence: &TpmEvidence) -> Result<Appraised, AppraisalError> {
        let (challenged, challenge) = challenge(&self.appraiser, self.tpm.identity())?;
        let activated = self.tpm.activate(&challenge).unwrap();
        conclude(
            &self.appraiser,
            challenged,
            &activated,
            evidence,
            &self.binding,
        )
    }

    /// Evidence over `attestation`, signed by the attestation key, with the true PCR values.
    fn signed(&self, attestation: Vec<u8>) -> TpmEvidence {
        TpmEvidence {
            signature: self.tpm.sign(&attestation).unwrap(),
            attestation,
            ..self.quote()
        }
    }

    /// What the true quote attests.
    fn parts(&self) -> ([u8; 32], Vec<u8>, [u8; 32]) {
        let set = PcrSet::new(REQUIRED_PCRS).unwrap();
        let digest = composite_digest(&self.quote().pcrs);
        (self.binding.qualifying_data(), set.encode(), digest)
    }
}

fn binding(exporter: u8) -> Binding {
    Binding::compute(&Channel {
        attester: Side::Server,
        client_hello: b"a",
        server_hello: b"b",
        client_spki: b"c",
        server_spki: b"d",
        exporter: &[exporter; 32],
    })
}

#[test]
fn accepted_evidence_names_image_roles_and_signed_claims() {
    let session = Session::new();
    let appraised = session.appraise(&session.quote()).unwrap();
    assert_eq!(appraised.image(), "new");
    assert_eq!(appraised.roles(), [identity::Role::Worker]);
    assert_eq!(appraised.evidence_kind(), evidence::EvidenceKind::Tpm);
    let claims = appraised.claims().tpm.as_ref().unwrap();
    assert_eq!(
        (claims.clock.reset_count, claims.clock.restart_count),
        (5, 6)
    );
    assert_eq!(claims.firmware_version, 0x2026);
}

#[test]
fn both_images_of_an_update_are_accepted() {
    let mut session = Session::new();
    session.tpm.pcrs = image_pcrs(1);
    assert_eq!(session.appraise(&session.quote()).unwrap().image(), "old");
}

#[test]
fn a_wrong_short_or_missing_secret_is_refused() {
    let session = Session::new();
    for activated in [&[0x76; 32][..], &[0x77; 31], &[0x77; 33], &[]] {
        let (challenged, _) = challenge(&session.appraiser, session.tpm.identity()).unwrap();
        let refused = conclude(
            &session.appraiser,
            challenged,
            activated,
            &session.quote(),
            &session.binding,
        );
        assert_eq!(refused, Err(AppraisalError::Activation));
    }
}

#[test]
fn a_credential_for_another_key_pair_does_not_open() {
    let authority = KeyAuthority::new("vTPM authority").unwrap();
    let (one, two) = (
        authority.manufacture().unwrap(),
        authority.manufacture().unwrap(),
    );
    let session = appraiser(authority.pem(), &[image("new", 2)]);
    let mut mixed = one.identity().clone();
    mixed.ak_public.clone_from(&two.identity().ak_public);
    let (_, for_mixed) = challenge(&session, &mixed).unwrap();
    assert_eq!(one.activate(&for_mixed), None);
    assert_eq!(two.activate(&for_mixed), None);
    let (_, for_one) = challenge(&session, one.identity()).unwrap();
    assert_eq!(one.activate(&for_one), Some([0x77; 32]));
}

#[test]
fn evidence_of_another_channel_is_refused() {
    let session = Session::new();
    let relayed = session
        .tpm
        .quote(&binding(2).qualifying_data(), &REQUIRED_PCRS)
        .unwrap();
    let refused = session.appraise(&relayed).unwrap_err();
    let check = &refused.checks()[0];
    assert_eq!(
        check.expected,
        hex::encode(session.binding.qualifying_data())
    );
    assert_eq!(check.got, hex::encode(binding(2).qualifying_data()));
    assert_eq!(refused.class(), ErrorClass::Refused);
}

#[test]
fn a_signed_structure_that_is_no_quote_of_a_tpm_is_refused() {
    let session = Session::new();
    let (extra, selection, digest) = session.parts();
    let good = attestation(&extra, &selection, &digest);
    session
        .appraise(&session.signed(good.clone()))
        .map(drop)
        .unwrap();

    let mut magic = good.clone();
    magic[0] = 0xfe;
    let refused = session.appraise(&session.signed(magic));
    let error = QuoteError::NotGenerated { got: 0xfe54_4347 };
    assert_eq!(refused, Err(AppraisalError::Quote(error)));

    let mut certify = good.clone();
    certify[5] = 0x17;
    let refused = session.appraise(&session.signed(certify));
    let error = QuoteError::NotQuote { got: 0x8017 };
    assert_eq!(refused, Err(AppraisalError::Quote(error)));

    let mut trailing = good;
    trailing.push(0);
    let refused = session.appraise(&session.signed(trailing)).unwrap_err();
    assert_eq!(refused.class(), ErrorClass::Malformed);
}

#[test]
fn any_other_selection_is_refused_even_when_signed() {
    let session = Session::new();
    let (extra, selection, digest) = session.parts();
    let bank = |bank: [u8; 2]| [&[0, 0, 0, 1], &bank[..], &selection[6..]].concat();
    let twice = [&[0, 0, 0, 2], &selection[4..], &selection[4..]].concat();
    let with_sha1 = [&[0, 0, 0, 2], &selection[4..], &[0, 4, 3, 1, 0, 0]].concat();
    let fewer = PcrSet::new(REQUIRED_PCRS[..9].iter().copied())
        .unwrap()
        .encode();
    let more = PcrSet::new([REQUIRED_PCRS.as_slice(), &[16]].concat())
        .unwrap()
        .encode();
    let none = vec![0, 0, 0, 0];
    for lie in [
        bank([0, 4]),
        bank([0, 0x0c]),
        twice,
        with_sha1,
        fewer,
        more,
        none,
    ] {
        let refused = session.appraise(&session.signed(attestation(&extra, &lie, &digest)));
        assert!(
            matches!(refused, Err(AppraisalError::Selection { .. })),
            "{lie:?}: {refused:?}"
        );
    }
}

#[test]
fn sent_values_must_be_the_quoted_ones_of_exactly_the_policys_pcrs() {
    let session = Session::new();
    let mut changed = session.quote();
    changed.pcrs.insert(11, [9; 32]);
    let refused = session.appraise(&changed);
    assert!(
        matches!(refused, Err(AppraisalError::PcrDigest { .. })),
        "{refused:?}"
    );

    let (mut missing, mut extra) = (session.quote(), session.quote());
    missing.pcrs.remove(&11);
    extra.pcrs.insert(16, [0; 32]);
    for lie in [missing, extra] {
        let refused = session.appraise(&lie).unwrap_err();
        assert!(
            matches!(refused, AppraisalError::PcrValues { .. }),
            "{refused:?}"
        );
        assert_eq!(refused.class(), ErrorClass::Malformed);
    }
}

#[test]
fn every_differing_pcr_of_the_nearest_image_is_listed() {
    let mut session = Session::new();
    session.tpm.pcrs.insert(4, [8; 32]);
    session.tpm.pcrs.insert(12, [9; 32]);
    let refused = session.appraise(&session.quote()).unwrap_err();
    let checks = refused.checks();
    let names: Vec<&str> = checks.iter().map(|check| check.check.as_str()).collect();
    assert_eq!(names, ["PCR 4 of image `new`", "PCR 12 of image `new`"]);
    assert_eq!(checks[0].expected, hex::encode([2; 32]));
    assert_eq!(checks[0].got, hex::encode([8; 32]));
    assert_eq!(refused.explanation(), ["the attester sent no event log"]);
    assert_eq!(
        refused.to_string(),
        "no image fits; nearest is `new`, where 2 values differ"
    );
}

#[test]
fn values_of_two_images_do_not_mix() {
    let mut session = Session::new();
    session.tpm.pcrs.insert(11, [1; 32]);
    let refused = session.appraise(&session.quote());
    assert!(
        matches!(refused, Err(AppraisalError::ImageMismatch { .. })),
        "{refused:?}"
    );
}

#[test]
fn a_latched_boot_is_refused_whatever_else_fits() {
    let mut session = Session::new();
    session.tpm.pcrs.insert(15, [1; 32]);
    let refused = session.appraise(&session.quote()).unwrap_err();
    assert!(
        matches!(refused, AppraisalError::Latched { .. }),
        "{refused:?}"
    );
    assert_eq!(refused.checks()[0].check, "PCR 15");
}

#[test]
fn a_useless_event_log_changes_neither_answer() {
    let mut session = Session::new();
    session.tpm.event_log = vec![0xff; 100];
    session.appraise(&session.quote()).map(drop).unwrap();
    session.tpm.pcrs.insert(4, [8; 32]);
    let refused = session.appraise(&session.quote()).unwrap_err();
    assert!(
        refused.explanation()[0].contains("unusable"),
        "{:?}",
        refused.explanation()
    );
}

#[test]
fn every_bit_of_the_signature_counts() {
    let session = Session::new();
    let good = session.quote();
    for at in 0..good.signature.len() * 8 {
        let mut flipped = good.clone();
        flipped.signature[at / 8] ^= 1 << (at % 8);
        assert!(session.appraise(&flipped).is_err(), "bit {at}");
    }
}

#[test]
fn the_event_log_says_which_event_of_a_differing_pcr_is_another() {
    let authority = KeyAuthority::new("vTPM authority").unwrap();
    let mut tpm = authority.manufacture().unwrap();
    tpm.pcrs = image_pcrs(2);
    let log = LogBuilder::new().event(11, 13, b"kernel", b".linux").event(
        11,
        13,
        b"init=/bin/sh",
        b".cmdline",
    );
    tpm.pcrs
        .extend(EventLog::parse(log.bytes()).unwrap().replay());
    tpm.event_log = log.bytes().to_vec();

    let sha256 = |bytes: &[u8]| hex::encode(digest(&SHA256, bytes));
    let mut known = image("new", 2);
    known["events"] = json!({"11": [
        {"name": "kernel", "digest": sha256(b"kernel")},
        {"name": "command line", "digest": sha256(b"quiet")},
    ]});
    let session = Session {
        appraiser: appraiser(authority.pem(), &[known]),
        tpm,
        binding: binding(1),
    };
    let refused = session.appraise(&session.quote()).unwrap_err();
    let [explanation] = refused.explanation() else {
        panic!("{refused:?}");
    };
    let expected = format!(
        "PCR 11: event 1: expected command line digest {}, got",
        sha256(b"quiet")
    );
    assert!(explanation.starts_with(&expected), "{explanation}");
    assert!(explanation.ends_with("`.cmdline`"), "{explanation}");
}
