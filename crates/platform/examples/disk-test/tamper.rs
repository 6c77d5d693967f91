//! A host that alters sectors: what is not exactly what was written at this place does not read.
//!
//! The program plays the host on the disk below the mapping. It takes no layout for granted: it
//! finds a block's ciphertext and tag by what changes on the disk when the block is written.

use crate::{Outcome, disk, kernel_log};
use platform::{
    block::{AlignedBuffer, BLOCK, BlockDevice},
    dm::DeviceMapper,
    integrity::StateDisk,
};
use rustix::{fs::OFlags, io::Errno};
use state_disk::DATA_OFFSET;
use std::{
    error::Error,
    fs::OpenOptions,
    os::unix::fs::{FileExt, OpenOptionsExt},
};

/// Blocks of the mapping, far enough from each other for tags in different blocks of tags.
const PLACES: [u64; 2] = [16, 700];

/// The first byte after dm-integrity's superblock and journal (`docs/state-disk.md`).
const AREA: u64 = DATA_OFFSET + (8 + 16368) * 512;

/// How much of the disk the host watches: tags of 32768 sectors, then the blocks of [`PLACES`].
const WATCHED: usize = 1024;

/// dm-crypt's tag: HMAC-SHA256.
const TAG: usize = 32;

/// One block of the mapping as it lies on the disk.
#[derive(Clone)]
struct Sealed {
    /// Where its ciphertext is.
    data_at: u64,
    data: [u8; BLOCK],
    /// Where the block that holds its tag is, and where in it.
    tags_at: u64,
    tag_at: usize,
    tag: [u8; TAG],
}

/// Runs all changes and says how many integrity errors they provoked.
pub(crate) fn run(mapper: &DeviceMapper) -> Outcome<usize> {
    let before = kernel_log::errors()?;
    let [first, second] = PLACES;
    write(mapper, first, 1)?;
    write(mapper, second, 1)?;
    let old = rewrite(mapper, first, 2)?;
    let new = rewrite(mapper, first, 3)?;
    let other = rewrite(mapper, second, 4)?;
    if (old.data_at, old.tags_at, old.tag_at) != (new.data_at, new.tags_at, new.tag_at) {
        return Err("a block moved".into());
    }
    let mut flipped_data = new.clone();
    flipped_data.data[1234] ^= 1;
    let mut flipped_tag = new.clone();
    flipped_tag.tag[31] ^= 0x80;
    let changes = [
        ("flipped-data", flipped_data),
        ("flipped-tag", flipped_tag),
        (
            "data-of-another-place",
            Sealed {
                data: other.data,
                ..new.clone()
            },
        ),
        (
            "all-of-another-place",
            Sealed {
                data: other.data,
                tag: other.tag,
                ..new.clone()
            },
        ),
        (
            "older-data",
            Sealed {
                data: old.data,
                ..new.clone()
            },
        ),
        (
            "older-tag",
            Sealed {
                tag: old.tag,
                ..new.clone()
            },
        ),
        (
            "zeros",
            Sealed {
                data: [0; BLOCK],
                tag: [0; TAG],
                ..new.clone()
            },
        ),
    ];
    for (name, changed) in &changes {
        put(changed)?;
        expect_refused(mapper, first, name)?;
        put(&new)?;
        expect(mapper, first, 3)?;
    }
    expect(mapper, second, 4)?;
    // The documented limit: an older block with its own tag at its own place is not noticed.
    put(&old)?;
    expect(mapper, first, 2)?;
    println!("disk-test: 0 tampered refused={}", changes.len());
    Ok(kernel_log::errors()? - before)
}

/// Reading the changed block fails, and the kernel says why.
fn expect_refused(mapper: &DeviceMapper, place: u64, change: &str) -> Outcome {
    let before = kernel_log::errors()?;
    let read = with_mapping(mapper, |device| Ok(device.read_block(offset(place))?));
    let error = read.err().ok_or_else(|| format!("{change}: it was read"))?;
    let errno = errno(error.as_ref()).ok_or_else(|| format!("{change}: {error}"))?;
    // dm-crypt's answer to a wrong tag, as a block device reports it: BLK_STS_PROTECTION.
    if errno != Errno::ILSEQ {
        return Err(format!("{change}: errno {errno}").into());
    }
    if kernel_log::errors()? == before {
        return Err(format!("{change}: the kernel reported no integrity error").into());
    }
    println!("disk-test: 0 refused {change}");
    Ok(())
}

