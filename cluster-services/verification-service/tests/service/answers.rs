//! What the service states, by a verifier that believes nothing.

use crate::setup::{Machine, Running, challenge, get, hex, json, judge};
use api::{
    atls,
    verify::{GetAttestationRequest, GetIdentityRequest},
};
use appraisal::{AppraisalError, KeyProof, Membership};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use evidence::{AttesterClaim, Evidence, Nonce, TpmEvidence, TpmIdentity};
use hand_off::AttestationKey;
use owner::{AkCertificate, OwnerKey, Seed};
use serde_json::Value;
use tonic::Code;
use tpm::{EndorsementKey, make_credential};

fn request(nonce: &Nonce) -> GetAttestationRequest {
    GetAttestationRequest {
        nonce: nonce.0.to_vec(),
        challenge: None,
    }
}

#[tokio::test]
async fn two_calls_prove_a_latched_node_and_its_key() {
    let machine = Machine::new();
    let running = Running::ready(&machine, "").await;
    let mut client = running.client().await;
    let identity = client.get_identity(GetIdentityRequest {}).await.unwrap();
    let stated = identity.into_inner().parse().unwrap();
    assert_eq!(stated.name.as_str(), crate::setup::NODE);

    let appraiser = machine.appraiser();
    let (challenged, made) = challenge(&appraiser, &stated.claim);
    let nonce = Nonce([9; 32]);
    let mut ask = request(&nonce);
    ask.challenge = Some(made.into());
    let answer = client.get_attestation(ask.clone()).await.unwrap();
    let (node, evidence, activated) = answer.into_inner().parse().unwrap();
    assert_eq!(node, stated);
    let verified = judge(&nonce, &evidence, |statement| {
        appraiser.verify(challenged, activated.as_deref(), statement)
    })
    .unwrap();
    assert_eq!(verified.image(), "v1");
    assert_eq!(verified.membership(), Membership::Latched);

    // The same evidence is no answer to another question, and the key is another in a new process.
    let (challenged, _) = challenge(&appraiser, &stated.claim);
    let replayed = judge(&Nonce([10; 32]), &evidence, |statement| {
        appraiser.verify(challenged, activated.as_deref(), statement)
    });
    assert!(matches!(replayed, Err(AppraisalError::Binding { .. })));
    running.stop().await;
    let running = Running::ready(&machine, "").await;
    let mut client = running.client().await;
    let status = client.get_attestation(ask).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    // And the device serves on.
    client.get_attestation(request(&nonce)).await.unwrap();
    running.stop().await;
}

/// What anybody may send costs nobody the device, nor the attestation key that others were told.
#[tokio::test]
async fn a_bad_challenge_does_not_close_the_device() {
    let machine = Machine::new();
    let running = Running::ready(&machine, "per_second_and_address = 100").await;
    let mut client = running.client().await;
    let identity = client.get_identity(GetIdentityRequest {}).await.unwrap();
    let stated = identity.into_inner().parse().unwrap();
    let AttesterClaim::Tpm(tpm) = &stated.claim else {
        panic!("not a TPM");
    };
    let ek = EndorsementKey::parse(&tpm.ek_public).unwrap();
    let ak = ::tpm::AttestationKey::parse(&tpm.ak_public).unwrap();
    let credential = |length| {
        let made = make_credential(&ek, ak.name(), &[7; 32][..length]).unwrap();
        atls::TpmChallenge {
            credential_blob: made.blob,
            encrypted_secret: made.encrypted_secret,
        }
    };
    let changed = |change: fn(&mut atls::TpmChallenge)| {
        let mut challenge = credential(32);
        change(&mut challenge);
        challenge
    };
    // A `TPM2B` of exactly that length.
    let sized = |length: u16| {
        let mut part = Vec::from((length - 2).to_be_bytes());
        part.resize(length.into(), 1);
        part
    };
    let flaws = [
        // These activate, and the answer is too short.
        credential(16),
        credential(0),
        changed(|challenge| challenge.credential_blob.push(0)),
        changed(|challenge| challenge.encrypted_secret.truncate(9)),
        changed(|challenge| challenge.encrypted_secret.truncate(1)),
        atls::TpmChallenge {
            credential_blob: sized(1024),
            encrypted_secret: sized(1024),
        },
        atls::TpmChallenge {
            credential_blob: sized(1025),
            ..credential(32)
        },
        atls::TpmChallenge {
            credential_blob: vec![0; 5000],
            ..credential(32)
        },
    ];
    let appraiser = machine.appraiser();
    let nonce = Nonce([9; 32]);
    for flaw in flaws {
        let mut ask = request(&nonce);
        ask.challenge = Some(flaw);
        let status = client.get_attestation(ask).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        let (challenged, made) = challenge(&appraiser, &stated.claim);
        let mut ask = request(&nonce);
        ask.challenge = Some(made.into());
        let answer = client.get_attestation(ask).await.unwrap();
        let (node, evidence, activated) = answer.into_inner().parse().unwrap();
        assert_eq!(node, stated);
        let verified = judge(&nonce, &evidence, |statement| {
            appraiser.verify(challenged, activated.as_deref(), statement)
        });
        assert_eq!(verified.unwrap().image(), "v1");
    }
    running.stop().await;
}

