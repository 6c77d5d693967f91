//! Statements of running nodes, to and from domain values.

use crate::{
    Malformed, atls,
    evidence_messages::parse_claim,
    malformed::{fixed, name, required},
    verify,
};
use evidence::{AttesterClaim, Evidence, Nonce, TpmChallenge};
use identity::{ClusterId, NodeName};

/// What a node says it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatedNode {
    /// Its name in the cluster.
    pub name: NodeName,
    /// The cluster.
    pub cluster: ClusterId,
    /// What vouches for it.
    pub claim: AttesterClaim,
}

/// What a verifier asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatementRequest {
    /// Its nonce.
    pub nonce: Nonce,
    /// Its challenge, for a TPM.
    pub challenge: Option<TpmChallenge>,
}

impl From<StatedNode> for verify::Node {
    fn from(node: StatedNode) -> Self {
        let mut message = Self {
            name: node.name.to_string(),
            cluster_id: node.cluster.to_string(),
            kind: atls::EvidenceKind::from(node.claim.kind()).into(),
            ..Self::default()
        };
        match node.claim {
            AttesterClaim::AzureSevSnp | AttesterClaim::SevSnp => {}
            AttesterClaim::SevSnpVtpm { ak_public } => message.vtpm_ak_public = ak_public,
            AttesterClaim::Tpm(identity) => message.tpm = Some(identity.into()),
        }
        message
    }
}

impl TryFrom<verify::Node> for StatedNode {
    type Error = Malformed;

    fn try_from(message: verify::Node) -> Result<Self, Malformed> {
        Ok(Self {
            name: name("node.name", &message.name)?,
            cluster: name("node.cluster_id", &message.cluster_id)?,
            claim: parse_claim(message.kind, message.tpm, message.vtpm_ak_public)?,
        })
    }
}

impl From<StatementRequest> for verify::GetAttestationRequest {
    fn from(request: StatementRequest) -> Self {
        Self {
            nonce: request.nonce.0.to_vec(),
            challenge: request.challenge.map(Into::into),
        }
    }
}

impl TryFrom<verify::GetAttestationRequest> for StatementRequest {
    type Error = Malformed;

    fn try_from(message: verify::GetAttestationRequest) -> Result<Self, Malformed> {
        Ok(Self {
            nonce: Nonce(fixed("nonce", &message.nonce)?),
            challenge: message.challenge.map(TryInto::try_into).transpose()?,
        })
    }
}

impl verify::GetIdentityResponse {
    /// What the node says it is.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn parse(self) -> Result<StatedNode, Malformed> {
        required("node", self.node)?.try_into()
    }
}

impl verify::GetAttestationResponse {
    /// What the node says it is, its evidence, and what its TPM made of the challenge, if anything.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn parse(self) -> Result<(StatedNode, Evidence, Option<Vec<u8>>), Malformed> {
        let node = required("node", self.node)?.try_into()?;
        let mut message = required("evidence", self.evidence)?;
        let evidence = required("evidence.kind", message.kind.take())?.try_into()?;
        let activated = core::mem::take(&mut message.activated_secret);
        let activated = (!activated.is_empty()).then_some(activated);
        Ok((node, evidence, activated))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use evidence::TpmIdentity;

    fn node(claim: AttesterClaim) -> StatedNode {
        StatedNode {
            name: "worker-0".parse().unwrap(),
            cluster: ClusterId::from_bytes([7; 32]),
            claim,
        }
    }

    fn tpm() -> AttesterClaim {
        AttesterClaim::Tpm(TpmIdentity {
            ek_certificate: vec![],
            ek_public: vec![2],
            ak_public: vec![3],
        })
    }

    #[test]
    fn every_domain_value_survives_the_round_trip() {
        for claim in [
            AttesterClaim::AzureSevSnp,
            AttesterClaim::SevSnp,
            AttesterClaim::SevSnpVtpm { ak_public: vec![1] },
            tpm(),
        ] {
            let node = node(claim);
            let message = verify::Node::from(node.clone());
            assert_eq!(StatedNode::try_from(message), Ok(node));
        }
        let request = StatementRequest {
            nonce: Nonce([1; 32]),
            challenge: Some(TpmChallenge {
                credential_blob: vec![1],
                encrypted_secret: vec![2],
            }),
        };
        let message = verify::GetAttestationRequest::from(request.clone());
        assert_eq!(StatementRequest::try_from(message), Ok(request));
    }

    #[test]
    fn malformed_parts_are_named() {
        let good = || verify::Node::from(node(tpm()));
        let refused = |change: fn(&mut verify::Node)| {
            let mut message = good();
            change(&mut message);
            StatedNode::try_from(message).unwrap_err().to_string()
        };
        assert_eq!(refused(|node| node.name = "Worker 0".into()), "node.name");
        assert_eq!(refused(|node| node.cluster_id.clear()), "node.cluster_id");
        assert!(refused(|node| node.kind = 0).contains("kind"));
        assert!(refused(|node| node.kind = 99).contains("claim.kind"));
        assert!(refused(|node| node.tpm = None).contains("claim.tpm"));
        assert!(refused(|node| node.vtpm_ak_public = vec![1]).contains("vtpm_ak_public"));
        for length in [0, 31, 33, 64] {
            let message = verify::GetAttestationRequest {
                nonce: vec![0; length],
                challenge: None,
            };
            assert!(StatementRequest::try_from(message).is_err(), "{length}");
        }
        assert!(verify::GetIdentityResponse::default().parse().is_err());
        let empty = verify::GetAttestationResponse {
            node: Some(good()),
            evidence: Some(atls::Evidence::default()),
        };
        assert!(empty.parse().is_err());
    }
}
