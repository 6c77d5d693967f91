//! `TPM2_MakeCredential` in software (Part 1, section 24).
//!
//! The credential secret is the caller's. The seed that protects it (the OAEP padding, the
//! ephemeral ECDH key) comes from the random generator of aws-lc-rs, which does not take one as an
//! input for OAEP.

use crate::{
    ek::EndorsementKey,
    public::{Name, PublicKey},
    signature::rsa,
};
use alloc::vec::Vec;
use aws_lc_rs::{
    agreement, cipher, digest,
    encoding::{AsBigEndian, EcPublicKeyUncompressedBin},
    error::Unspecified,
    hmac,
    iv::FixedLength,
    rand,
    rsa::{OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey, PublicEncryptingKey},
};
use zeroize::Zeroizing;

/// Label of the seed, with the terminating zero that OAEP and KDFe want (Part 1, B.10.3 and C.6.3).
const IDENTITY: &[u8] = b"IDENTITY\0";
/// Labels of KDFa with their terminating zero (Part 1, sections 24.4 and 24.5).
const STORAGE: &[u8] = b"STORAGE\0";
const INTEGRITY: &[u8] = b"INTEGRITY\0";
/// The longest secret a credential carries: the digest size of the EK's name algorithm.
const MAX_SECRET: usize = 32;
const SEED_LEN: usize = 32;
const AES_128_LEN: usize = 16;

type Seed = Zeroizing<[u8; SEED_LEN]>;

/// Why no credential could be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialError {
    /// The endorsement key is no usable key: an impossible modulus or a point off its curve.
    #[error("endorsement key cannot be encrypted to")]
    EndorsementKey,
    /// The library failed.
    #[error("making the credential failed")]
    Internal,
    /// The secret does not fit a credential.
    #[error("credential secret: expected at most {MAX_SECRET} bytes, got {got}")]
    SecretLength {
        /// Its length.
        got: usize,
    },
}

/// What `TPM2_ActivateCredential` takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// `TPM2B_ID_OBJECT`.
    pub blob: Vec<u8>,
    /// `TPM2B_ENCRYPTED_SECRET`.
    pub encrypted_secret: Vec<u8>,
}

/// Encrypts `secret` so that only the TPM holding both `ek` and the object named `name` recovers it.
///
/// The caller must have established that `ek` belongs to a TPM; the result proves nothing about
/// it.
///
/// # Errors
/// If the secret is longer than 32 bytes or `ek` is not a usable key.
pub fn make_credential(
    ek: &EndorsementKey,
    name: &Name,
    secret: &[u8],
) -> Result<Credential, CredentialError> {
    if secret.len() > MAX_SECRET {
        return Err(CredentialError::SecretLength { got: secret.len() });
    }
    let (seed, encrypted_secret) = match ek.key() {
        PublicKey::Rsa { modulus, exponent } => rsa_seed(modulus, *exponent)?,
        PublicKey::Ecc { point, .. } => ecc_seed(point)?,
    };
    let blob = protect(&seed, name, secret).map_err(|_| CredentialError::Internal)?;
    Ok(Credential {
        blob,
        encrypted_secret,
    })
}

/// A random seed, OAEP-encrypted (Part 1, B.10.3).
fn rsa_seed(modulus: &[u8], exponent: u32) -> Result<(Seed, Vec<u8>), CredentialError> {
    let mut seed = Seed::default();
    rand::fill(seed.as_mut_slice()).map_err(|_| CredentialError::Internal)?;
    let key: PublicEncryptingKey = rsa(modulus, exponent)
        .try_into()
        .map_err(|_| CredentialError::EndorsementKey)?;
    let key = OaepPublicEncryptingKey::new(key).map_err(|_| CredentialError::EndorsementKey)?;
    let mut ciphertext = alloc::vec![0; key.ciphertext_size()];
    let ciphertext = key
        .encrypt(
            &OAEP_SHA256_MGF1SHA256,
            seed.as_slice(),
            &mut ciphertext,
            Some(IDENTITY),
        )
        .map_err(|_| CredentialError::EndorsementKey)?;
    let mut encrypted = Vec::new();
    push_sized(&mut encrypted, ciphertext);
    Ok((seed, encrypted))
}

