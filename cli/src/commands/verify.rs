//! `constellation verify`: what running nodes are, judged here.
//!
//! Each node is asked by its verification service; nothing that it says is believed, and no other
//! judge is asked. docs/verify.md says what the result means.

mod ask;
mod checked;
mod finding;
mod saved;
mod target;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use evidence::Nonce;
use identity::{ClusterId, NodeName};
use indicatif::ProgressBar;
use owner::OwnerFingerprint;
use serde::Serialize;
use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::task::JoinSet;

use crate::{
    cluster_file::ClusterFile,
    documents,
    kubernetes::Cluster,
    output::{OutputFormat, REFUSED, Status, UNAVAILABLE, table},
    rules::RulesArgs,
};
pub(super) use ask::Verifier;
pub(super) use finding::{Finding, Outcome};
use saved::Asked;
pub(super) use target::Places;
use target::Target;

/// Ask running nodes for evidence and appraise it here.
///
/// Every node proves with fresh evidence what it booted and, where its platform has a latch, that it
/// unlocked a disk of this cluster. Exit status: 0 all nodes are verified, 1 the command failed, 2 wrong
/// usage, 3 a node is refused, 4 none is refused and one could not be asked or judged.
#[derive(Args, Debug)]
pub(crate) struct Verify {
    /// Nodes: `[NAME=]ADDRESS[:PORT]`, port 30081 unless it is given; with a NAME, the node must state it
    #[arg(required_unless_present_any = ["document", "kubeconfig"])]
    nodes: Vec<Target>,
    /// Ask every node of the cluster instead, and compare each with its node record; the administrator's
    /// kubeconfig
    #[arg(long, value_name = "FILE", conflicts_with = "nodes")]
    kubeconfig: Option<PathBuf>,
    #[command(flatten)]
    places: Places,
    /// Judge a saved answer to `GET /?nonce=NONCE` instead, and ask nobody
    #[arg(long, value_name = "FILE", conflicts_with_all = ["nodes", "kubeconfig"], requires = "nonce")]
    document: Option<PathBuf>,
    /// The nonce that the document was asked for with: 64 hexadecimal digits, or base64url
    #[arg(long, requires = "document", conflicts_with_all = ["nodes", "kubeconfig"], value_parser = saved::parse_nonce)]
    nonce: Option<Nonce>,
    /// The node that the document must be of
    #[arg(long, value_name = "NAME", requires = "document", conflicts_with_all = ["nodes", "kubeconfig"])]
    name: Option<NodeName>,
    /// The owner's public key
    #[arg(long, value_name = "FILE")]
    owner: PathBuf,
    #[command(flatten)]
    rules: RulesArgs,
    /// The parameters of the cluster, `cluster.json`
    #[arg(long, value_name = "FILE")]
    cluster: PathBuf,
    /// How long one node may take, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=600))]
    timeout: u64,
}

impl Verify {
    pub(crate) fn run(self, output: OutputFormat) -> Result<()> {
        let owner = documents::owner_public_key(&self.owner)?.fingerprint();
        let verifier = Arc::new(self.verifier(&owner)?);
        let findings = match (&self.document, self.nonce) {
            (Some(document), Some(nonce)) => {
                let name = self.name.clone();
                let owner = &owner;
                let asked = Asked { nonce, name, owner };
                vec![saved::judge(&verifier, document, asked)?]
            }
            _ => self.ask(&verifier)?,
        };
        let report = Report::new(&verifier, findings);
        output.print(&report)?;
        report.status().map_or(Ok(()), |status| Err(status.into()))
    }

    fn ask(self, verifier: &Arc<Verifier>) -> Result<Vec<Finding>> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("start the runtime")?;
        let limit = Duration::from_secs(self.timeout);
        runtime.block_on(async {
            let nodes = match &self.kubeconfig {
                Some(kubeconfig) => of_cluster(kubeconfig, &self.places).await?,
                None => self.nodes.into_iter().map(Ok).collect(),
            };
            ask_all(verifier, nodes, limit).await
        })
    }

    fn verifier(&self, owner: &OwnerFingerprint) -> Result<Verifier> {
        let (rules, endorsements) = self.rules.open(owner)?;
        Ok(Verifier {
            rules,
            endorsements,
            cluster: ClusterFile::read(&self.cluster)?.cluster_id(),
        })
    }
}

