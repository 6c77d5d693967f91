//! The admitter's session: the join service, dialled (join, rejoin), or the operator's CLI, dialling
//! (init, recover).

mod client;
mod server;

use evidence::{
    AdmissionPath, AttesterClaim, Binding, Evidence, EvidenceKind, Requirement, Side, TpmChallenge,
};
use owner::OwnerProof;
use std::time::Duration;

use api::{Malformed, atls};

use crate::{
    AcceptedAttester, ActivatedSecret, Channel, FrameError, Refusal, SealingPublicKey,
    SessionError, Start, TlsEnd,
    hello::AttesterHello,
    session::{self, Flow, Given, Session, States, tls_io},
    wire::Wire,
};

/// What an admitter demands of an attester.
#[derive(Clone, Debug)]
pub struct AdmitterTerms {
    /// The evidence that is accepted, each kind once.
    pub accepted: Vec<Requirement>,
}

/// Whose claim the driver must judge, and challenge where its kind needs that.
#[derive(Debug)]
pub struct ChallengeRequest {
    /// The path of the session.
    pub path: AdmissionPath,
    /// What the peer claims to be.
    pub claim: AttesterClaim,
    /// What this session's hello asks for, from the [`AdmitterTerms`] it began with. A driver whose
    /// rules want something else by now must not go on: the peer would be refused for obeying.
    pub requirement: Requirement,
    /// The peer's sealing key, for claims and logs.
    pub sealing_key: SealingPublicKey,
}

/// What the driver must sign for the owner.
#[derive(Debug)]
pub struct OwnerProofRequest {
    /// This side, the signer's.
    pub side: Side,
    /// What is signed.
    pub binding: Binding,
}

/// What the driver must appraise.
#[derive(Debug)]
pub struct AppraisalRequest {
    /// The path of the session.
    pub path: AdmissionPath,
    /// What the evidence must be bound to.
    pub binding: Binding,
    /// What the peer's TPM made of the challenge, as the peer says; exactly where there was one.
    pub activated: Option<ActivatedSecret>,
    /// The evidence, of the kind that was claimed.
    pub evidence: Evidence,
}

/// Where a session stands after a step. Every request is made once.
#[derive(Debug)]
#[must_use]
pub enum AdmitterProgress {
    /// Both verdicts were accepting: [`AdmitterSession::into_channel`].
    Established,
    /// Answer with [`AdmitterSession::supply_appraisal`].
    NeedAppraisal(AppraisalRequest),
    /// Answer with [`AdmitterSession::supply_challenge`].
    NeedChallenge(ChallengeRequest),
    /// Answer with [`AdmitterSession::supply_owner_proof`].
    NeedOwnerProof(OwnerProofRequest),
    /// Waits for bytes, to be read or to be written, or for the driver's answer.
    Pending,
}

/// One session of an admitter; `A` is what its driver's appraisal results in.
pub struct AdmitterSession<A> {
    session: Session<State<A>>,
}

type Admitter = Given<AdmitterTerms>;

/// What is known of the peer once both hellos are exchanged.
struct Hellos {
    path: AdmissionPath,
    kind: EvidenceKind,
    binding: Binding,
    sealing_key: SealingPublicKey,
}

/// One struct for each state; docs/protocol.md draws them.
enum State<A> {
    // As TLS client.
    ClientGreeting(client::Greeting),
    AwaitServerHello(client::AwaitServerHello),
    ClientChallenging(client::Challenging),
    ClientProving(client::Proving),
    AwaitServerEvidence(client::AwaitServerEvidence),
    ClientAppraising(client::Appraising),
    // As TLS server.
    AwaitClientHello(server::AwaitClientHello),
    ServerChallenging(server::Challenging),
    AwaitClientEvidence(server::AwaitClientEvidence),
    ServerAppraising(server::Appraising),
    ServerProving(server::Proving<A>),
    AwaitClientVerdict(server::AwaitClientVerdict<A>),
    // Either.
    Established(AcceptedAttester<A>),
}

type Turn<A> = session::Turn<State<A>>;

impl<A> States for State<A> {
    const ATTESTS: bool = false;
    type Terms = AdmitterTerms;
    type Progress = AdmitterProgress;
    type Peer = AcceptedAttester<A>;

