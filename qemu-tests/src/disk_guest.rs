//! Boots that have the state disk itself as their subject: the released kernel, modules, root and
//! agent, and beside the agent the program `disk-test` of the crate `platform`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use measure::pcr::sha256;

use crate::console::Line;
use crate::image::Image;
use crate::machine::{Boot, Machine, MachineConfig};
use crate::process::run;
use crate::workspace::Workspace;
use vm::Accelerator;
use vm::Disk;

/// The longest boot fills a file system on a busy machine.
const BOOT: Duration = Duration::from_secs(180);

/// Powering off after the last line.
const POWER_OFF: Duration = Duration::from_secs(30);

/// What the kernel says about a failed tag, a failed read, a damaged file system.
const ERRORS: [&str; 6] = [
    "AEAD ERROR",
    "checksum failed",
    "I/O error",
    "EXT4-fs error",
    "EXT4-fs warning",
    "Aborting journal",
];

/// The image `release` with `disk-test` in its initial RAM disk.
#[derive(Clone, Debug)]
pub struct DiskGuest {
    image: Image,
    initrd: PathBuf,
    workspace: Workspace,
    accelerator: Accelerator,
}

/// What one boot printed.
#[derive(Debug)]
pub struct DiskReport {
    lines: Vec<Line>,
}

impl DiskGuest {
    /// Makes the initial RAM disk in the workspace.
    pub fn build(workspace: &Workspace) -> Result<Self> {
        Self::build_on(workspace, Image::of("release")?)
    }

    /// The same with another image.
    pub fn build_on(workspace: &Workspace, image: Image) -> Result<Self> {
        let mut initrd = fs::read(image.initrd())?;
        // An archive after another one starts at a multiple of four bytes.
        initrd.resize(initrd.len().next_multiple_of(4), 0);
        let program = Image::of("test")?.disk_test();
        initrd.extend(archive("disk-test", &program).context("hint: `make image`")?);
        let path = workspace.file("disk-test.cpio");
        fs::write(&path, initrd).with_context(|| format!("write {}", path.display()))?;
        Ok(Self {
            accelerator: crate::accelerator(&image.kernel())?,
            image,
            initrd: path,
            workspace: workspace.clone(),
        })
    }

    /// The boot that runs `disk-test=<steps>`; `more` are words for the kernel command line.
    pub fn boot(&self, steps: &str, more: &str) -> Result<Boot> {
        Ok(Boot::Kernel {
            kernel: self.image.kernel(),
            initrd: self.initrd.clone(),
            cmdline: format!(
                "{} rdinit=/disk-test disk-test={steps} {more}",
                self.image.cmdline()?
            ),
        })
    }

    /// A machine with the root and this state disk, without TPM and services.
    pub fn machine(&self, boot: Boot, state: &Disk) -> MachineConfig {
        let mut config = MachineConfig::new(&self.workspace, self.accelerator, boot);
        config.disks = vec![Disk::root(&self.image.root()), state.clone()];
        config
    }

    /// Runs the steps to their end, which must be a good one.
    pub fn run(&self, name: &str, steps: &str, state: &Disk) -> Result<DiskReport> {
        let config = self.machine(self.boot(steps, "")?, state);
        Self::finish(config.start(name)?)
    }

    /// Waits for the good end of a boot.
    pub fn finish(mut machine: Machine) -> Result<DiskReport> {
        let ends = ["disk-test: ok", "disk-test: failed"];
        let (end, line) = machine.console.expect_any(&ends, BOOT)?;
        let log = machine.console.log().display();
        ensure!(end == 0, "{}; console log: {log}", line.text);
        machine.wait_off(POWER_OFF)?;
        Ok(DiskReport::of(&machine))
    }

    /// The agent in the image's initial RAM disk, which stays byte for byte what it is.
    pub fn agent_digest(&self) -> Result<[u8; 32]> {
        let initrd = fs::read(&self.initrd)?;
        let original = fs::read(self.image.initrd())?;
        ensure!(
            initrd.starts_with(&original),
            "the initial RAM disk does not begin with the image's"
        );
        Ok(sha256(&agent(&self.initrd)?))
    }
}