fn errno(error: &(dyn Error + 'static)) -> Option<Errno> {
    let source = error.source()?;
    let io = source.downcast_ref::<std::io::Error>();
    io.and_then(Errno::from_io_error)
}

fn expect(mapper: &DeviceMapper, place: u64, content: u8) -> Outcome {
    let block = with_mapping(mapper, |device| Ok(device.read_block(offset(place))?))?;
    if block != [content; BLOCK] {
        return Err(format!("block {place} does not hold {content}").into());
    }
    Ok(())
}

/// Writes a block and finds on the disk what changed: its ciphertext and its tag, nothing else.
fn rewrite(mapper: &DeviceMapper, place: u64, content: u8) -> Outcome<Sealed> {
    let before = watched()?;
    write(mapper, place, content)?;
    let after = watched()?;
    let blocks = before
        .as_slice()
        .chunks(BLOCK)
        .zip(after.as_slice().chunks(BLOCK));
    let mut changed = Vec::new();
    for (at, (was, is)) in (AREA..).step_by(BLOCK).zip(blocks) {
        let bytes = was.iter().zip(is).enumerate();
        let differing: Vec<usize> = bytes
            .filter_map(|(at, (was, is))| (was != is).then_some(at))
            .collect();
        if let Some(first) = differing.first() {
            changed.push((at, is, differing.len(), first / TAG * TAG));
        }
    }
    changed.sort_by_key(|(_, _, differing, _)| *differing);
    let [
        (tags_at, tags, tag_bytes, tag_at),
        (data_at, data, data_bytes, _),
    ] = changed[..]
    else {
        return Err(format!("{} blocks changed, not two", changed.len()).into());
    };
    if tag_bytes > TAG || data_bytes < BLOCK / 2 {
        return Err(format!("{tag_bytes} and {data_bytes} bytes changed").into());
    }
    Ok(Sealed {
        data_at,
        data: data.try_into()?,
        tags_at,
        tag_at,
        tag: tags[tag_at..tag_at + TAG].try_into()?,
    })
}

fn watched() -> Outcome<AlignedBuffer> {
    let disk = disk::device()?;
    let mut buffer = AlignedBuffer::zeroed(WATCHED);
    let direct = OFlags::DIRECT.bits().cast_signed();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(direct)
        .open(disk.device().path())?;
    file.read_exact_at(buffer.as_mut_slice(), AREA)?;
    Ok(buffer)
}

/// Puts ciphertext and tag on the disk.
fn put(sealed: &Sealed) -> Outcome {
    let disk = disk::device()?;
    let device = disk.device();
    device.write_block_durably(sealed.data_at, &sealed.data)?;
    let mut tags = device.read_block(sealed.tags_at)?;
    tags[sealed.tag_at..sealed.tag_at + TAG].copy_from_slice(&sealed.tag);
    Ok(device.write_block_durably(sealed.tags_at, &tags)?)
}

fn write(mapper: &DeviceMapper, place: u64, content: u8) -> Outcome {
    with_mapping(mapper, |device| {
        Ok(device.write_block_durably(offset(place), &[content; BLOCK])?)
    })
}

/// Works on the mapping, which is there only meanwhile: its removal empties the journal.
fn with_mapping<T>(
    mapper: &DeviceMapper,
    work: impl FnOnce(&BlockDevice) -> Outcome<T>,
) -> Outcome<T> {
    let mapped = disk::map(mapper)?;
    let worked = BlockDevice::open(&mapped.node())
        .map_err(Into::into)
        .and_then(|device| work(&device));
    StateDisk::deactivate(mapper)?;
    worked
}

const fn offset(place: u64) -> u64 {
    place * BLOCK as u64
}