    fn advance(self, wire: &mut Wire, party: &Admitter) -> Turn<A> {
        match self {
            Self::ClientGreeting(state) => state.advance(wire, party),
            Self::AwaitServerHello(state) => state.advance(wire, party),
            Self::ClientProving(state) => state.advance(wire),
            Self::AwaitServerEvidence(state) => state.advance(wire),
            Self::AwaitClientHello(state) => state.advance(wire, party),
            Self::AwaitClientEvidence(state) => state.advance(wire),
            Self::ServerProving(state) => state.advance(wire),
            Self::AwaitClientVerdict(state) => state.advance(wire),
            Self::ClientChallenging(_)
            | Self::ClientAppraising(_)
            | Self::ServerChallenging(_)
            | Self::ServerAppraising(_) => {
                wire.expect_silence()?;
                Ok((self, Flow::Wait))
            }
            Self::Established(_) => Ok((self, Flow::Report(AdmitterProgress::Established))),
        }
    }

    fn into_peer(self) -> Option<AcceptedAttester<A>> {
        match self {
            Self::Established(peer) => Some(peer),
            _ => None,
        }
    }
}

impl<A> AdmitterSession<A> {
    /// A session over a connection that this side dialled, on `path`: init or recover.
    ///
    /// # Errors
    /// [`SessionError::Path`] for another path.
    pub fn connect(
        end: &TlsEnd,
        start: Start,
        terms: AdmitterTerms,
        path: AdmissionPath,
    ) -> Result<Self, SessionError> {
        let state = State::ClientGreeting(client::Greeting { path });
        let session = Session::new(end, start, terms, (Side::Client, &[path]), state)?;
        Ok(Self { session })
    }

    /// A session over a connection that this side accepted, where the peer may choose among
    /// `paths`: join and rejoin.
    ///
    /// # Errors
    /// [`SessionError::Path`] if one of them is another path.
    pub fn accept(
        end: &TlsEnd,
        start: Start,
        terms: AdmitterTerms,
        paths: &[AdmissionPath],
    ) -> Result<Self, SessionError> {
        let state = State::AwaitClientHello(server::AwaitClientHello {
            paths: paths.to_vec(),
        });
        let session = Session::new(end, start, terms, (Side::Server, paths), state)?;
        Ok(Self { session })
    }

    tls_io!();

    /// Moves on as far as the bytes read so far allow; `now` is on the clock of the deadline.
    ///
    /// # Errors
    /// [`SessionError`]: the session is over. Write what [`Self::wants_write`] asks for, close.
    pub fn step(&mut self, now: Duration) -> Result<AdmitterProgress, SessionError> {
        let progress = self.session.step(now)?;
        Ok(progress.unwrap_or(AdmitterProgress::Pending))
    }

    /// Answers [`AdmitterProgress::NeedChallenge`]: a challenge for the peer's attestation key, none for
    /// a kind that needs none, or a refusal of its claim. Then `step`.
    ///
    /// # Errors
    /// [`SessionError::Internal`] if it was not asked, or not for this.
    pub fn supply_challenge(
        &mut self,
        challenge: Result<Option<TpmChallenge>, Refusal>,
    ) -> Result<(), SessionError> {
        let Session { wire, party, state } = &mut self.session;
        *state = Some(match state.take() {
            Some(State::ClientChallenging(state)) => State::ClientProving(state.supply(challenge)?),
            Some(State::ServerChallenging(state)) => state.supply(wire, party, challenge)?,
            other => return self.session.not_asked(other),
        });
        Ok(())
    }

    /// Answers [`AdmitterProgress::NeedAppraisal`] with the appraisal's result; then `step`.
    ///
    /// # Errors
    /// [`SessionError::RefusedPeer`] where this side has proven itself before, the refusal being
    /// queued; [`SessionError::Internal`] if it was not asked.
    pub fn supply_appraisal(&mut self, appraised: Result<A, Refusal>) -> Result<(), SessionError> {
        let Session { wire, state, .. } = &mut self.session;
        *state = Some(match state.take() {
            Some(State::ClientAppraising(state)) => {
                State::Established(state.supply(wire, appraised)?)
            }
            Some(State::ServerAppraising(state)) => State::ServerProving(state.supply(appraised)),
            other => return self.session.not_asked(other),
        });
        Ok(())
    }

