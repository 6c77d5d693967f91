//! Reports and authorities under a development root: what passes, and each thing that refuses.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/development.rs"]
mod development;

use development::{NOW, ROOT, TCB, authenticate, authorities, chip, report, vcek, verify};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, PKCS_RSA_SHA384, RsaKeySize};
use snp::{
    Authorities, AuthorityCertificates, AuthorityError, ChipId, ExtensionFault, KeyKind, LeafError,
    Origin, Report, ReportError, VerifyError, layout,
};
use software_snp::{Leaf, Product};

#[test]
fn a_report_of_each_product_line_and_version_passes() {
    for product in Product::ALL {
        for version in [2, 3, 5] {
            let key = vcek(product);
            let fields = report(product).with_version(version);
            let bytes = fields.signed_by(&key).unwrap();
            let report = Report::parse(&bytes).unwrap();
            let leaf = authenticate(product, &key).unwrap();
            let verified = leaf.verify(report).unwrap();
            assert_eq!(verified.product(), product.into());
            assert_eq!(verified.origin(), Origin::Development);
            assert_eq!(verified.signing_key(), KeyKind::Vcek);
            assert_eq!(verified.chip_id(), Some(ChipId(chip(product))));
            assert_eq!(verified.tcbs().reported.microcode, TCB.microcode);

            let other = authenticate(product, &vcek(product)).unwrap();
            let refused = other.verify(report);
            assert_eq!(refused.unwrap_err(), VerifyError::Signature);
        }
    }
}

#[test]
fn turins_tcb_has_its_own_order_and_an_fmc() {
    let leaf = vcek(Product::Turin);
    let honest = report(Product::Turin);
    assert_eq!(verify(Product::Turin, &honest, &leaf), Ok(()));
    // The same bytes in the other lines' order.
    let mut other = honest.clone();
    other.reported_tcb = TCB.encode(Product::Milan);
    let bytes = other.signed_by(&leaf).unwrap();
    assert!(matches!(
        Report::parse(&bytes),
        Err(ReportError::Tcb {
            offset: layout::REPORTED_TCB,
            ..
        })
    ));
    for at in [0, 1, 2, 3, 7] {
        let mut other = honest.clone();
        other.reported_tcb[at] ^= 1;
        let refused = verify(Product::Turin, &other, &leaf);
        assert!(matches!(refused, Err(VerifyError::Tcb { .. })), "byte {at}");
    }
}

#[test]
fn the_reported_tcb_must_be_the_certificates_and_no_other_tcb() {
    let leaf = vcek(Product::Milan);
    let mut fields = report(Product::Milan);
    fields.current_tcb[7] = 255;
    fields.committed_tcb[0] = 0;
    fields.launch_tcb[6] = 0;
    assert_eq!(verify(Product::Milan, &fields, &leaf), Ok(()));
    for at in [0, 1, 6, 7] {
        let mut fields = report(Product::Milan);
        fields.reported_tcb[at] -= 1;
        let refused = verify(Product::Milan, &fields, &leaf);
        assert!(matches!(refused, Err(VerifyError::Tcb { .. })), "byte {at}");
    }
}

#[test]
fn a_report_of_version_2_fits_the_product_line_of_its_certificate() {
    let leaf = vcek(Product::Turin);
    let mut fields = report(Product::Turin).with_version(2);
    fields.current_tcb[4] = 1;
    assert!(matches!(
        verify(Product::Turin, &fields, &leaf),
        Err(VerifyError::Report(ReportError::Tcb {
            offset: layout::CURRENT_TCB,
            ..
        }))
    ));
    let mut fields = report(Product::Turin).with_version(2);
    fields.chip_id[8] = 1;
    let refused = verify(Product::Turin, &fields, &leaf);
    assert!(matches!(refused, Err(VerifyError::ChipId { .. })));
}

#[test]
fn a_report_of_another_product_line_refuses() {
    let mut fields = report(Product::Milan);
    fields.cpuid = Product::Genoa.cpuid();
    assert_eq!(
        verify(Product::Milan, &fields, &vcek(Product::Milan)),
        Err(VerifyError::Product {
            expected: snp::Product::Milan,
            got: snp::Product::Genoa
        })
    );
}

#[test]
fn a_report_of_another_chip_or_of_none_refuses() {
    for product in Product::ALL {
        let leaf = vcek(product);
        for at in 0..product.hardware_id_len() {
            let mut fields = report(product);
            fields.chip_id[at] ^= 1;
            let refused = verify(product, &fields, &leaf);
            assert!(matches!(refused, Err(VerifyError::ChipId { .. })));
        }
        for version in [2, 3, 5] {
            let mut fields = report(product).with_version(version);
            fields.chip_id = [0; 64];
            let masked = VerifyError::ChipIdMasked(ChipId(chip(product)));
            assert_eq!(verify(product, &fields, &leaf), Err(masked));
        }
    }
}

#[test]
fn a_vcek_that_the_report_says_is_masked_did_not_sign() {
    let mut fields = report(Product::Milan);
    fields.key_info |= layout::KEY_INFO_MASK_CHIP_KEY;
    let refused = Err(VerifyError::MaskedKey);
    assert_eq!(
        verify(Product::Milan, &fields, &vcek(Product::Milan)),
        refused
    );
}

