//! How bytes get to a TPM and back.

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, OFlags},
    io::retry_on_intr,
};
use std::{
    fs::File,
    io::{self, Read, Write},
    path::Path,
};

/// The TPM behind the kernel's resource manager.
pub const DEVICE_PATH: &str = "/dev/tpmrm0";

/// The longest response (`TPM_BUFSIZE` of the kernel's TPM driver).
pub(super) const MAX_RESPONSE: usize = 4096;
/// How long one command may take: making an RSA key in hardware takes tens of seconds.
const TIMEOUT: Timespec = Timespec {
    tv_sec: 120,
    tv_nsec: 0,
};

/// Exchanges one command for one response. The only production transport is [`DeviceFile`].
pub trait Transport: Send {
    /// Sends a whole command and returns the whole response, at most 4096 bytes.
    ///
    /// # Errors
    /// If either fails or takes too long.
    fn transact(&mut self, command: &[u8]) -> io::Result<Vec<u8>>;
}

/// A TPM character device: one write is a command, one read its response.
#[derive(Debug)]
pub struct DeviceFile(File);

impl DeviceFile {
    /// Opens the device.
    ///
    /// # Errors
    /// If it does not exist, is in use, or may not be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        // With O_NONBLOCK the kernel works on the command after `write` returns, so that waiting
        // for it can be bounded.
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let device = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Self(File::from(device)))
    }
}

impl Transport for DeviceFile {
    fn transact(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        self.0.write_all(command)?;
        let mut device = [PollFd::new(&self.0, PollFlags::IN)];
        let ready = retry_on_intr(|| poll(&mut device, Some(&TIMEOUT)))?;
        if ready == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let mut response = vec![0; MAX_RESPONSE];
        let len = self.0.read(&mut response)?;
        response.truncate(len);
        Ok(response)
    }
}