    /// Answers [`AdmitterProgress::NeedOwnerProof`]; then `step`. A driver without a proof drops the
    /// session: a verdict without one would be worth nothing.
    ///
    /// # Errors
    /// [`SessionError::RefusedPeer`] after a refusal, which is queued together with the proof;
    /// [`SessionError::Internal`] if it was not asked.
    pub fn supply_owner_proof(&mut self, proof: OwnerProof) -> Result<(), SessionError> {
        let Session { wire, state, .. } = &mut self.session;
        *state = Some(match state.take() {
            Some(State::ClientProving(state)) => {
                State::AwaitServerEvidence(state.supply(wire, proof)?)
            }
            Some(State::ServerProving(state)) => {
                State::AwaitClientVerdict(state.supply(wire, proof)?)
            }
            other => return self.session.not_asked(other),
        });
        Ok(())
    }

    /// The channel of an established session.
    ///
    /// # Errors
    /// [`SessionError::Internal`] if the session is not established.
    pub fn into_channel(self) -> Result<Channel<AcceptedAttester<A>>, SessionError> {
        self.session.into_channel()
    }
}

impl<A> std::fmt::Debug for AdmitterSession<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AdmitterSession(..)")
    }
}

impl Hellos {
    fn accept<A>(self, appraised: A) -> AcceptedAttester<A> {
        AcceptedAttester::new(self.path, self.binding, self.sealing_key, appraised)
    }
}

/// What the driver is asked about the peer, if its kind of evidence is accepted; else its refusal.
fn challenge_request(
    path: AdmissionPath,
    attester: AttesterHello,
    terms: &AdmitterTerms,
) -> Result<ChallengeRequest, Refusal> {
    let kind = attester.claim.kind();
    let accepted = terms.accepted.iter();
    let found = accepted
        .clone()
        .find(|requirement| requirement.kind == kind);
    let requirement = found.cloned().ok_or_else(|| {
        let kinds: Vec<&str> = accepted.map(|wanted| wanted.kind.as_str()).collect();
        Refusal::for_check("evidence kind", kinds.join(" or "), kind)
    })?;
    Ok(ChallengeRequest {
        path,
        claim: attester.claim,
        requirement,
        sealing_key: attester.sealing_key,
    })
}

/// Asks the driver for the owner proof, once.
fn ask_for_proof(asked: &mut bool, side: Side, hellos: &Hellos) -> Flow<AdmitterProgress> {
    if std::mem::replace(asked, true) {
        return Flow::Wait;
    }
    Flow::Report(AdmitterProgress::NeedOwnerProof(OwnerProofRequest {
        side,
        binding: hellos.binding.clone(),
    }))
}

/// The driver's challenge comes exactly with a kind that needs one.
fn fitting(
    kind: EvidenceKind,
    challenge: Result<Option<TpmChallenge>, Refusal>,
) -> Result<Result<Option<TpmChallenge>, Refusal>, SessionError> {
    match &challenge {
        Ok(given) if given.is_some() != kind.needs_challenge() => Err(SessionError::Internal {
            what: "the challenge does not fit the kind of evidence",
        }),
        _ => Ok(challenge),
    }
}

/// The attester's evidence, out of its frame.
fn parse_evidence(
    message: Option<atls::Evidence>,
    hellos: Hellos,
) -> Result<(AppraisalRequest, Hellos), FrameError> {
    let mut message = message.ok_or(Malformed::Missing { field: "evidence" })?;
    let activated = parse_activated(hellos.kind, &message.activated_secret)?;
    let kind = message.kind.take().ok_or(Malformed::Missing {
        field: "evidence.kind",
    })?;
    let evidence = Evidence::try_from(kind)?;
    if evidence.kind() != hellos.kind {
        return Err(FrameError::Contradiction {
            field: "evidence.kind",
            expected: hellos.kind.to_string(),
            got: evidence.kind().to_string(),
        });
    }
    let request = AppraisalRequest {
        path: hellos.path,
        binding: hellos.binding.clone(),
        activated,
        evidence,
    };
    Ok((request, hellos))
}

/// The activated secret comes exactly with a kind that was challenged.
fn parse_activated(
    kind: EvidenceKind,
    secret: &[u8],
) -> Result<Option<ActivatedSecret>, Malformed> {
    const FIELD: &str = "evidence.activated_secret";
    match (kind.needs_challenge(), secret) {
        (false, []) => Ok(None),
        (false, _) => Err(Malformed::Unexpected { field: FIELD }),
        (true, secret) => match ActivatedSecret::from_slice(secret) {
            Some(secret) => Ok(Some(secret)),
            None => Err(Malformed::Length {
                field: FIELD,
                expected: ActivatedSecret::LEN,
                got: secret.len(),
            }),
        },
    }
}
