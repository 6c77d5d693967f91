//! The machines and their network, as processes that stay when this command ends.

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::json;
use std::{
    fs,
    net::SocketAddrV4,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant, UNIX_EPOCH},
};
use vm::{
    Accelerator, Arguments, Board, Daemon, Disk, Forward, OVMF, Qmp, Swtpm, TpmAuthority, on_switch,
};

use super::{
    folder::{Folder, Node, Plan},
    progress::Progress,
};
use crate::{files, output::WithHint as _};

/// How often a waiting loop looks again.
const POLL: Duration = Duration::from_millis(100);

/// Firmware, kernel and DHCP under emulation on a busy computer.
const BOOT: Duration = Duration::from_secs(300);

/// A program that is to listen does so at once, or has failed.
const LISTEN: Duration = Duration::from_secs(20);

/// Size of a state disk; it takes only the space that is written.
const STATE_MIB: u64 = 16 * 1024;

const PROCESSORS: u8 = 2;

/// Where the agent looks for hints (docs/agent.md).
const HINTS: &str = "opt/org.constellation/hints";

/// The machines of a cluster.
#[derive(Debug)]
pub(super) struct Guests<'a> {
    pub(super) folder: &'a Folder,
    pub(super) plan: Plan,
    pub(super) progress: Progress,
    accelerator: Accelerator,
}

impl<'a> Guests<'a> {
    pub(super) fn new(folder: &'a Folder, plan: Plan, progress: &Progress) -> Result<Self> {
        let kernel = plan.image.join("vmlinuz");
        let accelerator = Accelerator::probe(&plan.qemu, &kernel, folder.path())
            .context("try whether KVM works")?;
        progress.say(&format!("machines run by {accelerator}"));
        Ok(Self {
            folder,
            plan,
            progress: *progress,
            accelerator,
        })
    }

    pub(super) fn nodes(&self) -> &[Node] {
        &self.plan.nodes
    }

    pub(super) fn node(&self, name: &str) -> Result<&Node> {
        let found = self.nodes().iter().find(|node| node.name == name);
        found.ok_or_else(|| anyhow!("no node `{name}`")).hint({
            let names: Vec<_> = self.nodes().iter().map(|node| node.name.as_str()).collect();
            format!("there are {}", names.join(", "))
        })
    }

    /// The control plane.
    pub(super) fn first(&self) -> Result<&Node> {
        self.nodes().first().context("the plan has no nodes")
    }

    /// A manufacturer of TPMs, and one TPM a machine.
    pub(super) fn make_tpms(&self) -> Result<TpmAuthority> {
        let authority = self.folder.file("tpm-authority");
        let authority = match authority.join("issuercert.pem").is_file() {
            true => TpmAuthority::of(&authority),
            false => TpmAuthority::create(&authority).hint("install swtpm and swtpm-tools")?,
        };
        for node in self.nodes() {
            let dir = self.folder.node(&node.name);
            files::create_dir(&dir)?;
            let (made, making) = (dir.join("tpm"), dir.join("tpm.new"));
            if !made.is_dir() {
                self.progress
                    .say(&format!("{}: its TPM is made", node.name));
                Swtpm::manufacture(&making, &authority)?;
                fs::rename(&making, &made).context("keep the TPM")?;
            }
            let state = dir.join("state.raw");
            if !state.exists() {
                Disk::blank_state(&state, STATE_MIB)?;
            }
        }
        Ok(authority)
    }

