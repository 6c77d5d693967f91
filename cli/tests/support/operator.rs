//! Runs the program as an operator does.
#![allow(dead_code, reason = "each test program uses a part")]

use std::{
    fs,
    process::{Command, Output},
};
use tempfile::TempDir;

/// A directory with a passphrase file, in which commands run.
pub(crate) struct Operator(TempDir);

impl Operator {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("passphrase"), "correct horse\n").unwrap();
        Self(dir)
    }

    pub(crate) fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn run(&self, line: &str) -> Output {
        Command::new(env!("CARGO_BIN_EXE_constellation"))
            .current_dir(self.0.path())
            .args(line.split_whitespace())
            .output()
            .unwrap()
    }

    /// Runs a command that must succeed, and gives its standard output.
    pub(crate) fn ok(&self, line: &str) -> String {
        let output = self.run(line);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "`{line}` failed: {stderr}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a command that must fail, and gives its standard error.
    pub(crate) fn fails(&self, line: &str) -> String {
        self.ends(line, 1)
    }

    /// The same with another exit status (docs/formats.md).
    pub(crate) fn ends(&self, line: &str, status: i32) -> String {
        let output = self.run(line);
        assert_eq!(output.status.code(), Some(status), "`{line}` must fail");
        assert!(output.stdout.is_empty(), "`{line}` printed a result");
        String::from_utf8(output.stderr).unwrap()
    }

    pub(crate) fn owner(&self) {
        self.ok("owner new --out owner --passphrase-file passphrase");
    }
}
