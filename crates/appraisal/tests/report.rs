//! SEV-SNP reports under a development root: each rule of the policy with a report that keeps it and
//! one that breaks it, and what else a report must be.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "support/guest.rs"]
mod guest;

use appraisal::{AppraisalError, AttesterIdentity, ErrorClass, ReportError};
use evidence::EvidenceKind;
use guest::{Case, Guest, NOW, TCB, binding, chip, entry, minimum, policy};
use serde_json::json;
use snp::{Origin, layout};
use software_snp::{Product, Tcb};

const REFUSED: ErrorClass = ErrorClass::Refused;
const MALFORMED: ErrorClass = ErrorClass::Malformed;

#[test]
fn an_honest_report_is_accepted_and_says_what_it_proves() {
    for product in Product::ALL {
        let guest = Guest::on(product);
        let appraised = guest.appraise().unwrap();
        assert_eq!(appraised.image(), "v1");
        assert_eq!(appraised.roles(), [identity::Role::Worker]);
        assert_eq!(appraised.evidence_kind(), EvidenceKind::SevSnp);
        assert_eq!(*appraised.identity(), AttesterIdentity::SevSnp);
        assert!(!appraised.identity().names_machine());
        assert_eq!(appraised.report_id(), Some(&guest.report.report_id));
        let claims = appraised.claims().sev_snp.as_ref().unwrap();
        assert_eq!(claims.product, product.into());
        assert_eq!(claims.origin, Origin::Development);
        assert_eq!(claims.chip_id.map(|chip| chip.0), Some(chip(product)));
        assert_eq!(claims.reported_tcb.microcode, TCB.microcode);
        assert_eq!(claims.below_announced_tcb, []);
        assert_eq!(appraised.claims().tpm, None);
    }
}

const ABOUT_GUESTS: &[Case] = &[
    Case {
        name: "VMPL 0 where the policy says 0",
        change: |_| {},
        verdict: Ok(()),
    },
    Case {
        name: "VMPL 1 where the policy says 0",
        change: |guest| guest.report.vmpl = 1,
        verdict: Err((REFUSED, &["VMPL"])),
    },
    Case {
        name: "VMPL 1 where the policy says 1",
        change: |guest| {
            guest.report.vmpl = 1;
            *guest.rule("/sev_snp/vmpl") = json!(1);
        },
        verdict: Ok(()),
    },
    Case {
        name: "VMPL 0 where the policy says 1",
        change: |guest| *guest.rule("/sev_snp/vmpl") = json!(1),
        verdict: Err((REFUSED, &["VMPL"])),
    },
    Case {
        name: "a report that the host asked for",
        change: |guest| guest.report.vmpl = u32::MAX,
        verdict: Err((MALFORMED, &["report"])),
    },
    Case {
        name: "debugging",
        change: |guest| guest.report.policy |= layout::POLICY_DEBUG,
        verdict: Err((REFUSED, &["guest policy: debug"])),
    },
    Case {
        name: "a migration agent",
        change: |guest| guest.report.policy |= layout::POLICY_MIGRATE_MA,
        verdict: Err((REFUSED, &["guest policy: migration agent"])),
    },
    Case {
        name: "SMT where the policy forbids it",
        change: |guest| *guest.rule("/sev_snp/guest_policy/allow_smt") = json!(false),
        verdict: Err((REFUSED, &["guest policy: SMT", "platform: SMT"])),
    },
    Case {
        name: "no SMT where the policy forbids it",
        change: |guest| {
            *guest.rule("/sev_snp/guest_policy/allow_smt") = json!(false);
            guest.report.policy &= !layout::POLICY_SMT;
            guest.report.platform_info &= !layout::PLATFORM_SMT_EN;
        },
        verdict: Ok(()),
    },
    Case {
        name: "SMT on the machine only",
        change: |guest| {
            *guest.rule("/sev_snp/guest_policy/allow_smt") = json!(false);
            guest.report.policy &= !layout::POLICY_SMT;
        },
        verdict: Err((REFUSED, &["platform: SMT"])),
    },
    Case {
        name: "SMT allowed to the guest only",
        change: |guest| {
            *guest.rule("/sev_snp/guest_policy/allow_smt") = json!(false);
            guest.report.platform_info &= !layout::PLATFORM_SMT_EN;
        },
        verdict: Err((REFUSED, &["guest policy: SMT"])),
    },
    Case {
        name: "several sockets where the policy wants one",
        change: |guest| {
            *guest.rule("/sev_snp/guest_policy/require_single_socket") = json!(true);
        },
        verdict: Err((REFUSED, &["guest policy: single socket"])),
    },
    Case {
        name: "one socket where the policy wants one",
        change: |guest| {
            *guest.rule("/sev_snp/guest_policy/require_single_socket") = json!(true);
            guest.report.policy |= layout::POLICY_SINGLE_SOCKET;
        },
        verdict: Ok(()),
    },
    Case {
        name: "a guest policy for an older interface",
        change: |guest| {
            *guest.rule("/sev_snp/guest_policy/minimum_abi") = json!([1, 55]);
            guest.report.policy |= 0x0136;
        },
        verdict: Err((REFUSED, &["guest policy: ABI version"])),
    },
    Case {
        name: "a guest policy for the interface that is wanted",
        change: |guest| {
            *guest.rule("/sev_snp/guest_policy/minimum_abi") = json!([1, 55]);
            guest.report.policy |= 0x0137;
        },
        verdict: Ok(()),
    },
    Case {
        name: "a guest policy with a larger minor version of an older major one",
        change: |guest| {
            *guest.rule("/sev_snp/guest_policy/minimum_abi") = json!([1, 0]);
            guest.report.policy |= 0x00ff;
        },
        verdict: Err((REFUSED, &["guest policy: ABI version"])),
    },
];

