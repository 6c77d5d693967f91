//! The vTPMs of confidential guests, stood in for by a real software TPM: a report in NV and a kept
//! key as Azure's paravisor leaves them, and a TPM that nothing vouches for.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use evidence::TpmEvidence;
use platform::tpm::{HclAttester, TpmError, Transport, VtpmAttester};
use software_tpm::{Authority, Connection, SoftwareTpm};
use std::{
    io,
    sync::{Arc, Mutex},
};
use tpm::{AttestationKey, EkKind, QuoteError};

const REPORT: u32 = 0x0140_0001;
const KEY: u32 = 0x8100_0003;
const PCRS: [u32; 3] = [4, 11, 15];
const DATA: [u8; 32] = [0x33; 32];

/// A command and its answer.
type Exchange = (Vec<u8>, Vec<u8>);

/// Passes everything on and keeps commands and answers.
struct Wire {
    connection: Connection,
    seen: Arc<Mutex<Vec<Exchange>>>,
}

impl Transport for Wire {
    fn transact(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        let answer = self.connection.transact(command)?;
        let exchange = (command.to_vec(), answer.clone());
        self.seen.lock().unwrap().push(exchange);
        Ok(answer)
    }
}

fn wire(tpm: &SoftwareTpm) -> Wire {
    Wire {
        connection: tpm.connect().unwrap(),
        seen: Arc::default(),
    }
}

fn machine() -> SoftwareTpm {
    Authority::new().unwrap().manufacture().unwrap()
}

/// The size of a blob with one key in its runtime data; more than one `TPM2_NV_Read` returns.
fn report() -> Vec<u8> {
    (0..1903_u32).map(|i| i.to_le_bytes()[0] ^ 0x48).collect()
}

fn template(unique: u8) -> Vec<u8> {
    AttestationKey::template(EkKind::Rsa2048, &[unique; 32])
}

fn azure_machine() -> SoftwareTpm {
    let tpm = machine();
    let mut connection = tpm.connect().unwrap();
    connection.store_for_owner(REPORT, &report()).unwrap();
    connection.keep_key(&template(1), KEY).unwrap();
    drop(connection);
    tpm
}

/// `TPM2_ReadPublic`, as a report would have it.
fn public_of(tpm: &SoftwareTpm, handle: u32) -> AttestationKey {
    let mut command = vec![0x80, 1, 0, 0, 0, 14, 0, 0, 1, 0x73];
    command.extend(handle.to_be_bytes());
    let answer = tpm.connect().unwrap().transact(&command).unwrap();
    let len = u16::from_be_bytes([answer[10], answer[11]]);
    AttestationKey::parse(&answer[12..][..usize::from(len)]).unwrap()
}

fn verify(key: &AttestationKey, quote: &TpmEvidence) -> Result<[u8; 32], QuoteError> {
    let verified = key
        .signing_key()
        .verify(&quote.attestation, &quote.signature)?;
    Ok(verified.extra_data.try_into().unwrap())
}

#[test]
fn the_report_is_read_whole_and_the_kept_key_quotes() {
    let tpm = azure_machine();
    let kept = public_of(&tpm, KEY);
    let mut attester = HclAttester::start(Box::new(wire(&tpm)), vec![7]).unwrap();
    let evidence = attester.attest(&DATA, &PCRS).unwrap();
    assert_eq!(evidence.hcl_report, report());
    assert_eq!(verify(&kept, &evidence.quote), Ok(DATA));
    assert!(evidence.quote.pcrs.keys().eq(&PCRS));
    assert_eq!(evidence.quote.event_log, [7]);
    let again = attester.attest(&[0x44; 32], &PCRS).unwrap();
    assert_eq!(verify(&kept, &again.quote), Ok([0x44; 32]));
}

#[test]
fn no_read_of_the_report_is_longer_than_a_kilobyte() {
    let tpm = azure_machine();
    let wire = wire(&tpm);
    let seen = Arc::clone(&wire.seen);
    drop(HclAttester::start(Box::new(wire), Vec::new()).unwrap());
    let seen = seen.lock().unwrap();
    let sizes: Vec<_> = seen
        .iter()
        .filter(|(command, _)| command[6..10] == [0, 0, 1, 0x4e])
        .map(|(command, _)| &command[command.len() - 4..])
        .collect();
    assert_eq!(sizes, [[4, 0, 0, 0], [3, 0x6f, 4, 0]]);
}

