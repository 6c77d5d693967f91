//! Images of a mini cluster: owned, measured on this firmware, ready to boot.

use anyhow::{Context as _, Result, anyhow};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};
use vm::{Swtpm, TpmAuthority};

use super::{cluster::Operator, guests::Guests};
use crate::{files, output::WithHint as _};

impl Guests<'_> {
    /// The firmware's event log, the image of each machine, policy and reference values.
    pub(super) fn prepare_images(
        &self,
        operator: &Operator<'_>,
        tpms: &TpmAuthority,
    ) -> Result<()> {
        self.record_firmware(tpms)?;
        for node in self.nodes() {
            let boot = self.folder.node(&node.name).join("boot.img");
            if !boot.exists() {
                self.install(&node.image, &boot, operator)?;
            }
        }
        operator.sign_documents(tpms, &self.plan.image)
    }

    /// Gives a machine another image; it takes it with its next start.
    pub(super) fn change_image(
        &mut self,
        name: &str,
        image: &Path,
        operator: &Operator<'_>,
    ) -> Result<()> {
        let shown = image.display();
        let image = image.canonicalize().with_context(|| format!("`{shown}`"))?;
        let boot = self.folder.node(name).join("boot.next.img");
        self.node(name)?;
        self.install(&image, &boot, operator)?;
        let mut nodes = self.plan.nodes.iter_mut();
        if let Some(node) = nodes.find(|node| node.name == name) {
            node.image = image;
        }
        self.folder.store(&self.plan)
    }

    /// Owns and measures an image, and writes a boot disk with it.
    fn install(&self, image: &Path, boot: &Path, operator: &Operator<'_>) -> Result<()> {
        let owned = operator.own(image)?;
        write_esp(&image.join("esp.img"), &owned, boot)
    }

    /// Boots the probe once: what this firmware measures is what it measures now.
    fn record_firmware(&self, tpms: &TpmAuthority) -> Result<()> {
        let log = self.folder.file("firmware.log");
        if log.exists() {
            return Ok(());
        }
        self.progress
            .say("the firmware's measurements are recorded");
        let (esp, tpm) = (self.folder.run("probe.img"), self.folder.run("probe-tpm"));
        let probe = |name: &str| self.plan.probe.join(name);
        write_esp(&probe("esp.img"), &probe("uki.efi"), &esp)?;
        let tpm = Swtpm::manufacture(&tpm, tpms)?;
        let console = self.run_probe(&esp, &tpm)?;
        let bytes = vm::event_log(console.lines())?;
        fs::remove_file(&esp).context("delete the probe's disk")?;
        files::replace(&log, &bytes)
    }
}

/// A copy of a system partition with another image in it.
fn write_esp(published: &Path, uki: &Path, out: &Path) -> Result<()> {
    let making = out.with_extension("tmp");
    let shown = published.display();
    fs::copy(published, &making)
        .with_context(|| format!("copy `{shown}`"))
        .hint("is it the folder of an image?")?;
    let mut command = Command::new("mcopy");
    command.arg("-o").arg("-i").arg(&making).arg(uki);
    command.arg("::EFI/BOOT/BOOTX64.EFI");
    let output = command
        .output()
        .context("start `mcopy`")
        .hint("install mtools")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(anyhow!("write the system partition: {}", said.trim()));
    }
    fs::rename(&making, out).context("keep the boot disk")
}

/// Name of an image in reference values: its folder's.
pub(super) fn name_of(image: &Path) -> Result<String> {
    let name = image.file_name().and_then(|name| name.to_str());
    name.map(str::to_owned)
        .with_context(|| format!("`{}` has no name", image.display()))
}

/// Where an image's owned copy and measurements are.
pub(super) fn folder_of(base: &Path, image: &Path) -> Result<PathBuf> {
    Ok(base.join("images").join(name_of(image)?))
}