    /// One Ethernet for all machines, and loopback ports that lead to them.
    pub(super) fn start_network(&self) -> Result<()> {
        let socket = self.switch();
        let switch = Daemon::of(&self.folder.run("switch.pid"));
        if !switch.is_running() {
            drop(fs::remove_file(&socket));
            let own = std::env::current_exe().context("find this program")?;
            let mut arguments = Command::new(&own);
            arguments.args(["mini", "switch"]).arg(&socket);
            switch.start(&own, &arguments, &self.folder.file("switch.log"))?;
            wait_socket(&switch, &socket)?;
        }
        let uplink = self.uplink();
        if uplink.is_running() {
            return Ok(());
        }
        let mut forwards = Vec::new();
        for node in self.nodes() {
            let mut forward = |port: u16, to: u16| {
                let to = SocketAddrV4::new(node.address, to);
                forwards.push(Forward { port, to });
            };
            forward(node.ports.agent, 30091);
            forward(node.ports.verification, 30081);
            if let Some(port) = node.ports.api {
                forward(port, 6443);
            }
        }
        let qmp = self.folder.run("uplink.qmp");
        let args = Arguments::uplink(&qmp, &self.switch(), &forwards);
        self.progress.say("the network starts");
        self.start_qemu(&uplink, args, "uplink.log", &qmp)
    }

    /// Without machines on it.
    pub(super) fn stop_network(&self) -> Result<()> {
        self.uplink().kill()?;
        Daemon::of(&self.folder.run("switch.pid")).kill()
    }

    /// Boots what is off, one after the other: addresses are handed out in the order of asking.
    pub(super) fn start_all(&self) -> Result<()> {
        for node in self.nodes() {
            self.start(node)?;
        }
        Ok(())
    }

    /// Boots a machine that is off, and waits until it has its address.
    pub(super) fn start(&self, node: &Node) -> Result<()> {
        let daemon = self.daemon(node);
        if daemon.is_running() {
            return Ok(());
        }
        let dir = self.folder.node(&node.name);
        let console = dir.join("console.log");
        if console.exists() {
            fs::rename(&console, dir.join("console.previous.log")).context("keep the console")?;
        }
        let (boot, next) = (dir.join("boot.img"), dir.join("boot.next.img"));
        if next.exists() {
            fs::rename(&next, &boot).context("take the next boot disk")?;
        }
        self.progress.say(&format!("{}: boots", node.name));
        let tpm = self.start_tpm(node)?;
        let hints = self.write_hints(node)?;
        let serial = format!("file:{}", vm::escape(&console));
        let qmp = self.qmp(node);
        let mut args = self.board(&serial, &qmp, true);
        args.firmware(OVMF, &boot);
        args.tpm(&tpm);
        args.disks(&[
            Disk::root(&node.image.join("root.img")),
            Disk::state(&dir.join("state.raw")).without_flushes(),
        ]);
        let [.., last] = node.address.octets();
        args.card(
            &on_switch(&self.switch()),
            Some(&format!("52:54:00:c0:57:{last:02x}")),
        );
        if let Some(hints) = hints {
            args.fw_cfg(HINTS, &hints);
        }
        let log = format!("nodes/{}/qemu.log", node.name);
        self.start_qemu(&daemon, args, &log, &qmp)?;
        self.wait_address(node, &daemon)
    }

    /// What all machines have in common.
    fn board(&self, serial: &str, qmp: &Path, reboots: bool) -> Arguments {
        Arguments::of(&Board {
            accelerator: self.accelerator,
            memory_mib: self.plan.memory_mib,
            processors: PROCESSORS,
            serial,
            qmp,
            clock: None,
            reboots,
        })
    }

    /// Presses the power buttons, waits, and cuts the power of those that stay on; their names.
    pub(super) fn power_off(&self, nodes: &[&Node], patience: Duration) -> Result<Vec<String>> {
        let mut cut = Vec::new();
        let end = Instant::now() + patience;
        for node in nodes {
            if self.daemon(node).is_running() {
                self.progress.say(&format!("{}: shuts down", node.name));
                // One that does not listen loses its power below.
                drop(Qmp::new(self.qmp(node)).power_down());
            }
        }
        for node in nodes {
            let daemon = self.daemon(node);
            if !daemon.ends_within(end.saturating_duration_since(Instant::now())) {
                self.progress
                    .say(&format!("{}: its power is cut", node.name));
                daemon.kill()?;
                cut.push(node.name.clone());
            }
            let tpm = self.tpm(node);
            if !tpm.ends_within(Duration::from_secs(2)) {
                tpm.kill()?;
            }
        }
        Ok(cut)
    }

