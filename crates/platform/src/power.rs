//! The two ways a boot ends without a root file system.

use rustix::{
    io::Errno,
    system::{RebootCommand, reboot},
};
use std::convert::Infallible;

/// Writes out what is dirty and switches the machine off. Returns only when the kernel refuses.
///
/// # Errors
/// [`PowerError::PowerOff`].
pub fn power_off() -> Result<Infallible, PowerError> {
    end(RebootCommand::PowerOff, PowerError::PowerOff)
}

/// Writes out what is dirty and starts the machine again. Returns only when the kernel refuses.
///
/// # Errors
/// [`PowerError::Reboot`].
pub fn restart() -> Result<Infallible, PowerError> {
    end(RebootCommand::Restart, PowerError::Reboot)
}

fn end(command: RebootCommand, error: fn(Errno) -> PowerError) -> Result<Infallible, PowerError> {
    rustix::fs::sync();
    match reboot(command) {
        Err(source) => Err(error(source)),
        // reboot(2) does not return from these commands in the initial PID namespace.
        Ok(()) => Err(error(Errno::NOTSUP)),
    }
}

/// The kernel refused (class internal).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PowerError {
    /// Not switched off.
    #[error("power off")]
    PowerOff(#[source] Errno),
    /// Not restarted.
    #[error("reboot")]
    Reboot(#[source] Errno),
}
