//! Two honest parties: a node with a toy TPM, and an admitter that appraises it.
//!
//! The toy TPM signs with a symmetric key that the admitter knows. It stands for the one property
//! that matters here: evidence says which binding and which challenge it was made for.

use aws_lc_rs::hmac;
use evidence::{
    AdmissionPath, AttesterClaim, Binding, Evidence, EvidenceKind, Requirement, SnpEvidence,
    TpmChallenge, TpmEvidence, TpmIdentity,
};
use owner::{OwnerKey, Seed};
use std::{collections::BTreeMap, time::Duration};

use crate::{
    ActivatedSecret, AdmitterProgress, AdmitterSession, AdmitterTerms, AppraisalRequest,
    Attestation, AttesterProgress, AttesterSession, AttesterTerms, ChallengeRequest,
    EvidenceRequest, Refusal, SealingPublicKey, SessionError, Start, TlsEnd,
};

pub(super) const DEADLINE: Duration = Duration::from_secs(10);
pub(super) const SEALING_KEY: SealingPublicKey = SealingPublicKey::from_bytes([0x5e; 32]);
pub(super) const EK: &[u8] = b"ek certificate";

pub(super) fn owner(byte: u8) -> OwnerKey {
    OwnerKey::from_seed(&Seed::from_slice(&[byte; 32]).unwrap()).unwrap()
}

pub(super) fn start() -> Start {
    let mut nonce = [0; 32];
    aws_lc_rs::rand::fill(&mut nonce).unwrap();
    Start {
        nonce,
        deadline: DEADLINE,
    }
}

pub(super) fn identity() -> TpmIdentity {
    TpmIdentity {
        ek_certificate: EK.to_vec(),
        ek_public: b"ek public".to_vec(),
        ak_public: b"ak public".to_vec(),
    }
}

pub(super) fn attester_terms() -> AttesterTerms {
    AttesterTerms {
        owner: owner(1).public_key().fingerprint(),
        claim: AttesterClaim::Tpm(identity()),
        sealing_key: SEALING_KEY,
    }
}

/// The terms of a node with a report in a TPM's place.
pub(super) fn snp_terms() -> AttesterTerms {
    AttesterTerms {
        claim: AttesterClaim::SevSnp,
        ..attester_terms()
    }
}

pub(super) const PCRS: [u32; 4] = [0, 4, 11, 15];

pub(super) fn admitter_terms() -> AdmitterTerms {
    AdmitterTerms {
        accepted: vec![
            Requirement {
                kind: EvidenceKind::Tpm,
                pcrs: PCRS.to_vec(),
            },
            Requirement {
                kind: EvidenceKind::SevSnp,
                pcrs: Vec::new(),
            },
        ],
    }
}

fn tpm_key() -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, b"inside the TPM")
}

/// "Activates" a challenge: the toy TPM's secret is a MAC of the credential.
pub(super) fn activate(challenge: &TpmChallenge) -> ActivatedSecret {
    let tag = hmac::sign(&tpm_key(), &challenge.credential_blob);
    ActivatedSecret::from_slice(tag.as_ref()).unwrap()
}

pub(super) fn quote(binding: &Binding, pcrs: &[u32]) -> Evidence {
    let attestation = binding.qualifying_data().to_vec();
    Evidence::Tpm(TpmEvidence {
        signature: hmac::sign(&tpm_key(), &attestation).as_ref().to_vec(),
        attestation,
        pcrs: pcrs
            .iter()
            .map(|&pcr| (pcr, [0; 32]))
            .collect::<BTreeMap<_, _>>(),
        event_log: Vec::new(),
    })
}

/// A toy report: the binding and a MAC of it.
pub(super) fn report(binding: &Binding) -> Evidence {
    let mut report = binding.as_bytes().to_vec();
    report.extend(hmac::sign(&tpm_key(), binding.as_bytes()).as_ref());
    Evidence::SevSnp(SnpEvidence {
        report,
        certificates: Vec::new(),
    })
}

/// What an honest driver answers.
pub(super) fn attestation(request: &EvidenceRequest) -> Attestation {
    match &request.challenge {
        Some(challenge) => Attestation {
            activated: Some(activate(challenge)),
            evidence: quote(&request.binding, &request.pcrs),
        },
        None => Attestation {
            activated: None,
            evidence: report(&request.binding),
        },
    }
}

