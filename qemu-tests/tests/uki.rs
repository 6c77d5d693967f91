//! Scenarios where the firmware or the image is the subject: OVMF, a UKI, a TPM that measures.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use qemu_tests::{
    Boot, ChangedUki, Disk, Image, PoweredTpm, Process, Scenario, Site, Swtpm, contained, exit,
    firmware_event_log, program, qemu, run,
};
use serde_json::json;
use vm::{FIRMWARE, OVMF};

/// How an OS image is started.
const INSTALL: &str = include_str!("../../docs/os-image.md");

/// Another build of the same firmware, for smaller flash: PCR 0 differs.
const OTHER_FIRMWARE: &str = "OVMF_CODE.fd";

#[test]
fn a_node_joins_and_rejoins() -> Result<()> {
    let scenario = Scenario::firmware("join-rejoin")?;
    let node = scenario.node("worker-0")?;
    node.start("join")?.expect_unlocked(1)?;
    node.start("rejoin")?.expect_unlocked(2)?;
    scenario.passed()
}

#[test]
fn measure_predicts_what_the_firmware_measures() -> Result<()> {
    let scenario = Scenario::firmware("measure")?;
    let image = Image::of("probe")?;
    let owned = scenario.workspace.file("probe.efi");
    scenario.site.cli.image_own(&image.uki(), &owned)?;
    let log = firmware_event_log(scenario.accelerator)?;
    let predicted = scenario.site.cli.measure(&owned, &log)?;

    let mut node = scenario.node("worker-0")?;
    node.config.boot = Boot::Firmware { uki: owned };
    let mut machine = node.start("probe")?;
    for index in [0, 2, 3, 4, 7, 9, 11, 12, 13, 15] {
        let line = machine
            .console
            .expect(&format!("probe: pcr={index} "), BOOT)?;
        let value = line.text.rsplit(' ').next();
        assert_eq!(
            predicted["pcrs"][index.to_string()],
            json!([value]),
            "PCR {index}"
        );
    }
    scenario.passed()
}

/// docs/os-image.md, "Install", by the letter but for what a test has not, KVM and a network of its own, until
/// the agent of the test image has seen the state disk. `make e2e` starts OS images, with the harness's arguments.
#[test]
fn the_documented_command_line_starts_an_owned_image() -> Result<()> {
    let scenario = Scenario::firmware("documented")?;
    let node = scenario.node("worker-0")?;
    let dir = scenario.workspace.dir();
    let (Boot::Firmware { uki }, Some(tpm)) = (&scenario.boot, &node.config.tpm) else {
        bail!("the tier boots UKIs and has TPMs");
    };
    run(Command::new(program("xtask")?)
        .arg("esp")
        .args([uki, &dir.join("esp.img")]))?;
    symlink(scenario.image.root(), dir.join("root.img"))?;
    Disk::blank_state(&dir.join("state.raw"), 1024)?;
    let firmware = Path::new(FIRMWARE);
    symlink(firmware.join(OVMF), dir.join(OVMF))?;
    fs::copy(firmware.join("OVMF_VARS_4M.fd"), dir.join("vars.fd"))?;
    let tpm = PoweredTpm::of(tpm)?;
    symlink(tpm.socket(), dir.join("swtpm.sock"))?;

    let (_, documented) = INSTALL
        .split_once("\n```\nqemu-system-x86_64 ")
        .context("no line")?;
    let (documented, _) = documented.split_once("\n```\n").context("no end")?;
    let mut line = documented.replace("\\\n", " ");
    for (from, to) in [
        (
            "-accel kvm -cpu host",
            scenario.accelerator.arguments().join(" "),
        ),
        (
            "tap,id=net,ifname=tap0,script=no,downscript=no",
            "user,id=net,restrict=on".to_owned(),
        ),
    ] {
        ensure!(line.contains(from), "the documents do not say `{from}`");
        line = line.replace(from, &to);
    }
    let mut machine = contained("sh");
    machine
        .arg("-c")
        .arg(format!("exec {} {line}", qemu().display()));
    let console = dir.join("documented.log");
    machine.current_dir(dir);
    let mut machine = Process::spawn("QEMU", machine, &console)?;
    let end = Instant::now() + 2 * BOOT;
    // It has the verified root, a TPM, an address and a blank state disk.
    while !fs::read_to_string(&console)?.contains("state-disk header=none") {
        ensure!(
            machine.exit_status()?.is_none(),
            "QEMU ended; log: {}",
            console.display()
        );
        ensure!(Instant::now() < end, "no agent; log: {}", console.display());
        thread::sleep(Duration::from_millis(200));
    }
    scenario.passed()
}

