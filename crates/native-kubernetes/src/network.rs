//! A network of isolated nodes: a bridge in a network namespace of its own.

use crate::folder::Folder;
use anyhow::{Context as _, Result, bail};
use child_process::{Process, contained, run};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::{
    fs::{self, File},
    net::Ipv4Addr,
    os::fd::AsFd as _,
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};

/// How long a namespace may take to be there.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often a waiting loop looks again.
const POLL: Duration = Duration::from_millis(10);

/// A network without a way out. What is outside of it cannot be reached, and its addresses mean nothing
/// outside.
#[derive(Debug)]
pub struct Network {
    holder: Process,
    _folder: Folder,
}

impl Network {
    /// The address of [`Network::command`]'s programs, and the nodes' gateway.
    pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 10, 0, 254);

    /// Makes a network; needs root.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn start() -> Result<Self> {
        let folder = Folder::create("network", |_| {})?;
        let mut command = contained("unshare");
        command.args(["--net", "--", "sleep", "infinity"]);
        let log = folder.path().join("holder.log");
        let holder = Process::spawn_lasting("network", command, &log)?;
        let network = Self {
            holder,
            _folder: folder,
        };
        network.wait_for_namespace()?;
        network.ip("link set lo up")?;
        network.ip("link add br0 type bridge")?;
        network.ip(&format!("address add {}/24 dev br0", Self::GATEWAY))?;
        network.ip("link set br0 up")?;
        Ok(network)
    }

    /// The address of the `number`th node, 1 to 253.
    #[must_use]
    pub fn address(number: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 10, 0, number)
    }

    /// A program in the network, with the machine's own files: an operator beside the nodes.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = contained("nsenter");
        command.arg(format!("--net={}", self.namespace().display()));
        command.arg("--").arg(program);
        command
    }

    /// Does something on a thread in the network: sockets that it opens are in there.
    ///
    /// # Errors
    /// If the namespace cannot be entered.
    pub fn inside<T: Send>(&self, job: impl FnOnce() -> T + Send) -> Result<T> {
        let namespace = File::open(self.namespace()).context("open the network namespace")?;
        let enter = move || -> Result<T> {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                .context("enter the network namespace")?;
            Ok(job())
        };
        match thread::scope(|scope| scope.spawn(enter).join()) {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Gives the namespace of `process` an interface `eth0` on the bridge.
    pub(crate) fn attach(&self, process: u32) -> Result<()> {
        let name = format!("node{process}");
        self.ip(&format!(
            "link add {name} type veth peer name eth0 netns {process}"
        ))?;
        self.ip(&format!("link set {name} master br0"))?;
        self.ip(&format!("link set {name} up"))
    }

    fn ip(&self, arguments: &str) -> Result<()> {
        let mut command = self.command("ip");
        run(command.args(arguments.split(' '))).map(drop)
    }

    fn namespace(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.holder.id()).into()
    }

    /// `setpriv` and `unshare` have still to do their work and become `sleep`.
    fn wait_for_namespace(&self) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        let comm = format!("/proc/{}/comm", self.holder.id());
        while fs::read_to_string(&comm).unwrap_or_default().trim() != "sleep" {
            if Instant::now() >= end {
                let log = fs::read_to_string(self.holder.log()).unwrap_or_default();
                bail!("no network namespace (are you root?): {log}");
            }
            thread::sleep(POLL);
        }
        Ok(())
    }
}
