//! What an appraisal proves.

use crate::document::parse_hex32;
use alloc::{string::String, vec::Vec};
use core::{fmt, str::FromStr};
use evidence::EvidenceKind;
use identity::Role;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use tpm::{ClockInfo, Name};

/// The machine behind an attestation: for a TPM, the SHA-256 of its endorsement key's TPM name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttesterIdentity([u8; 32]);

impl AttesterIdentity {
    /// The identity of the TPM whose endorsement key has this name.
    #[must_use]
    pub fn of_ek(name: &Name) -> Self {
        use aws_lc_rs::digest;
        let mut identity = [0; 32];
        identity.copy_from_slice(digest::digest(&digest::SHA256, name.as_bytes()).as_ref());
        Self(identity)
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for AttesterIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for AttesterIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AttesterIdentity({self})")
    }
}

/// A text that is no attester identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed attester identity: expected 64 lower-case hex digits")]
pub struct MalformedIdentity;

impl FromStr for AttesterIdentity {
    type Err = MalformedIdentity;

    fn from_str(text: &str) -> Result<Self, MalformedIdentity> {
        parse_hex32(text).map(Self).ok_or(MalformedIdentity)
    }
}

impl Serialize for AttesterIdentity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for AttesterIdentity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

/// Facts that were signed but that no rule judges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claims {
    /// The TPM's clock and counters.
    pub clock: ClockInfo,
    /// The TPM's firmware version.
    pub firmware_version: u64,
}

/// Proof of an appraisal: this attester, on this channel, booted this image and has not been given
/// a key in this boot. Only [`Appraiser::appraise`](crate::Appraiser::appraise) makes one.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appraised {
    identity: AttesterIdentity,
    image: String,
    roles: Vec<Role>,
    kind: EvidenceKind,
    claims: Claims,
}

impl Appraised {
    pub(crate) const fn tpm(
        identity: AttesterIdentity,
        image: String,
        roles: Vec<Role>,
        claims: Claims,
    ) -> Self {
        Self {
            identity,
            image,
            roles,
            kind: EvidenceKind::Tpm,
            claims,
        }
    }

    /// The machine.
    #[must_use]
    pub const fn identity(&self) -> &AttesterIdentity {
        &self.identity
    }

    /// Name of the image in the reference values.
    #[must_use]
    pub fn image(&self) -> &str {
        &self.image
    }

    /// Roles that the image may take.
    #[must_use]
    pub fn roles(&self) -> &[Role] {
        &self.roles
    }

    /// What vouches for the node.
    #[must_use]
    pub const fn evidence_kind(&self) -> EvidenceKind {
        self.kind
    }

    /// Signed facts that were not judged, for the log.
    #[must_use]
    pub const fn claims(&self) -> &Claims {
        &self.claims
    }
}
