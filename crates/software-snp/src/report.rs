//! Attestation reports (SEV-SNP firmware ABI, `ATTESTATION_REPORT`).

use crate::{Leaf, LeafKind, Product, Tcb};
use serde::{Deserialize, Serialize};
use snp::layout::{self, REPORT_LEN};
use std::io;

/// SMT is allowed.
const POLICY: u64 = layout::POLICY_SMT | layout::POLICY_RESERVED_ONE;
/// SMT is on, memory has ECC, the check for memory aliases is complete.
const PLATFORM: u64 =
    layout::PLATFORM_SMT_EN | layout::PLATFORM_ECC_EN | layout::PLATFORM_ALIAS_CHECK_COMPLETE;
/// `SIGNING_KEY` of `KEY_INFO`.
const SIGNED_BY_VLEK: u32 = layout::SIGNING_KEY_VLEK << layout::KEY_INFO_SIGNING_KEY_SHIFT;

/// Every field of a report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReportFields {
    /// `VERSION`
    pub version: u32,
    /// `GUEST_SVN`
    pub guest_svn: u32,
    /// `POLICY`
    pub policy: u64,
    /// `FAMILY_ID`
    #[serde(with = "hex::serde")]
    pub family_id: [u8; 16],
    /// `IMAGE_ID`
    #[serde(with = "hex::serde")]
    pub image_id: [u8; 16],
    /// `VMPL`
    pub vmpl: u32,
    /// `SIGNATURE_ALGO`
    pub signature_algorithm: u32,
    /// `CURRENT_TCB`
    #[serde(with = "hex::serde")]
    pub current_tcb: [u8; 8],
    /// `PLATFORM_INFO`
    pub platform_info: u64,
    /// `AUTHOR_KEY_EN`, `MASK_CHIP_KEY` and `SIGNING_KEY`
    pub key_info: u32,
    /// `REPORT_DATA`
    #[serde(with = "hex::serde")]
    pub report_data: [u8; 64],
    /// `MEASUREMENT`
    #[serde(with = "hex::serde")]
    pub measurement: [u8; 48],
    /// `HOST_DATA`
    #[serde(with = "hex::serde")]
    pub host_data: [u8; 32],
    /// `ID_KEY_DIGEST`
    #[serde(with = "hex::serde")]
    pub id_key_digest: [u8; 48],
    /// `AUTHOR_KEY_DIGEST`
    #[serde(with = "hex::serde")]
    pub author_key_digest: [u8; 48],
    /// `REPORT_ID`
    #[serde(with = "hex::serde")]
    pub report_id: [u8; 32],
    /// `REPORT_ID_MA`
    #[serde(with = "hex::serde")]
    pub report_id_ma: [u8; 32],
    /// `REPORTED_TCB`
    #[serde(with = "hex::serde")]
    pub reported_tcb: [u8; 8],
    /// `CPUID_FAM_ID`, `CPUID_MOD_ID` and `CPUID_STEP`, from version 3 on
    #[serde(with = "hex::serde")]
    pub cpuid: [u8; 3],
    /// `CHIP_ID`
    #[serde(with = "hex::serde")]
    pub chip_id: [u8; 64],
    /// `COMMITTED_TCB`
    #[serde(with = "hex::serde")]
    pub committed_tcb: [u8; 8],
    /// `CURRENT_BUILD`, `CURRENT_MINOR` and `CURRENT_MAJOR`
    #[serde(with = "hex::serde")]
    pub current_firmware: [u8; 3],
    /// `COMMITTED_BUILD`, `COMMITTED_MINOR` and `COMMITTED_MAJOR`
    #[serde(with = "hex::serde")]
    pub committed_firmware: [u8; 3],
    /// `LAUNCH_TCB`
    #[serde(with = "hex::serde")]
    pub launch_tcb: [u8; 8],
    /// `LAUNCH_MIT_VECTOR`, from version 5 on
    pub launch_mitigations: u64,
    /// `CURRENT_MIT_VECTOR`, from version 5 on
    pub current_mitigations: u64,
}

