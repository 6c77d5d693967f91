//! `constellation measure --sev-snp`: what the launch of a SEV-SNP guest measures.

use anyhow::{Context as _, Result};
use appraisal::document::LaunchDigest;
use clap::Args;
use evidence::EvidenceKind;
use measure::{
    cmdline::Cmdline,
    sev_snp::{Firmware, KernelHashes, LaunchConfig, MAX_VCPUS, VcpuSignature, Vmm},
    uki::Uki,
};
use serde::{Deserialize, Serialize};
use std::{fmt, path::PathBuf, str::FromStr};

use super::check_kind;
use crate::{files, output::WithHint as _};

/// How the guest is started: QEMU's direct boot with `kernel-hashes=on`. There is no measurement of
/// a firmware alone, because such firmware starts any disk that the host gives it.
#[derive(Args, Debug)]
pub(crate) struct LaunchArgs {
    /// Compute launch measurements of a SEV-SNP guest instead, started by QEMU's direct boot with
    /// `kernel-hashes=on`
    #[arg(
        long = "sev-snp",
        requires_all = ["firmware", "vcpus", "vcpu_types"],
        conflicts_with = "event_log"
    )]
    enabled: bool,
    /// Firmware that checks kernel hashes, such as `OVMF.amdsev.fd`
    #[arg(long, value_name = "FILE", requires = "enabled")]
    firmware: Option<PathBuf>,
    /// Kernel, as after QEMU's `-kernel`, instead of an image
    #[arg(
        long,
        value_name = "FILE",
        requires = "enabled",
        conflicts_with = "uki"
    )]
    kernel: Option<PathBuf>,
    /// Initramfs, as after `-initrd`
    #[arg(long, value_name = "FILE", requires = "kernel")]
    initrd: Option<PathBuf>,
    /// File with the command line, as after `-append`; one newline at its end does not count
    #[arg(long, value_name = "FILE", requires = "kernel")]
    cmdline: Option<PathBuf>,
    /// Numbers of virtual CPUs that a guest may have
    #[arg(
        long,
        value_name = "N",
        value_delimiter = ',',
        requires = "enabled",
        value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_VCPUS))
    )]
    vcpus: Vec<u32>,
    /// Types of virtual CPU, as after QEMU's `-cpu` (`EPYC-Milan`, `EPYC-v4`), or a signature (EAX
    /// of CPUID leaf 1) like `0x00a00f11` for `-cpu host`
    #[arg(
        long = "vcpu-type",
        value_name = "TYPE",
        value_delimiter = ',',
        requires = "enabled"
    )]
    vcpu_types: Vec<VcpuType>,
    /// `SEV_FEATURES` of the virtual CPUs, in hexadecimal
    #[arg(long, value_name = "HEX", requires = "enabled", default_value = "0x1")]
    guest_features: Hex,
}

impl LaunchArgs {
    pub(super) const fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// Measures a launch for each number and type of virtual CPUs.
    pub(super) fn measure(&self, uki: Option<&PathBuf>) -> Result<Vec<Launch>> {
        let path = self.firmware.as_ref().context("no `--firmware`")?;
        let firmware = files::read(path)?;
        let config = LaunchConfig {
            firmware: Firmware::parse(&firmware)
                .with_context(|| format!("read firmware `{}`", path.display()))
                .hint("give a build of OVMF for SEV-SNP, such as `OVMF.amdsev.fd`")?,
            kernel: Some(self.kernel_hashes(uki)?),
            guest_features: self.guest_features.0,
            vmm: Vmm::Qemu,
        };
        let prepared = config
            .prepare()
            .with_context(|| format!("measure a launch of `{}`", path.display()))?;
        let mut launches = Vec::new();
        for vcpu_type in &self.vcpu_types {
            for vcpus in &self.vcpus {
                let measurement = prepared.measurement(*vcpus, vcpu_type.signature)?;
                launches.push(Launch {
                    vcpus: *vcpus,
                    vcpu_type: vcpu_type.name.clone(),
                    measurement: LaunchDigest(measurement),
                });
            }
        }
        Ok(launches)
    }

    fn kernel_hashes(&self, uki: Option<&PathBuf>) -> Result<KernelHashes> {
        let optional = |path: &Option<PathBuf>| match path {
            Some(path) => files::read(path),
            None => Ok(Vec::new()),
        };
        if let Some(path) = uki {
            return hashes_of_uki(&files::read(path)?)
                .with_context(|| format!("measure `{}`", path.display()))
                .hint("give a unified kernel image (UKI), as built by `make image`");
        }
        let kernel = self.kernel.as_ref().context("no image and no `--kernel`")?;
        let cmdline = optional(&self.cmdline)?;
        let cmdline = cmdline.strip_suffix(b"\n").unwrap_or(&cmdline);
        let cmdline = Cmdline::parse(cmdline).context("read the command line")?;
        check_kind(&cmdline, is_launched)?;
        let initrd = optional(&self.initrd)?;
        let kernel = files::read(kernel)?;
        Ok(KernelHashes::of(&kernel, &initrd, cmdline.as_str()))
    }
}

/// Whether the image's own launch is what the report of this kind measures.
fn is_launched(kind: EvidenceKind) -> bool {
    kind.has_report() && !kind.has_latch()
}

/// A UKI's parts, as `image unpack` writes them.
fn hashes_of_uki(bytes: &[u8]) -> Result<KernelHashes> {
    let uki = Uki::parse(bytes)?;
    check_kind(uki.cmdline(), is_launched)?;
    let (kernel, initrd) = (uki.section(".linux")?, uki.section(".initrd")?);
    Ok(KernelHashes::of(kernel, initrd, uki.cmdline().as_str()))
}

/// One launch and what it measures.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Launch {
    vcpus: u32,
    vcpu_type: String,
    pub(super) measurement: LaunchDigest,
}

impl fmt::Display for Launch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (vcpus, vcpu_type) = (self.vcpus, &self.vcpu_type);
        write!(f, "{vcpus:>4}  {vcpu_type:<14}  {}", self.measurement)
    }
}

/// A type of virtual CPU, under the name the operator gave.
#[derive(Clone, Debug)]
struct VcpuType {
    name: String,
    signature: VcpuSignature,
}

impl FromStr for VcpuType {
    type Err = measure::sev_snp::UnknownVcpuType;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self {
            name: text.to_owned(),
            signature: text.parse()?,
        })
    }
}

/// A number in hexadecimal, with `0x`.
#[derive(Clone, Copy, Debug)]
struct Hex(u64);

impl FromStr for Hex {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = text
            .strip_prefix("0x")
            .map(|digits| u64::from_str_radix(digits, 16));
        match number {
            Some(Ok(number)) => Ok(Self(number)),
            _ => Err("expected a hexadecimal number like `0x1`"),
        }
    }
}
