//! Captured reports and their certificates, where the vectors are at hand (crate `vectors`): each
//! field and each verdict as an independent program computed them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/captured.rs"]
mod support;

use serde_json::{Value, json};
use snp::{
    AuthenticatedReport, Authorities, KeyKind, Leaf, LeafError, Product, RawTcb, Report,
    ReportError, VerifyError, layout,
};
use support::{Captured, authorities, captured, expected, hex, moment};

/// The kind that the report asks for, by the authorities of the product that the case names.
fn kind(case: &Value) -> KeyKind {
    let kinds = [KeyKind::Vcek, KeyKind::Vlek];
    let named = |kind: &KeyKind| case["signing_key"] == kind.to_string();
    kinds.into_iter().find(named).unwrap()
}

#[test]
fn every_field_is_as_an_independent_program_read_it() {
    for Captured { name, report, .. } in captured() {
        let Some(expected) = expected(name) else {
            return;
        };
        let report = Report::parse(&report).unwrap();
        let read = describe(&report);
        for (field, value) in read.as_object().unwrap() {
            let expected = &expected[field];
            assert_eq!(value, expected, "`{field}` of {name}");
        }
    }
}

/// The fields of a report, as `expected_reports.json` has them.
fn describe(report: &Report<'_>) -> Value {
    let (major, minor) = report.policy.abi();
    let mut fields = json!({
        "size": report.as_bytes().len(),
        "version": report.version,
        "guest_svn": report.guest_svn,
        "policy": format!("{:#x}", report.policy.bits()),
        "debug_allowed": report.policy.allows_debug(),
        "migration_agent": report.policy.allows_migration_agent(),
        "smt_allowed": report.policy.allows_smt(),
        "abi": format!("{major}.{minor}"),
        "vmpl": report.vmpl,
        "signature_algo": 1,
        "platform_info": format!("{:#x}", report.platform_info.bits()),
        "alias_check_complete": report.platform_info.alias_check_complete(),
        "signing_key": report.signing_key.unwrap().to_string(),
        "mask_chip_key": report.mask_chip_key,
        "report_data": hex(report.report_data),
        "measurement": hex(report.measurement),
        "host_data": hex(report.host_data),
        "id_key_digest": hex(report.id_key_digest),
        "author_key_digest": hex(report.author_key_digest),
        "report_id": hex(report.report_id),
        "report_id_ma": hex(report.report_id_ma),
        "chip_id": report.chip_id.to_string(),
        "current_tcb": tcb(report.current_tcb),
        "reported_tcb": tcb(report.reported_tcb),
        "committed_tcb": tcb(report.committed_tcb),
        "launch_tcb": tcb(report.launch_tcb),
    });
    if let Some(cpuid) = report.cpuid {
        fields["cpuid_fam_mod_step"] = hex(&cpuid).into();
    }
    fields
}

/// All captured reports are of Milan or Genoa, which have one layout.
fn tcb(raw: RawTcb) -> Value {
    let tcb = raw.decode(Product::Milan).unwrap();
    json!({ "bl": tcb.bootloader, "tee": tcb.tee, "snp": tcb.snp, "ucode": tcb.microcode })
}

#[test]
fn every_verdict_is_the_expected_one() {
    for case in captured() {
        let Some(expected) = expected(case.name) else {
            return;
        };
        let verdict = verify(&case, &expected);
        match expected["cert_chains_to"].as_str() {
            Some(chain) => {
                let report = verdict.unwrap_or_else(|error| panic!("{}: {error}", case.name));
                assert!(chain.starts_with(&report.product().to_string().to_lowercase()));
                assert_eq!(report.signing_key(), kind(&expected));
                assert_eq!(report.chip_id().is_some(), expected["hwid_matches"] == true);
            }
            None => assert!(verdict.is_err(), "{}", case.name),
        }
    }
}

/// As an appraisal does: by the product line that the case is of.
fn verify<'a>(case: &'a Captured, expected: &Value) -> Result<AuthenticatedReport<'a>, String> {
    let report = Report::parse(&case.report).map_err(|error| error.to_string())?;
    let product = report.product.unwrap_or(Product::Milan);
    let leaf = authorities(product)
        .authenticate_leaf(kind(expected), &case.leaf, None, case.moment)
        .map_err(|error| error.to_string())?;
    leaf.verify(report).map_err(|error| error.to_string())
}

#[test]
fn the_extensions_of_certificates_are_as_expected() {
    for case in captured() {
        let Some(expected) = expected(case.name) else {
            return;
        };
        let extensions = &expected["cert_ext"];
        let value = |id: &str| extensions[format!("1.3.6.1.4.1.3704.1.{id}")].as_str();
        let parsed = Leaf::parse(kind(&expected), &case.leaf);
        if let Some(hardware_id) = value("4").filter(|id| id.len() != 128) {
            // The twin with a DER octet string in it.
            assert_eq!(hardware_id.len(), 2 * 66);
            assert!(matches!(
                parsed,
                Err(LeafError::Extension { name: "hwID", .. })
            ));
            continue;
        }
        let leaf = parsed.unwrap();
        let versions = [
            ("3.1", leaf.tcb().bootloader),
            ("3.2", leaf.tcb().tee),
            ("3.3", leaf.tcb().snp),
            ("3.8", leaf.tcb().microcode),
        ];
        for (id, version) in versions {
            let long = if version < 128 { "0201" } else { "020200" };
            assert_eq!(value(id), Some(format!("{long}{version:02x}").as_str()));
        }
        let chip = leaf.chip_id().map(|chip| chip.to_string());
        assert_eq!(chip.as_deref(), value("4"));
        let provider = value("5").map(|text| text.get(4..).unwrap());
        assert_eq!(
            leaf.csp_id().map(|id| hex(id.as_bytes())).as_deref(),
            provider
        );
    }
}

