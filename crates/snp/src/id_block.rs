//! ID block and ID authentication information: what the guest's owner signed, and the firmware
//! checked at launch (AMD 56860, `SNP_LAUNCH_FINISH`, tables of the two structures).
//!
//! A report then names the keys by their digests: with an author key whose key is offline, new
//! images need no new reference values.

use crate::{
    EcdsaError, Signature,
    bytes::{array, is_zero, u32_at, u64_at},
    signature::{PUBLIC_KEY_LEN, SIGNATURE_LEN, parse_public_key},
};
use aws_lc_rs::digest::{SHA384, digest};

/// Length of an ID block.
pub const ID_BLOCK_LEN: usize = 96;
/// Length of ID authentication information: one page.
pub const ID_AUTHENTICATION_LEN: usize = 4096;

/// `VERSION` of an ID block.
const VERSION: u32 = 1;
/// `ID_KEY_ALGO` and `AUTH_KEY_ALGO`: ECDSA over P-384 with SHA-384.
const ALGORITHM: u32 = 1;
/// Offsets of the authentication information's fields.
const ID_KEY_ALGO: usize = 0x00;
const AUTH_KEY_ALGO: usize = 0x04;
const RESERVED_08: usize = 0x08;
const ID_BLOCK_SIG: usize = 0x40;
const ID_KEY: usize = 0x240;
const RESERVED_644: usize = 0x644;
const ID_KEY_SIG: usize = 0x680;
const AUTHOR_KEY: usize = 0x880;
const RESERVED_C84: usize = 0xc84;

/// Why an ID block is malformed or not signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdBlockError {
    /// A key's algorithm is not ECDSA over P-384 with SHA-384.
    #[error("algorithm of the {key} is {got}, not {ALGORITHM}")]
    Algorithm {
        /// Which key.
        key: &'static str,
        /// The algorithm.
        got: u32,
    },
    /// A key or a signature is malformed.
    #[error("{field}")]
    Ecdsa {
        /// Which field.
        field: &'static str,
        /// What is wrong.
        #[source]
        source: EcdsaError,
    },
    /// It has another length.
    #[error("{what} is {got} bytes long")]
    Length {
        /// Which structure.
        what: &'static str,
        /// Its length.
        got: usize,
    },
    /// Bytes that must be zero are not.
    #[error("reserved bytes at {0:#x} of the authentication information are not zero")]
    Reserved(usize),
    /// A signature is not by the key that it has to be by.
    #[error("{0} is not valid")]
    Signature(&'static str),
    /// The version is unknown.
    #[error("version of the ID block is {0}, not {VERSION}")]
    Version(u32),
}

/// An ID block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct IdBlock<'a> {
    /// The only launch measurement that it allows.
    pub launch_digest: &'a [u8; 48],
    /// `FAMILY_ID` of the guest's reports.
    pub family_id: &'a [u8; 16],
    /// `IMAGE_ID` of the guest's reports.
    pub image_id: &'a [u8; 16],
    /// `GUEST_SVN` of the guest's reports.
    pub guest_svn: u32,
    /// The only guest policy that it allows.
    pub policy: u64,
    raw: &'a [u8; ID_BLOCK_LEN],
}

impl<'a> IdBlock<'a> {
    /// Parses an ID block, nothing after it.
    ///
    /// # Errors
    /// Another length or version.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, IdBlockError> {
        let length = IdBlockError::Length {
            what: "ID block",
            got: bytes.len(),
        };
        let raw: &[u8; ID_BLOCK_LEN] = bytes.try_into().map_err(|_| length)?;
        let version = u32_at(raw, 0x50).ok_or(length)?;
        if version != VERSION {
            return Err(IdBlockError::Version(version));
        }
        Ok(Self {
            launch_digest: array(raw, 0x00).ok_or(length)?,
            family_id: array(raw, 0x30).ok_or(length)?,
            image_id: array(raw, 0x40).ok_or(length)?,
            guest_svn: u32_at(raw, 0x54).ok_or(length)?,
            policy: u64_at(raw, 0x58).ok_or(length)?,
            raw,
        })
    }
}

/// The keys that answer for a guest, as its reports name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct IdKeys {
    /// `ID_KEY_DIGEST`: SHA-384 of the key that signed the ID block.
    pub id_key_digest: [u8; 48],
    /// `AUTHOR_KEY_DIGEST`: SHA-384 of the key that signed the ID key, if one did.
    pub author_key_digest: Option<[u8; 48]>,
}

