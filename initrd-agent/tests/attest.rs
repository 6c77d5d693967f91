//! The attesters against a real software TPM and a real device file: what each kind claims, signs and
//! latches.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use attested_tls::EvidenceRequest;
use evidence::{AdmissionPath, AttesterClaim, Binding, Channel, Evidence, EvidenceKind, Side};
use initrd_agent::{
    ExitReason,
    attest::{Attest, AttestError, Attester, Latch, latch},
};
use platform::{
    sev_guest::{SevGuest, SevGuestError},
    tpm::{HclAttester, TpmAttester, TpmError, Transport, VtpmAttester},
};
use software_tpm::{Authority, Connection, SoftwareTpm};
use std::{io, path::Path};
use tpm::{AttestationKey, EkKind, Public, Quote};

const PCRS: [u32; 2] = [4, 15];

struct Wire(Connection);

impl Transport for Wire {
    fn transact(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        self.0.transact(command)
    }
}

fn wire(tpm: &SoftwareTpm) -> Box<dyn Transport> {
    Box::new(Wire(tpm.connect().unwrap()))
}

/// A software TPM that also has what Azure's paravisor leaves in its own.
fn machine() -> SoftwareTpm {
    let tpm = Authority::new().unwrap().manufacture().unwrap();
    let mut connection = tpm.connect().unwrap();
    connection.store_for_owner(0x0140_0001, b"HCLA").unwrap();
    let template = AttestationKey::template(EkKind::Rsa2048, &[1; 32]);
    connection.keep_key(&template, 0x8100_0003).unwrap();
    drop(connection);
    tpm
}

/// A device that opens and knows no request of SNP's.
fn no_guest() -> SevGuest {
    SevGuest::open(Path::new("/dev/null")).unwrap()
}

fn request() -> EvidenceRequest {
    EvidenceRequest {
        path: AdmissionPath::Join,
        binding: Binding::compute(&Channel {
            attester: Side::Client,
            client_hello: b"one",
            server_hello: b"two",
            client_spki: b"three",
            server_spki: b"four",
            exporter: &[5; 32],
        }),
        challenge: None,
        pcrs: PCRS.to_vec(),
    }
}

#[test]
fn under_azures_paravisor_the_quote_is_bound_and_the_latch_holds() {
    let tpm = machine();
    let attester = HclAttester::start(wire(&tpm), Vec::new()).unwrap();
    let mut attester = Attester::AzureSevSnp(attester);
    assert_eq!(attester.claim(), AttesterClaim::AzureSevSnp);
    let pcr_15 = |attester: &mut Attester| {
        let attestation = attester.attest(&request()).unwrap();
        assert!(attestation.activated.is_none());
        let Evidence::AzureSevSnp(evidence) = attestation.evidence else {
            panic!("{:?}", attestation.evidence);
        };
        assert_eq!(evidence.hcl_report, b"HCLA");
        let quote = Quote::parse(&evidence.quote.attestation).unwrap();
        assert_eq!(quote.extra_data, request().binding.qualifying_data());
        evidence.quote.pcrs[&15]
    };
    assert_eq!(pcr_15(&mut attester), [0; 32]);
    assert_eq!(latch(&mut attester, &[2; 32]).unwrap(), Latch::Extended);
    assert_ne!(pcr_15(&mut attester), [0; 32]);
}

#[test]
fn a_tpm_needs_its_challenge_and_latches() {
    let tpm = machine();
    let attester = TpmAttester::start(wire(&tpm), Vec::new()).unwrap();
    let mut attester = Attester::Tpm(attester);
    assert_eq!(attester.claim().kind(), EvidenceKind::Tpm);
    assert!(matches!(
        attester.attest(&request()),
        Err(AttestError::NoChallenge)
    ));
    assert_eq!(latch(&mut attester, &[2; 32]).unwrap(), Latch::Extended);
}

/// What the host may reset is no latch, so it is left alone: the server keeps count.
#[test]
fn a_vtpm_beside_the_guest_is_claimed_and_never_latched() {
    let tpm = machine();
    let vtpm = VtpmAttester::start(wire(&tpm)).unwrap();
    let ak_public = vtpm.ak_public().to_vec();
    Public::parse(&ak_public).unwrap();
    let mut attester = Attester::SevSnpVtpm(no_guest(), vtpm);
    assert_eq!(attester.claim(), AttesterClaim::SevSnpVtpm { ak_public });
    assert_eq!(latch(&mut attester, &[2; 32]).unwrap(), Latch::Server);
    // Its report failed, so there is nothing: the quote alone is no evidence.
    assert_eq!(exit_reason(&mut attester), ExitReason::EvidenceRefused);
    drop(attester);
    let mut other = VtpmAttester::start(wire(&tpm)).unwrap();
    let quote = other.quote(&[0; 32], &[15]).unwrap();
    assert_eq!(quote.pcrs[&15], [0; 32]);
}

#[test]
fn a_bare_guest_without_firmware_ends_its_boot() {
    let mut attester = Attester::SevSnp(no_guest());
    assert_eq!(attester.claim(), AttesterClaim::SevSnp);
    assert_eq!(latch(&mut attester, &[2; 32]).unwrap(), Latch::Server);
    assert_eq!(exit_reason(&mut attester), ExitReason::EvidenceRefused);
}

fn exit_reason(attester: &mut Attester) -> ExitReason {
    let error = attester.attest(&request()).unwrap_err();
    assert!(matches!(
        error,
        AttestError::Report(SevGuestError::Request { .. })
    ));
    error.exit_reason().unwrap()
}

#[test]
fn pcrs_that_no_tpm_has_end_the_session_only() {
    let tpm = machine();
    let attester = HclAttester::start(wire(&tpm), Vec::new()).unwrap();
    let mut attester = Attester::AzureSevSnp(attester);
    let error = attester
        .attest(&EvidenceRequest {
            pcrs: vec![24],
            ..request()
        })
        .unwrap_err();
    assert!(matches!(error, AttestError::Quote(TpmError::Selection(_))));
    assert_eq!(error.exit_reason(), None);
}
