//! KVM only where a boot has shown that it works, else emulation.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::console::Console;
use crate::process::{Process, contained};
use crate::workspace::{base_dir, target_dir};

/// A working KVM reaches the kernel's end of the line in under a second.
const PROBE: Duration = Duration::from_secs(5);

/// What the kernel prints when it has booted and finds no root file system.
const BOOTED: &str = "Kernel panic - not syncing: VFS";

/// How QEMU runs the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    /// The processor does, through `/dev/kvm`.
    Kvm,
    /// QEMU emulates them.
    Tcg,
}

impl Accelerator {
    /// Boots `kernel` under KVM to see whether it comes up; the answer is kept until the host
    /// reboots. `/dev/kvm` that opens proves nothing: nested hosts have one that hangs guests.
    pub fn probe(kernel: &Path) -> Result<Self> {
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let base = base_dir();
        fs::create_dir_all(&base)?;
        let memory = base.join("accelerator");
        let known = fs::read_to_string(&memory).unwrap_or_default();
        if let Some(answer) = known.strip_prefix(&boot_id).and_then(Self::parse) {
            return Ok(answer);
        }
        let answer = if kvm_boots(kernel, &base)? {
            Self::Kvm
        } else {
            Self::Tcg
        };
        fs::write(&memory, format!("{boot_id}{answer}"))?;
        Ok(answer)
    }

    fn parse(text: &str) -> Option<Self> {
        match text {
            "KVM" => Some(Self::Kvm),
            "TCG" => Some(Self::Tcg),
            _ => None,
        }
    }

    /// QEMU's arguments for it.
    pub(crate) fn arguments(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            // QEMU 7.2 now and then leaves garbage in the flags after CMPXCHG16B, and the guest's
            // kernel dies (2 of 20 boots here); without the feature Linux does not use it.
            Self::Tcg => ["-accel", "tcg,thread=multi", "-cpu", "max,-cx16"],
        }
    }
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "KVM",
            Self::Tcg => "TCG",
        })
    }
}

/// QEMU: the one that `xtask setup` has unpacked, else the system's. Debian 12's own (7.2) damages
/// the memory of a guest that encrypts much data under emulation.
pub(crate) fn qemu() -> PathBuf {
    let name = Path::new("qemu-system-x86_64");
    let unpacked = target_dir().join("tools/bin").join(name);
    unpacked.canonicalize().unwrap_or_else(|_| name.to_owned())
}

/// Whether a kernel without any root file system reaches its panic under KVM.
fn kvm_boots(kernel: &Path, dir: &Path) -> Result<bool> {
    if fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_err()
    {
        return Ok(false);
    }
    let mut command = contained(qemu());
    command.args(Accelerator::Kvm.arguments());
    command.args(["-M", "q35", "-m", "256", "-nodefaults", "-no-user-config"]);
    command.args(["-display", "none", "-no-reboot", "-serial", "stdio"]);
    command.arg("-kernel").arg(kernel);
    command.args(["-append", "console=ttyS0 panic=-1"]);
    let mut qemu = Process::spawn_piped("KVM probe", command, &dir.join("kvm-probe.log"))?;
    let Some(stdout) = qemu.take_stdout() else {
        return Ok(false);
    };
    let log = dir.join("kvm-probe-console.log");
    let mut console = Console::follow(stdout, Instant::now(), &log, false)?;
    Ok(console.expect(BOOTED, PROBE).is_ok())
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
