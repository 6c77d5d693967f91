//! QEMU's command line for a machine.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use vm::{Arguments, Board, escape};

use super::{Boot, MachineConfig};

/// The virtual network. It holds the metadata service's address, because QEMU forwards only
/// addresses of the network itself, and it has no way out: a guest that follows hostile hints
/// reaches nothing but what the test forwards.
pub const GUEST_NETWORK: &str = "169.254.169.0/24";

/// The guest's address of the join service. An address of [`GUEST_NETWORK`] that is forwarded
/// nowhere is a black hole.
pub const GUEST_JOIN_SERVICE: &str = "169.254.169.100:30090";

/// The port on which the agent listens for a push.
pub const PUSH_PORT: u16 = 30091;

/// The metadata service's address in every cloud.
const METADATA: &str = "169.254.169.254:80";

/// Everything that QEMU's arguments depend on.
pub(super) struct Plan<'a> {
    pub(super) config: &'a MachineConfig,
    pub(super) esp: Option<&'a Path>,
    pub(super) fw_cfg: &'a [(String, PathBuf)],
    pub(super) tpm: Option<&'a Path>,
    pub(super) qmp: &'a Path,
    pub(super) push_port: u16,
    pub(super) relay: &'a Path,
}

impl Plan<'_> {
    /// All arguments.
    pub(super) fn arguments(&self) -> Result<Vec<OsString>> {
        let config = self.config;
        let mut args = Arguments::of(&Board {
            accelerator: config.accelerator,
            memory_mib: config.memory_mib,
            processors: config.processors,
            serial: "stdio",
            qmp: self.qmp,
            clock: config.clock.as_deref(),
            reboots: config.reboots,
        });
        self.boot(&mut args)?;
        if let Some(socket) = self.tpm {
            args.tpm(socket);
        }
        args.disks(&config.disks);
        match &config.lan {
            Some((lan, number)) => lan.connect(&mut args, *number),
            None => args.card(&self.network()?, None),
        }
        if let Some(server) = &config.name_server {
            server.connect(&mut args);
        }
        for (name, path) in self.fw_cfg {
            args.fw_cfg(name, path);
        }
        for text in &config.oem_strings {
            args.oem_string(text);
        }
        Ok(args.into_vec())
    }

    fn boot(&self, args: &mut Arguments) -> Result<()> {
        match &self.config.boot {
            Boot::Firmware { .. } => {
                let esp = self.esp;
                let esp = esp.context("a firmware boot needs a system partition")?;
                args.firmware(&self.config.firmware, esp);
            }
            Boot::Kernel {
                kernel,
                initrd,
                cmdline,
            } => {
                args.pair("-kernel", kernel);
                args.pair("-initrd", initrd);
                args.pair("-append", cmdline);
            }
        }
        Ok(())
    }

    fn network(&self) -> Result<String> {
        let mut network = format!(
            "user,restrict=on,net={GUEST_NETWORK},hostfwd=tcp:127.0.0.1:{}-:{PUSH_PORT}",
            self.push_port
        );
        let metadata = self.config.metadata.map(|port| (METADATA.to_owned(), port));
        for (guest, port) in metadata.iter().chain(&self.config.forwards) {
            network += &format!(",guestfwd=tcp:{guest}-cmd:{}", self.relay_command(*port)?);
        }
        Ok(network)
    }

    /// QEMU splits the command at spaces and quotes as a shell would.
    fn relay_command(&self, port: u16) -> Result<String> {
        let relay = PathBuf::from(self.relay);
        let text = relay.to_str().context("the relay's path is no UTF-8")?;
        anyhow::ensure!(!text.contains(['\'', '"', '\\']), "a quote in {text}");
        Ok(format!("'{}' 127.0.0.1:{port}", escape(&relay)))
    }
}
