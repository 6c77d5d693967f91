//! Reports with what each subject needs of them.

use crate::machine::{self, PRODUCT, SnpGuest};
use anyhow::{Context as _, Result, ensure};
use appraisal::{Answer, Appraiser, CredentialSecret, Endorsements, Policy, ReferenceValues};
use aws_lc_rs::signature::{
    ECDSA_P384_SHA384_FIXED, ParsedPublicKey, RSA_PSS_2048_8192_SHA384, VerificationAlgorithm,
};
use evidence::{AttesterClaim, Binding, Channel, Evidence, Side, SnpEvidence};
use serde_json::json;
use sev::{
    certs::snp::{Certificate, Verifiable as _},
    firmware::guest::AttestationReport,
    parser::ByteParser as _,
};
use snp::{Signature, layout::SIGNATURE};

/// What the guests run.
const IMAGE: &str = "bench";

/// Chips, and reports of each.
const CHIPS: u16 = 16;
const REPORTS: u8 = 4;

/// Distinct reports of several chips, and a verifier of each kind.
pub(crate) struct Lab {
    appraiser: Appraiser,
    now: u64,
    list: Vec<u8>,
    ask: ParsedPublicKey,
    sev_ask: Certificate,
    cases: Vec<Case>,
}

/// One report.
struct Case {
    evidence: Evidence,
    binding: Binding,
    report: Vec<u8>,
    key: ParsedPublicKey,
    signature: Signature,
    leaf: Vec<u8>,
    certificate: x509::Certificate,
}

impl Lab {
    /// Makes the reports, under the development root of this target folder.
    pub(crate) fn open() -> Result<Self> {
        let root = qemu_tests::development_root("bench")?;
        let ask = &root.chain(PRODUCT).ask;
        let mut cases = Vec::new();
        for serial in 0..CHIPS {
            let guest = SnpGuest::on(&machine::chip(&root, serial))?;
            for channel in 0..REPORTS {
                cases.push(Case::new(&guest, binding(channel))?);
            }
        }
        Ok(Self {
            appraiser: appraiser(&machine::chip(&root, 0))?,
            now: machine::now()?.0,
            list: machine::revocation_list(&root)?,
            ask: key(&RSA_PSS_2048_8192_SHA384, &x509::Certificate::parse(ask)?)?,
            sev_ask: Certificate::from_der(ask)?,
            cases,
        })
    }

    /// How many reports there are.
    pub(crate) fn len(&self) -> usize {
        self.cases.len()
    }

    /// Only the report's signature, by a parsed key.
    pub(crate) fn verify_p384(&self, at: usize) -> Result<()> {
        let case = self.case(at)?;
        let (signed, _) = case.report.split_at(SIGNATURE);
        let verified = case.key.verify_sig(signed, case.signature.numbers());
        verified.context("signature of a report")
    }

    /// Only the signature of the VCEK's certificate, by a parsed key.
    pub(crate) fn verify_rsa(&self, at: usize) -> Result<()> {
        let certificate = &self.case(at)?.certificate;
        let signature = certificate
            .signature()
            .context("signature of whole bytes")?;
        let verified = self.ask.verify_sig(certificate.signed(), signature);
        verified.context("signature of a certificate")
    }

    /// All that a verifier does: bytes in, proof out. The certificate is the host's.
    pub(crate) fn appraise(&self, at: usize, endorsements: Endorsements<'_>) -> Result<()> {
        let case = self.case(at)?;
        let secret = CredentialSecret::try_fill(|secret| aws_lc_rs::rand::fill(secret))?;
        let (challenged, _) = self.appraiser.challenge(&AttesterClaim::SevSnp, secret)?;
        let answer = Answer {
            activated: None,
            evidence: &case.evidence,
            binding: &case.binding,
            endorsements,
            now: self.now,
        };
        let appraised = self.appraiser.appraise(challenged, &answer)?;
        ensure!(appraised.image() == IMAGE, "another image");
        Ok(())
    }

    /// The root's revocation list, as a verifier has it that fetches them.
    pub(crate) fn with_list(&self) -> Endorsements<'_> {
        Endorsements {
            leaf: None,
            revocations: Some(&self.list),
        }
    }

    /// The other verifier's two steps from bytes, its ASK parsed and taken as verified.
    pub(crate) fn verify_by_sev(&self, at: usize) -> Result<()> {
        let case = self.case(at)?;
        let leaf = Certificate::from_der(&case.leaf)?;
        (&self.sev_ask, &leaf).verify()?;
        let report = AttestationReport::from_bytes(&case.report)?;
        (&leaf, &report).verify()?;
        Ok(())
    }

    fn case(&self, at: usize) -> Result<&Case> {
        self.cases.get(at).context("no such report")
    }
}

impl Case {
    fn new(guest: &SnpGuest, binding: Binding) -> Result<Self> {
        let evidence = guest.boot(&binding)?;
        let SnpEvidence { report, .. } = &evidence;
        let leaf = guest.leaf.certificate().to_vec();
        let certificate = x509::Certificate::parse(&leaf)?;
        Ok(Self {
            report: report.clone(),
            key: key(&ECDSA_P384_SHA384_FIXED, &certificate)?,
            signature: Signature::parse(report.get(SIGNATURE..).context("a short report")?)?,
            evidence: Evidence::SevSnp(evidence),
            binding,
            leaf,
            certificate,
        })
    }
}

fn key(
    algorithm: &'static dyn VerificationAlgorithm,
    certificate: &x509::Certificate,
) -> Result<ParsedPublicKey> {
    let bytes = certificate.public_key().context("key of whole bytes")?;
    ParsedPublicKey::new(algorithm, bytes).context("public key")
}

fn binding(channel: u8) -> Binding {
    Binding::compute(&Channel {
        attester: Side::Client,
        client_hello: b"",
        server_hello: b"",
        client_spki: b"",
        server_spki: b"",
        exporter: &[channel; 32],
    })
}

fn appraiser(chip: &qemu_tests::Chip) -> Result<Appraiser> {
    let policy = qemu_tests::policy("sev-snp", chip)?;
    let mut image = machine::measurements();
    image["name"] = IMAGE.into();
    image["roles"] = json!(["worker"]);
    let values = json!({ "version": 1, "serial": 1, "images": [image] });
    Ok(Appraiser::new(
        Policy::parse(policy.to_string().as_bytes())?,
        ReferenceValues::parse(values.to_string().as_bytes())?,
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use snp::layout::MEASUREMENT;

    #[test]
    fn every_subject_accepts_every_report_and_refuses_a_changed_one() {
        let mut lab = Lab::open().unwrap();
        let subjects: [fn(&Lab, usize) -> Result<()>; 4] = [
            Lab::verify_p384,
            |lab, at| lab.appraise(at, Endorsements::default()),
            |lab, at| lab.appraise(at, lab.with_list()),
            Lab::verify_by_sev,
        ];
        for at in 0..lab.len() {
            lab.verify_rsa(at).unwrap();
            for subject in subjects {
                subject(&lab, at).unwrap();
            }
        }
        let case = &mut lab.cases[0];
        case.report[MEASUREMENT] ^= 1;
        if let Evidence::SevSnp(evidence) = &mut case.evidence {
            evidence.report[MEASUREMENT] ^= 1;
        }
        for subject in subjects {
            subject(&lab, 0).unwrap_err();
        }
    }
}
