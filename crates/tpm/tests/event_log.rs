//! The event log: parsing, replay, and the explanation of a mismatch.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use aws_lc_rs::digest::{SHA256, digest};
use software_tpm::event_log::{EV_NO_ACTION, LogBuilder};
use tpm::{Difference, EventLog, ExpectedEvent};

const EV_IPL: u32 = 13;

fn parse(log: &LogBuilder) -> EventLog {
    EventLog::parse(log.bytes()).unwrap()
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    digest(&SHA256, bytes).as_ref().try_into().unwrap()
}

fn extended(start: [u8; 32], measured: &[&[u8]]) -> [u8; 32] {
    let extend = |pcr: [u8; 32], bytes: &&[u8]| sha256(&[pcr, sha256(bytes)].concat());
    measured.iter().fold(start, extend)
}

fn uki() -> LogBuilder {
    LogBuilder::new()
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
    let pcrs = parse(&uki()).replay();
    assert_eq!(pcrs[&11], extended([0; 32], &[b"linux", b"cmdline"]));
    assert_eq!(pcrs[&4], extended([0; 32], &[b"boot"]));
    assert_eq!(pcrs.len(), 2);
}

#[test]
fn startup_locality_is_where_pcr_0_starts_and_extends_nothing() {
    let log = LogBuilder::new()
        .event(0, EV_NO_ACTION, b"", b"StartupLocality\0\x03")
        .event(0, 8, b"firmware", b"");
    let mut start = [0; 32];
    start[31] = 3;
    assert_eq!(parse(&log).replay()[&0], extended(start, &[b"firmware"]));
    assert_eq!(parse(&log).events().len(), 1);
}

#[test]
fn the_first_differing_event_is_named() {
    let log = parse(&uki());
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
    let log = parse(&uki());
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
    let difference = parse(&uki()).explain(11, &[1; 32], &expected(&["linux"]));
    assert!(matches!(
        difference,
        Difference::LogDisagrees { pcr: 11, .. }
    ));
    let untouched = parse(&uki()).explain(12, &[1; 32], &[]);
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
    let log = parse(&uki());
    let difference = log.explain(11, &log.replay()[&11], &[]);
    let text = difference.to_string();
    assert!(text.contains("the log has 2"), "{text}");
    assert!(text.contains("`.linux`"), "{text}");
}

#[test]
fn a_long_log_is_not_listed_whole() {
    let log = (0..500_u32).fold(LogBuilder::new(), |log, event| {
        log.event(11, EV_IPL, &event.to_le_bytes(), b"x")
    });
    let log = parse(&log);
    let text = log.explain(11, &log.replay()[&11], &[]).to_string();
    assert!(text.ends_with("; and 484 more"), "{text}");
    assert!(text.len() < 4096, "{}", text.len());
}

#[test]
fn a_cut_log_parses_only_between_events() {
    let whole = uki().bytes().to_vec();
    let parsed = (0..whole.len()).filter(|at| EventLog::parse(&whole[..*at]).is_ok());
    // After the header, the first and the second event.
    assert_eq!(parsed.count(), 3);
}

#[test]
fn each_flaw_is_refused() {
    let header = LogBuilder::new().bytes().len();
    let good = LogBuilder::new()
        .event(1, EV_IPL, b"x", b"data")
        .bytes()
        .to_vec();
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