/// ID authentication information.
#[derive(Clone, Copy, Debug)]
pub struct IdAuthentication<'a> {
    id_key: &'a [u8; PUBLIC_KEY_LEN],
    block_signature: Signature,
    author: Option<Author<'a>>,
}

#[derive(Clone, Copy, Debug)]
struct Author<'a> {
    key: &'a [u8; PUBLIC_KEY_LEN],
    key_signature: Signature,
}

impl<'a> IdAuthentication<'a> {
    /// Parses authentication information, nothing after it. One whose author key is all zero has
    /// none.
    ///
    /// # Errors
    /// Another length, an unknown algorithm, reserved bytes in use, a signature out of range.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, IdBlockError> {
        let length = IdBlockError::Length {
            what: "authentication information",
            got: bytes.len(),
        };
        let raw: &[u8; ID_AUTHENTICATION_LEN] = bytes.try_into().map_err(|_| length)?;
        check_reserved(raw)?;
        check_algorithm("ID key", u32_at(raw, ID_KEY_ALGO).ok_or(length)?)?;
        let author_key: &[u8; PUBLIC_KEY_LEN] = array(raw, AUTHOR_KEY).ok_or(length)?;
        let author = if *author_key == [0; PUBLIC_KEY_LEN] {
            None
        } else {
            check_algorithm("author key", u32_at(raw, AUTH_KEY_ALGO).ok_or(length)?)?;
            Some(Author {
                key: author_key,
                key_signature: parse_signature("ID key's signature", raw, ID_KEY_SIG)?,
            })
        };
        Ok(Self {
            id_key: array(raw, ID_KEY).ok_or(length)?,
            block_signature: parse_signature("ID block's signature", raw, ID_BLOCK_SIG)?,
            author,
        })
    }

    /// Verifies that the ID key signed the block and, if there is an author key, that it signed the
    /// ID key: what the firmware checks at launch.
    ///
    /// # Errors
    /// The first key or signature that is wrong.
    pub fn verify(&self, block: &IdBlock<'_>) -> Result<IdKeys, IdBlockError> {
        check_signature("ID key", self.id_key, &self.block_signature, block.raw)?;
        if let Some(author) = &self.author {
            check_signature("author key", author.key, &author.key_signature, self.id_key)?;
        }
        Ok(IdKeys {
            id_key_digest: key_digest(self.id_key),
            author_key_digest: self.author.map(|author| key_digest(author.key)),
        })
    }
}

/// A report names a key by the SHA-384 of its whole field.
fn key_digest(key: &[u8; PUBLIC_KEY_LEN]) -> [u8; 48] {
    let mut sha384 = [0; 48];
    sha384.copy_from_slice(digest(&SHA384, key).as_ref());
    sha384
}

fn check_signature(
    name: &'static str,
    key: &[u8; PUBLIC_KEY_LEN],
    signature: &Signature,
    message: &[u8],
) -> Result<(), IdBlockError> {
    let key = parse_public_key(key).map_err(|source| IdBlockError::Ecdsa {
        field: name,
        source,
    })?;
    if signature.is_of(message, &key) {
        return Ok(());
    }
    Err(IdBlockError::Signature(match name {
        "ID key" => "signature of the ID block by the ID key",
        _ => "signature of the ID key by the author key",
    }))
}

fn parse_signature(
    field: &'static str,
    raw: &[u8; ID_AUTHENTICATION_LEN],
    offset: usize,
) -> Result<Signature, IdBlockError> {
    let bytes: &[u8; SIGNATURE_LEN] = array(raw, offset).unwrap_or(&[0; SIGNATURE_LEN]);
    Signature::parse(bytes).map_err(|source| IdBlockError::Ecdsa { field, source })
}

fn check_algorithm(key: &'static str, got: u32) -> Result<(), IdBlockError> {
    if got == ALGORITHM {
        return Ok(());
    }
    Err(IdBlockError::Algorithm { key, got })
}

fn check_reserved(raw: &[u8; ID_AUTHENTICATION_LEN]) -> Result<(), IdBlockError> {
    let reserved = [
        (RESERVED_08, ID_BLOCK_SIG),
        (RESERVED_644, ID_KEY_SIG),
        (RESERVED_C84, ID_AUTHENTICATION_LEN),
    ];
    match reserved
        .iter()
        .find(|(start, end)| !is_zero(raw, *start, *end))
    {
        Some((start, _)) => Err(IdBlockError::Reserved(*start)),
        None => Ok(()),
    }
}
