//! PE files for tests, made here.

/// Where the header fields of [`pe`]'s files are.
pub(crate) const COFF: usize = 0x44;
pub(crate) const OPTIONAL: usize = 0x58;
pub(crate) const TABLE: usize = OPTIONAL + 240;

/// A PE file as a linker writes it: headers of 1 KiB, then the sections.
pub(crate) fn pe(sections: &[(&str, &[u8])]) -> Vec<u8> {
    let mut file = vec![0; 0x400];
    put(&mut file, 0, b"MZ");
    put(&mut file, 0x3c, &0x40_u32.to_le_bytes());
    put(&mut file, 0x40, b"PE\0\0\x64\x86");
    put(
        &mut file,
        COFF + 2,
        &[u8::try_from(sections.len()).unwrap(), 0],
    );
    put(&mut file, COFF + 4, &0x6655_4433_u32.to_le_bytes());
    put(&mut file, COFF + 16, &240_u16.to_le_bytes());
    put(&mut file, OPTIONAL, &0x20b_u16.to_le_bytes());
    for (offset, value) in [
        (32, 0x1000_u32),
        (36, 0x200),
        (60, 0x400),
        (64, 0xabcd),
        (108, 16),
    ] {
        put(&mut file, OPTIONAL + offset, &value.to_le_bytes());
    }
    for (index, (name, data)) in sections.iter().enumerate() {
        let (entry, raw) = (TABLE + 40 * index, file.len());
        file.extend_from_slice(data);
        file.resize(file.len().next_multiple_of(0x200), 0);
        put(&mut file, entry, name.as_bytes());
        let raw_size = file.len() - raw;
        for (offset, value) in [
            (8, data.len()),
            (12, 0x1000 * (index + 1)),
            (16, raw_size),
            (20, raw),
        ] {
            put(
                &mut file,
                entry + offset,
                &u32::try_from(value).unwrap().to_le_bytes(),
            );
        }
    }
    file
}

pub(crate) fn put(file: &mut [u8], offset: usize, value: &[u8]) {
    file[offset..offset + value.len()].copy_from_slice(value);
}
