//! What a verification service receives, and what its verifier does: whatever the bytes say, nobody
//! signed them.
#![no_main]
use api::{StatementRequest, verify};
use appraisal::{Appraiser, CredentialSecret, Endorsements, Statement};
use document::Document;
use evidence::{Nonce, Subject};
use fuzz::{appraiser, got_through, lacks_only_amd};
use libfuzzer_sys::fuzz_target;
use prost::Message;
use std::sync::LazyLock;

// The CLI is a program, so its own source.
#[allow(dead_code, reason = "version and nonce are compared by the program")]
#[path = "../../cli/src/commands/verify/saved/document.rs"]
mod document;

/// 2025-01-01.
const NOW: u64 = 1_735_689_600;

/// The loosest policy there is.
const POLICY: &[u8] = include_bytes!("../policy.json");
const VALUES: &[u8] = include_bytes!("../reference-values.json");

static APPRAISER: LazyLock<Appraiser> = LazyLock::new(|| appraiser(POLICY, VALUES));

fuzz_target!(|data: &[u8]| got_through(run(data)));

fn run(data: &[u8]) -> bool {
    let Some((which, data)) = data.split_first() else {
        return false;
    };
    match which % 4 {
        0 => {
            let request = verify::GetAttestationRequest::decode(data);
            request.is_ok_and(|request| StatementRequest::try_from(request).is_ok())
        }
        1 => {
            let identity = verify::GetIdentityResponse::decode(data);
            identity.is_ok_and(|identity| identity.parse().is_ok())
        }
        2 => {
            let answer = verify::GetAttestationResponse::decode(data);
            answer.is_ok_and(judge)
        }
        _ => {
            let saved = Document::parse(data).and_then(Document::split);
            saved.is_ok_and(|(answer, _)| judge(answer))
        }
    }
}

fn judge(answer: verify::GetAttestationResponse) -> bool {
    let Ok((node, evidence, activated)) = answer.parse() else {
        return false;
    };
    let challenge = || {
        let secret = CredentialSecret::from_slice(&[1; 32]).expect("32 bytes");
        APPRAISER.challenge(&node.claim, secret)
    };
    let (Ok((proving, _)), Ok((reading, _))) = (challenge(), challenge()) else {
        return false;
    };
    let statement = Statement {
        subject: &Subject {
            nonce: &Nonce([9; 32]),
            cluster: &node.cluster,
            node: &node.name,
        },
        evidence: &evidence,
        endorsements: Endorsements::default(),
        now: NOW,
    };
    let error = APPRAISER.verify(proving, activated.as_deref(), &statement);
    let error = error.expect_err("nothing here is signed");
    assert!(!error.checks().is_empty());
    assert!(APPRAISER.read(reading, &statement).is_err());
    lacks_only_amd(&error)
}
