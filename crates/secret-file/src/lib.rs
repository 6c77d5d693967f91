//! Secrets at rest on an operator's machine: passphrase-encrypted files and systemd credentials.
//!
//! A secret file is an age v1 file (scrypt recipient) around `<kind>\n<32 bytes>`; a systemd
//! credential holds the same plaintext, already decrypted by systemd into a root-only tmpfs. The
//! kind keeps an owner key from being taken for a master secret. Nothing here logs, and no secret
//! is returned as a plain array: the caller's `take` receives a slice that is wiped afterwards.

use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};
use zeroize::Zeroizing;

/// What a secret file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretKind {
    /// The seed of an admission key.
    AdmissionKey,
    /// The key that signs the checkpoints of an audit log.
    AuditKey,
    /// The master secret of a cluster.
    MasterSecret,
    /// The seed of an owner key.
    OwnerKey,
}

impl SecretKind {
    const fn label(self) -> &'static str {
        match self {
            Self::AdmissionKey => "constellation-admission-key-v1",
            Self::AuditKey => "constellation-audit-key-v1",
            Self::MasterSecret => "constellation-master-secret-v1",
            Self::OwnerKey => "constellation-owner-key-v1",
        }
    }
}

impl fmt::Display for SecretKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AdmissionKey => "admission key",
            Self::AuditKey => "audit key",
            Self::MasterSecret => "master secret",
            Self::OwnerKey => "owner key",
        })
    }
}

/// A passphrase, wiped on drop.
pub struct Passphrase(Zeroizing<String>);

impl Passphrase {
    const MAX_LEN: u64 = 1024;

    /// Wraps a passphrase typed by the user.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// Reads a passphrase from a file (a file descriptor as `/dev/fd/N`, a systemd credential), less
    /// one trailing newline.
    ///
    /// # Errors
    /// [`SecretFileError::Read`] or, for an empty or over-long one, [`SecretFileError::Passphrase`].
    pub fn read(path: &Path) -> Result<Self, SecretFileError> {
        let malformed = || SecretFileError::Passphrase {
            path: path.to_owned(),
            max: Self::MAX_LEN,
        };
        let bytes = read_bounded(path, Self::MAX_LEN)?.ok_or_else(malformed)?;
        let text = std::str::from_utf8(&bytes).map_err(|_| malformed())?;
        let text = text.strip_suffix('\n').unwrap_or(text);
        if text.is_empty() {
            Err(malformed())
        } else {
            Ok(Self::new(text.to_owned()))
        }
    }

    fn to_age(&self) -> age::secrecy::SecretString {
        self.0.as_str().into()
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(..)")
    }
}

/// Keeps this process out of core dumps, whatever the limits and the pattern for them say, and away
/// from debuggers of the same user. For a program to call before it reads the first secret.
///
/// # Errors
/// The kernel's refusal; a program with secrets must not go on then.
pub fn forbid_core_dumps() -> io::Result<()> {
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// Why a secret could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecretFileError {
    /// The file system refused.
    #[error("read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file system refused; a file that exists is never overwritten.
    #[error("write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Not a file that age can encrypt or decrypt with this passphrase.
    #[error("{}: wrong passphrase, or not a passphrase-encrypted {kind} file", path.display())]
    Decrypt {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        kind: SecretKind,
    },
    /// age could not encrypt.
    #[error("encrypt {}", path.display())]
    Encrypt {
        /// The file.
        path: PathBuf,
        /// What age said.
        source: Box<age::EncryptError>,
    },
    /// Decrypted, but holds something else.
    #[error("{}: expected a {kind} of 32 bytes", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        kind: SecretKind,
    },
    /// Empty, too long or not UTF-8.
    #[error("{}: expected a passphrase of 1 to {max} bytes of UTF-8", path.display())]
    Passphrase {
        /// The file.
        path: PathBuf,
        /// Bound in bytes.
        max: u64,
    },
}

