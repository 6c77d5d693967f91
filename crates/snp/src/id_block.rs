//! ID block and ID authentication information: what the guest's owner signed, and the firmware
//! checked at launch (AMD 56860, `SNP_LAUNCH_FINISH`, tables of the two structures).
//!
//! A report then names the keys by their digests: with an author key whose key is offline, new
//! images need no new reference values.

use crate::{
    EcdsaError, Signature,
    bytes::Raw,
    signature::{PUBLIC_KEY_LEN, SIGNATURE_LEN, parse_public_key},
};
use aws_lc_rs::digest::{SHA384, digest};

/// Length of an ID block.
pub const ID_BLOCK_LEN: usize = 96;
/// Length of ID authentication information: one page.
pub const ID_AUTHENTICATION_LEN: usize = 4096;

/// Offsets of an ID block's fields.
const LAUNCH_DIGEST: usize = 0x00;
const FAMILY_ID: usize = 0x30;
const IMAGE_ID: usize = 0x40;
const VERSION: usize = 0x50;
const GUEST_SVN: usize = 0x54;
const POLICY: usize = 0x58;
/// The only version of an ID block.
const KNOWN_VERSION: u32 = 1;
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
    /// A key did not sign what it has to have signed.
    #[error("signature is not by the {0}")]
    Signature(&'static str),
    /// The version is unknown.
    #[error("version of the ID block is {0}, not {KNOWN_VERSION}")]
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
    raw: Raw<'a, ID_BLOCK_LEN>,
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
        let raw = Raw::new(bytes).ok_or(length)?;
        let version = raw.u32::<VERSION>();
        if version != KNOWN_VERSION {
            return Err(IdBlockError::Version(version));
        }
        Ok(Self {
            launch_digest: raw.array::<LAUNCH_DIGEST, _>(),
            family_id: raw.array::<FAMILY_ID, _>(),
            image_id: raw.array::<IMAGE_ID, _>(),
            guest_svn: raw.u32::<GUEST_SVN>(),
            policy: raw.u64::<POLICY>(),
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

type RawAuthentication<'a> = Raw<'a, ID_AUTHENTICATION_LEN>;

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

impl<'a> Author<'a> {
    fn parse(raw: RawAuthentication<'a>) -> Result<Option<Self>, IdBlockError> {
        let key = raw.array::<AUTHOR_KEY, PUBLIC_KEY_LEN>();
        if *key == [0; PUBLIC_KEY_LEN] {
            return Ok(None);
        }
        check_algorithm("author key", raw.u32::<AUTH_KEY_ALGO>())?;
        let key_signature = raw.array::<ID_KEY_SIG, SIGNATURE_LEN>();
        Ok(Some(Self {
            key,
            key_signature: parse_signature("signature of the ID key", key_signature)?,
        }))
    }
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
        let raw: RawAuthentication<'_> = Raw::new(bytes).ok_or(length)?;
        check_reserved(raw)?;
        check_algorithm("ID key", raw.u32::<ID_KEY_ALGO>())?;
        let block_signature = raw.array::<ID_BLOCK_SIG, SIGNATURE_LEN>();
        Ok(Self {
            id_key: raw.array::<ID_KEY, _>(),
            block_signature: parse_signature("signature of the ID block", block_signature)?,
            author: Author::parse(raw)?,
        })
    }

    /// Verifies that the ID key signed the block and, if there is an author key, that it signed the
    /// ID key: what the firmware checks at launch.
    ///
    /// # Errors
    /// The first key or signature that is wrong.
    pub fn verify(&self, block: &IdBlock<'_>) -> Result<IdKeys, IdBlockError> {
        check_signature("ID key", self.id_key, &self.block_signature, block.raw.0)?;
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
    Err(IdBlockError::Signature(name))
}

fn parse_signature(
    field: &'static str,
    bytes: &[u8; SIGNATURE_LEN],
) -> Result<Signature, IdBlockError> {
    Signature::parse(bytes).map_err(|source| IdBlockError::Ecdsa { field, source })
}

fn check_algorithm(key: &'static str, got: u32) -> Result<(), IdBlockError> {
    if got == ALGORITHM {
        return Ok(());
    }
    Err(IdBlockError::Algorithm { key, got })
}

fn check_reserved(raw: RawAuthentication<'_>) -> Result<(), IdBlockError> {
    let used = raw.first_used(&[
        (RESERVED_08, ID_BLOCK_SIG),
        (RESERVED_644, ID_KEY_SIG),
        (RESERVED_C84, ID_AUTHENTICATION_LEN),
    ]);
    used.map_or(Ok(()), |start| Err(IdBlockError::Reserved(start)))
}
