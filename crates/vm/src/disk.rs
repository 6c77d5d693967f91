//! Disks of a virtual machine.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use child_process::run;

use crate::escape;

/// The serial of the verified root's disk.
const ROOT_SERIAL: &str = "constellation-root";

/// The serial of the state disk. The virtio block device has room for 20 bytes.
const STATE_SERIAL: &str = "constellation-state";

/// How a disk's file is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskFormat {
    /// QEMU's copy-on-write format.
    Qcow2,
    /// Plain bytes, sparse where never written.
    Raw,
}

/// One disk, as the machine shall see it.
#[derive(Clone, Debug)]
pub struct Disk {
    path: PathBuf,
    format: DiskFormat,
    serial: String,
    read_only: bool,
    snapshot: bool,
    flushes: bool,
}

impl Disk {
    /// The verity root, read-only.
    pub fn root(path: &Path) -> Self {
        Self {
            read_only: true,
            ..Self::new(path, DiskFormat::Raw, ROOT_SERIAL)
        }
    }

    /// A state disk that exists.
    pub fn state(path: &Path) -> Self {
        Self::new(path, DiskFormat::Raw, STATE_SERIAL)
    }

    /// A new, blank state disk; it takes no space until it is written.
    pub fn blank_state(path: &Path, mebibytes: u64) -> Result<Self> {
        let disk = Self::state(path);
        disk.blank(mebibytes)?;
        Ok(disk)
    }

    /// A disk with any serial (at most 20 bytes reach the guest).
    pub fn new(path: &Path, format: DiskFormat, serial: &str) -> Self {
        Self {
            path: path.to_owned(),
            format,
            serial: serial.to_owned(),
            read_only: false,
            snapshot: false,
            flushes: true,
        }
    }

    /// The same disk, but what the machine writes is lost when it ends.
    #[must_use]
    pub fn with_snapshot(mut self) -> Self {
        self.snapshot = true;
        self
    }

    /// The same disk, but what the guest flushes stays in this host's memory for a while: faster, and
    /// lost when the host itself loses power.
    #[must_use]
    pub const fn without_flushes(mut self) -> Self {
        self.flushes = false;
        self
    }

    /// Makes a raw disk all zero, of the given size.
    pub fn blank(&self, mebibytes: u64) -> Result<()> {
        let path = self.path.display();
        let file = File::create(&self.path).with_context(|| format!("create {path}"))?;
        let size = mebibytes * 1024 * 1024;
        file.set_len(size).with_context(|| format!("size {path}"))
    }

    /// A copy of the disk's present content, sparse, as another file.
    pub fn copy_to(&self, path: &Path) -> Result<Self> {
        let mut copy = Command::new("cp");
        run(copy.arg("--sparse=always").arg(&self.path).arg(path))?;
        Ok(Self {
            path: path.to_owned(),
            ..self.clone()
        })
    }

    /// Puts back what an older copy has from byte `from` on, as a host can; what is before stays.
    pub fn put_back(&self, old: &Self, from: u64) -> Result<()> {
        let mut kept = Vec::new();
        File::open(&self.path)?.take(from).read_to_end(&mut kept)?;
        old.copy_to(&self.path)?;
        let file = File::options().write(true).open(&self.path)?;
        file.write_all_at(&kept, 0).context("keep the beginning")
    }

    /// Flips bits of one byte, as a host can.
    pub fn flip(&self, offset: u64, bits: u8) -> Result<()> {
        let file = File::options().read(true).write(true).open(&self.path)?;
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset)?;
        file.write_all_at(&byte.map(|byte| byte ^ bits), offset)?;
        Ok(())
    }

    /// Whether nothing but zeros is on the disk. What was never written is not read: it is zero.
    pub fn is_blank(&self) -> Result<bool> {
        let file = File::open(&self.path)?;
        let mut at = 0;
        while let Some(start) = seek_to(&file, SeekFrom::Data(at))? {
            let end = seek_to(&file, SeekFrom::Hole(start))?.context("data without an end")?;
            if !is_zero(&file, start, end)? {
                return Ok(false);
            }
            at = end;
        }
        Ok(true)
    }

    /// What the guest knows it by.
    #[must_use]
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// The file behind the disk.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The value of QEMU's `-drive` for this disk.
    pub fn drive(&self, id: &str) -> String {
        let format = match self.format {
            DiskFormat::Qcow2 => "qcow2",
            DiskFormat::Raw => "raw",
        };
        format!(
            "if=none,id={id},format={format},readonly={},snapshot={},{}file={}",
            on_off(self.read_only),
            on_off(self.snapshot),
            if self.flushes { "" } else { "cache=unsafe," },
            escape(&self.path)
        )
    }
}

/// A place in a sparse file; none beyond the last data.
fn seek_to(file: &File, place: SeekFrom) -> Result<Option<u64>> {
    match seek(file, place) {
        Ok(offset) => Ok(Some(offset)),
        Err(Errno::NXIO) => Ok(None),
        Err(error) => Err(error).context("look for data in a disk's file"),
    }
}

/// Whether a part of a file is all zero.
fn is_zero(file: &File, start: u64, end: u64) -> io::Result<bool> {
    static ZERO: [u8; 1 << 16] = [0; 1 << 16];
    let mut chunk = ZERO;
    let mut at = start;
    while at < end {
        let length = usize::try_from(end - at).map_or(chunk.len(), |left| left.min(chunk.len()));
        let (read, zero) = (&mut chunk[..length], &ZERO[..length]);
        file.read_exact_at(read, at)?;
        // Slices are compared as a whole: byte by byte takes a minute a disk without optimization.
        if read != zero {
            return Ok(false);
        }
        at += length as u64;
    }
    Ok(true)
}

fn on_off(value: bool) -> &'static str {
    if value { "on" } else { "off" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_disk_is_read_only_and_a_comma_in_its_path_is_doubled() {
        let drive = Disk::root(Path::new("/a,b/root.raw")).drive("d0");
        assert_eq!(
            drive,
            "if=none,id=d0,format=raw,readonly=on,snapshot=off,file=/a,,b/root.raw"
        );
    }

    #[test]
    fn a_blank_disk_has_its_size_and_takes_no_space() {
        use std::os::unix::fs::MetadataExt as _;
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::blank_state(&dir.path().join("state.raw"), 64).unwrap();
        let metadata = disk.path().metadata().unwrap();
        assert_eq!(metadata.len(), 64 * 1024 * 1024);
        assert_eq!(metadata.blocks(), 0);
    }

    #[test]
    fn a_flipped_bit_makes_a_blank_disk_differ_and_back() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::blank_state(&dir.path().join("state.raw"), 1).unwrap();
        assert!(disk.is_blank().unwrap());
        disk.flip(70_000, 0x10).unwrap();
        assert!(!disk.is_blank().unwrap());
        disk.flip(70_000, 0x10).unwrap();
        assert!(disk.is_blank().unwrap());
    }

    #[test]
    fn serials_fit_the_virtio_block_device() {
        assert!(ROOT_SERIAL.len() <= 20);
        assert!(STATE_SERIAL.len() <= 20);
    }
}
