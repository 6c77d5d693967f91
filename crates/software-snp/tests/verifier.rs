//! What this crate makes, as our own verifier sees it; and beside AMD's originals.
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]
#![allow(
    clippy::result_large_err,
    reason = "the size of the verifier's errors is its own affair"
)]

use snp::{KeyKind, LeafError, Report, ReportError, RevocationError, RevocationList, UnixTime};
use snp::{VerifyError, layout};
use software_snp::{CrlFields, DevelopmentRoot, Leaf, LeafFields, Product, ReportFields, Tcb};
use std::{path::Path, sync::LazyLock};
use vectors::vector;
use x509_cert::{Certificate, der::Decode as _};

static ROOT: LazyLock<DevelopmentRoot> = LazyLock::new(|| {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    DevelopmentRoot::kept_in(&dir.join("development-root.json")).unwrap()
});

/// 2026-01-01
const NOW: u64 = 1_767_225_600;

const TCB: Tcb = Tcb {
    fmc: 1,
    bootloader: 4,
    tee: 2,
    snp: 24,
    microcode: 219,
};

fn chip_id(product: Product) -> [u8; 64] {
    let mut id = [0; 64];
    let len = product.hardware_id_len();
    (1..).zip(&mut id[..len]).for_each(|(at, byte)| *byte = at);
    id
}

fn authenticate(fields: &LeafFields) -> (Leaf, Result<snp::AuthenticatedLeaf, LeafError>) {
    let leaf = ROOT.issue(fields).unwrap();
    let kind = match leaf.kind() {
        software_snp::LeafKind::Vcek => KeyKind::Vcek,
        software_snp::LeafKind::Vlek => KeyKind::Vlek,
    };
    let authorities = ROOT.authorities(fields.product).unwrap();
    let authenticated =
        authorities.authenticate_leaf(kind, leaf.certificate(), None, UnixTime(NOW));
    (leaf, authenticated)
}

#[derive(Debug)]
#[expect(dead_code, reason = "printed when a test fails")]
enum Refused {
    Leaf(LeafError),
    Parse(ReportError),
    Verify(VerifyError),
}

/// Issues, signs and verifies; `edit` changes the report before it is signed.
fn verify(
    leaf: &LeafFields,
    report: &ReportFields,
    edit: impl FnOnce(&mut [u8; layout::REPORT_LEN]),
) -> Result<(), Refused> {
    let (key, authenticated) = authenticate(leaf);
    let mut bytes = report.encode();
    edit(&mut bytes);
    key.sign(&mut bytes).unwrap();
    let authenticated = authenticated.map_err(Refused::Leaf)?;
    let report = Report::parse(&bytes).map_err(Refused::Parse)?;
    let report = authenticated.verify(report).map_err(Refused::Verify)?;
    assert_eq!(report.origin(), snp::Origin::Development);
    Ok(())
}

fn turin() -> (LeafFields, ReportFields) {
    let chip_id = chip_id(Product::Turin);
    (
        LeafFields::vcek(Product::Turin, &chip_id, TCB),
        ReportFields::new(Product::Turin, chip_id, TCB),
    )
}

#[test]
fn every_line_version_and_key_is_accepted() {
    for product in Product::ALL {
        let chip_id = chip_id(product);
        let vcek = LeafFields::vcek(product, &chip_id, TCB);
        let report = ReportFields::new(product, chip_id, TCB);
        for version in [2, 3, 5] {
            let report = report.clone().with_version(version);
            verify(&vcek, &report, |_| ()).unwrap();
        }
        let vlek = LeafFields::vlek(product, "CN=cc-test.example.com", TCB);
        let report = ReportFields::new(product, [0; 64], TCB).with_vlek();
        verify(&vlek, &report, |_| ()).unwrap();
    }
}

#[test]
fn turins_hardware_id_has_eight_bytes() {
    let (vcek, report) = turin();
    // The whole chip id, as the other lines have it.
    let mut long = vcek.clone();
    long.extension(&[4]).unwrap().value = report.chip_id.to_vec();
    assert!(matches!(
        verify(&long, &report, |_| ()),
        Err(Refused::Leaf(_))
    ));
    let mut wrapped = vcek.clone();
    let id = &mut wrapped.extension(&[4]).unwrap().value;
    *id = [&[4, 8], &id[..]].concat();
    assert!(matches!(
        verify(&wrapped, &report, |_| ()),
        Err(Refused::Leaf(_))
    ));
    // The rest of the report's chip id is zero.
    let longer = verify(&vcek, &report, |bytes| bytes[layout::CHIP_ID + 8] = 1);
    assert!(longer.is_err(), "{longer:?}");
    let other = verify(&vcek, &report, |bytes| bytes[layout::CHIP_ID] ^= 1);
    assert!(matches!(
        other,
        Err(Refused::Verify(VerifyError::ChipId { .. }))
    ));
}

