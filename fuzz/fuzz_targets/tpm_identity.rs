//! What a TPM claims to be: certificate, endorsement key and attestation key, up to the challenge.
//!
//! The seeds' certificates are by authorities with the names of the policy's and with other keys, so
//! that every check is reached and no certificate can pass the last one.
#![no_main]
use appraisal::{AppraisalError, Appraiser, CertificateError, CredentialSecret};
use evidence::{AttesterClaim, TpmIdentity};
use fuzz::{appraiser, got_through, part};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

const POLICY: &[u8] = include_bytes!("../policy-tpm.json");
const VALUES: &[u8] = include_bytes!("../reference-values-tpm.json");

static APPRAISER: LazyLock<Appraiser> = LazyLock::new(|| appraiser(POLICY, VALUES));

// Certificate and endorsement key with their lengths before them, attestation key.
fuzz_target!(|data: &[u8]| got_through(run(data)));

fn run(data: &[u8]) -> bool {
    let mut rest = data;
    let [ek_certificate, ek_public] = [(); 2].map(|()| part(&mut rest).to_vec());
    let claim = AttesterClaim::Tpm(TpmIdentity {
        ek_certificate,
        ek_public,
        ak_public: rest.to_vec(),
    });
    let secret = CredentialSecret::from_slice(&[1; 32]).expect("32 bytes");
    let refused = APPRAISER.challenge(&claim, secret);
    let error = refused.expect_err("no authority of the policy signed anything");
    assert!(!error.checks().is_empty());
    matches!(
        error,
        AppraisalError::Certificate(CertificateError::Untrusted)
    )
}
