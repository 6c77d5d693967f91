//! The byte layout of device-mapper's ioctls, Linux `include/uapi/linux/dm-ioctl.h`.
//!
//! Requests and replies are plain bytes with fields at fixed offsets, so that the one `unsafe`
//! block is the ioctl itself.

use super::DmError;
use rustix::{
    fs::Dev,
    io::Errno,
    ioctl::{Direction, Opcode, Updater, ioctl, opcode},
};
use state_disk::Table;
use std::{fmt, fs::File};

/// `struct dm_ioctl`: 312 bytes, then the data.
const HEADER: usize = 312;

/// Room for header and data; our longest table is under 512 bytes.
const CAPACITY: usize = 16 * 1024;

/// `struct dm_target_spec`: start, length, status, next, type.
const SPEC: usize = 40;

/// `DM_READONLY_FLAG`.
const READ_ONLY: u32 = 1 << 0;

/// `DM_STATUS_TABLE_FLAG`.
const STATUS_TABLE: u32 = 1 << 4;

/// `DM_BUFFER_FULL_FLAG`.
const BUFFER_FULL: u32 = 1 << 8;

/// Offsets in `struct dm_ioctl`.
mod at {
    pub(super) const VERSION: usize = 0;
    pub(super) const DATA_SIZE: usize = 12;
    pub(super) const DATA_START: usize = 16;
    pub(super) const TARGET_COUNT: usize = 20;
    pub(super) const FLAGS: usize = 28;
    pub(super) const DEV: usize = 40;
    pub(super) const NAME: usize = 48;
    pub(super) const NAME_LEN: usize = 128;
}

/// The ioctls used.
#[derive(Clone, Copy)]
pub(super) enum Command {
    Create,
    List,
    Load,
    Remove,
    Resume,
    Status,
    TableStatus,
}

/// The kernel reads and writes `data_size` bytes, however short the type in the opcode is.
#[repr(C, align(8))]
struct Buffer([u8; CAPACITY]);

/// A request, and after [`Request::send`] the reply.
pub(super) struct Request(Box<Buffer>);

/// A target as the kernel reports it.
pub(super) struct LiveTable {
    targets: u32,
    read_only: bool,
    start: u64,
    sectors: u64,
    target: String,
    pub(super) parameters: String,
}

impl Request {
    pub(super) fn unnamed() -> Self {
        let mut request = Self(Box::new(Buffer([0; CAPACITY])));
        // The interface version that has all we use; the kernel checks the major number.
        request.put_u32(at::VERSION, 4);
        request.put_u32(at::DATA_SIZE, u32::try_from(CAPACITY).unwrap_or(u32::MAX));
        request.put_u32(at::DATA_START, u32::try_from(HEADER).unwrap_or(u32::MAX));
        request
    }

    pub(super) fn named(name: &str) -> Result<Self, DmError> {
        let mut request = Self::unnamed();
        if name.len() >= at::NAME_LEN || name.contains('\0') {
            return Err(DmError::TooLong(name.into()));
        }
        request.put(at::NAME, name.as_bytes());
        Ok(request)
    }

    pub(super) fn read_only(&mut self, read_only: bool) {
        self.put_u32(at::FLAGS, if read_only { READ_ONLY } else { 0 });
    }

    pub(super) fn ask_for_table(&mut self) {
        self.put_u32(at::FLAGS, STATUS_TABLE);
    }

    /// Adds one target that covers the mapping.
    pub(super) fn table(&mut self, table: &Table) -> Result<(), DmError> {
        let text = HEADER + SPEC;
        // A NUL ends the parameters, and a target type fills at most 15 of its 16 bytes.
        if table.target.len() > 15 || table.parameters.len() >= CAPACITY - text {
            return Err(DmError::TooLong(table.target.into()));
        }
        self.put_u32(at::TARGET_COUNT, 1);
        self.put(HEADER + 8, &table.sectors.to_ne_bytes());
        let next = (SPEC + table.parameters.len() + 1).next_multiple_of(8);
        self.put_u32(HEADER + 20, u32::try_from(next).unwrap_or(u32::MAX));
        self.put(HEADER + 24, table.target.as_bytes());
        self.put(text, table.parameters.as_bytes());
        Ok(())
    }

    pub(super) fn send(mut self, control: &File, command: Command) -> Result<Self, Errno> {
        match command {
            // The numbers are those of `dm-ioctl.h`, `DM_*_CMD`.
            Command::List => self.ioctl::<{ number(2) }>(control),
            Command::Create => self.ioctl::<{ number(3) }>(control),
            Command::Remove => self.ioctl::<{ number(4) }>(control),
            // `DM_DEV_SUSPEND` without its suspend flag resumes.
            Command::Resume => self.ioctl::<{ number(6) }>(control),
            Command::Status => self.ioctl::<{ number(7) }>(control),
            Command::Load => self.ioctl::<{ number(9) }>(control),
            Command::TableStatus => self.ioctl::<{ number(12) }>(control),
        }?;
        Ok(self)
    }

    fn ioctl<const OPCODE: Opcode>(&mut self, control: &File) -> Result<(), Errno> {
        // SAFETY: OPCODE is one of device-mapper's, whose argument is a `struct dm_ioctl` with
        // `data_size` bytes in all; the buffer has `CAPACITY` bytes, is 8-byte aligned, and
        // `data_size` says `CAPACITY`.
        let updater = unsafe { Updater::<OPCODE, Buffer>::new(&mut self.0) };
        // SAFETY: as above; the kernel writes at most `data_size` bytes, all of which are ours,
        // and any bytes are a valid `Buffer`.
        unsafe { ioctl(control, updater) }
    }

