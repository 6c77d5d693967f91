//! Guests that believe to be SEV-SNP guests: the test image behind a test init that provides
//! `/dev/sev-guest` (crate `snp-device`). The released agent is in it, byte for byte.
//!
//! The device signs what this harness lets it say. Its launch measurement is computed from the very
//! kernel, initial RAM disk and command line that QEMU boots, so that another command line is
//! another measurement, as with the real firmware.

mod azure;
mod collect;
mod firmware;
mod scenario;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use measure::sev_snp::{Firmware, KernelHashes, LaunchConfig, Vmm};
use serde_json::Value;
use snp_device::{Behaviour, FW_CFG_NAME};
use software_snp::{DevelopmentRoot, Leaf, Product, ReportFields, Tcb, table};

pub use azure::vouch;

use crate::cli::{Cli, Launch};
use crate::disk_guest::agent_of;
use crate::image::Image;
use crate::machine::{Boot, MachineConfig};
use crate::workspace::{Workspace, base_dir};
use vm::Accelerator;

pub use collect::{Collected, Collection};
pub use scenario::{MINIMUM, SnpScenario, owned, policy};

/// What the launch measurement depends on beside firmware, kernel and words.
const VCPU_TYPE: &str = "EPYC-Milan-v2";
/// `SEV_FEATURES` of an SNP guest with nothing else.
const GUEST_FEATURES: u64 = 1;

/// The words of an image's command line that choose its evidence.
const EVIDENCE: &str = "constellation.evidence=";

/// Components' versions of the chips here.
pub const TCB: Tcb = Tcb {
    fmc: 1,
    bootloader: 4,
    tee: 1,
    snp: 24,
    microcode: 219,
};

/// A root in AMD's place, kept for all tests of a target folder.
pub fn development_root(name: &str) -> Result<Arc<DevelopmentRoot>> {
    fs::create_dir_all(base_dir())?;
    let path = base_dir().join(format!("development-root-{name}.json"));
    let root = DevelopmentRoot::kept_in(&path);
    Ok(Arc::new(root.with_context(|| {
        format!("development root in {}", path.display())
    })?))
}

/// One processor under a root.
#[derive(Clone, Debug)]
pub struct Chip {
    /// Who made it.
    pub root: Arc<DevelopmentRoot>,
    /// Its line.
    pub product: Product,
    /// Its id.
    pub id: [u8; 64],
    /// The versions of its firmware.
    pub tcb: Tcb,
}

impl Chip {
    /// A processor of this line, and the serial number in its id.
    pub fn new(root: &Arc<DevelopmentRoot>, product: Product, serial: u8) -> Self {
        let mut id = [0; 64];
        let used = id.iter_mut().take(product.hardware_id_len());
        used.for_each(|byte| *byte = serial);
        Self {
            root: Arc::clone(root),
            product,
            id,
            tcb: TCB,
        }
    }

    /// Its own key.
    pub fn vcek(&self) -> Result<Leaf> {
        Ok(self.root.vcek(self.product, &self.id, self.tcb)?)
    }

    /// A cloud's key on it.
    pub fn vlek(&self) -> Result<Leaf> {
        let csp = "CN=cc-test.example.com";
        Ok(self.root.vlek(self.product, csp, self.tcb)?)
    }

    /// An honest guest that was launched with this measurement: a new `REPORT_ID` at each start, the
    /// VCEK and its authorities offered by the host.
    pub fn guest(&self, measurement: [u8; 48]) -> Result<Behaviour> {
        let leaf = self.vcek()?;
        let mut report = ReportFields::new(self.product, self.id, self.tcb);
        report.measurement = measurement;
        let chain = self.root.chain(self.product);
        let certificates = table::encode(&[
            (table::VCEK, leaf.certificate()),
            (table::ASK, &chain.ask),
            (table::ARK, &chain.ark),
        ]);
        Ok(Behaviour {
            leaf,
            report,
            fresh_report_id: true,
            certificates,
            answers: Vec::new(),
        })
    }
}

/// What all boots of a scenario share.
#[derive(Clone, Debug)]
pub struct SnpGuest {
    image: Image,
    processors: u8,
    initrd: PathBuf,
    firmware: PathBuf,
    workspace: Workspace,
    accelerator: Accelerator,
}

