//! The tripwire of docs/state-disk.md: what the design cannot prevent is at least seen.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use qemu_tests::{Disk, Machine, Scenario};

/// Where the data of a state disk begins (docs/state-disk.md).
const DATA: u64 = 16 << 20;

/// A busy machine's time for one line of the console.
const LINE: Duration = Duration::from_secs(60);

/// A host that keeps the header and puts back old data is not noticed by any key or tag. The
/// generation inside the data tells.
#[test]
fn old_data_under_a_new_header_is_reported() -> Result<()> {
    let scenario = Scenario::direct("tripwire")?;
    let node = scenario.node("worker-0")?;
    node.start("join")?.expect_unlocked(1)?;
    let old = node.state.copy_to(&scenario.workspace.file("old.raw"))?;
    for counter in [2, 3] {
        let mut machine = node.start(&format!("boot-{counter}"))?;
        machine.expect_unlocked(counter)?;
        ensure!(
            tripwire(&machine).is_none(),
            "an honest boot trips the wire"
        );
    }

    put_back_data(&old, &node.state)?;
    let mut machine = node.start("old-data")?;
    machine.expect_step("switch-root")?;
    machine
        .console
        .expect("root: tripwire header=4 data=1: old data", LINE)?;
    machine.expect_counter(2)?;
    Ok(())
}

fn tripwire(machine: &Machine) -> Option<String> {
    let lines = machine.console.lines().into_iter().map(|line| line.text);
    lines
        .into_iter()
        .find(|line| line.contains("root: tripwire"))
}

/// Replaces everything behind the header by what an older copy of the disk has there.
fn put_back_data(old: &Disk, disk: &Disk) -> Result<()> {
    let header = disk.path().with_extension("header");
    copy_range(disk.path(), &header, DATA)?;
    fs::copy(old.path(), disk.path()).context("put back the old disk")?;
    let mut target = OpenOptions::new().write(true).open(disk.path())?;
    target.seek(SeekFrom::Start(0))?;
    io::copy(&mut File::open(&header)?, &mut target).context("keep the new header")?;
    Ok(())
}

fn copy_range(from: &Path, to: &Path, length: u64) -> Result<()> {
    let mut source = File::open(from)?.take(length);
    io::copy(&mut source, &mut File::create(to)?).context("copy the header")?;
    Ok(())
}
