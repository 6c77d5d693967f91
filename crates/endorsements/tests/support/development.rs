//! Certificates of a development root, and stores for them.
#![allow(dead_code, reason = "each test program uses a part")]

use endorsements::{AuthoritySet, Clock, Config, EndorsementId, Endorsements, FetchConfig, Store};
use snp::{KeyKind, Leaf, UnixTime};
use software_snp::{CrlFields, DevelopmentRoot, Product, Tcb};
use std::{
    path::Path,
    sync::{Arc, LazyLock},
    thread,
    time::{Duration, Instant},
};

/// 2026-01-01.
pub(crate) const NOW: UnixTime = UnixTime(1_767_225_600);

/// One root for all tests: it takes seconds to make.
pub(crate) static ROOT: LazyLock<DevelopmentRoot> = LazyLock::new(|| {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    DevelopmentRoot::kept_in(&dir.join("development-root.json")).unwrap()
});

pub(crate) const TCB: Tcb = Tcb {
    fmc: 1,
    bootloader: 3,
    tee: 0,
    snp: 8,
    microcode: 115,
};

/// A chip id that fits every product line.
pub(crate) fn chip(number: u8) -> [u8; 64] {
    let mut chip = [0; 64];
    chip[..8].copy_from_slice(&[number, 1, 2, 3, 4, 5, 6, 0xff]);
    chip
}

/// A VCEK and what it is.
pub(crate) fn vcek(product: Product, number: u8, tcb: Tcb) -> (EndorsementId, Vec<u8>) {
    let leaf = ROOT.vcek(product, &chip(number), tcb).unwrap();
    identify(KeyKind::Vcek, leaf.certificate())
}

/// A VLEK and what it is.
pub(crate) fn vlek(product: Product, tcb: Tcb) -> (EndorsementId, Vec<u8>) {
    let leaf = ROOT.vlek(product, "cloud", tcb).unwrap();
    identify(KeyKind::Vlek, leaf.certificate())
}

fn identify(kind: KeyKind, der: &[u8]) -> (EndorsementId, Vec<u8>) {
    let leaf = Leaf::parse(kind, der).unwrap();
    (EndorsementId::of_leaf(&leaf), der.to_vec())
}

/// A revocation list from `from` on, for a year.
pub(crate) fn list(product: Product, from: u64) -> Vec<u8> {
    let fields = CrlFields {
        this_update: from,
        next_update: from + 365 * 86_400,
        revoked: Vec::new(),
    };
    ROOT.crl(product, &fields).unwrap()
}

pub(crate) fn authorities() -> AuthoritySet {
    let all = Product::ALL.map(|product| ROOT.authorities(product).unwrap());
    AuthoritySet::new(all.to_vec())
}

pub(crate) fn store(folder: &Path) -> Store {
    Store::open(folder, 100, authorities()).unwrap()
}

fn clock() -> Clock {
    Arc::new(|| NOW)
}

/// Bounds with which a test of failures takes a second.
pub(crate) fn quick() -> FetchConfig {
    FetchConfig {
        timeout: Duration::from_millis(300),
        interval: Duration::ZERO,
        first_pause: Duration::from_millis(40),
        longest_pause: Duration::from_millis(160),
        absent: Duration::from_secs(60),
        patience: Duration::from_secs(60),
        queue: 16,
    }
}

/// Endorsements behind this service.
pub(crate) fn endorsements(folder: &Path, url: &str, bounds: FetchConfig) -> Endorsements {
    let config = Config {
        folder: folder.to_owned(),
        max_files: 100,
        authorities: authorities(),
        kds: Some((url.to_owned(), bounds)),
        clock: clock(),
    };
    Endorsements::open(config).unwrap()
}

/// Asks again and again, as a node's retries do.
pub(crate) fn wait<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = ask() {
            return found;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "never came");
        thread::sleep(Duration::from_millis(2));
    }
}