#[test]
fn the_latch_is_a_pcr_of_the_quote_until_the_power_is_cut() {
    let mut tpm = azure_machine();
    let pcr = |tpm: &SoftwareTpm| {
        let mut attester = HclAttester::start(Box::new(wire(tpm)), Vec::new()).unwrap();
        let evidence = attester.attest(&DATA, &[15]).unwrap();
        attester.extend(15, &[1; 32]).unwrap();
        evidence.quote.pcrs[&15]
    };
    assert_eq!(pcr(&tpm), [0; 32]);
    assert_ne!(pcr(&tpm), [0; 32]);
    tpm.power_cycle().unwrap();
    assert_eq!(pcr(&tpm), [0; 32]);
}

#[test]
fn a_machine_without_report_or_key_is_not_azures() {
    let tpm = machine();
    let missing = |tpm: &SoftwareTpm| match HclAttester::start(Box::new(wire(tpm)), Vec::new()) {
        Err(TpmError::Missing { handle, .. }) => handle,
        other => panic!("{other:?}"),
    };
    assert_eq!(missing(&tpm), REPORT);
    let mut connection = tpm.connect().unwrap();
    connection.store_for_owner(REPORT, &report()).unwrap();
    drop(connection);
    assert_eq!(missing(&tpm), KEY);
}

/// The verifier takes the key from the report, so a key that was put in its place helps nobody.
#[test]
fn another_key_at_the_handle_makes_quotes_that_do_not_verify() {
    let tpm = azure_machine();
    let vouched_for = public_of(&tpm, KEY);
    let other = machine();
    let mut connection = other.connect().unwrap();
    connection.store_for_owner(REPORT, &report()).unwrap();
    connection.keep_key(&template(1), KEY).unwrap();
    drop(connection);
    let mut attester = HclAttester::start(Box::new(wire(&other)), Vec::new()).unwrap();
    let evidence = attester.attest(&DATA, &PCRS).unwrap();
    assert_eq!(
        verify(&vouched_for, &evidence.quote),
        Err(QuoteError::BadSignature)
    );
}

#[test]
fn an_answer_cut_anywhere_is_an_error() {
    struct Replay(std::vec::IntoIter<Vec<u8>>);
    impl Transport for Replay {
        fn transact(&mut self, _: &[u8]) -> io::Result<Vec<u8>> {
            self.0
                .next()
                .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
        }
    }
    let tpm = azure_machine();
    let wire = wire(&tpm);
    let seen = Arc::clone(&wire.seen);
    drop(HclAttester::start(Box::new(wire), Vec::new()).unwrap());
    let answers: Vec<Vec<u8>> = seen
        .lock()
        .unwrap()
        .iter()
        .map(|(_, answer)| answer.clone())
        .collect();
    let start = |answers: Vec<Vec<u8>>| {
        HclAttester::start(Box::new(Replay(answers.into_iter())), Vec::new()).map(drop)
    };
    start(answers.clone()).unwrap();
    for i in 0..answers.len() {
        for at in 0..answers[i].len() {
            let mut cut = answers.clone();
            cut[i].truncate(at);
            assert!(start(cut).is_err(), "answer {i} cut at {at}");
        }
    }
}

#[test]
fn a_report_larger_than_any_is_refused_before_it_is_read() {
    struct Endless;
    impl Transport for Endless {
        fn transact(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
            assert_eq!(command[6..10], [0, 0, 1, 0x69], "reads on");
            // TPM2_NV_ReadPublic of an index of 65535 bytes.
            let public = [0x01, 0x40, 0, 1, 0, 0x0b, 2, 2, 0, 2, 0, 0, 0xff, 0xff];
            let head = [0x80, 1, 0, 0, 0, 28, 0, 0, 0, 0, 0, 14];
            Ok([&head[..], &public, &[0, 0]].concat())
        }
    }
    assert!(matches!(
        HclAttester::start(Box::new(Endless), Vec::new()),
        Err(TpmError::Response { .. })
    ));
}

#[test]
fn a_vtpm_beside_the_guest_quotes_with_a_new_key_each_time() {
    let tpm = machine();
    let mut keys = Vec::new();
    for data in [[1; 32], [2; 32]] {
        let mut attester = VtpmAttester::start(Box::new(wire(&tpm))).unwrap();
        let key = AttestationKey::parse(attester.ak_public()).unwrap();
        let quote = attester.quote(&data, &PCRS).unwrap();
        assert_eq!(verify(&key, &quote), Ok(data));
        // 48 KiB of log and 32 KiB of certificates do not fit into a frame of 64 KiB.
        assert!(quote.event_log.is_empty());
        keys.push(attester.ak_public().to_vec());
    }
    assert_ne!(keys[0], keys[1]);
}
