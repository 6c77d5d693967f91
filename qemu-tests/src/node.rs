//! One node: a machine with TPM, verified root, state disk and hints, over many boots.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::agent_line::{AgentExit, AgentStep};
use crate::image::Image;
use crate::machine::{Machine, MachineConfig};
use crate::site::Site;
use vm::Disk;
use vm::{Swtpm, TpmAuthority};

/// A boot that says nothing for so long has failed.
const SILENCE: Duration = Duration::from_secs(120);

/// A boot that says much and comes to no end has failed too: an agent may wait for ever.
const ENDLESS: Duration = Duration::from_secs(240);

/// Powering off after the last line.
const POWER_OFF: Duration = Duration::from_secs(30);

/// Size of a state disk; it takes only the space that is written.
pub(crate) const STATE_MIB: u64 = 1024;

/// A node.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its name in hints and records.
    pub name: String,
    /// Its machine.
    pub config: MachineConfig,
    /// Its state disk, the machine's second one.
    pub state: Disk,
}

impl Node {
    /// A new node of `site` on `config`'s firmware and image: a TPM of its own, a blank disk.
    pub fn new(
        name: &str,
        mut config: MachineConfig,
        image: &Image,
        site: &Site,
        authority: &TpmAuthority,
    ) -> Result<Self> {
        let workspace = config.workspace.clone();
        let tpm = Swtpm::manufacture(&workspace.file(&format!("{name}.tpm")), authority)?;
        let state = Disk::blank_state(&workspace.file(&format!("{name}.state.raw")), STATE_MIB)?;
        config.tpm = Some(tpm);
        config.disks = vec![Disk::root(&image.root()), state.clone()];
        config.hints = Some(site.hints(name));
        config.forwards = vec![site.forward()];
        Ok(Self {
            name: name.to_owned(),
            config,
            state,
        })
    }

    /// Starts the node; `boot` names this boot's logs.
    pub fn start(&self, boot: &str) -> Result<Machine> {
        self.config.start(&format!("{}.{boot}", self.name))
    }

    /// The same node with another state disk.
    pub fn with_state(&self, state: &Disk) -> Self {
        let mut node = self.clone();
        if let Some(disk) = node.config.disks.last_mut() {
            *disk = state.clone();
        }
        node.state = state.clone();
        node
    }

    /// Makes the state disk all zero.
    pub fn blank_state(&self) -> Result<()> {
        self.state.blank(STATE_MIB)
    }
}

/// What a test expects of a node's boot.
impl Machine {
    /// Follows the agent until a step is the wanted one, and shows the others to `seen`. An agent
    /// that gives up instead is an error.
    pub fn follow(
        &mut self,
        wanted: impl Fn(&AgentStep) -> bool,
        mut seen: impl FnMut(&AgentStep),
    ) -> Result<AgentStep> {
        let end = Instant::now() + ENDLESS;
        loop {
            let line = self.console.next_line(SILENCE)?;
            let log = self.console.log().display();
            let line = line.with_context(|| format!("the machine ended; log: {log}"))?;
            ensure!(Instant::now() < end, "no end in {ENDLESS:?}; log: {log}");
            let Some(step) = AgentStep::parse(&line.text) else {
                continue;
            };
            if wanted(&step) {
                return Ok(step);
            }
            if let Some(exit) = step.exit() {
                bail!("the agent gave up: {exit:?}; log: {log}");
            }
            seen(&step);
        }
    }

    /// The real root mounts its state file system, has started `counter` times on it, powers off.
    pub fn expect_counter(&mut self, counter: u32) -> Result<()> {
        self.console
            .expect(&format!("root: counter={counter}"), SILENCE)?;
        self.console.expect("root: status=ok", SILENCE)?;
        self.wait_off(POWER_OFF).map(drop)
    }

    /// The agent unlocks the state disk, and then as [`Machine::expect_counter`].
    pub fn expect_unlocked(&mut self, counter: u32) -> Result<()> {
        self.expect_step("switch-root")?;
        self.expect_counter(counter)
    }

    /// The agent gives up with one of these exit codes and the machine is off.
    pub fn expect_exit(&mut self, codes: &[u32]) -> Result<AgentExit> {
        let ended = |step: &AgentStep| matches!(step.name.as_str(), "exit" | "switch-root");
        let step = self.follow(ended, |_| ())?;
        let log = self.console.log().display();
        let exit = step
            .exit()
            .with_context(|| format!("the node was let in; log: {log}"))?;
        ensure!(
            codes.contains(&exit.code),
            "expected exit code {codes:?}, got {exit:?}; log: {log}"
        );
        self.wait_off(POWER_OFF)?;
        Ok(exit)
    }

    /// The agent reports a step of this name.
    pub fn expect_step(&mut self, name: &str) -> Result<AgentStep> {
        self.follow(|step| step.name == name, |_| ())
    }
}
