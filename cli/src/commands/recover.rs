//! `constellation recover`: unlocks a waiting node when no join service answers.
//!
//! The CLI takes the join service's place for one node: it dials the node's agent, appraises it by
//! the same policy and reference values, proves the owner, and serves the node's two calls over the
//! connection it dialled. The records file takes the place of the store, the master secret's file
//! the place of the key service.

mod book;
mod desk;
mod tickets;

use anyhow::{Context as _, Result, bail};
use appraisal::{Appraised, Appraiser, Policy, ReferenceValues};
use attested_tls::{Admitter, AttestedStream, HandshakeError, SessionError, TlsEnd};
use clap::Args;
use evidence::AdmissionPath;
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use indicatif::{ProgressBar, ProgressStyle};
use key_hierarchy::KeyHierarchy;
use owner::{DocumentKind, OwnerFingerprint};
use secret::MasterSecret;
use secret_file::SecretKind;
use serde::Serialize;
use std::{
    fmt,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::net::TcpStream;
use tower::Layer as _;

use crate::{
    cluster_file::ClusterFile,
    documents,
    output::{OutputFormat, WithHint as _},
    secrets::{PassphraseArgs, owner_key},
};
use book::Book;
use desk::Desk;
use tickets::Tickets;

/// How long the attested handshake may take: the node's TPM and its processor may be slow.
const HANDSHAKE: Duration = Duration::from_secs(60);

/// How long the node may take from the handshake to its last call.
const SESSION: Duration = Duration::from_secs(300);

/// How long to wait between two tries to reach a node that is still booting.
const RETRY: Duration = Duration::from_millis(500);

/// Unlock a waiting node when no join service answers.
///
/// The node must know its disk (it joined before) and wait: its console says `waiting`. It is
/// attested before it gets anything, by the same policy and reference values as ever.
#[derive(Args, Debug)]
pub(crate) struct Recover {
    /// Address of the node's agent, port 30091 unless the image says otherwise
    node: SocketAddr,
    /// Node records, as `constellation node list --output json` printed them; the generation is
    /// updated, and every release recorded in `FILE.audit.jsonl`
    #[arg(long, value_name = "FILE")]
    records: PathBuf,
    /// The owner key
    #[arg(long, value_name = "FILE")]
    owner_key: PathBuf,
    /// The master secret, `master-secret.key`
    #[arg(long, value_name = "FILE")]
    master_secret: PathBuf,
    /// The parameters beside the master secret
    #[arg(long, value_name = "FILE")]
    cluster: PathBuf,
    /// The signed policy
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,
    /// The signed reference values
    #[arg(long, value_name = "FILE")]
    reference_values: PathBuf,
    /// Folder with the certificates of report keys, as `constellation snp import-certs` fills it; for
    /// SEV-SNP nodes whose host hands none out
    #[arg(long, value_name = "FOLDER")]
    endorsements: Option<PathBuf>,
    /// How long to keep trying to reach the node, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    wait: u64,
    /// File with the passphrase of the master secret, if it is not the owner key's
    #[arg(long, value_name = "FILE")]
    master_passphrase_file: Option<PathBuf>,
    #[command(flatten)]
    passphrase: PassphraseArgs,
}

impl Recover {
    pub(crate) fn run(self, output: OutputFormat) -> Result<()> {
        let owner = owner_key(&self.owner_key, &self.passphrase)?;
        let rules = self.rules(&owner.public_key().fingerprint())?;
        let desk = Desk::new(rules, owner, self.endorsements.as_deref())?;
        let (cluster, keys) = self.keys()?;
        let book = Book::open(&self.records)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("start the runtime")?;
        let recovered = runtime.block_on(self.recover(desk, (cluster, keys), book))?;
        output.print(&recovered)
    }

    fn rules(&self, owner: &OwnerFingerprint) -> Result<Appraiser> {
        let policy = documents::open(&self.policy, DocumentKind::Policy, owner)?;
        let values = documents::open(&self.reference_values, DocumentKind::ReferenceValues, owner)?;
        let policy = Policy::parse(policy.as_bytes()).context("policy")?;
        let values = ReferenceValues::parse(values.as_bytes()).context("reference values")?;
        Ok(Appraiser::new(policy, values)?)
    }

    fn keys(&self) -> Result<(ClusterFile, KeyHierarchy)> {
        let passphrase = match &self.master_passphrase_file {
            Some(path) => secret_file::Passphrase::read(path)?,
            None => self.passphrase.existing(SecretKind::MasterSecret)?,
        };
        let secret = secret_file::read_encrypted(
            &self.master_secret,
            SecretKind::MasterSecret,
            &passphrase,
            MasterSecret::from_slice,
        )
        .hint("a master secret is made by `constellation keys new`")?;
        let cluster = ClusterFile::read(&self.cluster)?;
        let keys = cluster.hierarchy(secret)?;
        Ok((cluster, keys))
    }

    async fn recover(
        &self,
        desk: Desk,
        (cluster, keys): (ClusterFile, KeyHierarchy),
        book: Book,
    ) -> Result<Recovered> {
        let progress = spinner();
        let end = TlsEnd::generate().context("set up TLS")?;
        let admitter = Admitter::new(end, Arc::new(desk), 1, HANDSHAKE);
        let stream = self.attest(&admitter, &progress).await?;
        let image = stream.peer().appraised().image().to_owned();
        progress.set_message("unlocking");
        let tickets = Tickets::new(Arc::clone(stream.peer()), book, keys, cluster.cluster_id());
        let tickets = serve(stream, tickets).await?;
        progress.finish_and_clear();
        let Some((record, generation)) = tickets.committed() else {
            let reason = tickets
                .refusal()
                .unwrap_or_else(|| "the node ended the connection".into());
            return Err(anyhow::anyhow!(
                "the node was attested, but is not unlocked: {reason}"
            ))
            .hint("its console says why; run the command again when it waits");
        };
        Ok(Recovered {
            node: record.node.to_string(),
            disk: record.disk.to_string(),
            image,
            generation: generation.0,
        })
    }

    /// Dials until a handshake comes to a verdict: a node that is still booting, or a port forwarder
    /// in front of it, takes connections that lead nowhere.
    async fn attest(
        &self,
        admitter: &Admitter<Desk>,
        progress: &ProgressBar,
    ) -> Result<AttestedStream<TcpStream, Appraised>> {
        let deadline = Instant::now() + Duration::from_secs(self.wait);
        loop {
            progress.set_message(format!("reaching and attesting {}", self.node));
            let error = match TcpStream::connect(self.node).await {
                Ok(stream) => match admitter.connect(stream, AdmissionPath::Recover).await {
                    Ok(stream) => return Ok(stream),
                    Err(HandshakeError::Io(error)) => error.into(),
                    Err(error @ HandshakeError::Session(SessionError::Closed)) => error.into(),
                    Err(error) => return Err(explain(error)),
                },
                Err(error) => anyhow::Error::new(error),
            };
            if Instant::now() >= deadline {
                return Err(error.context(format!("reach {}", self.node))).hint(
                    "is the node waiting? its console says `listening`; `--wait` tries longer",
                );
            }
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// Serves the node's calls until it closes the connection.
async fn serve(stream: AttestedStream<TcpStream, Appraised>, tickets: Tickets) -> Result<Tickets> {
    let service = api::join::join_service_server::JoinServiceServer::new(tickets.clone());
    let service = tonic_web::GrpcWebLayer::new().layer(service);
    let connection = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    match tokio::time::timeout(SESSION, connection).await {
        // How the connection ended matters only if nothing was committed.
        Ok(_) => Ok(tickets),
        Err(_) => bail!("the node did not finish within {} s", SESSION.as_secs()),
    }
}

/// Turns a failed handshake into what the operator can act on.
fn explain(error: HandshakeError) -> anyhow::Error {
    let (whose, refusal) = match &error {
        HandshakeError::Session(SessionError::RefusedPeer(refusal)) => {
            ("we refuse the node", refusal)
        }
        HandshakeError::Session(SessionError::RefusedByAttester(refusal)) => {
            ("the node refuses us", refusal)
        }
        _ => return anyhow::Error::new(error).context("attest the node"),
    };
    let checks = refusal.checks.iter().map(|check| {
        format!(
            "\n  {}: expected {}, got {}",
            check.check, check.expected, check.got
        )
    });
    let text = format!("{whose}: {}{}", refusal.class, checks.collect::<String>());
    anyhow::anyhow!(text)
}

fn spinner() -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {msg} {elapsed}");
    let spinner = ProgressBar::new_spinner();
    if let Ok(style) = style {
        spinner.set_style(style);
    }
    spinner.enable_steady_tick(Duration::from_millis(100));
    spinner
}

#[derive(Serialize)]
struct Recovered {
    node: String,
    disk: String,
    image: String,
    generation: u64,
}

impl fmt::Display for Recovered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            node,
            disk,
            image,
            generation,
        } = self;
        write!(
            f,
            "Node `{node}` is unlocked: disk {disk}, image {image}, generation {generation}"
        )
    }
}
