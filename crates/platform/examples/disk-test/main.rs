//! The state disk in a virtual machine: dm code runs nowhere else in the tests.
//!
//! `qemu-tests` puts this program beside the agent into an initial RAM disk and boots it with
//! `rdinit=/disk-test`. The command line says what one boot does, `disk-test=<step>,<step>…`:
//! * `format`: format a blank disk, make the file system, write a first file;
//! * `fill`: write until the file system is full; `read`: read all of it again;
//! * `check`: the first file is there, `e2fsck` has nothing to say;
//! * `refusals`: altered superblocks, existing mappings, other keys and other tables are refused;
//! * `tamper`: altered, moved and mixed sectors do not read (destroys the file system);
//! * `load`: find every file up to `disk-test-synced=<n>` whole, then write and sync more until the
//!   machine is killed, naming each one; `verify`: only find them;
//! * `plant`, `replace`: prepare a clash with the agent's mappings, then become the agent;
//! * `alone`: become the agent where no second thread or process can start.
//!
//! It prints `disk-test: <ms> <step> <key=value…>` and ends with `disk-test: ok` or
//! `disk-test: failed`. Built for `x86_64-unknown-linux-musl`.

mod agent;
mod disk;
mod file_system;
mod kernel_log;
mod power_cut;
mod refusals;
mod tamper;

use platform::{dm::DeviceMapper, find, modules, mount, power, verity::VerifiedRoot};
use std::{error::Error, fs, path::Path, time::Instant};

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// Where the verified root is mounted.
const ROOT: &str = "/root";

/// Where the state file system is mounted.
const STATE: &str = "/state";

fn main() {
    if std::process::id() != 1 {
        // Started by this program itself, to act while the agent does.
        let name = std::env::args().nth(1).unwrap_or_default();
        report(agent::replace_when_live(&name));
        return;
    }
    report(boot().map(|()| println!("disk-test: ok")));
    // The end of a boot: there is nobody to return to.
    let Err(error) = power::power_off();
    report(Err(error.into()));
}

fn report(outcome: Outcome) {
    if let Err(error) = outcome {
        println!("disk-test: failed: {}", chain(error.as_ref()));
    }
}

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// Prints a step with its duration in milliseconds.
fn timed<T>(step: &str, run: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    let start = Instant::now();
    let result = run()?;
    println!("disk-test: {} {step}", start.elapsed().as_millis());
    Ok(result)
}

fn boot() -> Outcome {
    mount::mount_system()?;
    timed("modules", || {
        for path in modules::read_list(Path::new("/modules.list"))? {
            modules::load(&path)?;
        }
        Ok(())
    })?;
    let mapper = DeviceMapper::open()?;
    let steps = option("disk-test")?;
    match steps.split_once(':') {
        Some(("plant", name)) => return agent::plant(mapper, name),
        Some(("replace", name)) => return agent::replace(mapper, name),
        _ => {}
    }
    if steps == "alone" {
        return agent::alone(mapper);
    }
    timed("root", || mount_root(&mapper))?;
    let mut provoked = 0;
    for step in steps.split(',') {
        provoked += run(step, &mapper)?;
    }
    kernel_log::expect_errors(provoked)
}

/// Runs one step and says how many integrity errors it provoked.
fn run(step: &str, mapper: &DeviceMapper) -> Outcome<usize> {
    match step {
        "format" => file_system::format(mapper)?,
        "fill" => file_system::fill(mapper)?,
        "read" => file_system::read(mapper)?,
        "check" => file_system::check(mapper)?,
        "load" => power_cut::load(mapper)?,
        "verify" => power_cut::verify(mapper)?,
        "refusals" => return refusals::run(mapper),
        "tamper" => return tamper::run(mapper),
        other => return Err(format!("step `{other}`").into()),
    }
    Ok(0)
}

fn option(name: &str) -> Outcome<String> {
    let line = fs::read_to_string("/proc/cmdline")?;
    let mut words = line.split_ascii_whitespace();
    let value = words.find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    Ok(value.ok_or_else(|| format!("no {name}="))?.to_owned())
}

fn mount_root(mapper: &DeviceMapper) -> Outcome {
    let root: VerifiedRoot = option("constellation.root")?.parse()?;
    let mapped = root.activate(mapper, &find::find(&find::Wanted::ROOT)?)?;
    fs::create_dir_all(ROOT)?;
    fs::create_dir_all(STATE)?;
    mount::mount_read_only(&mapped.node(), Path::new(ROOT), "erofs")?;
    Ok(())
}
