//! `constellation init`: a cluster out of a first node that waits.
//!
//! The CLI makes the cluster's secrets and stores them, attests the node, gives it the key of its disk
//! and what its bootstrapper needs, follows the bootstrapper, and takes what it made. Each step can be
//! repeated by the same command, on the same disk only: `init.json` says how far it got.

mod follow;
mod ledger;
mod report;
mod state;
mod tickets;
mod workspace;

use admission::Refusal;
use anyhow::{Context as _, Result, anyhow, bail};
use clap::{Args, ValueEnum};
use evidence::AdmissionPath;
use hand_off::{InitMaterial, KubernetesMaterial};
use identity::{ClusterId, DiskId, Generation, NodeName};
use serde::Serialize;
use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use zeroize::Zeroizing;

use crate::{
    admit::{self, Counter, DeskArgs, Dialler, RETRY, Stream, Trouble, Unreached},
    documents, files,
    output::{OutputFormat, WithHint as _},
    records::{Record, Records},
    secrets::PassphraseArgs,
};
use follow::{Bootstrapper, Followed};
use ledger::Book;
use report::{PhaseReport, Report, printable};
use state::Plan;
use tickets::Tickets;
use workspace::{Progress, Secrets, Workspace};

/// The longest material that a node takes: 1 MiB sealed, with the 16 bytes of its tag
/// (docs/protocol.md).
const MAX_MATERIAL: usize = (1 << 20) - 16;

