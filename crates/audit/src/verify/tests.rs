use super::*;
use crate::{Action, Chain, ChainId, Check, MAX_LINE, Outcome, Record, RecordEvent};
use alloc::{format, string::String, vec};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};

fn key(seed: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
}

fn public(seed: u8) -> [u8; 32] {
    key(seed).public_key().as_ref().try_into().unwrap()
}

fn sign(seed: u8) -> impl FnOnce(&[u8]) -> Option<[u8; 64]> {
    move |message| key(seed).sign(message).as_ref().try_into().ok()
}

fn record(n: u64) -> Record {
    let mut event = RecordEvent::new(Action::Release, Outcome::Done, "IssueRejoinTicket");
    event.node = Some("worker-0".parse().unwrap());
    Record { time_ms: n, event }
}

/// Start, checkpoint, four records, checkpoint, one record: 8 lines.
fn log(id: u8, previous: Option<Head>) -> (Chain, Vec<String>) {
    let (mut chain, mut lines) =
        Chain::start(ChainId::from_random([id; 16]), "join-0", previous, sign(1)).unwrap();
    for n in 0..4 {
        lines.push(chain.append(&record(n)).unwrap());
    }
    lines.push(chain.checkpoint(sign(1)).unwrap());
    lines.push(chain.append(&record(4)).unwrap());
    (chain, lines)
}

fn check(lines: &[String], known: &[Head]) -> Report {
    verify(
        lines.iter().map(|l| l.trim_end_matches('\n')),
        &[public(1)],
        known,
    )
}

fn flaw(lines: &[String], known: &[Head]) -> (usize, Flaw) {
    let fault = check(lines, known).fault.unwrap();
    (fault.line, fault.flaw)
}

#[test]
fn a_whole_log_verifies() {
    let (chain, lines) = log(1, None);
    let head = chain.head().unwrap();
    let report = check(&lines, &[head]);
    assert_eq!(report.fault, None);
    assert_eq!(
        report.chains,
        vec![ChainReport {
            first_seq: 0,
            head,
            records: 5,
            unsigned: 1
        }]
    );
    assert!(
        lines
            .iter()
            .all(|line| line.ends_with('\n') && line.matches('\n').count() == 1)
    );
}

#[test]
fn a_cut_is_named() {
    let (chain, lines) = log(1, None);
    for gone in 2..7 {
        let mut cut = lines.clone();
        cut.remove(gone);
        let expected = u64::try_from(gone).unwrap();
        assert_eq!(flaw(&cut, &[]), (gone + 1, Flaw::Cut { expected }));
    }
    // The end can only be missed by who saw it.
    assert_eq!(check(&lines[..7], &[]).fault, None);
    assert_eq!(
        flaw(&lines[..7], &[chain.head().unwrap()]),
        (8, Flaw::Cut { expected: 7 })
    );
    assert_eq!(
        flaw(&[], &[chain.head().unwrap()]),
        (1, Flaw::Cut { expected: 0 })
    );
}

#[test]
fn a_reordered_line_is_named() {
    let (_, lines) = log(1, None);
    let mut swapped = lines.clone();
    swapped.swap(3, 4);
    assert_eq!(
        flaw(&swapped, &[]),
        (
            4,
            Flaw::Reordered {
                expected: 3,
                got: 4
            }
        )
    );
    let mut repeated = lines;
    repeated.insert(5, repeated[4].clone());
    assert_eq!(
        flaw(&repeated, &[]),
        (
            6,
            Flaw::Reordered {
                expected: 5,
                got: 4
            }
        )
    );
}

#[test]
fn a_rewritten_line_is_named() {
    let (_, lines) = log(1, None);
    let mut edited = lines.clone();
    edited[3] = edited[3].replace("worker-0", "worker-1");
    assert_eq!(flaw(&edited, &[]), (4, Flaw::Rewritten));
    // With its hash made to fit, the next line tells.
    let body = edited[3].trim_end();
    let body = &body["{\"body\":".len()..body.rfind(",\"hash\"").unwrap()];
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, body.as_bytes());
    edited[3] = format!("{{\"body\":{body},\"hash\":\"{}\"}}\n", hex::encode(hash));
    assert_eq!(flaw(&edited, &[]), (5, Flaw::Rewritten));
}

#[test]
fn a_chain_rewritten_from_some_line_on_fails_at_its_checkpoint() {
    let (_, lines) = log(1, None);
    let id = ChainId::from_random([1; 16]);
    let (mut forged, mut forged_lines) = Chain::start(id, "join-0", None, sign(1)).unwrap();
    for n in 10..14 {
        forged_lines.push(forged.append(&record(n)).unwrap());
    }
    // Ed25519 is deterministic: the two heads are equal as long as nothing differs.
    assert_eq!(forged_lines[..2], lines[..2]);
    forged_lines.push(forged.checkpoint(sign(2)).unwrap());
    assert_eq!(flaw(&forged_lines, &[]), (7, Flaw::WrongSignature));
    forged_lines[6] = lines[6].clone();
    assert_eq!(flaw(&forged_lines, &[]), (7, Flaw::Rewritten));
}

