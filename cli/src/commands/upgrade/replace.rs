//! The operator's part: a node's root disk becomes another one.

use anyhow::{Context as _, Result, anyhow};
use clap::Args;
use std::{
    io,
    os::fd::AsFd as _,
    process::{Command, Stdio},
};

use super::say;
use crate::output::WithHint as _;

/// How the root disk is replaced.
#[derive(Args, Debug)]
pub(super) struct Replace {
    /// Command for `sh` that powers the node off, replaces its root disk by that of the image, keeps its state
    /// disk and its TPM, and powers it on. It finds CONSTELLATION_NODE and CONSTELLATION_IMAGE in its
    /// environment, and may be run again after an interruption [default: say so and wait for somebody to do it]
    #[arg(long, value_name = "COMMAND")]
    replace_with: Option<String>,
}

impl Replace {
    /// Whether a command does it.
    pub(super) const fn is_command(&self) -> bool {
        self.replace_with.is_some()
    }

    /// Replaces the disk, or says that somebody has to.
    pub(super) fn run(&self, node: &str, image: &str) -> Result<()> {
        let Some(line) = &self.replace_with else {
            say(
                node,
                format_args!(
                    "is drained. Now power it off, replace its root disk by that of image `{image}`, keep \
                     its state disk and its TPM, and power it on. Waiting for it"
                ),
            );
            return Ok(());
        };
        say(node, format_args!("replacing its root disk: {line}"));
        let mut command = Command::new("sh");
        command.args(["-c", line]).stdin(Stdio::null());
        command.env("CONSTELLATION_NODE", node);
        command.env("CONSTELLATION_IMAGE", image);
        // Standard output is for the result.
        command.stdout(io::stderr().as_fd().try_clone_to_owned()?);
        let status = command.status().context("start `sh`")?;
        if status.success() {
            return Ok(());
        }
        Err(anyhow!("the command that replaces the root disk: {status}"))
            .hint("the node stays cordoned; mend it and repeat the command")
    }
}
