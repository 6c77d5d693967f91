//! A saved answer to `GET /?nonce=`, judged without asking anybody.

use anyhow::{Result, bail};
use api::{atls, verify as messages};
use appraisal::{CredentialSecret, Verified};
use aws_lc_rs::rand;
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use evidence::{EvidenceKind, Nonce, Subject};
use identity::NodeName;
use owner::{AkCertificate, OwnerFingerprint};
use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::Value;
use std::{collections::BTreeMap, path::Path};

use super::{
    Target, Verifier,
    ask::{compare, now},
    finding::{Check, Failure, Finding, Proven, Refused},
};
use crate::files;

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

/// `GET`'s answer (docs/verify.md).
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    nonce: String,
    node: Node,
    /// What the service says of its key; what is true follows from the rest.
    #[expect(dead_code, reason = "a field of the format that decides nothing")]
    attestation_key: String,
    #[serde(default)]
    ak_certificate: Option<Value>,
    evidence: Evidence,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Node {
    name: String,
    cluster_id: String,
    kind: String,
    tpm: Option<Tpm>,
    vtpm_ak_public: Option<Bytes>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tpm {
    ek_certificate: Bytes,
    ek_public: Bytes,
    ak_public: Bytes,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Evidence {
    quote: Option<Quote>,
    report: Option<Report>,
    hcl_report: Option<Bytes>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Quote {
    attestation: Bytes,
    signature: Bytes,
    pcrs: BTreeMap<u32, Digest>,
    event_log: Bytes,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Report {
    attestation_report: Bytes,
    certificates: Bytes,
}

/// Base64 as it stands in the document.
#[derive(Debug, Default)]
struct Bytes(Vec<u8>);

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map(Self).map_err(D::Error::custom)
    }
}

/// A value of a PCR, hexadecimal.
#[derive(Debug)]
struct Digest(Vec<u8>);

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        hex::decode(text).map(Self).map_err(D::Error::custom)
    }
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
        let document: Document = serde_json::from_slice(text).map_err(malformed)?;
        if document.version != 1 {
            return Err(differs("version", "1", &document.version.to_string()));
        }
        let nonce = hex::encode(asked.nonce.0);
        if document.nonce != nonce {
            return Err(differs("nonce", &nonce, &document.nonce));
        }
        let (answer, certificate) = document.split()?;
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

impl Document {
    /// The answer as it would have come by gRPC, so that the same bounds hold, and the certificate.
    fn split(self) -> Result<(messages::GetAttestationResponse, Option<Value>), Failure> {
        let kind: EvidenceKind = self.node.kind.parse().map_err(malformed)?;
        let tpm = self.node.tpm.map(|tpm| atls::TpmIdentity {
            ek_certificate: tpm.ek_certificate.0,
            ek_public: tpm.ek_public.0,
            ak_public: tpm.ak_public.0,
        });
        let node = messages::Node {
            name: self.node.name,
            cluster_id: self.node.cluster_id,
            kind: atls::EvidenceKind::from(kind).into(),
            tpm,
            vtpm_ak_public: self.node.vtpm_ak_public.unwrap_or_default().0,
        };
        let answer = messages::GetAttestationResponse {
            node: Some(node),
            evidence: Some(atls::Evidence {
                activated_secret: Vec::new(),
                kind: Some(self.evidence.message(kind)?),
            }),
        };
        Ok((answer, self.ak_certificate))
    }
}

impl Evidence {
    /// What the kind has, all of it and nothing else.
    fn message(self, kind: EvidenceKind) -> Result<atls::evidence::Kind, Failure> {
        use atls::evidence::Kind;
        let parts = (
            kind,
            self.quote.map(Quote::message),
            self.report.map(Report::message),
            self.hcl_report,
        );
        Ok(match parts {
            (EvidenceKind::Tpm, Some(quote), None, None) => Kind::Tpm(quote),
            (EvidenceKind::SevSnp, None, Some(report), None) => Kind::SevSnp(report),
            (EvidenceKind::SevSnpVtpm, quote @ Some(_), snp @ Some(_), None) => {
                Kind::SevSnpVtpm(atls::SnpVtpmEvidence { snp, quote })
            }
            (EvidenceKind::AzureSevSnp, quote @ Some(_), None, Some(Bytes(hcl_report))) => {
                Kind::AzureSevSnp(atls::AzureSnpEvidence { hcl_report, quote })
            }
            _ => {
                let parts = format!("evidence: not exactly what kind `{kind}` has");
                return Err(malformed(serde_json::Error::custom(parts)));
            }
        })
    }
}

impl Quote {
    fn message(self) -> atls::TpmEvidence {
        let pcr = |(index, Digest(digest))| atls::Pcr { index, digest };
        atls::TpmEvidence {
            attestation: self.attestation.0,
            signature: self.signature.0,
            pcrs: self.pcrs.into_iter().map(pcr).collect(),
            event_log: self.event_log.0,
        }
    }
}

impl Report {
    fn message(self) -> atls::SnpEvidence {
        atls::SnpEvidence {
            report: self.attestation_report.0,
            certificates: self.certificates.0,
        }
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
