//! A development root, and what is signed under it.
#![allow(dead_code, reason = "each test program uses a part")]

use snp::{
    AuthenticatedLeaf, Authorities, KeyKind, LeafError, Report, ReportError, UnixTime, VerifyError,
    layout::{self, REPORT_LEN},
};
use software_snp::{DevelopmentRoot, Leaf, LeafFields, LeafKind, Product, ReportFields, Tcb};
use std::{path::Path, sync::LazyLock};

/// 2025-01-01, when what the development root issues is valid.
pub(crate) const NOW: UnixTime = UnixTime(1_735_689_600);

/// Keys of 4096 bits take seconds to make: one root for all tests, kept between runs.
pub(crate) static ROOT: LazyLock<DevelopmentRoot> = LazyLock::new(|| {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("development-root.json");
    DevelopmentRoot::kept_in(&path).unwrap()
});

pub(crate) const TCB: Tcb = Tcb {
    fmc: 1,
    bootloader: 4,
    tee: 2,
    snp: 24,
    microcode: 219,
};

/// A chip id as `product` has them.
pub(crate) fn chip(product: Product) -> [u8; 64] {
    let mut chip = [0; 64];
    chip[..product.hardware_id_len()].fill(0xc7);
    chip
}

/// The report of an honest guest.
pub(crate) fn report(product: Product) -> ReportFields {
    ReportFields::new(product, chip(product), TCB)
}

/// The VCEK of that guest's chip.
pub(crate) fn vcek(product: Product) -> Leaf {
    ROOT.vcek(product, &chip(product), TCB).unwrap()
}

/// What the VCEK's certificate says, to change it.
pub(crate) fn vcek_fields(product: Product) -> LeafFields {
    LeafFields::vcek(product, &chip(product), TCB)
}

pub(crate) fn authorities(product: Product) -> Authorities {
    ROOT.authorities(product).unwrap()
}

/// Authenticates a leaf under the development root, with nothing revoked.
pub(crate) fn authenticate(product: Product, leaf: &Leaf) -> Result<AuthenticatedLeaf, LeafError> {
    let kind = match leaf.kind() {
        LeafKind::Vcek => KeyKind::Vcek,
        LeafKind::Vlek => KeyKind::Vlek,
    };
    authorities(product).authenticate_leaf(kind, leaf.certificate(), None, NOW)
}

/// What comes of a report that `leaf` signs.
pub(crate) fn verify(
    product: Product,
    report: &ReportFields,
    leaf: &Leaf,
) -> Result<(), VerifyError> {
    let bytes = report.signed_by(leaf).unwrap();
    let report = Report::parse(&bytes).unwrap();
    let leaf = authenticate(product, leaf).unwrap();
    leaf.verify(report).map(|_| ())
}

/// A report with a signature that is in range and nobody's.
pub(crate) fn unsigned(report: &ReportFields) -> [u8; REPORT_LEN] {
    let mut bytes = report.encode();
    bytes[layout::SIGNATURE] = 1;
    bytes[layout::SIGNATURE + snp::signature::NUMBER_LEN] = 1;
    bytes
}

/// What is wrong with a report after `change`.
pub(crate) fn malformed(
    report: &ReportFields,
    change: impl FnOnce(&mut [u8; REPORT_LEN]),
) -> Option<ReportError> {
    let mut bytes = unsigned(report);
    change(&mut bytes);
    Report::parse(&bytes).err()
}
