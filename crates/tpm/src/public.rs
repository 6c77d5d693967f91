//! `TPMT_PUBLIC`: the public area of a key, and the name the TPM gives it.

use crate::{
    constants::{alg, curve},
    reader::{Malformed, Reader},
};
use alloc::{string::String, vec::Vec};
use aws_lc_rs::digest;
use core::fmt;

/// The longest RSA modulus accepted, in bytes (4096 bits).
const MAX_MODULUS: usize = 512;
/// The longest coordinate accepted, in bytes (P-384).
const MAX_COORDINATE: usize = 48;
/// The longest `authPolicy`: a SHA-512 digest.
const MAX_POLICY: usize = 64;
/// The exponent that a TPM encodes as zero (Part 2, section 12.2.3.5).
const DEFAULT_EXPONENT: u32 = 65537;

/// A key that is well-formed but not the kind of key it must be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The public area does not parse.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// One property of the public area is not as required.
    #[error("{key} public area: {property}: expected {expected}, got {got}")]
    Refused {
        /// `EK` or `AK`.
        key: &'static str,
        /// The property, in the specification's word.
        property: &'static str,
        /// What it must be.
        expected: String,
        /// What it is.
        got: String,
    },
}

/// A curve this crate can verify on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Curve {
    /// NIST P-256.
    P256,
    /// NIST P-384.
    P384,
}

impl Curve {
    /// Bytes of one coordinate.
    #[must_use]
    pub const fn coordinate_len(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
        }
    }
}

/// What a key signs or encrypts with, as its public area fixes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scheme {
    /// `TPM_ALG_ID` of the scheme, `TPM_ALG_NULL` for none.
    pub algorithm: u16,
    /// `TPM_ALG_ID` of its hash, `TPM_ALG_NULL` for none.
    pub hash: u16,
}

impl Scheme {
    /// No scheme.
    pub const NULL: Self = Self {
        algorithm: alg::NULL,
        hash: alg::NULL,
    };
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#06x}/{:#06x}", self.algorithm, self.hash)
    }
}

/// The public numbers of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublicKey {
    /// An RSA key.
    Rsa {
        /// Big-endian modulus, exactly as long as the key.
        modulus: Vec<u8>,
        /// Public exponent; the TPM's zero is read as 65537.
        exponent: u32,
    },
    /// A point on a curve; not yet checked to be on it.
    Ecc {
        /// The curve.
        curve: Curve,
        /// Uncompressed SEC 1 point, `04 || x || y`, coordinates padded to the curve's size.
        point: Vec<u8>,
    },
}

/// The name of an object: its name algorithm and the digest of its public area (Part 1,
/// section 16). Only SHA-256 names exist here.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name([u8; 34]);

impl Name {
    /// `nameAlg || H(public area)`, as the TPM computes and compares it.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 34] {
        &self.0
    }

    /// The digest alone: SHA-256 of the `TPMT_PUBLIC`.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let mut digest = [0; 32];
        let (_, hash) = self.0.split_at(2);
        digest.copy_from_slice(hash);
        digest
    }

    pub(crate) fn of_public(public: &[u8]) -> Self {
        let mut name = [0; 34];
        let (algorithm, hash) = name.split_at_mut(2);
        algorithm.copy_from_slice(&alg::SHA256.to_be_bytes());
        hash.copy_from_slice(digest::digest(&digest::SHA256, public).as_ref());
        Self(name)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Name(")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str(")")
    }
}

/// A parsed `TPMT_PUBLIC` of an RSA or ECC key with SHA-256 as its name algorithm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Public {
    /// `objectAttributes`.
    pub attributes: u32,
    /// `authPolicy`.
    pub policy: Vec<u8>,
    /// `symmetric`: algorithm, key bits, mode; `None` for `TPM_ALG_NULL`.
    pub symmetric: Option<(u16, u16, u16)>,
    /// `scheme`.
    pub scheme: Scheme,
    /// The key itself.
    pub key: PublicKey,
    name: Name,
}