#[test]
fn a_flipped_bit_of_any_signed_byte_refuses() {
    let Some(case) = captured().into_iter().next() else {
        return;
    };
    let leaf = authorities(Product::Milan)
        .authenticate_leaf(KeyKind::Vcek, &case.leaf, None, case.moment)
        .unwrap();
    assert!(leaf.verify(Report::parse(&case.report).unwrap()).is_ok());
    for offset in 0..layout::SIGNATURE {
        for bit in [0x01, 0x80] {
            let mut flipped = case.report.clone();
            flipped[offset] ^= bit;
            let refused =
                Report::parse(&flipped).map_or(true, |report| leaf.verify(report).is_err());
            assert!(refused, "byte {offset:#x}");
        }
    }
}

#[test]
fn every_truncation_and_every_trailing_byte_refuses() {
    for case in captured() {
        for length in 0..case.report.len() {
            assert_eq!(
                Report::parse(&case.report[..length]).err(),
                Some(ReportError::Length { got: length }),
            );
        }
        let longer = [&case.report[..], &[0]].concat();
        assert_eq!(
            Report::parse(&longer).err(),
            Some(ReportError::Length { got: 1185 }),
        );
    }
}

#[test]
fn a_certificate_is_never_taken_for_one_of_another_kind() {
    for case in captured() {
        let Some(expected) = expected(case.name) else {
            return;
        };
        let other = match kind(&expected) {
            KeyKind::Vcek => KeyKind::Vlek,
            KeyKind::Vlek => KeyKind::Vcek,
        };
        let taken = Leaf::parse(other, &case.leaf);
        assert!(
            matches!(taken, Err(LeafError::Extension { .. })),
            "{}",
            case.name
        );
    }
}

#[test]
fn a_certificate_of_another_chip_or_product_refuses() {
    let cases = captured();
    let valid: Vec<_> = cases
        .iter()
        .filter(|case| !case.name.contains("invalid") && !case.name.contains("vlek"))
        .collect();
    for case in &valid {
        let report = Report::parse(&case.report).unwrap();
        for other in &valid {
            let own = Leaf::parse(KeyKind::Vcek, &case.leaf).unwrap().chip_id();
            let leaf = Leaf::parse(KeyKind::Vcek, &other.leaf).unwrap();
            if leaf.chip_id() == own {
                continue;
            }
            let leaf = authorities(leaf.product())
                .authenticate_leaf(KeyKind::Vcek, &other.leaf, None, other.moment)
                .unwrap();
            assert!(matches!(
                leaf.verify(report),
                Err(VerifyError::ChipId { .. } | VerifyError::Product { .. })
            ));
        }
    }
}

#[test]
fn a_real_turin_certificate_authenticates_and_a_milan_root_refuses_it() {
    let Some(der) = vectors::vector("snp/tests__certs_data__vcek_turin.der") else {
        return;
    };
    let now = moment("2025-01-01");
    let turin = authorities(Product::Turin);
    let leaf = turin
        .authenticate_leaf(KeyKind::Vcek, &der, None, now)
        .unwrap();
    let (chip, tcb) = (leaf.leaf().chip_id().unwrap(), leaf.leaf().tcb());
    assert_eq!(hex(chip.hardware_id(Product::Turin)), "1e550a8ee5cf9f4d");
    assert!(chip.0[8..].iter().all(|byte| *byte == 0));
    assert_eq!(
        tcb.to_string(),
        "fmc=0 bootloader=0 tee=0 snp=0 microcode=9"
    );
    assert_eq!(
        authorities(Product::Milan)
            .authenticate_leaf(KeyKind::Vcek, &der, None, now)
            .unwrap_err(),
        LeafError::Product {
            expected: Product::Milan,
            got: Product::Turin
        }
    );
}

#[test]
fn a_certificate_out_of_its_dates_refuses() {
    for case in captured() {
        let Ok(leaf) = Leaf::parse(KeyKind::Vcek, &case.leaf) else {
            continue;
        };
        let authorities: Authorities = authorities(leaf.product());
        let period = leaf.validity();
        let at = |seconds| {
            authorities
                .authenticate_leaf(KeyKind::Vcek, &case.leaf, None, snp::UnixTime(seconds))
                .err()
        };
        assert!(matches!(
            at(period.from.0 - 1),
            Some(LeafError::OutOfDate(_))
        ));
        assert!(matches!(
            at(period.until.0 + 1),
            Some(LeafError::OutOfDate(_))
        ));
        for edge in [period.from.0, period.until.0] {
            assert!(!matches!(at(edge), Some(LeafError::OutOfDate(_))));
        }
    }
}