#[test]
fn each_rule_about_the_guest_has_a_report_that_breaks_it() {
    ABOUT_GUESTS.iter().for_each(|case| case.run(Guest::new()));
}

const ABOUT_MACHINES: &[Case] = &[
    Case {
        name: "no word about memory aliases",
        change: |guest| {
            guest.report.platform_info &= !layout::PLATFORM_ALIAS_CHECK_COMPLETE;
        },
        verdict: Err((REFUSED, &["platform: ALIAS_CHECK_COMPLETE"])),
    },
    Case {
        name: "no word about memory aliases where the owner says that there is none",
        change: |guest| {
            guest.report.platform_info &= !layout::PLATFORM_ALIAS_CHECK_COMPLETE;
            *guest.rule("/sev_snp/alias_check") = json!("unavailable");
        },
        verdict: Ok(()),
    },
    Case {
        name: "a product line that is not in the policy",
        change: |guest| guest.policy = policy(&[Product::Genoa, Product::Turin]),
        verdict: Err((REFUSED, &["product line"])),
    },
    Case {
        name: "a processor of no known line",
        change: |guest| guest.report.cpuid = [0x1a, 0x70, 0],
        verdict: Err((REFUSED, &["report"])),
    },
    Case {
        name: "a processor of another line than the certificate",
        change: |guest| {
            guest.policy = policy(&[Product::Milan, Product::Genoa]);
            guest.report.cpuid = Product::Genoa.cpuid();
        },
        verdict: Err((REFUSED, &["certificate of the signing key"])),
    },
    Case {
        name: "a chip of the policy's list",
        change: |guest| {
            let chips = json!([hex::encode([1; 64]), hex::encode(chip(Product::Milan))]);
            guest.policy["sev_snp"]["chips"] = chips;
        },
        verdict: Ok(()),
    },
    Case {
        name: "a chip that is not in the policy's list",
        change: |guest| guest.policy["sev_snp"]["chips"] = json!([hex::encode([1; 64])]),
        verdict: Err((REFUSED, &["CHIP_ID"])),
    },
    Case {
        name: "a masked chip id",
        change: |guest| guest.report.chip_id = [0; 64],
        verdict: Err((REFUSED, &["signed report"])),
    },
    Case {
        name: "a masked chip key",
        change: |guest| guest.report.key_info |= layout::KEY_INFO_MASK_CHIP_KEY,
        verdict: Err((REFUSED, &["signed report"])),
    },
    Case {
        name: "a chip other than the certificate's",
        change: |guest| guest.report.chip_id = [1; 64],
        verdict: Err((REFUSED, &["signed report"])),
    },
    Case {
        name: "every broken rule is named",
        change: |guest| {
            guest.report.policy |= layout::POLICY_DEBUG | layout::POLICY_MIGRATE_MA;
            guest.report.vmpl = 3;
            guest.report.platform_info = 0;
        },
        verdict: Err((
            REFUSED,
            &[
                "VMPL",
                "guest policy: debug",
                "guest policy: migration agent",
                "platform: ALIAS_CHECK_COMPLETE",
            ],
        )),
    },
];

