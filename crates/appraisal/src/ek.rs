//! The endorsement key: trusted by the policy, then challenged.

use crate::{
    appraised::AttesterIdentity, certificate::Certificate, error::AppraisalError, policy::TpmPolicy,
};
use evidence::{Subject, TpmChallenge, TpmIdentity};
use owner::{AkCertificate, ExpectedKey, OwnerFingerprint};
use tpm::{AttestationKey, EndorsementKey, make_credential};

secret::secret! {
    /// What a credential carries: random, one for each session, known to verifier and TPM only.
    pub struct CredentialSecret(32);
}

/// An endorsement key that the policy trusts, beside an attestation key that only claims to live
/// in the same TPM.
#[must_use]
#[derive(Debug)]
pub(crate) struct AuthenticatedEk {
    ek: EndorsementKey,
    ak: AttestationKey,
    identity: AttesterIdentity,
}

impl AuthenticatedEk {
    /// Checks both public areas, then that the endorsement key is listed or certified.
    pub(crate) fn authenticate(
        claimed: &TpmIdentity,
        policy: &TpmPolicy,
    ) -> Result<Self, AppraisalError> {
        let ek =
            EndorsementKey::parse(&claimed.ek_public).map_err(AppraisalError::EndorsementKey)?;
        let ak =
            AttestationKey::parse(&claimed.ak_public).map_err(AppraisalError::AttestationKey)?;
        let identity = AttesterIdentity::of_key(ek.name());
        if !policy.ek_hashes.contains(&identity) {
            if policy.ek_issuers.is_empty() {
                return Err(AppraisalError::UnknownEndorsementKey { got: identity });
            }
            Certificate::parse(&claimed.ek_certificate)
                .and_then(|certificate| certificate.authenticate_ek(ek.key(), &policy.ek_issuers))
                .map_err(AppraisalError::Certificate)?;
        }
        Ok(Self { ek, ak, identity })
    }

    /// Takes the word of whoever challenged this key before: `certificate` is for exactly it, this
    /// endorsement key, and the node and cluster that are asked for.
    pub(crate) fn certified(
        self,
        certificate: &AkCertificate,
        owner: &OwnerFingerprint,
        subject: &Subject<'_>,
    ) -> Result<(AttestationKey, AttesterIdentity), AppraisalError> {
        let expected = ExpectedKey {
            attestation_key: &self.ak.name().digest(),
            attester: self.identity.machine().ok_or(AppraisalError::Activation)?,
            cluster: subject.cluster,
            node: subject.node,
        };
        certificate
            .verify(owner, &expected)
            .map_err(AppraisalError::AkCertificate)?;
        Ok((self.ak, self.identity))
    }

    /// Makes the challenge that only this TPM, holding this attestation key, can answer. `secret`
    /// must be random and used for nothing else.
    ///
    /// # Errors
    /// If the endorsement key is no usable key.
    pub(crate) fn challenge(
        self,
        secret: CredentialSecret,
    ) -> Result<(ChallengedAk, TpmChallenge), AppraisalError> {
        let credential = make_credential(&self.ek, self.ak.name(), secret.expose_secret())
            .map_err(AppraisalError::Credential)?;
        let challenge = TpmChallenge {
            credential_blob: credential.blob,
            encrypted_secret: credential.encrypted_secret,
        };
        let challenged = ChallengedAk {
            ak: self.ak,
            identity: self.identity,
            secret,
        };
        Ok((challenged, challenge))
    }
}

/// An attestation key whose proof is outstanding. One session's: it is used up by the answer.
#[must_use]
#[derive(Debug)]
pub(crate) struct ChallengedAk {
    ak: AttestationKey,
    identity: AttesterIdentity,
    secret: CredentialSecret,
}

impl ChallengedAk {
    /// The TPM that is claimed. Nothing on this connection has proven to be that TPM yet.
    pub(crate) const fn claimed_identity(&self) -> AttesterIdentity {
        self.identity
    }

    /// Goes without an answer: the attestation key is anybody's.
    pub(crate) fn unproven(self) -> (AttestationKey, AttesterIdentity) {
        (self.ak, self.identity)
    }

    /// Takes the answer: with the right secret the attestation key is the identity's own.
    pub(crate) fn activate(
        self,
        activated: &[u8],
    ) -> Result<(AttestationKey, AttesterIdentity), AppraisalError> {
        let proven = CredentialSecret::from_slice(activated)
            .is_some_and(|activated| activated.ct_eq(&self.secret));
        if proven {
            return Ok((self.ak, self.identity));
        }
        Err(AppraisalError::Activation)
    }
}
