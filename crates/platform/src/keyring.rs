//! The kernel's keyring: how a volume key gets to dm-crypt without being part of an ioctl's text.

use std::{
    ffi::{CString, c_long},
    io,
};

/// A `logon` key in this process's keyring: kernel code can use it, nobody can read it back.
/// It is revoked and unlinked when dropped; dm-crypt has its own copy by then.
#[derive(Debug)]
#[must_use]
pub struct LogonKey {
    serial: Option<c_long>,
}

impl LogonKey {
    /// Gives `secret` to the kernel under `description`, whose prefix before the first `:` is
    /// mandatory for keys of this type.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn add(description: &str, secret: &[u8]) -> Result<Self, KeyringError> {
        let name = CString::new(description).map_err(|_| KeyringError::Description)?;
        let keyring = c_long::from(libc::KEY_SPEC_PROCESS_KEYRING);
        // SAFETY: add_key(2) reads two C strings and `secret.len()` bytes, all of which live until
        // it returns, and writes no memory of ours.
        let serial = unsafe {
            libc::syscall(
                libc::SYS_add_key,
                c"logon".as_ptr(),
                name.as_ptr(),
                secret.as_ptr(),
                secret.len(),
                keyring,
            )
        };
        if serial < 0 {
            return Err(KeyringError::Add(io::Error::last_os_error()));
        }
        Ok(Self {
            serial: Some(serial),
        })
    }

    /// Revokes the key, which frees its bytes in the kernel, and takes it out of the keyring.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn remove(mut self) -> Result<(), KeyringError> {
        self.forget().map_err(KeyringError::Remove)
    }

    fn forget(&mut self) -> Result<(), io::Error> {
        let Some(serial) = self.serial.take() else {
            return Ok(());
        };
        keyctl(libc::KEYCTL_REVOKE, serial, 0)?;
        let keyring = c_long::from(libc::KEY_SPEC_PROCESS_KEYRING);
        keyctl(libc::KEYCTL_UNLINK, serial, keyring)
    }
}

impl Drop for LogonKey {
    fn drop(&mut self) {
        // A drop has nobody to tell; `remove` does.
        self.forget().unwrap_or_default();
    }
}

fn keyctl(operation: u32, key: c_long, keyring: c_long) -> Result<(), io::Error> {
    // SAFETY: the operations used take numbers only; the kernel touches no memory of ours.
    let result = unsafe { libc::syscall(libc::SYS_keyctl, c_long::from(operation), key, keyring) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Why the keyring refused (class internal).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyringError {
    /// The key was not added.
    #[error("add logon key")]
    Add(#[source] io::Error),
    /// The description contains a NUL.
    #[error("logon key description contains a NUL byte")]
    Description,
    /// The key was not revoked or not unlinked.
    #[error("remove logon key")]
    Remove(#[source] io::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_with_nul_is_refused() {
        let error = LogonKey::add("constellation:a\0b", &[1; 96]).unwrap_err();
        assert!(matches!(error, KeyringError::Description));
    }

    #[test]
    fn a_logon_key_without_prefix_is_refused_by_the_kernel() {
        let error = LogonKey::add("no-prefix", &[1; 96]).unwrap_err();
        assert!(matches!(error, KeyringError::Add(_)));
    }
}