#[test]
fn a_vlek_passes_for_a_vlek_only() {
    let vlek = ROOT.vlek(Product::Milan, "CN=cloud", TCB).unwrap();
    let mut fields = report(Product::Milan).with_vlek();
    for (chip_id, seen) in [(chip(Product::Milan), true), ([0; 64], false)] {
        fields.chip_id = chip_id;
        let bytes = fields.signed_by(&vlek).unwrap();
        let leaf = authenticate(Product::Milan, &vlek).unwrap();
        assert_eq!(leaf.leaf().csp_id(), Some("CN=cloud"));
        let verified = leaf.verify(Report::parse(&bytes).unwrap()).unwrap();
        assert_eq!(verified.signing_key(), KeyKind::Vlek);
        assert_eq!(verified.chip_id().is_some(), seen);
    }
    fields.key_info |= layout::KEY_INFO_MASK_CHIP_KEY;
    assert_eq!(verify(Product::Milan, &fields, &vlek), Ok(()));

    let as_vcek =
        authorities(Product::Milan).authenticate_leaf(KeyKind::Vcek, vlek.certificate(), None, NOW);
    let missing = LeafError::Extension {
        name: "hwID",
        fault: ExtensionFault::Missing,
    };
    assert_eq!(as_vcek.err(), Some(missing));
}

#[test]
fn the_kind_in_the_report_must_be_the_certificates() {
    let vlek = ROOT.vlek(Product::Milan, "CN=cloud", TCB).unwrap();
    let mixed = [
        (report(Product::Milan), vlek, KeyKind::Vlek, KeyKind::Vcek),
        (
            report(Product::Milan).with_vlek(),
            vcek(Product::Milan),
            KeyKind::Vcek,
            KeyKind::Vlek,
        ),
    ];
    for (fields, leaf, expected, got) in mixed {
        let refused = Err(VerifyError::KeyKind { expected, got });
        assert_eq!(verify(Product::Milan, &fields, &leaf), refused);
    }
}

#[test]
fn a_report_that_is_not_signed_refuses() {
    let mut fields = report(Product::Milan);
    fields.key_info = layout::SIGNING_KEY_NONE << layout::KEY_INFO_SIGNING_KEY_SHIFT;
    let bytes = fields.encode();
    let leaf = authenticate(Product::Milan, &vcek(Product::Milan)).unwrap();
    let refused = leaf.verify(Report::parse(&bytes).unwrap());
    assert_eq!(refused.unwrap_err(), VerifyError::Unsigned);
}

#[test]
fn a_development_root_with_amds_names_is_not_amds() {
    for product in Product::ALL {
        let leaf = vcek(product);
        let amd = Authorities::amd(product.into()).unwrap();
        let refused = amd.authenticate_leaf(KeyKind::Vcek, leaf.certificate(), None, NOW);
        assert!(matches!(
            refused,
            Err(LeafError::Untrusted {
                authority: "ASK",
                ..
            })
        ));
        assert_ne!(amd.root(), authorities(product).root());
        assert_eq!(amd.origin(), Origin::Amd);
    }
}

#[test]
fn an_authority_has_an_rsa_key_of_4096_bits() {
    let der = |key: KeyPair| {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.self_signed(&key).unwrap().der().to_vec()
    };
    let rsa = KeyPair::generate_rsa_for(&PKCS_RSA_SHA384, RsaKeySize::_2048).unwrap();
    for ark in [der(rsa), der(KeyPair::generate().unwrap())] {
        let chain = ROOT.chain(Product::Milan);
        let certificates = AuthorityCertificates {
            ark: &ark,
            ask: &chain.ask,
            asvk: &chain.asvk,
        };
        let refused = Authorities::development(snp::Product::Milan, &certificates);
        assert_eq!(refused.unwrap_err(), AuthorityError::NotAuthority("ARK"));
    }
}

#[test]
fn authorities_must_be_a_root_and_what_it_signed() {
    let chain = |product| AuthorityCertificates {
        ark: &ROOT.chain(product).ark,
        ask: &ROOT.chain(product).ask,
        asvk: &ROOT.chain(product).asvk,
    };
    let load = |certificates: AuthorityCertificates<'_>| {
        Authorities::development(snp::Product::Milan, &certificates).err()
    };
    let good = chain(Product::Milan);
    let amd = AuthorityCertificates::amd(snp::Product::Milan);
    let leaf: Leaf = vcek(Product::Milan);
    assert_eq!(load(good), None);
    assert_eq!(
        load(AuthorityCertificates {
            ask: amd.ask,
            ..good
        }),
        Some(AuthorityError::Unsigned("ASK"))
    );
    assert_eq!(
        load(AuthorityCertificates {
            asvk: amd.asvk,
            ..good
        }),
        Some(AuthorityError::Unsigned("ASVK"))
    );
    assert_eq!(
        load(AuthorityCertificates {
            ark: amd.ark,
            ..good
        }),
        Some(AuthorityError::Unsigned("ASK"))
    );
    assert_eq!(
        load(AuthorityCertificates {
            ark: good.ask,
            ..good
        }),
        Some(AuthorityError::NotAuthority("ARK"))
    );
    assert_eq!(
        load(AuthorityCertificates {
            ask: leaf.certificate(),
            ..good
        }),
        Some(AuthorityError::NotAuthority("ASK"))
    );
    let empty = load(AuthorityCertificates { ask: &[], ..good });
    assert!(matches!(
        empty,
        Some(AuthorityError::Malformed { name: "ASK", .. })
    ));
}