#[tokio::test]
async fn a_get_says_that_its_key_is_unproven_and_the_rest_holds() {
    let machine = Machine::new();
    let running = Running::ready(&machine, "").await;
    let nonce = Nonce([9; 32]);
    let (status, body) = get(running.http, &format!("/?nonce={}", hex(&nonce.0))).await;
    assert_eq!(status, 200, "{body}");
    let document = json(&body);
    assert_eq!(document["nonce"], hex(&nonce.0));
    assert_eq!(document["node"]["name"], crate::setup::NODE);
    assert_eq!(document["node"]["kind"], "tpm");
    assert_eq!(document["attestation_key"], "unproven");
    let (claim, evidence) = parse(&document);
    let appraiser = machine.appraiser();
    let (challenged, _) = challenge(&appraiser, &claim);
    let stated = judge(&nonce, &evidence, |statement| {
        appraiser.read(challenged, statement)
    });
    assert_eq!(stated.unwrap().image(), "v1");
    running.stop().await;
}

/// What the agent was admitted with, made again by the service: one question and one answer prove it.
#[tokio::test]
async fn a_get_shows_the_certificate_of_the_admission() {
    let machine = Machine::new();
    let running = Running::with_key(&machine, machine.key.clone()).await;
    let nonce = Nonce([9; 32]);
    let target = format!("/?nonce={}", hex(&nonce.0));
    let (status, body) = get(running.http, &target).await;
    assert_eq!(status, 200, "{body}");
    let document = json(&body);
    assert_eq!(document["attestation_key"], "certified-at-admission");
    let certificate = document["ak_certificate"].to_string();
    let certificate = AkCertificate::parse(certificate.as_bytes()).unwrap();
    let (claim, evidence) = parse(&document);
    let appraiser = machine.appraiser();
    let verify = |owner: u8, nonce: &Nonce| {
        let owner = OwnerKey::from_seed(&Seed::from_slice(&[owner; 32]).unwrap());
        let owner = owner.unwrap().public_key().fingerprint();
        judge(nonce, &evidence, |statement| {
            appraiser.verify_certified(&claim, (&certificate, &owner), statement)
        })
    };
    let verified = verify(1, &nonce).unwrap();
    assert_eq!(verified.image(), "v1");
    assert_eq!(verified.key_proof(), KeyProof::Certified);
    let replayed = verify(1, &Nonce([10; 32]));
    assert!(matches!(replayed, Err(AppraisalError::Binding { .. })));
    let foreign = verify(2, &nonce);
    assert!(matches!(foreign, Err(AppraisalError::AkCertificate(_))));

    // The two calls prove the same key anew, and a restart changes nothing about it.
    let mut client = running.client().await;
    let identity = client.get_identity(GetIdentityRequest {}).await.unwrap();
    let stated = identity.into_inner().parse().unwrap();
    assert_eq!(stated.claim, claim);
    let (challenged, made) = challenge(&appraiser, &stated.claim);
    let mut ask = request(&nonce);
    ask.challenge = Some(made.into());
    running.stop().await;
    let running = Running::with_key(&machine, machine.key.clone()).await;
    let answer = running.client().await.get_attestation(ask).await.unwrap();
    let (_, evidence, activated) = answer.into_inner().parse().unwrap();
    let verified = judge(&nonce, &evidence, |statement| {
        appraiser.verify(challenged, activated.as_deref(), statement)
    });
    assert_eq!(verified.unwrap().key_proof(), KeyProof::Activated);
    running.stop().await;
}