impl ReportFields {
    /// What an honest guest on this chip gets at VMPL 0, in the newest version of its line:
    /// a policy that forbids debugging and migration, the same versions everywhere, nothing measured.
    #[must_use]
    pub fn new(product: Product, chip_id: [u8; 64], tcb: Tcb) -> Self {
        let tcb = tcb.encode(product);
        Self {
            version: if product == Product::Turin { 5 } else { 3 },
            guest_svn: 0,
            policy: POLICY,
            family_id: [0; 16],
            image_id: [0; 16],
            vmpl: 0,
            signature_algorithm: 1,
            current_tcb: tcb,
            platform_info: PLATFORM,
            key_info: 0,
            report_data: [0; 64],
            measurement: [0; 48],
            host_data: [0; 32],
            id_key_digest: [0; 48],
            author_key_digest: [0; 48],
            report_id: [1; 32],
            report_id_ma: [0xff; 32],
            reported_tcb: tcb,
            cpuid: product.cpuid(),
            chip_id,
            committed_tcb: tcb,
            current_firmware: [27, 55, 1],
            committed_firmware: [27, 55, 1],
            launch_tcb: tcb,
            launch_mitigations: 0,
            current_mitigations: 0,
        }
    }

    /// The same in another version, without the fields that it does not have.
    #[must_use]
    pub const fn with_version(mut self, version: u32) -> Self {
        self.version = version;
        if version < 3 {
            self.cpuid = [0; 3];
        }
        if version < 5 {
            self.launch_mitigations = 0;
            self.current_mitigations = 0;
        }
        self
    }

    /// The same as a VLEK signs it: where a chip key is masked the chip id is zero.
    #[must_use]
    pub const fn with_vlek(mut self) -> Self {
        self.key_info |= SIGNED_BY_VLEK;
        self
    }

    /// The kind of key that the report names.
    #[must_use]
    pub const fn signing_key(&self) -> LeafKind {
        match self.key_info & SIGNED_BY_VLEK {
            0 => LeafKind::Vcek,
            _ => LeafKind::Vlek,
        }
    }

    /// The report without its signature.
    #[must_use]
    pub fn encode(&self) -> [u8; REPORT_LEN] {
        let mut report = [0; REPORT_LEN];
        let mut put = |offset: usize, bytes: &[u8]| {
            let places = report.iter_mut().skip(offset);
            places.zip(bytes).for_each(|(place, byte)| *place = *byte);
        };
        put(layout::VERSION, &self.version.to_le_bytes());
        put(layout::GUEST_SVN, &self.guest_svn.to_le_bytes());
        put(layout::POLICY, &self.policy.to_le_bytes());
        put(layout::FAMILY_ID, &self.family_id);
        put(layout::IMAGE_ID, &self.image_id);
        put(layout::VMPL, &self.vmpl.to_le_bytes());
        put(
            layout::SIGNATURE_ALGORITHM,
            &self.signature_algorithm.to_le_bytes(),
        );
        put(layout::CURRENT_TCB, &self.current_tcb);
        put(layout::PLATFORM_INFO, &self.platform_info.to_le_bytes());
        put(layout::KEY_INFO, &self.key_info.to_le_bytes());
        put(layout::REPORT_DATA, &self.report_data);
        put(layout::MEASUREMENT, &self.measurement);
        put(layout::HOST_DATA, &self.host_data);
        put(layout::ID_KEY_DIGEST, &self.id_key_digest);
        put(layout::AUTHOR_KEY_DIGEST, &self.author_key_digest);
        put(layout::REPORT_ID, &self.report_id);
        put(layout::REPORT_ID_MA, &self.report_id_ma);
        put(layout::REPORTED_TCB, &self.reported_tcb);
        put(layout::CPUID, &self.cpuid);
        put(layout::CHIP_ID, &self.chip_id);
        put(layout::COMMITTED_TCB, &self.committed_tcb);
        put(layout::CURRENT_VERSION, &self.current_firmware);
        put(layout::COMMITTED_VERSION, &self.committed_firmware);
        put(layout::LAUNCH_TCB, &self.launch_tcb);
        put(
            layout::LAUNCH_MIT_VECTOR,
            &self.launch_mitigations.to_le_bytes(),
        );
        put(
            layout::CURRENT_MIT_VECTOR,
            &self.current_mitigations.to_le_bytes(),
        );
        report
    }

    /// The signed report.
    ///
    /// # Errors
    /// If the library fails.
    pub fn signed_by(&self, leaf: &Leaf) -> io::Result<[u8; REPORT_LEN]> {
        let mut report = self.encode();
        leaf.sign(&mut report)?;
        Ok(report)
    }
}
