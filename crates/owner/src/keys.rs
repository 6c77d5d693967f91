//! The owner key, its fingerprint, and the admission keys it certifies.

use alloc::{
    string::{String, ToString},
    vec::Vec,
};
use aws_lc_rs::{
    digest,
    signature::{Ed25519KeyPair, KeyPair},
};
use core::{fmt, str::FromStr};
use evidence::{Binding, Side};
use serde::{Deserialize, Serialize};

use crate::{OwnerProof, is_signed_by, proof};

secret::secret! {
    /// The private half of an owner or admission key: an Ed25519 seed (RFC 8032, section 5.1.5).
    pub struct Seed(32);
}

/// A key, or a text that should be one, that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The cryptographic library refused the seed.
    #[error("seed is not an Ed25519 private key")]
    Seed,
    /// Not the JSON of an admission certificate.
    #[error("malformed admission certificate: {0}")]
    Certificate(String),
    /// Not lower-case hex digits of the right number.
    #[error("malformed {what}: expected {digits} lower-case hex digits")]
    Hex {
        /// What the text should have been.
        what: &'static str,
        /// How many digits it should have.
        digits: usize,
    },
    /// The certificate's signature does not verify under the owner key.
    #[error("admission key is not certified by owner {owner}")]
    NotCertified {
        /// The owner whose signature was expected.
        owner: OwnerFingerprint,
    },
    /// The certificate names another key than the private one beside it.
    #[error("admission certificate is for another key")]
    OtherKey,
}

/// The cluster owner's key. It lives on the operator's machine, encrypted.
pub struct OwnerKey(Ed25519KeyPair);

impl OwnerKey {
    /// Loads the key from its seed.
    ///
    /// # Errors
    /// [`KeyError::Seed`].
    pub fn from_seed(seed: &Seed) -> Result<Self, KeyError> {
        key_pair(seed).map(Self)
    }

    /// The public half.
    #[must_use]
    pub fn public_key(&self) -> OwnerPublicKey {
        OwnerPublicKey(public_half(&self.0))
    }

    /// Certifies an admission key, so that a service can admit nodes without the owner key.
    #[must_use]
    pub fn certify(&self, admission_public_key: [u8; 32]) -> AdmissionKeyCertificate {
        let signature = self.sign(&AdmissionKeyCertificate::message(&admission_public_key));
        AdmissionKeyCertificate {
            public_key: admission_public_key,
            signature,
        }
    }

    /// Proves, as `side` of the channel, that this owner admits the peer.
    #[must_use]
    pub fn prove(&self, side: Side, binding: &Binding) -> OwnerProof {
        let signature = self.sign(&proof::message(side, binding));
        OwnerProof {
            owner: self.public_key(),
            admission_key: None,
            signature,
        }
    }

    pub(crate) fn sign(&self, message: &[u8]) -> [u8; 64] {
        sign(&self.0, message)
    }
}

impl fmt::Debug for OwnerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OwnerKey({})", self.public_key().fingerprint())
    }
}

/// An admission key: what a join service proves ownership with.
pub struct AdmissionKey {
    pair: Ed25519KeyPair,
    owner: OwnerPublicKey,
    certificate: AdmissionKeyCertificate,
}

impl AdmissionKey {
    /// Loads an admission key; its certificate must be by `owner` and for this seed.
    ///
    /// # Errors
    /// [`KeyError`] names what does not fit.
    pub fn new(
        seed: &Seed,
        owner: OwnerPublicKey,
        certificate: AdmissionKeyCertificate,
    ) -> Result<Self, KeyError> {
        let pair = key_pair(seed)?;
        if public_half(&pair) != certificate.public_key {
            return Err(KeyError::OtherKey);
        }
        certificate.verify(&owner)?;
        Ok(Self {
            pair,
            owner,
            certificate,
        })
    }

    /// The public half of a seed, for [`OwnerKey::certify`].
    ///
    /// # Errors
    /// [`KeyError::Seed`].
    pub fn public_half(seed: &Seed) -> Result<[u8; 32], KeyError> {
        key_pair(seed).map(|pair| public_half(&pair))
    }

    /// The owner this key acts for.
    #[must_use]
    pub const fn owner(&self) -> &OwnerPublicKey {
        &self.owner
    }

    pub(crate) const fn certificate(&self) -> &AdmissionKeyCertificate {
        &self.certificate
    }

    pub(crate) fn sign(&self, message: &[u8]) -> [u8; 64] {
        sign(&self.pair, message)
    }

