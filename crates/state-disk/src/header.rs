//! A sealed header's content, and how it is sealed and opened.

use crate::{
    body::BodyError,
    mapping::DmParameters,
    preamble::{PREAMBLE_LEN, Preamble},
    slots::SLOT_LEN,
    superblock::IntegritySuperblock,
};
use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    hkdf::{HKDF_SHA256, Salt},
};
use identity::{ClusterId, DiskId, Generation, KeyVersion, NodeName, Role};
use secret::{DataKey, VolumeKeys};
use zeroize::Zeroizing;

/// Length of the AES-GCM nonce. Each sealing takes a fresh random one.
pub const NONCE_LEN: usize = 12;

/// HKDF info of the key that seals headers (docs/state-disk.md).
const SEALING_INFO: &[u8] = b"state-disk header v1";

/// What a state disk's sealed header says. Made by the node that formats the disk, or by
/// [`SealedDisk::open`](crate::SealedDisk::open).
#[derive(Debug)]
pub struct Header {
    /// The disk, minted by the admitting side.
    pub disk: DiskId,
    /// The version of the key-encryption key from which the data key was derived.
    pub key_version: KeyVersion,
    /// 1 after the join, one more after each rejoin.
    pub generation: Generation,
    /// The keys of dm-crypt.
    pub volume_keys: VolumeKeys,
    /// The cluster that admitted the disk.
    pub cluster: ClusterId,
    /// The role the node was admitted with.
    pub role: Role,
    /// Whether the cluster's init has not yet reported success.
    pub init_unfinished: bool,
    /// The name the node was admitted with.
    pub node_name: NodeName,
    /// The exact parameters of the device-mapper tables.
    pub parameters: DmParameters,
    /// What dm-integrity must find on the disk.
    pub superblock: IntegritySuperblock,
}

impl Header {
    /// Seals the header: the content of one slot. `nonce` must be fresh random bytes each time.
    ///
    /// # Errors
    /// Values that [`Header::decode_body`] would refuse, so that no disk is ever written that does
    /// not open again; or a fault of the cryptographic library.
    pub fn seal(&self, key: &DataKey, nonce: [u8; NONCE_LEN]) -> Result<[u8; SLOT_LEN], SealError> {
        let preamble = Preamble {
            disk: self.disk,
            generation: self.generation,
            key_version: self.key_version,
            nonce,
        }
        .encode();
        let claims = preamble
            .first_chunk::<PREAMBLE_LEN>()
            .and_then(|bytes| Preamble::parse(bytes).ok())
            .ok_or(SealError::Preamble)?;
        let mut body = self.encode_body();
        Self::decode_body(&claims, &body)?;
        let tag = sealing_key(key)
            .ok_or(SealError::Crypto)?
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(&preamble),
                &mut body,
            )
            .map_err(|_| SealError::Crypto)?;
        let mut slot = [0; SLOT_LEN];
        let sealed = preamble.iter().chain(body.iter()).chain(tag.as_ref());
        for (place, byte) in slot.iter_mut().zip(sealed) {
            *place = *byte;
        }
        Ok(slot)
    }
}

/// Opens one slot, without the zeros at its end; `Ok(None)` when it does not authenticate under `key`.
pub(crate) fn open(
    key: &DataKey,
    preamble: &Preamble,
    slot: &[u8],
) -> Result<Option<Header>, BodyError> {
    let Some((aad, sealed)) = slot.split_at_checked(PREAMBLE_LEN) else {
        return Ok(None);
    };
    let mut sealed = Zeroizing::new(sealed.to_vec());
    let nonce = Nonce::assume_unique_for_key(preamble.nonce);
    let Some(key) = sealing_key(key) else {
        return Ok(None);
    };
    match key.open_in_place(nonce, Aad::from(aad), &mut sealed) {
        Ok(body) => Header::decode_body(preamble, body).map(Some),
        Err(_) => Ok(None),
    }
}

fn sealing_key(key: &DataKey) -> Option<LessSafeKey> {
    let prk = Salt::new(HKDF_SHA256, &[]).extract(key.expose_secret());
    let okm = prk.expand(&[SEALING_INFO], &AES_256_GCM).ok()?;
    Some(LessSafeKey::new(UnboundKey::from(okm)))
}

/// Why a header was not sealed (class internal).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// A value that would not decode again.
    #[error("header content")]
    Body(#[from] BodyError),
    /// The cryptographic library failed.
    #[error("sealing the header failed")]
    Crypto,
    /// Generation or key version is 0.
    #[error("header generation and key version start at 1")]
    Preamble,
}
