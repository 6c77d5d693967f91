//! The certificate table of an extended report (GHCB specification, section 4.1.8.1): entries of a
//! GUID, an offset and a length, a zero entry, then the certificates. The host makes it. The bytes
//! of a GUID are in the order of its text, as tools that write and read such tables have it.

/// A certificate's kind, with the bytes of its GUID as they are in a table.
pub type Guid = [u8; 16];

/// `c0b406a4-a803-4952-9743-3fb6014cd0ae`
pub const ARK: Guid = *b"\xc0\xb4\x06\xa4\xa8\x03\x49\x52\x97\x43\x3f\xb6\x01\x4c\xd0\xae";
/// `4ab7b379-bbac-4fe4-a02f-05aef327c782`; an ASVK is under it too.
pub const ASK: Guid = *b"\x4a\xb7\xb3\x79\xbb\xac\x4f\xe4\xa0\x2f\x05\xae\xf3\x27\xc7\x82";
/// `63da758d-e664-4564-adc5-f4b93be8accd`
pub const VCEK: Guid = *b"\x63\xda\x75\x8d\xe6\x64\x45\x64\xad\xc5\xf4\xb9\x3b\xe8\xac\xcd";
/// `a8074bc2-a25a-483e-aae6-39c045a0b8a1`
pub const VLEK: Guid = *b"\xa8\x07\x4b\xc2\xa2\x5a\x48\x3e\xaa\xe6\x39\xc0\x45\xa0\xb8\xa1";
/// `92f81bc3-5811-4d3d-97ff-d19f88dc67ea`
pub const CRL: Guid = *b"\x92\xf8\x1b\xc3\x58\x11\x4d\x3d\x97\xff\xd1\x9f\x88\xdc\x67\xea";

/// Length of an entry.
const ENTRY: usize = 24;

/// What may be wrong with a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// The first entry reaches behind what the host gave.
    PastTheEnd,
    /// Offset and length of the first entry overflow 32 bits.
    Overflow,
    /// The second entry begins inside the first.
    Overlap,
    /// The first entry lies over the entries themselves.
    InsideEntries,
    /// Entries up to the last byte, no zero entry.
    Unterminated,
}

/// A good table.
#[must_use]
pub fn encode(certificates: &[(Guid, &[u8])]) -> Vec<u8> {
    assemble(&entries(certificates), certificates)
}

/// A table with a flaw.
#[must_use]
pub fn encode_flawed(certificates: &[(Guid, &[u8])], flaw: Flaw) -> Vec<u8> {
    let mut entries = entries(certificates);
    match (flaw, entries.as_mut_slice()) {
        (Flaw::PastTheEnd, [first, ..]) => first.1 = 0x10_0000,
        (Flaw::Overflow, [first, ..]) => (first.1, first.2) = (u32::MAX - 7, 16),
        (Flaw::Overlap, [first, second, ..]) => second.1 = first.1 + 1,
        (Flaw::InsideEntries, [first, ..]) => first.1 = 4,
        _ => {}
    }
    match flaw {
        Flaw::Unterminated => {
            let whole = assemble(&entries, certificates);
            let entry = whole.iter().take(ENTRY).copied();
            let count = 0x1000 / ENTRY;
            std::iter::repeat_n(entry, count).flatten().collect()
        }
        _ => assemble(&entries, certificates),
    }
}

type Entry = (Guid, u32, u32);

fn entries(certificates: &[(Guid, &[u8])]) -> Vec<Entry> {
    let length = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
    let mut offset = length((certificates.len() + 1) * ENTRY);
    let entry = |(guid, certificate): &(Guid, &[u8])| {
        let entry = (*guid, offset, length(certificate.len()));
        offset += entry.2;
        entry
    };
    certificates.iter().map(entry).collect()
}

fn assemble(entries: &[Entry], certificates: &[(Guid, &[u8])]) -> Vec<u8> {
    let mut table = Vec::new();
    for (guid, offset, length) in entries {
        table.extend(guid);
        table.extend(offset.to_le_bytes());
        table.extend(length.to_le_bytes());
    }
    table.extend([0; ENTRY]);
    for (_, certificate) in certificates {
        table.extend(*certificate);
    }
    table
}
