//! Running the programs that the build needs.

use anyhow::{Context, bail};
use std::{ffi::OsStr, path::Path, process::Command};

/// A program with its arguments.
#[derive(Debug)]
pub(crate) struct Tool {
    command: Command,
    package: &'static str,
}

impl Tool {
    /// `program`, which the Debian package `package` provides. Administration tools are found also
    /// when `sbin` is not on the caller's path.
    pub(crate) fn new(program: &str, package: &'static str) -> Self {
        let sbin = Path::new("/usr/sbin").join(program);
        let mut command = match sbin.exists() {
            true => Command::new(sbin),
            false => Command::new(program),
        };
        command
            .env("LC_ALL", "C")
            .env("TZ", "UTC")
            .env("SOURCE_DATE_EPOCH", "0");
        Self { command, package }
    }

    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    pub(crate) fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.command.args(args);
        self
    }

    pub(crate) fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(key, value);
        self
    }

    pub(crate) fn dir(mut self, dir: &Path) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// Runs it to its end and returns what it printed.
    pub(crate) fn output(mut self) -> anyhow::Result<String> {
        let name = self.command.get_program().to_string_lossy().into_owned();
        let hint = format!("run `{name}`, from the Debian package `{}`", self.package);
        let output = self.command.output().context(hint)?;
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            bail!(
                "`{name}` failed with {}\n{}",
                output.status,
                stderr.trim_end()
            );
        }
        String::from_utf8(output.stdout).with_context(|| format!("output of `{name}`"))
    }

    /// Runs it to its end with its output on the caller's terminal.
    pub(crate) fn run(mut self) -> anyhow::Result<()> {
        let name = self.command.get_program().to_string_lossy().into_owned();
        let hint = format!("run `{name}`, from the Debian package `{}`", self.package);
        let status = self.command.status().context(hint)?;
        if !status.success() {
            bail!("`{name}` failed with {status}");
        }
        Ok(())
    }
}
