//! Reports that are malformed, rule by rule, in every version.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/development.rs"]
mod development;

use development::{malformed, report, unsigned};
use snp::{
    EcdsaError, KeyKind, Product, Report, ReportError, ReservedTcb,
    layout::{self, REPORT_LEN},
    signature::NUMBER_LEN,
};
use software_snp::{Product as Line, ReportFields};

const VERSIONS: [u32; 3] = [2, 3, 5];
const S: usize = layout::SIGNATURE + NUMBER_LEN;
/// The order of P-384, little-endian.
const ORDER: [u8; 48] = [
    0x73, 0x29, 0xc5, 0xcc, 0x6a, 0x19, 0xec, 0xec, 0x7a, 0xa7, 0xb0, 0x48, 0xb2, 0x0d, 0x1a, 0x58,
    0xdf, 0x2d, 0x37, 0xf4, 0x81, 0x4d, 0x63, 0xc7, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
];

fn milan(version: u32) -> ReportFields {
    report(Line::Milan).with_version(version)
}

#[test]
fn versions_2_3_and_5_parse_and_all_others_are_named() {
    for version in VERSIONS {
        let bytes = unsigned(&milan(version));
        assert_eq!(Report::parse(&bytes).unwrap().version, version);
    }
    for version in [0, 1, 4, 6, 0x0200_0000, u32::MAX] {
        let set = |bytes: &mut [u8; REPORT_LEN]| {
            bytes[..4].copy_from_slice(&version.to_le_bytes());
        };
        let refused = Some(ReportError::Version(version));
        assert_eq!(malformed(&milan(3), set), refused);
        // Before the length, too.
        assert_eq!(Report::parse(&version.to_le_bytes()).err(), refused);
    }
}

#[test]
fn only_a_report_of_exactly_1184_bytes_parses() {
    let bytes = unsigned(&milan(5));
    for length in (0..REPORT_LEN).chain([REPORT_LEN + 1, 4000]) {
        let mut other = bytes.to_vec();
        other.resize(length, 0);
        let refused = Some(ReportError::Length { got: length });
        assert_eq!(Report::parse(&other).err(), refused);
    }
}

#[test]
fn each_reserved_byte_must_be_zero_in_the_versions_that_reserve_it() {
    let always = [
        0x4c..0x50,
        0x18b..0x1a0,
        0x1eb..0x1ec,
        0x1ef..0x1f0,
        0x208..0x2a0,
    ];
    for version in VERSIONS {
        let mut reserved: Vec<usize> = always.clone().into_iter().flatten().collect();
        if version < 3 {
            reserved.extend(0x188..0x18b);
        }
        if version < 5 {
            reserved.extend(0x1f8..0x208);
        }
        for offset in reserved {
            let refused = malformed(&milan(version), |bytes| bytes[offset] = 1);
            assert!(
                matches!(refused, Some(ReportError::Reserved(start)) if start <= offset),
                "byte {offset:#x} of version {version}: {refused:?}"
            );
        }
    }
}

#[test]
fn bytes_that_a_version_gave_a_meaning_are_not_reserved_in_it() {
    let mut fields = milan(5);
    (fields.launch_mitigations, fields.current_mitigations) = (3, 7);
    let bytes = unsigned(&fields);
    let report = Report::parse(&bytes).unwrap();
    assert_eq!(report.launch_mit_vector, Some(3));
    assert_eq!(report.current_mit_vector, Some(7));
    assert_eq!(report.cpuid, Some([0x19, 0x01, 0x01]));

    let bytes = unsigned(&milan(2));
    let report = Report::parse(&bytes).unwrap();
    assert_eq!((report.cpuid, report.product), (None, None));
    assert_eq!(
        (report.launch_mit_vector, report.current_mit_vector),
        (None, None)
    );
}

#[test]
fn a_version_2_report_with_a_zero_chip_id_parses() {
    let mut fields = milan(2);
    fields.chip_id = [0; 64];
    let bytes = unsigned(&fields);
    assert!(Report::parse(&bytes).unwrap().chip_id.is_masked());
}

#[test]
fn the_guest_policy_keeps_its_reserved_bits() {
    let with = |policy: u64| {
        let mut fields = milan(3);
        fields.policy = policy;
        malformed(&fields, |_| {})
    };
    assert_eq!(with(0x30000), None);
    assert_eq!(with(0x10000), Some(ReportError::Policy(0x10000)));
    for bit in 0..64 {
        let policy = 0x20000 | 1 << bit;
        let refused = (bit >= 26).then_some(ReportError::Policy(policy));
        assert_eq!(with(policy), refused, "bit {bit}");
    }
}

