//! Captured evidence of real machines for tests, where it is at hand: in the folder that
//! `CONSTELLATION_VECTORS` names, or in `../shared/vectors` beside the repository. In CI it must be.

use std::{env, fs, path::PathBuf};

/// A file of the vectors, `folder/name`; `None`, said aloud, where it is missing.
///
/// # Panics
/// It is missing in CI.
#[must_use]
pub fn vector(name: &str) -> Option<Vec<u8>> {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/vectors");
    let root = env::var_os("CONSTELLATION_VECTORS").map_or_else(|| beside.into(), PathBuf::from);
    let path = root.join(name);
    if let Ok(bytes) = fs::read(&path) {
        return Some(bytes);
    }
    let missing = format!(
        "missing vector `{}`\nhint: set `CONSTELLATION_VECTORS` to the folder of test vectors",
        path.display()
    );
    assert!(env::var_os("CI").is_none(), "{missing}");
    eprintln!("skipped: {missing}");
    None
}
