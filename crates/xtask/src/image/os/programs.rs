//! Our programs of the root and of its container images: static, so that they are the same wherever they run.

use crate::{
    image::{MUSL, remap_cargo_home},
    tool::Tool,
};
use std::path::{Path, PathBuf};

/// All that run on a node but the agent. They are built together, since they share nearly everything.
const PACKAGES: [&str; 4] = [
    "bootstrapper",
    "join-service",
    "key-service",
    "verification-service",
];

/// Cargo's profile for them.
const PROFILE: &str = "node";

/// Builds them; gives the folder.
pub(super) fn build(target: &Path) -> anyhow::Result<PathBuf> {
    Tool::new("cargo", "rustup")
        .args(["build", "--profile", PROFILE, "--target", MUSL])
        .args(PACKAGES.iter().flat_map(|package| ["-p", package]))
        .args(["--bins", "--target-dir"])
        .arg(target)
        .env("CARGO_ENCODED_RUSTFLAGS", remap_cargo_home()?)
        // docs/decisions/0006-no-jitter-entropy.md
        .env("AWS_LC_SYS_NO_JITTER_ENTROPY", "1")
        .run()?;
    Ok(target.join(MUSL).join(PROFILE))
}
