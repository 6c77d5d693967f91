//! The tripwire of docs/state-disk.md: what the design cannot prevent is at least seen.

use std::time::Duration;

use anyhow::{Result, ensure};
use qemu_tests::{Machine, Scenario};

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

    node.state.put_back(&old, DATA)?;
    let mut machine = node.start("old-data")?;
    machine.expect_step("switch-root")?;
    machine
        .console
        .expect("root: tripwire header=4 data=1: old data", LINE)?;
    machine.expect_counter(2)?;
    scenario.passed()
}

fn tripwire(machine: &Machine) -> Option<String> {
    let lines = machine.console.lines().into_iter().map(|line| line.text);
    lines
        .into_iter()
        .find(|line| line.contains("root: tripwire"))
}