#[test]
fn each_bit_of_policy_and_platform_is_read_as_itself() {
    for bit in 16..26 {
        let mut fields = milan(3);
        fields.policy = 0x2_0102 | 1 << bit;
        let bytes = unsigned(&fields);
        let policy = Report::parse(&bytes).unwrap().policy;
        assert_eq!(policy.abi(), (1, 2));
        let read = [
            policy.allows_smt(),
            true,
            policy.allows_migration_agent(),
            policy.allows_debug(),
            policy.requires_single_socket(),
            policy.allows_cxl(),
            policy.requires_aes_256_xts(),
            policy.requires_rapl_disabled(),
            policy.requires_ciphertext_hiding(),
            policy.disables_page_swap(),
        ];
        let expected = [16, 17, 18, 19, 20, 21, 22, 23, 24, 25].map(|at| at == bit || at == 17);
        assert_eq!(read, expected, "bit {bit}");
    }
    for bit in [0, 1, 2, 3, 4, 5, 7] {
        let mut fields = milan(3);
        fields.platform_info = 1 << bit;
        let bytes = unsigned(&fields);
        let platform = Report::parse(&bytes).unwrap().platform_info;
        let read = [
            platform.smt_enabled(),
            platform.tsme_enabled(),
            platform.ecc_enabled(),
            platform.rapl_disabled(),
            platform.ciphertext_hiding_enabled(),
            platform.alias_check_complete(),
            platform.tio_enabled(),
        ];
        assert_eq!(read, [0, 1, 2, 3, 4, 5, 7].map(|at| at == bit), "bit {bit}");
    }
}

#[test]
fn an_unknown_bit_of_the_platform_refuses() {
    for bit in (6..64).filter(|bit| *bit != 7) {
        let mut fields = milan(5);
        fields.platform_info = 1 << bit;
        let refused = Some(ReportError::PlatformInfo(1 << bit));
        assert_eq!(malformed(&fields, |_| {}), refused);
    }
}

#[test]
fn a_privilege_level_is_0_to_3() {
    for vmpl in [0, 1, 2, 3, 4, 256, u32::MAX] {
        let mut fields = milan(3);
        fields.vmpl = vmpl;
        let refused = (vmpl > 3).then_some(ReportError::Vmpl(vmpl));
        assert_eq!(malformed(&fields, |_| {}), refused);
    }
}

#[test]
fn only_the_one_signature_algorithm_parses() {
    for algorithm in [0, 2, 0x101, u32::MAX] {
        let mut fields = milan(3);
        fields.signature_algorithm = algorithm;
        let refused = Some(ReportError::SignatureAlgorithm(algorithm));
        assert_eq!(malformed(&fields, |_| {}), refused);
    }
}

#[test]
fn the_key_information_names_a_known_key() {
    let with = |key_info: u32| {
        let mut fields = milan(3);
        fields.key_info = key_info;
        fields
    };
    for (key_info, key) in [(0, KeyKind::Vcek), (1 << 2, KeyKind::Vlek)] {
        let bytes = unsigned(&with(key_info | 1));
        let report = Report::parse(&bytes).unwrap();
        assert_eq!(report.signing_key, Some(key));
        assert!(report.author_key_enabled && !report.mask_chip_key);
    }
    for kind in 2..7 {
        let refused = Some(ReportError::SigningKey(kind));
        assert_eq!(malformed(&with(kind << 2), |_| {}), refused);
    }
    for bit in 5..32 {
        let refused = Some(ReportError::Reserved(layout::KEY_INFO));
        assert_eq!(malformed(&with(1 << bit), |_| {}), refused);
    }
}

#[test]
fn a_report_that_is_not_signed_has_a_signature_of_zeros() {
    let mut fields = milan(3);
    fields.key_info = 7 << 2;
    let bytes = fields.encode();
    let report = Report::parse(&bytes).unwrap();
    assert_eq!((report.signing_key, report.signature), (None, None));
    let refused = Some(ReportError::Reserved(layout::SIGNATURE));
    assert_eq!(malformed(&fields, |_| {}), refused);
}

#[test]
fn r_and_s_are_from_1_to_the_order_less_one() {
    let range = |name| Some(ReportError::Signature(EcdsaError::Range(name)));
    for (start, name) in [(layout::SIGNATURE, "R"), (S, "S")] {
        let with = |number: [u8; 48]| {
            malformed(&milan(3), |bytes| {
                bytes[start..start + 48].copy_from_slice(&number)
            })
        };
        let mut below = ORDER;
        below[0] -= 1;
        let mut above = ORDER;
        above[0] += 1;
        assert_eq!(with(below), None);
        for number in [[0; 48], ORDER, above, [0xff; 48]] {
            assert_eq!(with(number), range(name));
        }
    }
}

