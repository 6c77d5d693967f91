//! What a node remembers of its own making, on the state disk. No secret is in it.

use crate::file::{self, FileError};
use hand_off::{HandOff, KubernetesMaterial};
use identity::{ClusterId, DiskId, NodeName, Role};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The file, below the state folder.
const FILE: &str = "constellation/bootstrap.json";

/// The longest file that is read. The state disk is authenticated; this bounds accidents.
const MAX_FILE: u64 = 1 << 20;

/// How the node came into its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// It is the first node.
    Init,
    /// It joined.
    Join,
}

/// The file's content.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Format version, 1.
    pub version: u32,
    /// The cluster.
    pub cluster_id: ClusterId,
    /// The node.
    pub node_name: NodeName,
    /// Its role.
    pub role: Role,
    /// Its state disk.
    pub disk_uuid: DiskId,
    /// How it came.
    pub origin: Origin,
    /// The cluster as its nodes see it, from the last material that came.
    pub kubernetes: KubernetesMaterial,
    /// Phases that need not run again, in the order in which they were done.
    pub done: Vec<String>,
    /// Image archives that were imported: file name to SHA-256, hexadecimal.
    #[serde(default)]
    pub images: std::collections::BTreeMap<String, String>,
}

/// A state file that does not serve.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// It cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// It is of another cluster, node or disk than the hand-off. The agent has matched both to the sealed header, so
    /// one of the two is not what it wrote.
    #[error("`{}` is of another {what} than the hand-off", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What differs.
        what: &'static str,
    },
    /// It is not what this program writes.
    #[error("malformed `{}`", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A format of the future.
    #[error("`{}` has format version {got}, expected 1", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// What it says.
        got: u32,
    },
}

/// A [`State`] and where it is kept. Each change is on the disk when the call returns, and before it all
/// that was written to that file system: what kubeadm and the container runtime wrote, and mostly did not
/// sync, must not be younger than the record that it is there.
#[derive(Debug)]
pub struct StateFile {
    path: PathBuf,
    state: State,
}

impl StateFile {
    /// Reads the file below `folder`; `None` if there is none yet.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn load(folder: &Path, hand_off: &HandOff) -> Result<Option<Self>, StateError> {
        let path = folder.join(FILE);
        let Some(text) = file::read_if_present(&path, MAX_FILE)? else {
            return Ok(None);
        };
        let malformed = |source| StateError::Malformed {
            path: path.clone(),
            source,
        };
        // The version first: another one has other fields.
        let value: serde_json::Value = serde_json::from_slice(&text).map_err(malformed)?;
        if let Some(got) = value["version"].as_u64().filter(|version| *version != 1) {
            let got = u32::try_from(got).unwrap_or(u32::MAX);
            return Err(StateError::Version { path, got });
        }
        let state: State = serde_json::from_value(value).map_err(malformed)?;
        match state.difference(hand_off) {
            Some(what) => Err(StateError::Foreign { path, what }),
            None => Ok(Some(Self { path, state })),
        }
    }

    /// Makes the file.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn create(folder: &Path, state: State) -> Result<Self, StateError> {
        let file = Self {
            path: folder.join(FILE),
            state,
        };
        if let Some(parent) = file.path.parent() {
            file::make_folder(parent, 0o700)?;
        }
        file.store()?;
        Ok(file)
    }

    /// What it says.
    #[must_use]
    pub const fn get(&self) -> &State {
        &self.state
    }

    /// Whether a phase was done, in this boot or an earlier one.
    #[must_use]
    pub fn is_done(&self, phase: &str) -> bool {
        self.state.done.iter().any(|done| done == phase)
    }

    /// Records that a phase is done.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn set_done(&mut self, phase: &str) -> Result<(), StateError> {
        self.change(|state| state.done.push(phase.to_owned()))
    }

    /// Changes the content.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn change(&mut self, change: impl FnOnce(&mut State)) -> Result<(), StateError> {
        change(&mut self.state);
        self.store()
    }

    fn store(&self) -> Result<(), StateError> {
        let text =
            serde_json::to_vec_pretty(&self.state).map_err(|source| StateError::Malformed {
                path: self.path.clone(),
                source,
            })?;
        if let Some(folder) = self.path.parent() {
            file::sync_file_system(folder)?;
        }
        Ok(file::replace(&self.path, &text, 0o600)?)
    }
}

impl State {
    fn difference(&self, hand_off: &HandOff) -> Option<&'static str> {
        [
            (self.cluster_id == hand_off.cluster_id, "cluster"),
            (self.disk_uuid == hand_off.disk_uuid, "disk"),
            (self.node_name == hand_off.node_name, "node name"),
            (self.role == hand_off.role, "role"),
        ]
        .into_iter()
        .find_map(|(equal, what)| (!equal).then_some(what))
    }
}

#[cfg(test)]
mod tests;
