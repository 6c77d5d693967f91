//! Who vouches for the key that signed a report: certificates and revocation lists, of the verifier's
//! own and of the host's.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "support/guest.rs"]
mod guest;

use appraisal::{AppraisalError, ErrorClass, ReportError};
use guest::{Case, Guest, NOW, OTHER_ROOT, ROOT, TCB, chip, development_root, policy};
use serde_json::json;
use snp::{CertificateTableError, LeafError, RevocationError, VerifyError};
use software_snp::{CrlFields, DevelopmentRoot, LeafFields, Product, Tcb, table};

const REFUSED: ErrorClass = ErrorClass::Refused;
const MALFORMED: ErrorClass = ErrorClass::Malformed;
const UNAVAILABLE: ErrorClass = ErrorClass::Unavailable;

/// A certificate of the same chip for an older TCB, as hosts that were updated still have.
fn stale(guest: &Guest) -> Vec<u8> {
    let old = Tcb {
        microcode: TCB.microcode - 1,
        ..TCB
    };
    let leaf = ROOT.vcek(guest.product, &chip(guest.product), old);
    leaf.unwrap().certificate().to_vec()
}

/// The revocation list of `root` in force at [`NOW`].
fn revocations(root: &DevelopmentRoot, product: Product, revoked: Vec<u64>) -> Vec<u8> {
    let fields = CrlFields {
        this_update: NOW - 86_400,
        next_update: NOW + 86_400,
        revoked,
    };
    root.crl(product, &fields).unwrap()
}

#[test]
fn certificates_come_from_the_host_or_the_verifier() {
    let cases = [
        Case {
            name: "the verifier's own",
            change: |_| {},
            verdict: Ok(()),
        },
        Case {
            name: "the host's, none of our own",
            change: Guest::endorse_by_table,
            verdict: Ok(()),
        },
        Case {
            name: "the host's is stale, our own is right",
            change: |guest| guest.table = table::encode(&[(table::VCEK, &stale(guest))]),
            verdict: Ok(()),
        },
        Case {
            name: "the host's is garbage, our own is right",
            change: |guest| guest.table = table::encode(&[(table::VCEK, b"garbage")]),
            verdict: Ok(()),
        },
        Case {
            name: "our own is of another TCB, the host's is right",
            change: |guest| {
                guest.endorse_by_table();
                guest.own = Some(stale(guest));
            },
            verdict: Ok(()),
        },
        Case {
            name: "none at all",
            change: |guest| guest.own = None,
            verdict: Err((UNAVAILABLE, &["certificate of the signing key"])),
        },
        Case {
            name: "the host's is stale, none of our own",
            change: |guest| {
                guest.own = None;
                guest.table = table::encode(&[(table::VCEK, &stale(guest))]);
            },
            verdict: Err((UNAVAILABLE, &["certificate of the signing key"])),
        },
        Case {
            name: "the host's is in the place of a VLEK",
            change: |guest| {
                let vcek = guest.own.take().unwrap();
                guest.table = table::encode(&[(table::VLEK, &vcek)]);
            },
            verdict: Err((UNAVAILABLE, &["certificate of the signing key"])),
        },
        Case {
            name: "our own is of another TCB, none of the host's",
            change: |guest| guest.own = Some(stale(guest)),
            verdict: Err((REFUSED, &["signed report"])),
        },
        Case {
            name: "our own is garbage",
            change: |guest| guest.own = Some(b"garbage".to_vec()),
            verdict: Err((REFUSED, &["certificate of the signing key"])),
        },
        Case {
            name: "a host's authorities are not looked at",
            change: |guest| {
                let chain = OTHER_ROOT.chain(guest.product);
                let leaf = guest.own.take().unwrap();
                guest.table = table::encode(&[
                    (table::ARK, &chain.ark),
                    (table::ASK, &chain.ask),
                    (table::VCEK, &leaf),
                ]);
            },
            verdict: Ok(()),
        },
    ];
    cases.iter().for_each(|case| case.run(Guest::new()));
}

