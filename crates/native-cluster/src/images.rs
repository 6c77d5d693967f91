//! The container images that an OS image would have inside.

use anyhow::Result;
use container_images::{SERVICES, arrange, kubernetes_images, service_image};
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
    arrange(folder)
}