#[test]
fn a_changed_image_is_refused_and_the_pcr_named() -> Result<()> {
    let scenario = Scenario::firmware("changed-image")?;
    let node = scenario.node("worker-0")?;
    let Boot::Firmware { uki } = &scenario.boot else {
        anyhow::bail!("the tier boots UKIs");
    };
    let original = ChangedUki::of(uki, &scenario.image.stub())?;
    let changed = |name: &str, event: &str, change: &dyn Fn(&mut ChangedUki) -> Result<()>| {
        let mut parts = original.clone();
        change(&mut parts)?;
        let uki = scenario.workspace.file(&format!("{name}.efi"));
        parts.write(&uki)?;
        let mut node = node.clone();
        node.config.boot = Boot::Firmware { uki };
        let join_service = &scenario.site.join_service;
        let position = join_service.log_position();
        scenario.expect_refused(&node, name, &["check failed", "PCR"])?;
        // The node's event log beside the events of the reference values.
        join_service.expect_log(position, &["event log", "expected", event], BOOT)
    };
    changed("command-line", "kernel command line digest", &|uki| {
        uki.cmdline += " systemd.debug_shell";
        Ok(())
    })?;
    changed("initrd", "initramfs digest", &|uki| {
        uki.append_to_initrd("planted", b"an attacker's file")
    })?;
    assert!(node.state.is_blank()?);
    node.start("original")?.expect_unlocked(1)?;
    scenario.passed()
}

/// The host runs the genuine image under an owner of its own, becomes root there, and asks the
/// victim's join service: the owner is on the measured command line.
#[test]
fn an_image_of_another_owner_gets_nothing() -> Result<()> {
    let scenario = Scenario::firmware("other-owner")?;
    let other = Site::borrow_in(&scenario.workspace, "other-site")?;
    let uki = scenario.workspace.file("other-owner.efi");
    other.cli.image_own(&scenario.image.uki(), &uki)?;
    let mut node = scenario.node("worker-0")?;
    node.config.boot = Boot::Firmware { uki };
    let position = scenario.site.join_service.log_position();
    let mut machine = node.start("other-owner")?;
    // The agent is the other owner's, so our refusal is no final word to it: it goes on waiting.
    machine.expect_step("peer")?;
    let words = ["check failed", "PCR"];
    scenario
        .site
        .join_service
        .expect_log(position, &words, BOOT)?;
    machine.kill()?;
    assert!(
        node.state.is_blank()?,
        "an image of another owner wrote to its disk"
    );
    scenario.passed()
}

#[test]
fn a_changed_root_file_system_does_not_start() -> Result<()> {
    let scenario = Scenario::firmware("changed-root")?;
    let mut node = scenario.node("worker-0")?;
    let Some(root) = node.config.disks.first_mut() else {
        anyhow::bail!("a node has a root disk");
    };
    *root = root.copy_to(&scenario.workspace.file("changed-root.img"))?;
    // The superblock of erofs (1,024 bytes from the start): the first block that is read.
    root.flip(1024, 1)?;
    node.start("changed")?.expect_exit(&[exit::ROOT_REFUSED])?;
    assert!(node.state.is_blank()?);
    scenario.passed()
}

#[test]
fn other_firmware_is_refused() -> Result<()> {
    let scenario = Scenario::firmware("other-firmware")?;
    let mut node = scenario.node("worker-0")?;
    node.config.firmware = OTHER_FIRMWARE.to_owned();
    scenario.expect_refused(&node, "other", &["check failed", "PCR"])?;
    assert!(node.state.is_blank()?);
    scenario.passed()
}

#[test]
fn a_foreign_genuine_tpm_with_the_right_pcrs_is_refused_a_known_disk() -> Result<()> {
    let scenario = Scenario::firmware("foreign-tpm")?;
    let node = scenario.node("worker-0")?;
    node.start("join")?.expect_unlocked(1)?;
    let mut thief = node.clone();
    let tpm = Swtpm::manufacture(&scenario.workspace.file("thief.tpm"), &scenario.authority)?;
    thief.config.tpm = Some(tpm);
    scenario.expect_refused(&thief, "thief", &["expected attester"])?;
    node.start("rejoin")?.expect_unlocked(2)?;
    scenario.passed()
}

/// Firmware, kernel and probe under emulation on a busy machine.
const BOOT: Duration = Duration::from_secs(120);
