//! The agent in a boot that the measured image does not have: something has run before it or runs
//! beside it and clashes with its mappings, or it may not start anything itself.

use crate::Outcome;
use platform::dm::DeviceMapper;
use rustix::{
    io::Errno,
    mount::{MountFlags, UnmountFlags, mount, unmount},
    net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, netlink, recv, socket_with},
};
use state_disk::Table;
use std::{
    fs::{self, OpenOptions},
    io,
    os::{
        fd::OwnedFd,
        unix::{fs::FileExt, process::CommandExt},
    },
    process::Command,
    thread,
    time::Duration,
};

const CONTROL: &str = "/dev/mapper/control";

/// Where control groups are.
const GROUPS: &str = "/cgroup";

/// The agent's control group, and what freezes it.
const AGENT: &str = "/cgroup/agent";
const FREEZE: &str = "/cgroup/agent/cgroup.freeze";

/// Mount points of the initramfs.
const MOUNTED: [&str; 4] = ["/run", "/dev", "/sys", "/proc"];

/// A mapping that belongs to nobody; it claims no disk.
const FOREIGN: Table = Table {
    target: "error",
    sectors: 8,
    parameters: String::new(),
    read_only: false,
};

/// Makes a mapping called `name`, then becomes the agent.
pub(crate) fn plant(mapper: DeviceMapper, name: &str) -> Outcome {
    let planted = mapper.activate(name, &FOREIGN)?;
    println!("disk-test: 0 planted={}", planted.name());
    become_agent(mapper)
}

/// Starts a program that replaces the mapping `name` as soon as the agent has made it, then becomes
/// the agent. The agent's group is idle, so that whatever else wakes up runs at once, as priorities
/// alone do not ensure: on one processor the program runs when the kernel tells of the mapping,
/// before the agent's next instruction, and freezes the agent for as long as it works.
pub(crate) fn replace(mapper: DeviceMapper, name: &str) -> Outcome {
    make_group("cpu", "idle")?;
    drop(Command::new("/disk-test").arg(name).spawn()?);
    enter_group()?;
    become_agent(mapper)
}

/// Becomes the agent in a group with room for one task: nobody in it can start a thread or a process.
pub(crate) fn alone(mapper: DeviceMapper) -> Outcome {
    make_group("pids", "max")?;
    enter_group()?;
    if thread::Builder::new().spawn(|| ()).is_ok() {
        return Err("a second thread started".into());
    }
    println!("disk-test: 0 alone");
    become_agent(mapper)
}

/// Makes the agent's group and sets `<controller>.<file>` in it to 1.
fn make_group(controller: &str, file: &str) -> Outcome {
    fs::create_dir_all(GROUPS)?;
    mount("cgroup2", GROUPS, "cgroup2", MountFlags::empty(), None)?;
    let controllers = format!("{GROUPS}/cgroup.subtree_control");
    fs::write(controllers, format!("+{controller}"))?;
    fs::create_dir(AGENT)?;
    Ok(fs::write(format!("{AGENT}/{controller}.{file}"), "1")?)
}

/// Puts this process, the first, into it.
fn enter_group() -> Outcome {
    Ok(fs::write(format!("{AGENT}/cgroup.procs"), "1")?)
}

/// Leaves the initramfs as the kernel made it, but for loaded modules, and starts `/init`.
fn become_agent(mapper: DeviceMapper) -> Outcome {
    drop(mapper);
    for target in MOUNTED {
        unmount(target, UnmountFlags::DETACH)?;
    }
    Err(Command::new("/init").env_clear().exec().into())
}

/// Waits until the mapping `name` is live and puts another table in its place. Each event freezes
/// the agent first: to look at the mapping may sleep, and the agent would use that time.
pub(crate) fn replace_when_live(name: &str) -> Outcome {
    let events = kernel_events()?;
    while !fs::exists(CONTROL)? {
        thread::sleep(Duration::from_millis(5));
    }
    let mapper = DeviceMapper::open()?;
    let agent = OpenOptions::new().write(true).open(FREEZE)?;
    loop {
        match recv(&events, &mut [0; 4096], RecvFlags::empty()) {
            // Too many events at once: some were lost, the state is what counts.
            Ok(_) | Err(Errno::NOBUFS) => {}
            Err(error) => return Err(error.into()),
        }
        agent.write_all_at(b"1", 0)?;
        let replaced = replace_if_live(&mapper, name);
        // Also after an error: a boot that stands still says nothing.
        agent.write_all_at(b"0", 0)?;
        if replaced? {
            return Ok(());
        }
    }
}

fn replace_if_live(mapper: &DeviceMapper, name: &str) -> Outcome<bool> {
    if !is_live(name)? {
        return Ok(false);
    }
    mapper.remove(name)?;
    let replaced = mapper.activate(name, &FOREIGN)?;
    println!("disk-test: 0 replaced={}", replaced.name());
    Ok(true)
}

/// Whether the mapping has a table and runs.
fn is_live(name: &str) -> Outcome<bool> {
    let devices = match fs::read_dir("/sys/block") {
        Ok(devices) => devices,
        // Between this program's mounts and the agent's.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    for device in devices {
        let device = device?.path();
        let read = |file: &str| fs::read_to_string(device.join(file)).unwrap_or_default();
        if read("dm/name").trim() == name {
            return Ok(read("size").trim() != "0" && read("dm/suspended").trim() == "0");
        }
    }
    Ok(false)
}

/// What the kernel tells of devices; a mapping that becomes live is one change.
fn kernel_events() -> Outcome<OwnedFd> {
    let events = socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        Some(netlink::KOBJECT_UEVENT),
    )?;
    // Group 1: the kernel's own messages.
    bind(&events, &netlink::SocketAddrNetlink::new(0, 1))?;
    Ok(events)
}