    /// Proves, as `side` of the channel, that this key's owner admits the peer.
    #[must_use]
    pub fn prove(&self, side: Side, binding: &Binding) -> OwnerProof {
        let signature = self.sign(&proof::message(side, binding));
        OwnerProof {
            owner: self.owner,
            admission_key: Some(self.certificate.clone()),
            signature,
        }
    }
}

impl fmt::Debug for AdmissionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AdmissionKey(owner {})", self.owner.fingerprint())
    }
}

/// The owner's public key, 32 bytes of Ed25519.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnerPublicKey(pub [u8; 32]);

impl OwnerPublicKey {
    /// What images carry on their command line.
    #[must_use]
    pub fn fingerprint(&self) -> OwnerFingerprint {
        let mut fingerprint = [0; 32];
        fingerprint.copy_from_slice(digest::digest(&digest::SHA256, &self.0).as_ref());
        OwnerFingerprint(fingerprint)
    }
}

impl fmt::Display for OwnerPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl FromStr for OwnerPublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        parse_hex(text, "owner public key").map(Self)
    }
}

/// SHA-256 of the owner's 32-byte public key.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct OwnerFingerprint([u8; 32]);

impl OwnerFingerprint {
    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for OwnerFingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for OwnerFingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OwnerFingerprint({self})")
    }
}

impl FromStr for OwnerFingerprint {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        parse_hex(text, "owner fingerprint").map(Self)
    }
}

/// The owner's signature over an admission public key. It names nothing else: an admission key may
/// admit any node of its owner until the owner changes, because no clock at boot can be trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdmissionKeyCertificate {
    /// The certified Ed25519 public key.
    pub public_key: [u8; 32],
    /// By the owner key.
    pub signature: [u8; 64],
}

/// The certificate as a file beside the key: JSON, owner included (docs/formats.md).
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CertificateFile {
    owner_public_key: String,
    admission_public_key: String,
    signature: String,
}

impl AdmissionKeyCertificate {
    const LABEL: &[u8] = b"constellation-admission-key-v1\0";

    /// The certificate and its owner as JSON text, ending in a newline.
    #[must_use]
    pub fn encode(&self, owner: &OwnerPublicKey) -> String {
        let file = CertificateFile {
            owner_public_key: owner.to_string(),
            admission_public_key: hex::encode(self.public_key),
            signature: hex::encode(self.signature),
        };
        // Serialising three strings into a `String` cannot fail.
        let mut text = serde_json::to_string_pretty(&file).unwrap_or_default();
        text.push('\n');
        text
    }

    /// Reads what [`Self::encode`] wrote and verifies it. Whether the owner is the right one is for
    /// the caller to compare.
    ///
    /// # Errors
    /// [`KeyError`] names what is wrong.
    pub fn parse(text: &[u8]) -> Result<(OwnerPublicKey, Self), KeyError> {
        let file: CertificateFile = serde_json::from_slice(text)
            .map_err(|error| KeyError::Certificate(error.to_string()))?;
        let owner: OwnerPublicKey = file.owner_public_key.parse()?;
        let certificate = Self {
            public_key: parse_hex(&file.admission_public_key, "admission public key")?,
            signature: parse_hex(&file.signature, "signature")?,
        };
        certificate.verify(&owner)?;
        Ok((owner, certificate))
    }

    pub(crate) fn verify(&self, owner: &OwnerPublicKey) -> Result<(), KeyError> {
        if is_signed_by(&owner.0, &Self::message(&self.public_key), &self.signature) {
            Ok(())
        } else {
            Err(KeyError::NotCertified {
                owner: owner.fingerprint(),
            })
        }
    }

    fn message(public_key: &[u8; 32]) -> Vec<u8> {
        [Self::LABEL, public_key].concat()
    }
}

fn key_pair(seed: &Seed) -> Result<Ed25519KeyPair, KeyError> {
    Ed25519KeyPair::from_seed_unchecked(seed.expose_secret()).map_err(|_| KeyError::Seed)
}

fn public_half(pair: &Ed25519KeyPair) -> [u8; 32] {
    let mut public_key = [0; 32];
    public_key.copy_from_slice(pair.public_key().as_ref());
    public_key
}

fn sign(pair: &Ed25519KeyPair, message: &[u8]) -> [u8; 64] {
    let mut signature = [0; 64];
    signature.copy_from_slice(pair.sign(message).as_ref());
    signature
}

pub(crate) fn parse_hex<const N: usize>(
    text: &str,
    what: &'static str,
) -> Result<[u8; N], KeyError> {
    let mut bytes = [0; N];
    match hex::decode_to_slice(text, &mut bytes) {
        Ok(()) if hex::encode(bytes) == text => Ok(bytes),
        _ => Err(KeyError::Hex {
            what,
            digits: 2 * N,
        }),
    }
}
