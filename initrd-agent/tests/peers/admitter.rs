//! The admitting side on a blocking socket: real sessions and real owner proofs, and an appraisal
//! that only does as it is told.

use api::Class;
use attested_tls::{
    ActivatedSecret, AdmitterProgress, AdmitterSession, AdmitterTerms, Refusal, SessionError,
    Start, TlsEnd,
};
use evidence::{AdmissionPath, EvidenceKind, Requirement, TpmChallenge};
use owner::{OwnerKey, Seed};
use std::{
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

/// What the admitter says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Accept,
    AcceptAsForeigner,
    Refuse,
    RefuseAsForeigner,
    RefuseIdentity,
    Unavailable,
}

pub(crate) fn owner_key(seed: u8) -> OwnerKey {
    OwnerKey::from_seed(&Seed::from_slice(&[seed; 32]).unwrap()).unwrap()
}

/// A server that says the same to everybody, until the test ends.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    sessions: Arc<AtomicUsize>,
}

impl Server {
    pub(crate) fn start(verdict: Verdict) -> Self {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), verdict)
    }

    pub(crate) fn start_at(address: SocketAddr, verdict: Verdict) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let sessions = Arc::new(AtomicUsize::new(0));
        let counter = sessions.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                let session = AdmitterSession::accept(
                    &TlsEnd::generate().unwrap(),
                    start(),
                    terms(),
                    &[AdmissionPath::Join, AdmissionPath::Rejoin],
                );
                counter.fetch_add(1, Ordering::SeqCst);
                thread::spawn(move || drop(drive(session.unwrap(), stream, verdict)));
            }
        });
        Self { address, sessions }
    }

    /// How many connections came.
    pub(crate) fn sessions(&self) -> usize {
        self.sessions.load(Ordering::SeqCst)
    }
}

/// Dials a node; whether a channel stood.
pub(crate) fn push(address: SocketAddr, path: AdmissionPath, verdict: Verdict) -> bool {
    let stream = TcpStream::connect(address).unwrap();
    let end = TlsEnd::generate().unwrap();
    let session = AdmitterSession::connect(&end, start(), terms(), path).unwrap();
    drive(session, stream, verdict).is_ok()
}

fn start() -> Start {
    Start {
        nonce: [9; 32],
        deadline: Duration::from_secs(3600),
    }
}

fn terms() -> AdmitterTerms {
    AdmitterTerms {
        accepted: vec![
            Requirement {
                kind: EvidenceKind::Tpm,
                pcrs: vec![4, 15],
            },
            Requirement {
                kind: EvidenceKind::SevSnp,
                pcrs: Vec::new(),
            },
        ],
    }
}

fn drive(
    mut session: AdmitterSession<()>,
    mut stream: TcpStream,
    verdict: Verdict,
) -> Result<(), SessionError> {
    let closed = |_: io::Error| SessionError::Closed;
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .map_err(closed)?;
    loop {
        let progress = session.step(Duration::ZERO);
        while session.wants_write() {
            session.write_tls(&mut stream).map_err(closed)?;
        }
        match progress? {
            AdmitterProgress::Established => return Ok(()),
            AdmitterProgress::Pending => {
                session.read_tls(&mut stream).map_err(closed)?;
            }
            AdmitterProgress::NeedChallenge(request) => {
                session.supply_challenge(challenge(verdict, request.claim.kind()))?;
            }
            AdmitterProgress::NeedAppraisal(request) => {
                let activated = request.activated.as_ref();
                let challenged = request.evidence.kind().needs_challenge();
                let expected = challenged.then_some(&[7; 32]);
                assert_eq!(activated.map(ActivatedSecret::expose_secret), expected);
                let supplied = session.supply_appraisal(appraisal(verdict));
                flush(&mut session, &mut stream);
                supplied?;
            }
            AdmitterProgress::NeedOwnerProof(request) => {
                let foreign = [Verdict::AcceptAsForeigner, Verdict::RefuseAsForeigner];
                let key = owner_key(if foreign.contains(&verdict) { 2 } else { 1 });
                let supplied =
                    session.supply_owner_proof(key.prove(request.side, &request.binding));
                flush(&mut session, &mut stream);
                supplied?;
            }
        }
    }
}

fn flush(session: &mut AdmitterSession<()>, stream: &mut TcpStream) {
    while session.wants_write() && session.write_tls(stream).is_ok() {}
}

fn challenge(verdict: Verdict, kind: EvidenceKind) -> Result<Option<TpmChallenge>, Refusal> {
    match verdict {
        Verdict::RefuseIdentity => Err(Refusal::of(Class::Refused)),
        _ => Ok(kind.needs_challenge().then(|| TpmChallenge {
            credential_blob: vec![1],
            encrypted_secret: vec![2],
        })),
    }
}

fn appraisal(verdict: Verdict) -> Result<(), Refusal> {
    match verdict {
        Verdict::Accept | Verdict::AcceptAsForeigner => Ok(()),
        Verdict::Unavailable => Err(Refusal::of(Class::Unavailable)),
        _ => Err(Refusal::of(Class::Refused)),
    }
}
