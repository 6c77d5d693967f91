//! All fields of a report, typed.

use super::{GuestPolicy, KeyKind, PlatformInfo, RawReport, ReportError, info::KeyInfo};
use crate::{Product, RawTcb, Signature, layout, signature::SIGNATURE_LEN};
use core::fmt;

/// The fields of a report. [`crate::layout`] says where each one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReportFields<'a> {
    /// Version of the report's layout: 2, 3 or 5.
    pub version: u32,
    /// Security version of the guest, from its ID block.
    pub guest_svn: u32,
    /// What the guest's owner demanded at launch.
    pub policy: GuestPolicy,
    /// Family of the guest, from its ID block.
    pub family_id: &'a [u8; 16],
    /// Image of the guest, from its ID block.
    pub image_id: &'a [u8; 16],
    /// Privilege level that asked for the report, 0 (highest) to 3.
    pub vmpl: u8,
    /// `CURRENT_TCB`.
    pub current_tcb: RawTcb,
    /// How the machine is set up.
    pub platform_info: PlatformInfo,
    /// Whether the guest was launched with an author key.
    pub author_key_enabled: bool,
    /// Whether the operator of the machine forbade the chip's key, for signing too.
    pub mask_chip_key: bool,
    /// Which key the report says it is signed by; `None` if it is not signed.
    pub signing_key: Option<KeyKind>,
    /// What the guest asked to be in the report.
    pub report_data: &'a [u8; 64],
    /// Launch measurement, SHA-384.
    pub measurement: &'a [u8; 48],
    /// What the host said at launch.
    pub host_data: &'a [u8; 32],
    /// SHA-384 of the key that signed the ID block; zero without one.
    pub id_key_digest: &'a [u8; 48],
    /// SHA-384 of the key that certified the ID key; zero without one.
    pub author_key_digest: &'a [u8; 48],
    /// Random identity of this launch of the guest.
    pub report_id: &'a [u8; 32],
    /// That of its migration agent; all ones without one.
    pub report_id_ma: &'a [u8; 32],
    /// `REPORTED_TCB`.
    pub reported_tcb: RawTcb,
    /// Family, model and stepping of the processor; `None` in version 2.
    pub cpuid: Option<[u8; 3]>,
    /// The product line of [`ReportFields::cpuid`]; `None` in version 2, which names none.
    pub product: Option<Product>,
    /// Which chip it is, unless the operator of the machine masks that.
    pub chip_id: ChipId,
    /// `COMMITTED_TCB`.
    pub committed_tcb: RawTcb,
    /// The firmware that runs.
    pub current_version: FirmwareVersion,
    /// The firmware that cannot be rolled back any more.
    pub committed_version: FirmwareVersion,
    /// `LAUNCH_TCB`.
    pub launch_tcb: RawTcb,
    /// Mitigations verified when the guest was launched; `None` before version 5.
    pub launch_mit_vector: Option<u64>,
    /// Mitigations verified now; `None` before version 5.
    pub current_mit_vector: Option<u64>,
    /// The signature; `None` if and only if [`ReportFields::signing_key`] is.
    pub signature: Option<Signature>,
}

