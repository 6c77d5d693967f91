//! QEMU's command line, piece by piece.

use std::{
    ffi::OsString,
    net::SocketAddrV4,
    path::{Path, PathBuf},
};

use crate::{Accelerator, Disk, DiskFormat};

/// Where Debian's package `ovmf` puts the firmware.
pub const FIRMWARE: &str = "/usr/share/OVMF";

/// The firmware's code, beside its variables.
pub const OVMF: &str = "OVMF_CODE_4M.fd";

/// What every machine has.
#[derive(Clone, Copy, Debug)]
pub struct Board<'a> {
    /// How instructions are run.
    pub accelerator: Accelerator,
    /// Main memory.
    pub memory_mib: u32,
    /// Processors.
    pub processors: u8,
    /// QEMU's end of the serial console.
    pub serial: &'a str,
    /// Socket of the control channel.
    pub qmp: &'a Path,
    /// The clock at power-on, `YYYY-MM-DDTHH:MM:SS`; none: the host's.
    pub clock: Option<&'a str>,
    /// Whether a guest's reboot restarts the machine; else it ends it.
    pub reboots: bool,
}

/// A loopback port of this computer that leads to a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward {
    /// The port here.
    pub port: u16,
    /// Where it leads.
    pub to: SocketAddrV4,
}

/// A growing command line.
#[derive(Clone, Debug, Default)]
pub struct Arguments(Vec<OsString>);

impl Arguments {
    /// A machine without disks, network and anything to boot.
    #[must_use]
    pub fn of(board: &Board<'_>) -> Self {
        let mut args = Self(board.accelerator.arguments().map(OsString::from).into());
        args.pair("-machine", "q35");
        args.pair("-m", board.memory_mib.to_string());
        args.pair("-smp", board.processors.to_string());
        args.bare();
        args.pair("-serial", board.serial);
        args.pair("-device", "virtio-rng-pci");
        args.control(board.qmp);
        // QEMU 7.2 keeps the difference to its host's clock in 32 bits; the guest's clock has room.
        let clock = board.clock;
        let clock = clock.map_or_else(|| "utc".to_owned(), |time| format!("{time},clock=vm"));
        args.pair("-rtc", format!("base={clock}"));
        if !board.reboots {
            args.0.push("-no-reboot".into());
        }
        args
    }

    /// No machine at all: a process that carries frames between its networks.
    fn without_machine(qmp: &Path) -> Self {
        let mut args = Self::default();
        args.pair("-machine", "none");
        args.bare();
        args.control(qmp);
        args
    }

    /// What leads loopback ports of this computer to machines on a switch, and gives these addresses: 10.0.2.15
    /// to the first that asks, then the next. Nothing leads from a machine to here, or out.
    #[must_use]
    pub fn uplink(qmp: &Path, switch: &Path, forwards: &[Forward]) -> Self {
        let mut network = "user,id=up,ipv6=off,restrict=on".to_owned();
        for Forward { port, to } in forwards {
            network += &format!(",hostfwd=tcp:127.0.0.1:{port}-{}:{}", to.ip(), to.port());
        }
        let mut args = Self::without_machine(qmp);
        args.pair("-netdev", network);
        args.pair("-netdev", "hubport,id=up-port,hubid=0,netdev=up");
        args.pair("-netdev", format!("{},id=down", on_switch(switch)));
        args.pair("-netdev", "hubport,id=down-port,hubid=0,netdev=down");
        args
    }

    /// An option with its value.
    pub fn pair(&mut self, name: &str, value: impl Into<OsString>) {
        self.0.push(name.into());
        self.0.push(value.into());
    }

    /// The firmware, and the system partition that it boots from.
    pub fn firmware(&mut self, code: &str, esp: &Path) {
        let variables = code.replace("CODE", "VARS");
        for (unit, name, access) in [(0, code, "readonly=on"), (1, &variables, "snapshot=on")] {
            let file = format!("unit={unit},{access},file={FIRMWARE}/{name}");
            self.pair("-drive", format!("if=pflash,format=raw,{file}"));
        }
        let disk = Disk::new(esp, DiskFormat::Raw, "esp");
        self.pair("-drive", disk.drive("esp"));
        self.pair("-device", "virtio-blk-pci,drive=esp,bootindex=0");
    }

    /// A TPM behind swtpm's socket.
    pub fn tpm(&mut self, socket: &Path) {
        self.pair(
            "-chardev",
            format!("socket,id=tpm-socket,path={}", escape(socket)),
        );
        self.pair("-tpmdev", "emulator,id=tpm,chardev=tpm-socket");
        self.pair("-device", "tpm-crb,tpmdev=tpm");
    }

    /// Disks in the order of their bus addresses.
    pub fn disks(&mut self, disks: &[Disk]) {
        for (index, disk) in disks.iter().enumerate() {
            let id = format!("disk{index}");
            self.pair("-drive", disk.drive(&id));
            let serial = disk.serial();
            self.pair(
                "-device",
                format!("virtio-blk-pci,drive={id},serial={serial}"),
            );
        }
    }

    /// A network card named `card` in `network`, the value of `-netdev` without its id.
    pub fn card(&mut self, network: &str, mac: Option<&str>) {
        let (kind, rest) = network.split_once(',').unwrap_or((network, "ipv4=on"));
        self.pair("-netdev", format!("{kind},id=network,{rest}"));
        let mac = mac.map(|mac| format!(",mac={mac}")).unwrap_or_default();
        // Without its boot ROM the card adds nothing to PCR 2 and the firmware does not try it.
        self.pair(
            "-device",
            format!("virtio-net-pci,netdev=network,id=card,romfile={mac}"),
        );
    }

    /// A file for the guest, by name.
    pub fn fw_cfg(&mut self, name: &str, path: &Path) {
        self.pair("-fw_cfg", format!("name={name},file={}", escape(path)));
    }

    /// A string for the guest in its SMBIOS tables: one of those that hosts may choose (DSP0134, "OEM Strings").
    pub fn oem_string(&mut self, text: &str) {
        let value = text.replace(',', ",,");
        self.pair("-smbios", format!("type=11,value={value}"));
    }

    /// All of them.
    #[must_use]
    pub fn into_vec(self) -> Vec<OsString> {
        self.0
    }

    fn bare(&mut self) {
        for flag in ["-nodefaults", "-no-user-config"] {
            self.0.push(flag.into());
        }
        self.pair("-display", "none");
    }

    fn control(&mut self, qmp: &Path) {
        self.pair("-qmp", format!("unix:{},server=on,wait=off", escape(qmp)));
    }
}

/// A network on a [`switch`](crate::switch), as the value of `-netdev` without its id.
#[must_use]
pub fn on_switch(socket: &Path) -> String {
    let path = escape(socket);
    format!("stream,server=off,addr.type=unix,addr.path={path}")
}

/// QEMU's option parser takes a doubled comma for a comma.
#[must_use]
pub fn escape(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

/// A program of this name in the search path, or the path itself.
#[must_use]
pub fn find(program: &Path) -> Option<PathBuf> {
    if program.components().count() > 1 {
        return program.canonicalize().ok();
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
}
