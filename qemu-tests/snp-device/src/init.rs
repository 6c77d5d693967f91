//! The test init: starts the device, waits for it, leaves no trace, and becomes the agent.

use crate::{Behaviour, FW_CFG_NAME, cuse, guest_request::Guest};
use rustix::{
    io::Errno,
    mount::{MountFlags, UnmountFlags, mount, unmount},
    system::{RebootCommand, finit_module, reboot},
};
use std::{
    convert::Infallible,
    env, fs,
    fs::File,
    io::{self, Read},
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// The agent, where the image has it.
const AGENT: &str = "/init";
/// The device.
const NAME: &str = "sev-guest";
/// This program's modules, in their order.
const MODULES: &str = "/snp-device.modules";
/// On the kernel's command line: another program instead of the agent.
const INSTEAD: &str = "snp-device.run=";

/// `MODULE_INIT_COMPRESSED_FILE` of `linux/module.h`.
const COMPRESSED: i32 = 4;

/// How long the node may take to appear.
const PATIENCE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(5);

/// What this needs for a moment; the agent mounts its own.
const MOUNTS: [(&str, &str); 3] = [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")];

/// PID 1's whole life up to the agent's.
pub fn run() -> ! {
    let Err(error) = become_agent();
    println!("snp-device: init failed: {error}");
    // The line must get out of the serial port first.
    thread::sleep(Duration::from_millis(100));
    if let Err(error) = reboot(RebootCommand::PowerOff) {
        println!("snp-device: power off: {error}");
    }
    loop {
        thread::park();
    }
}

/// The device's whole life.
///
/// # Errors
/// Whatever ends it.
pub fn serve() -> io::Result<Infallible> {
    let path = format!("/sys/firmware/qemu_fw_cfg/by_name/{FW_CFG_NAME}/raw");
    let text = fs::read(&path).map_err(|error| step("read the behaviour", &error))?;
    let mut behaviour: Behaviour = serde_json::from_slice(&text)?;
    if behaviour.fresh_report_id {
        File::open("/dev/urandom")?.read_exact(&mut behaviour.report.report_id)?;
    }
    let mut guest = Guest::launch(behaviour);
    cuse::serve(NAME, |ioctl| guest.ioctl(ioctl)).map_err(|error| step("serve", &error))
}

fn become_agent() -> io::Result<Infallible> {
    for (kind, target) in MOUNTS {
        fs::create_dir_all(target)?;
        mount(kind, target, kind, MountFlags::empty(), None)
            .map_err(|error| step(target, &error.into()))?;
    }
    load_modules()?;
    start_device()?;
    let next = next_program()?;
    for (_, target) in MOUNTS {
        // The device has files open in `/dev`; they stay good.
        unmount(target, UnmountFlags::DETACH).map_err(|error| step(target, &error.into()))?;
    }
    let arguments = env::args_os().skip(1);
    let error = Command::new(&next).arg0(AGENT).args(arguments).exec();
    Err(step(&next, &error))
}

fn load_modules() -> io::Result<()> {
    for path in fs::read_to_string(MODULES)?.lines() {
        match finit_module(File::open(path)?, c"", COMPRESSED) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(step(path, &error.into())),
        }
    }
    Ok(())
}

/// Starts this program once more, under a name that survives an init's end of the initramfs
/// ("Storage Daemons for the Root File System", systemd), and waits for the node.
fn start_device() -> io::Result<()> {
    let mut device = Command::new(env::current_exe()?);
    let mut device = device.arg0("@snp-device").stdin(Stdio::null()).spawn()?;
    let node = Path::new("/dev").join(NAME);
    let end = Instant::now() + PATIENCE;
    while !node.exists() {
        if let Some(status) = device.try_wait()? {
            return Err(io::Error::other(format!("the device ended: {status}")));
        }
        if Instant::now() >= end {
            return Err(io::Error::other(format!(
                "no {} in {PATIENCE:?}",
                node.display()
            )));
        }
        thread::sleep(POLL);
    }
    println!(
        "snp-device: ready node={} pid={}",
        node.display(),
        device.id()
    );
    Ok(())
}

fn next_program() -> io::Result<String> {
    let line = fs::read_to_string("/proc/cmdline")?;
    let instead = line
        .split_whitespace()
        .find_map(|word| word.strip_prefix(INSTEAD));
    Ok(instead.unwrap_or(AGENT).to_owned())
}

fn step(what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}