#[test]
fn each_rule_about_the_machine_has_a_report_that_breaks_it() {
    ABOUT_MACHINES
        .iter()
        .for_each(|case| case.run(Guest::new()));
}

#[test]
fn the_kind_of_key_is_the_policys_and_never_guessed() {
    Guest::with_vlek().assert_accepted();
    let mut masked = Guest::with_vlek();
    masked.report.chip_id = [0; 64];
    masked.report.key_info |= layout::KEY_INFO_MASK_CHIP_KEY;
    let appraised = masked.appraise().unwrap();
    assert_eq!(appraised.claims().sev_snp.as_ref().unwrap().chip_id, None);

    let cases = [
        Case {
            name: "VLEK where VCEK is asked",
            change: |guest| *guest.rule("/sev_snp/products/0/endorsement_key") = json!("vcek"),
            verdict: Err((REFUSED, &["certificate of the signing key"])),
        },
        Case {
            name: "a VLEK's report that says a VCEK signed",
            change: |guest| guest.report.key_info = 0,
            verdict: Err((REFUSED, &["signed report"])),
        },
        Case {
            name: "a masked chip id where the policy lists chips",
            change: |guest| {
                guest.policy["sev_snp"]["chips"] = json!([hex::encode(chip(Product::Milan))]);
                guest.report.chip_id = [0; 64];
            },
            verdict: Err((REFUSED, &["CHIP_ID"])),
        },
        Case {
            name: "a chip of the list, by a VLEK",
            change: |guest| {
                guest.policy["sev_snp"]["chips"] = json!([hex::encode(chip(Product::Milan))]);
            },
            verdict: Ok(()),
        },
    ];
    cases.iter().for_each(|case| case.run(Guest::with_vlek()));

    let by_vcek = Case {
        name: "VCEK where VLEK is asked",
        change: |guest| *guest.rule("/sev_snp/products/0/endorsement_key") = json!("vlek"),
        verdict: Err((REFUSED, &["certificate of the signing key"])),
    };
    by_vcek.run(Guest::new());
}

#[test]
fn a_report_that_is_not_signed_is_refused() {
    let mut guest = Guest::new();
    guest.report.key_info = layout::SIGNING_KEY_NONE << layout::KEY_INFO_SIGNING_KEY_SHIFT;
    let error = guest.appraise_report(guest.report.encode().to_vec());
    assert_eq!(error.unwrap_err().class(), REFUSED);
}

