//! The nine steps from the kernel to the verified root's init (docs/agent.md).

use crate::{
    attest::{self, Attester},
    cmdline::CommandLine,
    console::{self, step},
    exit::{Action, ExitReason, Failure, exits},
    network::Guide,
    peers::{PUSH_PORT, Peers},
    unlock::{Machine, MappedDisk, Unlock, disk_reason},
};
use attested_tls::{AttesterTerms, SealingKey, TlsEnd};
use platform::{
    dm::DeviceMapper,
    find::{FindError, Wanted, find},
    integrity::StateDisk,
    modules, mount, power,
    switch_root::switch_root,
};
use std::{
    convert::Infallible,
    fs, panic,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

/// Where the verified root is mounted until it becomes the root.
const ROOT: &str = "/sysroot";

/// The file system of the verified root.
const ROOT_TYPE: &str = "erofs";

/// What the verified root runs.
const INIT: &str = "/sbin/init";

/// How long a disk may take to appear, and how often it is looked for.
const DISK_TIME: Duration = Duration::from_secs(10);
const DISK_POLL: Duration = Duration::from_millis(10);

/// Boots this machine; PID 1 never returns.
pub fn run() -> ! {
    panic::set_hook(Box::new(|info| {
        step("failed").with_text("error", &info.to_string()).end();
        end(&panicked());
    }));
    match boot() {
        Ok(never) => match never {},
        Err(failure) => end(&failure),
    }
}

fn panicked() -> Failure {
    exits(ExitReason::Panic)("panic")
}

/// Reports the failure and stops the machine as the table says.
fn end(failure: &Failure) -> ! {
    console::report(failure);
    let stopped = match failure.reason.action() {
        Action::PowerOff => power::power_off(),
        Action::Reboot => power::restart(),
    };
    let Err(error) = stopped;
    step("failed").with("error", error).end();
    // Without a way to stop, PID 1 waits: its end would be a kernel panic.
    loop {
        thread::park();
    }
}

fn boot() -> Result<Infallible, Failure> {
    mount::mount_system().map_err(exits(ExitReason::Mount))?;
    console::quieten_kernel();
    console::deny_sysrq(Path::new("/proc/sys/kernel")).map_err(exits(ExitReason::Mount))?;
    step("start")
        .with("version", env!("CARGO_PKG_VERSION"))
        .end();
    load_modules()?;
    let line = read_command_line()?;
    let mapper = DeviceMapper::open().map_err(exits(ExitReason::Modules))?;
    mount_root(&line, &mapper)?;
    let mut attester = open_attester(&line)?;
    let disk = open_state_disk()?;
    let guide = Guide::find()?;
    unlock(&line, &mapper, &disk, (&mut attester, guide))?;
    drop(attester);
    step("switch-root").with("init", INIT).end();
    switch_root(Path::new(ROOT), Path::new(INIT)).map_err(exits(ExitReason::SwitchRoot))
}

fn load_modules() -> Result<(), Failure> {
    let list = modules::read_list(Path::new("/modules.list"));
    let list = list.map_err(exits(ExitReason::Modules))?;
    for module in &list {
        modules::load(module).map_err(exits(ExitReason::Modules))?;
    }
    step("modules").with("loaded", list.len()).end();
    Ok(())
}

fn read_command_line() -> Result<CommandLine, Failure> {
    let bytes = fs::read("/proc/cmdline").map_err(exits(ExitReason::CommandLine))?;
    let line = CommandLine::parse(&bytes).map_err(exits(ExitReason::CommandLine))?;
    step("command-line")
        .with("owner", line.owner)
        .with("evidence", line.evidence)
        .end();
    Ok(line)
}

fn mount_root(line: &CommandLine, mapper: &DeviceMapper) -> Result<(), Failure> {
    let device = wait_for(&Wanted::ROOT, ExitReason::RootMissing)?;
    let mapped = line.root.activate(mapper, &device);
    let mapped = mapped.map_err(exits(ExitReason::RootRefused))?;
    mount::mount_read_only(&mapped.node(), Path::new(ROOT), ROOT_TYPE)
        .map_err(exits(ExitReason::RootRefused))?;
    step("root").with("device", device.display()).end();
    Ok(())
}

fn open_attester(line: &CommandLine) -> Result<Attester, Failure> {
    let attester = attest::open(line.evidence)?;
    step("attester").with("kind", line.evidence).end();
    Ok(attester)
}

fn open_state_disk() -> Result<StateDisk, Failure> {
    let device = wait_for(&Wanted::STATE, ExitReason::StateDiskMissing)?;
    StateDisk::open(&device).map_err(|error| exits(disk_reason(&error))(error))
}

/// Disks appear when their driver is done with them, a moment after its module is loaded.
fn wait_for(wanted: &Wanted, missing: ExitReason) -> Result<PathBuf, Failure> {
    let deadline = Instant::now() + DISK_TIME;
    loop {
        match find(wanted) {
            Err(FindError::Missing { .. }) if Instant::now() < deadline => {
                thread::sleep(DISK_POLL);
            }
            found => return found.map_err(exits(missing)),
        }
    }
}

fn unlock(
    line: &CommandLine,
    mapper: &DeviceMapper,
    disk: &StateDisk,
    (attester, mut guide): (&mut Attester, Guide),
) -> Result<(), Failure> {
    let sealing_key = SealingKey::generate().map_err(exits(ExitReason::Panic))?;
    let end = TlsEnd::generate().map_err(exits(ExitReason::Panic))?;
    let terms = AttesterTerms {
        owner: line.owner,
        claim: attester.claim(),
        sealing_key: sealing_key.public_key(),
    };
    let mut peers = Peers::new(end, terms);
    let port = peers
        .listen(PUSH_PORT)
        .map_err(exits(ExitReason::Network))?;
    step("listening").with("port", port).end();
    let disk = MappedDisk {
        mapper,
        root: Path::new(ROOT),
        disk,
    };
    let machine = Machine {
        disk: &disk,
        attester,
        way: &mut guide,
    };
    Unlock::new(machine, peers, sealing_key).run(Path::new(hand_off::FOLDER))
}