/// A certificate is shown with its own key alone: another TPM makes another one.
#[tokio::test]
async fn a_key_that_is_not_the_certified_one_is_unproven() {
    let (machine, other) = (Machine::new(), Machine::new());
    let no_object = AttestationKey {
        certificate: "[1]".into(),
        ..machine.key.clone()
    };
    let other_unique = AttestationKey {
        unique: [9; 32],
        ..machine.key.clone()
    };
    for key in [other.key, no_object, other_unique] {
        let running = Running::with_key(&machine, key).await;
        let (status, body) = get(running.http, &format!("/?nonce={}", "09".repeat(32))).await;
        assert_eq!(status, 200, "{body}");
        let document = json(&body);
        assert_eq!(document["attestation_key"], "unproven");
        assert_eq!(document["ak_certificate"], Value::Null);
        running.stop().await;
    }
}

fn bytes(value: &Value) -> Vec<u8> {
    STANDARD.decode(value.as_str().unwrap()).unwrap()
}

fn parse(document: &Value) -> (AttesterClaim, Evidence) {
    let tpm = &document["node"]["tpm"];
    let claim = AttesterClaim::Tpm(TpmIdentity {
        ek_certificate: bytes(&tpm["ek_certificate"]),
        ek_public: bytes(&tpm["ek_public"]),
        ak_public: bytes(&tpm["ak_public"]),
    });
    let quote = &document["evidence"]["quote"];
    let pcrs = quote["pcrs"].as_object().unwrap().iter();
    let pcr = |(pcr, value): (&String, &Value)| {
        let mut digest = [0; 32];
        hex::decode_to_slice(value.as_str().unwrap(), &mut digest).unwrap();
        (pcr.parse().unwrap(), digest)
    };
    let evidence = Evidence::Tpm(TpmEvidence {
        attestation: bytes(&quote["attestation"]),
        signature: bytes(&quote["signature"]),
        pcrs: pcrs.map(pcr).collect(),
        event_log: bytes(&quote["event_log"]),
    });
    (claim, evidence)
}

/// Whoever powers the machine off and on has no latch; the service starts and states that, too.
#[tokio::test]
async fn a_node_that_was_reset_is_not_verified() {
    let mut machine = Machine::new();
    machine.tpm.power_cycle().unwrap();
    let running = Running::ready(&machine, "").await;
    let nonce = Nonce([9; 32]);
    let (_, body) = get(running.http, &format!("/?nonce={}", hex(&nonce.0))).await;
    let (claim, evidence) = parse(&json(&body));
    let appraiser = machine.appraiser();
    let (challenged, _) = challenge(&appraiser, &claim);
    let refused = judge(&nonce, &evidence, |statement| {
        appraiser.read(challenged, statement)
    });
    assert!(matches!(refused, Err(AppraisalError::Latch { .. })));
    running.stop().await;
}

#[tokio::test]
async fn malformed_questions_get_a_reason() {
    let machine = Machine::new();
    let running = Running::ready(&machine, "").await;
    for (target, status, reason) in [
        ("/", 400, "expected `nonce` once"),
        ("/?nonce=00", 400, "got 2 characters"),
        ("/metrics", 404, "only `/?nonce=`"),
    ] {
        let (got, body) = get(running.http, target).await;
        assert_eq!(got, status, "{target}: {body}");
        let error = json(&body)["error"].as_str().unwrap().to_owned();
        assert!(error.contains(reason), "{target}: {error}");
    }
    let mut client = running.client().await;
    for length in [0, 31, 33, 64] {
        let ask = GetAttestationRequest {
            nonce: vec![1; length],
            challenge: None,
        };
        let status = client.get_attestation(ask).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains("nonce"), "{status}");
    }
    running.stop().await;
}
