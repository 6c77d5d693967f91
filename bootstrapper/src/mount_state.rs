//! `bootstrapper mount-state`: the first unit of a boot that touches the state disk.
//!
//! It mounts the state file system that the agent unlocked, compares generations (the tripwire of
//! docs/state-disk.md), and gives the machine the name that it was admitted under. It is a program of its
//! own run, because everything that writes waits for it, containerd and the journal's flush included.

use crate::file::{self, FileError};
use hand_off::{HandOff, ReadError};
use platform::{
    dm::{DeviceMapper, DmError},
    integrity::STATE_MAPPING,
    mount::{self, MountError},
    power,
};
use service_runtime::Chain;
use std::{io, path::Path, process::ExitCode};

/// Where the state file system is mounted: [`crate::config::Config::state`]'s default.
const STATE: &str = "/run/state";

/// The last generation that reached the data, below the state folder.
const GENERATION: &str = "generation";

/// The digits of the largest generation, and a line's end.
const MAX_GENERATION: u64 = 21;

/// What two generations say about a boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// The data is of the boot before this one, or the disk is new.
    Next,
    /// Boots in between did not come to write it; or the data is older than they are.
    Gap,
}

/// Why the state file system is not used.
#[derive(Debug, thiserror::Error)]
enum MountStateError {
    /// The mapping is not there.
    #[error("find the state disk")]
    Find(#[from] DmError),
    /// A file on it.
    #[error(transparent)]
    File(#[from] FileError),
    /// The hand-off.
    #[error("no hand-off of the agent")]
    HandOff(#[from] ReadError),
    /// The name.
    #[error("set the host name")]
    HostName(#[source] io::Error),
    /// The generation that was kept is none.
    #[error("malformed generation in the state file system")]
    Malformed,
    /// Not mounted.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// The header is not newer than the data.
    #[error("rolled back: the header is of generation {header}, the data of {data}")]
    RolledBack {
        /// The generation of the header that this boot was admitted with.
        header: u64,
        /// The one that the data has seen.
        data: u64,
    },
}

/// Runs it. A machine whose disk was rolled back is switched off; any other failure ends the boot by its unit.
#[must_use]
pub fn main() -> ExitCode {
    match run(Path::new(hand_off::FOLDER), Path::new(STATE)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("state: {}", Chain(&error));
            if matches!(error, MountStateError::RolledBack { .. }) {
                eprintln!("state: exit reason=rolled-back action=power-off");
                unmount_and_power_off();
            }
            ExitCode::FAILURE
        }
    }
}

fn unmount_and_power_off() {
    for outcome in [
        mount::unmount(Path::new(STATE)).map_err(|error| Chain(&error).to_string()),
        power::power_off()
            .map(|never| match never {})
            .map_err(|error| Chain(&error).to_string()),
    ] {
        if let Err(error) = outcome {
            eprintln!("state: {error}");
        }
    }
}

fn run(folder: &Path, state: &Path) -> Result<(), MountStateError> {
    let hand_off = HandOff::read(folder)?;
    let device = DeviceMapper::open()?.existing(STATE_MAPPING)?;
    file::make_folder(state, 0o755)?;
    mount::mount_state(&device, state)?;
    let header = hand_off.generation.0;
    let verdict = keep_generation(&state.join(GENERATION), header)?;
    let name = hand_off.node_name.to_string();
    rustix::system::sethostname(name.as_bytes())
        .map_err(|error| MountStateError::HostName(error.into()))?;
    if verdict == Verdict::Gap {
        eprintln!("state: old data, or boots that ended before the data was reached");
    }
    println!("state: mounted generation={header} node={name}");
    Ok(())
}

/// Compares, then writes the header's generation into the data.
fn keep_generation(path: &Path, header: u64) -> Result<Verdict, MountStateError> {
    let data = match file::read_if_present(path, MAX_GENERATION)? {
        None => 0,
        Some(text) => parse(&text).ok_or(MountStateError::Malformed)?,
    };
    let verdict = compare(header, data)?;
    file::replace(path, format!("{header}\n").as_bytes(), 0o600)?;
    Ok(verdict)
}

fn parse(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?.trim_end_matches('\n');
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten()
}

const fn compare(header: u64, data: u64) -> Result<Verdict, MountStateError> {
    match header.checked_sub(data) {
        None | Some(0) => Err(MountStateError::RolledBack { header, data }),
        Some(1) => Ok(Verdict::Next),
        Some(_more) => Ok(Verdict::Gap),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn each_boot_has_a_header_newer_than_the_data() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(GENERATION);
        assert_eq!(keep_generation(&path, 1).unwrap(), Verdict::Next);
        assert_eq!(keep_generation(&path, 2).unwrap(), Verdict::Next);
        assert_eq!(keep_generation(&path, 5).unwrap(), Verdict::Gap);
        for old in [1, 4, 5] {
            let error = keep_generation(&path, old).unwrap_err();
            assert!(matches!(error, MountStateError::RolledBack { data: 5, .. }));
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "5\n");
    }

    #[test]
    fn a_generation_that_is_no_number_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(GENERATION);
        for text in ["", "\n", "-1", "+1", "1 2", "0x1", "99999999999999999999"] {
            fs::write(&path, text).unwrap();
            let error = keep_generation(&path, 9).unwrap_err();
            assert!(matches!(error, MountStateError::Malformed), "{text:?}");
        }
        fs::write(&path, "1".repeat(22)).unwrap();
        assert!(keep_generation(&path, 9).is_err());
    }

    #[test]
    fn without_a_hand_off_nothing_is_mounted() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let error = run(folder.path(), &state).unwrap_err();
        assert!(matches!(error, MountStateError::HandOff(_)));
        assert!(!state.exists());
    }
}
