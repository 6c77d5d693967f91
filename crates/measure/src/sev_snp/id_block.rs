//! ID block and ID authentication structure: an author's signature over a launch measurement.
//!
//! A host may start a guest with both (AMD #56860, section 8.18, `SNP_LAUNCH_FINISH`). The secure
//! processor then refuses a launch whose digest is another, and the report carries the digests of
//! the keys that signed. So a policy can name an author's key instead of each measurement; it
//! trusts that key's holder to sign good measurements only.
//!
//! Numbers are little-endian, those of keys and signatures too.

use super::digest::sha384;
use alloc::vec::Vec;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED, UnparsedPublicKey};
use thiserror::Error;

/// Bytes in an encoded [`IdBlock`] (AMD #56860, table 75).
pub const ID_BLOCK_LEN: usize = 96;

/// Bytes in an ID authentication structure (AMD #56860, table 76).
pub const ID_AUTH_LEN: usize = 4096;

/// Bytes in a public key (AMD #56860, table 124).
const KEY_LEN: usize = 0x404;

/// Bytes in a signature (AMD #56860, table 123).
const SIGNATURE_LEN: usize = 512;

/// Bytes in a coordinate or in half a signature: 384 bits, padded with zeros.
const NUMBER_LEN: usize = 72;

/// Curve P-384 (AMD #56860, table 124).
const CURVE_P384: u32 = 2;

/// ECDSA with P-384 and SHA-384 (AMD #56860, table 121).
const ALGORITHM: u32 = 1;

/// Why an ID block is not signed as it says.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum IdBlockError {
    /// Bytes that have to be zero are not. Class: malformed.
    #[error("{field}: bytes that must be zero are not")]
    NotZero {
        /// Name in the specification.
        field: &'static str,
    },
    /// The signature is not one by the key beside it. Class: refused.
    #[error("{field}: the signature does not verify")]
    Signature {
        /// Name in the specification.
        field: &'static str,
    },
    /// Class: malformed.
    #[error("{field}: outside the structure")]
    Truncated {
        /// Name in the specification.
        field: &'static str,
    },
    /// A field has a value that is not known here. Class: malformed.
    #[error("{field}: expected {expected}, got {got}")]
    Unexpected {
        /// Name in the specification.
        field: &'static str,
        /// The one value that is read.
        expected: u32,
        /// Value in the structure.
        got: u32,
    },
}

/// What an author signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdBlock {
    /// The launch measurement.
    pub launch_digest: [u8; 48],
    /// `FAMILY_ID`, the author's own.
    pub family_id: [u8; 16],
    /// `IMAGE_ID`, the author's own.
    pub image_id: [u8; 16],
    /// `GUEST_SVN`, the author's own.
    pub guest_svn: u32,
    /// The guest policy that the launch must have.
    pub policy: u64,
}

impl IdBlock {
    /// The bytes that are signed.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(ID_BLOCK_LEN);
        bytes.extend_from_slice(&self.launch_digest);
        bytes.extend_from_slice(&self.family_id);
        bytes.extend_from_slice(&self.image_id);
        // The only version of the structure.
        bytes.extend_from_slice(&1_u32.to_le_bytes());
        bytes.extend_from_slice(&self.guest_svn.to_le_bytes());
        bytes.extend_from_slice(&self.policy.to_le_bytes());
        bytes
    }

    /// Checks the signatures in an ID authentication structure over this block.
    ///
    /// # Errors
    /// [`IdBlockError`] names the field.
    pub fn authenticate(&self, auth: &[u8; ID_AUTH_LEN]) -> Result<KeyDigests, IdBlockError> {
        let id_key = range("ID_KEY", auth, 0x240, KEY_LEN)?;
        expect("ID_KEY_ALGO", word("ID_KEY_ALGO", auth, 0)?, ALGORITHM)?;
        let signature = range("ID_BLOCK_SIG", auth, 0x40, SIGNATURE_LEN)?;
        verify("ID_BLOCK_SIG", &self.encode(), signature, id_key)?;
        let author_key = range("AUTHOR_KEY", auth, 0x880, KEY_LEN)?;
        let author = if author_key.iter().all(|byte| *byte == 0) {
            None
        } else {
            let algorithm = word("AUTH_KEY_ALGO", auth, 4)?;
            expect("AUTH_KEY_ALGO", algorithm, ALGORITHM)?;
            let signature = range("ID_KEY_SIG", auth, 0x680, SIGNATURE_LEN)?;
            verify("ID_KEY_SIG", id_key, signature, author_key)?;
            Some(sha384(author_key))
        };
        let id_key = sha384(id_key);
        Ok(KeyDigests { id_key, author })
    }
}

