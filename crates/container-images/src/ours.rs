//! The images that we name.

use crate::Image;
use anyhow::Result;
use kubernetes_binaries::Kubernetes;
use std::path::{Path, PathBuf};

/// The services that run in a cluster.
pub const SERVICES: [&str; 3] = ["join-service", "key-service", "verification-service"];

/// Writes the image of a service, `<name>.tar`, from its program.
///
/// # Errors
/// If the program is missing or the file cannot be written.
pub fn service_image(name: &str, program: &Path, folder: &Path) -> Result<PathBuf> {
    let path = format!("/usr/bin/{name}");
    let archive = folder.join(format!("{name}.tar"));
    Image::new(&tag(name), &[&path])
        .program(program, &path)?
        .write(&archive)?;
    Ok(archive)
}

/// Writes `demo.tar`: busybox, which a demonstration's pods serve and ask with.
///
/// # Errors
/// As for [`service_image`].
pub fn demo_image(kubernetes: &Kubernetes, folder: &Path) -> Result<PathBuf> {
    let archive = folder.join("demo.tar");
    Image::new(&tag("demo"), &["/bin/busybox"])
        .program(&kubernetes.tool("bin/busybox"), "/bin/busybox")?
        .link("/bin/sh", "/bin/busybox")
        .write(&archive)?;
    Ok(archive)
}

fn tag(name: &str) -> String {
    format!(
        "constellation.internal/{name}:{}",
        env!("CARGO_PKG_VERSION")
    )
}
