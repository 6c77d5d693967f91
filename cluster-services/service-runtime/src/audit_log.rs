//! The audit log on disk: a record is durable before whatever it records happens.
//!
//! One thread owns the files. It takes what has queued up, appends it in one write, makes it durable
//! with one `fdatasync` and only then answers everybody in the batch (group commit). The contract it
//! keeps is in the `audit` crate; the files are described in docs/operate-services.md.

mod files;

use crate::{Readiness, config::count, logs::Chain as ErrorChain, secrets::SecretSource};
use audit::{AppendError, Chain, ChainId, Head, Record, RecordEvent};
use aws_lc_rs::{
    rand,
    signature::{Ed25519KeyPair, KeyPair},
};
pub use files::FileError;
use files::Files;
use secret_file::{SecretFileError, SecretKind};
use serde::Deserialize;
use std::{
    io,
    num::NonZeroU32,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::sync::oneshot;

/// The `[audit]` section of a configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditConfig {
    /// Folder of the log, which must exist and belong to this service alone.
    pub directory: PathBuf,
    /// The key that signs checkpoints.
    pub key: SecretSource,
    /// Size of one file; as much again is reserved for the next one.
    #[serde(default = "default_file_mebibytes")]
    pub file_mebibytes: NonZeroU32,
    /// How many full files are kept. The oldest one is removed beyond that.
    #[serde(default = "default_files")]
    pub files: NonZeroU32,
}

/// The log as the rest of the service sees it. Clones write to the same files.
#[derive(Debug, Clone)]
pub struct AuditLog {
    queue: SyncSender<Request>,
    head: Arc<Mutex<Head>>,
    public_key: [u8; 32],
}

