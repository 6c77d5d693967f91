//! The asynchronous driver of an admitter's sessions.

use appraisal::{Answer, Endorsements};
use evidence::{AdmissionPath, TpmChallenge};
use owner::OwnerProof;
use std::{
    future::poll_fn,
    io,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    sync::Semaphore,
    time::{Instant, timeout},
};

use crate::{
    AdmitterProgress, AdmitterSession, AdmitterTerms, AppraisalRequest, AttestedStream,
    ChallengeRequest, OwnerProofRequest, Refusal, SessionError, Start, TlsEnd, bridge::Bridge,
};

/// How long a refused peer is given to take the last bytes.
const FAREWELL: Duration = Duration::from_secs(1);

/// Decides about attesters. Called from the blocking pool; it may compute, it must not wait for the
/// network for long.
pub trait Appraiser: Send + Sync + 'static {
    /// The result of an accepting appraisal.
    type Appraised: Send + Sync + 'static;
    /// What has to be kept between the challenge and the appraisal.
    type Challenged: Send + 'static;

    /// What the current policy demands of attesters.
    fn terms(&self) -> AdmitterTerms;

    /// Judges the claim, and challenges it where its kind needs that.
    ///
    /// # Errors
    /// The refusal that the peer gets, with the owner proof, before it makes evidence.
    fn challenge(
        &self,
        request: ChallengeRequest,
    ) -> Result<(Option<TpmChallenge>, Self::Challenged), Refusal>;

    /// Appraises the evidence of a challenged attester.
    ///
    /// # Errors
    /// The refusal that the peer gets with the owner proof.
    fn appraise(
        &self,
        challenged: Self::Challenged,
        request: AppraisalRequest,
    ) -> Result<Self::Appraised, Refusal>;

    /// Signs for the owner. One Ed25519 signature; called on the runtime itself.
    fn prove(&self, request: &OwnerProofRequest) -> OwnerProof;
}

impl AppraisalRequest {
    /// What the appraisal judges, with what this side has to it: endorsements, and seconds since 1970.
    #[must_use]
    pub fn answer<'a>(&'a self, endorsements: Endorsements<'a>, now: u64) -> Answer<'a> {
        let activated = self.activated.as_ref();
        Answer {
            activated: activated.map(|secret| &secret.expose_secret()[..]),
            evidence: &self.evidence,
            binding: &self.binding,
            endorsements,
            now,
        }
    }
}

