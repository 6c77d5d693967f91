//! What a SEV-SNP launch measures: the `MEASUREMENT` of the attestation report of a guest that is
//! started by direct boot, computed from the files it is started with.
//!
//! The AMD secure processor hashes every page that the hypervisor hands it before the guest runs:
//! the firmware, the pages that the firmware's own table asks for (one of them carries the SHA-256
//! of kernel, initramfs and command line, which the firmware checks before it starts them), and the
//! initial registers of each virtual CPU. So the measurement differs with the number and type of
//! the virtual CPUs, with the features the hypervisor enables, and with the hypervisor itself.
//!
//! [`LaunchConfig::prepare`] hashes the pages once; [`PreparedLaunch::measurement`] then gives the
//! value for one count and type of virtual CPUs. The ID block by which an author signs a measurement
//! is in crate `snp`.
//!
//! The firmware file is parsed with fixed bounds, and refused when it asks for a page whose measure
//! is not known here: a guessed value would be wrong on every later boot.
//!
//! Sources: AMD #56860 "SEV Secure Nested Paging Firmware ABI Specification", AMD #24593 "AMD64
//! Architecture Programmer's Manual", volume 2 (here: APM), OVMF's `ResetVectorVtf0.asm` and
//! `OvmfSevMetadata.asm`, QEMU's `target/i386/sev.c`.

mod digest;
mod firmware;
mod hashes;
mod vcpu;
mod vmsa;

use digest::{LaunchDigest, PageType};
use thiserror::Error;

pub use firmware::{Firmware, FirmwareError};
pub use hashes::KernelHashes;
pub use vcpu::{UnknownVcpuType, VcpuSignature};
pub use vmsa::{MAX_VCPUS, Vmm};

use firmware::{Section, SectionKind};

/// Bit 0 of `SEV_FEATURES`, SNPActive: set in every SNP guest (APM, table B-4).
pub const SNP_ACTIVE: u64 = 1;

/// Bytes in a page.
pub(crate) const PAGE: usize = 4096;

/// Why no launch measurement can be computed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// The firmware is not one whose launch is understood. Class: malformed.
    #[error("the firmware")]
    Firmware(#[source] FirmwareError),
    /// `SEV_FEATURES` of a guest that is not an SNP guest. Class: malformed.
    #[error("guest features {got:#x} lack bit 0, which every SNP guest has")]
    GuestFeatures {
        /// The features given.
        got: u64,
    },
    /// The firmware has no place for the hashes of a kernel, so it would start any. Class: refused.
    #[error("the firmware checks no kernel hashes: it would start any kernel")]
    NoKernelHashes,
    /// The firmware names no entry point for further virtual CPUs. Class: malformed.
    #[error("the firmware has no reset block for a second virtual CPU")]
    NoResetBlock,
    /// Class: malformed.
    #[error("virtual CPUs: expected 1 to {MAX_VCPUS}, got {got}")]
    Vcpus {
        /// The count given.
        got: u32,
    },
}

/// How a guest is started.
#[derive(Clone, Copy, Debug)]
pub struct LaunchConfig<'a> {
    /// The firmware, a file like `OVMF.amdsev.fd`, loaded so that it ends at 4 GiB.
    pub firmware: Firmware<'a>,
    /// The kernel and what it gets, by direct boot (`-kernel`, `-initrd`, `-append` with
    /// `kernel-hashes=on`); without them the firmware boots from a disk that nothing here measures.
    pub kernel: Option<KernelHashes>,
    /// `SEV_FEATURES` as the hypervisor sets it for every virtual CPU.
    pub guest_features: u64,
    /// The hypervisor.
    pub vmm: Vmm,
}

impl LaunchConfig<'_> {
    /// Hashes everything that comes before the virtual CPUs.
    ///
    /// # Errors
    /// [`LaunchError`].
    pub fn prepare(&self) -> Result<PreparedLaunch, LaunchError> {
        if self.guest_features & SNP_ACTIVE == 0 {
            let got = self.guest_features;
            return Err(LaunchError::GuestFeatures { got });
        }
        let mut digest = LaunchDigest::new();
        digest.add_pages(self.firmware.address(), self.firmware.bytes());
        self.add_sections(&mut digest)?;
        Ok(PreparedLaunch {
            digest,
            reset_eip: self.firmware.reset_eip(),
            guest_features: self.guest_features,
            vmm: self.vmm,
        })
    }

    /// QEMU adds the sections in the order of the firmware's table, EC2 the CPUID page last.
    fn add_sections(&self, digest: &mut LaunchDigest) -> Result<(), LaunchError> {
        let hashes = self.hashes_page()?;
        let is_last =
            |section: &Section| self.vmm == Vmm::Ec2 && section.kind == SectionKind::Cpuid;
        let first = self.firmware.sections().filter(|it| !is_last(it));
        for section in first.chain(self.firmware.sections().filter(is_last)) {
            let address = section.address;
            match section.kind {
                SectionKind::Zero => digest.add_zero_pages(address, section.size),
                SectionKind::Secrets => digest.add_page(PageType::Secrets, address, None),
                SectionKind::Cpuid => digest.add_page(PageType::Cpuid, address, None),
                SectionKind::KernelHashes => match &hashes {
                    Some(page) => digest.add_page(PageType::Normal, address, Some(page)),
                    None => digest.add_zero_pages(address, section.size),
                },
            }
        }
        Ok(())
    }

    fn hashes_page(&self) -> Result<Option<[u8; PAGE]>, LaunchError> {
        let Some(kernel) = &self.kernel else {
            return Ok(None);
        };
        let offset = self.firmware.hash_table_offset();
        let offset = offset.ok_or(LaunchError::NoKernelHashes)?;
        Ok(Some(kernel.page(offset)))
    }
}

/// A launch up to its virtual CPUs.
#[derive(Clone, Copy, Debug)]
pub struct PreparedLaunch {
    digest: LaunchDigest,
    reset_eip: Option<u32>,
    guest_features: u64,
    vmm: Vmm,
}

impl PreparedLaunch {
    /// The launch measurement with `vcpus` virtual CPUs of one type.
    ///
    /// # Errors
    /// [`LaunchError::Vcpus`] and [`LaunchError::NoResetBlock`].
    pub fn measurement(
        &self,
        vcpus: u32,
        signature: VcpuSignature,
    ) -> Result<[u8; 48], LaunchError> {
        if !(1..=MAX_VCPUS).contains(&vcpus) {
            return Err(LaunchError::Vcpus { got: vcpus });
        }
        let page = |eip| vmsa::page(self.vmm, eip, self.guest_features, signature);
        let mut digest = self.digest;
        digest.add_vmsa(&page(vmsa::BOOT_EIP));
        if vcpus > 1 {
            let eip = self.reset_eip.ok_or(LaunchError::NoResetBlock)?;
            let contents = digest::sha384(&page(eip));
            for _ in 1..vcpus {
                digest.add_vmsa_hashed(&contents);
            }
        }
        Ok(digest.value())
    }
}
