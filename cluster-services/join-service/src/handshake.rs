//! The front door: limits first, then attested TLS, then a peer that was appraised.

use crate::{config::LimitConfig, endorse::Endorsers, failure::outcome};
use api::Class;
use appraisal::{AppraisalError, Appraised, Appraiser, AttesterIdentity, CredentialSecret};
use attested_tls::{
    AcceptedAttester, Admitter, AdmitterTerms, AppraisalRequest, AttestedStream, ChallengeRequest,
    FailedCheck, HandshakeError, OwnerProofRequest, Refusal, SessionError, SetupError, TlsEnd,
};
use audit::{Action, Check, RecordEvent, Text};
use aws_lc_rs::rand;
use evidence::{AdmissionPath, TpmChallenge};
use owner::{AdmissionKey, OwnerProof};
use service_runtime::{
    Chain,
    audit_log::AuditLog,
    config::count as number,
    limit::{Gate, RateLimit, network},
    serve::Accept,
    watch::Watched,
};
use snp::Origin;
use std::{net::IpAddr, num::NonZeroU32, ops::Deref, sync::Arc, thread, time::Instant};
use tokio::net::TcpStream;

/// A node that was appraised and accepted, as a request's handler gets it.
#[derive(Clone, Debug)]
pub struct Node {
    attester: Arc<AcceptedAttester<Appraised>>,
    rules: Arc<Appraiser>,
    address: IpAddr,
}

impl Node {
    /// Where it dials from.
    #[must_use]
    pub const fn address(&self) -> IpAddr {
        self.address
    }

    /// Whether these rules have been in force since before the node's appraisal. A channel would else
    /// outlive a policy or an image that its owner withdrew.
    #[must_use]
    pub fn is_appraised_by(&self, rules: &Arc<Appraiser>) -> bool {
        Arc::ptr_eq(&self.rules, rules)
    }
}

impl Deref for Node {
    type Target = AcceptedAttester<Appraised>;

    fn deref(&self) -> &Self::Target {
        &self.attester
    }
}

/// The paths on which a node dials a join service.
const PATHS: [AdmissionPath; 2] = [AdmissionPath::Join, AdmissionPath::Rejoin];

/// How many refusals of one machine, or of all strangers together, are recorded a second, and at once
/// after a pause. The audit log has an end, and what strangers do, or one machine of ours that is not
/// ours any more, must not push out what nodes did.
const REFUSALS_PER_SECOND: NonZeroU32 = number(1);
const REFUSALS_BURST: NonZeroU32 = number(60);

/// Accepts connections of nodes.
#[derive(Clone, Debug)]
pub struct Door {
    admitter: Arc<Admitter<Desk>>,
    rules: Watched<Appraiser>,
    rate: Arc<RateLimit<IpAddr>>,
    handshakes: Gate<IpAddr>,
}

impl Door {
    /// A door with an ephemeral TLS key of its own.
    ///
    /// # Errors
    /// When the cryptographic library fails.
    pub fn new(desk: Desk, limits: &LimitConfig) -> Result<Self, SetupError> {
        let parallel = match limits.appraisals {
            0 => thread::available_parallelism().map_or(1, usize::from),
            configured => configured,
        };
        let limit = limits.handshake_seconds.duration();
        let end = TlsEnd::generate()?;
        Ok(Self {
            rules: desk.rules.clone(),
            admitter: Arc::new(Admitter::new(end, Arc::new(desk), parallel, limit)),
            rate: Arc::new(RateLimit::new(
                limits.handshakes_per_second,
                limits.handshake_burst,
            )),
            handshakes: Gate::new(
                limits.handshakes.get() as usize,
                limits.connections_per_address.get() as usize,
            ),
        })
    }
}

impl Accept<TcpStream, IpAddr> for Door {
    type Stream = AttestedStream<TcpStream, Appraised>;
    type Peer = Node;

    async fn accept(&self, io: TcpStream, source: IpAddr) -> Option<(Self::Stream, Node)> {
        let network = network(source);
        // Both before the first cryptographic operation.
        if !self.rate.admit(network, Instant::now()) {
            count("limited");
            return None;
        }
        let Some(_pass) = self.handshakes.enter(network) else {
            count("limited");
            return None;
        };
        let started = Instant::now();
        // Before the appraisal: rules that change meanwhile count as changed since.
        let rules = self.rules.current();
        match self.admitter.accept(io, &PATHS).await {
            Ok(stream) => {
                count("accepted");
                metrics::histogram!("handshake_seconds").record(started.elapsed().as_secs_f64());
                let node = Node {
                    attester: Arc::clone(stream.peer()),
                    rules,
                    address: source,
                };
                tracing::info!(
                    peer = %source,
                    attester = %node.appraised().identity(),
                    image = node.appraised().image(),
                    path = %node.path(),
                    "node accepted"
                );
                warn_about(node.appraised(), source);
                Some((stream, node))
            }
            Err(error) => {
                report(&error, source);
                None
            }
        }
    }
}

