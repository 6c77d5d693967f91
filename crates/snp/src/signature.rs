//! ECDSA P-384 signatures and public keys as the firmware writes them: little-endian numbers in
//! 72-byte fields (AMD 56860, tables of the ECDSA P-384 with SHA-384 signature and public key).

use crate::bytes::{array, is_zero, u32_at};
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED, ParsedPublicKey};

/// Length of a signature field: R, S and reserved bytes.
pub const SIGNATURE_LEN: usize = 512;
/// Length of a public key field: curve, X, Y and reserved bytes.
pub const PUBLIC_KEY_LEN: usize = 0x404;
/// Length of one number, in a signature as in a public key.
pub const NUMBER_LEN: usize = 72;
/// `CURVE` of a public key: P-384.
pub const CURVE_P384: u32 = 2;

/// Length of a number of P-384.
const LEN: usize = 48;
/// The order of P-384 (FIPS 186-5, SP 800-186, section 3.2.1.4), big-endian.
const ORDER: [u8; LEN] = [
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xc7, 0x63, 0x4d, 0x81, 0xf4, 0x37, 0x2d, 0xdf,
    0x58, 0x1a, 0x0d, 0xb2, 0x48, 0xb0, 0xa7, 0x7a, 0xec, 0xec, 0x19, 0x6a, 0xcc, 0xc5, 0x29, 0x73,
];

/// Why a signature or public key field is malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EcdsaError {
    /// The public key is of another curve.
    #[error("public key is of curve {0}, not of P-384 ({CURVE_P384})")]
    Curve(u32),
    /// The field has another length.
    #[error("{0} bytes are not an ECDSA field")]
    Length(usize),
    /// The point is not one of the curve.
    #[error("public key is not a point of P-384")]
    Point,
    /// R or S is zero, or not below the order of the curve.
    #[error("{0} of the signature is out of range")]
    Range(&'static str),
    /// Bytes that must be zero are not.
    #[error("reserved bytes at {0:#x} of an ECDSA field are not zero")]
    Reserved(usize),
}

/// A signature whose numbers are in range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signature {
    /// R and S, big-endian, one after the other (as IEEE P1363 has it).
    numbers: [u8; 2 * LEN],
}

impl Signature {
    /// Parses a signature field of [`SIGNATURE_LEN`] bytes.
    ///
    /// # Errors
    /// Another length, R or S zero or not below the order, a reserved byte that is not zero.
    pub fn parse(field: &[u8]) -> Result<Self, EcdsaError> {
        check_length(field, SIGNATURE_LEN)?;
        let mut numbers = [0; 2 * LEN];
        let (r, s) = numbers.split_at_mut(LEN);
        r.copy_from_slice(&scalar(field, 0, "R")?);
        s.copy_from_slice(&scalar(field, NUMBER_LEN, "S")?);
        check_zero(field, 2 * NUMBER_LEN, SIGNATURE_LEN)?;
        Ok(Self { numbers })
    }

    /// R and S, 48 bytes each, big-endian.
    #[must_use]
    pub fn numbers(&self) -> &[u8; 2 * LEN] {
        &self.numbers
    }

    /// Whether `key` signed `message`.
    pub(crate) fn is_of(&self, message: &[u8], key: &ParsedPublicKey) -> bool {
        key.verify_sig(message, &self.numbers).is_ok()
    }
}

/// Parses a public key field of [`PUBLIC_KEY_LEN`] bytes.
pub(crate) fn parse_public_key(field: &[u8]) -> Result<ParsedPublicKey, EcdsaError> {
    check_length(field, PUBLIC_KEY_LEN)?;
    let curve = u32_at(field, 0).unwrap_or_default();
    if curve != CURVE_P384 {
        return Err(EcdsaError::Curve(curve));
    }
    const X: usize = 4;
    const Y: usize = X + NUMBER_LEN;
    // SEC 1, section 2.3.4: 4 for an uncompressed point.
    let mut point = [4; 1 + 2 * LEN];
    let (x, y) = point.split_at_mut(1 + LEN);
    if let Some(x) = x.last_chunk_mut() {
        *x = number(field, X)?;
    }
    y.copy_from_slice(&number(field, Y)?);
    check_zero(field, Y + NUMBER_LEN, PUBLIC_KEY_LEN)?;
    p384_key(&point).ok_or(EcdsaError::Point)
}

/// The key of an uncompressed point; `None` if it is not one of P-384.
pub(crate) fn p384_key(point: &[u8]) -> Option<ParsedPublicKey> {
    if point.len() != 1 + 2 * LEN {
        return None;
    }
    ParsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, point).ok()
}

/// A number from 1 to the order less one.
fn scalar(field: &[u8], offset: usize, name: &'static str) -> Result<[u8; LEN], EcdsaError> {
    let number = number(field, offset)?;
    if number == [0; LEN] || number >= ORDER {
        return Err(EcdsaError::Range(name));
    }
    Ok(number)
}

/// A number of at most 384 bits, big-endian.
fn number(field: &[u8], offset: usize) -> Result<[u8; LEN], EcdsaError> {
    let mut number: [u8; LEN] = *array(field, offset).ok_or(EcdsaError::Length(field.len()))?;
    number.reverse();
    let (start, end) = (
        offset.saturating_add(LEN),
        offset.saturating_add(NUMBER_LEN),
    );
    check_zero(field, start, end)?;
    Ok(number)
}

fn check_length(field: &[u8], expected: usize) -> Result<(), EcdsaError> {
    if field.len() == expected {
        return Ok(());
    }
    Err(EcdsaError::Length(field.len()))
}

fn check_zero(field: &[u8], start: usize, end: usize) -> Result<(), EcdsaError> {
    if is_zero(field, start, end) {
        return Ok(());
    }
    Err(EcdsaError::Reserved(start))
}