impl DiskReport {
    /// What a machine has printed so far.
    pub fn of(machine: &Machine) -> Self {
        Self {
            lines: machine.console.lines(),
        }
    }

    /// The last number that the guest printed as `key=<number>`.
    pub fn last(&self, key: &str) -> Option<u64> {
        let key = format!("{key}=");
        let lines = self.lines.iter().rev();
        let mut ours = lines.filter(|line| line.text.contains("disk-test: "));
        ours.find_map(|line| {
            let mut words = line.text.split_ascii_whitespace();
            words.find_map(|word| word.strip_prefix(&key)?.parse().ok())
        })
    }

    /// The number that the guest printed as `key=<number>`.
    pub fn number(&self, key: &str) -> Result<u64> {
        let number = self.last(key);
        number.with_context(|| format!("the guest printed no {key}=<number>"))
    }

    /// How many of the guest's lines contain `text`.
    pub fn count(&self, text: &str) -> usize {
        let lines = self.lines.iter();
        lines.filter(|line| line.text.contains(text)).count()
    }

    /// Refuses a boot in which the kernel reported a failed tag, a failed read or a damaged file
    /// system. The guest looks at the whole kernel log itself, if it lives to its end; the console
    /// shows errors also in a boot that was killed.
    pub fn expect_no_errors(&self) -> Result<()> {
        let is_error = |line: &&Line| ERRORS.iter().any(|text| line.text.contains(text));
        if let Some(line) = self.lines.iter().find(is_error) {
            bail!("the kernel reported: {}", line.text);
        }
        Ok(())
    }
}

/// The agent of an image as built: `/init` of its initial RAM disk.
pub fn agent_of(image: &Image) -> Result<[u8; 32]> {
    Ok(sha256(&agent(&image.initrd())?))
}

/// The bytes of `/init` in an initial RAM disk.
fn agent(initrd: &Path) -> Result<Vec<u8>> {
    let mut cpio = Command::new("cpio");
    cpio.args(["--quiet", "-i", "--to-stdout", "init"]);
    let output = cpio.stdin(File::open(initrd)?).output()?;
    ensure!(
        output.status.success() && !output.stdout.is_empty(),
        "no /init in {}",
        initrd.display()
    );
    Ok(output.stdout)
}

/// A cpio archive of one program.
fn archive(name: &str, program: &Path) -> Result<Vec<u8>> {
    let scratch = tempfile::tempdir()?;
    fs::copy(program, scratch.path().join(name))
        .with_context(|| format!("copy {}", program.display()))?;
    let mut cpio = Command::new("sh");
    cpio.current_dir(scratch.path());
    run(cpio.args(["-c", "ls | cpio --quiet -o -H newc >.archive"]))?;
    Ok(fs::read(scratch.path().join(".archive"))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(lines: &[&str]) -> DiskReport {
        let line = |text: &&str| Line {
            at: Duration::ZERO,
            text: (*text).to_owned(),
        };
        DiskReport {
            lines: lines.iter().map(line).collect(),
        }
    }

    #[test]
    fn the_last_number_of_the_guest_counts() {
        let report = report(&["disk-test: synced=3", "disk-test: synced=4", "synced=5"]);
        assert_eq!(report.last("synced"), Some(4));
        assert_eq!(report.last("other"), None);
        assert_eq!(report.count("synced="), 3);
    }

    #[test]
    fn an_error_of_the_kernel_is_found() {
        assert!(report(&["disk-test: ok"]).expect_no_errors().is_ok());
        let line = "device-mapper: crypt: dm-2: INTEGRITY AEAD ERROR, sector 8";
        assert!(report(&["disk-test: ok", line]).expect_no_errors().is_err());
    }

    #[test]
    fn an_archive_holds_a_program_that_runs() {
        let archive = archive("true", Path::new("/bin/true")).unwrap();
        // Magic number and mode of the first entry, `cpio -H newc`.
        assert!(archive.starts_with(b"070701"));
        let mode = archive.get(14..22).unwrap().to_ascii_lowercase();
        assert_eq!(mode, b"000081ed");
    }
}
