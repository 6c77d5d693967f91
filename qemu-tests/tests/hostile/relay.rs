//! Evidence of one session shown in another one, and somebody between two honest parties.

use std::net::TcpListener;
use std::thread;

use anyhow::{Context as _, Result, bail, ensure};
use api::Class;
use attested_tls::SessionError;
use evidence::AdmissionPath;
use guest_attester::DialError;

use crate::installation::{Installation, Node};
use crate::raw::{Raw, framed};
use crate::session::{Answer, Session, accepted, evidence, hello};

const REFUSED: Answer = Answer::Refused(Class::Refused);

#[test]
fn evidence_of_another_session_is_refused() -> Result<()> {
    let installation = Installation::start("relay")?;
    let mut node = installation.node()?;
    relayed_quote(&installation, &mut node).context("quote of another session")?;
    replayed_transcript(&installation, &mut node).context("whole transcript")?;
    machine_in_the_middle(&installation, &mut node).context("machine in the middle")?;
    installation.passed()
}

/// An insider has the TPM's answers of one open session and shows them in another, with the same
/// nonce: frame 1 is the same to the byte.
fn relayed_quote(installation: &Installation, node: &mut Node) -> Result<()> {
    let owner = installation.owner()?;
    let hello = hello(&node.boot);
    installation.expect_refused(&REFUSED, "quote qualifying data", || {
        let first = Session::open(installation.address(), &hello)?;
        let (_, relayed) = first.attest(&mut node.boot)?;
        let second = Session::open(installation.address(), &hello)?;
        ensure!(
            first.server_hello != second.server_hello,
            "a repeated nonce"
        );
        let (activated, _) = second.attest(&mut node.boot)?;
        second.show(&evidence(&activated, relayed)?, &owner)
    })
}

/// Every frame of a session that was accepted, once more.
fn replayed_transcript(installation: &Installation, node: &mut Node) -> Result<()> {
    let owner = installation.owner()?;
    let hello = hello(&node.boot);
    let mut recorded = Session::open(installation.address(), &hello)?;
    let (activated, quote) = recorded.attest(&mut node.boot)?;
    let evidence = evidence(&activated, quote)?;
    recorded.raw.send_message(&evidence)?;
    let answer = recorded.answer(&owner)?;
    ensure!(answer == Answer::Accepted, "an honest session: {answer:?}");
    recorded.raw.send_message(&accepted())?;

    installation.expect_refused(&REFUSED, "credential activation", || {
        let mut replayed = Session::open(installation.address(), &hello)?;
        replayed.raw.send_message(&evidence)?;
        let answer = replayed.answer(&owner)?;
        replayed.raw.send_message(&accepted())?;
        ensure!(replayed.raw.receive()?.is_none(), "the session goes on");
        Ok(answer)
    })
}

/// A real node dials somebody who has a TLS session with the join service too and forwards every
/// frame, both ways.
fn machine_in_the_middle(installation: &Installation, node: &mut Node) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    installation.expect_refused(&Answer::Closed, "quote qualifying data", || {
        thread::scope(|scope| {
            let victim = scope.spawn(|| node.boot.dial(address, AdmissionPath::Join));
            let frames = forward(&listener, installation)?;
            ensure!(frames == 4, "forwarded {frames} frames");
            let Ok(dialled) = victim.join() else {
                bail!("the node panicked");
            };
            // The honest refusal was for another channel: to the node it proves nothing, and it
            // goes on elsewhere.
            match dialled.err() {
                Some(DialError::Session(error @ SessionError::RefusedWithoutProof { .. })) => {
                    ensure!(!error.is_final_for_attester(), "the node gives up: {error}");
                    Ok(Answer::Closed)
                }
                other => bail!("the node: {other:?}"),
            }
        })
    })
}

/// How many frames went through until somebody closed.
fn forward(listener: &TcpListener, installation: &Installation) -> Result<usize> {
    let mut node = Raw::accept(listener)?;
    let mut service = Raw::dial(installation.address())?;
    let mut frames = 0;
    while let Some(frame) = node.receive()? {
        service.send(&framed(&frame))?;
        frames += 1;
        let Some(answer) = service.receive()? else {
            break;
        };
        node.send(&framed(&answer))?;
        frames += 1;
    }
    Ok(frames)
}
