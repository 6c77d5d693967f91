//! `constellation init`: a cluster out of a first node that waits.
//!
//! The CLI makes the cluster's secrets and stores them, attests the node, gives it the key of its disk
//! and what its bootstrapper needs, follows the bootstrapper, and takes what it made. Each step can be
//! repeated by the same command, on the same disk only: `init.json` says how far it got.

mod cluster;
mod follow;
mod ledger;
mod patience;
mod report;
mod run;
mod state;
mod tickets;
mod workspace;

use anyhow::{Context as _, Result, anyhow};
use clap::{Args, ValueEnum};
use evidence::AdmissionPath;
use hand_off::InitMaterial;
use identity::{ClusterId, DiskId, Generation, NodeName};
use secret_file::SecretKind;
use serde::Serialize;
use std::{fmt, net::SocketAddr, path::PathBuf, sync::Arc};
use zeroize::Zeroizing;

use crate::{
    admit::{self, DeskArgs, Dialler},
    output::{OutputFormat, WithHint as _},
    secrets::PassphraseArgs,
};
use cluster::ClusterArgs;
use follow::Bootstrapper;
use report::{PhaseReport, Report};
use run::Run;
use workspace::{Progress, Secrets, Workspace};

/// The longest material that a node takes: 1 MiB sealed, with the 16 bytes of its tag
/// (docs/protocol.md).
const MAX_MATERIAL: usize = (1 << 20) - 16 - ATTESTER;

/// What the name of the node's attester adds to it when it is sealed: a member with 64 digits.
const ATTESTER: usize = 96;

/// Make a cluster out of a first node that waits.
///
/// The node must wait without a header on its disk: its console says `listening`. Everything this
/// command makes is in the workspace before the node gets anything. Run the same command again
/// whenever it was interrupted; it goes on where it stopped, on the same disk only.
#[derive(Args, Debug)]
pub(crate) struct Init {
    /// Address of the node's agent, port 30091 unless the image says otherwise; the bootstrapper
    /// listens there after it
    node: SocketAddr,
    #[command(flatten)]
    desk: DeskArgs,
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Folder of the new cluster: secrets (encrypted), state, records, kubeconfig
    #[arg(long, value_name = "DIR")]
    workspace: PathBuf,
    /// Where to stop
    #[arg(long, value_enum, value_name = "POINT", default_value_t)]
    until: Until,
    /// How long to keep trying to reach the node, in seconds, each time it cannot be reached
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    wait: u64,
    #[command(flatten)]
    passphrase: PassphraseArgs,
}

/// A point of the run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Until {
    /// The node is attested and has its disk; what its image does with it is not waited for
    Admitted,
    /// Kubernetes runs, and its kubeconfig is in the workspace
    #[default]
    Ready,
}

impl Init {
    pub(crate) fn run(self, output: OutputFormat) -> Result<()> {
        let owner = self
            .desk
            .owner(&self.passphrase.existing(SecretKind::OwnerKey)?)?;
        let (workspace, book, secrets) = Workspace::open(
            &self.workspace,
            self.cluster.plan()?,
            &owner,
            &self.passphrase,
        )?;
        let progress = workspace.progress()?;
        if progress.is_none() && !book.state().is_finished() {
            return Err(anyhow!("`progress.json` is gone from the workspace"))
                .hint("put it back: without it nobody can follow this init to its end");
        }
        let run = Run {
            dialler: Dialler::new(
                self.desk.desk(Arc::clone(&owner))?,
                self.node,
                AdmissionPath::Init,
            )?,
            bootstrapper: progress
                .as_ref()
                .map(|progress| Bootstrapper::new(self.node, progress))
                .transpose()
                .context("read `progress.json`")?,
            material: Arc::new(self.material(&secrets, progress.as_ref())?),
            args: self,
            workspace,
            book,
            secrets,
            owner,
        };
        let mut report = Report::new();
        let outcome = admit::runtime()?.block_on(run.run(&mut report));
        let phases = report.finish();
        outcome?;
        output.print(&run.summary(phases)?)
    }

    /// Made before the node is reached, so that what does not fit is noticed before it matters.
    fn material(
        &self,
        secrets: &Secrets,
        progress: Option<&Progress>,
    ) -> Result<Zeroizing<Vec<u8>>> {
        let Some(progress) = progress else {
            // It is over: nobody gets material any more.
            return Ok(Zeroizing::new(Vec::new()));
        };
        let [policy, reference_values] = self.desk.signed()?;
        let material = InitMaterial {
            version: 1,
            kubernetes: self.cluster.plan()?.kubernetes,
            cluster: secrets.cluster.clone(),
            admission: secrets.admission.clone(),
            policy,
            reference_values,
            progress: progress.bootstrapper.clone(),
            attester: None,
        };
        let text = Zeroizing::new(serde_json::to_vec(&material).context("encode the material")?);
        if text.len() > MAX_MATERIAL {
            return Err(anyhow!(
                "what the node would get has {} bytes, and it takes at most {MAX_MATERIAL}",
                text.len()
            ))
            .hint("leave the `events` out of the reference values, or images that are not used");
        }
        Ok(text)
    }
}

#[derive(Serialize)]
struct Summary {
    cluster: ClusterId,
    node: NodeName,
    disk: DiskId,
    image: String,
    generation: Generation,
    workspace: PathBuf,
    /// Once Kubernetes runs.
    kubeconfig: Option<PathBuf>,
    phases: Vec<PhaseReport>,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Cluster {}", self.cluster)?;
        writeln!(
            f,
            "Node `{}` is admitted: disk {}, image {}, generation {}",
            self.node, self.disk, self.image, self.generation
        )?;
        writeln!(
            f,
            "Keep copies of `master-secret.key` and `cluster.json` of `{}` offline",
            self.workspace.display()
        )?;
        match &self.kubeconfig {
            Some(file) => write!(
                f,
                "Next: `constellation kubeconfig merge {}`",
                file.display()
            ),
            None => write!(f, "Next: the same command without `--until admitted`"),
        }
    }
}
