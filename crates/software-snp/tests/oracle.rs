//! What this crate makes, as the verifier of the crate `sev` sees it.
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use sev::{
    certs::snp::{Chain, Verifiable as _},
    firmware::{guest::AttestationReport, host::CertTableEntry},
    parser::ByteParser as _,
};
use software_snp::{CrlFields, DevelopmentRoot, Leaf, Product, ReportFields, Tcb, table};
use std::{path::Path, sync::LazyLock};

static ROOT: LazyLock<DevelopmentRoot> = LazyLock::new(|| {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    DevelopmentRoot::kept_in(&dir.join("development-root.json")).unwrap()
});

const TCB: Tcb = Tcb {
    fmc: 1,
    bootloader: 4,
    tee: 2,
    snp: 24,
    microcode: 219,
};

fn chip_id(product: Product) -> [u8; 64] {
    std::array::from_fn(|at| {
        u8::try_from(at + 1).unwrap() * u8::from(at < product.hardware_id_len())
    })
}

fn verify(product: Product, leaf: &Leaf, report: &[u8]) -> Result<(), String> {
    let chain = ROOT.chain(product);
    let ask = match leaf.kind() {
        software_snp::LeafKind::Vcek => &chain.ask,
        software_snp::LeafKind::Vlek => &chain.asvk,
    };
    let chain = Chain::from_der(&chain.ark, ask, leaf.certificate()).unwrap();
    let report = AttestationReport::from_bytes(report).map_err(|error| error.to_string())?;
    (&chain, &report)
        .verify()
        .map_err(|error| error.to_string())
}

#[test]
fn reports_of_every_line_and_version_verify() {
    for product in Product::ALL {
        let chip_id = chip_id(product);
        let vcek = ROOT.vcek(product, &chip_id, TCB).unwrap();
        for version in [2, 3, 5] {
            let fields = ReportFields::new(product, chip_id, TCB).with_version(version);
            let report = fields.signed_by(&vcek).unwrap();
            verify(product, &vcek, &report).unwrap();
        }
        let vlek = ROOT.vlek(product, "CN=cc-test.example.com", TCB).unwrap();
        let fields = ReportFields::new(product, [0; 64], TCB).with_vlek();
        let report = fields.signed_by(&vlek).unwrap();
        verify(product, &vlek, &report).unwrap();
        verify(product, &vcek, &report).unwrap_err();
    }
}

#[test]
fn fields_are_where_the_oracle_reads_them() {
    let chip_id = chip_id(Product::Turin);
    let vcek = ROOT.vcek(Product::Turin, &chip_id, TCB).unwrap();
    let mut fields = ReportFields::new(Product::Turin, chip_id, TCB);
    fields.guest_svn = 7;
    fields.vmpl = 1;
    fields.report_data = [0xd1; 64];
    fields.measurement = [0xd2; 48];
    fields.host_data = [0xd3; 32];
    fields.report_id = [0xd4; 32];
    let report = fields.signed_by(&vcek).unwrap();
    let parsed = AttestationReport::from_bytes(&report).unwrap();
    assert_eq!(parsed.version, 5);
    assert_eq!((parsed.guest_svn, parsed.vmpl), (7, 1));
    assert_eq!(parsed.report_data, [0xd1; 64]);
    assert_eq!(parsed.measurement, [0xd2; 48]);
    assert_eq!(parsed.host_data, [0xd3; 32]);
    assert_eq!(parsed.report_id, [0xd4; 32]);
    assert_eq!(parsed.chip_id, chip_id);
    assert_eq!(parsed.reported_tcb.fmc, Some(1));
    assert_eq!(parsed.reported_tcb.bootloader, 4);
    assert_eq!(parsed.reported_tcb.tee, 2);
    assert_eq!(parsed.reported_tcb.snp, 24);
    assert_eq!(parsed.reported_tcb.microcode, 219);
}

#[test]
fn one_changed_bit_does_not_verify() {
    let vcek = ROOT
        .vcek(Product::Milan, &chip_id(Product::Milan), TCB)
        .unwrap();
    let fields = ReportFields::new(Product::Milan, chip_id(Product::Milan), TCB);
    let mut report = fields.signed_by(&vcek).unwrap();
    report[0x90] ^= 1;
    verify(Product::Milan, &vcek, &report).unwrap_err();
}

#[test]
fn a_device_signs_with_a_leaf_from_json() {
    let vcek = ROOT
        .vcek(Product::Genoa, &chip_id(Product::Genoa), TCB)
        .unwrap();
    let text = serde_json::to_string(&vcek).unwrap();
    let stored: Leaf = serde_json::from_str(&text).unwrap();
    let fields = ReportFields::new(Product::Genoa, chip_id(Product::Genoa), TCB);
    let text = serde_json::to_string(&fields).unwrap();
    let fields: ReportFields = serde_json::from_str(&text).unwrap();
    verify(Product::Genoa, &vcek, &fields.signed_by(&stored).unwrap()).unwrap();
}

#[test]
fn a_kept_root_is_the_same_root() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("root.json");
    std::fs::write(&path, ROOT.to_json().unwrap()).unwrap();
    let again = DevelopmentRoot::kept_in(&path).unwrap();
    assert_eq!(again.chain(Product::Turin), ROOT.chain(Product::Turin));
    std::fs::write(&path, "{}").unwrap();
    DevelopmentRoot::kept_in(&path).unwrap_err();
}

#[test]
fn tables_are_read_back() {
    let chain = ROOT.chain(Product::Milan);
    let vcek = ROOT
        .vcek(Product::Milan, &chip_id(Product::Milan), TCB)
        .unwrap();
    let times = CrlFields {
        this_update: 1_700_000_000,
        next_update: 1_800_000_000,
        revoked: vec![],
    };
    let crl = ROOT.crl(Product::Milan, &times).unwrap();
    let certificates = [
        (table::VCEK, vcek.certificate()),
        (table::ASK, &chain.ask),
        (table::ARK, &chain.ark),
        (table::CRL, &crl),
    ];
    let bytes = table::encode(&certificates);
    let entries = CertTableEntry::vec_bytes_to_cert_table(&mut bytes.clone()).unwrap();
    let data: Vec<_> = entries.iter().map(|entry| entry.data.as_slice()).collect();
    assert_eq!(data, certificates.map(|(_, certificate)| certificate));
    let crl_entry = entries.last().unwrap();
    assert_eq!(
        crl_entry.cert_type.to_string(),
        "92f81bc3-5811-4d3d-97ff-d19f88dc67ea"
    );
}
