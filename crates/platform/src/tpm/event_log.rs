//! The firmware's event log, as the kernel shows it.

use std::{fs::File, io::Read, path::Path};
use tpm::MAX_EVENT_LOG;

/// Where the kernel shows the log once securityfs is mounted.
pub const EVENT_LOG_PATH: &str = "/sys/kernel/security/tpm0/binary_bios_measurements";

/// Reads the event log. It only explains a refusal, so a log that is missing, unreadable or longer
/// than [`MAX_EVENT_LOG`] is an empty one.
#[must_use]
pub fn read_event_log(path: &Path) -> Vec<u8> {
    let limit = u64::try_from(MAX_EVENT_LOG).unwrap_or(u64::MAX);
    let mut log = Vec::new();
    let read = File::open(path).and_then(|file| file.take(limit + 1).read_to_end(&mut log));
    match read {
        Ok(len) if len <= MAX_EVENT_LOG => log,
        _ => Vec::new(),
    }
}
