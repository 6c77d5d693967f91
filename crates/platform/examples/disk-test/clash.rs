//! Clashes with the agent's mappings: something that runs before the agent, or beside it, as
//! nothing in the measured image does.

use crate::Outcome;
use platform::dm::DeviceMapper;
use rustix::{
    event::{PollFd, PollFlags, poll},
    mount::{UnmountFlags, unmount},
};
use state_disk::Table;
use std::{
    fs::{self, File},
    os::unix::process::CommandExt,
    process::Command,
    thread,
    time::Duration,
};

const CONTROL: &str = "/dev/mapper/control";

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
/// the agent. The program has real-time priority: on one processor it runs before the agent's next
/// instruction.
pub(crate) fn replace(mapper: DeviceMapper, name: &str) -> Outcome {
    let mut beside = Command::new("/busybox");
    beside.args(["chrt", "-f", "50", "/disk-test", name]);
    drop(beside.spawn()?);
    become_agent(mapper)
}

/// Leaves the initramfs as the kernel made it, but for loaded modules, and starts `/init`.
fn become_agent(mapper: DeviceMapper) -> Outcome {
    drop(mapper);
    for target in MOUNTED {
        unmount(target, UnmountFlags::DETACH)?;
    }
    Err(Command::new("/init").env_clear().exec().into())
}

/// Waits until the mapping `name` is live and puts another table in its place.
pub(crate) fn replace_when_live(name: &str) -> Outcome {
    while !fs::exists(CONTROL)? {
        thread::sleep(Duration::from_millis(5));
    }
    let mapper = DeviceMapper::open()?;
    loop {
        // An opened control device becomes readable at the next event after the opening.
        let events = File::open(CONTROL)?;
        if mapper.target_status(name).is_ok() {
            break;
        }
        poll(&mut [PollFd::new(&events, PollFlags::IN)], None)?;
    }
    mapper.remove(name)?;
    let replaced = mapper.activate(name, &FOREIGN)?;
    println!("disk-test: 0 replaced={}", replaced.name());
    Ok(())
}