#[test]
fn turins_certificates_name_the_fmc_and_have_another_structure_version() {
    let (vcek, report) = turin();
    let mut without = vcek.clone();
    let fmc = without.extension(&[3, 9]).unwrap().clone();
    without.extensions.retain(|extension| *extension != fmc);
    assert!(matches!(
        verify(&without, &report, |_| ()),
        Err(Refused::Leaf(_))
    ));
    let mut other = vcek.clone();
    other.extension(&[3, 9]).unwrap().value = vec![2, 1, 2];
    let refused = verify(&other, &report, |_| ());
    assert!(matches!(
        refused,
        Err(Refused::Verify(VerifyError::Tcb { .. }))
    ));
    // AMD's leaves of this line have no number 4.
    let milan = LeafFields::vcek(Product::Milan, &chip_id(Product::Milan), TCB);
    let arcs = |fields: &LeafFields, arc| fields.clone().extension(&[3, arc]).is_some();
    assert!(arcs(&milan, 4) && !arcs(&milan, 9));
    assert!(arcs(&vcek, 9) && !arcs(&vcek, 4));
}

#[test]
fn turins_tcb_has_another_order() {
    let (vcek, report) = turin();
    let mut milans = report.clone();
    milans.reported_tcb = TCB.encode(Product::Milan);
    let refused = verify(&vcek, &milans, |_| ());
    assert!(refused.is_err(), "{refused:?}");
    // The other way round: the bytes that Turin reserves.
    let reserved = verify(&vcek, &report, |bytes| bytes[layout::REPORTED_TCB + 4] = 1);
    assert!(reserved.is_err(), "{reserved:?}");
}

#[test]
fn turins_reports_are_not_of_other_lines() {
    let (vcek, mut report) = turin();
    report.cpuid = Product::Genoa.cpuid();
    let refused = verify(&vcek, &report, |_| ());
    assert!(refused.is_err(), "{refused:?}");
}

#[test]
fn a_report_is_of_the_kind_of_key_that_signed_it() {
    let (vcek, report) = turin();
    let vlek = LeafFields::vlek(Product::Turin, "CN=cc-test.example.com", TCB);
    let signed_by_vlek = verify(&vlek, &report, |_| ());
    assert!(matches!(
        signed_by_vlek,
        Err(Refused::Verify(VerifyError::KeyKind { .. }))
    ));
    let named_vlek = verify(&vcek, &report.clone().with_vlek(), |_| ());
    assert!(matches!(
        named_vlek,
        Err(Refused::Verify(VerifyError::KeyKind { .. }))
    ));
}

#[test]
fn another_root_with_the_same_names_is_not_trusted() {
    let amd = snp::Authorities::amd(snp::Product::Turin).unwrap();
    let (vcek, _) = turin();
    let leaf = ROOT.issue(&vcek).unwrap();
    let refused = amd.authenticate_leaf(KeyKind::Vcek, leaf.certificate(), None, UnixTime(NOW));
    assert!(matches!(refused, Err(LeafError::Untrusted { .. })));
}

#[test]
fn revocation_lists_are_good_expired_revoking_or_of_another_root() {
    let authorities = ROOT.authorities(Product::Milan).unwrap();
    let vcek = ROOT.vcek(Product::Milan, &chip_id(Product::Milan), TCB);
    let vcek = vcek.unwrap();
    let list = |from, until, revoked: Vec<u64>| {
        let fields = CrlFields {
            this_update: from,
            next_update: until,
            revoked,
        };
        let der = ROOT.crl(Product::Milan, &fields).unwrap();
        RevocationList::authenticate(&der, &authorities, UnixTime(NOW))
    };
    let leaf = |list: &RevocationList| {
        let leaf = vcek.certificate();
        authorities.authenticate_leaf(KeyKind::Vcek, leaf, Some(list), UnixTime(NOW))
    };
    let good = list(NOW - 10, NOW + 10, vec![]).unwrap();
    assert!(leaf(&good).is_ok());
    let (ask, asvk) = DevelopmentRoot::serials(Product::Milan);
    let other = list(NOW - 10, NOW + 10, vec![asvk]).unwrap();
    assert!(leaf(&other).is_ok());
    let revoking = list(NOW - 10, NOW + 10, vec![7, ask]).unwrap();
    assert!(matches!(leaf(&revoking), Err(LeafError::Revoked(_))));
    let expired = list(NOW - 10, NOW - 1, vec![]);
    assert!(matches!(expired, Err(RevocationError::OutOfDate(_))));
    let future = list(NOW + 1, NOW + 10, vec![]);
    assert!(matches!(future, Err(RevocationError::OutOfDate(_))));
    let amd = snp::Authorities::amd(snp::Product::Milan).unwrap();
    let fields = CrlFields {
        this_update: NOW - 10,
        next_update: NOW + 10,
        revoked: vec![],
    };
    let der = ROOT.crl(Product::Milan, &fields).unwrap();
    let foreign = RevocationList::authenticate(&der, &amd, UnixTime(NOW));
    assert!(matches!(foreign, Err(RevocationError::Untrusted(_))));
}

