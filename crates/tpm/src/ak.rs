//! Attestation keys: restricted signing keys that cannot leave their TPM.

use crate::{
    constants::{alg, attribute, curve},
    credential::push_sized,
    ek::EkKind,
    public::{KeyError, Name, Public, PublicKey, Scheme},
    quote::{Quote, QuoteError},
    signature::Signature,
};
use alloc::{format, string::String, vec::Vec};

/// Bits that must be set: the key was made in this TPM, stays there, and signs only what the TPM itself
/// made.
const REQUIRED: u32 = attribute::FIXED_TPM
    | attribute::FIXED_PARENT
    | attribute::SENSITIVE_DATA_ORIGIN
    | attribute::RESTRICTED
    | attribute::SIGN;
/// Bits that say nothing about what the key signs.
const OPTIONAL: u32 = attribute::USER_WITH_AUTH | attribute::ADMIN_WITH_POLICY | attribute::NO_DA;
/// The smallest RSA modulus in bytes.
const MIN_RSA_BYTES: usize = 256;

/// A key that, *if* it lives in a TPM, signs only what that TPM made. That it does live in the TPM
/// of a given endorsement key is shown by credential activation, never by this type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttestationKey {
    signing: SigningKey,
    name: Name,
}

/// The public half of a key that signs quotes, and its one scheme.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SigningKey {
    pub(crate) key: PublicKey,
    pub(crate) scheme: Scheme,
}

impl SigningKey {
    /// An RSA key that signs with RSASSA and SHA-256, known from somewhere else than its public area.
    /// That it signs only what its TPM made is for whoever vouches for it.
    #[must_use]
    pub const fn rsassa(modulus: Vec<u8>, exponent: u32) -> Self {
        Self {
            key: PublicKey::Rsa { modulus, exponent },
            scheme: Scheme {
                algorithm: alg::RSASSA,
                hash: alg::SHA256,
            },
        }
    }

    /// Verifies `signature` over the bytes of `attestation` as received, then parses them.
    ///
    /// # Errors
    /// If the signature is malformed, of another scheme than the key's, or wrong; or if the signed
    /// bytes are not a quote that a TPM generated.
    pub fn verify<'a>(
        &self,
        attestation: &'a [u8],
        signature: &[u8],
    ) -> Result<Quote<'a>, QuoteError> {
        let signature = Signature::parse(signature)?;
        signature.verify(self, attestation)?;
        Quote::parse(attestation)
    }
}

impl AttestationKey {
    /// Parses a `TPMT_PUBLIC` and checks attributes and scheme.
    ///
    /// # Errors
    /// If it does not parse, is not restricted, fixed, TPM-made and sign-only, or has no signature
    /// scheme with SHA-256 of its own.
    pub fn parse(bytes: &[u8]) -> Result<Self, KeyError> {
        let public = Public::parse(bytes)?;
        if public.attributes & !OPTIONAL != REQUIRED {
            return Err(refused(
                "objectAttributes",
                format!("{REQUIRED:#010x} (optional {OPTIONAL:#010x})"),
                format!("{:#010x}", public.attributes),
            ));
        }
        if public.symmetric.is_some() {
            return Err(refused("symmetric", "none", "a symmetric algorithm"));
        }
        check_key(&public)?;
        Ok(Self {
            name: *public.name(),
            signing: SigningKey {
                key: public.key,
                scheme: public.scheme,
            },
        })
    }

    /// The `TPMT_PUBLIC` that `TPM2_CreatePrimary` makes an attestation key from: ECDSA P-256 or
    /// RSASSA 2048, like the endorsement key. A primary key is derived from the hierarchy's seed and
    /// the whole template, so another `unique` is another key; a random one is fresh for the boot.
    #[must_use]
    pub fn template(kind: EkKind, unique: &[u8; 32]) -> Vec<u8> {
        let (key, scheme) = match kind {
            EkKind::EccP256 => (alg::ECC, alg::ECDSA),
            EkKind::Rsa2048 => (alg::RSA, alg::RSASSA),
        };
        let attributes = REQUIRED | attribute::USER_WITH_AUTH | attribute::NO_DA;
        let mut out = Vec::new();
        out.extend_from_slice(&key.to_be_bytes());
        out.extend_from_slice(&alg::SHA256.to_be_bytes());
        out.extend_from_slice(&attributes.to_be_bytes());
        push_sized(&mut out, &[]);
        for word in [alg::NULL, scheme, alg::SHA256] {
            out.extend_from_slice(&word.to_be_bytes());
        }
        match kind {
            EkKind::EccP256 => {
                out.extend_from_slice(&curve::P256.to_be_bytes());
                out.extend_from_slice(&alg::NULL.to_be_bytes());
                push_sized(&mut out, unique);
                push_sized(&mut out, &[]);
            }
            EkKind::Rsa2048 => {
                out.extend_from_slice(&2048_u16.to_be_bytes());
                out.extend_from_slice(&0_u32.to_be_bytes());
                push_sized(&mut out, unique);
            }
        }
        out
    }

    /// The key's name, which a credential is made for.
    #[must_use]
    pub const fn name(&self) -> &Name {
        &self.name
    }

    /// The key, to verify with.
    #[must_use]
    pub const fn signing_key(&self) -> &SigningKey {
        &self.signing
    }
}

fn check_key(public: &Public) -> Result<(), KeyError> {
    let Scheme { algorithm, hash } = public.scheme;
    let fits = match &public.key {
        PublicKey::Rsa { modulus, .. } => {
            if modulus.len() < MIN_RSA_BYTES {
                let bits = format!("{}", modulus.len().saturating_mul(8));
                return Err(refused("keyBits", "at least 2048", bits));
            }
            matches!(algorithm, alg::RSASSA | alg::RSAPSS)
        }
        PublicKey::Ecc { .. } => algorithm == alg::ECDSA,
    };
    if fits && hash == alg::SHA256 {
        return Ok(());
    }
    Err(refused(
        "scheme",
        "RSASSA, RSAPSS or ECDSA with SHA-256",
        format!("{}", public.scheme),
    ))
}

fn refused(
    property: &'static str,
    expected: impl Into<String>,
    got: impl Into<String>,
) -> KeyError {
    KeyError::Refused {
        key: "AK",
        property,
        expected: expected.into(),
        got: got.into(),
    }
}
