//! A TPM behind a Unix socket: the real one, and servers that are none.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use evidence::{AttesterClaim, Bound, Evidence, EvidenceKind, Nonce, StatementBinding, Subject};
use identity::ClusterId;
use platform::{
    attester::{Attester, Devices, EvidenceError, Latch},
    tpm::{TpmAttester, TpmDevice, TpmError},
};
use software_tpm::{Authority, SoftwareTpm};
use std::{
    io::{Read, Write},
    os::unix::net::UnixListener,
    thread,
};
use tpm::Quote;

fn machine() -> SoftwareTpm {
    Authority::new().unwrap().manufacture().unwrap()
}

fn socket(tpm: &SoftwareTpm) -> TpmDevice {
    TpmDevice::Socket(tpm.socket().unwrap())
}

fn devices(tpm: TpmDevice) -> Devices {
    Devices {
        tpm,
        ..Devices::default()
    }
}

fn binding() -> StatementBinding {
    StatementBinding::compute(&Subject {
        nonce: &Nonce([1; 32]),
        cluster: &ClusterId::from_bytes([2; 32]),
        node: &"worker-0".parse().unwrap(),
    })
}

#[test]
fn the_attester_over_a_socket_signs_latches_and_leaves_room() {
    let tpm = machine();
    let devices = devices(socket(&tpm));
    // More often than there are slots for objects.
    for round in 0..4_u8 {
        let mut attester = Attester::open(EvidenceKind::Tpm, &devices).unwrap();
        assert!(matches!(attester.claim(), AttesterClaim::Tpm(_)));
        let attested = attester.evidence(&binding(), &[4, 15], None).unwrap();
        assert!(attested.activated.is_none());
        let Evidence::Tpm(evidence) = attested.evidence else {
            panic!("{:?}", attested.evidence);
        };
        let quote = Quote::parse(&evidence.attestation).unwrap();
        assert_eq!(quote.extra_data, binding().qualifying_data());
        assert_eq!(evidence.pcrs[&15] == [0; 32], round == 0);
        assert_eq!(attester.latch(&[round; 32]).unwrap(), Latch::Extended);
    }
}

/// Another process of the same boot, or of a later one, has the agent's key again, and no other.
#[test]
fn what_an_attestation_key_was_made_with_makes_it_again() {
    let mut tpm = machine();
    let device = socket(&tpm);
    let (unique, key) = {
        let agent = TpmAttester::open(&device).unwrap();
        (*agent.unique(), agent.identity().clone())
    };
    let again = TpmAttester::resume(&device, &unique).unwrap();
    assert_eq!((again.unique(), again.identity()), (&unique, &key));
    drop(again);
    let other = TpmAttester::resume(&device, &[7; 32]).unwrap();
    assert_ne!(other.identity().ak_public, key.ak_public);
    drop(other);
    tpm.power_cycle().unwrap();
    let later = Attester::resume(EvidenceKind::Tpm, &devices(socket(&tpm)), &unique).unwrap();
    assert_eq!(later.claim(), AttesterClaim::Tpm(key));
}

/// There is no resource manager behind a socket: what a killed process loaded would stay for good.
/// There is no resource manager behind a socket: what a killed process loaded would stay for good.
#[test]
fn what_a_killed_process_left_behind_is_flushed() {
    let tpm = machine();
    let device = socket(&tpm);
    for _ in 0..3 {
        load_and_die(&tpm);
        TpmAttester::open(&device).map(drop).unwrap();
    }
}

/// What a process does that is killed with keys loaded: its connection ends, its keys stay.
fn load_and_die(tpm: &SoftwareTpm) {
    let mut connection = tpm.connect().unwrap();
    // TPM2_CreatePrimary of an ECC key under the owner, twice, as a process that is killed then.
    let template = tpm::AttestationKey::template(tpm::EkKind::EccP256, &[7; 32]);
    for _ in 0..2 {
        let size = |bytes: &[u8]| u16::try_from(bytes.len()).unwrap().to_be_bytes();
        let body = [
            &0x131_u32.to_be_bytes()[..],
            &0x4000_0001_u32.to_be_bytes(),
            &[0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0],
            &[0, 4, 0, 0, 0, 0],
            &size(&template),
            &template,
            &[0; 6],
        ]
        .concat();
        let length = u32::try_from(body.len() + 6).unwrap().to_be_bytes();
        let response = connection
            .transact(&[&[0x80, 2], &length[..], &body].concat())
            .unwrap();
        assert_eq!(response[6..10], [0; 4], "{response:02x?}");
    }
}

#[test]
fn only_a_tpm_takes_a_challenge() {
    let guest = platform::sev_guest::SevGuest::open(std::path::Path::new("/dev/null")).unwrap();
    let mut attester = Attester::SevSnp(guest);
    let challenge = evidence::TpmChallenge {
        credential_blob: vec![1],
        encrypted_secret: vec![2],
    };
    let refused = attester.evidence(&binding(), &[], Some(&challenge));
    assert!(
        matches!(
            refused,
            Err(EvidenceError::Unchallenged(EvidenceKind::SevSnp))
        ),
        "{refused:?}"
    );
}

/// A server that answers every command with `answer`, and then hangs up.
fn against(answer: &'static [u8]) -> TpmError {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut command = [0; 4096];
        assert!(stream.read(&mut command).unwrap() > 0);
        stream.write_all(answer).unwrap();
    });
    let error = TpmAttester::open(&TpmDevice::Socket(path)).unwrap_err();
    server.join().unwrap();
    error
}

#[test]
fn a_server_that_is_no_tpm_is_refused() {
    for answer in [
        &b""[..],
        b"HTTP/1.1 ",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        // Shorter than a header, longer than a response may be, longer than what comes.
        &[0x80, 1, 0, 0, 0, 9, 0, 0, 0, 0],
        &[0x80, 1, 0, 0, 0x10, 1, 0, 0, 0, 0],
        &[0x80, 1, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0],
        &[0x80, 1, 0, 0, 0, 20, 0, 0, 0, 0, 1],
    ] {
        let error = against(answer);
        assert!(
            matches!(error, TpmError::Exchange { .. }),
            "{answer:02x?}: {error:?}"
        );
    }
    // A capability of more handles than any TPM has.
    let many = &[
        0x80, 1, 0, 0, 0, 19, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff,
    ];
    let error = against(many);
    assert!(matches!(error, TpmError::Response { .. }), "{error:?}");
}