impl Public {
    /// Parses a whole `TPMT_PUBLIC` (Part 2, section 12.2.4).
    ///
    /// # Errors
    /// If the bytes are anything else than one RSA or ECC public area named with SHA-256.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new("TPMT_PUBLIC", bytes);
        let kind = reader.u16("type")?;
        let at_name = reader.malformed("nameAlg");
        if reader.u16("nameAlg")? != alg::SHA256 {
            return Err(at_name);
        }
        let attributes = reader.u32("objectAttributes")?;
        let policy = reader.sized("authPolicy", MAX_POLICY)?.to_vec();
        let symmetric = parse_symmetric(&mut reader)?;
        let scheme = parse_scheme(&mut reader)?;
        let key = match kind {
            alg::RSA => parse_rsa(&mut reader)?,
            alg::ECC => parse_ecc(&mut reader)?,
            _ => return Err(Reader::new("TPMT_PUBLIC", bytes).malformed("type")),
        };
        reader.finish()?;
        Ok(Self {
            attributes,
            policy,
            symmetric,
            scheme,
            key,
            name: Name::of_public(bytes),
        })
    }

    /// The key's name, computed over the bytes that were parsed.
    #[must_use]
    pub const fn name(&self) -> &Name {
        &self.name
    }
}

fn parse_symmetric(reader: &mut Reader<'_>) -> Result<Option<(u16, u16, u16)>, Malformed> {
    let algorithm = reader.u16("symmetric.algorithm")?;
    if algorithm == alg::NULL {
        return Ok(None);
    }
    Ok(Some((
        algorithm,
        reader.u16("symmetric.keyBits")?,
        reader.u16("symmetric.mode")?,
    )))
}

fn parse_scheme(reader: &mut Reader<'_>) -> Result<Scheme, Malformed> {
    let malformed = reader.malformed("scheme");
    let algorithm = reader.u16("scheme")?;
    let hash = match algorithm {
        alg::NULL | alg::RSAES => alg::NULL,
        alg::RSASSA | alg::RSAPSS | alg::OAEP | alg::ECDSA => reader.u16("scheme.hashAlg")?,
        _ => return Err(malformed),
    };
    Ok(Scheme { algorithm, hash })
}

fn parse_rsa(reader: &mut Reader<'_>) -> Result<PublicKey, Malformed> {
    let bits = usize::from(reader.u16("keyBits")?);
    let exponent = match reader.u32("exponent")? {
        0 => DEFAULT_EXPONENT,
        exponent => exponent,
    };
    let malformed = reader.malformed("unique.rsa");
    let modulus = reader.sized("unique.rsa", MAX_MODULUS)?;
    // The top bit tells a full-size modulus from a padded smaller one.
    let full_size = modulus.first().is_some_and(|byte| byte & 0x80 != 0);
    if modulus.len().checked_mul(8) != Some(bits) || !full_size {
        return Err(malformed);
    }
    Ok(PublicKey::Rsa {
        modulus: modulus.to_vec(),
        exponent,
    })
}

fn parse_ecc(reader: &mut Reader<'_>) -> Result<PublicKey, Malformed> {
    let malformed = reader.malformed("curveID");
    let curve = match reader.u16("curveID")? {
        curve::P256 => Curve::P256,
        curve::P384 => Curve::P384,
        _ => return Err(malformed),
    };
    let malformed = reader.malformed("kdf");
    if reader.u16("kdf")? != alg::NULL {
        return Err(malformed);
    }
    let mut point = alloc::vec![4];
    push_padded(&mut point, reader, "unique.ecc.x", curve.coordinate_len())?;
    push_padded(&mut point, reader, "unique.ecc.y", curve.coordinate_len())?;
    Ok(PublicKey::Ecc { curve, point })
}

/// Appends the next `TPM2B` number, padded on the left to `len`: a TPM may drop leading zeros.
pub(crate) fn push_padded(
    out: &mut Vec<u8>,
    reader: &mut Reader<'_>,
    field: &'static str,
    len: usize,
) -> Result<(), Malformed> {
    let malformed = reader.malformed(field);
    let number = reader.sized(field, MAX_COORDINATE)?;
    let padding = len.checked_sub(number.len()).ok_or(malformed)?;
    out.resize(out.len().saturating_add(padding), 0);
    out.extend_from_slice(number);
    Ok(())
}
