//! How bytes get to a TPM and back.

use super::device::malformed_frame;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, OFlags},
    io::retry_on_intr,
};
use std::{
    fs::File,
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
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

/// Length of a response's header: tag, size, code (Part 1, section 18).
const HEADER: usize = 10;

/// Exchanges one command for one response.
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

/// A TPM behind a Unix socket. Commands and responses follow each other without any frame.
#[derive(Debug)]
pub struct Socket(UnixStream);

impl Socket {
    /// Connects.
    ///
    /// # Errors
    /// If nobody listens there.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(path)?;
        let timeout = Duration::from_secs(TIMEOUT.tv_sec.unsigned_abs());
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        Ok(Self(stream))
    }
}

impl Transport for Socket {
    fn transact(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        self.0.write_all(command)?;
        let mut response = vec![0; HEADER];
        self.0.read_exact(&mut response)?;
        let [_, _, size @ .., _, _, _, _] = response.as_slice() else {
            return Err(malformed_frame());
        };
        let size = size.try_into().map(u32::from_be_bytes).ok();
        let size = size.and_then(|size| usize::try_from(size).ok());
        let size = size.filter(|size| (HEADER..=MAX_RESPONSE).contains(size));
        response.resize(size.ok_or_else(malformed_frame)?, 0);
        self.0.read_exact(&mut response[HEADER..])?;
        Ok(response)
    }
}
