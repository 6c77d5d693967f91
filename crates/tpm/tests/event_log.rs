//! The event log: parsing, replay, and the explanation of a mismatch.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use aws_lc_rs::digest::{SHA256, digest};
use tpm::{Difference, EventLog, ExpectedEvent};

const SHA1: u16 = 4;
const SHA256_ID: u16 = 11;
const EV_NO_ACTION: u32 = 3;
const EV_IPL: u32 = 13;

/// A log with a SHA-1 and a SHA-256 bank.
struct Log(Vec<u8>);

impl Log {
    fn new() -> Self {
        let mut spec = b"Spec ID Event03\0".to_vec();
        spec.extend([0, 0, 0, 0, 0, 2, 0, 2]);
        spec.extend(2_u32.to_le_bytes());
        for (algorithm, size) in [(SHA1, 20_u16), (SHA256_ID, 32)] {
            spec.extend(algorithm.to_le_bytes());
            spec.extend(size.to_le_bytes());
        }
        spec.push(0);
        let mut log = 0_u32.to_le_bytes().to_vec();
        log.extend(EV_NO_ACTION.to_le_bytes());
        log.extend([0; 20]);
        log.extend(u32::try_from(spec.len()).unwrap().to_le_bytes());
        log.extend(spec);
        Self(log)
    }

    fn event(mut self, pcr: u32, kind: u32, measured: &[u8], data: &[u8]) -> Self {
        self.0.extend(pcr.to_le_bytes());
        self.0.extend(kind.to_le_bytes());
        self.0.extend(2_u32.to_le_bytes());
        self.0.extend(SHA1.to_le_bytes());
        self.0.extend([0xaa; 20]);
        self.0.extend(SHA256_ID.to_le_bytes());
        self.0.extend(sha256(measured));
        self.0
            .extend(u32::try_from(data.len()).unwrap().to_le_bytes());
        self.0.extend(data);
        self
    }

    fn parse(&self) -> EventLog {
        EventLog::parse(&self.0).unwrap()
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    digest(&SHA256, bytes).as_ref().try_into().unwrap()
}

fn extended(start: [u8; 32], measured: &[&[u8]]) -> [u8; 32] {
    let extend = |pcr: [u8; 32], bytes: &&[u8]| sha256(&[pcr, sha256(bytes)].concat());
    measured.iter().fold(start, extend)
}

fn uki() -> Log {
    Log::new()
        .event(11, EV_IPL, b"linux", b".\0l\0i\0n\0u\0x\0")
        .event(4, EV_IPL, b"boot", b"")
        .event(11, EV_IPL, b"cmdline", b".cmdline\n\x1b[31m")
}

fn expected(names: &[&str]) -> Vec<ExpectedEvent> {
    let event = |name: &&str| ExpectedEvent {
        name: (*name).to_owned(),
        digest: sha256(name.as_bytes()),
    };
    names.iter().map(event).collect()
}

#[test]
fn replay_extends_each_pcr_in_order() {
    let pcrs = uki().parse().replay();
    assert_eq!(pcrs[&11], extended([0; 32], &[b"linux", b"cmdline"]));
    assert_eq!(pcrs[&4], extended([0; 32], &[b"boot"]));
    assert_eq!(pcrs.len(), 2);
}

#[test]
fn startup_locality_is_where_pcr_0_starts_and_extends_nothing() {
    let log = Log::new()
        .event(0, EV_NO_ACTION, b"", b"StartupLocality\0\x03")
        .event(0, 8, b"firmware", b"");
    let mut start = [0; 32];
    start[31] = 3;
    assert_eq!(log.parse().replay()[&0], extended(start, &[b"firmware"]));
    assert_eq!(log.parse().events().len(), 1);
}

#[test]
fn the_first_differing_event_is_named() {
    let log = uki().parse();
    let quoted = log.replay()[&11];
    let difference = log.explain(11, &quoted, &expected(&["linux", "quiet cmdline"]));
    assert!(matches!(
        &difference,
        Difference::Event { pcr: 11, position: 1, expected: Some(event), got: Some(_) }
            if event.name == "quiet cmdline"
    ));
    let text = difference.to_string();
    assert!(
        text.starts_with("PCR 11: event 1: expected quiet cmdline digest "),
        "{text}"
    );
    // Text from the log reaches a terminal without its control characters.
    assert!(text.ends_with(" `.cmdline[31m`"), "{text}");
}

#[test]
fn a_missing_and_a_surplus_event_are_named() {
    let log = uki().parse();
    let quoted = log.replay()[&11];
    let missing = log.explain(11, &quoted, &expected(&["linux", "cmdline", "initrd"]));
    assert!(
        missing.to_string().ends_with("got no further event"),
        "{missing}"
    );
    let surplus = log.explain(11, &quoted, &expected(&["linux"]));
    assert!(
        surplus.to_string().contains("expected no further event"),
        "{surplus}"
    );
}

#[test]
fn a_log_that_does_not_lead_to_the_quote_explains_nothing() {
    let difference = uki().parse().explain(11, &[1; 32], &expected(&["linux"]));
    assert!(matches!(
        difference,
        Difference::LogDisagrees { pcr: 11, .. }
    ));
    let untouched = uki().parse().explain(12, &[1; 32], &[]);
    assert_eq!(
        untouched,
        Difference::LogDisagrees {
            pcr: 12,
            replayed: [0; 32]
        }
    );
}

#[test]
fn without_reference_events_the_logged_ones_are_listed() {
    let log = uki().parse();
    let difference = log.explain(11, &log.replay()[&11], &[]);
    let text = difference.to_string();
    assert!(text.contains("the log has 2"), "{text}");
    assert!(text.contains("`.linux`"), "{text}");
}

#[test]
fn a_cut_log_parses_only_between_events() {
    let whole = uki().0;
    let parsed = (0..whole.len()).filter(|at| EventLog::parse(&whole[..*at]).is_ok());
    // After the header, the first and the second event.
    assert_eq!(parsed.count(), 3);
}

#[test]
fn each_flaw_is_refused() {
    let header = Log::new().0.len();
    let good = Log::new().event(1, EV_IPL, b"x", b"data").0;
    let changed = |at: usize, bytes: &[u8]| {
        let mut log = good.clone();
        log[at..at + bytes.len()].copy_from_slice(bytes);
        EventLog::parse(&log)
    };
    changed(0, &[0]).unwrap();
    for (at, bytes, flaw) in [
        (0, &[1][..], "first event not for PCR 0"),
        (4, &[8], "first event of another type"),
        (32, b"X", "another signature"),
        (56, &[0], "no algorithms"),
        (56, &[9], "too many algorithms"),
        (62, &[11, 0, 65], "digest longer than any"),
        (62, &[4, 0], "an algorithm twice"),
        (header + 8, &[9], "too many digests"),
        (header + 12, &[12, 0], "a digest of an undeclared algorithm"),
        (header + 8, &[1], "no SHA-256 digest"),
        (
            header + 68,
            &[0xff, 0xff, 0xff, 0xff],
            "data beyond the end",
        ),
    ] {
        assert!(changed(at, bytes).is_err(), "{flaw}");
    }
}
