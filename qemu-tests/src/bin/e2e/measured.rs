//! What the image measures, computed by somebody else.

use anyhow::{Context as _, Result, ensure};
use measure::uki::Uki;
use qemu_tests::{run, tool};
use serde_json::Value;
use std::{fs, path::Path, process::Command};

/// What the stub measures into PCR 11, beside `.osrel`, which our images do not have.
const SECTIONS: [&str; 5] = [".linux", ".cmdline", ".initrd", ".uname", ".sbat"];

/// Compares `measure`'s PCR 11 of a UKI with that of `systemd-measure`, by the authors of the stub. That both
/// are what a TPM has after a boot is what a node's admission by these values shows.
pub(crate) fn agree(uki: &Path, measurements: &Path, scratch: &Path) -> Result<()> {
    // No phase: the boot phases are extended by a userspace that our initramfs does not have.
    let mut command = Command::new(tool("systemd-measure"));
    command.args(["calculate", "--bank=sha256", "--phase=:"]);
    let bytes = fs::read(uki)?;
    let parsed = Uki::parse(&bytes)?;
    for section in SECTIONS {
        let content = parsed.pe().section(section).context(section)?.data();
        let path = scratch.join(section);
        fs::write(&path, content)?;
        let name = section.trim_start_matches('.');
        command.arg(format!("--{name}={}", path.display()));
    }
    let theirs = run(&mut command)?;
    let ours: Value = serde_json::from_slice(&fs::read(measurements)?)?;
    let ours = ours["pcrs"]["11"][0].as_str().context("PCR 11")?;
    ensure!(
        theirs.trim() == format!("11:sha256={ours}"),
        "systemd-measure says {theirs}, `measure` {ours}"
    );
    Ok(())
}
