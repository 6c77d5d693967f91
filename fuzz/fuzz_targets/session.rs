//! Frames of attested TLS, as each of the four parties hears them from a peer that does TLS by the book.
//!
//! The seeds are what such peers sent. No input can prove an owner or be evidence: both are bound to
//! the channel.
#![no_main]
use attested_tls::{
    ActivatedSecret, AdmitterProgress, AdmitterSession, AdmitterTerms, Attestation,
    AttesterProgress, AttesterSession, AttesterTerms, SealingPublicKey, SessionError, Start,
    TlsEnd,
};
use evidence::{
    AdmissionPath, AttesterClaim, Binding, Evidence, EvidenceKind, Requirement, TpmChallenge,
    TpmEvidence, TpmIdentity,
};
use fuzz::got_through;
use libfuzzer_sys::fuzz_target;
use owner::{OwnerKey, Seed};
use rustls::{ClientConnection, Connection, ServerConnection, pki_types::ServerName};
use std::{
    io::{self, Read, Write},
    sync::LazyLock,
    time::Duration,
};

const PCRS: [u32; 4] = [0, 4, 11, 15];

static ENDS: LazyLock<[TlsEnd; 2]> =
    LazyLock::new(|| [(); 2].map(|()| TlsEnd::generate().expect("a TLS end")));

static OWNER: LazyLock<OwnerKey> = LazyLock::new(|| {
    let seed = Seed::from_slice(&[1; 32]).expect("32 bytes");
    OwnerKey::from_seed(&seed).expect("a key")
});

fuzz_target!(|data: &[u8]| got_through(run(data)));

fn run(data: &[u8]) -> bool {
    let Some((which, frames)) = data.split_first() else {
        return false;
    };
    let path = match which % 4 {
        0 => AdmissionPath::Init,
        1 => AdmissionPath::Join,
        2 => AdmissionPath::Rejoin,
        _ => AdmissionPath::Recover,
    };
    if which & 4 == 0 {
        let heard = talk(&mut attester(path), frames);
        // The last word is a proof by somebody else than the owner, or for another channel.
        matches!(heard, Err(SessionError::Owner(_)))
    } else {
        let mut admitter = admitter(path);
        let heard = talk(&mut admitter, frames);
        heard.is_ok() && admitter.established
    }
}

/// One session with its driver.
trait Party {
    fn read_tls(&mut self, stream: &mut &[u8]) -> io::Result<usize>;
    fn write_tls(&mut self, stream: &mut Vec<u8>) -> io::Result<usize>;
    fn wants_read(&self) -> bool;
    fn wants_write(&self) -> bool;
    /// Steps and answers until the session waits for bytes; an error ends it.
    fn drive(&mut self) -> Result<(), SessionError>;
    /// Whether the session dials.
    fn dials(&self) -> bool;
}

/// Says one frame after the other, each when the party has nothing more to say: frames ahead of their turn
/// are refused.
fn talk(party: &mut impl Party, mut frames: &[u8]) -> Result<(), SessionError> {
    let mut peer = peer(party.dials());
    exchange(party, &mut peer)?;
    while !frames.is_empty() && !peer.is_handshaking() {
        let mut frame = frame(&mut frames);
        while !frame.is_empty() {
            let sent = peer.writer().write(frame).expect("a buffer");
            frame = &frame[sent..];
            exchange(party, &mut peer)?;
        }
    }
    Ok(())
}

/// The next frame, as its length says; the rest where it says too much.
fn frame<'a>(frames: &mut &'a [u8]) -> &'a [u8] {
    let length = frames
        .first_chunk()
        .map_or(0, |length| u32::from_be_bytes(*length));
    let length = usize::try_from(length)
        .unwrap_or(usize::MAX)
        .saturating_add(4);
    let (frame, rest) = frames.split_at(length.min(frames.len()));
    *frames = rest;
    frame
}

/// Moves bytes until nobody has any.
fn exchange(party: &mut impl Party, peer: &mut Connection) -> Result<(), SessionError> {
    party.drive()?;
    loop {
        let (mut to_party, mut to_peer) = (Vec::new(), Vec::new());
        while party.wants_write() {
            party.write_tls(&mut to_peer).expect("a vector takes it");
        }
        let mut unread = to_peer.as_slice();
        while !unread.is_empty() && peer.wants_read() {
            peer.read_tls(&mut unread).expect("a slice gives it");
            peer.process_new_packets().expect("the session speaks TLS");
            drop(peer.reader().read_to_end(&mut Vec::new()));
        }
        while peer.wants_write() {
            peer.write_tls(&mut to_party).expect("a vector takes it");
        }
        if to_party.is_empty() && to_peer.is_empty() {
            return Ok(());
        }
        let mut unread = to_party.as_slice();
        while !unread.is_empty() && party.wants_read() {
            party.read_tls(&mut unread).expect("a slice gives it");
            party.drive()?;
        }
    }
}