pub(super) fn challenge() -> TpmChallenge {
    let mut credential_blob = vec![0; 16];
    aws_lc_rs::rand::fill(&mut credential_blob).unwrap();
    TpmChallenge {
        credential_blob,
        encrypted_secret: b"to the ek".to_vec(),
    }
}

/// Appraises as strictly as a real appraisal; the result is the EK certificate as text.
pub(super) fn appraise(
    challenge: Option<&TpmChallenge>,
    request: &AppraisalRequest,
) -> Result<String, Refusal> {
    let activated = match (&request.activated, challenge) {
        (Some(activated), Some(challenge)) => activated.ct_eq(&activate(challenge)),
        (None, None) => true,
        _ => false,
    };
    if !activated {
        return Err(Refusal::for_check(
            "activated secret",
            "the challenge's",
            "another",
        ));
    }
    let expected = match challenge {
        Some(_) => quote(&request.binding, &PCRS),
        None => report(&request.binding),
    };
    if request.evidence != expected {
        return Err(Refusal::for_check("binding", "this channel's", "another"));
    }
    Ok(String::from_utf8_lossy(EK).into_owned())
}

/// A session with its driver, as seen from the cable.
pub(super) trait Party {
    /// Takes the bytes that arrived, gives those to be sent.
    fn turn(&mut self, inbound: &mut Vec<u8>) -> Vec<u8>;
    /// The end of the session, once it is over.
    fn outcome(&self) -> Option<&Result<(), SessionError>>;
}

macro_rules! party {
    ($name:ty) => {
        impl Party for $name {
            fn turn(&mut self, inbound: &mut Vec<u8>) -> Vec<u8> {
                self.drive();
                while !inbound.is_empty() && self.outcome.is_none() && self.session.wants_read() {
                    let mut unread = inbound.as_slice();
                    let got = self.session.read_tls(&mut unread).unwrap();
                    inbound.drain(..got);
                    self.drive();
                }
                let mut outbound = Vec::new();
                while self.session.wants_write() {
                    self.session.write_tls(&mut outbound).unwrap();
                }
                outbound
            }

            fn outcome(&self) -> Option<&Result<(), SessionError>> {
                self.outcome.as_ref()
            }
        }

        impl $name {
            fn drive(&mut self) {
                while self.outcome.is_none() {
                    match self.advance() {
                        Ok(true) => self.outcome = Some(Ok(())),
                        Ok(false) => return,
                        Err(error) => self.outcome = Some(Err(error)),
                    }
                }
            }

            /// The error the session ended with.
            pub(super) fn error(&self) -> &SessionError {
                self.outcome.as_ref().unwrap().as_ref().unwrap_err()
            }

            /// The error the session ended with, unless it is established.
            pub(super) fn into_error(self) -> Option<SessionError> {
                self.outcome.expect("the session is over").err()
            }

            /// Tells the session that the cable is cut.
            pub(super) fn cut(&mut self) {
                if self.outcome.is_none() {
                    self.session.read_tls(&mut [].as_slice()).unwrap();
                    self.drive();
                }
            }
        }
    };
}

/// An attester and its driver.
pub(super) struct Node {
    pub(super) session: AttesterSession,
    pub(super) now: Duration,
    /// What to answer instead of evidence.
    pub(super) unable: Option<api::Class>,
    pub(super) requests: Vec<EvidenceRequest>,
    outcome: Option<Result<(), SessionError>>,
}

party!(Node);

impl Node {
    /// A node that dials or listens, as the path wants it.
    pub(super) fn new(path: AdmissionPath) -> Self {
        Self::with(path, attester_terms())
    }

    /// A node with these terms.
    pub(super) fn with(path: AdmissionPath, terms: AttesterTerms) -> Self {
        let end = TlsEnd::generate().unwrap();
        let session = match path {
            AdmissionPath::Join | AdmissionPath::Rejoin => {
                AttesterSession::connect(&end, start(), terms, path)
            }
            AdmissionPath::Init | AdmissionPath::Recover => {
                AttesterSession::accept(&end, start(), terms, &[path])
            }
        };
        Self {
            session: session.unwrap(),
            now: Duration::ZERO,
            unable: None,
            requests: Vec::new(),
            outcome: None,
        }
    }