/// Every node of a cluster, and those that need not be asked.
async fn of_cluster(
    kubeconfig: &Path,
    places: &Places,
) -> Result<Vec<Result<Target, Box<Finding>>>> {
    let members = Cluster::open(kubeconfig).await?.members().await?;
    if members.is_empty() {
        bail!("the cluster has no nodes");
    }
    places.targets(&members)
}

/// All at a time: a node's TPM takes longer than everything here. The findings are in the order asked.
pub(super) async fn ask_all(
    verifier: &Arc<Verifier>,
    nodes: Vec<Result<Target, Box<Finding>>>,
    limit: Duration,
) -> Result<Vec<Finding>> {
    let progress = ProgressBar::new_spinner();
    progress.enable_steady_tick(Duration::from_millis(100));
    progress.set_message(format!("asking {} nodes", nodes.len()));
    let mut asked = JoinSet::new();
    for (place, node) in nodes.into_iter().enumerate() {
        let verifier = Arc::clone(verifier);
        asked.spawn(async move {
            let finding = match node {
                Ok(node) => verifier.ask(node, limit).await,
                Err(finding) => Ok(*finding),
            };
            (place, finding)
        });
    }
    let mut findings = asked.join_all().await;
    progress.finish_and_clear();
    findings.sort_by_key(|(place, _)| *place);
    findings.into_iter().map(|(_, finding)| finding).collect()
}

/// What was found.
#[derive(Serialize)]
struct Report {
    cluster_id: ClusterId,
    policy_serial: u64,
    reference_values_serial: u64,
    verified: usize,
    refused: usize,
    unavailable: usize,
    nodes: Vec<Finding>,
}

impl Report {
    fn new(verifier: &Verifier, nodes: Vec<Finding>) -> Self {
        let count = |wanted: fn(&Outcome) -> bool| {
            let fitting = nodes.iter().filter(|finding| wanted(&finding.outcome));
            fitting.count()
        };
        Self {
            cluster_id: verifier.cluster,
            policy_serial: verifier.rules.policy().serial(),
            reference_values_serial: verifier.rules.reference_values().serial(),
            verified: count(|outcome| matches!(outcome, Outcome::Verified(_))),
            refused: count(|outcome| matches!(outcome, Outcome::Refused(_))),
            unavailable: count(|outcome| matches!(outcome, Outcome::Unavailable { .. })),
            nodes,
        }
    }

    const fn status(&self) -> Option<Status> {
        match (self.refused, self.unavailable) {
            (0, 0) => None,
            (0, _) => Some(Status(UNAVAILABLE)),
            _ => Some(Status(REFUSED)),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let header = [
            "NODE", "ADDRESS", "RESULT", "IMAGE", "ROLES", "EVIDENCE", "KEY", "CLUSTER",
        ];
        let rows = self.nodes.iter().map(Finding::row);
        f.write_str(&table(&header, rows))?;
        for finding in &self.nodes {
            finding.explain(f)?;
        }
        for (kind, lists) in checked::by_kind(&self.nodes) {
            writeln!(f, "\nChecked, for {kind}:")?;
            for line in &lists.checked {
                writeln!(f, "  {line}")?;
            }
            writeln!(f, "Not checked, for {kind}:")?;
            for line in &lists.not_checked {
                writeln!(f, "  {line}")?;
            }
        }
        writeln!(
            f,
            "\nCluster {}, policy {}, reference values {}: {} verified, {} refused, {} unavailable",
            self.cluster_id,
            self.policy_serial,
            self.reference_values_serial,
            self.verified,
            self.refused,
            self.unavailable
        )
    }
}