#[test]
fn bits_of_r_and_s_above_384_and_bytes_after_them_are_zero() {
    for offset in (layout::SIGNATURE..REPORT_LEN)
        .filter(|offset| !(layout::SIGNATURE..layout::SIGNATURE + 48).contains(offset))
        .filter(|offset| !(S..S + 48).contains(offset))
    {
        let refused = malformed(&milan(3), |bytes| bytes[offset] = 0x80);
        assert!(
            matches!(
                refused,
                Some(ReportError::Signature(EcdsaError::Reserved(_)))
            ),
            "byte {offset:#x}: {refused:?}"
        );
    }
}

#[test]
fn processors_are_of_the_product_line_that_amd_says() {
    let known = [
        ([0x19, 0x00], Product::Milan),
        ([0x19, 0x0f], Product::Milan),
        ([0x19, 0x10], Product::Genoa),
        ([0x19, 0x1f], Product::Genoa),
        ([0x19, 0xa0], Product::Genoa),
        ([0x19, 0xaf], Product::Genoa),
        ([0x1a, 0x02], Product::Turin),
        ([0x1a, 0x11], Product::Turin),
    ];
    for ([family, model], product) in known {
        assert_eq!(Product::from_cpuid(family, model), Some(product));
    }
    for [family, model] in [
        [0x19, 0x20],
        [0x19, 0x9f],
        [0x19, 0xb0],
        [0x1a, 0x20],
        [0x17, 0x31],
    ] {
        let mut fields = milan(3);
        fields.cpuid = [family, model, 0];
        let refused = Some(ReportError::UnknownProduct { family, model });
        assert_eq!(malformed(&fields, |_| {}), refused);
    }
}

#[test]
fn reserved_bytes_of_a_tcb_are_those_of_the_product_line() {
    let reserved = [
        (Line::Milan, 2..6, Product::Milan),
        (Line::Turin, 4..7, Product::Turin),
    ];
    let tcbs = [
        layout::CURRENT_TCB,
        layout::REPORTED_TCB,
        layout::COMMITTED_TCB,
        layout::LAUNCH_TCB,
    ];
    for (line, bytes, product) in reserved {
        for tcb in tcbs {
            for at in 0..8 {
                let changed = malformed(&report(line), |raw| raw[tcb + at] = 0xaa);
                let refused = bytes.contains(&at).then_some(ReportError::Tcb {
                    offset: tcb,
                    source: ReservedTcb {
                        product,
                        offset: at,
                    },
                });
                assert_eq!(changed, refused, "{product}, byte {at} of {tcb:#x}");
            }
        }
    }
}

#[test]
fn a_turin_chip_id_is_8_bytes_and_then_zeros() {
    for at in 0..64 {
        let changed = malformed(&report(Line::Turin), |raw| raw[layout::CHIP_ID + at] = 1);
        let refused = (at >= 8).then_some(ReportError::ChipId(Product::Turin));
        assert_eq!(changed, refused, "byte {at}");
    }
}

#[test]
fn a_turin_tcb_reads_in_its_own_order() {
    let mut fields = report(Line::Turin);
    fields.reported_tcb = [1, 2, 3, 4, 0, 0, 0, 5];
    let bytes = unsigned(&fields);
    let tcb = Report::parse(&bytes).unwrap().reported_tcb;
    let turin = tcb.decode(Product::Turin).unwrap();
    assert_eq!(
        turin.to_string(),
        "fmc=1 bootloader=2 tee=3 snp=4 microcode=5"
    );
    assert_eq!(turin.encode(Product::Turin), tcb);
    assert!(tcb.decode(Product::Genoa).is_err());
}

#[test]
fn nothing_panics_on_a_report_of_any_bytes() {
    let mut state = 1_u32;
    for version in VERSIONS {
        for _ in 0..2000 {
            let mut bytes = unsigned(&milan(version));
            for _ in 0..4 {
                // A linear congruential generator (Numerical Recipes) is random enough here.
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let [_, byte, low, high] = state.to_le_bytes();
                bytes[usize::from(u16::from_le_bytes([low, high])) % REPORT_LEN] = byte;
            }
            drop(Report::parse(&bytes).map(|report| format!("{report:?}")));
        }
    }
}