#[test]
fn a_signature_by_another_key_is_final_whatever_else_there_is() {
    // Another key with a certificate that says the same of chip and TCB.
    let other = ROOT.vcek(Product::Milan, &chip(Product::Milan), TCB);
    let other = other.unwrap();
    let mut guest = Guest::new();
    guest.own = Some(other.certificate().to_vec());
    let signature = AppraisalError::Report(ReportError::Verify(VerifyError::Signature));
    assert_eq!(guest.appraise(), Err(signature.clone()));
    guest.own = None;
    guest.table = table::encode(&[(table::VCEK, other.certificate())]);
    assert_eq!(guest.appraise(), Err(signature.clone()));
    assert_eq!(signature.class(), REFUSED);
    assert!(!signature.is_by_proven_attester());
}

#[test]
fn a_malformed_table_is_refused_although_our_own_certificate_is_right() {
    let guest = Guest::new();
    let leaf = guest.own.clone().unwrap();
    let entries = [(table::VCEK, &*leaf), (table::ASK, &[1, 2, 3, 4])];
    for (flaw, expected) in [
        (
            table::Flaw::PastTheEnd,
            CertificateTableError::OutOfRange(0),
        ),
        (table::Flaw::Overflow, CertificateTableError::OutOfRange(0)),
        (table::Flaw::Overlap, CertificateTableError::Overlap(1)),
        (
            table::Flaw::InsideEntries,
            CertificateTableError::Overlap(0),
        ),
        (
            table::Flaw::Unterminated,
            CertificateTableError::TooManyEntries,
        ),
    ] {
        let mut guest = guest.clone();
        guest.table = table::encode_flawed(&entries, flaw);
        let error = guest.appraise().unwrap_err();
        let table = AppraisalError::Report(ReportError::CertificateTable(expected));
        assert_eq!(error, table, "{flaw:?}");
        assert_eq!(error.class(), MALFORMED);
    }
    for table in [vec![0; 23], vec![0; 33 * 1024]] {
        let mut guest = guest.clone();
        guest.table = table;
        assert_eq!(guest.appraise().unwrap_err().class(), MALFORMED);
    }
}

#[test]
fn a_root_of_ones_own_with_amds_names_is_refused() {
    // The policy trusts AMD, the report is of the development root.
    let mut guest = Guest::new();
    let entry = guest.rule("/sev_snp/products/0").as_object_mut().unwrap();
    entry.remove("development_root");
    let error = guest.appraise().unwrap_err();
    assert!(matches!(
        error,
        AppraisalError::Report(ReportError::Leaf(LeafError::Untrusted { .. }))
    ));
    assert_eq!(error.class(), REFUSED);
    // What the host gives is nobody's word; AMD's service would have to give the certificate.
    guest.endorse_by_table();
    assert_eq!(guest.appraise().unwrap_err().class(), UNAVAILABLE);
}

#[test]
fn a_development_root_is_the_one_that_the_policy_names() {
    let mut guest = Guest::new();
    *guest.rule("/sev_snp/products/0/development_root") =
        development_root(&OTHER_ROOT, guest.product);
    let error = guest.appraise().unwrap_err();
    assert_eq!(error.checks()[0].check, "certificate of the signing key");
    let theirs = OTHER_ROOT.vcek(guest.product, &chip(guest.product), TCB);
    guest.sign_with(theirs.unwrap());
    guest.assert_accepted();
    let appraiser = guest.appraiser().unwrap();
    assert_eq!(
        appraiser.policy().development_roots(),
        [snp::Product::Milan]
    );
}

#[test]
fn a_development_root_vouches_for_its_product_line_only() {
    let mut guest = Guest::on(Product::Genoa);
    guest.policy = policy(&[Product::Milan, Product::Genoa]);
    let genoa = guest.rule("/sev_snp/products/1").as_object_mut().unwrap();
    genoa.remove("development_root");
    let error = guest.appraise().unwrap_err();
    assert_eq!(error.checks()[0].check, "certificate of the signing key");
    let appraiser = guest.appraiser().unwrap();
    assert_eq!(
        appraiser.policy().development_roots(),
        [snp::Product::Milan]
    );
}

