//! `constellation mini`, as its user calls it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use child_process::run;
use serde_json::Value;

use crate::machine::qemu;
use crate::workspace::{Workspace, base_dir, program};

/// A cluster of virtual machines. They outlive the value, and this program.
#[derive(Clone, Debug)]
pub struct Mini {
    program: PathBuf,
    /// None: where `mini` has its folder by default.
    dir: Option<PathBuf>,
}

impl Mini {
    /// The user's own.
    pub fn of_user() -> Result<Self> {
        let program = program("constellation")?;
        Ok(Self { program, dir: None })
    }

    /// A new one in a new workspace. Machines that an interrupted run left there are switched off before.
    pub fn create(name: &str) -> Result<(Workspace, Self)> {
        let mut mini = Self::of_user()?;
        let dir = base_dir().join(name).join("mini");
        mini.dir = Some(dir.clone());
        if dir.join("mini.json").exists() {
            run(mini
                .command(&["down", "--timeout", "0"])
                .stdin(Stdio::null()))
            .context("switch off the machines of an interrupted run")?;
        }
        let workspace = Workspace::create(name)?;
        fs::create_dir_all(&dir)?;
        Ok((workspace, mini))
    }

    /// Its folder, if it is not the user's own.
    pub fn dir(&self) -> Option<&Path> {
        self.dir.as_deref()
    }

    /// A verb with its progress on this terminal; what it answers. Machines have to shut down by themselves when
    /// they are told to, unless the words give them a time.
    pub fn run(&self, words: &[&str]) -> Result<Value> {
        let mut command = self.command(words);
        let output = command
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()?;
        ensure!(output.status.success(), "{command:?}: {}", output.status);
        let answer: Value = serde_json::from_slice(&output.stdout)?;
        let cut = answer["power_cut"].as_array().map_or(0, Vec::len);
        ensure!(
            cut == 0 || words.contains(&"--timeout"),
            "machines did not shut down: {}",
            answer["power_cut"]
        );
        Ok(answer)
    }

    /// The same for others to run.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["--output", "json", "mini"]).args(words);
        if let Some(dir) = &self.dir {
            command.arg("--dir").arg(dir);
        }
        if words.first() == Some(&"up") {
            command.arg("--qemu").arg(qemu());
        }
        command
    }
}
