//! Power for software TPMs.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tempfile::TempDir;
use vm::Swtpm;

use crate::process::{Process, contained};

/// How long swtpm may take to listen.
const START: Duration = Duration::from_secs(10);

/// A TPM that has power, for one boot of one machine.
#[derive(Debug)]
pub struct PoweredTpm {
    process: Process,
    socket: PathBuf,
    // Unix socket paths are at most 107 bytes, so the socket is not in the workspace.
    _socket_dir: TempDir,
}

impl PoweredTpm {
    /// Gives a TPM power; QEMU takes it from there (init, start-up, shutdown).
    pub fn of(tpm: &Swtpm) -> Result<Self> {
        let socket_dir = tempfile::tempdir()?;
        let socket = socket_dir.path().join("tpm.sock");
        let mut command = contained("swtpm");
        tpm.arguments(&mut command, &socket);
        let process = Process::spawn("swtpm", command, &tpm.dir().join("swtpm.log"))?;
        let mut tpm = Self {
            process,
            socket,
            _socket_dir: socket_dir,
        };
        tpm.wait_listening()?;
        Ok(tpm)
    }

    /// The control socket for QEMU.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    fn wait_listening(&mut self) -> Result<()> {
        let end = Instant::now() + START;
        while !self.socket.exists() {
            let ended = self.process.exit_status()?;
            if ended.is_some() || Instant::now() >= end {
                bail!(
                    "swtpm does not listen ({ended:?}); log: {}",
                    self.process.log().display()
                );
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}
