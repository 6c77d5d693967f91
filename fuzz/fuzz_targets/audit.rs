//! An audit log that somebody may have written; the seeds' checkpoints are by the key that is asked for.
#![no_main]
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use fuzz::got_through;
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static KEY: LazyLock<[u8; 32]> = LazyLock::new(|| {
    let pair = Ed25519KeyPair::from_seed_unchecked(&[1; 32]).expect("a seed");
    pair.public_key().as_ref().try_into().expect("32 bytes")
});

fuzz_target!(|data: &[u8]| got_through(run(data)));

fn run(data: &[u8]) -> bool {
    let text = String::from_utf8_lossy(data);
    let report = audit::verify(text.lines(), &[*KEY], &[]);
    report.fault.is_none()
}
