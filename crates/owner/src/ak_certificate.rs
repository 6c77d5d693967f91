//! The AK certificate: what an admission proved of an attestation key, for whoever cannot challenge it.

use alloc::{
    string::{String, ToString},
    vec::Vec,
};
use aws_lc_rs::digest;
use identity::{ClusterId, DiskId, NodeName};
use serde::{Deserialize, Serialize};

use crate::{
    AdmissionKey, AdmissionKeyCertificate, KeyError, OwnerFingerprint, OwnerKey, OwnerProofError,
    OwnerPublicKey, keys::parse_hex, proof::verify_signer,
};

/// What was proven of an attestation key when its node was admitted.
///
/// It says where the key lives. That stays true as long as the TPM keeps its endorsement seed, so the
/// certificate does not expire. It does not say that the node is still a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdmittedKey {
    /// SHA-256 of the attestation key's `TPMT_PUBLIC`, whole: the digest in the key's TPM name.
    pub attestation_key: [u8; 32],
    /// The attester identity: SHA-256 of the name of the endorsement key beside it.
    pub attester: [u8; 32],
    /// The cluster that the node was admitted to.
    pub cluster: ClusterId,
    /// Its state disk.
    pub disk: DiskId,
    /// The name it was admitted under.
    pub node: NodeName,
    /// Seconds since 1970 by the admitter's clock. For people: nothing is decided by it.
    pub issued: u64,
}

/// What a verifier knows by itself about the key that it wants to see certified.
#[derive(Clone, Copy, Debug)]
pub struct ExpectedKey<'a> {
    /// SHA-256 of the `TPMT_PUBLIC` of the key that signed.
    pub attestation_key: &'a [u8; 32],
    /// The attester identity of the endorsement key, which the verifier authenticated.
    pub attester: &'a [u8; 32],
    /// The verifier's cluster.
    pub cluster: &'a ClusterId,
    /// The node that it asks for.
    pub node: &'a NodeName,
}

/// An AK certificate as received: nothing in it is true until [`AkCertificate::verify`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AkCertificate {
    /// What is certified.
    pub key: AdmittedKey,
    /// The owner the signer acts for.
    pub owner: OwnerPublicKey,
    /// The admission key that signed; `None` when the owner key itself did.
    pub admission_key: Option<AdmissionKeyCertificate>,
    /// Over the label and all of `key`.
    pub signature: [u8; 64],
}

