//! The JSON documents, as `docs/formats.md` specifies them: shapes only, no rule is checked here.
//!
//! Tools edit these; services load [`Policy`](crate::Policy) and
//! [`ReferenceValues`](crate::ReferenceValues), whose constructors check every rule.

mod sev_snp;

pub use sev_snp::{
    AliasCheck, ChipDocument, DevelopmentRootDocument, EffectiveDate, EndorsementKey,
    GuestPolicyDocument, IdBlockDocument, LaunchDigest, ProductDocument, RevocationLists,
    SnpDocument, SnpImageDocument, TcbDocument, UpcomingTcbDocument,
};

use crate::appraised::AttesterIdentity;
use alloc::{collections::BTreeMap, string::String, vec::Vec};
use core::fmt;
use evidence::EvidenceKind;
use identity::Role;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error as _, MapAccess, Visitor},
};

/// The version of both formats.
pub const VERSION: u32 = 1;

/// What the verifier tolerates. Each section is there exactly if a kind of `evidence` needs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyDocument {
    /// Always [`VERSION`].
    pub version: u32,
    /// Grows with each change; a lower one is refused by whoever holds a higher one.
    pub serial: u64,
    /// Accepted kinds of evidence.
    pub evidence: Vec<Kind>,
    /// Rules for kind `tpm`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tpm: Option<TpmDocument>,
    /// Rules for every kind with an SEV-SNP report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sev_snp: Option<SnpDocument>,
    /// Rules for the quote of kind `azure-sev-snp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub azure_sev_snp: Option<QuoteDocument>,
    /// What is quoted for kind `sev-snp-vtpm`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sev_snp_vtpm: Option<QuoteDocument>,
}

/// A kind of evidence, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kind(pub EvidenceKind);

impl Serialize for Kind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Self).map_err(D::Error::custom)
    }
}

/// A quote by a key that is not proven by credential activation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuoteDocument {
    /// PCRs of the SHA-256 bank that every quote covers, ascending.
    pub pcrs: Vec<u32>,
}

/// Rules for kind `tpm`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TpmDocument {
    /// PCRs of the SHA-256 bank that every quote covers, ascending.
    pub pcrs: Vec<u32>,
    /// Who may vouch for an endorsement key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ek_authorities: Option<Vec<AuthorityDocument>>,
    /// Certificates between an authority and an endorsement key; trusted for nothing by themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ek_intermediates: Option<Vec<String>>,
    /// Endorsement keys accepted without a certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ek_hashes: Option<Vec<AttesterIdentity>>,
}

/// A certificate authority for endorsement keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthorityDocument {
    /// X.509 certificate, PEM.
    pub certificate: String,
    /// The owner's statement that this authority certifies only TPMs of machines that the owner
    /// means: a trusted operator's vTPM authority. A manufacturer's root vouches for every TPM the
    /// manufacturer sold, the attacker's too, so a policy where this is not `true` does not load.
    pub bound_to_platform: bool,
}

/// What the images of this cluster measure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReferenceValuesDocument {
    /// Always [`VERSION`].
    pub version: u32,
    /// Grows with each change; a lower one is refused by whoever holds a higher one.
    pub serial: u64,
    /// Images that may boot, old and new ones side by side.
    pub images: Vec<ImageDocument>,
}

/// One image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageDocument {
    /// Name, unique in the document.
    pub name: String,
    /// Roles a node with this image may take.
    pub roles: Vec<Role>,
    /// For each PCR the values it may have; for kinds whose PCRs count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pcrs: Option<ByPcr<Vec<PcrValue>>>,
    /// What an SEV-SNP report says of the launch of this image; for kinds `sev-snp` and
    /// `sev-snp-vtpm`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sev_snp: Option<SnpImageDocument>,
    /// What the report under Azure's paravisor says of the launch of the paravisor, which this image
    /// may run in; for kind `azure-sev-snp`, beside `pcrs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub azure_sev_snp: Option<SnpImageDocument>,
    /// For some PCRs the events that lead to the value, in order. They explain a mismatch to the
    /// operator and decide nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub events: Option<ByPcr<Vec<EventDocument>>>,
}

/// An event that an image is known to cause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventDocument {
    /// What is measured, for people.
    pub name: String,
    /// Digest as extended.
    pub digest: PcrValue,
}

/// A SHA-256 PCR value or digest: 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PcrValue(pub [u8; 32]);

impl PcrValue {
    /// The value after reset.
    pub const ZERO: Self = Self([0; 32]);
}

impl fmt::Display for PcrValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PcrValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for PcrValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PcrValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_hex32(&text)
            .map(Self)
            .ok_or_else(|| D::Error::custom("expected 64 lower-case hex digits"))
    }
}

/// Exactly 64 lower-case hex digits.
pub(crate) fn parse_hex32(text: &str) -> Option<[u8; 32]> {
    parse_hex(text)
}

/// Exactly `2 * N` lower-case hex digits.
pub(crate) fn parse_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let lower = !text.bytes().any(|byte| byte.is_ascii_uppercase());
    hex::decode_to_slice(text, &mut bytes).ok()?;
    lower.then_some(bytes)
}

/// A map whose keys are PCR indices. Two equal keys are refused, which serde's own maps would not
/// do: the last one would win in silence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct ByPcr<T>(pub BTreeMap<u32, T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for ByPcr<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<T>(core::marker::PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
            type Value = BTreeMap<u32, T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map from PCR indices")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = BTreeMap::new();
                while let Some((pcr, value)) = map.next_entry::<u32, T>()? {
                    if entries.insert(pcr, value).is_some() {
                        return Err(A::Error::custom(format_args!("duplicate PCR `{pcr}`")));
                    }
                }
                Ok(entries)
            }
        }

        let entries = Entries(core::marker::PhantomData);
        deserializer.deserialize_map(entries).map(Self)
    }
}
