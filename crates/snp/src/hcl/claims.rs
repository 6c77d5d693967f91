//! The claims of the paravisor: a set of JSON web keys (RFC 7517) and the VM's configuration.

use alloc::{string::String, vec::Vec};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;

/// Name of the vTPM's attestation key among the claims' keys.
const ATTESTATION_KEY: &str = "HCLAkPub";
/// Lengths of an RSA modulus accepted, in bytes: 2048 to 4096 bits.
const MODULUS_LENGTHS: core::ops::RangeInclusive<usize> = 256..=512;

/// Why claims are not what they must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClaimsError {
    /// The attestation key is not an RSA key of 2048 to 4096 bits in base64url.
    #[error("`{ATTESTATION_KEY}` is not an RSA key of 2048 to 4096 bits")]
    Key,
    /// They are not JSON of a set of keys.
    #[error("not JSON of a set of keys")]
    Malformed,
    /// There is not exactly one attestation key.
    #[error("{0} keys are named `{ATTESTATION_KEY}`, not one")]
    NotOneKey(usize),
}

/// What the paravisor claims, and the hardware vouches for that it does.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[must_use]
pub struct RuntimeClaims {
    /// The vTPM's attestation key.
    pub attestation_key: RsaKey,
}

/// An RSA public key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RsaKey {
    /// The modulus, big-endian, no zeros before it.
    pub modulus: Vec<u8>,
    /// The exponent.
    pub exponent: u32,
}

/// More fields may come: they are the paravisor's to add, and nothing here relies on them.
#[derive(Deserialize)]
struct Json {
    keys: Vec<JsonWebKey>,
}

#[derive(Deserialize)]
struct JsonWebKey {
    kid: String,
    kty: String,
    n: Option<String>,
    e: Option<String>,
}

impl RuntimeClaims {
    /// Parses claims whose length is bounded by that of the report they are in.
    pub(super) fn parse(json: &[u8]) -> Result<Self, ClaimsError> {
        let json: Json = serde_json::from_slice(json).map_err(|_| ClaimsError::Malformed)?;
        let mut keys = json.keys;
        keys.retain(|key| key.kid == ATTESTATION_KEY);
        let [key] = keys.as_slice() else {
            return Err(ClaimsError::NotOneKey(keys.len()));
        };
        Ok(Self {
            attestation_key: RsaKey::parse(key).ok_or(ClaimsError::Key)?,
        })
    }
}

impl RsaKey {
    fn parse(key: &JsonWebKey) -> Option<Self> {
        let modulus = number(key.n.as_deref()?)?;
        let exponent = number(key.e.as_deref()?)?;
        if key.kty != "RSA" || !MODULUS_LENGTHS.contains(&modulus.len()) || exponent.len() > 4 {
            return None;
        }
        let shift = |value: u32, byte: &u8| (value << 8) | u32::from(*byte);
        Some(Self {
            exponent: exponent.iter().fold(0, shift),
            modulus,
        })
    }
}

/// A `Base64urlUInt` (RFC 7518, section 2): big-endian, in as few bytes as it takes.
fn number(text: &str) -> Option<Vec<u8>> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    (bytes.first()? != &0).then_some(bytes)
}