/// Domain of Services. Kubernetes' own default, which much software takes for granted.
const DNS_DOMAIN: &str = "cluster.local";

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
    /// The node's name
    #[arg(long, value_name = "NAME")]
    node_name: NodeName,
    /// Where the API server will be reached, also by later nodes
    #[arg(long, value_name = "HOST:PORT", value_parser = parse_endpoint)]
    endpoint: String,
    /// Addresses of pods
    #[arg(long, value_name = "CIDR", default_value = "10.244.0.0/16", value_parser = parse_subnet)]
    pod_subnet: String,
    /// Addresses of Services
    #[arg(long, value_name = "CIDR", default_value = "10.96.0.0/12", value_parser = parse_subnet)]
    service_subnet: String,
    /// Version of Kubernetes; the image must have it
    #[arg(long, value_name = "VERSION", default_value = "v1.20.2", value_parser = parse_version)]
    kubernetes_version: String,
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
        let owner = self.desk.owner(&self.passphrase)?;
        let (workspace, book, secrets) =
            Workspace::open(&self.workspace, self.plan(), &owner, &self.passphrase)?;
        let progress = workspace.progress()?;
        let run = Run {
            dialler: Dialler::new(self.desk.desk(owner)?, self.node, AdmissionPath::Init)?,
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
        };
        let mut report = Report::new();
        let outcome = admit::runtime()?.block_on(run.run(&mut report));
        let phases = report.finish();
        outcome?;
        output.print(&run.summary(phases)?)
    }

    fn plan(&self) -> Plan {
        Plan {
            node_name: self.node_name.clone(),
            kubernetes: KubernetesMaterial {
                api_endpoint: self.endpoint.clone(),
                certificate_authority: String::new(),
                pod_subnet: self.pod_subnet.clone(),
                service_subnet: self.service_subnet.clone(),
                dns_domain: DNS_DOMAIN.to_owned(),
                version: self.kubernetes_version.clone(),
            },
        }
    }

    /// Made before the node is reached, so that what does not fit is noticed before it matters.
    fn material(
        &self,
        secrets: &Secrets,
        progress: Option<&Progress>,
    ) -> Result<Zeroizing<Vec<u8>>> {
        let Some(progress) = progress else {
            // The init is over; nobody gets material any more.
            return Ok(Zeroizing::new(Vec::new()));
        };
        let [policy, reference_values] = self.desk.signed()?;
        let material = InitMaterial {
            version: 1,
            kubernetes: self.plan().kubernetes,
            cluster: secrets.cluster.clone(),
            admission: secrets.admission.clone(),
            policy,
            reference_values,
            progress: progress.bootstrapper.clone(),
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

/// One run of the command.
struct Run {
    args: Init,
    workspace: Workspace,
    book: Book,
    secrets: Secrets,
    dialler: Dialler,
    bootstrapper: Option<Bootstrapper>,
    material: Arc<Zeroizing<Vec<u8>>>,
}

impl Run {
    async fn run(&self, report: &mut Report) -> Result<()> {
        if self.book.state().is_finished() {
            return self.take_leave(report).await;
        }
        let mut admitted = self.book.state().is_committed();
        if !admitted || self.args.until == Until::Admitted {
            self.admit(report).await?;
            admitted = true;
        }
        if admitted && self.args.until == Until::Ready {
            self.bootstrap(report).await?;
            self.take_leave(report).await?;
        }
        Ok(())
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
        let keys = Arc::clone(&self.secrets.keys);
        let counter = Counter::new(Arc::clone(stream.peer()), self.book.clone(), keys);
        let registered = Arc::new(AtomicBool::new(false));
        let tickets = Tickets {
            counter: counter.clone(),
            cluster: self.secrets.cluster.cluster_id,
            node_name: self.args.node_name.clone(),
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
            .hint(next_step(&trouble));
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
        let bootstrapper = bootstrapper.context("`progress.json` is gone from the workspace")?;
        let mut patience = self.patience();
        loop {
            match bootstrapper.connect().await {
                Ok(mut client) => {
                    patience = self.patience();
                    match follow::follow(&mut client, report).await {
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
    fn store(&self, result: &api::bootstrap::GetResultResponse) -> Result<()> {
        let record: Record = serde_json::from_slice(&result.node_record)
            .context("answer of the bootstrapper: malformed node record")?;
        let state = self.book.state();
        let disk = state.init.map(|init| init.disk);
        if record.node != self.args.node_name || Some(record.disk) != disk {
            bail!("answer of the bootstrapper: the record of another node");
        }
        files::replace_secret(&self.workspace.kubeconfig(), result.kubeconfig.as_bytes())?;
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
        told.await.hint(
            "the cluster is up and everything is stored; run this command again, so that the node forgets the secrets of its init",
        )?;
        self.workspace.forget_progress()
    }

    fn patience(&self) -> Patience {
        Patience::new(Duration::from_secs(self.args.wait))
    }

    fn summary(&self, phases: Vec<PhaseReport>) -> Result<Summary> {
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

/// Tries until the time is over that the operator gave.
struct Patience {
    until: Instant,
    last: Option<anyhow::Error>,
}

impl Patience {
    fn new(time: Duration) -> Self {
        Self {
            until: Instant::now() + time,
            last: None,
        }
    }

    fn lost(&mut self, error: anyhow::Error) {
        self.last = Some(error);
    }

    async fn wait(&mut self) -> Result<()> {
        if let Some(error) = self.last.take()
            && Instant::now() >= self.until
        {
            return Err(error).hint(
                "its console says where it is; run the same command again to go on, `--wait` tries longer",
            );
        }
        tokio::time::sleep(RETRY).await;
        Ok(())
    }
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

/// `host:port` of the API server.
fn parse_endpoint(text: &str) -> Result<String, String> {
    let expected = || "expected `HOST:PORT` or `[IPv6]:PORT`".to_owned();
    let (host, port) = text.rsplit_once(':').ok_or_else(expected)?;
    let port: u16 = port.parse().map_err(|_| expected())?;
    let bracketed = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let is_host = match bracketed {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            let allowed = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-';
            !host.is_empty() && host.len() <= 253 && host.chars().all(allowed)
        }
    };
    (port != 0 && is_host)
        .then(|| text.to_owned())
        .ok_or_else(expected)
}

/// A range of addresses.
fn parse_subnet(text: &str) -> Result<String, String> {
    let expected = || "expected a range of addresses such as `10.96.0.0/12`".to_owned();
    let (address, length) = text.split_once('/').ok_or_else(expected)?;
    let address: IpAddr = address.parse().map_err(|_| expected())?;
    let length: u32 = length.parse().map_err(|_| expected())?;
    let (bits, width) = match address {
        IpAddr::V4(address) => (u128::from(address.to_bits()) << 96, 32),
        IpAddr::V6(address) => (address.to_bits(), 128),
    };
    let host_bits = bits.checked_shl(length).unwrap_or(0);
    (0 < length && length <= width && host_bits == 0)
        .then(|| text.to_owned())
        .ok_or_else(expected)
}

/// `v1.20.2`.
fn parse_version(text: &str) -> Result<String, String> {
    let numbers: Vec<_> = text.strip_prefix('v').unwrap_or("").split('.').collect();
    let is_number = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    (numbers.len() == 3 && numbers.iter().all(is_number))
        .then(|| text.to_owned())
        .ok_or_else(|| "expected a version such as `v1.20.2`".to_owned())
}

#[cfg(test)]
mod tests;