/// Why there is no stream.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The connection failed.
    #[error("connection to the peer")]
    Io(#[source] io::Error),
    /// The session ended.
    #[error("attested TLS session")]
    Session(#[source] SessionError),
}

/// Runs admitter sessions over streams. Cheap to share; one for each service.
#[derive(Debug)]
pub struct Admitter<P> {
    end: TlsEnd,
    appraiser: Arc<P>,
    appraisals: Arc<Semaphore>,
    limit: Duration,
}

impl<P: Appraiser> Admitter<P> {
    /// A driver whose sessions take at most `limit` each, and of whose challenges and appraisals at
    /// most `parallel` run at a time; the others wait their turn within their own limit.
    #[must_use]
    pub fn new(end: TlsEnd, appraiser: Arc<P>, parallel: usize, limit: Duration) -> Self {
        Self {
            end,
            appraiser,
            appraisals: Arc::new(Semaphore::new(parallel.clamp(1, Semaphore::MAX_PERMITS))),
            limit,
        }
    }

    /// Admits an attester that dialled: join and rejoin, as far as `paths` has them.
    ///
    /// # Errors
    /// [`HandshakeError`]; the stream is closed then.
    pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        paths: &[AdmissionPath],
    ) -> Result<AttestedStream<S, P::Appraised>, HandshakeError> {
        let terms = self.appraiser.terms();
        let session = AdmitterSession::accept(&self.end, self.start()?, terms, paths);
        self.run(session.map_err(HandshakeError::Session)?, stream)
            .await
    }

    /// Admits an attester that this side dialled, on `path`: init or recover.
    ///
    /// # Errors
    /// [`HandshakeError`]; the stream is closed then.
    pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        path: AdmissionPath,
    ) -> Result<AttestedStream<S, P::Appraised>, HandshakeError> {
        let terms = self.appraiser.terms();
        let session = AdmitterSession::connect(&self.end, self.start()?, terms, path);
        self.run(session.map_err(HandshakeError::Session)?, stream)
            .await
    }

    fn start(&self) -> Result<Start, HandshakeError> {
        let mut nonce = [0; 32];
        aws_lc_rs::rand::fill(&mut nonce).map_err(|_| internal("random generator failed"))?;
        Ok(Start {
            nonce,
            deadline: self.limit,
        })
    }

    async fn run<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        mut session: AdmitterSession<P::Appraised>,
        mut stream: S,
    ) -> Result<AttestedStream<S, P::Appraised>, HandshakeError> {
        let outcome = timeout(self.limit, self.drive(&mut session, &mut stream)).await;
        let outcome = outcome.unwrap_or(Err(HandshakeError::Session(SessionError::Deadline)));
        if let Err(error) = outcome {
            // A courtesy: the peer learns the refusal or the alert if it listens.
            if !matches!(error, HandshakeError::Io(_)) {
                drop(timeout(FAREWELL, farewell(&mut session, &mut stream)).await);
            }
            return Err(error);
        }
        let channel = session.into_channel().map_err(HandshakeError::Session)?;
        Ok(AttestedStream::new(stream, channel))
    }

    async fn drive<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        session: &mut AdmitterSession<P::Appraised>,
        stream: &mut S,
    ) -> Result<(), HandshakeError> {
        let started = Instant::now();
        let mut kept = None;
        loop {
            let progress = session
                .step(started.elapsed())
                .map_err(HandshakeError::Session)?;
            let answered = match progress {
                AdmitterProgress::Established => return Ok(()),
                AdmitterProgress::Pending => {
                    poll_fn(|cx| poll_exchange(session, stream, cx))
                        .await
                        .map_err(HandshakeError::Io)?;
                    Ok(())
                }
                AdmitterProgress::NeedChallenge(request) => {
                    let answer = self.decide(move |by| by.challenge(request)).await?;
                    let challenge = answer.map(|(challenge, challenged)| {
                        kept = Some(challenged);
                        challenge
                    });
                    session.supply_challenge(challenge)
                }
                AdmitterProgress::NeedAppraisal(request) => {
                    let challenged = kept
                        .take()
                        .ok_or_else(|| internal("appraisal without a challenge"))?;
                    let answer = self
                        .decide(move |by| by.appraise(challenged, request))
                        .await?;
                    session.supply_appraisal(answer)
                }
                AdmitterProgress::NeedOwnerProof(request) => {
                    session.supply_owner_proof(self.appraiser.prove(&request))
                }
            };
            answered.map_err(HandshakeError::Session)?;
        }
    }

    /// Runs one decision on the blocking pool. The permit goes with it: a decision whose session
    /// gave up still counts until it is over.
    async fn decide<T: Send + 'static>(
        &self,
        decision: impl FnOnce(&P) -> T + Send + 'static,
    ) -> Result<T, HandshakeError> {
        let permit = self.appraisals.clone().acquire_owned().await;
        let permit = permit.map_err(|_| internal("appraisal pool is closed"))?;
        let appraiser = self.appraiser.clone();
        tokio::task::spawn_blocking(move || {
            let _permit = permit;
            decision(&appraiser)
        })
        .await
        .map_err(|_| internal("appraisal panicked"))
    }
}

fn internal(what: &'static str) -> HandshakeError {
    HandshakeError::Session(SessionError::Internal { what })
}

/// Writes what is queued, then reads once; ready when something was read or nothing can be.
fn poll_exchange<A, S: AsyncRead + AsyncWrite + Unpin>(
    session: &mut AdmitterSession<A>,
    stream: &mut S,
    cx: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    // A peer that does not read must not keep us from reading, nor the other way round.
    let written = poll_write_out(session, stream, cx)?;
    if session.wants_read() {
        Bridge::new(stream, cx).poll(|stream| session.read_tls(stream).map(drop))
    } else {
        written.map(Ok)
    }
}

fn poll_write_out<A, S: AsyncRead + AsyncWrite + Unpin>(
    session: &mut AdmitterSession<A>,
    stream: &mut S,
    cx: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    while session.wants_write() {
        match ready!(Bridge::new(stream, cx).poll(|stream| session.write_tls(stream)))? {
            0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            _ => continue,
        }
    }
    std::pin::Pin::new(stream).poll_flush(cx)
}

async fn farewell<A, S: AsyncRead + AsyncWrite + Unpin>(
    session: &mut AdmitterSession<A>,
    stream: &mut S,
) -> io::Result<()> {
    poll_fn(|cx| poll_write_out(session, stream, cx)).await?;
    stream.shutdown().await
}
