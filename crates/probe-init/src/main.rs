//! An init that loads the listed modules, prints PCRs and the event log's size, and powers off.
//!
//! A UKI with it shows what firmware, stub and kernel really measured, and how long a boot takes
//! before any work of ours begins. It holds no secrets and attests nothing.

use rustix::{
    fs::{Mode, OFlags, open},
    mount::{MountFlags, mount},
    system::{RebootCommand, finit_module, reboot},
};
use std::{fs, time::Duration};

/// `MODULE_INIT_COMPRESSED_FILE` of `linux/module.h`.
const COMPRESSED: i32 = 4;

fn main() {
    for (kind, target) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")] {
        if let Err(error) = mount(kind, target, kind, MountFlags::empty(), None) {
            println!("probe: mount {target}: {error}");
        }
    }
    mount_tmpfs();
    println!("probe: up={} start", uptime());
    load_modules();
    println!("probe: up={} modules", uptime());
    for pcr in 0..24 {
        let path = format!("/sys/class/tpm/tpm0/pcr-sha256/{pcr}");
        match fs::read_to_string(path) {
            Ok(value) => println!("probe: pcr={pcr} {}", value.trim().to_lowercase()),
            Err(error) => println!("probe: pcr={pcr} {error}"),
        }
    }
    print_event_log();
    println!(
        "probe: cmdline {}",
        fs::read_to_string("/proc/cmdline")
            .unwrap_or_default()
            .trim()
    );
    println!("probe: up={} end", uptime());
    std::thread::sleep(Duration::from_millis(50));
    if let Err(error) = reboot(RebootCommand::PowerOff) {
        println!("probe: power off: {error}");
    }
}

fn mount_tmpfs() {
    let security = "/sys/kernel/security";
    if let Err(error) = mount(
        "securityfs",
        security,
        "securityfs",
        MountFlags::empty(),
        None,
    ) {
        println!("probe: mount {security}: {error}");
    }
}

/// The firmware's event log in lines of 64 bytes, for `measure`'s tests to take from the console.
fn print_event_log() {
    let path = "/sys/kernel/security/tpm0/binary_bios_measurements";
    let Ok(log) = fs::read(path) else {
        println!("probe: event-log none");
        return;
    };
    println!("probe: event-log bytes={}", log.len());
    for chunk in log.chunks(64) {
        let line: String = chunk.iter().map(|byte| format!("{byte:02x}")).collect();
        println!("probe: log {line}");
    }
}

fn load_modules() {
    let list = fs::read_to_string("/modules.list").unwrap_or_default();
    for path in list.lines() {
        let loaded = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .and_then(|file| finit_module(file, c"", COMPRESSED));
        if let Err(error) = loaded {
            println!("probe: module {path}: {error}");
        }
    }
}

fn uptime() -> String {
    let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
    text.split(' ').next().unwrap_or("?").to_owned()
}
