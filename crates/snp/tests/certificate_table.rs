//! Certificate tables from a hostile host.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use snp::{
    CertificateTable, CertificateTableError as Error,
    certificate_table::{self as table, ENTRY_LEN, MAX_CERTIFICATE_TABLE},
};
use software_snp::table::{Flaw, Guid, encode, encode_flawed};

const OTHER: Guid = [9; 16];
const GOOD: [(Guid, &[u8]); 3] = [(table::VCEK, b"vcek"), (OTHER, b"?"), (table::CRL, b"crl")];

/// Sets a field of an entry of a good table: 16 is the offset, 20 the length.
fn with(entry: usize, field: usize, value: u32) -> Vec<u8> {
    let mut bytes = encode(&GOOD);
    let at = entry * ENTRY_LEN + field;
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    bytes
}

fn refused(bytes: &[u8]) -> Option<Error> {
    CertificateTable::parse(bytes).err()
}

#[test]
fn guids_are_in_the_order_of_their_text() {
    let names = [
        (table::VCEK, "63da758de6644564adc5f4b93be8accd"),
        (table::VLEK, "a8074bc2a25a483eaae639c045a0b8a1"),
        (table::ASK, "4ab7b379bbac4fe4a02f05aef327c782"),
        (table::ARK, "c0b406a4a803495297433fb6014cd0ae"),
        (table::CRL, "92f81bc358114d3d97ffd19f88dc67ea"),
    ];
    for (guid, text) in names {
        assert_eq!(hex::encode(guid), text);
    }
}

#[test]
fn a_table_gives_each_kind_and_leaves_out_unknown_ones() {
    let all: [(Guid, &[u8]); 5] = [
        (table::VCEK, b"1"),
        (table::VLEK, b"22"),
        (table::ASK, b"333"),
        (table::ARK, b"4444"),
        (table::CRL, b"55555"),
    ];
    let bytes = encode(&all);
    let parsed = CertificateTable::parse(&bytes).unwrap();
    let fields = [parsed.vcek, parsed.vlek, parsed.ask, parsed.ark, parsed.crl];
    assert_eq!(fields, all.map(|(_, data)| Some(data)));

    let bytes = encode(&GOOD);
    let parsed = CertificateTable::parse(&bytes).unwrap();
    assert_eq!(
        (parsed.vcek, parsed.crl),
        (Some(&b"vcek"[..]), Some(&b"crl"[..]))
    );
    assert_eq!((parsed.vlek, parsed.ask, parsed.ark), (None, None, None));
}

#[test]
fn no_table_and_a_table_of_no_entries_are_empty() {
    for bytes in [&[][..], &[0; ENTRY_LEN], &[0; 4096]] {
        assert_eq!(
            CertificateTable::parse(bytes),
            Ok(CertificateTable::default())
        );
    }
}

#[test]
fn room_after_and_between_certificates_is_legal() {
    let mut bytes = encode(&GOOD);
    bytes.resize(4096, 0xee);
    assert_eq!(refused(&bytes), None);
    bytes.copy_within(96..100, 2000);
    bytes[16..20].copy_from_slice(&2000_u32.to_le_bytes());
    assert_eq!(
        CertificateTable::parse(&bytes).unwrap().vcek,
        Some(&b"vcek"[..])
    );
}

#[test]
fn a_table_without_an_end_refuses() {
    for length in [1, 16, ENTRY_LEN - 1, ENTRY_LEN, 3 * ENTRY_LEN + 23] {
        let bytes = encode(&GOOD);
        assert_eq!(
            refused(&bytes[..length]),
            Some(Error::Unterminated),
            "{length}"
        );
    }
    let bytes = encode_flawed(&GOOD, Flaw::Unterminated);
    assert_eq!(refused(&bytes), Some(Error::TooManyEntries));
}

#[test]
fn every_truncation_refuses() {
    let bytes = encode(&GOOD);
    for length in 1..bytes.len() {
        assert!(refused(&bytes[..length]).is_some(), "{length}");
    }
}

#[test]
fn more_entries_than_any_table_needs_refuse() {
    let entries = |count: u8| {
        (1..=count)
            .map(|i| ([i; 16], &b"x"[..]))
            .collect::<Vec<_>>()
    };
    assert_eq!(refused(&encode(&entries(16))), None);
    assert_eq!(refused(&encode(&entries(17))), Some(Error::TooManyEntries));
    assert_eq!(
        refused(&vec![1; MAX_CERTIFICATE_TABLE]),
        Some(Error::TooManyEntries)
    );
}

#[test]
fn an_entry_past_the_end_refuses() {
    let end = u32::try_from(encode(&GOOD).len()).unwrap();
    for (entry, field, value) in [
        (0, 16, end),
        (0, 16, u32::MAX),
        (2, 20, 4),
        (1, 20, u32::MAX),
        (1, 16, 0x8000_0000),
    ] {
        let bytes = with(entry, field, value);
        assert_eq!(refused(&bytes), Some(Error::OutOfRange(entry)));
    }
    for flaw in [Flaw::PastTheEnd, Flaw::Overflow] {
        assert_eq!(
            refused(&encode_flawed(&GOOD, flaw)),
            Some(Error::OutOfRange(0))
        );
    }
}

#[test]
fn an_entry_of_no_bytes_refuses() {
    assert_eq!(refused(&with(1, 20, 0)), Some(Error::Empty(1)));
}

#[test]
fn an_entry_over_another_part_refuses() {
    // The list of three entries and its end are 96 bytes.
    for offset in [0, 1, 95] {
        assert_eq!(refused(&with(0, 16, offset)), Some(Error::Overlap(0)));
    }
    assert_eq!(refused(&with(2, 16, 99)), Some(Error::Overlap(2)));
    assert_eq!(refused(&with(1, 16, 96)), Some(Error::Overlap(1)));
    assert_eq!(refused(&with(0, 20, 5)), Some(Error::Overlap(1)));
    for flaw in [Flaw::Overlap, Flaw::InsideEntries] {
        let refused = refused(&encode_flawed(&GOOD, flaw));
        assert!(matches!(refused, Some(Error::Overlap(_))));
    }
}

#[test]
fn two_entries_of_one_kind_refuse_known_or_not() {
    for guid in [table::VCEK, OTHER] {
        let bytes = encode(&[(guid, b"a"), (table::ASK, b"b"), (guid, b"c")]);
        assert_eq!(refused(&bytes), Some(Error::Duplicate(2)));
    }
}

#[test]
fn a_table_that_is_too_long_refuses() {
    let bytes = vec![0; MAX_CERTIFICATE_TABLE + 1];
    assert_eq!(refused(&bytes), Some(Error::TooLong(bytes.len())));
    assert_eq!(refused(&bytes[1..]), None);
}
