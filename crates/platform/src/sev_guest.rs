//! The SNP firmware through `/dev/sev-guest`: a report of this guest, and the certificates that the
//! host hands out beside it.
//!
//! [`SevGuest`] asks for one thing only, the extended report over the binding of a channel or of a
//! statement at VMPL 0, so it signs nothing that a caller chose. The answer is the firmware's through the kernel; the length
//! of the certificates and their bytes are the host's. Here they get a length and nothing else:
//! whether a report deserves trust is the verifier's question.
//!
//! The kernel waits for firmware and host without limit, and not always in a way that a signal ends.
//! So a forked child makes each call, and [`SevGuest`] gives it up when its time is over.

mod abi;
mod answer;
mod child;

pub use answer::{MAX_CERTIFICATES, MalformedAnswer, REPORT_LEN};
pub use child::ChildError;

use abi::Call;
use answer::{Answer, Step};
use evidence::{Bound, SnpEvidence};
use rustix::fs::{Mode, OFlags};
use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
    thread,
    time::{Duration, Instant},
};

/// The device of the kernel's `sev-guest` driver.
pub const DEVICE_PATH: &str = "/dev/sev-guest";

/// Room for certificates in the first call: the most that the driver takes (`SEV_FW_BLOB_MAX_SIZE`
/// of Linux `include/linux/psp-sev.h`). A chain of three certificates needs half of it.
const FIRST_ROOM: usize = 16 * 1024;

/// How long a report may take. The longest that is known to be honest is a host that throttles: ten
/// seconds, which the driver waits out by itself, asking every two (`SNP_REQ_RETRY_DELAY`).
const LIMITS: Limits = Limits {
    whole: Duration::from_secs(15),
    busy: Duration::from_secs(10),
    pause: Duration::from_millis(100),
};

/// The longest pause between two calls.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Why there is no report. After any of these the driver may have given up its key to the firmware
/// (`snp_disable_vmpck`), so that only another boot can attest again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SevGuestError {
    /// The child that makes the call failed.
    #[error("ask the SNP firmware")]
    Child(#[source] ChildError),
    /// The firmware said no.
    #[error("SNP firmware: expected status 0, got {got:#x}")]
    Firmware {
        /// `STATUS` of `MSG_REPORT_RSP`.
        got: u32,
    },
    /// The answer is not what the driver returns.
    #[error("SNP device: malformed answer")]
    Malformed(
        #[source]
        #[from]
        MalformedAnswer,
    ),
    /// The device does not open.
    #[error("cannot open SNP device `{path}`")]
    Open {
        /// The device.
        path: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The driver, the host or the firmware failed the request.
    #[error("SNP device: request failed, firmware error {firmware:#x}, VMM error {vmm:#x}")]
    Request {
        /// `fw_error`, a firmware status; 0xff where the firmware was not called.
        firmware: u32,
        /// `vmm_error`, of the host.
        vmm: u32,
        /// What the ioctl returned.
        #[source]
        source: io::Error,
    },
    /// There was no answer in time.
    #[error("SNP device: no answer within {} ms", .after.as_millis())]
    Stalled {
        /// The time given.
        after: Duration,
    },
    /// The host kept the firmware busy for as long as it was asked.
    #[error("SNP device: the host keeps the firmware busy")]
    Throttled,
}

/// How long to wait for what.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// The whole of it.
    whole: Duration,
    /// For a host that says it is busy.
    busy: Duration,
    /// The first pause before asking a busy host again.
    pause: Duration,
}

/// An opened device.
#[derive(Debug)]
pub struct SevGuest(File);

impl SevGuest {
    /// Opens the device.
    ///
    /// # Errors
    /// [`SevGuestError::Open`]: this is no SNP guest, or the driver is not loaded.
    pub fn open(path: &Path) -> Result<Self, SevGuestError> {
        rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .map(|device| Self(device.into()))
            .map_err(|source| SevGuestError::Open {
                path: path.display().to_string(),
                source: source.into(),
            })
    }

    /// A report whose `REPORT_DATA` is `bound`, at VMPL 0, with the host's certificate table.
    ///
    /// # Errors
    /// [`SevGuestError`]; a busy host has been asked again by then.
    pub fn report(&mut self, bound: &impl Bound) -> Result<SnpEvidence, SevGuestError> {
        collect(LIMITS, |room, deadline| {
            let mut call = Call::new(bound.report_data(), room);
            let mut frame = vec![0; Call::frame_len(room)];
            let perform = |device: BorrowedFd<'_>, pipe: BorrowedFd<'_>| call.perform(device, pipe);
            // SAFETY: `Call::perform` only makes system calls, on memory that exists by now.
            unsafe { child::run(self.0.as_fd(), &mut frame, deadline, perform) }?;
            Answer::parse(&frame).ok_or(ChildError::Ended)
        })
    }
}

/// Asks with room for certificates until there is an answer to go with: once more when the host
/// needs more room, and for a while when it is busy.
fn collect(
    limits: Limits,
    mut ask: impl FnMut(usize, Instant) -> Result<Answer, ChildError>,
) -> Result<SnpEvidence, SevGuestError> {
    let started = Instant::now();
    let (mut room, mut pause) = (FIRST_ROOM, limits.pause);
    loop {
        let answer = ask(room, started + limits.whole).map_err(|error| match error {
            ChildError::Deadline => SevGuestError::Stalled {
                after: limits.whole,
            },
            error => SevGuestError::Child(error),
        })?;
        match answer.step()? {
            Step::Done(evidence) => return Ok(evidence),
            Step::NeedsRoom(needed) if room == FIRST_ROOM => room = needed,
            Step::NeedsRoom(then) => {
                let first = room;
                return Err(MalformedAnswer::RoomAgain { first, then }.into());
            }
            Step::Busy if started.elapsed() + pause > limits.busy => {
                return Err(SevGuestError::Throttled);
            }
            Step::Busy => {
                thread::sleep(pause);
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

#[cfg(test)]
mod tests;
