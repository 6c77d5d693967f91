//! `constellation recover`: unlocks a waiting node when no join service answers.
//!
//! The CLI takes the join service's place for one node: it dials the node's agent, appraises it by
//! the same policy and reference values, proves the owner, and serves the node's two calls over the
//! connection it dialled. The records file takes the place of the store, the master secret's file
//! the place of the key service.

mod book;
mod tickets;

use anyhow::{Context as _, Result, anyhow};
use api::Class;
use clap::Args;
use evidence::AdmissionPath;
use indicatif::{ProgressBar, ProgressStyle};
use secret::MasterSecret;
use secret_file::{Passphrase, SecretKind};
use serde::Serialize;
use std::{
    fmt,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    admit::{self, Counter, DeskArgs, Dialler, Issuer, RETRY, Stream, Unreached},
    cluster_file::ClusterFile,
    output::{ExitStatus, OutputFormat, UNAVAILABLE, WithHint as _},
    secrets::{PassphraseArgs, both},
};
use book::Book;
use tickets::Tickets;

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
    /// The master secret, `master-secret.key`
    #[arg(long, value_name = "FILE")]
    master_secret: PathBuf,
    /// The parameters beside the master secret
    #[arg(long, value_name = "FILE")]
    cluster: PathBuf,
    #[command(flatten)]
    desk: DeskArgs,
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
        let owner_passphrase = self.passphrase.existing(SecretKind::OwnerKey)?;
        let master_passphrase = self.master_passphrase()?;
        let (secret, owner) = both(
            || self.master_secret(&master_passphrase),
            || self.desk.owner(&owner_passphrase),
        );
        let (secret, owner) = (secret?, owner?);
        let desk = self.desk.desk(Arc::clone(&owner))?;
        let dialler = Dialler::new(desk, self.node, AdmissionPath::Recover)?;
        let cluster = ClusterFile::read(&self.cluster)?;
        let issuer = Issuer {
            keys: Arc::new(cluster.hierarchy(secret)?),
            cluster: cluster.cluster_id(),
            owner,
        };
        let book = Book::open(&self.records)?;
        let recovered = admit::runtime()?.block_on(self.recover(&dialler, issuer, book))?;
        output.print(&recovered)
    }

    fn master_passphrase(&self) -> Result<Passphrase> {
        match &self.master_passphrase_file {
            Some(path) => Ok(Passphrase::read(path)?),
            None => self.passphrase.existing(SecretKind::MasterSecret),
        }
    }

    fn master_secret(&self, passphrase: &Passphrase) -> Result<MasterSecret> {
        secret_file::read_encrypted(
            &self.master_secret,
            SecretKind::MasterSecret,
            passphrase,
            MasterSecret::from_slice,
        )
        .hint("a master secret is made by `constellation keys new`")
    }

    async fn recover(&self, dialler: &Dialler, issuer: Issuer, book: Book) -> Result<Recovered> {
        let progress = spinner();
        let stream = self.attest(dialler, &progress).await?;
        let image = stream.peer().appraised().image().to_owned();
        progress.set_message("unlocking");
        let counter = Counter::new(Arc::clone(stream.peer()), book, issuer);
        let tickets = Tickets {
            counter: counter.clone(),
        };
        admit::serve(stream, tickets).await?;
        progress.finish_and_clear();
        let Some((record, generation)) = counter.committed() else {
            return not_unlocked(&counter);
        };
        Ok(Recovered {
            node: record.node.to_string(),
            disk: record.disk.to_string(),
            image,
            generation: generation.0,
        })
    }

    /// Dials until a handshake comes to a verdict.
    async fn attest(&self, dialler: &Dialler, progress: &ProgressBar) -> Result<Stream> {
        let deadline = Instant::now() + Duration::from_secs(self.wait);
        loop {
            progress.set_message(format!("reaching and attesting {}", self.node));
            let error = match dialler.attest().await {
                Ok(stream) => return Ok(stream),
                Err(Unreached::Refused(error)) => return Err(error),
                Err(Unreached::Again(error)) => error,
            };
            if Instant::now() >= deadline {
                return Err(error)
                    .hint(
                        "is the node waiting? its console says `listening`; `--wait` tries longer",
                    )
                    .context(ExitStatus(UNAVAILABLE));
            }
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// Why an attested node is where it was.
fn not_unlocked(counter: &Counter<Book>) -> Result<Recovered> {
    let (reason, status) = match counter.trouble() {
        Some(trouble) => (trouble.to_string(), trouble.exit_status()),
        // It has its key and does not like its disk: the next time, too.
        None if counter.has_released() => (
            "it took its key and ended the connection".to_owned(),
            ExitStatus::of(Class::Internal),
        ),
        None => (
            "it ended the connection before it asked for its key".to_owned(),
            ExitStatus::of(Class::Unavailable),
        ),
    };
    Err(anyhow!(
        "the node was attested, but is not unlocked: {reason}"
    ))
    .hint("its console says why; run the command again when it waits")
    .context(status)
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
