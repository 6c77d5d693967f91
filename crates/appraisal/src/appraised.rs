//! What an appraisal proves.

use crate::{document::parse_hex32, error::FailedCheck};
use alloc::{collections::BTreeMap, string::String, vec::Vec};
use core::{fmt, str::FromStr};
use evidence::EvidenceKind;
use identity::Role;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use snp::{ChipId, Origin, Product, Tcb};
use tpm::{ClockInfo, Name};

/// Who attests, as far as the evidence names anybody.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AttesterIdentity {
    /// One machine: SHA-256 of the name of a key that only its TPM has. The endorsement key, or the
    /// attestation key that a paravisor's report vouches for.
    Machine([u8; 32]),
    /// Some SEV-SNP guest. A bare report names a processor, which guests share and leave, and no guest:
    /// disk, node name and image are all the identity there is.
    SevSnp,
}

impl AttesterIdentity {
    const SEV_SNP: &str = "sev-snp";

    /// The identity of the TPM whose endorsement key has this name.
    #[must_use]
    pub fn of_key(name: &Name) -> Self {
        Self::digest(&[name.as_bytes()])
    }

    /// The identity of the vTPM with this RSA attestation key, which a paravisor's report vouches for.
    /// Azure keeps the key as long as the virtual machine.
    #[must_use]
    pub fn of_vouched_key(modulus: &[u8], exponent: u32) -> Self {
        const LABEL: &[u8] = b"constellation-vouched-key-v1\0";
        Self::digest(&[LABEL, &exponent.to_be_bytes(), modulus])
    }

    fn digest(parts: &[&[u8]]) -> Self {
        use aws_lc_rs::digest;
        let mut context = digest::Context::new(&digest::SHA256);
        parts.iter().for_each(|part| context.update(part));
        let mut identity = [0; 32];
        identity.copy_from_slice(context.finish().as_ref());
        Self::Machine(identity)
    }

    /// The digest that names the machine, where the evidence names one.
    #[must_use]
    pub const fn machine(&self) -> Option<&[u8; 32]> {
        match self {
            Self::Machine(hash) => Some(hash),
            Self::SevSnp => None,
        }
    }

    /// Whether it tells one machine from all others, so that a machine can be held to one disk.
    #[must_use]
    pub const fn names_machine(&self) -> bool {
        matches!(self, Self::Machine(_))
    }
}

impl fmt::Display for AttesterIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Machine(hash) => hash.iter().try_for_each(|byte| write!(f, "{byte:02x}")),
            Self::SevSnp => f.write_str(Self::SEV_SNP),
        }
    }
}

impl fmt::Debug for AttesterIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AttesterIdentity({self})")
    }
}

/// A text that is no attester identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed attester identity: expected 64 lower-case hex digits, or `sev-snp`")]
pub struct MalformedIdentity;

impl FromStr for AttesterIdentity {
    type Err = MalformedIdentity;

    fn from_str(text: &str) -> Result<Self, MalformedIdentity> {
        if text == Self::SEV_SNP {
            return Ok(Self::SevSnp);
        }
        parse_hex32(text)
            .map(Self::Machine)
            .ok_or(MalformedIdentity)
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

/// Facts that were signed but that no rule judges, or no longer; for logs and operators.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// Of the quote, where there is one.
    pub tpm: Option<TpmClaims>,
    /// Of the report, where there is one.
    pub sev_snp: Option<SnpClaims>,
}

/// What a quote says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TpmClaims {
    /// The TPM's clock and counters.
    pub clock: ClockInfo,
    /// The TPM's firmware version.
    pub firmware_version: u64,
    /// The quoted values. Of a vTPM that nothing vouches for they are what the host likes.
    pub pcrs: BTreeMap<u32, [u8; 32]>,
}

/// What a report says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnpClaims {
    /// The product line.
    pub product: Product,
    /// Whether a development root stands in AMD's place: then the report may be anybody's.
    pub origin: Origin,
    /// The chip, where the report names it.
    pub chip_id: Option<ChipId>,
    /// The TCB that the report answers for.
    pub reported_tcb: Tcb,
    /// Components of the reported TCB that an announced minimum would refuse.
    pub below_announced_tcb: Vec<FailedCheck>,
}

/// Proof of an appraisal: this attester, on this channel, booted this image and has not been given
/// a key in this boot. Only [`Appraiser::appraise`](crate::Appraiser::appraise) makes one.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appraised(pub(crate) Facts);

/// What evidence proves, whatever it was asked for. Not public: what a proof is good for is in the type
/// around it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) identity: AttesterIdentity,
    pub(crate) image: String,
    pub(crate) roles: Vec<Role>,
    pub(crate) kind: EvidenceKind,
    pub(crate) report_id: Option<[u8; 32]>,
    /// SHA-256 of the public area of the TPM's key that signed, where a TPM's key did.
    pub(crate) attestation_key: Option<[u8; 32]>,
    pub(crate) claims: Claims,
}

impl Appraised {
    /// The machine.
    #[must_use]
    pub const fn identity(&self) -> &AttesterIdentity {
        &self.0.identity
    }

    /// Name of the image in the reference values.
    #[must_use]
    pub fn image(&self) -> &str {
        &self.0.image
    }

    /// Roles that the image may take.
    #[must_use]
    pub fn roles(&self) -> &[Role] {
        &self.0.roles
    }

    /// What vouches for the node.
    #[must_use]
    pub const fn evidence_kind(&self) -> EvidenceKind {
        self.0.kind
    }

    /// What names this boot where no latch does: `REPORT_ID` of a bare SEV-SNP guest, which the
    /// firmware draws at each launch. The relying party gives such a boot one release.
    #[must_use]
    pub const fn report_id(&self) -> Option<&[u8; 32]> {
        self.0.report_id.as_ref()
    }

    /// SHA-256 of the `TPMT_PUBLIC` of the attestation key, where this appraisal saw it activated in the
    /// TPM of [`Self::identity`]: what an AK certificate may say.
    #[must_use]
    pub const fn attestation_key(&self) -> Option<&[u8; 32]> {
        self.0.attestation_key.as_ref()
    }

    /// Signed facts that were not judged, for the log.
    #[must_use]
    pub const fn claims(&self) -> &Claims {
        &self.0.claims
    }
}
