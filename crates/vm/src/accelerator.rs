//! KVM only where a boot has shown that it works, else emulation.

use std::fmt;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use child_process::{Process, contained};

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
    /// Boots `kernel` under KVM to see whether it comes up; the answer is kept in `folder` until the
    /// host reboots. `/dev/kvm` that opens proves nothing: nested hosts have one that hangs guests.
    ///
    /// # Errors
    /// If QEMU cannot be started, or the folder not be written.
    pub fn probe(qemu: &Path, kernel: &Path, folder: &Path) -> Result<Self> {
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        fs::create_dir_all(folder)?;
        let memory = folder.join("accelerator");
        let known = fs::read_to_string(&memory).unwrap_or_default();
        if let Some(answer) = known.strip_prefix(&boot_id).and_then(Self::parse) {
            return Ok(answer);
        }
        let answer = if kvm_boots(qemu, kernel, folder)? {
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
    #[must_use]
    pub const fn arguments(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            // QEMU 7.2 now and then leaves garbage in the flags after CMPXCHG16B, and the guest's
            // kernel dies (2 of 20 boots here); without the feature Linux does not use it.
            // A control plane's start fills the default 1024 MiB of translated code, which is then thrown away.
            Self::Tcg => [
                "-accel",
                "tcg,thread=multi,tb-size=2048",
                "-cpu",
                "max,-cx16",
            ],
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

/// Whether a kernel without any root file system reaches its panic under KVM.
fn kvm_boots(qemu: &Path, kernel: &Path, folder: &Path) -> Result<bool> {
    if fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_err()
    {
        return Ok(false);
    }
    let log = folder.join("kvm-probe.log");
    drop(fs::remove_file(&log));
    let mut command = contained(qemu);
    command.args(Accelerator::Kvm.arguments());
    command.args(["-M", "q35", "-m", "256", "-nodefaults", "-no-user-config"]);
    command.args(["-display", "none", "-no-reboot", "-serial", "stdio"]);
    command.arg("-kernel").arg(kernel);
    command.args(["-append", "console=ttyS0 panic=-1"]);
    let _qemu = Process::spawn("KVM probe", command, &log)?;
    let end = Instant::now() + PROBE;
    while Instant::now() < end {
        let said = fs::read(&log)?;
        if said
            .windows(BOOTED.len())
            .any(|part| part == BOOTED.as_bytes())
        {
            return Ok(true);
        }
        thread::sleep(Duration::from_millis(50));
    }
    Ok(false)
}