/// A seed agreed with an ephemeral P-256 key (Part 1, C.6.3).
fn ecc_seed(ek_point: &[u8]) -> Result<(Seed, Vec<u8>), CredentialError> {
    let internal = |_| CredentialError::Internal;
    let ephemeral = agreement::PrivateKey::generate(&agreement::ECDH_P256).map_err(internal)?;
    let public = ephemeral.compute_public_key().map_err(internal)?;
    let public: EcPublicKeyUncompressedBin<'_> = public.as_be_bytes().map_err(internal)?;
    let (x, y) = coordinates(public.as_ref()).ok_or(CredentialError::Internal)?;
    let (ek_x, _) = coordinates(ek_point).ok_or(CredentialError::EndorsementKey)?;
    let peer = agreement::UnparsedPublicKey::new(&agreement::ECDH_P256, ek_point);
    let seed = agreement::agree(
        &ephemeral,
        peer,
        CredentialError::EndorsementKey,
        |shared| Ok(kdf_e(shared, x, ek_x)),
    )?;
    let mut point = Vec::new();
    push_sized(&mut point, x);
    push_sized(&mut point, y);
    let mut encrypted = Vec::new();
    push_sized(&mut encrypted, &point);
    Ok((seed, encrypted))
}

/// Splits an uncompressed P-256 point.
fn coordinates(point: &[u8]) -> Option<(&[u8], &[u8])> {
    let coordinates = point.strip_prefix(&[4])?;
    (coordinates.len() == 64).then(|| coordinates.split_at(32))
}

/// KDFe with SHA-256 and one block of output (Part 1, section 11.4.10.3).
fn kdf_e(shared: &[u8], party_u: &[u8], party_v: &[u8]) -> Seed {
    let mut hash = digest::Context::new(&digest::SHA256);
    for part in [&1_u32.to_be_bytes(), shared, IDENTITY, party_u, party_v] {
        hash.update(part);
    }
    seed_from(hash.finish().as_ref())
}

/// KDFa with SHA-256 and at most one block of output (Part 1, section 11.4.10.2).
fn kdf_a(seed: &Seed, label: &[u8], context: &[u8], bits: u32) -> Seed {
    let key = hmac::Key::new(hmac::HMAC_SHA256, seed.as_slice());
    let mut mac = hmac::Context::with_key(&key);
    for part in [&1_u32.to_be_bytes(), label, context, &bits.to_be_bytes()] {
        mac.update(part);
    }
    seed_from(mac.sign().as_ref())
}

fn seed_from(digest: &[u8]) -> Seed {
    let mut seed = Seed::default();
    seed.copy_from_slice(digest);
    seed
}

/// Encrypts and authenticates the secret under the seed and the name (Part 1, sections 24.4, 24.5).
fn protect(seed: &Seed, name: &Name, secret: &[u8]) -> Result<Vec<u8>, Unspecified> {
    let mut identity = Vec::new();
    push_sized(&mut identity, secret);
    let key = kdf_a(seed, STORAGE, name.as_bytes(), 128);
    let (key, _) = key.split_at(AES_128_LEN);
    let key = cipher::UnboundCipherKey::new(&cipher::AES_128, key)?;
    // The IV is zero because the key is used once (Part 1, section 24.4).
    let iv = cipher::EncryptionContext::Iv128(FixedLength::from([0; 16]));
    cipher::EncryptingKey::cfb128(key)?.less_safe_encrypt(&mut identity, iv)?;

    let key = kdf_a(seed, INTEGRITY, &[], 256);
    let mut mac = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key.as_slice()));
    mac.update(&identity);
    mac.update(name.as_bytes());

    let mut object = Vec::new();
    push_sized(&mut object, mac.sign().as_ref());
    object.append(&mut identity);
    let mut blob = Vec::new();
    push_sized(&mut blob, &object);
    Ok(blob)
}

/// Appends a `TPM2B`. Everything here is far below 64 KiB.
pub(crate) fn push_sized(out: &mut Vec<u8>, bytes: &[u8]) {
    let len = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(bytes);
}
