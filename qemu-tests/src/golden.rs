//! What this firmware measures, from one boot that the tests trust.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use vm::{Accelerator, FIRMWARE, Swtpm, TpmAuthority, event_log};

use crate::console::Line;
use crate::image::Image;
use crate::machine::{Boot, MachineConfig, qemu};
use crate::process::run;
use crate::site::PCRS;
use crate::workspace::{Workspace, base_dir};

/// Firmware, kernel and probe under emulation on a busy machine.
const BOOT: Duration = Duration::from_secs(120);

/// The TCG event log of a trusted boot of the probe image on this firmware, as a file.
///
/// Operators record it once for a firmware; here it is kept until firmware or QEMU change.
pub fn firmware_event_log(accelerator: Accelerator) -> Result<PathBuf> {
    let path = base_dir().join(format!("firmware-{:016x}.log", machine_fingerprint()?));
    let _turn = turn()?;
    if path.is_file() {
        return Ok(path);
    }
    let workspace = Workspace::create("golden-boot")?;
    let boot = Boot::Firmware {
        uki: Image::of("probe")?.uki(),
    };
    let lines = probe(&workspace, accelerator, boot)?;
    let log = event_log(lines.iter().map(|line| line.text.as_str()))?;
    fs::write(&path, log)?;
    workspace.passed()?;
    Ok(path)
}

/// The PCR values that a direct boot leaves, in the form of `constellation measure`. Kept likewise.
pub fn direct_boot_pcrs(accelerator: Accelerator) -> Result<Value> {
    let path = base_dir().join(format!("direct-{:016x}.json", machine_fingerprint()?));
    let _turn = turn()?;
    if let Ok(known) = fs::read(&path) {
        return Ok(serde_json::from_slice(&known)?);
    }
    let workspace = Workspace::create("golden-direct-boot")?;
    let boot = Image::of("probe")?.direct("")?;
    let measurements = pcrs(&probe(&workspace, accelerator, boot)?)?;
    fs::write(&path, measurements.to_string())?;
    workspace.passed()?;
    Ok(measurements)
}

/// The values that the probe prints.
fn pcrs(lines: &[Line]) -> Result<Value> {
    let mut pcrs = serde_json::Map::new();
    for index in PCRS {
        let prefix = format!("probe: pcr={index} ");
        let value = lines
            .iter()
            .find_map(|line| line.text.strip_prefix(&prefix));
        let value = value.with_context(|| format!("the probe shows no PCR {index}"))?;
        pcrs.insert(index.to_string(), json!([value]));
    }
    Ok(json!({ "pcrs": pcrs }))
}

/// One golden boot at a time; whoever waited finds its result.
fn turn() -> Result<File> {
    fs::create_dir_all(base_dir())?;
    let lock = File::create(base_dir().join("golden.lock"))?;
    lock.lock()?;
    Ok(lock)
}

fn probe(workspace: &Workspace, accelerator: Accelerator, boot: Boot) -> Result<Vec<Line>> {
    let authority = TpmAuthority::create(&workspace.file("tpm-ca"))?;
    let mut config = MachineConfig::new(workspace, accelerator, boot);
    config.tpm = Some(Swtpm::manufacture(&workspace.file("tpm"), &authority)?);
    let mut machine = config.start("golden")?;
    machine.wait_off(BOOT)?;
    Ok(machine.console.lines())
}

/// Changes with whatever may change what the firmware measures.
fn machine_fingerprint() -> Result<u64> {
    let mut hasher = DefaultHasher::new();
    run(Command::new(qemu()).arg("--version"))?.hash(&mut hasher);
    for name in ["OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd"] {
        let path = format!("{FIRMWARE}/{name}");
        fs::read(&path)
            .with_context(|| format!("read {path}"))?
            .hash(&mut hasher);
    }
    Ok(hasher.finish())
}