/// The digests by which a report names the keys that signed its ID block.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyDigests {
    /// `ID_KEY_DIGEST`.
    pub id_key: [u8; 48],
    /// `AUTHOR_KEY_DIGEST`, where an author key signed the ID key.
    pub author: Option<[u8; 48]>,
}

/// The digest by which a report names a P-384 public key, given its two coordinates (big-endian, as
/// in an X.509 key after the byte 4).
#[must_use]
pub fn key_digest(coordinates: &[u8; 96]) -> [u8; 48] {
    let (x, y) = coordinates.split_at(48);
    let mut key = Vec::with_capacity(KEY_LEN);
    key.extend_from_slice(&CURVE_P384.to_le_bytes());
    for coordinate in [x, y] {
        key.extend(coordinate.iter().rev());
        key.extend_from_slice(&[0; NUMBER_LEN - 48]);
    }
    key.resize(KEY_LEN, 0);
    sha384(&key)
}

fn verify(
    field: &'static str,
    message: &[u8],
    signature: &[u8],
    key: &[u8],
) -> Result<(), IdBlockError> {
    expect("CURVE", word("CURVE", key, 0)?, CURVE_P384)?;
    let mut point = alloc::vec![4];
    point.extend(pair("QX and QY", key.get(4..).unwrap_or_default())?);
    let key = UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, point);
    let signature = pair(field, signature)?;
    key.verify(message, &signature)
        .map_err(|_| IdBlockError::Signature { field })
}

/// Two numbers of 384 bits, big-endian; everything after them is zero.
fn pair(field: &'static str, bytes: &[u8]) -> Result<Vec<u8>, IdBlockError> {
    let mut numbers = Vec::with_capacity(96);
    for offset in [0, NUMBER_LEN] {
        numbers.extend(range(field, bytes, offset, 48)?.iter().rev());
    }
    let padding = bytes.iter().enumerate().filter(|(index, _)| {
        let in_number = index.checked_rem(NUMBER_LEN).is_some_and(|at| at < 48);
        *index >= 2 * NUMBER_LEN || !in_number
    });
    if padding.into_iter().any(|(_, byte)| *byte != 0) {
        return Err(IdBlockError::NotZero { field });
    }
    Ok(numbers)
}

fn range<'a>(
    field: &'static str,
    bytes: &'a [u8],
    offset: usize,
    length: usize,
) -> Result<&'a [u8], IdBlockError> {
    let found = bytes.get(offset..).and_then(|rest| rest.get(..length));
    found.ok_or(IdBlockError::Truncated { field })
}

fn word(field: &'static str, bytes: &[u8], offset: usize) -> Result<u32, IdBlockError> {
    let found = bytes.get(offset..).and_then(<[u8]>::first_chunk);
    let found = found.ok_or(IdBlockError::Truncated { field })?;
    Ok(u32::from_le_bytes(*found))
}

const fn expect(field: &'static str, got: u32, expected: u32) -> Result<(), IdBlockError> {
    if got != expected {
        return Err(IdBlockError::Unexpected {
            field,
            expected,
            got,
        });
    }
    Ok(())
}