    /// Whether the machine's present boot has its disk.
    pub(super) fn is_unlocked(&self, node: &Node) -> Result<bool> {
        let console = self.folder.node(&node.name).join("console.log");
        let text = fs::read(&console).context("read the console")?;
        Ok(String::from_utf8_lossy(&text).contains(" switch-root"))
    }

    /// The nodes, and when the present boot of each began, in seconds since 1970.
    pub(super) fn boots(&self) -> Result<Vec<(&str, u64)>> {
        let mut boots = Vec::new();
        for node in self.nodes() {
            let started = self.daemon(node).started();
            let started = started.with_context(|| format!("{} went off", node.name))?;
            let since = started.duration_since(UNIX_EPOCH).unwrap_or_default();
            boots.push((node.name.as_str(), since.as_secs()));
        }
        Ok(boots)
    }

    /// Runs the probe to its end and gives the lines of its console.
    pub(super) fn run_probe(&self, esp: &Path, tpm: &Swtpm) -> Result<String> {
        let console = self.folder.run("probe.console");
        let (socket, qmp) = (self.folder.run("probe.tpm"), self.folder.run("probe.qmp"));
        let swtpm = Daemon::of(&self.folder.run("probe.tpm.pid"));
        self.start_swtpm(&swtpm, tpm, &socket)?;
        let serial = format!("file:{}", vm::escape(&console));
        let mut args = self.board(&serial, &qmp, false);
        args.firmware(OVMF, esp);
        args.tpm(&socket);
        args.card("user,restrict=on,ipv6=off", None);
        let qemu = Daemon::of(&self.folder.run("probe.pid"));
        self.start_qemu(&qemu, args, "probe.log", &qmp)?;
        let ended = qemu.ends_within(BOOT);
        qemu.kill()?;
        swtpm.kill()?;
        if !ended {
            bail!(
                "the probe image does not end; its console: `{}`",
                console.display()
            );
        }
        let text = fs::read(&console).context("read the probe's console")?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    pub(super) fn daemon(&self, node: &Node) -> Daemon {
        daemon(self.folder, node)
    }

    fn tpm(&self, node: &Node) -> Daemon {
        Daemon::of(&self.folder.run(&format!("{}.tpm.pid", node.name)))
    }

    fn uplink(&self) -> Daemon {
        Daemon::of(&self.folder.run("uplink.pid"))
    }

    fn qmp(&self, node: &Node) -> PathBuf {
        self.folder.run(&format!("{}.qmp", node.name))
    }

    /// Where machines are connected.
    fn switch(&self) -> PathBuf {
        self.folder.run("switch.sock")
    }

    fn start_tpm(&self, node: &Node) -> Result<PathBuf> {
        let socket = self.folder.run(&format!("{}.tpm.sock", node.name));
        let tpm = Swtpm::of(&self.folder.node(&node.name).join("tpm"));
        let daemon = self.tpm(node);
        // Of a machine that was killed with its TPM still on.
        daemon.kill()?;
        self.start_swtpm(&daemon, &tpm, &socket)?;
        Ok(socket)
    }

    fn start_swtpm(&self, daemon: &Daemon, tpm: &Swtpm, socket: &Path) -> Result<()> {
        drop(fs::remove_file(socket));
        let mut arguments = Command::new("swtpm");
        tpm.arguments(&mut arguments, socket);
        daemon.start(Path::new("swtpm"), &arguments, &tpm.dir().join("swtpm.log"))?;
        wait_socket(daemon, socket)
    }

    fn start_qemu(&self, daemon: &Daemon, args: Arguments, log: &str, qmp: &Path) -> Result<()> {
        drop(fs::remove_file(qmp));
        let mut command = Command::new(&self.plan.qemu);
        command.args(args.into_vec());
        let log = self.folder.file(log);
        daemon.start(&self.plan.qemu, &command, &log)?;
        wait_socket(daemon, qmp)
            .with_context(|| {
                format!(
                    "QEMU says: {}",
                    fs::read_to_string(&log).unwrap_or_default().trim()
                )
            })
            .hint("QEMU must be 7.2 or later, with its network `user`; ports may be taken")
    }

    /// The first node waits for its init, the others ask it.
    fn write_hints(&self, node: &Node) -> Result<Option<PathBuf>> {
        let first = self.first()?;
        if node.is_control_plane() {
            return Ok(None);
        }
        let path = self.folder.node(&node.name).join("hints.json");
        if !path.exists() {
            let hints = json!({
                "endpoints": [format!("{}:30090", first.address)],
                "node_name": node.name,
                "role": "worker",
            });
            files::replace(&path, hints.to_string().as_bytes())?;
        }
        Ok(Some(path))
    }

    fn wait_address(&self, node: &Node, daemon: &Daemon) -> Result<()> {
        let console = self.folder.node(&node.name).join("console.log");
        let end = Instant::now() + BOOT;
        loop {
            let text = fs::read(&console).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            if let Some(address) = address(&text) {
                if address != node.address.to_string() {
                    return Err(anyhow!(
                        "{} has the address {address}, not {}",
                        node.name,
                        node.address
                    ))
                    .hint("`constellation mini down`, then `up` again");
                }
                self.progress
                    .say(&format!("{}: has its address, {address}", node.name));
                return Ok(());
            }
            if !daemon.is_running() {
                bail!("{} went off: {}", node.name, last_line(&text));
            }
            if Instant::now() >= end {
                bail!(
                    "{} has no address; its console: `{}`",
                    node.name,
                    console.display()
                );
            }
            thread::sleep(POLL);
        }
    }
}

/// Whether the network runs: its ports are those of the machines that it began with.
pub(super) fn has_network(folder: &Folder) -> bool {
    Daemon::of(&folder.run("uplink.pid")).is_running()
}

/// The process of a machine.
pub(super) fn daemon(folder: &Folder, node: &Node) -> Daemon {
    Daemon::of(&folder.run(&format!("{}.pid", node.name)))
}

/// The IPv4 address of the agent's line about its network.
fn address(console: &str) -> Option<&str> {
    let lines = console.lines().filter(|line| line.contains(" network "));
    let words = lines.flat_map(str::split_whitespace);
    let mut addresses = words.filter_map(|word| word.strip_prefix("address="));
    addresses
        .find(|address| !address.contains(':'))
        .and_then(|address| address.split_once('/'))
        .map(|(address, _)| address)
}

/// What the agent said last.
pub(super) fn last_line(console: &str) -> &str {
    let mut lines = console.lines().rev();
    lines
        .find(|line| line.starts_with("agent: "))
        .map_or("nothing on its console", str::trim_end)
}

/// The program of QEMU.
pub(super) fn find_qemu(program: &Path) -> Result<PathBuf> {
    vm::find(program)
        .ok_or_else(|| anyhow!("no program `{}`", program.display()))
        .hint("install qemu-system-x86, swtpm-tools, ovmf and mtools (Debian's names)")
}

fn wait_socket(daemon: &Daemon, socket: &Path) -> Result<()> {
    let end = Instant::now() + LISTEN;
    while !socket.exists() {
        if !daemon.is_running() || Instant::now() >= end {
            bail!("nobody listens on `{}`", socket.display());
        }
        thread::sleep(POLL);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_the_ipv4_one_of_the_network_line() {
        let console = "agent: 1.0 start version=1\n\
                       agent: 2.0 network link=eth0 address=fec0::1/64 name_servers=0\n";
        assert_eq!(address(console), None);
        let more = format!(
            "{console}agent: 3.0 network link=eth0 address=10.0.2.16/24 address=fec0::1/64\n"
        );
        assert_eq!(address(&more), Some("10.0.2.16"));
        assert_eq!(address("agent: 2.0 peer address=10.0.2.15:30090\n"), None);
    }

    #[test]
    fn a_program_that_is_missing_names_the_packages() {
        let error = find_qemu(Path::new("no-such-program-of-ours")).unwrap_err();
        assert!(error.downcast_ref::<crate::output::Hint>().is_some());
    }
}
