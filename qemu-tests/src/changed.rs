//! Images that an attacker has changed: everything as in the original but one part.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use measure::cmdline::Cmdline;
use measure::uki::{Parts, Uki, build};

use crate::process::run;

/// The parts of a unified kernel image that a scenario may change before it is put together again.
#[derive(Clone, Debug)]
pub struct ChangedUki {
    stub: Vec<u8>,
    kernel_release: String,
    kernel: Vec<u8>,
    /// The kernel's command line.
    pub cmdline: String,
    /// The initial RAM disk.
    pub initrd: Vec<u8>,
}

impl ChangedUki {
    /// Takes an image apart. `stub` is the stub that it was built with.
    pub fn of(uki: &Path, stub: &Path) -> Result<Self> {
        let bytes = fs::read(uki).with_context(|| format!("read {}", uki.display()))?;
        let parsed = Uki::parse(&bytes).with_context(|| format!("read {}", uki.display()))?;
        Ok(Self {
            stub: fs::read(stub).with_context(|| format!("read {}", stub.display()))?,
            kernel_release: String::from_utf8(parsed.section(".uname")?.to_vec())?,
            kernel: parsed.section(".linux")?.to_vec(),
            cmdline: parsed.cmdline().as_str().to_owned(),
            initrd: parsed.section(".initrd")?.to_vec(),
        })
    }

    /// Adds a file to the initial RAM disk; the kernel unpacks concatenated archives.
    pub fn append_to_initrd(&mut self, name: &str, content: &[u8]) -> Result<()> {
        // An archive after another one starts at a multiple of four bytes.
        self.initrd.resize(self.initrd.len().next_multiple_of(4), 0);
        self.initrd.extend(archive(name, content)?);
        Ok(())
    }

    /// Puts the image together.
    pub fn write(&self, uki: &Path) -> Result<()> {
        let cmdline = Cmdline::parse(self.cmdline.as_bytes())?;
        let bytes = build(&Parts {
            stub: &self.stub,
            kernel_release: &self.kernel_release,
            cmdline: &cmdline,
            initrd: &self.initrd,
            kernel: &self.kernel,
        })?;
        fs::write(uki, bytes).with_context(|| format!("write {}", uki.display()))
    }
}

/// A cpio archive of one file.
fn archive(name: &str, content: &[u8]) -> Result<Vec<u8>> {
    let scratch = tempfile::tempdir()?;
    fs::write(scratch.path().join(name), content)?;
    let mut cpio = Command::new("sh");
    cpio.current_dir(scratch.path());
    let script = "echo \"$1\" | cpio --quiet -o -H newc >archive";
    run(cpio.args(["-c", script, "sh", name]))?;
    Ok(fs::read(scratch.path().join("archive"))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_appended_archive_starts_aligned_and_holds_the_file() {
        let mut uki = ChangedUki {
            stub: Vec::new(),
            kernel_release: String::new(),
            kernel: Vec::new(),
            cmdline: String::new(),
            initrd: vec![1; 5],
        };
        uki.append_to_initrd("extra", b"content").unwrap();
        let archive = uki.initrd.get(8..).unwrap();
        // The magic number of the format, `cpio -H newc`.
        assert!(archive.starts_with(b"070701"));
        assert!(archive.windows(7).any(|part| part == b"content"));
    }
}