#[test]
fn a_leaf_under_the_wrong_intermediate_is_refused() {
    // A VCEK that the ASVK signed, and a VLEK that the ASK signed, are nobody's.
    let mut guest = Guest::new();
    let mut fields = LeafFields::vcek(guest.product, &chip(guest.product), TCB);
    fields.kind = software_snp::LeafKind::Vlek;
    guest.sign_with(ROOT.issue(&fields).unwrap());
    assert_eq!(guest.appraise().unwrap_err().class(), REFUSED);
    let mut guest = Guest::with_vlek();
    let mut fields = LeafFields::vlek(guest.product, "provider", TCB);
    fields.kind = software_snp::LeafKind::Vcek;
    guest.sign_with(ROOT.issue(&fields).unwrap());
    assert_eq!(guest.appraise().unwrap_err().class(), REFUSED);
}

#[test]
fn a_certificate_out_of_its_dates_is_refused() {
    let mut guest = Guest::new();
    guest.sign_with(guest::vcek_with(guest.product, |fields| {
        fields.validity = NOW..NOW + 10;
    }));
    for (now, accepted) in [
        (NOW - 1, false),
        (NOW, true),
        (NOW + 10, true),
        (NOW + 11, false),
    ] {
        guest.now = now;
        match guest.appraise() {
            Ok(_) => assert!(accepted, "{now}"),
            Err(error) => {
                assert!(!accepted, "{now}: {error:?}");
                // The clock may be what is wrong: not final.
                assert_eq!(error.class(), UNAVAILABLE);
            }
        }
    }
}

/// The policy wants a list.
fn require(guest: &mut Guest) {
    *guest.rule("/sev_snp/revocation_lists") = json!("required");
}

/// A list that was due for replacement a second ago.
fn old(guest: &Guest) -> Vec<u8> {
    let fields = CrlFields {
        this_update: NOW - 10,
        next_update: NOW - 1,
        revoked: vec![],
    };
    ROOT.crl(guest.product, &fields).unwrap()
}

fn good(guest: &Guest) -> Vec<u8> {
    revocations(&ROOT, guest.product, vec![])
}

#[test]
fn a_required_revocation_list_must_be_there_and_in_force() {
    let cases = [
        Case {
            name: "none, and the policy wants one",
            change: require,
            verdict: Err((UNAVAILABLE, &["revocation list"])),
        },
        Case {
            name: "none, and the policy wants none",
            change: |_| {},
            verdict: Ok(()),
        },
        Case {
            name: "our own",
            change: |guest| {
                require(guest);
                guest.revocations = Some(good(guest));
            },
            verdict: Ok(()),
        },
        Case {
            name: "the host's, which may be from before a revocation",
            change: |guest| {
                require(guest);
                guest.table = table::encode(&[(table::CRL, &good(guest))]);
            },
            verdict: Err((UNAVAILABLE, &["revocation list"])),
        },
        Case {
            name: "our own counts, not the host's",
            change: |guest| {
                guest.revocations = Some(good(guest));
                guest.table = table::encode(&[(table::CRL, &old(guest))]);
            },
            verdict: Ok(()),
        },
        Case {
            name: "an old one of the host's, where one is required: ours is waited for",
            change: |guest| {
                require(guest);
                guest.table = table::encode(&[(table::CRL, &old(guest))]);
            },
            verdict: Err((UNAVAILABLE, &["revocation list"])),
        },
    ];
    cases.iter().for_each(|case| case.run(Guest::new()));
}