/// What is in AMD's own certificates, in their order, but for keys, identifiers and values.
#[test]
fn certificates_look_like_amds() {
    let milan = LeafFields::vcek(Product::Milan, &[1; 64], TCB);
    let vlek = LeafFields::vlek(Product::Milan, "CN=cc-us-east-2.amazonaws.com", TCB);
    let (turin, _) = turin();
    let chain = ROOT.chain(Product::Turin);
    let leaf = |fields: &LeafFields| ROOT.issue(fields).unwrap().certificate().to_vec();
    let pairs = [
        ("snp/verifier__snp__test-vcek.der", leaf(&milan)),
        ("snp/verifier__snp__test-vlek.der", leaf(&vlek)),
        ("snp/tests__certs_data__vcek_turin.der", leaf(&turin)),
        ("amd-roots/certs__amd__turin__ark.der", chain.ark.clone()),
        ("amd-roots/certs__amd__turin__ask.der", chain.ask.clone()),
        ("amd-roots/certs__amd__turin__asvk.der", chain.asvk.clone()),
    ];
    for (name, ours) in pairs {
        let Some(amds) = vector(name) else { return };
        assert_eq!(description(&ours), description(&amds), "{name}");
    }
}

fn description(der: &[u8]) -> Vec<String> {
    let fields = Certificate::from_der(der).unwrap();
    let fields = fields.tbs_certificate();
    let issuer = fields.issuer().to_string();
    let mut lines = vec![issuer, fields.subject().to_string()];
    lines.push(format!("{}", fields.serial_number()));
    let algorithm = &fields.subject_public_key_info().algorithm;
    lines.push(format!("{algorithm:?}"));
    let extensions = fields.extensions().unwrap().iter();
    // AMD's authorities say where their revocation list is, too.
    let extensions = extensions.filter(|extension| extension.extn_id.to_string() != "2.5.29.31");
    for extension in extensions {
        let value = extension.extn_value.as_bytes();
        let ours = extension
            .extn_id
            .to_string()
            .starts_with("1.3.6.1.4.1.3704");
        // A DER integer, a text or raw bytes: the length is of the chip id and texts only.
        let form = match (ours, value.first()) {
            (true, Some(2)) => "integer".to_owned(),
            (true, Some(0x16)) => format!("text of {}", value.len()),
            (true, _) => format!("{} bytes", value.len()),
            (false, _) => format!("{}", extension.critical),
        };
        lines.push(format!("{} {form}", extension.extn_id));
    }
    lines
}

#[test]
fn a_paravisors_blob_is_read_back() {
    let chip_id = chip_id(Product::Milan);
    let vcek = ROOT.vcek(Product::Milan, &chip_id, TCB).unwrap();
    let fields = ReportFields::new(Product::Milan, chip_id, TCB);
    let blob = software_snp::paravisor::hcl_report(&fields, &vcek, &[0xa5; 256]).unwrap();
    let parsed = snp::HclReport::parse(&blob).unwrap();
    let report = Report::parse(parsed.hardware_report()).unwrap();
    let authorities = ROOT.authorities(Product::Milan).unwrap();
    let leaf = vcek.certificate();
    let leaf = authorities.authenticate_leaf(KeyKind::Vcek, leaf, None, UnixTime(NOW));
    let report = leaf.unwrap().verify(report).unwrap();
    let claims = parsed.authenticate(&report).unwrap();
    assert_eq!(claims.attestation_key.modulus, [0xa5; 256]);
    assert_eq!(claims.attestation_key.exponent, 65_537);
}