/// The cost of one guess at a passphrase, as the base-2 logarithm of scrypt's N: 128 MiB and about half a second
/// (OWASP Password Storage Cheat Sheet, "scrypt"). Not measured anew for each file, as age would by itself: a file
/// written on a busy machine would be cheaper to guess for ever.
const WORK_FACTOR: u8 = 17;

/// Encrypts `secret` into a new file of mode 0600, fsynced; an existing file is never overwritten.
///
/// # Errors
/// [`SecretFileError`]; no file is left behind.
pub fn write_encrypted(
    path: &Path,
    kind: SecretKind,
    secret: &[u8; 32],
    passphrase: &Passphrase,
) -> Result<(), SecretFileError> {
    let mut recipient = age::scrypt::Recipient::new(passphrase.to_age());
    recipient.set_work_factor(WORK_FACTOR);
    let ciphertext = age::encrypt(&recipient, &plaintext(kind, secret)).map_err(|source| {
        SecretFileError::Encrypt {
            path: path.to_owned(),
            source: Box::new(source),
        }
    })?;
    write_new(path, &ciphertext)
}

/// Writes `secret` in the clear, for a directory on tmpfs from which a service loads it as a
/// credential. Mode 0600; an existing file is never overwritten.
///
/// # Errors
/// [`SecretFileError::Write`].
pub fn write_credential(
    path: &Path,
    kind: SecretKind,
    secret: &[u8; 32],
) -> Result<(), SecretFileError> {
    write_new(path, &plaintext(kind, secret))
}

/// What [`write_credential`] writes, for a Secret of Kubernetes.
#[must_use]
pub fn encode_credential(kind: SecretKind, secret: &[u8; 32]) -> Zeroizing<Vec<u8>> {
    plaintext(kind, secret)
}

/// Decrypts a secret file and hands the 32 bytes to `take`.
///
/// # Errors
/// [`SecretFileError`].
pub fn read_encrypted<T>(
    path: &Path,
    kind: SecretKind,
    passphrase: &Passphrase,
    take: impl FnOnce(&[u8]) -> Option<T>,
) -> Result<T, SecretFileError> {
    let failed = || SecretFileError::Decrypt {
        path: path.to_owned(),
        kind,
    };
    let ciphertext = read_bounded(path, MAX_FILE_LEN)?.ok_or_else(failed)?;
    let mut identity = age::scrypt::Identity::new(passphrase.to_age());
    // A file asks for its own work factor: 2^20 is about 1 GiB and some seconds, more is an attack.
    identity.set_max_work_factor(20);
    let plaintext = age::decrypt(&identity, &ciphertext)
        .map(Zeroizing::new)
        .map_err(|_| failed())?;
    take_secret(path, kind, &plaintext, take)
}

/// Reads a secret that systemd (or an operator, onto tmpfs) already decrypted.
///
/// # Errors
/// [`SecretFileError`].
pub fn read_credential<T>(
    path: &Path,
    kind: SecretKind,
    take: impl FnOnce(&[u8]) -> Option<T>,
) -> Result<T, SecretFileError> {
    let failed = || SecretFileError::Content {
        path: path.to_owned(),
        kind,
    };
    let plaintext = read_bounded(path, MAX_FILE_LEN)?.ok_or_else(failed)?;
    take_secret(path, kind, &plaintext, take)
}

/// An age file around 64 bytes is under 400 bytes; the bound leaves room for other recipients' stanzas.
const MAX_FILE_LEN: u64 = 16 * 1024;

fn take_secret<T>(
    path: &Path,
    kind: SecretKind,
    plaintext: &[u8],
    take: impl FnOnce(&[u8]) -> Option<T>,
) -> Result<T, SecretFileError> {
    plaintext
        .strip_prefix(kind.label().as_bytes())
        .and_then(|rest| rest.strip_prefix(b"\n"))
        .filter(|secret| secret.len() == 32)
        .and_then(take)
        .ok_or_else(|| SecretFileError::Content {
            path: path.to_owned(),
            kind,
        })
}

