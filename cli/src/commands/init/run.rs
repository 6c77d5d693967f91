//! From an address to a cluster, or as far as this run gets.

use admission::Refusal;
use anyhow::{Context as _, Result, anyhow, bail};
use api::bootstrap::GetResultResponse;
use owner::OwnerKey;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use zeroize::Zeroizing;

use super::{
    Init, Summary, Until,
    follow::{self, Bootstrapper, Followed},
    ledger::Book,
    patience::Patience,
    report::{PhaseReport, Report, printable},
    tickets::Tickets,
    workspace::{Secrets, Workspace},
};
use crate::{
    admit::{self, Counter, Dialler, Issuer, Stream, Trouble, Unreached},
    commands::kubeconfig,
    documents, files,
    output::{ExitStatus, UNAVAILABLE, WithHint as _},
    records::{Record, Records},
};

/// A connection that stood for so long was one, however silent.
const STEADY: Duration = Duration::from_secs(10);

/// One run of the command.
pub(super) struct Run {
    pub(super) args: Init,
    pub(super) workspace: Workspace,
    pub(super) book: Book,
    pub(super) secrets: Secrets,
    pub(super) owner: Arc<OwnerKey>,
    pub(super) dialler: Dialler,
    /// None once it was told that all is stored.
    pub(super) bootstrapper: Option<Bootstrapper>,
    pub(super) material: Arc<Zeroizing<Vec<u8>>>,
}

impl Run {
    /// Goes on where the last run stopped.
    pub(super) async fn run(&self, report: &mut Report) -> Result<()> {
        if self.book.state().is_finished() {
            return self.take_leave(report).await;
        }
        if self.args.until == Until::Admitted {
            return self.admit(report).await;
        }
        // A disk that is committed may have a bootstrapper at work, which is not to be disturbed.
        if !self.book.state().is_committed() {
            self.admit(report).await?;
        }
        self.bootstrap(report).await?;
        self.take_leave(report).await
    }

    /// Dials until the node is attested, and serves it until it has its disk.
    async fn admit(&self, report: &mut Report) -> Result<()> {
        let mut patience = self.patience();
        loop {
            report.step(&format!("reaching and attesting {}", self.args.node));
            match self.dialler.attest().await {
                Ok(stream) => match self.serve(stream, report).await? {
                    Served::Committed => return Ok(()),
                    Served::Lost => patience.lost(anyhow!(
                        "the node got its ticket and went away without a word"
                    )),
                },
                Err(Unreached::Refused(error)) => return Err(error),
                Err(Unreached::Again(error)) => patience.lost(error),
            }
            patience.wait().await?;
        }
    }

    /// Serves one connection of the node.
    async fn serve(&self, stream: Stream, report: &mut Report) -> Result<Served> {
        let image = stream.peer().appraised().image();
        report.step(&format!("attested, image {}; unlocking", printable(image)));
        let issuer = Issuer {
            keys: Arc::clone(&self.secrets.keys),
            cluster: self.secrets.cluster.cluster_id,
            owner: Arc::clone(&self.owner),
        };
        let counter = Counter::new(Arc::clone(stream.peer()), self.book.clone(), issuer);
        let registered = Arc::new(AtomicBool::new(false));
        let tickets = Tickets {
            counter: counter.clone(),
            node_name: self.args.cluster.node_name.clone(),
            material: Arc::clone(&self.material),
            registered: Arc::clone(&registered),
        };
        admit::serve(stream, tickets).await?;
        if counter.committed().is_some() {
            return Ok(Served::Committed);
        }
        if let Some(trouble) = counter.trouble() {
            return Err(anyhow!(
                "the node was attested, but is not admitted: {trouble}"
            ))
            .hint(next_step(&trouble))
            .context(trouble.exit_status());
        }
        if registered.load(Ordering::Relaxed) && !counter.has_released() {
            return Err(anyhow!(
                "the node took the id of its disk and left: its disk has the header of another cluster or init"
            ))
            .hint(
                "its console names both ids; an init needs a disk without a header, or the disk that it began with",
            );
        }
        Ok(Served::Lost)
    }

