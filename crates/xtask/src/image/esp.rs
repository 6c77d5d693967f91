//! The boot partition: a FAT file system with the UKI where firmware looks for it.

use super::root::remove;
use crate::tool::Tool;
use std::{fs, path::Path};

/// Removable-media path of the UEFI specification, section 3.5.1.1: started without boot entries.
const BOOT_PATH: &str = "::/EFI/BOOT/BOOTX64.EFI";

const MIB: u64 = 1 << 20;

/// Writes `image` with `uki` in it. Not measured, yet equal bytes for equal UKIs.
pub(crate) fn build(uki: &Path, image: &Path) -> anyhow::Result<()> {
    remove(image)?;
    let size = (fs::metadata(uki)?.len() + 4 * MIB).next_multiple_of(MIB);
    fs::File::create(image)?.set_len(size)?;
    Tool::new("mkfs.fat", "dosfstools")
        .args(["--invariant", "-F", "16", "-i", "c0057e11", "-n", "BOOT"])
        .arg(image)
        .output()?;
    let mtools = |program| Tool::new(program, "mtools").arg("-i").arg(image);
    mtools("mmd").args(["::/EFI", "::/EFI/BOOT"]).output()?;
    mtools("mcopy").arg(uki).arg(BOOT_PATH).output()?;
    Ok(())
}
