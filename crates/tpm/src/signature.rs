//! `TPMT_SIGNATURE`: RSASSA, RSAPSS and ECDSA with SHA-256.

use crate::{
    ak::SigningKey,
    constants::alg,
    public::{Curve, PublicKey},
    quote::QuoteError,
    reader::{Malformed, Reader},
};
use alloc::vec::Vec;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA256_ASN1, RSA_PKCS1_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};

/// The longest RSA signature, in bytes (4096 bits).
const MAX_RSA: usize = 512;
/// The longest ECDSA number, in bytes (P-384).
const MAX_ECDSA: usize = 48;

/// A parsed `TPMT_SIGNATURE`; says nothing until verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signature<'a> {
    /// ECDSA with SHA-256, big-endian numbers.
    Ecdsa {
        /// `signatureR`.
        r: &'a [u8],
        /// `signatureS`.
        s: &'a [u8],
    },
    /// RSASSA-PSS with SHA-256.
    RsaPss(&'a [u8]),
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    RsaSsa(&'a [u8]),
}

impl<'a> Signature<'a> {
    /// Parses a whole `TPMT_SIGNATURE` (Part 2, section 11.3.4).
    ///
    /// # Errors
    /// If the bytes are anything else than one RSASSA, RSAPSS or ECDSA signature with SHA-256.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new("TPMT_SIGNATURE", bytes);
        let at_algorithm = reader.malformed("sigAlg");
        let algorithm = reader.u16("sigAlg")?;
        let at_hash = reader.malformed("hash");
        if reader.u16("hash")? != alg::SHA256 {
            return Err(at_hash);
        }
        let signature = match algorithm {
            alg::ECDSA => Self::Ecdsa {
                r: reader.sized("signatureR", MAX_ECDSA)?,
                s: reader.sized("signatureS", MAX_ECDSA)?,
            },
            alg::RSAPSS => Self::RsaPss(reader.sized("sig", MAX_RSA)?),
            alg::RSASSA => Self::RsaSsa(reader.sized("sig", MAX_RSA)?),
            _ => return Err(at_algorithm),
        };
        reader.finish()?;
        Ok(signature)
    }

    const fn algorithm(&self) -> u16 {
        match self {
            Self::Ecdsa { .. } => alg::ECDSA,
            Self::RsaPss(_) => alg::RSAPSS,
            Self::RsaSsa(_) => alg::RSASSA,
        }
    }

    /// Verifies the signature over `message` with the scheme that the *key* fixes.
    pub(crate) fn verify(&self, by: &SigningKey, message: &[u8]) -> Result<(), QuoteError> {
        if self.algorithm() != by.scheme.algorithm {
            return Err(QuoteError::Scheme {
                expected: by.scheme.algorithm,
                got: self.algorithm(),
            });
        }
        let verified = match (self, &by.key) {
            (Self::RsaSsa(sig), PublicKey::Rsa { modulus, exponent }) => {
                rsa(modulus, *exponent).verify(&RSA_PKCS1_2048_8192_SHA256, message, sig)
            }
            (Self::RsaPss(sig), PublicKey::Rsa { modulus, exponent }) => {
                rsa(modulus, *exponent).verify(&RSA_PSS_2048_8192_SHA256, message, sig)
            }
            (Self::Ecdsa { r, s }, PublicKey::Ecc { curve, point }) => {
                let algorithm = match curve {
                    Curve::P256 => &ECDSA_P256_SHA256_ASN1,
                    Curve::P384 => &ECDSA_P384_SHA256_ASN1,
                };
                UnparsedPublicKey::new(algorithm, point).verify(message, &ecdsa_der(r, s))
            }
            _ => Err(aws_lc_rs::error::Unspecified),
        };
        verified.map_err(|_| QuoteError::BadSignature)
    }
}

/// An RSA key as aws-lc-rs takes it: numbers without leading zeros.
pub(crate) fn rsa(modulus: &[u8], exponent: u32) -> RsaPublicKeyComponents<Vec<u8>> {
    let exponent = exponent.to_be_bytes();
    let significant = exponent.iter().skip_while(|byte| **byte == 0);
    RsaPublicKeyComponents {
        n: modulus.to_vec(),
        e: significant.copied().collect(),
    }
}

/// `SEQUENCE { INTEGER r, INTEGER s }`; with at most 48 bytes each, every length fits one byte.
fn ecdsa_der(r: &[u8], s: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    push_integer(&mut body, r);
    push_integer(&mut body, s);
    let mut der = alloc::vec![0x30, one_byte(body.len())];
    der.append(&mut body);
    der
}

fn push_integer(out: &mut Vec<u8>, number: &[u8]) {
    let mut digits: Vec<u8> = number.iter().copied().skip_while(|b| *b == 0).collect();
    // DER integers are signed and have at least one byte.
    if digits.first().is_none_or(|byte| byte & 0x80 != 0) {
        digits.insert(0, 0);
    }
    out.extend_from_slice(&[0x02, one_byte(digits.len())]);
    out.append(&mut digits);
}

fn one_byte(len: usize) -> u8 {
    u8::try_from(len).unwrap_or(u8::MAX)
}
