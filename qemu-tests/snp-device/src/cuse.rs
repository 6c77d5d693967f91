//! A character device in user space: the raw protocol of `/dev/cuse` (Linux `include/uapi/linux/fuse.h`,
//! `fs/fuse/cuse.c`).
//!
//! Every structure is little-endian here, as on the one architecture that has SEV-SNP.

use rustix::io::Errno;
use std::{
    fs::File,
    io::{self, Read, Write},
};

/// The kernel side.
const PATH: &str = "/dev/cuse";

/// Numbers of requests.
const FUSE_FORGET: u32 = 2;
const FUSE_OPEN: u32 = 14;
const FUSE_RELEASE: u32 = 18;
const FUSE_FLUSH: u32 = 25;
const FUSE_INTERRUPT: u32 = 36;
const FUSE_IOCTL: u32 = 39;
const CUSE_INIT: u32 = 4096;

/// `FUSE_KERNEL_VERSION`; minor version 31 is older than any kernel that has SNP guests.
const MAJOR: u32 = 7;
const MINOR: u32 = 31;
/// `CUSE_UNRESTRICTED_IOCTL`: the arguments are not what the command's number says.
const UNRESTRICTED_IOCTL: u32 = 1;
/// `FUSE_IOCTL_RETRY`: ask again with this memory.
const IOCTL_RETRY: u32 = 1 << 2;

/// `struct fuse_in_header`, `struct fuse_ioctl_in`.
const HEADER: usize = 40;
const IOCTL_IN: usize = 32;
/// `max_read` and `max_write`; the kernel insists on room for a whole write beside the headers.
const MAX_TRANSFER: u32 = 0x1_0000;
const BUFFER: usize = 2 * MAX_TRANSFER as usize;

/// A part of the caller's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Its address.
    pub address: u64,
    /// Its length.
    pub len: u64,
}

/// One round of an `ioctl`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ioctl<'a> {
    /// The command.
    pub command: u32,
    /// The third argument.
    pub argument: u64,
    /// The caller's memory that the last round asked for; empty in the first one.
    pub input: &'a [u8],
    /// How much may be written to the caller's memory.
    pub output_len: u32,
}

/// How a round ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Another round, with these parts of the caller's memory read and those written.
    Again {
        /// To read.
        input: Vec<Region>,
        /// To write.
        output: Vec<Region>,
    },
    /// The end: what `ioctl` returns, and what is written.
    Done {
        /// Zero, or an error.
        result: Result<(), Errno>,
        /// What is written, from the first region on.
        output: Vec<u8>,
    },
    /// None, ever.
    Never,
}

/// Makes the device `/dev/<name>` and answers for it. It exists as long as this does.
///
/// # Errors
/// If the kernel does not take part.
pub fn serve(
    name: &str,
    mut ioctl: impl FnMut(Ioctl<'_>) -> Reply,
) -> io::Result<std::convert::Infallible> {
    let mut device = File::options().read(true).write(true).open(PATH)?;
    let mut buffer = vec![0; BUFFER];
    loop {
        let len = match device.read(&mut buffer) {
            // A request that was withdrawn before it was read.
            Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => continue,
            read => read?,
        };
        let request = Request::parse(buffer.get(..len).unwrap_or_default());
        let request = request.ok_or(io::ErrorKind::InvalidData)?;
        let Some(answer) = request.answer(name, &mut ioctl) else {
            continue;
        };
        match device.write(&answer) {
            // The caller was killed meanwhile.
            Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => {}
            written => drop(written?),
        }
    }
}

/// A request with its header taken off.
struct Request<'a> {
    code: u32,
    unique: u64,
    body: &'a [u8],
}

impl<'a> Request<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        Some(Self {
            code: u32_at(bytes, 4)?,
            unique: u64_at(bytes, 8)?,
            body: bytes.get(HEADER..)?,
        })
    }

    fn answer(&self, name: &str, ioctl: &mut impl FnMut(Ioctl<'_>) -> Reply) -> Option<Vec<u8>> {
        match self.code {
            CUSE_INIT => Some(self.reply(&initialized(name))),
            // File handle and flags, none of which are used.
            FUSE_OPEN => Some(self.reply(&[0; 16])),
            FUSE_FLUSH | FUSE_RELEASE => Some(self.reply(&[])),
            FUSE_IOCTL => match parse_ioctl(self.body) {
                Some(request) => encode(ioctl(request)).map(|body| self.reply(&body)),
                None => Some(self.error(Errno::INVAL)),
            },
            FUSE_FORGET | FUSE_INTERRUPT => None,
            _ => Some(self.error(Errno::NOSYS)),
        }
    }

    fn reply(&self, body: &[u8]) -> Vec<u8> {
        self.with_header(0, body)
    }

    fn error(&self, errno: Errno) -> Vec<u8> {
        self.with_header(-errno.raw_os_error(), &[])
    }

    /// `struct fuse_out_header`.
    fn with_header(&self, error: i32, body: &[u8]) -> Vec<u8> {
        let len = u32::try_from(16 + body.len()).unwrap_or(u32::MAX);
        let mut bytes = len.to_le_bytes().to_vec();
        bytes.extend(error.to_le_bytes());
        bytes.extend(self.unique.to_le_bytes());
        bytes.extend(body);
        bytes
    }
}