/// Every component of the TCB of a line, with the report that is one below the minimum in it.
#[test]
fn each_component_of_the_reported_tcb_has_its_minimum() {
    type Lower = (&'static str, fn(&mut Tcb));
    let components: [Lower; 5] = [
        ("fmc", |tcb| tcb.fmc -= 1),
        ("bootloader", |tcb| tcb.bootloader -= 1),
        ("tee", |tcb| tcb.tee -= 1),
        ("snp", |tcb| tcb.snp -= 1),
        ("microcode", |tcb| tcb.microcode -= 1),
    ];
    for product in Product::ALL {
        for (component, lower) in components {
            if component == "fmc" && product != Product::Turin {
                continue;
            }
            let mut tcb = TCB;
            lower(&mut tcb);
            let mut guest = Guest::on(product);
            guest.report.reported_tcb = tcb.encode(product);
            guest.sign_with(guest::ROOT.vcek(product, &chip(product), tcb).unwrap());
            let error = guest.appraise().unwrap_err();
            let check = &error.checks()[0];
            assert_eq!(check.check, format!("reported TCB: {component}"));
            assert_eq!(error.checks().len(), 1);
            assert_eq!(error.class(), REFUSED);
            // What is lower in one component is not made good by another.
            *guest.rule("/sev_snp/products/0/minimum_tcb") = minimum(product, tcb);
            guest.assert_accepted();
        }
    }
}

#[test]
fn the_minimum_is_compared_with_the_reported_tcb_and_no_other() {
    let (old, new) = (
        Tcb {
            microcode: 115,
            ..TCB
        },
        TCB,
    );
    let report = |reported: Tcb, others: Tcb| {
        let mut guest = Guest::new();
        let product = guest.product;
        guest.report.reported_tcb = reported.encode(product);
        guest.report.current_tcb = others.encode(product);
        guest.report.committed_tcb = others.encode(product);
        guest.report.launch_tcb = others.encode(product);
        guest.sign_with(guest::ROOT.vcek(product, &chip(product), reported).unwrap());
        guest
    };
    let error = report(old, new).appraise().unwrap_err();
    assert_eq!(error.checks()[0].check, "reported TCB: microcode");
    assert_eq!(error.checks()[0].expected, "219 or later");
    assert_eq!(error.checks()[0].got, "115");
    // Reported below current is legal where the policy's minimum is the reported one.
    let mut legal = report(old, new);
    *legal.rule("/sev_snp/products/0/minimum_tcb") = minimum(legal.product, old);
    legal.assert_accepted();
}

#[test]
fn an_announced_minimum_reports_first_and_refuses_from_its_date() {
    let higher = Tcb {
        microcode: TCB.microcode + 1,
        ..TCB
    };
    let mut guest = Guest::new();
    let minimum = minimum(guest.product, higher);
    let announce = |guest: &mut Guest, upcoming| {
        guest.policy["sev_snp"]["products"][0]["upcoming_tcb"] = upcoming;
    };
    announce(&mut guest, json!({"minimum_tcb": minimum}));
    for now in [NOW, NOW + 20 * 365 * 86_400 - 366 * 86_400] {
        guest.now = now;
        let appraised = guest.appraise().unwrap();
        let below = &appraised
            .claims()
            .sev_snp
            .as_ref()
            .unwrap()
            .below_announced_tcb;
        assert_eq!(below.len(), 1);
        assert_eq!(below[0].check, "reported TCB: microcode");
        assert_eq!(
            (&*below[0].expected, &*below[0].got),
            ("220 or later", "219")
        );
    }

    let effective = json!({"effective": "2025-01-02T00:00:00Z", "minimum_tcb": minimum});
    announce(&mut guest, effective);
    guest.now = NOW + 86_399;
    let appraised = guest.appraise().unwrap();
    let claims = appraised.claims().sev_snp.as_ref().unwrap();
    assert_eq!(claims.below_announced_tcb.len(), 1);
    guest.now = NOW + 86_400;
    let error = guest.appraise().unwrap_err();
    assert_eq!(error.checks()[0].check, "reported TCB: microcode");
    assert_eq!(error.class(), REFUSED);

    // A report that is above it says nothing about it, before and after.
    guest.report.reported_tcb = higher.encode(guest.product);
    guest.sign_with(
        guest::ROOT
            .vcek(guest.product, &chip(guest.product), higher)
            .unwrap(),
    );
    for now in [NOW, NOW + 86_400] {
        guest.now = now;
        let appraised = guest.appraise().unwrap();
        let claims = appraised.claims().sev_snp.as_ref().unwrap();
        assert_eq!(claims.below_announced_tcb, []);
    }
}

#[test]
fn an_announced_minimum_never_lowers_the_one_in_force() {
    let lower = Tcb {
        snp: TCB.snp - 1,
        ..TCB
    };
    let mut guest = Guest::new();
    guest.policy["sev_snp"]["products"][0]["upcoming_tcb"] = json!({
        "effective": "2024-01-01T00:00:00Z",
        "minimum_tcb": minimum(guest.product, lower),
    });
    guest.report.reported_tcb = lower.encode(guest.product);
    guest.sign_with(
        guest::ROOT
            .vcek(guest.product, &chip(guest.product), lower)
            .unwrap(),
    );
    let error = guest.appraise().unwrap_err();
    assert_eq!(error.checks()[0].check, "reported TCB: snp");
}

#[test]
fn a_report_of_another_channel_is_refused() {
    let mut guest = Guest::new();
    guest.report.report_data = *binding(2).as_bytes();
    let error = guest.appraise().unwrap_err();
    let expected = hex::encode(guest.binding.as_bytes());
    assert_eq!(
        error,
        AppraisalError::Report(ReportError::Binding {
            expected,
            got: hex::encode(binding(2).as_bytes()),
        })
    );
    assert_eq!(error.class(), REFUSED);
    assert!(!error.is_by_proven_attester());
}

#[test]
fn each_bit_of_the_binding_counts() {
    let guest = Guest::new();
    for byte in 0..64 {
        let mut other = guest.clone();
        other.report.report_data[byte] ^= 1;
        let error = other.appraise().unwrap_err();
        assert_eq!(error.checks()[0].check, "REPORT_DATA", "{byte}");
    }
}

#[test]
fn a_flipped_bit_of_any_byte_refuses() {
    let guest = Guest::new();
    let report = guest.signed();
    assert!(guest.appraise_report(report.clone()).is_ok());
    for (offset, bit) in (0..report.len()).map(|offset| (offset, 1 << (offset % 8))) {
        let mut flipped = report.clone();
        flipped[offset] ^= bit;
        assert!(guest.appraise_report(flipped).is_err(), "{offset:#x}");
    }
}

#[test]
fn every_truncation_and_every_trailing_byte_refuses() {
    let guest = Guest::new();
    let report = guest.signed();
    for length in 0..report.len() {
        let error = guest.appraise_report(report[..length].to_vec());
        assert_eq!(error.unwrap_err().class(), MALFORMED, "{length}");
    }
    let longer = [&report[..], &[0]].concat();
    let error = guest.appraise_report(longer).unwrap_err();
    assert_eq!(error.class(), MALFORMED);
}

#[test]
fn every_version_but_2_3_and_5_is_refused_by_name() {
    for version in [2, 3, 5] {
        let mut guest = Guest::new();
        guest.report = guest.report.with_version(version);
        guest.assert_accepted();
    }
    for version in [0, 1, 4, 6, u32::MAX] {
        let mut guest = Guest::new();
        guest.report.version = version;
        let error = guest.appraise().unwrap_err();
        assert_eq!(error.class(), REFUSED);
        let got = &error.checks()[0].got;
        assert!(got.contains(&format!("version is {version}")), "{got}");
    }
}

#[test]
fn a_report_that_names_no_product_is_judged_by_the_entry_of_its_certificate() {
    let other = Tcb {
        microcode: 220,
        ..TCB
    };
    for product in [Product::Milan, Product::Genoa] {
        let mut guest = Guest::on(product);
        guest.report = guest.report.with_version(2);
        guest.policy = policy(&[Product::Turin, Product::Milan, Product::Genoa]);
        let appraised = guest.appraise().unwrap();
        let claims = appraised.claims().sev_snp.as_ref().unwrap();
        assert_eq!(claims.product, product.into());
        // The other entries' minima are not this one's.
        for entry in guest.rule("/sev_snp/products").as_array_mut().unwrap() {
            if entry["product"] == product.name() {
                entry["minimum_tcb"] = minimum(product, other);
            }
        }
        let error = guest.appraise().unwrap_err();
        assert_eq!(error.checks()[0].check, "reported TCB: microcode");
    }
}

#[test]
fn a_report_that_names_no_product_is_not_accepted_if_its_line_is_not_in_the_policy() {
    let mut guest = Guest::on(Product::Genoa);
    guest.report = guest.report.with_version(2);
    guest.policy = policy(&[Product::Milan]);
    let error = guest.appraise().unwrap_err();
    assert_eq!(error.class(), REFUSED);
    assert_eq!(error.checks()[0].check, "certificate of the signing key");
    // With several candidates nobody knows that no certificate of theirs will come.
    guest.policy = policy(&[Product::Milan, Product::Turin]);
    let error = guest.appraise().unwrap_err();
    assert_eq!(error.class(), ErrorClass::Unavailable);
}

#[test]
fn an_old_report_may_mask_the_chip_only_with_a_vlek() {
    let mut guest = Guest::with_vlek();
    guest.report = guest.report.with_version(2);
    guest.report.chip_id = [0; 64];
    guest.assert_accepted();
    let mut guest = Guest::new();
    guest.report = guest.report.with_version(2);
    guest.report.chip_id = [0; 64];
    assert_eq!(guest.appraise().unwrap_err().class(), REFUSED);
}

#[test]
fn each_quirk_of_turin_refuses_where_it_is_missing() {
    let turin = || Guest::on(Product::Turin);
    turin().assert_accepted();

    // The order of the components is Turin's: the same bytes in the older order are another TCB.
    let mut guest = turin();
    guest.report.reported_tcb = TCB.encode(Product::Milan);
    assert_eq!(guest.appraise().unwrap_err().checks()[0].check, "report");
    // The hardware id has 8 bytes; what follows is zero in the report.
    let mut guest = turin();
    guest.report.chip_id = [0xc7; 64];
    assert_eq!(guest.appraise().unwrap_err().checks()[0].check, "report");
    // In the certificate too it has 8 bytes, no more and no less.
    for length in [7, 9, 64] {
        let mut guest = turin();
        guest.sign_with(guest::vcek_with(Product::Turin, |fields| {
            fields.extension(&[4]).unwrap().value = vec![0xc7; length];
        }));
        let error = guest.appraise().unwrap_err();
        assert_eq!(error.checks()[0].check, "certificate of the signing key");
    }
    // A certificate without FMC, or with another one.
    let mut guest = turin();
    guest.sign_with(guest::vcek_with(Product::Turin, |fields| {
        let fmc = fields.extension(&[3, 9]).unwrap().clone();
        fields.extensions.retain(|extension| *extension != fmc);
    }));
    assert_eq!(guest.appraise().unwrap_err().class(), REFUSED);
    let mut guest = turin();
    let lower = Tcb { fmc: 2, ..TCB };
    guest.sign_with(
        guest::ROOT
            .vcek(Product::Turin, &chip(Product::Turin), lower)
            .unwrap(),
    );
    assert_eq!(
        guest.appraise().unwrap_err().checks()[0].check,
        "signed report"
    );
    // Another chip of the same line.
    let mut guest = turin();
    guest.report.chip_id[7] ^= 1;
    assert_eq!(
        guest.appraise().unwrap_err().checks()[0].check,
        "signed report"
    );
}

/// AMD's is 0, which RFC 5280 forbids.
#[test]
fn the_serial_number_of_a_certificate_decides_nothing() {
    for serial in [0, 1, u64::MAX] {
        let mut guest = Guest::new();
        guest.sign_with(guest::vcek_with(guest.product, |fields| {
            fields.serial = serial;
        }));
        guest.assert_accepted();
    }
}

#[test]
fn a_hardware_id_in_an_octet_string_is_refused() {
    let mut guest = Guest::new();
    guest.sign_with(guest::vcek_with(guest.product, |fields| {
        let value = &mut fields.extension(&[4]).unwrap().value;
        *value = [&[0x04, 64][..], value].concat();
    }));
    let error = guest.appraise().unwrap_err();
    assert_eq!(error.checks()[0].check, "certificate of the signing key");
}

#[test]
fn each_product_line_has_its_own_rules() {
    let mut guest = Guest::on(Product::Genoa);
    guest.policy = policy(&[Product::Milan, Product::Genoa]);
    let mut strict = entry(Product::Milan);
    strict["minimum_tcb"]["microcode"] = json!(255);
    strict["endorsement_key"] = json!("vlek");
    *guest.rule("/sev_snp/products/0") = strict;
    guest.assert_accepted();
}
