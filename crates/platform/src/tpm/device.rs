//! Where a TPM is.

use super::{
    TpmError,
    commands::Tpm,
    event_log::{EVENT_LOG_PATH, read_event_log},
    transport::{DEVICE_PATH, DeviceFile, Socket, Transport},
};
use std::{
    fmt, io,
    path::{Path, PathBuf},
    str::FromStr,
};

/// How a socket is told from a device, in configurations.
const UNIX: &str = "unix:";

/// Where a TPM is: a device of this machine's kernel, or a socket of a TPM that is a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TpmDevice {
    /// A character device behind the kernel's resource manager.
    Node(PathBuf),
    /// A Unix socket that takes commands as they are. Who serves it is as trusted as a host's vTPM: a
    /// verifier believes what an endorsement key says, not where it was found. One connection at a time
    /// is served, and what it loads is its own to flush.
    Socket(PathBuf),
}

impl Default for TpmDevice {
    fn default() -> Self {
        Self::Node(DEVICE_PATH.into())
    }
}

impl TpmDevice {
    pub(super) fn open(&self) -> Result<Box<dyn Transport>, TpmError> {
        let failed = |source| TpmError::Open {
            path: self.to_string(),
            source,
        };
        match self {
            Self::Node(path) => Ok(Box::new(DeviceFile::open(path).map_err(failed)?)),
            Self::Socket(path) => {
                let socket = Socket::connect(path).map_err(failed)?;
                let mut tpm = Tpm::new(Box::new(socket));
                tpm.flush_all()?;
                Ok(tpm.into_transport())
            }
        }
    }

    /// The log of the firmware that extended this TPM, if the kernel has one.
    pub(super) fn event_log(&self) -> Vec<u8> {
        match self {
            Self::Node(_) => read_event_log(Path::new(EVENT_LOG_PATH)),
            // The kernel's log is of the kernel's TPM.
            Self::Socket(_) => Vec::new(),
        }
    }
}

impl fmt::Display for TpmDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(path) => write!(f, "{}", path.display()),
            Self::Socket(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

/// A text that says no place of a TPM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected the absolute path of a TPM device, or `unix:` and the absolute path of a socket")]
pub struct MalformedDevice;

impl FromStr for TpmDevice {
    type Err = MalformedDevice;

    fn from_str(text: &str) -> Result<Self, MalformedDevice> {
        let (path, socket) = match text.strip_prefix(UNIX) {
            Some(path) => (path, true),
            None => (text, false),
        };
        let path = PathBuf::from(path);
        if !path.is_absolute() {
            return Err(MalformedDevice);
        }
        Ok(if socket {
            Self::Socket(path)
        } else {
            Self::Node(path)
        })
    }
}

/// A response that is shorter than its header, longer than any, or of another length than it says.
pub(super) fn malformed_frame() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "malformed TPM response frame")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_an_absolute_path_of_either_sort() {
        for (text, device) in [
            ("/dev/tpmrm0", TpmDevice::Node("/dev/tpmrm0".into())),
            ("unix:/run/tpm", TpmDevice::Socket("/run/tpm".into())),
        ] {
            assert_eq!(text.parse(), Ok(device.clone()));
            assert_eq!(device.to_string(), text);
        }
        assert_eq!(TpmDevice::default(), DEVICE_PATH.parse().unwrap());
        for bad in [
            "",
            "tpm0",
            "unix:",
            "unix:run/tpm",
            "tcp:127.0.0.1:1",
            "UNIX:/a",
        ] {
            assert_eq!(bad.parse::<TpmDevice>(), Err(MalformedDevice), "{bad}");
        }
    }
}
