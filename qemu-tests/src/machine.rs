//! Virtual machines: what they consist of, and a running one.

mod arguments;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tempfile::TempDir;
use vm::{Accelerator, Disk, OVMF, Qmp, Swtpm};

pub use arguments::{GUEST_JOIN_SERVICE, GUEST_NETWORK, PUSH_PORT};

use crate::console::Console;
use crate::lan::Lan;
use crate::name_server::NameServer;
use crate::process::{Process, contained, run};
use crate::swtpm::PoweredTpm;
use crate::workspace::{MachineSlot, Workspace, base_dir, free_port, program, target_dir};

/// Where the agent looks for hints.
const HINTS: &str = "opt/org.constellation/hints";

/// What the machine boots, and how.
#[derive(Clone, Debug)]
pub enum Boot {
    /// OVMF firmware loads a UKI from an EFI system partition.
    Firmware {
        /// The unified kernel image.
        uki: PathBuf,
    },
    /// QEMU loads kernel, initrd and command line itself (nine seconds faster under emulation).
    Kernel {
        /// The kernel.
        kernel: PathBuf,
        /// The initial RAM disk.
        initrd: PathBuf,
        /// The kernel's command line.
        cmdline: String,
    },
}

/// The description of a machine; the same one can be started again and again.
#[derive(Clone, Debug)]
pub struct MachineConfig {
    pub(crate) workspace: Workspace,
    pub(crate) accelerator: Accelerator,
    /// What to boot.
    pub boot: Boot,
    /// The firmware's file name in Debian's package `ovmf`.
    pub firmware: String,
    /// Main memory.
    pub memory_mib: u32,
    /// Processors.
    pub processors: u8,
    /// The TPM; it keeps its identity over boots.
    pub tpm: Option<Swtpm>,
    /// Disks in the order of their bus addresses.
    pub disks: Vec<Disk>,
    /// Whether it is on a network with others, and there with which number; else it is alone on one.
    pub lan: Option<(Lan, u8)>,
    /// Who gives addresses and resolves names; none: QEMU gives an address, and no name resolves.
    pub name_server: Option<NameServer>,
    /// Loopback port of a metadata service; none: the address does not answer.
    pub metadata: Option<u16>,
    /// Guest address and loopback port pairs, beside the metadata service.
    pub forwards: Vec<(String, u16)>,
    /// Hints through `fw_cfg`.
    pub hints: Option<String>,
    /// Other files through `fw_cfg`: names and contents.
    pub fw_cfg: Vec<(String, String)>,
    /// Strings of the host in the SMBIOS tables.
    pub oem_strings: Vec<String>,
    /// The clock at power-on, `YYYY-MM-DDTHH:MM:SS`; none: the host's.
    pub clock: Option<String>,
    /// Start with the network cable pulled; [`Qmp::set_link`] plugs it in.
    pub link_down: bool,
    /// Whether a guest's reboot restarts the machine; else it ends it.
    pub reboots: bool,
    /// Print every console line as it comes.
    pub echo: bool,
}

/// A running machine. It ends with the value.
#[derive(Debug)]
pub struct Machine {
    /// The serial console of this boot.
    pub console: Console,
    process: Process,
    qmp: Qmp,
    push_port: u16,
    _tpm: Option<PoweredTpm>,
    _files: TempDir,
    /// None once the machine is off: what follows it in the same test may need the slot.
    slot: Option<MachineSlot>,
}

/// QEMU: the one that `xtask setup` has unpacked, else the system's. Debian 12's own (7.2) damages
/// the memory of a guest that encrypts much data under emulation.
pub fn qemu() -> PathBuf {
    tool("qemu-system-x86_64")
}

/// A program that `xtask setup` has unpacked, else the system's.
pub fn tool(name: &str) -> PathBuf {
    let unpacked = target_dir().join("tools/bin").join(name);
    unpacked.canonicalize().unwrap_or_else(|_| name.into())
}

/// KVM if `kernel` boots under it, else emulation.
pub fn accelerator(kernel: &Path) -> Result<Accelerator> {
    Accelerator::probe(&qemu(), kernel, &base_dir())
}

