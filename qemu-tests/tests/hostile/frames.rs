//! Frames that break the protocol: their length, their turn, their sender.

use anyhow::{Context as _, Result};
use api::atls;
use prost::Message as _;

use crate::installation::{Installation, Node};
use crate::raw::{Raw, framed};
use crate::session::{Answer, Session, evidence, hello};

/// The longest message of docs/protocol.md.
const MAX_FRAME: u32 = 65_536;

#[test]
fn frames_that_break_the_protocol_end_the_session() -> Result<()> {
    let installation = Installation::start("frames")?;
    let mut node = installation.node()?;
    lengths(&installation, &node).context("lengths")?;
    reflected_role(&installation, &node).context("reflected role")?;
    reflected_frames(&installation, &mut node).context("reflected frames")?;
    early_application_data(&installation, &mut node).context("early application data")?;
    repeated_field(&installation, &node).context("repeated field")?;
    installation.passed()
}

fn lengths(installation: &Installation, node: &Node) -> Result<()> {
    let hello = hello(&node.boot).encode_to_vec();
    let whole = framed(&hello);
    let attack = |bytes: &[u8]| {
        let mut raw = Raw::dial(installation.address())?;
        raw.send(bytes)?;
        raw.close()?;
        answer(&mut raw)
    };
    let too_long = (MAX_FRAME + 1).to_be_bytes();
    installation.expect_broken_off(&["frame 1", "got 65537"], || attack(&too_long))?;
    installation.expect_broken_off(&["frame 1", "got 4294967295"], || attack(&[0xff; 4]))?;
    installation.expect_broken_off(&["frame 1", "got 0"], || attack(&[0; 4]))?;
    for length in [1, 4, 5, whole.len() - 1] {
        let truncated = whole.get(..length).unwrap_or_default();
        installation.expect_broken_off(&["closed the connection"], || attack(truncated))?;
    }
    // A frame that ends before its message does.
    let cut = framed(hello.get(..hello.len() - 1).unwrap_or_default());
    installation.expect_broken_off(&["frame 1", "malformed message"], || {
        let mut raw = Raw::dial(installation.address())?;
        raw.send(&cut)?;
        answer(&mut raw)
    })
}

/// A client that claims to be the admitter.
fn reflected_role(installation: &Installation, node: &Node) -> Result<()> {
    let words = ["frame 1", "hello.side", "expected attester"];
    installation.expect_broken_off(&words, || {
        let mut raw = Raw::dial(installation.address())?;
        let admitter = atls::Hello {
            side: Some(atls::hello::Side::Admitter(atls::Admitter {
                accepted: vec![atls::Requirement {
                    kind: atls::EvidenceKind::Tpm.into(),
                    pcrs: appraisal::REQUIRED_PCRS.to_vec(),
                }],
                challenge: None,
            })),
            ..hello(&node.boot)
        };
        raw.send_message(&admitter)?;
        answer(&mut raw)
    })?;
    // An honest node on a path where the other side would be dialled.
    installation.expect_broken_off(&["path recover"], || {
        let mut raw = Raw::dial(installation.address())?;
        let recover = atls::Hello {
            path: atls::AdmissionPath::Recover.into(),
            ..hello(&node.boot)
        };
        raw.send_message(&recover)?;
        answer(&mut raw)
    })
}

/// The join service's own frames, sent back.
fn reflected_frames(installation: &Installation, node: &mut Node) -> Result<()> {
    installation.expect_broken_off(&["frame 3"], || {
        let mut session = Session::open(installation.address(), &hello(&node.boot))?;
        let server_hello = session.server_hello.clone();
        session.raw.send(&framed(&server_hello))?;
        answer(&mut session.raw)
    })?;
    installation.expect_broken_off(&["frame 5"], || {
        let mut session = Session::open(installation.address(), &hello(&node.boot))?;
        let (activated, quote) = session.attest(&mut node.boot)?;
        session.raw.send_message(&evidence(&activated, quote)?)?;
        let admission = session.raw.receive()?.context("no frame 4")?;
        session.raw.send(&framed(&admission))?;
        answer(&mut session.raw)
    })
}

/// A request right behind the evidence, before either verdict.
fn early_application_data(installation: &Installation, node: &mut Node) -> Result<()> {
    installation.expect_broken_off(&["out of turn"], || {
        let mut session = Session::open(installation.address(), &hello(&node.boot))?;
        let (activated, quote) = session.attest(&mut node.boot)?;
        let evidence = framed(&evidence(&activated, quote)?.encode_to_vec());
        let request = b"POST /constellation.join.v1.JoinService/RegisterDisk HTTP/1.1\r\n";
        session.raw.send(&[&evidence, &request[..]].concat())?;
        answer(&mut session.raw)
    })
}

/// Protobuf takes the last of two; we take none.
fn repeated_field(installation: &Installation, node: &Node) -> Result<()> {
    installation.expect_broken_off(&["frame 1", "canonical"], || {
        let mut raw = Raw::dial(installation.address())?;
        let version_twice = [&[8, 1], hello(&node.boot).encode_to_vec().as_slice()].concat();
        raw.send(&framed(&version_twice))?;
        answer(&mut raw)
    })
}

/// Nothing, if all is well.
fn answer(raw: &mut Raw) -> Result<Answer> {
    let frame = raw.receive()?;
    anyhow::ensure!(frame.is_none(), "the join service answered: {frame:?}");
    Ok(Answer::Closed)
}
