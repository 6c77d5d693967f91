//! The asynchronous driver: time limits and parallel appraisals.

use evidence::{AdmissionPath::Join, TpmChallenge};
use owner::OwnerProof;
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    time::Instant,
};

use super::parties::*;
use crate::{
    Admitter, AdmitterTerms, AppraisalRequest, Appraiser, ChallengeRequest, HandshakeError,
    OwnerProofRequest, Refusal, SessionError, TlsEnd,
};

const LIMIT: Duration = Duration::from_secs(5);

/// Appraises the toy TPM, slowly, and counts how many do so at a time.
#[derive(Default)]
struct Slow {
    delay: Duration,
    running: AtomicUsize,
    most: AtomicUsize,
}

impl Slow {
    fn work(&self) {
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(running, Ordering::SeqCst);
        std::thread::sleep(self.delay);
        self.running.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Appraiser for Slow {
    type Appraised = String;
    type Challenged = TpmChallenge;

    fn terms(&self) -> AdmitterTerms {
        admitter_terms()
    }

    fn challenge(
        &self,
        _request: ChallengeRequest,
    ) -> Result<(Option<TpmChallenge>, TpmChallenge), Refusal> {
        self.work();
        let challenge = challenge();
        Ok((Some(challenge.clone()), challenge))
    }

    fn appraise(
        &self,
        challenged: TpmChallenge,
        request: AppraisalRequest,
    ) -> Result<String, Refusal> {
        self.work();
        appraise(Some(&challenged), &request)
    }

    fn prove(&self, request: &OwnerProofRequest) -> OwnerProof {
        owner(1).prove(request.side, &request.binding)
    }
}

fn admitter(parallel: usize, delay: Duration) -> (Arc<Slow>, Arc<Admitter<Slow>>) {
    let appraiser = Arc::new(Slow {
        delay,
        ..Slow::default()
    });
    let admitter = Admitter::new(
        TlsEnd::generate().unwrap(),
        appraiser.clone(),
        parallel,
        LIMIT,
    );
    (appraiser, Arc::new(admitter))
}

/// Drives an honest node over an asynchronous stream.
async fn drive(mut node: Node, stream: &mut DuplexStream) -> Node {
    let mut inbound = Vec::new();
    loop {
        let outbound = node.turn(&mut inbound);
        stream.write_all(&outbound).await.unwrap();
        if node.outcome().is_some() {
            return node;
        }
        assert_ne!(stream.read_buf(&mut inbound).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn an_honest_node_is_admitted_and_may_talk() {
    let (_, admitter) = admitter(1, Duration::ZERO);
    let (mut cable, service) = duplex(4096);
    let accepting = tokio::spawn(async move { admitter.accept(service, &[Join]).await });
    let node = drive(Node::new(Join), &mut cable).await;
    let mut stream = accepting.await.unwrap().unwrap();
    assert_eq!(stream.peer().appraised().as_bytes(), EK);

    let (mut connection, _) = node.session.into_channel().unwrap().into_parts();
    let message = vec![7; 100_000];
    let echo = tokio::spawn(async move {
        let mut message = vec![0; 100_000];
        stream.read_exact(&mut message).await.unwrap();
        stream.write_all(&message).await.unwrap();
        stream.shutdown().await.unwrap();
    });
    let mut rest = message.as_slice();
    while !rest.is_empty() {
        let written = std::io::Write::write(&mut connection.writer(), rest).unwrap();
        rest = &rest[written..];
        let mut outbound = Vec::new();
        while connection.wants_write() {
            connection.write_tls(&mut outbound).unwrap();
        }
        cable.write_all(&outbound).await.unwrap();
    }
    let mut received = Vec::new();
    cable.read_to_end(&mut received).await.unwrap();
    echo.await.unwrap();
    let (mut plaintext, mut unread) = (Vec::new(), received.as_slice());
    while !unread.is_empty() {
        connection.read_tls(&mut unread).unwrap();
        connection.process_new_packets().unwrap();
        // A read ends at what has arrived: "would block" is no failure here.
        drop(std::io::Read::read_to_end(
            &mut connection.reader(),
            &mut plaintext,
        ));
    }
    assert_eq!(plaintext, message);
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_dropped_at_the_limit() {
    let (_, admitter) = admitter(1, Duration::ZERO);
    let (_cable, service) = duplex(4096);
    let started = Instant::now();
    let error = admitter.accept(service, &[Join]).await.unwrap_err();
    assert!(
        matches!(error, HandshakeError::Session(SessionError::Deadline)),
        "{error:?}"
    );
    assert!(started.elapsed() < LIMIT + Duration::from_secs(2));
}

#[tokio::test(start_paused = true)]
async fn a_slow_loris_is_dropped_at_the_limit() {
    let (_, admitter) = admitter(1, Duration::ZERO);
    let (mut cable, service) = duplex(4096);
    let hello = Node::new(Join).turn(&mut Vec::new());
    let dripping = tokio::spawn(async move {
        for byte in hello {
            if cable.write_all(&[byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    let started = Instant::now();
    let error = admitter.accept(service, &[Join]).await.unwrap_err();
    assert!(
        matches!(error, HandshakeError::Session(SessionError::Deadline)),
        "{error:?}"
    );
    assert!(started.elapsed() < LIMIT + Duration::from_secs(2));
    dripping.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_never_reads_is_dropped_at_the_limit() {
    let (_, admitter) = admitter(1, Duration::ZERO);
    // Smaller than the server's first flight, and nobody reads.
    let (mut cable, service) = duplex(64);
    let hello = Node::new(Join).turn(&mut Vec::new());
    let writing = tokio::spawn(async move {
        cable.write_all(&hello).await.unwrap();
        tokio::time::sleep(2 * LIMIT).await;
        drop(cable);
    });
    let error = admitter.accept(service, &[Join]).await.unwrap_err();
    assert!(
        matches!(error, HandshakeError::Session(SessionError::Deadline)),
        "{error:?}"
    );
    writing.await.unwrap();
}

#[tokio::test]
async fn a_peer_that_hangs_up_ends_the_session() {
    let (_, admitter) = admitter(1, Duration::ZERO);
    let (mut cable, service) = duplex(4096);
    let hello = Node::new(Join).turn(&mut Vec::new());
    cable.write_all(&hello[..100]).await.unwrap();
    drop(cable);
    let error = admitter.accept(service, &[Join]).await.unwrap_err();
    assert!(
        matches!(error, HandshakeError::Session(SessionError::Closed)),
        "{error:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appraisals_run_in_parallel_up_to_the_bound() {
    let (appraiser, admitter) = admitter(2, Duration::from_millis(20));
    let mut nodes = Vec::new();
    for _ in 0..6 {
        let (mut cable, service) = duplex(4096);
        let admitter = admitter.clone();
        nodes.push(tokio::spawn(async move {
            let accepting = tokio::spawn(async move { admitter.accept(service, &[Join]).await });
            drive(Node::new(Join), &mut cable).await;
            accepting.await.unwrap().map(drop)
        }));
    }
    for node in nodes {
        node.await.unwrap().unwrap();
    }
    assert_eq!(appraiser.most.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_refused_node_still_gets_the_owners_word() {
    struct Never(Slow);
    impl Appraiser for Never {
        type Appraised = String;
        type Challenged = TpmChallenge;
        fn terms(&self) -> AdmitterTerms {
            self.0.terms()
        }
        fn challenge(
            &self,
            _: ChallengeRequest,
        ) -> Result<(Option<TpmChallenge>, TpmChallenge), Refusal> {
            Err(Refusal::for_check(
                "ek certificate",
                "a known root",
                "another",
            ))
        }
        fn appraise(&self, _: TpmChallenge, _: AppraisalRequest) -> Result<String, Refusal> {
            unreachable!("nothing was challenged")
        }
        fn prove(&self, request: &OwnerProofRequest) -> OwnerProof {
            self.0.prove(request)
        }
    }
    let never = Arc::new(Never(Slow::default()));
    let admitter = Admitter::new(TlsEnd::generate().unwrap(), never, 1, LIMIT);
    let (mut cable, service) = duplex(4096);
    let accepting = tokio::spawn(async move { admitter.accept(service, &[Join]).await });
    let node = drive(Node::new(Join), &mut cable).await;
    assert!(node.error().is_final_for_attester());
    let error = accepting.await.unwrap().unwrap_err();
    assert!(matches!(
        error,
        HandshakeError::Session(SessionError::RefusedPeer(refusal)) if refusal.checks.len() == 1
    ));
}
