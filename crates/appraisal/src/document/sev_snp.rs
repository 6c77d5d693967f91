//! Documents about SEV-SNP reports.

use super::parse_hex;
use alloc::{string::String, vec::Vec};
use core::fmt;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use snp::{Product, Tcb, UnixTime};
use x509::x509_cert::der::DateTime;

/// Rules for every kind with an SEV-SNP report. That debugging and migration are not allowed, and
/// that the report is signed, are no settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnpDocument {
    /// Product lines that are accepted, each once.
    pub products: Vec<ProductDocument>,
    /// Privilege level that the report must come from, 0 to 3.
    pub vmpl: u8,
    /// What the guest must have been launched with.
    pub guest_policy: GuestPolicyDocument,
    /// Whether the firmware must have looked for memory aliases (BadRAM, CVE-2024-21944).
    pub alias_check: AliasCheck,
    /// What happens without a revocation list of AMD's.
    pub revocation_lists: RevocationLists,
    /// The only chips that are accepted; absent: every chip that AMD vouches for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chips: Option<Vec<ChipDocument>>,
}

/// One product line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProductDocument {
    /// `Milan`, `Genoa` or `Turin`.
    #[serde(with = "product")]
    pub product: Product,
    /// Which key must have signed the report.
    pub endorsement_key: EndorsementKey,
    /// The least version of each component, against the reported TCB.
    pub minimum_tcb: TcbDocument,
    /// A minimum that is announced: reported from now on, in force from its date.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upcoming_tcb: Option<UpcomingTcbDocument>,
    /// Who vouches for the keys in AMD's place. Whoever has the keys of such a root can make any
    /// report, so it is for tests of a cluster that protects nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub development_root: Option<DevelopmentRootDocument>,
}

/// Which of a chip's keys signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EndorsementKey {
    /// The chip's own.
    Vcek,
    /// The provider's, loaded into the chip.
    Vlek,
}

/// The version of each component; `fmc` exactly for Turin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TcbDocument {
    /// Firmware management controller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fmc: Option<u8>,
    /// Boot loader of the secure processor.
    pub bootloader: u8,
    /// Operating system of the secure processor.
    pub tee: u8,
    /// SNP firmware.
    pub snp: u8,
    /// Microcode.
    pub microcode: u8,
}

impl TcbDocument {
    /// The versions.
    #[must_use]
    pub const fn tcb(self) -> Tcb {
        Tcb {
            fmc: self.fmc,
            bootloader: self.bootloader,
            tee: self.tee,
            snp: self.snp,
            microcode: self.microcode,
        }
    }
}

/// A minimum of the future.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpcomingTcbDocument {
    /// From when it is in force; absent: it only reports who would be refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective: Option<EffectiveDate>,
    /// The least version of each component.
    pub minimum_tcb: TcbDocument,
}

/// A moment, as `2027-01-31T00:00:00Z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EffectiveDate(DateTime);

impl EffectiveDate {
    /// Seconds since 1970.
    #[must_use]
    pub fn time(self) -> UnixTime {
        UnixTime(self.0.unix_duration().as_secs())
    }
}

impl fmt::Display for EffectiveDate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for EffectiveDate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for EffectiveDate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse()
            .map(Self)
            .map_err(|_| D::Error::custom("expected a time such as `2027-01-31T00:00:00Z`"))
    }
}

/// Certificates in PEM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DevelopmentRootDocument {
    /// In place of AMD's root key.
    pub ark: String,
    /// In place of the key that signs VCEKs.
    pub ask: String,
    /// In place of the key that signs VLEKs.
    pub asvk: String,
}

/// What the guest must have been launched with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestPolicyDocument {
    /// Whether the guest may run on, and the machine be set up for, simultaneous multithreading.
    pub allow_smt: bool,
    /// Whether the guest must stay on one socket.
    pub require_single_socket: bool,
    /// Least version of the firmware's interface that the guest must have demanded: major, minor.
    pub minimum_abi: [u8; 2],
}

/// Whether `ALIAS_CHECK_COMPLETE` must be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AliasCheck {
    /// Firmware that does not say so is too old.
    Required,
    /// For machines whose firmware cannot say so yet: a host with hands on the memory modules may
    /// read and write the guest.
    Unavailable,
}

/// Whether an appraisal needs a revocation list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RevocationLists {
    /// One that is in force must be there.
    Required,
    /// Checked where one is there; one that is out of date refuses all the same.
    WhenGiven,
}

/// A chip: all 64 bytes of `CHIP_ID`, as 128 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChipDocument(pub [u8; 64]);

/// What an SEV-SNP report says of an image: the launch measurement itself, or who signed for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnpImageDocument {
    /// Launch measurements: one for each number and type of virtual processors, and firmware.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measurements: Option<Vec<LaunchDigest>>,
    /// An ID block that the firmware compared with the launch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id_block: Option<IdBlockDocument>,
}

/// Who signed the ID block, and what it says. The secure processor refuses a launch whose
/// measurement is not the block's, so that a signer whom the owner trusts stands for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdBlockDocument {
    /// SHA-384 of the ID key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id_key_digest: Option<LaunchDigest>,
    /// SHA-384 of the author key that certified the ID key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author_key_digest: Option<LaunchDigest>,
    /// `FAMILY_ID`, 32 lower-case hex digits.
    #[serde(with = "hex16")]
    pub family_id: [u8; 16],
    /// `IMAGE_ID`, 32 lower-case hex digits.
    #[serde(with = "hex16")]
    pub image_id: [u8; 16],
    /// Least security version.
    pub minimum_guest_svn: u32,
}

/// SHA-384 in 96 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LaunchDigest(pub [u8; 48]);

macro_rules! hex_text {
    ($name:ident, $expected:literal) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                parse_hex(&text)
                    .map(Self)
                    .ok_or_else(|| D::Error::custom($expected))
            }
        }
    };
}

hex_text!(ChipDocument, "expected 128 lower-case hex digits");
hex_text!(LaunchDigest, "expected 96 lower-case hex digits");

mod hex16 {
    use super::*;

    pub(super) fn serialize<S: Serializer>(
        id: &[u8; 16],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(id))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<[u8; 16], D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_hex(&text).ok_or_else(|| D::Error::custom("expected 32 lower-case hex digits"))
    }
}

mod product {
    use super::*;

    pub(super) fn serialize<S: Serializer>(
        product: &Product,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(product)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Product, D::Error> {
        let text = String::deserialize(deserializer)?;
        Product::from_name(&text)
            .ok_or_else(|| D::Error::custom("expected `Milan`, `Genoa` or `Turin`"))
    }
}
