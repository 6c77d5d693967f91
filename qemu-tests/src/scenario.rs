//! What every scenario starts from: an installation that runs, and an image that it accepts.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::golden::{direct_boot_pcrs, firmware_event_log};
use crate::image::Image;
use crate::machine::{Boot, Machine, MachineConfig};
use crate::node::Node;
use crate::site::Site;
use crate::workspace::Workspace;
use vm::Accelerator;
use vm::TpmAuthority;

/// Exit codes of the agent that scenarios expect (`docs/agent.md`, table of exit reasons).
pub mod exit {
    /// The root file system does not match the measured root hash.
    pub const ROOT_REFUSED: u32 = 21;
    /// There is no state disk, or more than one.
    pub const STATE_DISK_MISSING: u32 = 40;
    /// The state disk is neither blank nor a state disk.
    pub const STATE_DISK_UNUSABLE: u32 = 41;
    /// A server that acts for the owner refused the node.
    pub const REFUSED: u32 = 51;
    /// The host kept the SNP firmware busy for longer than the agent asks again.
    pub const THROTTLED: u32 = 52;
    /// The SNP device did not answer in time.
    pub const STALLED: u32 = 53;
    /// The SNP firmware, the host or the driver refused to make a report.
    pub const EVIDENCE_REFUSED: u32 = 54;
    /// The SNP device answered with something that is no report.
    pub const EVIDENCE_MALFORMED: u32 = 55;
    /// The header does not open with the released key.
    pub const HEADER_REFUSED: u32 = 60;
    /// The header is older than the record.
    pub const HEADER_TOO_OLD: u32 = 61;
    /// The blank state disk could not be formatted.
    pub const FORMAT: u32 = 62;
    /// A live table or the integrity superblock differs from the one asked for.
    pub const MAPPING_DIFFERS: u32 = 63;
    /// The state disk could not be mapped.
    pub const MAPPING: u32 = 64;
}

/// How long the join service may take to log what it has already answered.
const LOG: Duration = Duration::from_secs(10);

/// One scenario; its time is printed when it ends.
#[derive(Debug)]
pub struct Scenario {
    /// The installation, running.
    pub site: Site,
    /// The image that it accepts, as built.
    pub image: Image,
    /// Who makes the TPMs that it accepts.
    pub authority: TpmAuthority,
    /// The folder of this scenario.
    pub workspace: Workspace,
    /// What a machine of this tier boots.
    pub boot: Boot,
    /// How it runs.
    pub accelerator: Accelerator,
    label: String,
    started: Instant,
}

impl Scenario {
    /// Firmware, UKI and a TPM that firmware measures into.
    pub fn firmware(name: &str) -> Result<Self> {
        let mut scenario = Self::prepare("uki", name)?;
        let owned = scenario.workspace.file("owned.efi");
        let uki = scenario.image.uki();
        scenario.site.cli.image_own(&uki, &owned)?;
        let log = firmware_event_log(scenario.accelerator)?;
        let measurements = scenario.site.cli.measure(&owned, &log)?;
        scenario.boot = Boot::Firmware { uki: owned };
        scenario.open(&measurements)
    }

    /// The same kernel, initial RAM disk and command line without firmware, nine seconds faster.
    /// The command line is not measured then, so nothing about images is shown in this tier.
    pub fn direct(name: &str) -> Result<Self> {
        let scenario = Self::prepare("direct", name)?;
        let measurements = direct_boot_pcrs(scenario.accelerator)?;
        scenario.open(&measurements)
    }

    fn prepare(tier: &str, name: &str) -> Result<Self> {
        let workspace = Workspace::create(&format!("{tier}-{name}"))?;
        let image = Image::of("test")?;
        let site = Site::borrow(&workspace)?;
        let owner = format!("constellation.owner={}", site.owner);
        Ok(Self {
            boot: image.direct(&owner)?,
            accelerator: crate::accelerator(&image.kernel())?,
            authority: TpmAuthority::create(&workspace.file("tpm-authority"))?,
            site,
            image,
            workspace,
            label: format!("{tier}: {name}"),
            started: Instant::now(),
        })
    }

    /// Accepts the image and starts the services.
    fn open(mut self, measurements: &serde_json::Value) -> Result<Self> {
        self.site.trust(&self.authority)?;
        self.site.accept_image("test", measurements)?;
        self.site.start()?;
        Ok(self)
    }

    /// A new node with the accepted image.
    pub fn node(&self, name: &str) -> Result<Node> {
        let config = MachineConfig::new(&self.workspace, self.accelerator, self.boot.clone());
        Node::new(name, config, &self.image, &self.site, &self.authority)
    }

    /// Boots the node, which must be refused, and finds the join service's line with all of `words`.
    pub fn expect_refused(&self, node: &Node, boot: &str, words: &[&str]) -> Result<String> {
        let position = self.site.join_service.log_position();
        let mut machine: Machine = node.start(boot)?;
        machine.expect_exit(&[exit::REFUSED])?;
        let line = self.site.join_service.expect_log(position, words, LOG);
        line.with_context(|| format!("refusal of {} in boot {boot}", node.name))
    }

    /// The last word of a scenario that went well: see [`Workspace::passed`].
    pub fn passed(mut self) -> Result<()> {
        self.site.kill()?;
        self.workspace.passed()
    }
}

impl Drop for Scenario {
    fn drop(&mut self) {
        println!(
            "{} took {:.1} s",
            self.label,
            self.started.elapsed().as_secs_f64()
        );
    }
}
