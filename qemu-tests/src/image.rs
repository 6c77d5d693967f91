//! What `xtask image` has built.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

use crate::machine::Boot;
use crate::workspace::target_dir;

/// One built image.
#[derive(Clone, Debug)]
pub struct Image {
    dir: PathBuf,
}

impl Image {
    /// The image of a profile: `release`, `test` or `probe`.
    pub fn of(profile: &str) -> Result<Self> {
        let dir = target_dir().join("image").join(profile);
        ensure!(
            dir.join("image.json").is_file(),
            "no image in `{}`\nhint: `cargo run -p xtask -- image --profile {profile}`",
            dir.display()
        );
        Ok(Self {
            dir: dir.canonicalize()?,
        })
    }

    /// The unified kernel image, nobody's yet.
    pub fn uki(&self) -> PathBuf {
        self.dir.join("uki.efi")
    }

    /// The verified root with its hash tree.
    pub fn root(&self) -> PathBuf {
        self.dir.join("root.img")
    }

    /// The kernel of the UKI.
    pub fn kernel(&self) -> PathBuf {
        self.dir.join("vmlinuz")
    }

    /// The initial RAM disk of the UKI.
    pub fn initrd(&self) -> PathBuf {
        self.dir.join("initrd.cpio")
    }

    /// The UKI's command line.
    pub fn cmdline(&self) -> Result<String> {
        let text = fs::read_to_string(self.dir.join("cmdline"))?;
        Ok(text.trim_end_matches(['\0', '\n']).to_owned())
    }

    /// The image's parts for a boot without firmware, with more words on the command line.
    pub fn direct(&self, more: &str) -> Result<Boot> {
        Ok(Boot::Kernel {
            kernel: self.kernel(),
            initrd: self.initrd(),
            cmdline: format!("{} {more}", self.cmdline()?).trim_end().to_owned(),
        })
    }

    /// The stub of the UKI.
    pub fn stub(&self) -> PathBuf {
        let packages = self.dir.join("../packages/systemd-boot-efi");
        packages.join("usr/lib/systemd/boot/efi/linuxx64.efi.stub")
    }

    /// The static program that asks for a second key in the booted root; beside the test image only.
    pub fn second_request(&self) -> PathBuf {
        self.dir.join("second-request")
    }

    /// The static program that asks for keys as an SNP guest; beside the test image only.
    pub fn snp_request(&self) -> PathBuf {
        self.dir.join("snp-request")
    }

    /// The static program that knows the state disk, for an initial RAM disk; beside the test image
    /// only.
    pub fn disk_test(&self) -> PathBuf {
        self.dir.join("disk-test")
    }

    /// The archive with a test init that provides `/dev/sev-guest`; beside the test image only.
    pub fn snp_device(&self) -> PathBuf {
        self.dir.join("snp-device.cpio")
    }

    /// The folder of all of it.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}