    /// The device number in a reply.
    pub(super) fn device(&self) -> Dev {
        self.u64(at::DEV).unwrap_or(0)
    }

    /// The first target of a reply; `None` when it does not parse.
    pub(super) fn live_table(&self) -> Option<LiveTable> {
        let flags = self.u32(at::FLAGS)?;
        if flags & BUFFER_FULL != 0 {
            return None;
        }
        let spec = usize::try_from(self.u32(at::DATA_START)?).ok()?;
        Some(LiveTable {
            targets: self.u32(at::TARGET_COUNT)?,
            read_only: flags & READ_ONLY != 0,
            start: self.u64(spec)?,
            sectors: self.u64(spec.checked_add(8)?)?,
            target: self.text(spec.checked_add(24)?)?,
            parameters: self.text(spec.checked_add(SPEC)?)?,
        })
    }

    /// The names in a reply to [`Command::List`]: `struct dm_name_list` chained by offsets.
    pub(super) fn names(&self) -> Option<Vec<String>> {
        let mut names = Vec::new();
        let mut entry = usize::try_from(self.u32(at::DATA_START)?).ok()?;
        if self.u32(at::FLAGS)? & BUFFER_FULL != 0 {
            return None;
        }
        // A device number of 0 means that the list is empty.
        while self.u64(entry)? != 0 {
            names.push(self.text(entry.checked_add(12)?)?);
            match usize::try_from(self.u32(entry.checked_add(8)?)?).ok()? {
                0 => break,
                next => entry = entry.checked_add(next)?,
            }
        }
        Some(names)
    }

    fn put(&mut self, offset: usize, bytes: &[u8]) {
        self.0.0[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    fn put_u32(&mut self, offset: usize, value: u32) {
        self.put(offset, &value.to_ne_bytes());
    }

    fn u32(&self, offset: usize) -> Option<u32> {
        let bytes = self.0.0.get(offset..)?.first_chunk()?;
        Some(u32::from_ne_bytes(*bytes))
    }

    fn u64(&self, offset: usize) -> Option<u64> {
        let bytes = self.0.0.get(offset..)?.first_chunk()?;
        Some(u64::from_ne_bytes(*bytes))
    }

    fn text(&self, offset: usize) -> Option<String> {
        let rest = self.0.0.get(offset..)?;
        let end = rest.iter().position(|byte| *byte == 0)?;
        String::from_utf8(rest[..end].to_vec()).ok()
    }
}

impl LiveTable {
    /// Whether this is exactly the table asked for.
    pub(super) fn is(&self, asked: &Table) -> bool {
        self.targets == 1
            && self.start == 0
            && self.sectors == asked.sectors
            && self.target == asked.target
            && self.parameters == asked.parameters
            && self.read_only == asked.read_only
    }
}

impl fmt::Debug for LiveTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveTable")
            .field("targets", &self.targets)
            .field("start", &self.start)
            .field("target", &self.target)
            .field("sectors", &self.sectors)
            .field("parameters", &self.parameters)
            .field("read_only", &self.read_only)
            .finish()
    }
}

/// `_IOWR(0xfd, command, struct dm_ioctl)`.
const fn number(command: u8) -> Opcode {
    opcode::from_components(Direction::ReadWrite, 0xfd, command, HEADER)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        Table {
            target: "crypt",
            sectors: 8192,
            parameters: "cipher :96:logon:a:b 0 253:0 0".into(),
            read_only: false,
        }
    }

    #[test]
    fn opcodes_are_those_of_the_header_file() {
        // DM_VERSION and DM_TABLE_LOAD as strace prints them on x86-64.
        assert_eq!(number(0), 0xc138_fd00);
        assert_eq!(number(9), 0xc138_fd09);
    }

    #[test]
    fn a_request_reads_back_as_the_live_table() {
        let mut request = Request::named("constellation-state").unwrap();
        request.table(&table()).unwrap();
        let live = request.live_table().unwrap();
        assert!(live.is(&table()), "{live:?}");
        assert_eq!(request.text(at::NAME).unwrap(), "constellation-state");
    }

    #[test]
    fn every_difference_in_a_live_table_is_noticed() {
        type Change = fn(&mut Table);
        let changes: [Change; 5] = [
            |table| table.target = "linear",
            |table| table.sectors += 8,
            |table| table.parameters.push(' '),
            |table| table.parameters = table.parameters.replace("a:b", "a:c"),
            |table| table.read_only = true,
        ];
        let mut request = Request::named("x").unwrap();
        request.table(&table()).unwrap();
        for change in changes {
            let mut asked = table();
            change(&mut asked);
            assert!(!request.live_table().unwrap().is(&asked), "{asked:?}");
        }
        request.put_u32(at::TARGET_COUNT, 2);
        assert!(!request.live_table().unwrap().is(&table()));
    }

    #[test]
    fn replies_with_wild_offsets_do_not_parse() {
        let mut request = Request::unnamed();
        request.put_u32(at::DATA_START, u32::MAX);
        assert!(request.live_table().is_none());
        assert!(request.names().is_none());
        request.put_u32(at::DATA_START, u32::try_from(CAPACITY - 4).unwrap());
        assert!(request.live_table().is_none());
    }

    #[test]
    fn a_full_buffer_is_no_answer() {
        let mut request = Request::named("x").unwrap();
        request.table(&table()).unwrap();
        request.put_u32(at::FLAGS, BUFFER_FULL);
        assert!(request.live_table().is_none());
    }

    #[test]
    fn long_names_and_tables_are_refused() {
        assert!(Request::named(&"n".repeat(at::NAME_LEN)).is_err());
        let mut long = table();
        long.parameters = "p".repeat(CAPACITY);
        assert!(Request::unnamed().table(&long).is_err());
    }
}
