//! What the verified root is told: one file on the tmpfs that moves along. No key is in it.

use evidence::AdmissionPath;
use identity::{ClusterId, DiskId, Generation, NodeName, Role};
use serde::{Serialize, Serializer};
use std::{
    fs::{DirBuilder, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

/// The folder of the file, readable by root only.
pub const FOLDER: &str = "/run/constellation";

/// The content of `handoff.json`.
#[derive(Debug, Clone, Serialize)]
pub struct HandOff {
    /// Format version.
    pub version: u32,
    /// How this boot was admitted.
    #[serde(serialize_with = "as_text")]
    pub path: AdmissionPath,
    /// The cluster.
    pub cluster_id: ClusterId,
    /// The node's name in it.
    pub node_name: NodeName,
    /// The node's role in it.
    pub role: Role,
    /// The state disk.
    pub disk_uuid: DiskId,
    /// The generation of its header.
    pub generation: Generation,
    /// The device with the state file system.
    pub state_device: String,
}

fn as_text<S: Serializer>(path: &AdmissionPath, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(path)
}

impl HandOff {
    /// Writes the file into `folder`, which must not exist yet.
    ///
    /// # Errors
    /// What the file system says; a folder that is there already is not ours.
    pub fn write(&self, folder: &Path) -> io::Result<()> {
        let text = serde_json::to_vec(self)?;
        DirBuilder::new().mode(0o700).create(folder)?;
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(folder.join("handoff.json"))?
            .write_all(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::PermissionsExt};

    fn hand_off() -> HandOff {
        HandOff {
            version: 1,
            path: AdmissionPath::Rejoin,
            cluster_id: ClusterId::from_bytes([0xab; 32]),
            node_name: "worker-0".parse().unwrap(),
            role: Role::Worker,
            disk_uuid: DiskId::from_random([0xff; 16]),
            generation: Generation(7),
            state_device: "/dev/mapper/constellation-state".into(),
        }
    }

    #[test]
    fn the_file_is_for_root_and_says_all() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("constellation");
        hand_off().write(&folder).unwrap();
        let file = folder.join("handoff.json");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&folder), mode(&file)), (0o700, 0o600));
        let cluster = "ab".repeat(32);
        assert_eq!(
            fs::read_to_string(file).unwrap(),
            format!(
                r#"{{"version":1,"path":"rejoin","cluster_id":"{cluster}","node_name":"worker-0","role":"worker","disk_uuid":"ffffffff-ffff-4fff-bfff-ffffffffffff","generation":7,"state_device":"/dev/mapper/constellation-state"}}"#
            )
        );
    }

    #[test]
    fn a_folder_that_is_there_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        assert!(hand_off().write(parent.path()).is_err());
    }
}