fn plaintext(kind: SecretKind, secret: &[u8; 32]) -> Zeroizing<Vec<u8>> {
    Zeroizing::new([kind.label().as_bytes(), b"\n", secret].concat())
}

/// The file's bytes; `None` when there are more than `max`.
fn read_bounded(path: &Path, max: u64) -> Result<Option<Zeroizing<Vec<u8>>>, SecretFileError> {
    let failed = |source| SecretFileError::Read {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(failed)?;
    // Reserved at once: a growing vector would leave copies of the secret behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(max + 1).unwrap_or(0)));
    let read = file.take(max + 1).read_to_end(&mut bytes).map_err(failed)?;
    Ok((read as u64 <= max).then_some(bytes))
}

fn write_new(path: &Path, bytes: &[u8]) -> Result<(), SecretFileError> {
    let failed = |source| SecretFileError::Write {
        path: path.to_owned(),
        source,
    };
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(failed)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    if let Err(source) = written {
        drop(fs::remove_file(path));
        return Err(failed(source));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn passphrase(text: &str) -> Passphrase {
        Passphrase::new(text.to_owned())
    }

    fn to_vec(bytes: &[u8]) -> Option<Vec<u8>> {
        Some(bytes.to_vec())
    }

    #[test]
    fn encrypted_files_round_trip_and_refuse() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("owner.key");
        write_encrypted(&path, SecretKind::OwnerKey, &[7; 32], &passphrase("right")).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let read = |kind, text: &str| read_encrypted(&path, kind, &passphrase(text), to_vec);
        assert_eq!(read(SecretKind::OwnerKey, "right").unwrap(), [7; 32]);
        assert!(matches!(
            read(SecretKind::OwnerKey, "wrong"),
            Err(SecretFileError::Decrypt { .. })
        ));
        assert!(matches!(
            read(SecretKind::MasterSecret, "right"),
            Err(SecretFileError::Content { .. })
        ));
        let header = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
        let recipient = header.lines().nth(1).unwrap();
        assert!(recipient.ends_with(" 17"), "{recipient}");
        let again = write_encrypted(&path, SecretKind::OwnerKey, &[8; 32], &passphrase("right"));
        assert!(
            matches!(again, Err(SecretFileError::Write { .. })),
            "must not overwrite"
        );
        assert_eq!(read(SecretKind::OwnerKey, "right").unwrap(), [7; 32]);
    }

    #[test]
    fn credentials_must_be_of_their_kind_and_length() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("credential");
        write_credential(&path, SecretKind::MasterSecret, &[9; 32]).unwrap();
        assert_eq!(
            read_credential(&path, SecretKind::MasterSecret, to_vec).unwrap(),
            [9; 32]
        );
        let encoded = encode_credential(SecretKind::MasterSecret, &[9; 32]);
        assert_eq!(fs::read(&path).unwrap(), *encoded);
        assert!(read_credential(&path, SecretKind::OwnerKey, to_vec).is_err());
        for bad in [
            &b""[..],
            b"constellation-master-secret-v1\nshort",
            &[b'x'; 20_000],
        ] {
            fs::write(&path, bad).unwrap();
            assert!(read_credential(&path, SecretKind::MasterSecret, to_vec).is_err());
        }
    }

    #[test]
    fn passphrases_lose_one_newline_and_have_bounds() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("passphrase");
        fs::write(&path, "secret words\n").unwrap();
        assert_eq!(Passphrase::read(&path).unwrap().0.as_str(), "secret words");
        for bad in ["", "\n", &"x".repeat(1025)] {
            fs::write(&path, bad).unwrap();
            assert!(matches!(
                Passphrase::read(&path),
                Err(SecretFileError::Passphrase { .. })
            ));
        }
    }
}