/// `struct cuse_init_out` and the device's name; the kernel picks the numbers.
fn initialized(name: &str) -> Vec<u8> {
    let (unused, number) = (0, 0);
    let head = [
        MAJOR,
        MINOR,
        unused,
        UNRESTRICTED_IOCTL,
        MAX_TRANSFER,
        MAX_TRANSFER,
        number,
        number,
    ];
    let mut body: Vec<u8> = head.into_iter().flat_map(u32::to_le_bytes).collect();
    body.extend([0; 40]);
    body.extend(format!("DEVNAME={name}\0").bytes());
    body
}

fn parse_ioctl(body: &[u8]) -> Option<Ioctl<'_>> {
    Some(Ioctl {
        command: u32_at(body, 12)?,
        argument: u64_at(body, 16)?,
        input: body.get(IOCTL_IN..)?,
        output_len: u32_at(body, 28)?,
    })
}

/// `struct fuse_ioctl_out`, then regions or data.
fn encode(reply: Reply) -> Option<Vec<u8>> {
    let (head, rest) = match reply {
        Reply::Never => return None,
        Reply::Done { result, output } => {
            let result = result.map_or_else(|errno| -errno.raw_os_error(), |()| 0);
            ([result.cast_unsigned(), 0, 0, 0], output)
        }
        Reply::Again { input, output } => {
            let count = |regions: &[Region]| u32::try_from(regions.len()).unwrap_or(u32::MAX);
            let head = [0, IOCTL_RETRY, count(&input), count(&output)];
            let both = input.into_iter().chain(output);
            let words = both.flat_map(|region| [region.address, region.len]);
            (head, words.flat_map(u64::to_le_bytes).collect())
        }
    };
    let mut body: Vec<u8> = head.into_iter().flat_map(u32::to_le_bytes).collect();
    body.extend(rest);
    Some(body)
}

pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    let bytes = bytes.get(offset..)?.first_chunk()?;
    Some(u32::from_le_bytes(*bytes))
}

pub(crate) fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    let bytes = bytes.get(offset..)?.first_chunk()?;
    Some(u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(code: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; HEADER];
        bytes[4..8].copy_from_slice(&code.to_le_bytes());
        bytes[8..16].copy_from_slice(&9_u64.to_le_bytes());
        bytes.extend(body);
        bytes
    }

    fn answer(code: u32, body: &[u8], reply: &Reply) -> Option<Vec<u8>> {
        let bytes = request(code, body);
        let request = Request::parse(&bytes).unwrap();
        request.answer("sev-guest", &mut |_| reply.clone())
    }

    #[test]
    fn the_kernel_learns_the_devices_name() {
        let answer = answer(CUSE_INIT, &[0; 16], &Reply::Never).unwrap();
        assert_eq!(
            u32_at(&answer, 0),
            Some(u32::try_from(answer.len()).unwrap())
        );
        assert_eq!(u64_at(&answer, 8), Some(9));
        assert_eq!(answer[16 + 72..], *b"DEVNAME=sev-guest\0");
    }

    #[test]
    fn an_ioctl_asks_again_for_memory() {
        let region = |address| Region { address, len: 32 };
        let again = Reply::Again {
            input: vec![region(0x1000)],
            output: vec![region(0x2000), region(0x3000)],
        };
        let answer = answer(FUSE_IOCTL, &[0; IOCTL_IN], &again).unwrap();
        let words: Vec<_> = (16..32)
            .step_by(4)
            .map(|at| u32_at(&answer, at).unwrap())
            .collect();
        assert_eq!(words, [0, IOCTL_RETRY, 1, 2]);
        assert_eq!(u64_at(&answer, 32), Some(0x1000));
        assert_eq!(answer.len(), 32 + 3 * 16);
    }

    #[test]
    fn unknown_and_short_requests_are_errors() {
        let error = |answer: Option<Vec<u8>>| u32_at(&answer.unwrap(), 4).unwrap().cast_signed();
        assert_eq!(
            error(answer(15, &[], &Reply::Never)),
            -Errno::NOSYS.raw_os_error()
        );
        assert_eq!(
            error(answer(FUSE_IOCTL, &[0; 31], &Reply::Never)),
            -Errno::INVAL.raw_os_error()
        );
        assert!(Request::parse(&[0; HEADER - 1]).is_none());
        assert_eq!(answer(FUSE_INTERRUPT, &[0; 8], &Reply::Never), None);
        assert_eq!(answer(FUSE_IOCTL, &[0; 32], &Reply::Never), None);
    }
}
