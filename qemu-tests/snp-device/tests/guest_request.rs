//! The device as a caller of `ioctl` sees it, without a kernel between.
#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a failed step fails the test"
)]

use rustix::io::Errno;
use snp_device::cuse::{Ioctl, Region, Reply};
use snp_device::guest_request::{Guest, SNP_GET_DERIVED_KEY, SNP_GET_EXT_REPORT, SNP_GET_REPORT};
use snp_device::{Answer, Behaviour};
use software_snp::{DevelopmentRoot, Product, ReportFields, Tcb};
use std::path::Path;

/// Where the caller's structures are said to be.
const REQUEST: u64 = 0x1000;
const DATA: u64 = 0x2000;
const RESPONSE: u64 = 0x3000;
const CERTIFICATES: u64 = 0x4000;

fn behaviour(answers: &[Answer]) -> Behaviour {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let root = DevelopmentRoot::kept_in(&dir.join("development-root.json")).unwrap();
    let (id, tcb) = ([1; 64], Tcb::default());
    Behaviour {
        leaf: root.vcek(Product::Milan, &id, tcb).unwrap(),
        report: ReportFields::new(Product::Milan, id, tcb),
        fresh_report_id: false,
        certificates: vec![0xcc; 5000],
        answers: answers.to_vec(),
    }
}

fn guest(answers: &[Answer]) -> Guest {
    Guest::launch(behaviour(answers))
}

/// The caller's memory: both structures.
fn memory(extended: bool, certificates_len: u32) -> Vec<u8> {
    let mut bytes = vec![0; 32];
    bytes[0] = 1;
    bytes[8..16].copy_from_slice(&DATA.to_le_bytes());
    bytes[16..24].copy_from_slice(&RESPONSE.to_le_bytes());
    bytes.extend([0xd7; 64]);
    bytes.extend([0; 32]);
    if extended {
        bytes.extend(CERTIFICATES.to_le_bytes());
        bytes.extend(certificates_len.to_le_bytes());
        bytes.extend([0; 4]);
    }
    bytes
}

/// Plays the kernel: gives the device what it asks for until it is done.
fn call(guest: &mut Guest, command: u32, memory: &[u8]) -> (Result<(), Errno>, Vec<u8>) {
    let (mut input, mut output_len) = (0, 0);
    for _ in 0..4 {
        let reply = guest.ioctl(Ioctl {
            command,
            argument: REQUEST,
            input: &memory[..input],
            output_len,
        });
        match reply {
            Reply::Done { result, output } => return (result, output),
            Reply::Never => panic!("no answer"),
            Reply::Again {
                input: from,
                output: to,
            } => {
                let sum = |regions: &[Region]| regions.iter().map(|region| region.len).sum::<u64>();
                input = usize::try_from(sum(&from)).unwrap();
                output_len = u32::try_from(sum(&to)).unwrap();
                assert_eq!(from[0].address, REQUEST);
            }
        }
    }
    panic!("no end");
}

fn extended(guest: &mut Guest, certificates_len: u32) -> (Result<(), Errno>, Vec<u8>) {
    call(guest, SNP_GET_EXT_REPORT, &memory(true, certificates_len))
}

fn exitinfo2(output: &[u8]) -> u64 {
    u64::from_le_bytes(*output[24..].first_chunk().unwrap())
}

#[test]
fn a_report_comes_with_the_certificates_in_all_of_their_room() {
    let (result, output) = extended(&mut guest(&[]), 0x2000);
    assert_eq!(result, Ok(()));
    assert_eq!(output.len(), 32 + 112 + 4000 + 0x2000);
    assert_eq!(exitinfo2(&output), 0);
    let response = &output[144..4144];
    assert_eq!(response[..8], [0, 0, 0, 0, 0xa0, 4, 0, 0]);
    let report = &response[32..32 + 1184];
    assert_eq!(report[0x50..0x90], [0xd7; 64]);
    assert!(response[32 + 1184..].iter().all(|byte| *byte == 0));
    assert_eq!(output[4144..9144], [0xcc; 5000]);
    assert!(output[9144..].iter().all(|byte| *byte == 0));
}

#[test]
fn too_little_room_for_certificates_is_said_in_pages() {
    let (result, output) = extended(&mut guest(&[]), 0x1000);
    assert_eq!(result, Err(Errno::IO));
    assert_eq!(exitinfo2(&output), 1 << 32);
    assert_eq!(output[32 + 104..32 + 108], 0x2000_u32.to_le_bytes());
}

#[test]
fn the_drivers_own_limits_hold() {
    let mut guest = guest(&[]);
    assert_eq!(extended(&mut guest, 0x5000).0, Err(Errno::INVAL));
    assert_eq!(extended(&mut guest, 0x1001).0, Err(Errno::INVAL));
    let mut without_version = memory(true, 0x2000);
    without_version[0] = 0;
    let (result, _) = call(&mut guest, SNP_GET_EXT_REPORT, &without_version);
    assert_eq!(result, Err(Errno::INVAL));
    let (result, _) = call(&mut guest, SNP_GET_DERIVED_KEY, &memory(false, 0));
    assert_eq!(result, Err(Errno::NOTTY));
}

#[test]
fn the_plain_request_has_no_certificates() {
    let (result, output) = call(&mut guest(&[]), SNP_GET_REPORT, &memory(false, 0));
    assert_eq!(result, Ok(()));
    assert_eq!(output.len(), 32 + 96 + 4000);
}

#[test]
fn answers_come_one_by_one_and_the_last_stays() {
    let mut guest = guest(&[Answer::Status(0x16), Answer::ReportSize(7), Answer::busy()]);
    let word = |output: &[u8], at: usize| u32::from_le_bytes(*output[at..].first_chunk().unwrap());
    assert_eq!(word(&extended(&mut guest, 0x2000).1, 144), 0x16);
    assert_eq!(word(&extended(&mut guest, 0x2000).1, 148), 7);
    for _ in 0..3 {
        let (result, output) = extended(&mut guest, 0x2000);
        assert_eq!((result, exitinfo2(&output)), (Err(Errno::AGAIN), 2 << 32));
    }
}

#[test]
fn a_driver_without_its_key_answers_no_more() {
    let mut guest = guest(&[Answer::firmware(0x16), Answer::Honest]);
    let (result, output) = extended(&mut guest, 0x2000);
    assert_eq!((result, exitinfo2(&output)), (Err(Errno::IO), 0x16));
    assert_eq!(extended(&mut guest, 0x2000).0, Err(Errno::NOTTY));
}

#[test]
fn a_behaviour_survives_its_json() {
    let answers = [
        Answer::Fixed(vec![1, 2]),
        Answer::throttled_for_good(5),
        Answer::CertificatesLength(0),
        Answer::CertificatesBeside(1),
        Answer::Stall,
        Answer::StallUnread,
    ];
    let text = serde_json::to_string(&behaviour(&answers)).unwrap();
    let read: Behaviour = serde_json::from_str(&text).unwrap();
    assert_eq!(read.answers, answers);
}
