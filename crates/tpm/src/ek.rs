//! Endorsement keys: the two default templates of the TCG EK Credential Profile.

use crate::{
    constants::{alg, attribute, curve},
    credential::push_sized,
    public::{Curve, KeyError, Name, Public, PublicKey, Scheme},
};
use alloc::{format, string::String, vec::Vec};

/// `PolicyA_SHA256`, `TPM2_PolicySecret(TPM_RH_ENDORSEMENT)` (EK Credential Profile 2.5, B.6.2).
const POLICY_A: [u8; 32] = [
    0x83, 0x71, 0x97, 0x67, 0x44, 0x84, 0xb3, 0xf8, 0x1a, 0x90, 0xcc, 0x8d, 0x46, 0xa5, 0xd7, 0x24,
    0xfd, 0x52, 0xd7, 0x6e, 0x06, 0x52, 0x0b, 0x64, 0xf2, 0xa1, 0xda, 0x1b, 0x33, 0x14, 0x69, 0xaa,
];

/// `objectAttributes` of both templates (EK Credential Profile 2.5, B.3.3 and B.3.4).
const ATTRIBUTES: u32 = attribute::FIXED_TPM
    | attribute::FIXED_PARENT
    | attribute::SENSITIVE_DATA_ORIGIN
    | attribute::ADMIN_WITH_POLICY
    | attribute::RESTRICTED
    | attribute::DECRYPT;

/// Symmetric part of both templates: AES-128-CFB.
const SYMMETRIC: (u16, u16, u16) = (alg::AES, 128, alg::CFB);
const RSA_BITS: u16 = 2048;
const RSA_BYTES: usize = 256;
const P256_BYTES: usize = 32;

/// Which of the two default templates an endorsement key was made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EkKind {
    /// Template L-2: ECC NIST P-256.
    EccP256,
    /// Template L-1: RSA 2048.
    Rsa2048,
}

impl EkKind {
    /// The template as a `TPMT_PUBLIC`, with the zero-filled `unique` that the profile prescribes:
    /// what `TPM2_CreatePrimary` must be asked for to get the endorsement key again.
    #[must_use]
    pub fn template(self) -> Vec<u8> {
        let mut out = self.parameters();
        match self {
            Self::Rsa2048 => push_sized(&mut out, &[0; RSA_BYTES]),
            Self::EccP256 => {
                push_sized(&mut out, &[0; P256_BYTES]);
                push_sized(&mut out, &[0; P256_BYTES]);
            }
        }
        out
    }

    /// The template up to `unique`.
    fn parameters(self) -> Vec<u8> {
        let kind = match self {
            Self::Rsa2048 => alg::RSA,
            Self::EccP256 => alg::ECC,
        };
        let mut out = Vec::new();
        out.extend_from_slice(&kind.to_be_bytes());
        out.extend_from_slice(&alg::SHA256.to_be_bytes());
        out.extend_from_slice(&ATTRIBUTES.to_be_bytes());
        push_sized(&mut out, &POLICY_A);
        for word in [SYMMETRIC.0, SYMMETRIC.1, SYMMETRIC.2, alg::NULL] {
            out.extend_from_slice(&word.to_be_bytes());
        }
        match self {
            Self::Rsa2048 => {
                out.extend_from_slice(&RSA_BITS.to_be_bytes());
                out.extend_from_slice(&0_u32.to_be_bytes());
            }
            Self::EccP256 => {
                out.extend_from_slice(&curve::P256.to_be_bytes());
                out.extend_from_slice(&alg::NULL.to_be_bytes());
            }
        }
        out
    }
}

/// An endorsement key whose every parameter is a default template's; only its public number is
/// the peer's. That it belongs to a TPM at all is what its certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndorsementKey {
    kind: EkKind,
    key: PublicKey,
    name: Name,
}

impl EndorsementKey {
    /// Parses a `TPMT_PUBLIC` and compares it with the templates.
    ///
    /// # Errors
    /// If it does not parse or if any parameter differs from template L-1 (RSA) or L-2 (ECC).
    pub fn parse(bytes: &[u8]) -> Result<Self, KeyError> {
        let public = Public::parse(bytes)?;
        let kind = match &public.key {
            PublicKey::Rsa { modulus, exponent } => {
                require("keyBits", &2048, &modulus.len().saturating_mul(8))?;
                require("exponent", &65537, exponent)?;
                EkKind::Rsa2048
            }
            PublicKey::Ecc { curve, .. } => {
                require("curveID", &Curve::P256, curve)?;
                EkKind::EccP256
            }
        };
        require("objectAttributes", &ATTRIBUTES, &public.attributes)?;
        require(
            "authPolicy",
            &POLICY_A.as_slice(),
            &public.policy.as_slice(),
        )?;
        require("symmetric", &Some(SYMMETRIC), &public.symmetric)?;
        require("scheme", &Scheme::NULL, &public.scheme)?;
        Ok(Self {
            kind,
            name: canonical_name(kind, &public.key),
            key: public.key,
        })
    }

    /// The template.
    #[must_use]
    pub const fn kind(&self) -> EkKind {
        self.kind
    }

    /// The key's name; its SHA-256 is the attester's identity. It is the name of the template's own
    /// encoding: a peer that writes the same key in another way (the exponent 65537 as itself, a
    /// coordinate without its leading zeros) gets no second identity.
    #[must_use]
    pub const fn name(&self) -> &Name {
        &self.name
    }

    /// The key itself.
    #[must_use]
    pub const fn key(&self) -> &PublicKey {
        &self.key
    }
}

fn canonical_name(kind: EkKind, key: &PublicKey) -> Name {
    let mut public = kind.parameters();
    match key {
        PublicKey::Rsa { modulus, .. } => push_sized(&mut public, modulus),
        PublicKey::Ecc { point, .. } => {
            let coordinates = point.get(1..).unwrap_or_default();
            for coordinate in coordinates.chunks(P256_BYTES) {
                push_sized(&mut public, coordinate);
            }
        }
    }
    Name::of_public(&public)
}

fn require<T: PartialEq + core::fmt::Debug>(
    property: &'static str,
    expected: &T,
    got: &T,
) -> Result<(), KeyError> {
    if expected == got {
        return Ok(());
    }
    Err(KeyError::Refused {
        key: "EK",
        property,
        expected: text(expected),
        got: text(got),
    })
}

fn text<T: core::fmt::Debug>(value: &T) -> String {
    format!("{value:x?}")
}
