//! The container images that an OS image would have inside.

use anyhow::Result;
use kubernetes_binaries::Kubernetes;
use native_kubernetes::{Image, kubernetes_images};
use qemu_tests::program;
use std::{fs, path::Path};

/// The services that run in the cluster, and the users that they run as.
const SERVICES: [&str; 3] = ["join-service", "key-service", "verification-service"];

/// Writes all archives into a folder.
///
/// # Errors
/// If a program is missing or a file cannot be written.
pub(crate) fn write(kubernetes: &Kubernetes, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    kubernetes_images(kubernetes, folder)?;
    for service in SERVICES {
        let path = format!("/usr/bin/{service}");
        let name = format!(
            "constellation.internal/{service}:{}",
            env!("CARGO_PKG_VERSION")
        );
        Image::new(&name, &[&path])
            .program(&program(service)?, &path)?
            .write(&folder.join(format!("{service}.tar")))?;
    }
    Ok(())
}