    fn advance(&mut self) -> Result<bool, SessionError> {
        match self.session.step(self.now)? {
            AttesterProgress::Established => return Ok(true),
            AttesterProgress::Pending => return Ok(false),
            AttesterProgress::NeedEvidence(request) => {
                let answer = match self.unable {
                    Some(class) => Err(class),
                    None => Ok(attestation(&request)),
                };
                self.requests.push(request);
                self.session.supply_evidence(answer)?;
            }
        }
        self.advance()
    }
}

/// How an [`Office`] misbehaves.
#[derive(Default)]
pub(super) struct Flaws {
    pub(super) refuse_identity: Option<Refusal>,
    /// What to supply in place of the challenge that the kind needs.
    pub(super) challenge: Option<Option<TpmChallenge>>,
    pub(super) refuse_evidence: Option<Refusal>,
    pub(super) foreign_owner: bool,
    pub(super) wrong_side: bool,
}

/// An admitter and its driver.
pub(super) struct Office {
    pub(super) session: AdmitterSession<String>,
    pub(super) flaws: Flaws,
    pub(super) bindings: Vec<Binding>,
    challenge: Option<TpmChallenge>,
    outcome: Option<Result<(), SessionError>>,
}

party!(Office);

impl Office {
    /// An admitter that dials or listens, as the path wants it.
    pub(super) fn new(path: AdmissionPath) -> Self {
        Self::with(path, admitter_terms())
    }

    /// An admitter with these terms.
    pub(super) fn with(path: AdmissionPath, terms: AdmitterTerms) -> Self {
        let end = TlsEnd::generate().unwrap();
        let session = match path {
            AdmissionPath::Init | AdmissionPath::Recover => {
                AdmitterSession::connect(&end, start(), terms, path)
            }
            AdmissionPath::Join | AdmissionPath::Rejoin => {
                AdmitterSession::accept(&end, start(), terms, &[path])
            }
        };
        Self {
            session: session.unwrap(),
            flaws: Flaws::default(),
            bindings: Vec::new(),
            challenge: None,
            outcome: None,
        }
    }

    fn advance(&mut self) -> Result<bool, SessionError> {
        match self.session.step(Duration::ZERO)? {
            AdmitterProgress::Established => return Ok(true),
            AdmitterProgress::Pending => return Ok(false),
            AdmitterProgress::NeedChallenge(request) => {
                let answer = self.challenge(&request);
                self.session.supply_challenge(answer)?;
            }
            AdmitterProgress::NeedAppraisal(request) => {
                let refusal = self.flaws.refuse_evidence.clone();
                let appraised = appraise(self.challenge.as_ref(), &request);
                self.session
                    .supply_appraisal(refusal.map_or(appraised, Err))?;
            }
            AdmitterProgress::NeedOwnerProof(request) => {
                let key = owner(if self.flaws.foreign_owner { 9 } else { 1 });
                let side = if self.flaws.wrong_side {
                    request.side.peer()
                } else {
                    request.side
                };
                let proof = key.prove(side, &request.binding);
                self.bindings.push(request.binding);
                self.session.supply_owner_proof(proof)?;
            }
        }
        self.advance()
    }

    fn challenge(&mut self, request: &ChallengeRequest) -> Result<Option<TpmChallenge>, Refusal> {
        assert_eq!(request.sealing_key, SEALING_KEY);
        assert_eq!(request.requirement.kind, request.claim.kind());
        if let Some(refusal) = self.flaws.refuse_identity.clone() {
            return Err(refusal);
        }
        if let Some(flaw) = self.flaws.challenge.clone() {
            return Ok(flaw);
        }
        self.challenge = match &request.claim {
            AttesterClaim::Tpm(_) => Some(challenge()),
            _ => None,
        };
        Ok(self.challenge.clone())
    }
}

/// Connects two parties until neither says anything any more.
pub(super) fn converse(a: &mut impl Party, b: &mut impl Party) {
    let (mut to_a, mut to_b) = (Vec::new(), Vec::new());
    loop {
        let from_a = a.turn(&mut to_a);
        to_b.extend(&from_a);
        let from_b = b.turn(&mut to_b);
        to_a.extend(&from_b);
        if from_a.is_empty() && from_b.is_empty() {
            return;
        }
    }
}
