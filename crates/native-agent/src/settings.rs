use anyhow::{Context as _, Result};
use initrd_agent::{endpoints::Endpoint, exit::Failure, hints::Hints, unlock::Way};
use owner::OwnerFingerprint;
use serde::{Deserialize, Serialize};
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// How long addresses are dialled before hints would be read again; here they never change.
const ROUND: Duration = Duration::from_secs(30);

/// What a machine has in its command line, its devices and its hints.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Fingerprint of the owner's public key, which a machine has in its measured command line.
    pub owner: String,
    /// The socket of the TPM.
    pub tpm: PathBuf,
    /// The folder that stands for the state disk.
    pub disk: PathBuf,
    /// Where the hand-off goes; must not exist.
    pub hand_off: PathBuf,
    /// The hints, as a host gives them (docs/agent.md).
    pub hints: serde_json::Value,
}

impl Settings {
    /// Reads the file.
    ///
    /// # Errors
    /// When it is not there or not what it should be.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read(path).with_context(|| format!("read `{}`", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("`{}`", path.display()))
    }

    pub(crate) fn owner(&self) -> Result<OwnerFingerprint> {
        self.owner.parse().context("owner")
    }

    pub(crate) fn way(&self) -> Result<FixedWay> {
        let text = serde_json::to_vec(&self.hints)?;
        let mut left_out = Vec::new();
        let hints = Hints::parse(&text, |what| left_out.push(what.to_owned()))?;
        anyhow::ensure!(left_out.is_empty(), "hints: {}", left_out.join(", "));
        Ok(FixedWay { hints })
    }
}

/// Hints that never change, on a network that is there.
#[derive(Debug)]
pub struct FixedWay {
    hints: Hints,
}

impl Way for FixedWay {
    fn hints(&self) -> &Hints {
        &self.hints
    }

    fn addresses(&mut self, _: bool) -> Result<(Vec<SocketAddr>, Duration), Failure> {
        let now = Instant::now();
        let found = self.hints.endpoints.iter().map(|endpoint| match endpoint {
            Endpoint::Address(address) => vec![*address],
            // A set of namespaces has no name server; its hints are addresses.
            Endpoint::Name(..) => endpoint.addresses(&[], now).unwrap_or_default(),
        });
        Ok((found.flatten().collect(), ROUND))
    }
}
