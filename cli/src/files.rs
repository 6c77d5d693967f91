//! Reading and writing the operator's files: bounded, atomic, never half-written.

use anyhow::{Context as _, Result, bail};
use std::{
    fs::{self, File, OpenOptions},
    io::{Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

/// The largest file that is read whole, in bytes: larger than any UKI or firmware.
const MAX_LEN: u64 = 512 << 20;

/// Reads a file of at most [`MAX_LEN`] bytes.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    let file = File::open(path).with_context(|| format!("read `{}`", path.display()))?;
    let mut bytes = Vec::new();
    let read = file
        .take(MAX_LEN + 1)
        .read_to_end(&mut bytes)
        .with_context(|| format!("read `{}`", path.display()))?;
    if read as u64 > MAX_LEN {
        bail!("read `{}`: larger than {MAX_LEN} bytes", path.display());
    }
    Ok(bytes)
}

/// Reads a file that must be UTF-8.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    String::from_utf8(read(path)?).with_context(|| format!("read `{}`: not UTF-8", path.display()))
}

/// Replaces a file by rename, so that a reader (or a crash) sees the old or the new one whole.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = path.with_extension("tmp");
    write_temporary(&temporary, bytes)
        .and_then(|()| fs::rename(&temporary, path).map_err(Into::into))
        .and_then(|()| sync_parent(path))
        .with_context(|| format!("write `{}`", path.display()))
}

/// [`replace`] for a file of mode 0600.
pub(crate) fn replace_secret(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = path.with_extension("tmp");
    // A leftover of a run that died; whoever else owns it, its mode must not become the file's.
    if temporary.exists() {
        fs::remove_file(&temporary).with_context(|| format!("remove `{}`", temporary.display()))?;
    }
    let mut file = create_secret(&temporary)?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&temporary, path))
        .map_err(Into::into)
        .and_then(|()| sync_parent(path))
        .with_context(|| format!("write `{}`", path.display()))
}

/// Writes a file that must not exist yet.
pub(crate) fn create(path: &Path, bytes: &[u8]) -> Result<()> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .with_context(|| format!("create `{}`", path.display()))
}

/// Opens a new file of mode 0600, which must not exist yet.
pub(crate) fn create_secret(path: &Path) -> Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("create `{}`", path.display()))
}

/// Makes the directory of a set of new files; one that exists may hold other files.
pub(crate) fn create_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("create directory `{}`", path.display()))
}

fn write_temporary(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    Ok(())
}

fn sync_parent(path: &Path) -> Result<()> {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.map_or_else(|| PathBuf::from("."), Path::to_path_buf);
    File::open(parent)?.sync_all()?;
    Ok(())
}
