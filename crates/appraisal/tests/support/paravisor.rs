//! Azure's paravisor over a development root: a vTPM's attestation key, the claims that name it, and
//! the report that vouches for the claims.
#![allow(dead_code, reason = "each test program uses a part")]

use crate::guest::{Guest, MEASUREMENT};
use appraisal::{AppraisalError, Appraised, REQUIRED_PCRS};
use aws_lc_rs::{
    digest::{SHA256, digest},
    rand::SystemRandom,
    rsa::{KeyPair, KeySize},
    signature::{KeyPair as _, RSA_PKCS1_SHA256},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use evidence::{AttesterClaim, AzureSnpEvidence, Evidence, TpmEvidence};
use serde_json::{Value, json};
use snp::{hcl, layout::REPORT_LEN};
use software_tpm::keys::attestation;
use std::{collections::BTreeMap, sync::LazyLock};
use tpm::{PcrSet, composite_digest};

/// The vTPM's key, and one of somebody else.
pub(crate) static KEY: LazyLock<RsaKey> = LazyLock::new(RsaKey::generate);
pub(crate) static OTHER_KEY: LazyLock<RsaKey> = LazyLock::new(RsaKey::generate);

pub(crate) struct RsaKey(KeyPair);

impl RsaKey {
    fn generate() -> Self {
        Self(KeyPair::generate(KeySize::Rsa2048).unwrap())
    }

    /// The key as the paravisor's claims have it.
    pub(crate) fn claim(&self, kid: &str) -> Value {
        // An `RSAPublicKey` (RFC 8017, A.1.1): headers of 9 bytes with the modulus' leading zero, the
        // modulus, a header of 2 bytes, the exponent.
        let public = self.0.public_key().as_ref();
        let [n, e] = [&public[9..265], &public[267..]].map(|n| URL_SAFE_NO_PAD.encode(n));
        json!({"kid": kid, "kty": "RSA", "n": n, "e": e, "key_ops": ["sign"]})
    }

    /// A `TPMT_SIGNATURE` by RSASSA with SHA-256 (TPM 2.0, Part 2, section 11.3.4).
    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        let mut signature = vec![0; 256];
        self.0
            .sign(
                &RSA_PKCS1_SHA256,
                &SystemRandom::new(),
                message,
                &mut signature,
            )
            .unwrap();
        [&[0x00, 0x14, 0x00, 0x0b, 0x01, 0x00][..], &signature].concat()
    }

    /// `TPM2_Quote` over `pcrs`, all of them.
    pub(crate) fn quote(
        &self,
        qualifying_data: &[u8; 32],
        pcrs: &BTreeMap<u32, [u8; 32]>,
    ) -> TpmEvidence {
        let selection = PcrSet::new(pcrs.keys().copied()).unwrap().encode();
        let attestation = attestation(qualifying_data, &selection, &composite_digest(pcrs));
        TpmEvidence {
            signature: self.sign(&attestation),
            attestation,
            pcrs: pcrs.clone(),
            event_log: Vec::new(),
        }
    }
}

/// A guest in a paravisor; all good, until a test changes a part.
pub(crate) struct AzureGuest {
    /// The hardware report; its `REPORT_DATA` is made for the claims in [`AzureGuest::evidence`].
    pub(crate) guest: Guest,
    pub(crate) claims: Value,
    pub(crate) pcrs: BTreeMap<u32, [u8; 32]>,
}

impl AzureGuest {
    pub(crate) fn new() -> Self {
        let mut guest = Guest::new();
        guest.policy["evidence"] = json!(["azure-sev-snp"]);
        guest.policy["azure_sev_snp"] = json!({"pcrs": REQUIRED_PCRS});
        guest.images = json!([image("v1", 1), image("v2", 2)]);
        Self {
            claims: json!({"keys": [KEY.claim("HCLAkPub"), OTHER_KEY.claim("HCLEkPub")]}),
            pcrs: pcrs(1),
            guest,
        }
    }

    /// What the paravisor keeps in the vTPM.
    pub(crate) fn hcl_report(&self) -> Vec<u8> {
        let json = self.claims.to_string().into_bytes();
        let mut guest = self.guest.clone();
        guest.report.report_data = report_data(&json);
        wrap(&guest.signed(), &json)
    }

    pub(crate) fn quote(&self) -> TpmEvidence {
        KEY.quote(&self.guest.binding.qualifying_data(), &self.pcrs)
    }

    pub(crate) fn evidence(&self) -> AzureSnpEvidence {
        AzureSnpEvidence {
            hcl_report: self.hcl_report(),
            quote: self.quote(),
        }
    }

    pub(crate) fn appraise(&self) -> Result<Appraised, AppraisalError> {
        self.appraise_evidence(self.evidence())
    }

    pub(crate) fn appraise_evidence(
        &self,
        evidence: AzureSnpEvidence,
    ) -> Result<Appraised, AppraisalError> {
        let evidence = Evidence::AzureSevSnp(evidence);
        self.guest
            .appraise_evidence(&AttesterClaim::AzureSevSnp, &evidence)
    }

    pub(crate) fn appraise_blob(&self, hcl_report: Vec<u8>) -> Result<Appraised, AppraisalError> {
        self.appraise_evidence(AzureSnpEvidence {
            hcl_report,
            quote: self.quote(),
        })
    }
}

/// An image that runs in the paravisor which [`MEASUREMENT`] is of.
pub(crate) fn image(name: &str, seed: u8) -> Value {
    let values: BTreeMap<u32, _> = pcrs(seed)
        .into_iter()
        .map(|(pcr, value)| (pcr, [hex::encode(value)]))
        .collect();
    json!({
        "name": name,
        "roles": ["worker"],
        "pcrs": values,
        "azure_sev_snp": {"measurements": [hex::encode(MEASUREMENT)]},
    })
}

pub(crate) fn pcrs(seed: u8) -> BTreeMap<u32, [u8; 32]> {
    let value = |pcr| if pcr == 15 { [0; 32] } else { [seed; 32] };
    REQUIRED_PCRS.map(|pcr| (pcr, value(pcr))).into()
}

/// `REPORT_DATA` for claims.
pub(crate) fn report_data(json: &[u8]) -> [u8; 64] {
    let mut data = [0; 64];
    data[..32].copy_from_slice(digest(&SHA256, json).as_ref());
    data
}

/// What the paravisor writes around a hardware report and claims.
pub(crate) fn wrap(report: &[u8], json: &[u8]) -> Vec<u8> {
    assert_eq!(report.len(), REPORT_LEN);
    let length = u32::try_from(json.len()).unwrap();
    let mut bytes = hcl::MAGIC.to_vec();
    for field in [2, 0x4d4 + length, 2, 0, 0, 0, 0] {
        bytes.extend(u32::to_le_bytes(field));
    }
    bytes.extend(report);
    for field in [20 + length, 1, 2, 1, length] {
        bytes.extend(u32::to_le_bytes(field));
    }
    bytes.extend(json);
    bytes
}
