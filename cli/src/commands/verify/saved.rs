//! A saved answer to `GET /?nonce=`, judged without asking anybody.

mod document;

use anyhow::{Result, bail};
use appraisal::{CredentialSecret, Verified};
use aws_lc_rs::rand;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use evidence::{EvidenceKind, Nonce, Subject};
use identity::NodeName;
use owner::{AkCertificate, OwnerFingerprint};
use std::path::Path;

use super::{
    Target, Verifier,
    ask::{compare, now},
    finding::{Check, Failure, Finding, Proven, Refused},
};
use crate::files;
use document::Document;

/// The longest document: what a node answers by gRPC, in base64 and with its field names.
const MAX_DOCUMENT: usize = 1 << 20;

/// What is known about a document beside what stands in it.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    /// The nonce that it was asked for with.
    pub(super) nonce: Nonce,
    /// Who should have answered.
    pub(super) name: Option<NodeName>,
    /// Whose certificates count.
    pub(super) owner: &'a OwnerFingerprint,
}

/// Parses a nonce as the service takes it: 64 hexadecimal digits, or base64url.
pub(super) fn parse_nonce(text: &str) -> Result<Nonce, &'static str> {
    let decoded = match text.len() {
        64 => hex::decode(text).ok(),
        _ => URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok(),
    };
    let nonce = decoded.and_then(|bytes| bytes.try_into().ok()).map(Nonce);
    nonce.ok_or("expected 32 bytes: 64 hexadecimal digits, or 43 characters of base64url")
}

/// Judges the document in a file.
///
/// # Errors
/// When there is no document; one that is none of a node is a refusal.
pub(super) fn judge(verifier: &Verifier, path: &Path, asked: Asked<'_>) -> Result<Finding> {
    let text = files::read(path)?;
    if text.len() > MAX_DOCUMENT {
        bail!(
            "read `{}`: larger than {MAX_DOCUMENT} bytes",
            path.display()
        );
    }
    let mut target = Target {
        name: asked.name.clone(),
        authority: path.display().to_string(),
        attester: None,
    };
    let mut name = asked.name.clone();
    let judged = verifier.judge_document(&text, &asked, &mut name);
    let judged = judged.map(|verified| Proven::of(&verified, &target));
    target.name = name;
    Finding::of(target, judged)
}

impl Verifier {
    fn judge_document(
        &self,
        text: &[u8],
        asked: &Asked<'_>,
        name: &mut Option<NodeName>,
    ) -> Result<Verified, Failure> {
        let document = Document::parse(text).map_err(malformed)?;
        if document.version != 1 {
            return Err(differs("version", "1", &document.version.to_string()));
        }
        let nonce = hex::encode(asked.nonce.0);
        if document.nonce != nonce {
            return Err(differs("nonce", &nonce, &document.nonce));
        }
        let (answer, certificate) = document.split().map_err(malformed)?;
        let (stated, evidence, _) = answer.parse()?;
        let expected = name.get_or_insert_with(|| stated.name.clone());
        compare(&self.cluster, &stated, expected)?;
        let subject = Subject {
            nonce: &asked.nonce,
            cluster: &self.cluster,
            node: expected,
        };
        let now = now();
        let found = self.found(&evidence, now);
        let statement = appraisal::Statement {
            subject: &subject,
            evidence: &evidence,
            endorsements: found.endorsements(),
            now,
        };
        if stated.claim.kind() != EvidenceKind::Tpm {
            let secret = CredentialSecret::try_fill(|secret| rand::fill(secret));
            let secret = secret.map_err(|error| Failure::Internal(error.into()))?;
            let (claimed, _) = self.rules.challenge(&stated.claim, secret)?;
            return Ok(self.rules.verify(claimed, None, &statement)?);
        }
        // Nobody can challenge a file: a key without a certificate is anybody's.
        let certificate = certificate
            .ok_or_else(|| differs("attestation key", "certified at admission", "unproven"))?;
        let certificate =
            AkCertificate::parse(certificate.to_string().as_bytes()).map_err(malformed)?;
        let certified = (&certificate, asked.owner);
        Ok(self
            .rules
            .verify_certified(&stated.claim, certified, &statement)?)
    }
}

fn malformed(error: impl std::error::Error) -> Failure {
    Failure::malformed("document", &error)
}

fn differs(check: &str, expected: &str, got: &str) -> Failure {
    Failure::Refused(Refused::by(
        "the document is not acceptable",
        vec![Check::new(check, expected, got)],
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_is_what_the_service_takes() {
        let nonce = Nonce([0xfb; 32]);
        for text in [
            hex::encode(nonce.0),
            URL_SAFE_NO_PAD.encode(nonce.0),
            URL_SAFE_NO_PAD.encode(nonce.0) + "=",
        ] {
            assert_eq!(parse_nonce(&text), Ok(nonce), "{text}");
        }
        for bad in ["", "00", &"0".repeat(63), &"z".repeat(64)] {
            assert!(parse_nonce(bad).is_err(), "{bad}");
        }
    }
}