fn peer(listens: bool) -> Connection {
    let end = &ENDS[1];
    if listens {
        return ServerConnection::new(end.bare_server())
            .expect("a server")
            .into();
    }
    let name = ServerName::try_from("peer").expect("a name");
    ClientConnection::new(end.bare_client(), name)
        .expect("a client")
        .into()
}

fn start() -> Start {
    Start {
        nonce: [7; 32],
        deadline: Duration::from_secs(1),
    }
}

fn dials(path: AdmissionPath, attests: bool) -> bool {
    attests == matches!(path, AdmissionPath::Join | AdmissionPath::Rejoin)
}

macro_rules! tls_io {
    () => {
        fn read_tls(&mut self, stream: &mut &[u8]) -> io::Result<usize> {
            self.session.read_tls(stream)
        }
        fn write_tls(&mut self, stream: &mut Vec<u8>) -> io::Result<usize> {
            self.session.write_tls(stream)
        }
        fn wants_read(&self) -> bool {
            self.session.wants_read()
        }
        fn wants_write(&self) -> bool {
            self.session.wants_write()
        }
        fn dials(&self) -> bool {
            self.dials
        }
    };
}

struct Attester {
    session: AttesterSession,
    dials: bool,
}

fn attester(path: AdmissionPath) -> Attester {
    let terms = AttesterTerms {
        owner: OWNER.public_key().fingerprint(),
        claim: AttesterClaim::Tpm(TpmIdentity {
            ek_certificate: vec![1],
            ek_public: vec![2],
            ak_public: vec![3],
        }),
        sealing_key: SealingPublicKey::from_bytes([4; 32]),
    };
    let dials = dials(path, true);
    let session = match dials {
        true => AttesterSession::connect(&ENDS[0], start(), terms, path),
        false => AttesterSession::accept(&ENDS[0], start(), terms, &[path]),
    };
    Attester {
        session: session.expect("a session"),
        dials,
    }
}

impl Party for Attester {
    tls_io!();

    fn drive(&mut self) -> Result<(), SessionError> {
        loop {
            match self.session.step(Duration::ZERO)? {
                AttesterProgress::Pending => return Ok(()),
                AttesterProgress::Established => panic!("an owner that nobody has the key of"),
                AttesterProgress::NeedEvidence(request) => {
                    assert!(request.challenge.is_some());
                    self.session.supply_evidence(Ok(Attestation {
                        activated: ActivatedSecret::from_slice(&[5; 32]),
                        evidence: quote(&request.binding, &request.pcrs),
                    }))?;
                }
            }
        }
    }
}

fn quote(binding: &Binding, pcrs: &[u32]) -> Evidence {
    Evidence::Tpm(TpmEvidence {
        attestation: binding.qualifying_data().to_vec(),
        signature: vec![6],
        pcrs: pcrs.iter().map(|&pcr| (pcr, [0; 32])).collect(),
        event_log: Vec::new(),
    })
}

struct Admitter {
    session: AdmitterSession<()>,
    dials: bool,
    established: bool,
}

fn admitter(path: AdmissionPath) -> Admitter {
    let requirement = |kind, pcrs: &[u32]| Requirement {
        kind,
        pcrs: pcrs.to_vec(),
    };
    let terms = AdmitterTerms {
        accepted: vec![
            requirement(EvidenceKind::Tpm, &PCRS),
            requirement(EvidenceKind::SevSnp, &[]),
            requirement(EvidenceKind::AzureSevSnp, &PCRS),
            requirement(EvidenceKind::SevSnpVtpm, &PCRS),
        ],
    };
    let dials = dials(path, false);
    let session = match dials {
        true => AdmitterSession::connect(&ENDS[0], start(), terms, path),
        false => AdmitterSession::accept(&ENDS[0], start(), terms, &[path]),
    };
    Admitter {
        session: session.expect("a session"),
        dials,
        established: false,
    }
}

impl Party for Admitter {
    tls_io!();

    fn drive(&mut self) -> Result<(), SessionError> {
        loop {
            match self.session.step(Duration::ZERO)? {
                // Appraising is another target's: here everything is taken, so that all frames are read.
                AdmitterProgress::Pending => return Ok(()),
                AdmitterProgress::Established => {
                    self.established = true;
                    return Ok(());
                }
                AdmitterProgress::NeedChallenge(request) => {
                    let challenge = matches!(request.claim, AttesterClaim::Tpm(_));
                    let challenge = challenge.then(|| TpmChallenge {
                        credential_blob: vec![8; 16],
                        encrypted_secret: vec![9; 16],
                    });
                    self.session.supply_challenge(Ok(challenge))?;
                }
                AdmitterProgress::NeedAppraisal(request) => {
                    let quotes = matches!(request.evidence, Evidence::Tpm(_));
                    assert_eq!(request.activated.is_some(), quotes);
                    self.session.supply_appraisal(Ok(()))?;
                }
                AdmitterProgress::NeedOwnerProof(request) => {
                    let proof = OWNER.prove(request.side, &request.binding);
                    self.session.supply_owner_proof(proof)?;
                }
            }
        }
    }
}
