//! The harness itself, on real machines: both ways to boot, the TPM, the clock, the power.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests fail the test as the tests do"
)]

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use qemu_tests::{
    Boot, ChangedUki, Disk, Image, Line, Machine, MachineConfig, Site, Swtpm, Timeline,
    TpmAuthority, Workspace, firmware_event_log,
};
use serde_json::json;

const MIB: u64 = 1024 * 1024;

const BOOT: Duration = Duration::from_secs(180);

/// A machine with the probe image, which prints PCRs and powers off.
fn direct(workspace: &Workspace) -> MachineConfig {
    let image = Image::of("probe").unwrap();
    let accelerator = qemu_tests::accelerator(&image.kernel()).unwrap();
    MachineConfig::new(workspace, accelerator, image.direct("").unwrap())
}

fn firmware(workspace: &Workspace) -> MachineConfig {
    let authority = TpmAuthority::create(&workspace.file("tpm-ca")).unwrap();
    let mut config = direct(workspace);
    config.boot = Boot::Firmware {
        uki: Image::of("probe").unwrap().uki(),
    };
    config.tpm = Some(Swtpm::manufacture(&workspace.file("tpm"), &authority).unwrap());
    config
}

/// Runs to the power-off, prints the times and gives the lines.
fn finish(mut machine: Machine, label: &str) -> Vec<Line> {
    let start = machine.console.expect("probe: up=", BOOT).unwrap();
    let end = machine.console.expect(" end", BOOT).unwrap();
    machine.wait_off(BOOT).unwrap();
    let timeline = Timeline::from_points([("init", start.at), ("end", end.at)]);
    println!("{label}\n{timeline}");
    machine.console.lines()
}

fn pcr(lines: &[Line], index: u32) -> String {
    let prefix = format!("probe: pcr={index} ");
    let value = lines
        .iter()
        .find_map(|line| line.text.strip_prefix(&prefix));
    value.unwrap().to_owned()
}

#[test]
fn a_kernel_boots_directly() {
    let workspace = Workspace::create("harness-direct").unwrap();
    let machine = direct(&workspace).start("floor").unwrap();
    let lines = finish(machine, "direct boot floor");
    assert!(!pcr(&lines, 0).starts_with("00"), "there is no TPM");
    workspace.passed().unwrap();
}

#[test]
fn firmware_measures_a_uki_into_the_tpm() {
    let workspace = Workspace::create("harness-uki").unwrap();
    let config = firmware(&workspace);
    let first = finish(config.start("first").unwrap(), "firmware boot floor");
    assert_eq!(pcr(&first, 15), "0".repeat(64));
    assert_ne!(pcr(&first, 4), "0".repeat(64));

    let mut changed = config;
    let image = Image::of("probe").unwrap();
    let mut uki = ChangedUki::of(&image.uki(), &image.stub()).unwrap();
    let unchanged = workspace.file("unchanged.efi");
    uki.write(&unchanged).unwrap();
    assert_eq!(
        std::fs::read(unchanged).unwrap(),
        std::fs::read(image.uki()).unwrap()
    );
    uki.append_to_initrd("planted", b"an attacker's file")
        .unwrap();
    let target = workspace.file("changed.efi");
    uki.write(&target).unwrap();
    changed.boot = Boot::Firmware { uki: target };
    let second = finish(changed.start("second").unwrap(), "changed initrd");
    for index in [0, 2, 3, 7, 12, 13] {
        assert_eq!(pcr(&first, index), pcr(&second, index), "PCR {index}");
    }
    for index in [4, 9, 11] {
        assert_ne!(pcr(&first, index), pcr(&second, index), "PCR {index}");
    }
    workspace.passed().unwrap();
}

#[test]
fn the_machine_has_the_clock_that_the_test_sets() {
    let workspace = Workspace::create("harness-clock").unwrap();
    let mut config = direct(&workspace);
    for (year, expected) in [("1970", 70), ("2100", 200)] {
        config.clock = Some(format!("{year}-01-02T00:00:00"));
        let mut machine = config.start(year).unwrap();
        machine.console.expect("probe: up=", BOOT).unwrap();
        let arguments = json!({"path": "/machine", "property": "rtc-time"});
        let clock = machine.qmp().execute("qom-get", &arguments).unwrap();
        assert_eq!(clock["tm_year"], expected);
    }
    workspace.passed().unwrap();
}

#[test]
fn a_machine_can_be_paused_reset_and_killed() {
    let workspace = Workspace::create("harness-power").unwrap();
    let mut config = direct(&workspace);
    config.reboots = true;
    let mut machine = config.start("power").unwrap();
    machine.console.expect("probe: up=", BOOT).unwrap();
    machine.qmp().pause().unwrap();
    machine.qmp().resume().unwrap();
    machine.qmp().reset().unwrap();
    machine.console.expect("probe: up=", BOOT).unwrap();
    machine.kill().unwrap();
    machine.console.wait_closed(BOOT).unwrap();
    workspace.passed().unwrap();
}

#[test]
fn an_installation_becomes_ready_and_stops_when_asked() {
    let workspace = Workspace::create("harness-site").unwrap();
    let authority = TpmAuthority::create(&workspace.file("tpm-ca")).unwrap();
    let image = Image::of("probe").unwrap();
    let accelerator = qemu_tests::accelerator(&image.kernel()).unwrap();
    let mut site = Site::create(&workspace).unwrap();
    site.trust(&authority).unwrap();
    let owned = workspace.file("owned.efi");
    site.cli.image_own(&image.uki(), &owned).unwrap();
    let log = firmware_event_log(accelerator).unwrap();
    let measurements = site.cli.measure(&owned, &log).unwrap();
    site.accept_image("probe", &measurements).unwrap();
    site.start().unwrap();
    site.stop().unwrap();
    site.join_service.spawn().unwrap();
    site.key_service.start().unwrap();
    site.join_service.wait_ready().unwrap();
    site.join_service.kill().unwrap();

    // With the image, a disk, the store and the reserves of audit logs it takes more.
    Disk::state(&workspace.file("state.raw")).blank(64).unwrap();
    assert!(size(workspace.dir()) > 8 * MIB);
    workspace.passed().unwrap();
    assert!(
        size(workspace.dir()) < MIB,
        "a test that passed keeps more than its records"
    );
    assert!(!workspace.file("state.raw").exists());
}

/// Bytes that a folder's files take on the disk.
fn size(dir: &Path) -> u64 {
    let entries = dir.read_dir().unwrap().map(|entry| entry.unwrap());
    let sizes = entries.map(|entry| match entry.file_type().unwrap().is_dir() {
        true => size(&entry.path()),
        // st_blocks counts 512 bytes, stat(2).
        false => entry.metadata().unwrap().blocks() * 512,
    });
    sizes.sum()
}
