//! What the kernel says about the disk.

use crate::Outcome;
use std::{
    fs::OpenOptions,
    io::{ErrorKind, Read},
    os::unix::fs::OpenOptionsExt,
};

/// Reports of a failed tag, a failed read or a damaged file system.
const ERRORS: [&str; 6] = [
    "AEAD ERROR",
    "checksum failed",
    "I/O error",
    "EXT4-fs error",
    "EXT4-fs warning",
    "Aborting journal",
];

/// Refuses more or fewer errors than were provoked.
pub(crate) fn expect_errors(provoked: usize) -> Outcome {
    let errors = lines_with(&ERRORS)?;
    if errors.len() != provoked {
        return Err(format!("errors: expected {provoked}, got {errors:?}").into());
    }
    println!("disk-test: 0 provoked={provoked} errors={provoked}");
    Ok(())
}

/// How many errors there are so far.
pub(crate) fn errors() -> Outcome<usize> {
    Ok(lines_with(&ERRORS)?.len())
}

/// All lines with one of these texts. A log that lost lines is an error of its own.
pub(crate) fn lines_with(texts: &[&str]) -> Outcome<Vec<String>> {
    let mut log = OpenOptions::new()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
        .open("/dev/kmsg")?;
    let mut record = vec![0; 8192];
    let mut lines = Vec::new();
    loop {
        match log.read(&mut record) {
            Ok(len) => {
                let line = String::from_utf8_lossy(&record[..len]);
                if texts.iter().any(|text| line.contains(text)) {
                    lines.push(line.into_owned());
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(lines),
            Err(error) => return Err(error.into()),
        }
    }
}
