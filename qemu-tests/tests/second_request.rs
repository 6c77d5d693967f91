//! Root of a booted node asks for a key once more: the latch, shown in a whole machine.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use qemu_tests::{Disk, DiskFormat, GUEST_JOIN_SERVICE, Scenario};

/// The serial of the disk whose script the test image runs (`os-image/root-init-test.sh`).
const SCRIPT: &str = "constellation-test";
/// The serial of the disk with the program, for the script to find.
const PROGRAM: &str = "second-request";

/// `TPM_RC_LOCALITY`: not from where an operating system is (Part 2, section 6.6.2).
const NOT_FROM_HERE: &str = "code=0x907";

/// Three conversations with an emulated TPM, under emulation on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// The join service has answered; it only has to write.
const LOG: Duration = Duration::from_secs(10);

#[test]
fn a_second_key_request_after_the_latch_is_refused() -> Result<()> {
    let scenario = Scenario::direct("second-request")?;
    let mut node = scenario.node("worker-0")?;
    let program = scenario.image.second_request();
    let program = fs::read(&program).with_context(|| format!("read {}", program.display()))?;
    let script = script(program.len()).into_bytes();
    for (content, serial) in [(program, PROGRAM), (script, SCRIPT)] {
        let disk = disk(&scenario.workspace.file(serial), content, serial)?;
        node.config.disks.push(disk);
    }

    let mut machine = node.start("join")?;
    machine.expect_step("switch-root")?;
    let position = scenario.site.join_service.log_position();
    let reset = machine.console.expect("second-request: reset ", PATIENCE)?;
    ensure!(
        reset.text.ends_with(NOT_FROM_HERE),
        "PCR 15: {}",
        reset.text
    );
    for path in ["rejoin", "join"] {
        let begin = format!("second-request: {path} ");
        let answer = machine.console.expect(&begin, PATIENCE)?.text;
        let refused = format!("{begin}refused by the owner: refused");
        ensure!(answer == refused, "the {path} ended in: {answer}");
    }
    machine.console.expect("root: test exit=0", PATIENCE)?;
    machine.console.expect("root: status=ok", PATIENCE)?;
    machine.wait_off(PATIENCE)?;
    let service = &scenario.site.join_service;
    service.expect_log(position, &["check failed", "PCR 15"], LOG)?;
    let log = scenario.site.dir().join("key-service-audit");
    let log = fs::read_to_string(log.join("audit.00000001.jsonl"))?;
    let releases = log.matches(r#""action":"release""#).count();
    ensure!(releases == 1, "{releases} releases:\n{log}");

    // A power cycle is another boot: the latch is gone, and the node gets its key.
    node.start("rejoin")?.expect_step("latch").map(drop)
}

/// A disk with this content, filled up to whole sectors.
fn disk(path: &Path, mut content: Vec<u8>, serial: &str) -> Result<Disk> {
    content.resize(content.len().next_multiple_of(512), 0);
    fs::write(path, content)?;
    Ok(Disk::new(path, DiskFormat::Raw, serial))
}

/// Runs the program, whose length is given.
fn script(length: usize) -> String {
    format!(
        r#"program=/run/second-request
for disk in /sys/block/vd*; do
    [ "$(busybox cat "$disk/serial")" = {PROGRAM} ] || continue
    busybox head -c {length} "/dev/${{disk##*/}}" >"$program"
done
busybox chmod 700 "$program"
"$program" {GUEST_JOIN_SERVICE}
"#
    )
}