#[test]
fn a_chain_without_a_signed_start_is_refused() {
    let (_, lines) = log(1, None);
    let report = verify(lines.iter().map(|l| l.trim_end()), &[public(2)], &[]);
    assert_eq!(
        report.fault.unwrap(),
        Fault {
            line: 2,
            flaw: Flaw::WrongSignature
        }
    );
    let mut unsigned = lines;
    unsigned.remove(1);
    assert_eq!(flaw(&unsigned, &[]), (2, Flaw::Cut { expected: 1 }));
}

#[test]
fn a_chain_that_goes_on_without_a_signature_is_refused() {
    use crate::line::{Body, encode};
    let (_, mut lines) = log(1, None);
    let head = last_head(lines[0].trim_end()).unwrap();
    let body = Body {
        chain: head.chain,
        seq: 1,
        prev: head.hash,
        entry: Entry::Record(record(0)),
    };
    lines.truncate(1);
    lines.push(encode(&body).unwrap().0);
    assert_eq!(flaw(&lines, &[]), (2, Flaw::Unsigned));
}

#[test]
fn a_known_head_with_other_content_is_a_rewrite() {
    let (chain, lines) = log(1, None);
    let mut known = chain.head().unwrap();
    known.hash[0] ^= 1;
    assert_eq!(flaw(&lines, &[known]), (8, Flaw::Rewritten));
}

#[test]
fn chains_of_one_log_hang_together() {
    let (first, mut lines) = log(1, None);
    let head = last_head(lines[7].trim_end()).unwrap();
    assert_eq!(Some(head), first.head());
    let (_, second) = log(2, Some(head));
    let start = lines.len() + 1;
    lines.extend(second);
    assert_eq!(check(&lines, &[]).fault, None);
    let mut cut = lines.clone();
    cut.remove(7);
    assert_eq!(flaw(&cut, &[]), (start - 1, Flaw::Cut { expected: 7 }));
}

#[test]
fn rotation_goes_on_with_the_previous_head() {
    let (mut chain, mut lines) = log(1, None);
    let rotated = lines.len();
    lines.push(chain.rotate().unwrap());
    lines.push(chain.append(&record(9)).unwrap());
    lines.push(chain.checkpoint(sign(1)).unwrap());
    assert_eq!(check(&lines, &[]).fault, None);
    let report = check(&lines[rotated..], &[]);
    assert_eq!(report.fault, None);
    assert_eq!(report.chains[0].first_seq, 8);
    // A file that does not begin with its first line is cut.
    assert_eq!(flaw(&lines[rotated + 1..], &[]).0, 1);
}

#[test]
fn malformed_lines_are_named() {
    let (_, lines) = log(1, None);
    let long = format!("{{\"body\":{},\"hash\":\"\"}}", " ".repeat(MAX_LINE));
    for bad in ["", "{}", "null", "{\"body\":{},\"hash\":\"00\"}", &long] {
        let mut log = lines.clone();
        log[2] = String::from(bad);
        assert_eq!(flaw(&log, &[]), (3, Flaw::Malformed), "{bad:.20}");
        assert_eq!(last_head(bad), None);
    }
    for end in 0..lines[2].trim_end().len() {
        assert!(last_head(&lines[2][..end]).is_none(), "truncated at {end}");
    }
}

#[test]
fn the_largest_record_fits_a_line() {
    let mut largest = record(u64::MAX);
    let hostile = "\"".repeat(10_000);
    largest.event.request = crate::Text::new(&hostile);
    largest.event.attester = Some(crate::Text::new(&hostile));
    largest.event.image = Some(crate::Text::new(&hostile));
    largest.event.path = Some(crate::Text::new(&hostile));
    largest.event.key = Some(crate::Text::new(&hostile));
    largest.event.checks = vec![Check::new(&hostile, &hostile, &hostile); 1000];
    let (mut chain, mut lines) = log(1, None);
    let line = chain.append(&largest).unwrap();
    assert!(line.len() > MAX_LINE / 2 && line.len() <= MAX_LINE);
    lines.push(line);
    assert_eq!(check(&lines, &[]).fault, None);
}

#[test]
fn a_failing_signer_leaves_the_chain_usable() {
    let (mut chain, mut lines) = log(1, None);
    assert!(chain.checkpoint(|_| None).is_err());
    lines.push(chain.append(&record(5)).unwrap());
    assert_eq!(check(&lines, &[]).fault, None);
}