/// What an operator should see to although the node was accepted.
fn warn_about(appraised: &Appraised, source: IpAddr) {
    let Some(report) = &appraised.claims().sev_snp else {
        return;
    };
    if report.origin == Origin::Development {
        tracing::warn!(peer = %source, product = %report.product, "accepted by a development root: no processor vouches for this node");
    }
    if !report.below_announced_tcb.is_empty() {
        metrics::counter!("reports_below_announced_tcb_total").increment(1);
    }
    let chip = report.chip_id.map(|chip| hex::encode(chip.0));
    for appraisal::FailedCheck {
        check,
        expected,
        got,
    } in &report.below_announced_tcb
    {
        tracing::warn!(peer = %source, chip, check, expected, got, "the announced minimum TCB would refuse this node");
    }
}

fn report(error: &HandshakeError, source: IpAddr) {
    match error {
        HandshakeError::Session(SessionError::RefusedPeer(refusal)) => {
            count(refusal.class.as_str());
            // The desk said in the log and in the audit log which checks failed.
            tracing::warn!(peer = %source, class = %refusal.class, "node refused");
        }
        HandshakeError::Session(session) => {
            count(session.class().as_str());
            tracing::info!(peer = %source, error = %Chain(error), "handshake failed");
        }
        _ => {
            count("disconnected");
            tracing::info!(peer = %source, error = %Chain(error), "handshake failed");
        }
    }
}

/// Appraises by the documents in force, and signs for the owner.
#[derive(Debug)]
pub struct Desk {
    rules: Watched<Appraiser>,
    endorsers: Endorsers,
    key: Arc<AdmissionKey>,
    audit: AuditLog,
    /// By proven attester; `None` is everybody who proved nothing.
    refusals: RateLimit<Option<AttesterIdentity>>,
}

/// Kept between challenge and evidence: the rules of the challenge are those of the appraisal.
#[derive(Debug)]
pub struct Challenged {
    rules: Arc<Appraiser>,
    claim: appraisal::Challenged,
}

impl Desk {
    /// A desk that acts for the owner of `key`.
    #[must_use]
    pub fn new(
        rules: Watched<Appraiser>,
        endorsers: Endorsers,
        key: Arc<AdmissionKey>,
        audit: AuditLog,
    ) -> Self {
        Self {
            rules,
            endorsers,
            key,
            audit,
            refusals: RateLimit::new(REFUSALS_PER_SECOND, REFUSALS_BURST),
        }
    }

    /// Logs and records a refusal in full, and gives the peer what it may know.
    fn refuse(
        &self,
        path: AdmissionPath,
        attester: Option<&AttesterIdentity>,
        error: &AppraisalError,
    ) -> Refusal {
        let refusal = Refusal::from(error);
        let claimed = attester.map(ToString::to_string).unwrap_or_default();
        tracing::warn!(%path, attester = claimed, error = %Chain(error), "appraisal refused");
        let mut event = RecordEvent::new(Action::Refusal, outcome(refusal.class), "attestation");
        event.path = Some(Text::from_display(path));
        let proven = attester.filter(|_| error.is_by_proven_attester());
        event.attester = proven.map(Text::from_display);
        for FailedCheck {
            check,
            expected,
            got,
        } in &refusal.checks
        {
            tracing::warn!(attester = claimed, check, expected, got, "check failed");
            event.checks.push(Check::new(check, expected, got));
        }
        for line in error.explanation() {
            tracing::warn!(attester = claimed, line, "event log, unverified");
        }
        if self.refusals.admit(proven.copied(), Instant::now()) {
            if let Err(error) = self.audit.note(event) {
                tracing::error!(error = %Chain(&error), "a refusal is not in the audit log");
            }
        } else {
            metrics::counter!("refusals_not_recorded_total").increment(1);
        }
        refusal
    }
}

impl attested_tls::Appraiser for Desk {
    type Appraised = Appraised;
    type Challenged = Challenged;

    fn terms(&self) -> AdmitterTerms {
        AdmitterTerms {
            accepted: self.rules.current().requirements(),
        }
    }

    fn challenge(
        &self,
        request: ChallengeRequest,
    ) -> Result<(Option<TpmChallenge>, Challenged), Refusal> {
        let rules = self.rules.current();
        if !rules.requirements().contains(&request.requirement) {
            // Another policy came into force since the session began. The node is told to come again:
            // a refusal for what we asked for ourselves would end its boot.
            return Err(Refusal::of(Class::Unavailable));
        }
        let secret = CredentialSecret::try_fill(|secret| rand::fill(secret))
            .map_err(|_| Refusal::of(Class::Internal))?;
        let (claim, challenge) = rules
            .challenge(&request.claim, secret)
            .map_err(|error| self.refuse(request.path, None, &error))?;
        Ok((challenge, Challenged { rules, claim }))
    }

    fn appraise(
        &self,
        challenged: Challenged,
        request: AppraisalRequest,
    ) -> Result<Appraised, Refusal> {
        let Challenged { rules, claim } = challenged;
        let attester = claim.claimed_identity();
        let now = crate::tickets::now().0;
        let found = self.endorsers.find(&rules, &request.evidence, now);
        let answer = request.answer(found.endorsements(), now);
        rules
            .appraise(claim, &answer)
            .map_err(|error| self.refuse(request.path, attester.as_ref(), &error))
    }

    fn prove(&self, request: &OwnerProofRequest) -> OwnerProof {
        self.key.prove(request.side, &request.binding)
    }
}

fn count(outcome: &'static str) {
    metrics::counter!("handshakes_total", "outcome" => outcome).increment(1);
}
