//! Owners that are made once and lent to one installation after the other.
//!
//! Making an owner is slow on purpose (scrypt, three times), and no scenario is about it. Two
//! installations that live at the same time never have the same owner, whatever process they are of.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::cli::Cli;
use crate::workspace::{base_dir, program};

/// More owners than this are never in use at a time.
const MOST: usize = 64;

/// Where an owner's fingerprint is, as `owner new` said it.
const OWNER: &str = "owner.json";

/// The files of an owner: what [`make`] leaves.
const FILES: [&str; 6] = [
    "owner.key",
    "owner.pub",
    "admission.key",
    "admission.cert.json",
    "master-secret.key",
    "cluster.json",
];

/// The right to an owner's files; given back on drop, and by the kernel on any exit.
#[derive(Debug)]
pub(crate) struct LentOwner {
    _lock: File,
}

/// Makes an owner and the secrets of an installation with `cli`; gives the fingerprint.
pub(crate) fn make(cli: &Cli) -> Result<String> {
    let owner = cli.owner_new()?;
    cli.owner_certify()?;
    cli.keys_new()?;
    fingerprint(&owner)
}

/// Copies the files of an owner that nobody has now to the folder of `cli`; gives the fingerprint.
pub(crate) fn borrow(cli: &Cli) -> Result<(LentOwner, String)> {
    let base = base_dir().join("owners");
    fs::create_dir_all(&base)?;
    let maker = maker()?;
    for index in 0..MOST {
        let lock = File::create(base.join(format!("{index}.lock")))?;
        if lock.try_lock().is_err() {
            continue;
        }
        let dir = base.join(index.to_string());
        // Whoever has the lock may make the owner; a maker that died left no word of itself.
        if fs::read_to_string(dir.join("maker")).ok().as_ref() != Some(&maker) {
            remake(&dir, &maker)?;
        }
        for name in FILES {
            let from = dir.join(name);
            fs::copy(&from, cli.file(name)).with_context(|| format!("copy {}", from.display()))?;
        }
        let owner = serde_json::from_slice(&fs::read(dir.join(OWNER))?)?;
        return Ok((LentOwner { _lock: lock }, fingerprint(&owner)?));
    }
    bail!("{MOST} owners are in use: something hangs")
}

fn remake(dir: &Path, maker: &str) -> Result<()> {
    if dir.exists() {
        fs::remove_dir_all(dir).with_context(|| format!("empty {}", dir.display()))?;
    }
    let owner = make(&Cli::new(dir)?)?;
    let owner = serde_json::json!({ "fingerprint": owner });
    fs::write(dir.join(OWNER), owner.to_string())?;
    fs::write(dir.join("maker"), maker)?;
    Ok(())
}

/// Changes with the program that makes owners, and every day: certificates expire.
fn maker() -> Result<String> {
    let program: PathBuf = program("constellation")?;
    let metadata = program.metadata()?;
    let mut hasher = DefaultHasher::new();
    (program, metadata.len(), metadata.modified()?).hash(&mut hasher);
    let day = UNIX_EPOCH.elapsed()?.as_secs() / (24 * 60 * 60);
    Ok(format!("{:016x} {day}", hasher.finish()))
}

fn fingerprint(owner: &Value) -> Result<String> {
    let fingerprint = owner["fingerprint"].as_str();
    Ok(fingerprint
        .context("`owner new` names no fingerprint")?
        .to_owned())
}
