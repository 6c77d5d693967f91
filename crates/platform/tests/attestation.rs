//! Attestation end to end: a real software TPM with a real endorsement certificate, the attester of
//! this crate, the verifier of `appraisal`. Liars are made by changing bytes on the way to the TPM.

use appraisal::{
    AppraisalError, Appraised, Appraiser, AuthenticatedEk, CredentialSecret, Policy, REQUIRED_PCRS,
    ReferenceValues,
};
use evidence::{Binding, Channel, Evidence, Side, TpmEvidence, TpmIdentity};
use platform::tpm::{TpmAttester, TpmError, Transport};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SubjectPublicKeyInfo,
};
use serde_json::json;
use software_tpm::{Authority, Connection, SoftwareTpm};
use std::{collections::BTreeMap, io, sync::LazyLock};

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

/// The whole exchange of one session.
fn attest(appraiser: &Appraiser, attester: &mut TpmAttester) -> Result<Appraised, AppraisalError> {
    let identity = attester.identity().clone();
    let ek = appraiser.authenticate_ek(&identity)?;
    attest_as(appraiser, ek, attester, &REQUIRED_PCRS, |_| {})
}

/// The rest of the exchange, with the evidence changed on its way.
fn attest_as(
    appraiser: &Appraiser,
    ek: AuthenticatedEk,
    attester: &mut TpmAttester,
    pcrs: &[u32],
    change: impl FnOnce(&mut TpmEvidence),
) -> Result<Appraised, AppraisalError> {
    let (challenged, challenge) = ek.challenge(secret())?;
    let activated = attester.activate(&challenge).unwrap();
    let binding = binding(1);
    let mut evidence = attester.quote(&binding.qualifying_data(), pcrs).unwrap();
    change(&mut evidence);
    appraiser.appraise(challenged, &*activated, &evidence, &binding)
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
        assert!(appraised.claims().clock.clock > 0);
    }
}