/// Why the log cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The chain cannot be started.
    #[error("cannot start the audit chain")]
    Chain(#[source] AppendError),
    /// The folder or a file in it cannot be used.
    #[error("cannot use the audit folder `{}`", path.display())]
    Files {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: FileError,
    },
    /// The audit key cannot be loaded.
    #[error("cannot load the audit key")]
    Key(#[source] SecretFileError),
    /// The system's random generator or thread limit failed.
    #[error("cannot start the audit writer")]
    Start(#[source] io::Error),
}

/// Why an event was not recorded. What it would have recorded must not happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// More events queue up than the disk takes.
    #[error("the audit log is behind")]
    Behind,
    /// The log was finished.
    #[error("the audit log is closed")]
    Closed,
    /// The line may not have reached the disk. The writer logged why.
    #[error("the audit record is not durable")]
    NotDurable,
}

impl AuditLog {
    /// Opens the log in its folder, cuts off what a crash left unfinished and starts a new chain.
    /// `readiness` learns whether the reserved space is there.
    ///
    /// # Errors
    /// [`OpenError`]; a service without its audit log does not start.
    pub fn open(
        config: &AuditConfig,
        replica: &str,
        readiness: &Readiness,
    ) -> Result<Self, OpenError> {
        let key = config
            .key
            .load(SecretKind::AuditKey, |seed| {
                Ed25519KeyPair::from_seed_unchecked(seed).ok()
            })
            .map_err(OpenError::Key)?;
        let mut public_key = [0; 32];
        public_key.copy_from_slice(key.public_key().as_ref());
        let mut writer = Writer {
            files: Files::open(config, readiness.clone()).map_err(|source| OpenError::Files {
                path: config.directory.clone(),
                source,
            })?,
            key,
            replica: replica.to_owned(),
            chain: None,
            unsigned: 0,
            signed: Instant::now(),
            head: None,
        };
        let first = writer.start().map_err(|error| match error {
            WriteError::Chain(source) => OpenError::Chain(source),
            WriteError::File(source) => OpenError::Files {
                path: config.directory.clone(),
                source,
            },
            WriteError::Random => OpenError::Start(io::Error::other("no randomness")),
        })?;
        let head = Arc::new(Mutex::new(first));
        writer.head = Some(Arc::clone(&head));
        let (queue, requests) = sync_channel(QUEUE);
        thread::Builder::new()
            .name("audit".into())
            .spawn(move || writer.run(requests))
            .map_err(OpenError::Start)?;
        Ok(Self {
            queue,
            head,
            public_key,
        })
    }

    /// Records an event; durable when this returns `Ok`.
    ///
    /// # Errors
    /// [`RecordError`]: then what the event says must not happen.
    pub async fn record(&self, event: RecordEvent) -> Result<(), RecordError> {
        self.ask(|answer| request(event, answer)).await
    }

    /// Records an event, and calls `then` on the log's thread when it is durable or will not be: it
    /// must neither wait nor work. The caller's thread need not wake up in between.
    pub fn record_then(
        &self,
        event: RecordEvent,
        then: impl FnOnce(Result<(), RecordError>) + Send + 'static,
    ) {
        if let Err((error, Request::Record(_, then) | Request::Finish(then))) =
            self.enqueue(request(event, Answer::new(then)))
        {
            then.give(Err(error));
        }
    }

    /// Queues an event without waiting for the disk: for refusals, after which nothing happens.
    ///
    /// # Errors
    /// [`RecordError::Behind`] or [`RecordError::Closed`].
    pub fn note(&self, event: RecordEvent) -> Result<(), RecordError> {
        let queued = self.enqueue(request(event, Answer::new(|_nobody_waits| {})));
        queued.map_err(|(error, _)| error)
    }

    /// Signs the head and closes the log; later records are refused.
    ///
    /// # Errors
    /// [`RecordError`] when the last checkpoint is not durable.
    pub async fn finish(&self) -> Result<(), RecordError> {
        self.ask(Request::Finish).await
    }

    /// The last durable line, for the operator to keep elsewhere.
    #[must_use]
    pub fn head(&self) -> Head {
        *self.head.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The public half of the key that signs checkpoints (Ed25519).
    #[must_use]
    pub const fn public_key(&self) -> &[u8; 32] {
        &self.public_key
    }

    async fn ask(&self, request: impl FnOnce(Answer) -> Request) -> Result<(), RecordError> {
        let (answer, answered) = oneshot::channel();
        // Whoever asked may give up; the line is there all the same.
        let answer = Answer::new(|result| {
            let _gone = answer.send(result);
        });
        self.enqueue(request(answer)).map_err(|(error, _)| error)?;
        answered.await.map_err(|_| RecordError::Closed)?
    }

    /// Gives back what cannot be queued.
    fn enqueue(&self, request: Request) -> Result<(), (RecordError, Request)> {
        self.queue.try_send(request).map_err(|error| match error {
            TrySendError::Full(request) => (RecordError::Behind, request),
            TrySendError::Disconnected(request) => (RecordError::Closed, request),
        })
    }
}

fn request(event: RecordEvent, answer: Answer) -> Request {
    let record = Record {
        time_ms: now_ms(),
        event,
    };
    Request::Record(Box::new(record), answer)
}

/// Events that wait for the disk: a second of the busiest service at 1,000 a second.
const QUEUE: usize = 1024;

/// Lines in one write, so that a checkpoint is never far away.
const BATCH: usize = 256;

/// Lines and time after which the head is signed.
const UNSIGNED_LINES: usize = 1024;
const UNSIGNED_TIME: Duration = Duration::from_secs(60);

/// Called once, on the log's thread as a rule. One that is dropped says that the log is closed, so
/// that nobody waits for a request that was still queued when the log ended.
struct Answer(Option<Continuation>);

type Continuation = Box<dyn FnOnce(Result<(), RecordError>) + Send>;

impl Answer {
    fn new(then: impl FnOnce(Result<(), RecordError>) + Send + 'static) -> Self {
        Self(Some(Box::new(then)))
    }

    fn give(mut self, result: Result<(), RecordError>) {
        if let Some(then) = self.0.take() {
            then(result);
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(then) = self.0.take() {
            then(Err(RecordError::Closed));
        }
    }
}

enum Request {
    Finish(Answer),
    Record(Box<Record>, Answer),
}

#[derive(Debug, thiserror::Error)]
enum WriteError {
    #[error("cannot make the line")]
    Chain(#[source] AppendError),
    #[error("cannot write the audit log")]
    File(#[source] FileError),
    #[error("no randomness for a chain id")]
    Random,
}

struct Writer {
    files: Files,
    key: Ed25519KeyPair,
    replica: String,
    /// `None` after a failed write: the next one starts a new chain.
    chain: Option<Chain>,
    unsigned: usize,
    signed: Instant,
    head: Option<Arc<Mutex<Head>>>,
}

impl Writer {
    fn run(mut self, requests: Receiver<Request>) {
        loop {
            let first = match requests.recv_timeout(UNSIGNED_TIME) {
                Ok(Request::Record(record, answer)) => (*record, answer),
                Ok(Request::Finish(answer)) => return self.finish(requests, answer),
                Err(RecvTimeoutError::Timeout) => {
                    self.settle(Vec::new(), Vec::new());
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let (mut records, mut answers) = (vec![first.0], vec![first.1]);
            let mut last = None;
            while records.len() < BATCH {
                match requests.try_recv() {
                    Ok(Request::Record(record, answer)) => {
                        records.push(*record);
                        answers.push(answer);
                    }
                    Ok(Request::Finish(answer)) => {
                        last = Some(answer);
                        break;
                    }
                    Err(_) => break,
                }
            }
            self.settle(records, answers);
            if let Some(answer) = last {
                return self.finish(requests, answer);
            }
        }
    }

    fn finish(mut self, requests: Receiver<Request>, answer: Answer) {
        let result = self.write(&[], true);
        // The folder is free for a successor, and the log closed, when the answer arrives.
        drop(self);
        drop(requests);
        reply(vec![answer], &result);
    }

    /// Writes a batch and tells everybody in it how that went.
    fn settle(&mut self, records: Vec<Record>, answers: Vec<Answer>) {
        let started = Instant::now();
        let due = self.signed.elapsed() >= UNSIGNED_TIME
            || self.unsigned + records.len() >= UNSIGNED_LINES;
        let result = self.write(&records, due);
        metrics::histogram!("audit_write_seconds").record(started.elapsed().as_secs_f64());
        reply(answers, &result);
    }

    fn write(&mut self, records: &[Record], checkpoint: bool) -> Result<(), WriteError> {
        let written = self.try_write(records, checkpoint);
        if let Err(error) = &written {
            // Lines that may or may not be there must not be continued.
            self.chain = None;
            metrics::counter!("audit_write_failed_total").increment(1);
            tracing::error!(error = %ErrorChain(error), "audit records are not durable");
        }
        written
    }

    fn try_write(&mut self, records: &[Record], checkpoint: bool) -> Result<(), WriteError> {
        if self.chain.is_none() {
            self.start()?;
        }
        let chain = self.chain.as_mut().ok_or(WriteError::Random)?;
        if self.files.is_full() && self.files.rotate().map_err(WriteError::File)? {
            let line = chain.rotate().map_err(WriteError::Chain)?;
            self.files.append(&line).map_err(WriteError::File)?;
        }
        let mut lines = String::new();
        for record in records {
            lines.push_str(&chain.append(record).map_err(WriteError::Chain)?);
        }
        let unsigned = self.unsigned + records.len();
        let checkpoint = checkpoint && unsigned > 0;
        if checkpoint {
            let line = chain.checkpoint(signer(&self.key));
            lines.push_str(&line.map_err(WriteError::Chain)?);
        }
        if lines.is_empty() {
            return Ok(());
        }
        self.files.append(&lines).map_err(WriteError::File)?;
        self.unsigned = if checkpoint { 0 } else { unsigned };
        self.settled(checkpoint, records.len());
        Ok(())
    }

    /// Starts a chain that hangs from the last line on disk, and gives its head.
    fn start(&mut self) -> Result<Head, WriteError> {
        let previous = self.files.recover().map_err(WriteError::File)?;
        let mut id = [0; 16];
        rand::fill(&mut id).map_err(|_| WriteError::Random)?;
        let id = ChainId::from_random(id);
        let (chain, lines) = Chain::start(id, &self.replica, previous, signer(&self.key))
            .map_err(WriteError::Chain)?;
        let head = chain.head().ok_or(WriteError::Random)?;
        self.files
            .append(&lines.concat())
            .map_err(WriteError::File)?;
        self.chain = Some(chain);
        self.unsigned = 0;
        self.settled(true, 0);
        Ok(head)
    }

    fn settled(&mut self, checkpoint: bool, records: usize) {
        if checkpoint {
            self.signed = Instant::now();
        }
        metrics::counter!("audit_records_total").increment(records as u64);
        let now = self.chain.as_ref().and_then(Chain::head);
        if let (Some(head), Some(now)) = (&self.head, now) {
            *head.lock().unwrap_or_else(PoisonError::into_inner) = now;
        }
    }
}

fn signer(key: &Ed25519KeyPair) -> impl FnOnce(&[u8]) -> Option<[u8; 64]> + '_ {
    |message| key.sign(message).as_ref().try_into().ok()
}

fn reply(answers: Vec<Answer>, result: &Result<(), WriteError>) {
    for answer in answers {
        let result = result.as_ref().map_err(|_| RecordError::NotDurable);
        answer.give(result.copied());
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

const fn default_file_mebibytes() -> NonZeroU32 {
    count(64)
}

const fn default_files() -> NonZeroU32 {
    count(16)
}

#[cfg(test)]
mod tests;
