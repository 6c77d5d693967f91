//! The JSON of a saved answer, taken apart.

use api::{atls, verify as messages};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use evidence::EvidenceKind;
use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::Value;
use std::collections::BTreeMap;

/// `GET`'s answer (docs/verify.md).
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Document {
    pub(crate) version: u32,
    pub(crate) nonce: String,
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

impl Document {
    pub(crate) fn parse(text: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(text)
    }

    /// The answer as it would have come by gRPC, so that the same bounds hold, and the certificate.
    pub(crate) fn split(
        self,
    ) -> serde_json::Result<(messages::GetAttestationResponse, Option<Value>)> {
        let kind: EvidenceKind = self.node.kind.parse().map_err(serde_json::Error::custom)?;
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
    fn message(self, kind: EvidenceKind) -> serde_json::Result<atls::evidence::Kind> {
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
                return Err(serde_json::Error::custom(parts));
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
