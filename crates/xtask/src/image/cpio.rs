//! The initramfs archive: cpio "newc" with nothing in it that changes from build to build.

use std::io::{self, Write};

/// S_IFDIR and S_IFREG of `stat(2)`.
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;

/// Writes entries in the order they are added; owner, times and devices are zero, inode numbers
/// count up. Format: the kernel's `Documentation/driver-api/early-userspace/buffer-format.rst`.
#[derive(Debug, Default)]
pub(crate) struct Cpio {
    bytes: Vec<u8>,
    entries: u32,
}

impl Cpio {
    /// Adds a directory; its parents must have been added before.
    pub(crate) fn directory(&mut self, path: &str) -> io::Result<()> {
        self.entry(path, DIRECTORY | 0o755, &[])
    }

    /// Adds a file.
    pub(crate) fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        self.entry(path, REGULAR | mode, content)
    }

    /// The finished archive.
    pub(crate) fn finish(mut self) -> io::Result<Vec<u8>> {
        self.entries = 0;
        self.entry("TRAILER!!!", 0, &[])?;
        Ok(self.bytes)
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        let size = u32::try_from(content.len()).map_err(io::Error::other)?;
        let links = if mode & DIRECTORY == DIRECTORY { 2 } else { 1 };
        let inode = self.entries;
        self.entries += 1;
        write!(
            self.bytes,
            "070701{inode:08x}{mode:08x}{:08x}{:08x}{links:08x}{:08x}",
            0, 0, 0
        )?;
        write!(self.bytes, "{size:08x}{:08x}{:08x}{:08x}{:08x}", 0, 0, 0, 0)?;
        write!(self.bytes, "{:08x}{:08x}{path}\0", path.len() + 1, 0)?;
        self.pad();
        self.bytes.write_all(content)?;
        self.pad();
        Ok(())
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}
