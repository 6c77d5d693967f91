//! Finding a disk: a whole disk by its serial, or a partition by its type.
//!
//! Both are the host's words. They say where to look; what is found there proves itself or is
//! refused.

use crate::gpt::{self, PartitionType};
use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

/// What to look for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// The serial of a virtio disk, at most 20 bytes.
    pub serial: &'static str,
    /// The type of a partition on any disk.
    pub partition: PartitionType,
}

impl Wanted {
    /// The verified root.
    pub const ROOT: Self = Self {
        serial: "constellation-root",
        partition: PartitionType::ROOT,
    };

    /// The state disk.
    pub const STATE: Self = Self {
        serial: "constellation-state",
        partition: PartitionType::STATE,
    };
}

/// Disks looked at; more is a host that wants to keep us busy.
const MAX_DISKS: usize = 64;

/// Finds the one device that is wanted.
///
/// # Errors
/// None, or more than one; a caller may wait and try again for a device that is not there yet.
pub fn find(wanted: &Wanted) -> Result<PathBuf, FindError> {
    find_in(Path::new("/sys/block"), Path::new("/dev"), wanted)
}

fn find_in(sys: &Path, dev: &Path, wanted: &Wanted) -> Result<PathBuf, FindError> {
    let mut found = Vec::new();
    for disk in disks(sys)? {
        if serial(&sys.join(&disk)).is_some_and(|serial| serial == wanted.serial) {
            found.push(dev.join(&disk));
        }
        found.extend(partitions(sys, dev, &disk, wanted.partition));
    }
    found.sort();
    match found.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(FindError::Missing {
            serial: wanted.serial,
        }),
        _ => Err(FindError::Ambiguous { found }),
    }
}

/// Real disks only: mappings, loops and RAM disks are ours or nobody's.
fn disks(sys: &Path) -> Result<Vec<String>, FindError> {
    let entries = fs::read_dir(sys).map_err(FindError::List)?;
    let mut names = Vec::new();
    for entry in entries.take(MAX_DISKS) {
        let name = entry.map_err(FindError::List)?.file_name();
        names.extend(name.into_string().ok().filter(|name| {
            ["dm-", "loop", "ram", "zram", "md"]
                .iter()
                .all(|prefix| !name.starts_with(prefix))
        }));
    }
    Ok(names)
}

fn serial(disk: &Path) -> Option<String> {
    let serial = fs::read_to_string(disk.join("serial")).ok()?;
    Some(serial.trim_end().to_owned())
}

/// A disk without a table, or with a table that does not parse, has no partitions.
fn partitions(sys: &Path, dev: &Path, disk: &str, kind: PartitionType) -> Vec<PathBuf> {
    let sys = sys.join(disk);
    let Some(sector) = number(&sys.join("queue/logical_block_size")) else {
        return Vec::new();
    };
    let Ok(sector @ (512 | 4096)) = usize::try_from(sector) else {
        return Vec::new();
    };
    let mut start = vec![0; gpt::needed(sector)];
    let read = File::open(dev.join(disk)).and_then(|file| file.read_exact_at(&mut start, 0));
    let table = match read {
        Ok(()) => gpt::parse(&start, sector).unwrap_or_default(),
        Err(_) => Vec::new(),
    };
    table
        .iter()
        .filter(|partition| partition.kind == kind)
        .filter_map(|partition| node(&sys, partition).map(|name| dev.join(name)))
        .collect()
}

/// The kernel's name of a partition, provided that the kernel sees it at the same place.
fn node(sys: &Path, partition: &gpt::Partition) -> Option<String> {
    fs::read_dir(sys).ok()?.flatten().find_map(|entry| {
        let at = |file: &str| number(&entry.path().join(file));
        // sysfs counts sectors of 512 bytes.
        let same = at("partition")? == u64::from(partition.number)
            && at("start")? == partition.start / 512
            && at("size")? == partition.size / 512;
        same.then(|| entry.file_name().into_string().ok())?
    })
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim_end().parse().ok()
}

/// Why there is no device to use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FindError {
    /// More than one device claims to be it (class refused).
    #[error("more than one disk: {found:?}")]
    Ambiguous {
        /// All of them.
        found: Vec<PathBuf>,
    },
    /// The kernel's list of disks (class internal).
    #[error("list block devices")]
    List(#[source] io::Error),
    /// No device claims to be it (class unavailable).
    #[error("no disk with serial `{serial}` and no partition of its type")]
    Missing {
        /// The serial looked for.
        serial: &'static str,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Machine(tempfile::TempDir);

    impl Machine {
        fn new() -> Self {
            let machine = Self(tempfile::tempdir().unwrap());
            fs::create_dir_all(machine.sys()).unwrap();
            fs::create_dir_all(machine.dev()).unwrap();
            machine
        }

        fn sys(&self) -> PathBuf {
            self.0.path().join("sys")
        }

        fn dev(&self) -> PathBuf {
            self.0.path().join("dev")
        }

        fn disk(&self, name: &str, serial: &str) {
            fs::create_dir_all(self.sys().join(name)).unwrap();
            fs::write(self.sys().join(name).join("serial"), serial).unwrap();
        }

        fn find(&self) -> Result<PathBuf, FindError> {
            find_in(&self.sys(), &self.dev(), &Wanted::STATE)
        }
    }

    #[test]
    fn a_disk_is_found_by_serial_among_others() {
        let machine = Machine::new();
        machine.disk("vda", "constellation-root\n");
        machine.disk("vdb", "constellation-state\n");
        machine.disk("vdc", "");
        assert_eq!(machine.find().unwrap(), machine.dev().join("vdb"));
    }

    #[test]
    fn two_disks_of_one_serial_are_refused() {
        let machine = Machine::new();
        machine.disk("vda", "constellation-state");
        machine.disk("vdb", "constellation-state");
        assert!(matches!(
            machine.find(),
            Err(FindError::Ambiguous { found }) if found.len() == 2
        ));
    }

    #[test]
    fn mappings_and_longer_serials_are_not_it() {
        let machine = Machine::new();
        machine.disk("dm-0", "constellation-state");
        machine.disk("loop0", "constellation-state");
        machine.disk("vda", "constellation-state2");
        assert!(matches!(machine.find(), Err(FindError::Missing { .. })));
    }
}