/// Why a certificate does not vouch for a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AkCertificateError {
    /// The admission key is not certified by the owner.
    #[error("AK certificate: admission key")]
    AdmissionKey(#[source] KeyError),
    /// It is for something else.
    #[error("AK certificate: expected {what} {expected}, got {got}")]
    Differs {
        /// Which fact.
        what: &'static str,
        /// What the verifier knows.
        expected: String,
        /// What is certified.
        got: String,
    },
    /// Signed by another owner, or for one.
    #[error("AK certificate: expected owner {expected}, got {got}")]
    ForeignOwner {
        /// The pinned owner.
        expected: OwnerFingerprint,
        /// The owner in the certificate.
        got: OwnerFingerprint,
    },
    /// A key, digest or signature is not lower-case hex of its length.
    #[error("malformed AK certificate")]
    Hex(#[source] KeyError),
    /// Not the JSON of a certificate.
    #[error("malformed AK certificate: {0}")]
    Json(String),
    /// The signature is not over these facts.
    #[error("AK certificate: signature does not verify")]
    Signature,
    /// Larger than [`AkCertificate::MAX_LEN`].
    #[error("AK certificate: expected at most {max} bytes, got {got}")]
    TooLong {
        /// The bound in bytes.
        max: usize,
        /// The certificate's length in bytes.
        got: usize,
    },
}

impl From<OwnerProofError> for AkCertificateError {
    fn from(error: OwnerProofError) -> Self {
        match error {
            OwnerProofError::AdmissionKey(error) => Self::AdmissionKey(error),
            OwnerProofError::ForeignOwner { expected, got } => Self::ForeignOwner { expected, got },
            OwnerProofError::Signature => Self::Signature,
        }
    }
}

/// The certificate as JSON (docs/formats.md).
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CertificateFile {
    attestation_key: String,
    attester: String,
    cluster_id: ClusterId,
    disk_uuid: DiskId,
    node_name: NodeName,
    issued: u64,
    owner_public_key: String,
    /// Absent when the owner key itself signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    admission_key: Option<AdmissionKeyFile>,
    signature: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AdmissionKeyFile {
    public_key: String,
    signature: String,
}

impl AdmittedKey {
    const LABEL: &[u8] = b"constellation-ak-certificate-v1\0";

    /// `label || attestation key || attester || cluster id || disk uuid || SHA-256(node name) || issued`;
    /// every part has a fixed length, so the encoding is injective.
    fn message(&self) -> Vec<u8> {
        let name = digest::digest(&digest::SHA256, self.node.as_str().as_bytes());
        [
            Self::LABEL,
            &self.attestation_key,
            &self.attester,
            self.cluster.as_bytes(),
            self.disk.as_bytes(),
            name.as_ref(),
            &self.issued.to_be_bytes(),
        ]
        .concat()
    }
}

impl OwnerKey {
    /// Certifies a key that this side has seen activated.
    #[must_use]
    pub fn certify_key(&self, key: AdmittedKey) -> AkCertificate {
        let signature = self.sign(&key.message());
        AkCertificate {
            key,
            owner: self.public_key(),
            admission_key: None,
            signature,
        }
    }
}

impl AdmissionKey {
    /// Certifies a key that this side has seen activated.
    #[must_use]
    pub fn certify_key(&self, key: AdmittedKey) -> AkCertificate {
        let signature = self.sign(&key.message());
        AkCertificate {
            key,
            owner: *self.owner(),
            admission_key: Some(self.certificate().clone()),
            signature,
        }
    }
}

impl AkCertificate {
    /// The longest certificate that is read, in bytes; one has about a thousand.
    pub const MAX_LEN: usize = 4096;

    /// Verifies that somebody who acts for `owner` certified exactly this key.
    ///
    /// # Errors
    /// [`AkCertificateError`] names the first check that failed; the facts are compared after the
    /// signature, so that a difference is a true one.
    pub fn verify(
        &self,
        owner: &OwnerFingerprint,
        expected: &ExpectedKey<'_>,
    ) -> Result<(), AkCertificateError> {
        verify_signer(
            (&self.owner, self.admission_key.as_ref()),
            owner,
            &self.key.message(),
            &self.signature,
        )?;
        let AdmittedKey {
            attestation_key,
            attester,
            cluster,
            node,
            ..
        } = &self.key;
        same("cluster", &expected.cluster, &cluster)?;
        same("node", &expected.node, &node)?;
        let hex = |bytes: &[u8; 32]| hex::encode(bytes);
        same("machine", &hex(expected.attester), &hex(attester))?;
        let keys = (hex(expected.attestation_key), hex(attestation_key));
        same("attestation key", &keys.0, &keys.1)
    }

    /// The certificate as one line of JSON.
    #[must_use]
    pub fn encode(&self) -> String {
        let admission_key = self.admission_key.as_ref();
        let file = CertificateFile {
            attestation_key: hex::encode(self.key.attestation_key),
            attester: hex::encode(self.key.attester),
            cluster_id: self.key.cluster,
            disk_uuid: self.key.disk,
            node_name: self.key.node.clone(),
            issued: self.key.issued,
            owner_public_key: self.owner.to_string(),
            admission_key: admission_key.map(|certificate| AdmissionKeyFile {
                public_key: hex::encode(certificate.public_key),
                signature: hex::encode(certificate.signature),
            }),
            signature: hex::encode(self.signature),
        };
        // Serialising strings and numbers into a `String` cannot fail.
        serde_json::to_string(&file).unwrap_or_default()
    }

    /// Reads what [`Self::encode`] wrote; nothing is verified.
    ///
    /// # Errors
    /// [`AkCertificateError`].
    pub fn parse(text: &[u8]) -> Result<Self, AkCertificateError> {
        if text.len() > Self::MAX_LEN {
            return Err(AkCertificateError::TooLong {
                max: Self::MAX_LEN,
                got: text.len(),
            });
        }
        let file: CertificateFile = serde_json::from_slice(text)
            .map_err(|error| AkCertificateError::Json(error.to_string()))?;
        file.parse().map_err(AkCertificateError::Hex)
    }
}

impl CertificateFile {
    fn parse(self) -> Result<AkCertificate, KeyError> {
        let admission_key = |file: AdmissionKeyFile| {
            Ok(AdmissionKeyCertificate {
                public_key: parse_hex(&file.public_key, "admission public key")?,
                signature: parse_hex(&file.signature, "signature of the admission key")?,
            })
        };
        Ok(AkCertificate {
            key: AdmittedKey {
                attestation_key: parse_hex(&self.attestation_key, "attestation key")?,
                attester: parse_hex(&self.attester, "attester")?,
                cluster: self.cluster_id,
                disk: self.disk_uuid,
                node: self.node_name,
                issued: self.issued,
            },
            owner: self.owner_public_key.parse()?,
            admission_key: self.admission_key.map(admission_key).transpose()?,
            signature: parse_hex(&self.signature, "signature")?,
        })
    }
}

fn same<T: PartialEq + ToString>(
    what: &'static str,
    expected: &T,
    got: &T,
) -> Result<(), AkCertificateError> {
    if expected == got {
        return Ok(());
    }
    Err(AkCertificateError::Differs {
        what,
        expected: expected.to_string(),
        got: got.to_string(),
    })
}

#[cfg(test)]
mod tests;