impl SnpGuest {
    /// Machines with one processor and the test image.
    pub fn prepare(workspace: &Workspace) -> Result<Self> {
        Self::of(Image::of("test")?, 1, workspace)
    }

    /// Puts the test init and its programs behind an image's initial RAM disk.
    pub fn of(image: Image, processors: u8, workspace: &Workspace) -> Result<Self> {
        let mut bytes = fs::read(image.initrd())?;
        // An archive after another one starts at a multiple of four bytes.
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        let addition = Image::of("test")?.snp_device();
        bytes.extend(
            fs::read(&addition)
                .with_context(|| format!("no {}\nhint: `make image`", addition.display()))?,
        );
        let initrd = workspace.file("snp.cpio");
        fs::write(&initrd, bytes)?;
        let firmware = workspace.file("snp-firmware.fd");
        fs::write(&firmware, firmware::build())?;
        Ok(Self {
            accelerator: crate::accelerator(&image.kernel())?,
            image,
            processors,
            initrd,
            firmware,
            workspace: workspace.clone(),
        })
    }

    /// The boot that attests with this kind; `more` are further words of the command line.
    pub fn boot(&self, evidence: &str, more: &str) -> Result<Boot> {
        let line = self.image.cmdline()?;
        let words = line
            .split_whitespace()
            .filter(|word| !word.starts_with(EVIDENCE));
        let words: Vec<_> = words.collect();
        let line = words.join(" ");
        let cmdline = format!("{line} {EVIDENCE}{evidence} rdinit=/snp-device {more}");
        Ok(Boot::Kernel {
            kernel: self.image.kernel(),
            initrd: self.initrd.clone(),
            cmdline: cmdline.trim_end().to_owned(),
        })
    }

    /// The launch measurement of a boot, as the firmware of an SNP machine would make it.
    pub fn measurement(&self, boot: &Boot) -> Result<[u8; 48]> {
        let Boot::Kernel {
            kernel,
            initrd,
            cmdline,
        } = boot
        else {
            bail!("only a direct boot is measured");
        };
        let firmware = fs::read(&self.firmware)?;
        let config = LaunchConfig {
            firmware: Firmware::parse(&firmware)?,
            kernel: Some(KernelHashes::of(
                &fs::read(kernel)?,
                &fs::read(initrd)?,
                cmdline,
            )),
            guest_features: GUEST_FEATURES,
            vmm: Vmm::Qemu,
        };
        Ok(config
            .prepare()?
            .measurement(self.processors.into(), VCPU_TYPE.parse()?)?)
    }

    /// The same as the operator's tool computes it, in the form of `constellation measure`.
    pub fn measure(&self, cli: &Cli, boot: &Boot) -> Result<Value> {
        let Boot::Kernel {
            kernel,
            initrd,
            cmdline,
        } = boot
        else {
            bail!("only a direct boot is measured");
        };
        let line = self.workspace.file("snp.cmdline");
        fs::write(&line, cmdline)?;
        let launch = Launch {
            firmware: &self.firmware,
            kernel,
            initrd,
            cmdline: &line,
        };
        cli.measure_launch(&launch, self.processors.into(), VCPU_TYPE)
    }

    /// A machine without disks and network services whose device behaves like this.
    pub fn machine(&self, boot: Boot, behaviour: &Behaviour) -> Result<MachineConfig> {
        let mut config = MachineConfig::new(&self.workspace, self.accelerator, boot);
        config.processors = self.processors;
        config.fw_cfg = vec![fw_cfg(behaviour)?];
        Ok(config)
    }

    /// The test image.
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// The agent that these boots run: `/init` of the image, which the addition leaves as it is.
    pub fn agent_digest(&self) -> Result<[u8; 32]> {
        let original = fs::read(self.image.initrd())?;
        ensure!(
            fs::read(&self.initrd)?.starts_with(&original),
            "the initial RAM disk does not begin with the image's"
        );
        let addition = fs::read(Image::of("test")?.snp_device())?;
        let replaces = addition.windows(6).any(|name| name == b"\0init\0");
        ensure!(!replaces, "the addition has an /init of its own");
        agent_of(&self.image)
    }
}

/// The file that the device reads its behaviour from.
pub fn fw_cfg(behaviour: &Behaviour) -> Result<(String, String)> {
    Ok((FW_CFG_NAME.to_owned(), serde_json::to_string(behaviour)?))
}
