//! What the device shall do, as the harness says through `fw_cfg`.

use serde::{Deserialize, Serialize};
use software_snp::{Leaf, ReportFields};

/// The name of the `fw_cfg` file.
pub const FW_CFG_NAME: &str = "opt/org.constellation.test/snp";

/// All of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Behaviour {
    /// Signs the reports.
    pub leaf: Leaf,
    /// What reports say; `report_data` is the guest's.
    pub report: ReportFields,
    /// A new `REPORT_ID` at each start instead of the report's.
    pub fresh_report_id: bool,
    /// The host's certificate table; empty: the host offers none.
    #[serde(with = "hex::serde")]
    pub certificates: Vec<u8>,
    /// One answer a request; the last one is for all that follow. None: the honest one.
    pub answers: Vec<Answer>,
}

/// How a request is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Answer {
    /// A report about the request, and the certificates.
    Honest,
    /// An honest report, and another length of the certificates beside it.
    CertificatesBeside(u32),
    /// The host asks for another certificate buffer: `EIO`, `SNP_GUEST_VMM_ERR_INVALID_LEN`, and this
    /// as the length.
    CertificatesLength(u32),
    /// The driver's refusal: what `ioctl` returns and what `exitinfo2` says, after a while. `dead`: the
    /// driver has given up its message key, so that every later request gets `ENOTTY`.
    Failure {
        /// The error number.
        errno: i32,
        /// Hypervisor's error in the upper half, firmware's in the lower one.
        exitinfo2: u64,
        /// How long it takes.
        milliseconds: u64,
        /// Whether it was the last request.
        dead: bool,
    },
    /// These bytes as the report, whatever was asked.
    #[serde(with = "hex::serde")]
    Fixed(Vec<u8>),
    /// Another `report_size`, around an honest report.
    ReportSize(u32),
    /// No answer. The kernel does not let the caller go, not even for `SIGKILL`.
    Stall,
    /// The request is not even taken; the caller can be killed.
    StallUnread,
    /// The firmware's status beside an honest report.
    Status(u32),
}

impl Answer {
    /// What the driver of Linux 6.12 gives its caller when the host answered `BUSY` for a minute:
    /// it waits 2 s between tries itself, and does not use its message key again.
    #[must_use]
    pub const fn throttled_for_good(milliseconds: u64) -> Self {
        Self::Failure {
            errno: ETIMEDOUT,
            exitinfo2: VMM_BUSY,
            milliseconds,
            dead: true,
        }
    }

    /// Throttling as a caller sees it when the driver leaves retrying to him.
    #[must_use]
    pub const fn busy() -> Self {
        Self::Failure {
            errno: EAGAIN,
            exitinfo2: VMM_BUSY,
            milliseconds: 0,
            dead: false,
        }
    }

    /// A command that the firmware refused (`fw_error`).
    #[must_use]
    pub const fn firmware(code: u32) -> Self {
        Self::Failure {
            errno: EIO,
            exitinfo2: code as u64,
            milliseconds: 0,
            dead: true,
        }
    }
}

/// `SNP_GUEST_VMM_ERR_BUSY` in the upper half (Linux `include/uapi/linux/sev-guest.h`).
const VMM_BUSY: u64 = 2 << 32;

/// Linux `include/uapi/asm-generic/errno-base.h`, `errno.h`.
const EIO: i32 = 5;
const EAGAIN: i32 = 11;
const ETIMEDOUT: i32 = 110;