impl<'a> ReportFields<'a> {
    pub(super) fn parse(raw: RawReport<'a>, version: u32) -> Result<Self, ReportError> {
        let algorithm = raw.u32::<{ layout::SIGNATURE_ALGORITHM }>();
        if algorithm != layout::ALGORITHM_ECDSA_P384_SHA384 {
            return Err(ReportError::SignatureAlgorithm(algorithm));
        }
        let key_info = KeyInfo::parse(raw.u32::<{ layout::KEY_INFO }>())?;
        let cpuid = (version >= 3).then(|| *raw.array::<{ layout::CPUID }, 3>());
        let mit_vectors = version >= 5;
        Ok(Self {
            version,
            guest_svn: raw.u32::<{ layout::GUEST_SVN }>(),
            policy: GuestPolicy::parse(raw.u64::<{ layout::POLICY }>())?,
            family_id: raw.array::<{ layout::FAMILY_ID }, _>(),
            image_id: raw.array::<{ layout::IMAGE_ID }, _>(),
            vmpl: parse_vmpl(raw.u32::<{ layout::VMPL }>())?,
            current_tcb: RawTcb(*raw.array::<{ layout::CURRENT_TCB }, _>()),
            platform_info: PlatformInfo::parse(raw.u64::<{ layout::PLATFORM_INFO }>())?,
            author_key_enabled: key_info.author_key_enabled,
            mask_chip_key: key_info.mask_chip_key,
            signing_key: key_info.signing_key,
            report_data: raw.array::<{ layout::REPORT_DATA }, _>(),
            measurement: raw.array::<{ layout::MEASUREMENT }, _>(),
            host_data: raw.array::<{ layout::HOST_DATA }, _>(),
            id_key_digest: raw.array::<{ layout::ID_KEY_DIGEST }, _>(),
            author_key_digest: raw.array::<{ layout::AUTHOR_KEY_DIGEST }, _>(),
            report_id: raw.array::<{ layout::REPORT_ID }, _>(),
            report_id_ma: raw.array::<{ layout::REPORT_ID_MA }, _>(),
            reported_tcb: RawTcb(*raw.array::<{ layout::REPORTED_TCB }, _>()),
            cpuid,
            product: cpuid.map(parse_product).transpose()?,
            chip_id: ChipId(*raw.array::<{ layout::CHIP_ID }, _>()),
            committed_tcb: RawTcb(*raw.array::<{ layout::COMMITTED_TCB }, _>()),
            current_version: FirmwareVersion::parse(*raw.array::<{ layout::CURRENT_VERSION }, _>()),
            committed_version: FirmwareVersion::parse(
                *raw.array::<{ layout::COMMITTED_VERSION }, _>(),
            ),
            launch_tcb: RawTcb(*raw.array::<{ layout::LAUNCH_TCB }, _>()),
            launch_mit_vector: mit_vectors.then(|| raw.u64::<{ layout::LAUNCH_MIT_VECTOR }>()),
            current_mit_vector: mit_vectors.then(|| raw.u64::<{ layout::CURRENT_MIT_VECTOR }>()),
            signature: parse_signature(raw, key_info.signing_key)?,
        })
    }
}

/// The product line of a report's family, model and stepping.
fn parse_product([family, model, _]: [u8; 3]) -> Result<Product, ReportError> {
    let unknown = ReportError::UnknownProduct { family, model };
    Product::from_cpuid(family, model).ok_or(unknown)
}

/// The signature, of which a report that is not signed has none.
fn parse_signature(
    raw: RawReport<'_>,
    signing_key: Option<KeyKind>,
) -> Result<Option<Signature>, ReportError> {
    let field = raw.array::<{ layout::SIGNATURE }, SIGNATURE_LEN>();
    if signing_key.is_some() {
        let signature = Signature::parse(field).map_err(ReportError::Signature)?;
        return Ok(Some(signature));
    }
    if *field == [0; SIGNATURE_LEN] {
        return Ok(None);
    }
    Err(ReportError::Reserved(layout::SIGNATURE))
}

/// A guest has four privilege levels; a report that the host asked for names another, and no guest
/// chose its `REPORT_DATA`.
fn parse_vmpl(vmpl: u32) -> Result<u8, ReportError> {
    match u8::try_from(vmpl) {
        Ok(level @ 0..=3) => Ok(level),
        _ => Err(ReportError::Vmpl(vmpl)),
    }
}

/// The id of a chip, in 64 bytes; all zero if the operator of the machine masks it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChipId(pub [u8; 64]);

impl ChipId {
    /// Whether the report names no chip.
    #[must_use]
    pub fn is_masked(&self) -> bool {
        self.0 == [0; 64]
    }

    /// The part that is the hardware id on `product`.
    #[must_use]
    pub fn hardware_id(&self, product: Product) -> &[u8] {
        self.0.get(..product.hardware_id_len()).unwrap_or(&[])
    }

    /// The chip of a hardware id; `None` if it does not have the length of `product`'s.
    #[must_use]
    pub fn from_hardware_id(product: Product, id: &[u8]) -> Option<Self> {
        if id.len() != product.hardware_id_len() {
            return None;
        }
        let mut bytes = [0; 64];
        bytes.get_mut(..id.len())?.copy_from_slice(id);
        Some(Self(bytes))
    }

    /// Whether what is not the hardware id on `product` is zero.
    pub(super) fn fits(&self, product: Product) -> bool {
        let rest = self.0.get(product.hardware_id_len()..).unwrap_or(&[]);
        rest.iter().all(|byte| *byte == 0)
    }
}

impl fmt::Display for ChipId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ChipId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChipId({self})")
    }
}

/// A version of the SNP firmware.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FirmwareVersion {
    /// Major version of its interface.
    pub major: u8,
    /// Minor version of its interface.
    pub minor: u8,
    /// Build.
    pub build: u8,
}

impl FirmwareVersion {
    fn parse([build, minor, major]: [u8; 3]) -> Self {
        Self {
            major,
            minor,
            build,
        }
    }
}

impl fmt::Display for FirmwareVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.build)
    }
}