#[test]
fn a_revocation_list_that_is_given_must_be_the_roots_and_in_force() {
    let cases = [
        Case {
            name: "an old one of the host's",
            change: |guest| guest.table = table::encode(&[(table::CRL, &old(guest))]),
            verdict: Err((UNAVAILABLE, &["revocation list"])),
        },
        Case {
            name: "an old one of our own",
            change: |guest| guest.revocations = Some(old(guest)),
            verdict: Err((UNAVAILABLE, &["revocation list"])),
        },
        Case {
            name: "one that is not in force yet",
            change: |guest| {
                let fields = CrlFields {
                    this_update: NOW + 1,
                    next_update: NOW + 2,
                    revoked: vec![],
                };
                guest.revocations = Some(ROOT.crl(guest.product, &fields).unwrap());
            },
            verdict: Err((UNAVAILABLE, &["revocation list"])),
        },
        Case {
            name: "one of another root",
            change: |guest| {
                guest.revocations = Some(revocations(&OTHER_ROOT, guest.product, vec![]));
            },
            verdict: Err((REFUSED, &["revocation list"])),
        },
        Case {
            name: "garbage",
            change: |guest| guest.revocations = Some(b"garbage".to_vec()),
            verdict: Err((REFUSED, &["revocation list"])),
        },
    ];
    cases.iter().for_each(|case| case.run(Guest::new()));
}

#[test]
fn a_revoked_authority_vouches_for_nobody() {
    let (ask, asvk) = DevelopmentRoot::serials(Product::Milan);
    let with = |mut guest: Guest, revoked| {
        guest.revocations = Some(revocations(&ROOT, guest.product, vec![revoked]));
        guest.appraise()
    };
    for (guest, own, other) in [(Guest::new(), ask, asvk), (Guest::with_vlek(), asvk, ask)] {
        let error = with(guest.clone(), own).unwrap_err();
        let revoked = LeafError::Revoked(RevocationError::Revoked(snp::Product::Milan));
        assert_eq!(error, AppraisalError::Report(ReportError::Leaf(revoked)));
        assert_eq!(error.class(), REFUSED);
        assert!(with(guest, other).is_ok());
    }
}

#[test]
fn a_revocation_by_the_hosts_list_counts() {
    let (ask, _) = DevelopmentRoot::serials(Product::Milan);
    let mut guest = Guest::new();
    let list = revocations(&ROOT, guest.product, vec![ask]);
    guest.table = table::encode(&[(table::CRL, &list)]);
    assert_eq!(guest.appraise().unwrap_err().class(), REFUSED);
}

#[test]
fn a_wrong_clock_of_the_verifier_ends_no_boot() {
    // 1970, and a time after every certificate: of the host's or of our own, with a list or without.
    for now in [0, u64::from(u32::MAX), 1 << 40] {
        let mut guest = Guest::new();
        guest.now = now;
        assert_eq!(guest.appraise().unwrap_err().class(), UNAVAILABLE, "{now}");
        guest.revocations = Some(revocations(&ROOT, guest.product, vec![]));
        assert_eq!(guest.appraise().unwrap_err().class(), UNAVAILABLE, "{now}");
        guest.endorse_by_table();
        assert_eq!(guest.appraise().unwrap_err().class(), UNAVAILABLE, "{now}");
    }
}

#[test]
fn a_report_without_a_product_line_is_not_refused_for_the_other_lines() {
    for products in [
        [Product::Milan, Product::Genoa],
        [Product::Genoa, Product::Milan],
    ] {
        let mut guest = Guest::new();
        guest.policy = policy(&products);
        // As AMD's, each line's root is another.
        for entry in guest.rule("/sev_snp/products").as_array_mut().unwrap() {
            if entry["product"] == "Genoa" {
                entry["development_root"] = development_root(&OTHER_ROOT, Product::Genoa);
            }
        }
        guest.report = guest.report.with_version(2);
        guest.revocations = Some(revocations(&ROOT, guest.product, vec![]));
        guest.assert_accepted();
        // The list is here already, the certificate is being fetched: the node comes again.
        let leaf = guest.own.take();
        assert_eq!(guest.appraise().unwrap_err().class(), UNAVAILABLE);
        // What refuses is what the right line says, in any order.
        guest.own = leaf;
        guest.now = NOW + 2 * 86_400;
        assert_eq!(guest.appraise().unwrap_err().class(), UNAVAILABLE);
        let (ask, _) = DevelopmentRoot::serials(Product::Milan);
        guest.now = NOW;
        guest.revocations = Some(revocations(&ROOT, guest.product, vec![ask]));
        assert_eq!(guest.appraise().unwrap_err().class(), REFUSED);
    }
}
