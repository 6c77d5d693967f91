//! The driver's ioctl, Linux `include/uapi/linux/sev-guest.h` and
//! `Documentation/virt/coco/sev-guest.rst`.

use rustix::{
    io::Errno,
    ioctl::{Opcode, Updater, ioctl, opcode},
};
use std::{mem::offset_of, os::fd::BorrowedFd};

/// `SNP_GET_EXT_REPORT`.
const GET_EXT_REPORT: Opcode = opcode::read_write::<GuestRequest>(b'S', 2);

/// `msg_version`: of `MSG_REPORT_REQ`.
const MESSAGE_VERSION: u8 = 1;

/// `struct snp_report_resp`.
pub(super) const RESPONSE_LEN: usize = 4000;

/// What goes before response and certificates in a frame: errno, `certs_len`, `exitinfo2`.
pub(super) const HEAD_LEN: usize = 16;

/// `struct snp_guest_request_ioctl`.
#[repr(C)]
#[derive(Clone, Copy)]
struct GuestRequest {
    msg_version: u8,
    req_data: u64,
    resp_data: u64,
    /// `fw_error` in the low half, `vmm_error` in the high one.
    exitinfo2: u64,
}

/// `struct snp_ext_report_req`, with its `struct snp_report_req`.
#[repr(C)]
#[derive(Clone, Copy)]
struct ExtReportRequest {
    user_data: [u8; 64],
    vmpl: u32,
    reserved: [u8; 28],
    certs_address: u64,
    certs_len: u32,
}

// What a C compiler makes of the header on x86-64.
const _: () = assert!(GET_EXT_REPORT == 0xc020_5302);
const _: () = assert!(size_of::<GuestRequest>() == 32 && offset_of!(GuestRequest, exitinfo2) == 24);
const _: () = assert!(size_of::<ExtReportRequest>() == 112);
const _: () = assert!(offset_of!(ExtReportRequest, vmpl) == 64);
const _: () = assert!(offset_of!(ExtReportRequest, certs_address) == 96);
const _: () = assert!(offset_of!(ExtReportRequest, certs_len) == 104);

/// One call and all of its memory, so that making it allocates nothing.
pub(super) struct Call {
    request: ExtReportRequest,
    response: Box<[u8; RESPONSE_LEN]>,
    certificates: Vec<u8>,
}

impl Call {
    /// A request for a report at VMPL 0 over `report_data`, with `room` bytes for certificates. The
    /// driver copies those from pages of its own, so that they need no alignment here, only a length
    /// in whole pages.
    pub(super) fn new(report_data: &[u8; 64], room: usize) -> Self {
        Self {
            request: ExtReportRequest {
                user_data: *report_data,
                vmpl: 0,
                reserved: [0; 28],
                certs_address: 0,
                certs_len: 0,
            },
            response: Box::new([0; RESPONSE_LEN]),
            certificates: vec![0; room],
        }
    }

    /// How long the frame is that [`Self::perform`] writes.
    pub(super) const fn frame_len(room: usize) -> usize {
        HEAD_LEN + RESPONSE_LEN + room
    }

    /// Makes the call and writes what came of it. Runs in a forked child: it makes system calls and
    /// nothing else.
    pub(super) fn perform(&mut self, device: BorrowedFd<'_>, pipe: BorrowedFd<'_>) {
        let (errno, exitinfo2) = self.ask(device);
        let mut head = [0; HEAD_LEN];
        let (status, rest) = head.split_at_mut(4);
        let (certs_len, info) = rest.split_at_mut(4);
        status.copy_from_slice(&errno.to_ne_bytes());
        certs_len.copy_from_slice(&self.request.certs_len.to_ne_bytes());
        info.copy_from_slice(&exitinfo2.to_ne_bytes());
        for part in [&head[..], &self.response[..], &self.certificates] {
            if write_all(pipe, part).is_err() {
                // The parent sees that the frame is short.
                return;
            }
        }
    }

    /// Errno, 0 for success, and `exitinfo2`.
    fn ask(&mut self, device: BorrowedFd<'_>) -> (i32, u64) {
        self.request.certs_address = address(self.certificates.as_mut_ptr());
        self.request.certs_len = u32::try_from(self.certificates.len()).unwrap_or(0);
        let mut request = GuestRequest {
            msg_version: MESSAGE_VERSION,
            req_data: address(&raw mut self.request),
            resp_data: address(self.response.as_mut_ptr()),
            exitinfo2: 0,
        };
        // SAFETY: the opcode is the driver's, whose argument is a `struct snp_guest_request_ioctl`;
        // any bytes are a valid one.
        let updater = unsafe { Updater::<GET_EXT_REPORT, GuestRequest>::new(&mut request) };
        // SAFETY: the three addresses are of memory that is ours alone until the call returns, as
        // long as the driver's copies: 112 bytes, 4000 bytes, and `certs_len` bytes. Any bytes are
        // valid in all of them.
        let called = unsafe { ioctl(device, updater) };
        let errno = called.err().map_or(0, Errno::raw_os_error);
        (errno, request.exitinfo2)
    }
}

fn address<T>(memory: *mut T) -> u64 {
    memory.expose_provenance() as u64
}

fn write_all(pipe: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::write(pipe, bytes) {
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
