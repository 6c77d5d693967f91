//! The one thread that has the device.
//!
//! Statements are made one at a time. The queue is short: whoever waits longer than a request may take
//! is not answered, and its place is not worth a TPM command. A device that fails is opened again, with
//! another attestation key unless one was handed over; until then every statement is refused, for there is
//! nothing beside it.

use evidence::{AttesterClaim, EvidenceKind, StatementBinding, TpmChallenge};
use platform::{
    attester::{Attested, Attester, Devices, EvidenceError, OpenError},
    tpm::TpmError,
};
use service_runtime::{Chain, Readiness};
use std::{
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    thread,
    time::{Duration, Instant},
};
use tokio::sync::{oneshot, watch};

/// PCRs that nobody can reset within a boot; more than any policy judges.
const JUDGED: [u32; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
/// All there are: of a vTPM that nothing vouches for they are shown, and none decides.
const SHOWN: [u32; 24] = [
    0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23,
];

/// How long to wait before a device that failed is opened again.
const REOPEN: Duration = Duration::from_secs(2);

/// The condition of [`Readiness`].
const READY: &str = "attester";

/// Why there is no statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WorkerError {
    /// Malformed: no challenge, or made for other keys than this process has.
    #[error("the challenge is malformed or for other keys: ask for the identity again")]
    Challenge,
    /// Unavailable: the device fails.
    #[error("the attestation device fails")]
    Device,
    /// Unavailable: too many are waiting.
    #[error("too many statements are waiting")]
    Queue,
    /// Malformed: this kind takes none.
    #[error("this kind of evidence takes no challenge")]
    Unchallenged,
}

/// A statement to make.
struct Job {
    binding: StatementBinding,
    challenge: Option<TpmChallenge>,
    /// From then on nobody waits for it.
    deadline: Instant,
    reply: oneshot::Sender<Result<Made, WorkerError>>,
}

/// Evidence, and the claim of the attester that made it.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) claim: AttesterClaim,
    pub(crate) attested: Attested,
}

/// Asks the thread for statements.
#[derive(Debug, Clone)]
pub(crate) struct Worker {
    jobs: SyncSender<Job>,
    claim: watch::Receiver<Option<AttesterClaim>>,
}

/// Told once the thread has given up the device.
pub(crate) type Ended = oneshot::Receiver<()>;

impl Worker {
    /// Starts the thread, which opens the devices of `kind` and ends with the last [`Worker`]. With
    /// `unique` a TPM makes the attestation key that was made with it before, else a new one.
    pub(crate) fn start(
        (kind, unique): (EvidenceKind, Option<[u8; 32]>),
        devices: Devices,
        queue: usize,
        readiness: Readiness,
    ) -> (Self, Ended) {
        let (jobs, waiting) = sync_channel(queue);
        let (claims, claim) = watch::channel(None);
        let (end, ended) = oneshot::channel();
        readiness.set(READY, false);
        let bench = Bench {
            waiting,
            claims,
            readiness,
        };
        thread::spawn(move || {
            let open = || match &unique {
                Some(unique) => Attester::resume(kind, &devices, unique),
                None => Attester::open(kind, &devices),
            };
            while bench.open_and_serve(kind, open).is_some() {}
            drop(end);
        });
        (Self { jobs, claim }, ended)
    }

    /// What the attester claims to be, as long as there is one.
    pub(crate) fn claim(&self) -> Result<AttesterClaim, WorkerError> {
        self.claim.borrow().clone().ok_or(WorkerError::Device)
    }

    /// Makes a statement.
    pub(crate) async fn state(
        &self,
        binding: StatementBinding,
        challenge: Option<TpmChallenge>,
        deadline: Instant,
    ) -> Result<Made, WorkerError> {
        let (reply, answer) = oneshot::channel();
        let job = Job {
            binding,
            challenge,
            deadline,
            reply,
        };
        self.jobs.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => WorkerError::Queue,
            TrySendError::Disconnected(_) => WorkerError::Device,
        })?;
        // Dropped without an answer when its time was over.
        answer.await.unwrap_or(Err(WorkerError::Queue))
    }
}

/// The thread's side.
struct Bench {
    waiting: Receiver<Job>,
    claims: watch::Sender<Option<AttesterClaim>>,
    readiness: Readiness,
}

impl Bench {
    /// Serves with one opened device until it fails; `None` once nobody can ask any more.
    fn open_and_serve(
        &self,
        kind: EvidenceKind,
        open: impl FnOnce() -> Result<Attester, OpenError>,
    ) -> Option<()> {
        match open() {
            Ok(attester) => {
                tracing::info!(%kind, "attestation device is open");
                self.announce(Some(attester.claim()));
                let served = self.serve(attester);
                self.announce(None);
                served?;
            }
            Err(error) => log_open(kind, &error),
        }
        self.refuse_for(REOPEN)
    }

    fn announce(&self, claim: Option<AttesterClaim>) {
        self.readiness.set(READY, claim.is_some());
        self.claims.send_replace(claim);
    }

    /// `Some` when the device failed.
    fn serve(&self, mut attester: Attester) -> Option<()> {
        let claim = attester.claim();
        loop {
            let job = self.waiting.recv().ok()?;
            if job.reply.is_closed() || Instant::now() >= job.deadline {
                metrics::counter!("statements_expired_total").increment(1);
                continue;
            }
            match make(&mut attester, &job) {
                Ok(attested) => {
                    let claim = claim.clone();
                    reply(job, Ok(Made { claim, attested }));
                }
                Err(error) => {
                    tracing::warn!(error = %Chain(&error), "no statement");
                    let (refusal, reusable) = blame(&error);
                    if !reusable {
                        // Before the answer: whoever hears of it finds it in the probes, too.
                        self.announce(None);
                    }
                    reply(job, Err(refusal));
                    if !reusable {
                        return Some(());
                    }
                }
            }
        }
    }

    /// Answers everybody that there is no device, for a while.
    fn refuse_for(&self, pause: Duration) -> Option<()> {
        let until = Instant::now() + pause;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.waiting.recv_timeout(left) {
                Ok(job) => reply(job, Err(WorkerError::Device)),
                Err(RecvTimeoutError::Timeout) => return Some(()),
                Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
    }
}

impl Drop for Bench {
    /// However the thread ends, nobody is told any more that there is a device.
    fn drop(&mut self) {
        self.announce(None);
    }
}

fn make(attester: &mut Attester, job: &Job) -> Result<Attested, EvidenceError> {
    let started = Instant::now();
    let pcrs = match attester.kind() {
        EvidenceKind::SevSnpVtpm => &SHOWN[..],
        _ => &JUDGED,
    };
    let made = attester.evidence(&job.binding, pcrs, job.challenge.as_ref());
    metrics::histogram!("statement_device_seconds").record(started.elapsed());
    made
}

/// What the caller learns, and whether the device is as good as before.
const fn blame(error: &EvidenceError) -> (WorkerError, bool) {
    match error {
        EvidenceError::Activate(TpmError::Refused { .. } | TpmError::Challenge(_)) => {
            (WorkerError::Challenge, true)
        }
        EvidenceError::Unchallenged(_) => (WorkerError::Unchallenged, true),
        _ => (WorkerError::Device, false),
    }
}

/// Whoever asked may have left.
fn reply(job: Job, answer: Result<Made, WorkerError>) {
    drop(job.reply.send(answer));
}

fn log_open(kind: EvidenceKind, error: &OpenError) {
    tracing::error!(%kind, error = %Chain(error), "no attestation device, no statements");
}
