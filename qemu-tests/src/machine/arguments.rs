//! QEMU's command line for a machine.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::{Boot, MachineConfig};
use crate::disk::{Disk, DiskFormat, escape};

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

/// Where Debian's package `ovmf` puts the firmware.
pub(crate) const FIRMWARE: &str = "/usr/share/OVMF";

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
        let mut args = Arguments::default();
        self.board(&mut args);
        self.boot(&mut args)?;
        self.tpm(&mut args);
        self.disks(&mut args);
        self.network(&mut args)?;
        for (name, path) in self.fw_cfg {
            args.pair("-fw_cfg", format!("name={name},file={}", escape(path)));
        }
        Ok(args.0)
    }

    fn board(&self, args: &mut Arguments) {
        let config = self.config;
        args.0
            .extend(config.accelerator.arguments().map(OsString::from));
        args.pair("-machine", "q35");
        args.pair("-m", config.memory_mib.to_string());
        args.pair("-smp", config.processors.to_string());
        for flag in ["-nodefaults", "-no-user-config"] {
            args.0.push(flag.into());
        }
        args.pair("-display", "none");
        args.pair("-serial", "stdio");
        args.pair("-device", "virtio-rng-pci");
        args.pair(
            "-qmp",
            format!("unix:{},server=on,wait=off", escape(self.qmp)),
        );
        // QEMU 7.2 keeps the difference to its host's clock in 32 bits; the guest's clock has room.
        let clock = config.clock.as_ref();
        let clock = clock.map_or_else(|| "utc".to_owned(), |time| format!("{time},clock=vm"));
        args.pair("-rtc", format!("base={clock}"));
        if !config.reboots {
            args.0.push("-no-reboot".into());
        }
    }

    fn boot(&self, args: &mut Arguments) -> Result<()> {
        match &self.config.boot {
            Boot::Firmware { .. } => {
                let esp = self
                    .esp
                    .context("a firmware boot needs a system partition")?;
                let code = &self.config.firmware;
                let variables = code.replace("CODE", "VARS");
                for (unit, name, access) in
                    [(0, code, "readonly=on"), (1, &variables, "snapshot=on")]
                {
                    let file = format!("unit={unit},{access},file={FIRMWARE}/{name}");
                    args.pair("-drive", format!("if=pflash,format=raw,{file}"));
                }
                let disk = Disk::new(esp, DiskFormat::Raw, "esp");
                args.pair("-drive", disk.drive("esp"));
                args.pair("-device", "virtio-blk-pci,drive=esp,bootindex=0");
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

    fn tpm(&self, args: &mut Arguments) {
        if let Some(socket) = self.tpm {
            args.pair(
                "-chardev",
                format!("socket,id=tpm-socket,path={}", escape(socket)),
            );
            args.pair("-tpmdev", "emulator,id=tpm,chardev=tpm-socket");
            args.pair("-device", "tpm-crb,tpmdev=tpm");
        }
    }

    fn disks(&self, args: &mut Arguments) {
        for (index, disk) in self.config.disks.iter().enumerate() {
            let id = format!("disk{index}");
            args.pair("-drive", disk.drive(&id));
            args.pair(
                "-device",
                format!("virtio-blk-pci,drive={id},serial={}", disk.serial),
            );
        }
    }

    fn network(&self, args: &mut Arguments) -> Result<()> {
        let mut network = format!(
            "user,id=network,restrict=on,net={GUEST_NETWORK},hostfwd=tcp:127.0.0.1:{}-:{PUSH_PORT}",
            self.push_port
        );
        let metadata = self.config.metadata.map(|port| (METADATA.to_owned(), port));
        for (guest, port) in metadata.iter().chain(&self.config.forwards) {
            network += &format!(",guestfwd=tcp:{guest}-cmd:{}", self.relay_command(*port)?);
        }
        args.pair("-netdev", network);
        // Without its boot ROM the card adds nothing to PCR 2 and the firmware does not try it.
        args.pair("-device", "virtio-net-pci,netdev=network,id=card,romfile=");
        Ok(())
    }

    /// QEMU splits the command at spaces and quotes as a shell would.
    fn relay_command(&self, port: u16) -> Result<String> {
        let relay = PathBuf::from(self.relay);
        let text = relay.to_str().context("the relay's path is no UTF-8")?;
        anyhow::ensure!(!text.contains(['\'', '"', '\\']), "a quote in {text}");
        Ok(format!("'{}' 127.0.0.1:{port}", escape(&relay)))
    }
}

/// A growing argument list.
#[derive(Default)]
struct Arguments(Vec<OsString>);

impl Arguments {
    fn pair(&mut self, name: &str, value: impl Into<OsString>) {
        self.0.push(name.into());
        self.0.push(value.into());
    }
}
