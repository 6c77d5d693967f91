//! An installation that admits SEV-SNP guests of one chip's maker, and guests to try it with.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use snp_device::Behaviour;
use software_snp::{Product, Tcb};

use super::{Chip, SnpGuest, development_root, fw_cfg};
use crate::machine::{Boot, MachineConfig};
use crate::node::{Node, STATE_MIB};
use crate::scenario::exit;
use crate::site::Site;
use crate::workspace::Workspace;
use vm::Disk;

/// How long the join service may take to log what it has already answered.
const LOG: Duration = Duration::from_secs(10);

/// A boot up to the first answer.
const BOOT: Duration = Duration::from_secs(90);

/// What the policy asks of every component; the chips here are above it.
pub const MINIMUM: Tcb = Tcb {
    fmc: 1,
    bootloader: 3,
    tee: 0,
    snp: 22,
    microcode: 211,
};

/// One scenario; its time is printed when it ends.
#[derive(Debug)]
pub struct SnpScenario {
    /// The installation, running.
    pub site: Site,
    /// What its nodes boot.
    pub guest: SnpGuest,
    /// A processor that it accepts.
    pub chip: Chip,
    /// The boot that it accepts.
    pub boot: Boot,
    /// The folder of this scenario.
    pub workspace: Workspace,
    label: String,
    started: Instant,
}

impl SnpScenario {
    /// Milan chips with their own keys, kind `sev-snp`.
    pub fn new(name: &str) -> Result<Self> {
        Self::with(name, Product::Milan, "sev-snp")
    }

    /// The same of another line, with another kind of evidence.
    pub fn with(name: &str, product: Product, evidence: &str) -> Result<Self> {
        let mut scenario = Self::prepare(name, product, evidence)?;
        let measurements = scenario.guest.measure(&scenario.site.cli, &scenario.boot)?;
        scenario.site.accept_image("test", &measurements)?;
        scenario.site.start()?;
        Ok(scenario)
    }

    /// The same before an image is accepted and the services run.
    pub fn prepare(name: &str, product: Product, evidence: &str) -> Result<Self> {
        let started = Instant::now();
        let workspace = Workspace::create(&format!("snp-{name}"))?;
        let guest = SnpGuest::prepare(&workspace)?;
        let chip = Chip::new(&development_root("own")?, product, 1);
        let site = Site::borrow(&workspace)?;
        let boot = guest.boot(evidence, &owned(&site))?;
        site.declare_policy(&policy(evidence, &chip)?)?;
        Ok(Self {
            site,
            guest,
            chip,
            boot,
            workspace,
            label: format!("snp: {name}"),
            started,
        })
    }

    /// An honest guest of the accepted chip and image.
    pub fn honest(&self) -> Result<Behaviour> {
        self.chip.guest(self.guest.measurement(&self.boot)?)
    }

    /// A new node that boots the accepted image on this guest interface.
    pub fn node(&self, name: &str, behaviour: &Behaviour) -> Result<Node> {
        let config = self.guest.machine(self.boot.clone(), behaviour)?;
        self.equip(name, config)
    }

    /// The refusal of a new node that boots the accepted image on this guest interface: the line of
    /// the join service with all of `words`.
    pub fn expect_refused(
        &self,
        name: &str,
        behaviour: &Behaviour,
        words: &[&str],
    ) -> Result<String> {
        self.expect_node_refused(&self.node(name, behaviour)?, "refused", words)
    }

    /// A new node on this guest interface that is told to come again, for the reason in a line of the
    /// join service with all of `words`. It has written nothing by then.
    pub fn expect_unavailable(
        &self,
        name: &str,
        behaviour: &Behaviour,
        words: &[&str],
    ) -> Result<()> {
        let node = self.node(name, behaviour)?;
        let position = self.site.join_service.log_position();
        let mut machine = node.start("unavailable")?;
        let line = self.site.join_service.expect_log(position, words, BOOT);
        line.with_context(|| format!("answer to {name}"))?;
        machine.console.expect("class=unavailable", LOG)?;
        machine.kill()?;
        ensure!(node.state.is_blank()?, "{name} wrote to its disk");
        Ok(())
    }

    /// As [`SnpScenario::expect_refused`], of any node.
    pub fn expect_node_refused(&self, node: &Node, boot: &str, words: &[&str]) -> Result<String> {
        let position = self.site.join_service.log_position();
        node.start(boot)?.expect_exit(&[exit::REFUSED])?;
        let line = self.site.join_service.expect_log(position, words, LOG);
        line.with_context(|| format!("refusal of {} in boot {boot}", node.name))
    }

    /// The last word of a scenario that went well: see [`Workspace::passed`].
    pub fn passed(mut self) -> Result<()> {
        self.site.kill()?;
        self.workspace.passed()
    }

    fn equip(&self, name: &str, mut config: MachineConfig) -> Result<Node> {
        let state = self.workspace.file(&format!("{name}.state.raw"));
        let state = Disk::blank_state(&state, STATE_MIB)?;
        config.disks = vec![Disk::root(&self.guest.image().root()), state.clone()];
        config.hints = Some(self.site.hints(name));
        config.forwards = vec![self.site.forward()];
        Ok(Node {
            name: name.to_owned(),
            config,
            state,
        })
    }
}

impl Node {
    /// The same node with another guest interface from its next start on.
    pub fn behave(&mut self, behaviour: &Behaviour) -> Result<()> {
        self.config.fw_cfg = vec![fw_cfg(behaviour)?];
        Ok(())
    }
}

impl Drop for SnpScenario {
    fn drop(&mut self) {
        let took = self.started.elapsed().as_secs_f64();
        println!("{} took {took:.1} s", self.label);
    }
}

/// The word of the command line that says whose image it is.
pub fn owned(site: &Site) -> String {
    format!("constellation.owner={}", site.owner)
}

/// What the owner declares: this chip's root in AMD's place, the chip's own key, VMPL 0.
pub fn policy(evidence: &str, chip: &Chip) -> Result<Value> {
    let chain = chip.root.chain(chip.product);
    let minimum = match chip.product {
        Product::Turin => json!({"fmc": MINIMUM.fmc}),
        Product::Milan | Product::Genoa => json!({}),
    };
    let mut product = json!({
        "product": chip.product.name(),
        "endorsement_key": "vcek",
        "minimum_tcb": minimum,
        "development_root": {
            "ark": pem(&chain.ark),
            "ask": pem(&chain.ask),
            "asvk": pem(&chain.asvk),
        },
    });
    let versions = [
        ("bootloader", MINIMUM.bootloader),
        ("tee", MINIMUM.tee),
        ("snp", MINIMUM.snp),
        ("microcode", MINIMUM.microcode),
    ];
    for (component, version) in versions {
        product["minimum_tcb"][component] = version.into();
    }
    let mut policy = json!({
        "version": 1,
        "serial": 1,
        "evidence": [evidence],
        "sev_snp": {
            "products": [product],
            "vmpl": 0,
            "guest_policy": {
                "allow_smt": true,
                "require_single_socket": false,
                "minimum_abi": [0, 0],
            },
            "alias_check": "required",
            "revocation_lists": "when-given",
        },
    });
    let quote = json!({"pcrs": [0, 2, 3, 4, 7, 9, 11, 12, 13, 15]});
    match evidence {
        "azure-sev-snp" => policy["azure_sev_snp"] = quote,
        "sev-snp-vtpm" => policy["sev_snp_vtpm"] = quote,
        _ => {}
    }
    Ok(policy)
}

fn pem(der: &[u8]) -> String {
    software_snp::pem("CERTIFICATE", der)
}
