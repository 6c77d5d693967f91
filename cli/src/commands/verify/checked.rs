//! What a result says, and what it does not.

use appraisal::{KeyProof, Membership, Verified};
use evidence::EvidenceKind;
use serde::Serialize;
use std::collections::BTreeMap;

use super::{
    finding::{Finding, Outcome},
    target::Target,
};

/// Every check that was made, and what somebody might take for checked.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Lists {
    pub(super) checked: Vec<String>,
    pub(super) not_checked: Vec<String>,
}

impl Lists {
    pub(super) fn of(verified: &Verified, target: &Target) -> Self {
        let kind = verified.evidence_kind();
        let mut checked: Vec<&str> = Vec::new();
        checked.push("policy and reference values: signed by the owner");
        let proof = verified.key_proof();
        checked.push("freshness: the evidence is bound to this question's nonce");
        if kind.has_report() {
            checked
                .push("report: signed by a key that an accepted product line's root vouches for");
            checked.push("report: TCB, guest policy, VMPL and platform keep the policy");
        }
        checked.extend(match kind {
            EvidenceKind::Tpm => [
                "endorsement key: of the policy's authorities or in its list",
                attestation_key(proof),
                "quote: signed by that attestation key, over at least the policy's PCRs",
                "PCRs: those of one image of the reference values",
            ]
            .to_vec(),
            EvidenceKind::AzureSevSnp => [
                "report: launch measurement of a paravisor of the reference values",
                "attestation key: vouched for by the report",
                "quote: signed by that attestation key, over at least the policy's PCRs",
                "PCRs: those of one image of the reference values",
            ]
            .to_vec(),
            EvidenceKind::SevSnp | EvidenceKind::SevSnpVtpm => {
                vec!["report: launch measurement of one image of the reference values"]
            }
        });
        let mut not_checked = Vec::new();
        match verified.membership() {
            Membership::Latched => checked
                .push("PCR 15: the measured agent unlocked a disk of this cluster in this boot"),
            Membership::Stated => not_checked.push(
                "cluster: this platform has no latch; it is what software of the node states",
            ),
        }
        if kind == EvidenceKind::SevSnpVtpm {
            not_checked.push("PCRs: the host runs this vTPM");
        }
        match (&target.name, &target.attester) {
            _ if proof == KeyProof::Certified => {
                checked.push("node name: this machine was admitted to the cluster under it");
                not_checked.push(
                    "membership: whether the node was deleted or renamed since its admission",
                );
            }
            (_, Some(_)) => checked.push("node name: its record in the cluster names this machine"),
            (Some(_), None) => not_checked
                .push("node name: the one asked for, but what software of the node states"),
            (None, None) => not_checked.push(
                "node name: what software of the node states; give `NAME=ADDRESS` to ask for one",
            ),
        }
        not_checked.push("what runs on the node: pods, and whoever may start them");
        let owned = |lines: Vec<&str>| lines.into_iter().map(ToOwned::to_owned).collect();
        Self {
            checked: owned(checked),
            not_checked: owned(not_checked),
        }
    }
}

const fn attestation_key(proof: KeyProof) -> &'static str {
    match proof {
        KeyProof::Certified => {
            "attestation key: certified by the owner's side, which saw it activated in the endorsement key's TPM at the node's admission"
        }
        _ => "attestation key: proven by a challenge to be in the endorsement key's TPM",
    }
}

/// The lists of each kind of evidence that was verified.
pub(super) fn by_kind(findings: &[Finding]) -> BTreeMap<&'static str, &Lists> {
    let proven = findings
        .iter()
        .filter_map(|finding| match &finding.outcome {
            Outcome::Verified(proven) => Some((proven.evidence, &proven.lists)),
            _ => None,
        });
    proven.collect()
}
