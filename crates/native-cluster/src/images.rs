//! The container images that an OS image would have inside.

use anyhow::{Context as _, Result};
use aws_lc_rs::digest::{SHA256, digest};
use container_images::{SERVICES, kubernetes_images, service_image};
use kubernetes_binaries::Kubernetes;
use qemu_tests::program;
use std::{fs, path::Path};

/// Writes all archives into a folder.
///
/// # Errors
/// If a program is missing or a file cannot be written.
pub(crate) fn write(kubernetes: &Kubernetes, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    kubernetes_images(kubernetes, folder)?;
    for service in SERVICES {
        service_image(service, &program(service)?, folder)?;
    }
    write_digests(folder)
}

/// What whoever builds an OS image writes beside each archive, so that no boot reads all of them.
fn write_digests(folder: &Path) -> Result<()> {
    let entries = fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
    for path in entries.iter().map(fs::DirEntry::path) {
        let archive = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        let digest = hex::encode(digest(&SHA256, &archive));
        fs::write(path.with_extension("tar.sha256"), digest)?;
    }
    Ok(())
}