    /// Follows the bootstrapper to its end and stores what it made. A node that waits again, because
    /// its power was cut, is admitted again.
    async fn bootstrap(&self, report: &mut Report) -> Result<()> {
        let bootstrapper = self.bootstrapper.as_ref();
        let bootstrapper = bootstrapper.context("internal: nobody to follow")?;
        let mut patience = self.patience();
        loop {
            match bootstrapper.connect().await {
                Ok(mut client) => {
                    let (seen, since) = (report.seen(), Instant::now());
                    let followed = follow::follow(&mut client, report).await;
                    // Whoever takes connections and says nothing is not waited for without end.
                    if report.seen() > seen || since.elapsed() > STEADY {
                        patience = self.patience();
                    }
                    match followed {
                        Followed::Succeeded => {
                            report.step("storing kubeconfig and record");
                            return self.store(&follow::result(&mut client).await?);
                        }
                        Followed::Failed(error) => {
                            return Err(anyhow!(
                                "the bootstrapper failed: {}",
                                printable(&error)
                            ))
                            .hint(
                                "when the cause is gone, restart the node and run this command again",
                            );
                        }
                        Followed::Broken(error) => patience.lost(error),
                    }
                }
                Err(error) => {
                    report.step("waiting for the bootstrapper");
                    self.admit_again(&mut patience, error, report).await?;
                }
            }
            patience.wait().await?;
        }
    }

    async fn admit_again(
        &self,
        patience: &mut Patience,
        unreached: anyhow::Error,
        report: &mut Report,
    ) -> Result<()> {
        match self.dialler.attest().await {
            Ok(stream) => {
                self.serve(stream, report).await?;
                report.forget_run();
                *patience = self.patience();
            }
            Err(Unreached::Refused(error)) => return Err(error),
            Err(Unreached::Again(_)) => patience.lost(unreached),
        }
        Ok(())
    }

    /// The result first, then the word that there is one.
    fn store(&self, result: &GetResultResponse) -> Result<()> {
        let record: Record = serde_json::from_slice(&result.node_record)
            .context("answer of the bootstrapper: malformed node record")?;
        let state = self.book.state();
        let disk = state.init.map(|init| init.disk);
        if record.node != self.args.cluster.node_name || Some(record.disk) != disk {
            bail!("answer of the bootstrapper: the record of another node");
        }
        let endpoint = &state.plan.kubernetes.api_endpoint;
        let kubeconfig = kubeconfig::administrator(&result.kubeconfig, endpoint)
            .context("answer of the bootstrapper: refused kubeconfig")?;
        files::replace_secret(&self.workspace.kubeconfig(), kubeconfig.as_bytes())?;
        let records = Records {
            nodes: vec![record],
            boots: Vec::new(),
        };
        documents::replace(&self.workspace.records(), &records)?;
        self.book.finish(self.secrets.cluster.key_version)
    }

    /// Tells the bootstrapper that the result is stored, so that it forgets the cluster's secrets.
    async fn take_leave(&self, report: &mut Report) -> Result<()> {
        let Some(bootstrapper) = &self.bootstrapper else {
            return Ok(());
        };
        report.step("telling the node that all is stored");
        let told = async { follow::finish(&mut bootstrapper.connect().await?).await };
        told.await
            .hint(
                "the cluster is up and everything is stored; run this command again, so that the node forgets the secrets of its init",
            )
            .context(ExitStatus(UNAVAILABLE))?;
        self.workspace.forget_progress()
    }

    fn patience(&self) -> Patience {
        Patience::new(Duration::from_secs(self.args.wait))
    }

    /// What there is now.
    pub(super) fn summary(&self, phases: Vec<PhaseReport>) -> Result<Summary> {
        let state = self.book.state();
        let record = state.record.as_ref().context("internal: no record")?;
        let finished = state.is_finished();
        Ok(Summary {
            cluster: self.secrets.cluster.cluster_id,
            node: record.node.clone(),
            disk: record.disk,
            image: record.image.clone(),
            generation: record.generation,
            workspace: self.args.workspace.clone(),
            kubeconfig: finished.then(|| self.workspace.kubeconfig()),
            phases,
        })
    }
}

/// How a connection of an attested node ended.
enum Served {
    /// Its disk is committed.
    Committed,
    /// Without a word: it will come again, or it will not.
    Lost,
}

fn next_step(trouble: &Trouble) -> &'static str {
    match trouble {
        Trouble::Refused(Refusal::InitBound { .. }) => {
            "this workspace is for the machine that it began with: go on with that one, or make another cluster in another workspace; its secrets went to the first machine"
        }
        Trouble::Refused(Refusal::GenerationNotNew { .. }) => {
            "this is not the disk that the init began with, or an older copy of it: put that disk back and start the node again"
        }
        Trouble::Refused(Refusal::RoleNotInImage { .. }) => {
            "the first node is a control-plane node: give an image that role with `constellation reference-values add --role control-plane`, and sign"
        }
        Trouble::Refused(_) | Trouble::Failed(_) => {
            "nothing is lost: run the same command again when the node waits"
        }
    }
}