impl MachineConfig {
    /// A machine with one processor and 512 MiB, without TPM, disks and hints.
    pub fn new(workspace: &Workspace, accelerator: Accelerator, boot: Boot) -> Self {
        Self {
            workspace: workspace.clone(),
            accelerator,
            boot,
            firmware: OVMF.to_owned(),
            memory_mib: 512,
            processors: 1,
            tpm: None,
            disks: Vec::new(),
            lan: None,
            name_server: None,
            metadata: None,
            forwards: Vec::new(),
            hints: None,
            fw_cfg: Vec::new(),
            oem_strings: Vec::new(),
            clock: None,
            link_down: false,
            reboots: false,
            echo: false,
        }
    }

    /// Starts the machine; `name` names this boot's logs.
    ///
    /// It lives no longer than the calling thread.
    pub fn start(&self, name: &str) -> Result<Machine> {
        let slot = MachineSlot::acquire()?;
        let files = tempfile::tempdir()?;
        let tpm = self.tpm.as_ref().map(PoweredTpm::of).transpose()?;
        let push_port = free_port()?;
        let esp = self.write_esp(files.path())?;
        let qmp = Qmp::new(files.path().join("qmp.sock"));
        let fw_cfg = self.write_fw_cfg(files.path())?;
        let plan = arguments::Plan {
            config: self,
            esp: esp.as_deref(),
            fw_cfg: &fw_cfg,
            tpm: tpm.as_ref().map(PoweredTpm::socket),
            qmp: qmp.path(),
            push_port,
            relay: &program("relay")?,
        };
        let mut command = contained(qemu());
        command.args(plan.arguments()?);
        let log = self.workspace.file(&format!("{name}.qemu.log"));
        let mut process = Process::spawn_piped("QEMU", command, &log)?;
        let started = Instant::now();
        let stdout = process.take_stdout().context("QEMU has no console")?;
        let log = self.workspace.file(&format!("{name}.console.log"));
        let console = Console::follow(stdout, started, &log, self.echo)?;
        let mut machine = Machine {
            console,
            process,
            qmp,
            push_port,
            _tpm: tpm,
            _files: files,
            slot: Some(slot),
        };
        if self.link_down {
            machine.qmp.set_link(false)?;
        }
        Ok(machine)
    }

    fn write_esp(&self, dir: &Path) -> Result<Option<PathBuf>> {
        let Boot::Firmware { uki } = &self.boot else {
            return Ok(None);
        };
        let image = dir.join("esp.raw");
        run(Command::new(program("xtask")?)
            .arg("esp")
            .args([uki, &image]))?;
        Ok(Some(image))
    }

    /// Writes the hints and the other files; returns their names and where they are.
    fn write_fw_cfg(&self, dir: &Path) -> Result<Vec<(String, PathBuf)>> {
        let hints = self.hints.iter().map(|hints| (HINTS, hints));
        let others = self.fw_cfg.iter().map(|(name, content)| (&**name, content));
        let mut files = Vec::new();
        for (index, (name, content)) in hints.chain(others).enumerate() {
            let path = dir.join(format!("fw_cfg-{index}"));
            std::fs::write(&path, content)?;
            files.push((name.to_owned(), path));
        }
        Ok(files)
    }
}

impl Machine {
    /// The loopback port that leads to the agent's own listener.
    pub fn push_port(&self) -> u16 {
        self.push_port
    }

    /// QEMU's control channel.
    pub fn qmp(&mut self) -> &mut Qmp {
        &mut self.qmp
    }

    /// Ends the machine as a power cut would.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()?;
        self.slot = None;
        Ok(())
    }

    /// QEMU's exit status once the machine is off.
    pub fn exit_status(&mut self) -> Result<Option<ExitStatus>> {
        self.process.exit_status()
    }

    /// Waits until the guest has powered off, and for the console to be read to its end.
    pub fn wait_off(&mut self, timeout: Duration) -> Result<ExitStatus> {
        self.console.wait_closed(timeout)?;
        let status = self.process.wait(timeout)?;
        self.slot = None;
        anyhow::ensure!(
            status.success(),
            "QEMU ended with {status}; log: {}",
            self.process.log().display()
        );
        Ok(status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unpacked_qemu_goes_before_the_systems() {
        let unpacked = target_dir().join("tools/bin/qemu-system-x86_64");
        assert_eq!(qemu().is_absolute(), unpacked.exists());
    }
}
