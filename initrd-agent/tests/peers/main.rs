//! The poll loop against real attested TLS on loopback: servers that admit, refuse, stall or lie,
//! and pushes. The TPM is left out: what evidence says is for other tests.
#![cfg(test)]

mod admitter;

use admitter::{Server, Verdict, owner_key, push};
use attested_tls::{
    ActivatedSecret, Attestation, AttesterTerms, EvidenceRequest, SealingKey, TlsEnd,
};
use evidence::{AdmissionPath, AttesterClaim, Evidence, SnpEvidence, TpmEvidence, TpmIdentity};
use initrd_agent::{
    attest::{Attest, AttestError},
    peers::{Outcome, Peers, PeersError},
};
use platform::sev_guest::SevGuestError;
use rustix::time::{ClockId, clock_gettime};
use std::{
    collections::BTreeMap,
    io::Write,
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

const PULL: &[AdmissionPath] = &[AdmissionPath::Rejoin, AdmissionPath::Recover];
const ENOUGH: Duration = Duration::from_secs(15);

/// Answers every request at once and counts them.
#[derive(Default)]
struct Counted(usize);

impl Attest for Counted {
    fn attest(&mut self, request: &EvidenceRequest) -> Result<Attestation, AttestError> {
        self.0 += 1;
        let quote = TpmEvidence {
            attestation: request.binding.as_bytes().to_vec(),
            signature: vec![1],
            pcrs: request
                .pcrs
                .iter()
                .map(|&pcr| (pcr, [0; 32]))
                .collect::<BTreeMap<_, _>>(),
            event_log: Vec::new(),
        };
        Ok(Attestation {
            activated: ActivatedSecret::from_slice(&[7; 32]),
            evidence: Evidence::Tpm(quote),
        })
    }
}

fn peers() -> Peers {
    peers_of(AttesterClaim::Tpm(TpmIdentity {
        ek_certificate: vec![1],
        ek_public: vec![2],
        ak_public: vec![3],
    }))
}

fn peers_of(claim: AttesterClaim) -> Peers {
    let terms = AttesterTerms {
        owner: owner_key(1).public_key().fingerprint(),
        claim,
        sealing_key: SealingKey::generate().unwrap().public_key(),
    };
    Peers::new(TlsEnd::generate().unwrap(), terms)
}

fn run(peers: &mut Peers, time: Duration) -> Outcome {
    peers.run(&mut Counted::default(), PULL, time).unwrap()
}

fn admitted_by(outcome: Outcome) -> SocketAddr {
    match outcome {
        Outcome::Admitted(admitted) => admitted.address,
        other => panic!("{other:?}"),
    }
}

/// A listener that nobody serves: connections stand and stay silent.
fn silent() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn closed() -> SocketAddr {
    silent().1
}

#[test]
fn the_first_channel_wins_whatever_the_other_endpoints_do() {
    let (_silent, stalled) = silent();
    let server = Server::start(Verdict::Accept);
    let black_hole = SocketAddr::from(([192, 0, 2, 1], 30090));
    let mut peers = peers();
    peers.dial(&[black_hole, stalled, closed(), server.address]);
    let started = Instant::now();
    assert_eq!(admitted_by(run(&mut peers, ENOUGH)), server.address);
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_server_that_starts_late_is_found() {
    let address = closed();
    let mut peers = peers();
    peers.dial(&[address]);
    assert!(matches!(
        run(&mut peers, Duration::from_millis(300)),
        Outcome::Elapsed
    ));
    let server = Server::start_at(address, Verdict::Accept);
    assert_eq!(admitted_by(run(&mut peers, ENOUGH)), server.address);
}

#[test]
fn a_refusal_with_owner_proof_is_final_and_one_without_is_not() {
    let good = Server::start(Verdict::Accept);
    let foreign = Server::start(Verdict::RefuseAsForeigner);
    let mut both = peers();
    both.dial(&[foreign.address]);
    assert!(matches!(
        run(&mut both, Duration::from_millis(500)),
        Outcome::Elapsed
    ));
    both.dial(&[foreign.address, good.address]);
    assert_eq!(admitted_by(run(&mut both, ENOUGH)), good.address);

    let refusing = Server::start(Verdict::Refuse);
    let mut refused = peers();
    refused.dial(&[refusing.address]);
    assert!(matches!(run(&mut refused, ENOUGH), Outcome::Refused(_)));
}

#[test]
fn an_unavailable_owner_is_asked_again() {
    let server = Server::start(Verdict::Unavailable);
    let mut peers = peers();
    peers.dial(&[server.address]);
    assert!(matches!(
        run(&mut peers, Duration::from_millis(800)),
        Outcome::Elapsed
    ));
    assert!(server.sessions() >= 2, "{}", server.sessions());
}

#[test]
fn a_foreign_owner_that_accepts_is_no_channel() {
    let server = Server::start(Verdict::AcceptAsForeigner);
    let mut peers = peers();
    peers.dial(&[server.address]);
    assert!(matches!(
        run(&mut peers, Duration::from_millis(500)),
        Outcome::Elapsed
    ));
}

#[test]
fn garbage_costs_one_connection_at_a_time() {
    let (listener, address) = silent();
    let server = Server::start(Verdict::Accept);
    thread::spawn(move || {
        for stream in listener.incoming() {
            stream
                .unwrap()
                .write_all(&[0x55; 100_000])
                .unwrap_or_default();
        }
    });
    let mut peers = peers();
    peers.dial(&[address]);
    assert!(matches!(
        run(&mut peers, Duration::from_millis(300)),
        Outcome::Elapsed
    ));
    peers.dial(&[address, server.address]);
    assert_eq!(admitted_by(run(&mut peers, ENOUGH)), server.address);
}

#[test]
fn at_most_eight_are_dialled_at_a_time() {
    let listeners: Vec<_> = (0..16).map(|_| silent()).collect();
    let addresses: Vec<_> = listeners.iter().map(|(_, address)| *address).collect();
    let mut peers = peers();
    peers.dial(&addresses);
    assert!(matches!(
        run(&mut peers, Duration::from_millis(300)),
        Outcome::Elapsed
    ));
    let connected = listeners.iter().filter(|(listener, _)| {
        listener.set_nonblocking(true).unwrap();
        listener.accept().is_ok()
    });
    assert_eq!(connected.count(), 8);
}

#[test]
fn a_push_wins_while_nobody_answers_the_pull() {
    let (_silent, stalled) = silent();
    let mut peers = peers();
    let port = peers.listen(0).unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    peers.dial(&[stalled]);
    // Three that say nothing do not keep the fourth out.
    let idle: Vec<_> = (0..3)
        .map(|_| TcpStream::connect(address).unwrap())
        .collect();
    let pushing = thread::spawn(move || push(address, AdmissionPath::Recover, Verdict::Accept));
    let outcome = run(&mut peers, ENOUGH);
    let Outcome::Admitted(admitted) = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(admitted.channel.peer().path(), AdmissionPath::Recover);
    // The last frame is still queued; the first call writes it out.
    let mut stream = admitted.stream;
    let (mut connection, _) = admitted.channel.into_parts();
    while connection.wants_write() {
        connection.write_tls(&mut stream).unwrap();
    }
    assert!(pushing.join().unwrap());
    drop(idle);
}

#[test]
fn pushes_of_foreigners_and_of_other_paths_are_dropped() {
    let mut peers = peers();
    let port = peers.listen(0).unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let pushing = thread::spawn(move || {
        [
            push(address, AdmissionPath::Recover, Verdict::AcceptAsForeigner),
            push(address, AdmissionPath::Init, Verdict::Accept),
        ]
    });
    let mut attester = Counted::default();
    let outcome = peers
        .run(&mut attester, PULL, Duration::from_millis(800))
        .unwrap();
    assert!(matches!(outcome, Outcome::Elapsed), "{outcome:?}");
    assert_eq!(pushing.join().unwrap(), [false, false]);
    assert_eq!(attester.0, 0, "no evidence for a push that proved nothing");
}

#[test]
fn a_node_without_a_header_hears_an_init_and_no_recover() {
    let mut peers = peers();
    let port = peers.listen(0).unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let pushing = thread::spawn(move || {
        [
            push(address, AdmissionPath::Recover, Verdict::Accept),
            push(address, AdmissionPath::Init, Verdict::AcceptAsForeigner),
            push(address, AdmissionPath::Init, Verdict::Accept),
        ]
    });
    let join = &[AdmissionPath::Join, AdmissionPath::Init];
    let mut attester = Counted::default();
    let outcome = peers.run(&mut attester, join, ENOUGH).unwrap();
    let Outcome::Admitted(admitted) = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(admitted.channel.peer().path(), AdmissionPath::Init);
    assert_eq!(attester.0, 1, "no evidence for a push that proved nothing");
    let mut stream = admitted.stream;
    let (mut connection, _) = admitted.channel.into_parts();
    while connection.wants_write() {
        connection.write_tls(&mut stream).unwrap();
    }
    assert_eq!(pushing.join().unwrap(), [false, false, true]);
}

/// A push that is not heard must not keep the loop busy: a stranger could take the processor.
#[test]
fn a_push_that_is_not_heard_costs_no_time() {
    let mut peers = peers();
    let port = peers.listen(0).unwrap();
    let _waiting = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let join = &[AdmissionPath::Join];
    let worked = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap();
    let before = worked();
    let outcome = peers
        .run(&mut Counted::default(), join, Duration::from_secs(1))
        .unwrap();
    let worked = worked() - before;
    assert!(matches!(outcome, Outcome::Elapsed));
    assert!(worked < Duration::from_millis(100), "{worked:?}");
}

/// Has nothing to attest with any more.
struct Dead;

impl Attest for Dead {
    fn attest(&mut self, _: &EvidenceRequest) -> Result<Attestation, AttestError> {
        Err(SevGuestError::Throttled.into())
    }
}

/// No other session would do better, so the loop does not go on and on.
#[test]
fn a_boot_that_gets_no_evidence_any_more_ends() {
    let server = Server::start(Verdict::Accept);
    let mut peers = peers();
    peers.dial(&[server.address]);
    let started = Instant::now();
    let error = peers.run(&mut Dead, PULL, ENOUGH).unwrap_err();
    assert!(matches!(error, PeersError::Evidence { .. }), "{error:?}");
    assert_eq!(error.exit_reason().code(), 52);
    assert!(started.elapsed() < Duration::from_secs(5));
}

/// Answers with a report in a quote's place.
struct Report;

impl Attest for Report {
    fn attest(&mut self, request: &EvidenceRequest) -> Result<Attestation, AttestError> {
        assert!(request.challenge.is_none() && request.pcrs.is_empty());
        Ok(Attestation {
            activated: None,
            evidence: Evidence::SevSnp(SnpEvidence {
                report: request.binding.as_bytes().to_vec(),
                certificates: Vec::new(),
            }),
        })
    }
}

#[test]
fn a_bare_guest_is_neither_challenged_nor_asked_for_pcrs() {
    let server = Server::start(Verdict::Accept);
    let mut peers = peers_of(AttesterClaim::SevSnp);
    peers.dial(&[server.address]);
    let outcome = peers.run(&mut Report, PULL, ENOUGH).unwrap();
    assert_eq!(admitted_by(outcome), server.address);
}

#[test]
fn the_tpm_is_asked_only_after_the_peers_hello() {
    let server = Server::start(Verdict::RefuseIdentity);
    let mut peers = peers();
    peers.dial(&[server.address]);
    let mut attester = Counted::default();
    let outcome = peers.run(&mut attester, PULL, ENOUGH).unwrap();
    assert!(matches!(outcome, Outcome::Refused(_)), "{outcome:?}");
    assert_eq!(attester.0, 0);
}
