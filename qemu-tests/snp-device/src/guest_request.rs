//! The driver's ioctls (Linux `include/uapi/linux/sev-guest.h`, `drivers/virt/coco/sev-guest`, 6.12),
//! and the firmware's messages behind them (SEV-SNP firmware ABI, section 7.3).

use crate::{
    Answer, Behaviour,
    cuse::{Ioctl, Region, Reply, u32_at, u64_at},
};
use rustix::io::Errno;
use std::{collections::VecDeque, io, thread, time::Duration};

/// `_IOWR('S', 0, struct snp_guest_request_ioctl)` and its neighbours.
pub const SNP_GET_REPORT: u32 = 0xc020_5300;
/// Not offered: nothing of ours derives keys.
pub const SNP_GET_DERIVED_KEY: u32 = 0xc020_5301;
/// The one that comes with the host's certificates.
pub const SNP_GET_EXT_REPORT: u32 = 0xc020_5302;

/// `struct snp_guest_request_ioctl`: message version, request, response, `exitinfo2`.
const REQUEST: usize = 32;
/// `struct snp_report_req`, and `struct snp_ext_report_req` around it.
const REPORT_REQUEST: usize = 96;
const EXT_REPORT_REQUEST: usize = 112;
/// `struct snp_report_resp`.
const RESPONSE: usize = 4000;

/// `SEV_FW_BLOB_MAX_SIZE`: the driver's own buffer for certificates.
const MAX_CERTIFICATES: u32 = 0x4000;
const PAGE: u32 = 0x1000;
/// `SNP_GUEST_VMM_ERR_INVALID_LEN` in the upper half.
const VMM_INVALID_LEN: u64 = 1 << 32;
/// `SEV_RET_NO_FW_CALL`: the driver refused by itself.
const NO_FIRMWARE_CALL: u64 = u64::MAX;

/// `MSG_REPORT_RSP`: status, size, 24 reserved bytes, the report.
const REPORT_AT: usize = 32;

/// The driver and the firmware of one guest.
#[derive(Debug)]
pub struct Guest {
    behaviour: Behaviour,
    answers: VecDeque<Answer>,
    dead: bool,
}

impl Guest {
    /// A guest that has just been launched.
    #[must_use]
    pub fn launch(behaviour: Behaviour) -> Self {
        Self {
            answers: behaviour.answers.iter().cloned().collect(),
            behaviour,
            dead: false,
        }
    }

    /// Answers one round of an `ioctl`.
    pub fn ioctl(&mut self, ioctl: Ioctl<'_>) -> Reply {
        match self.round(ioctl) {
            Ok(reply) => reply,
            Err(errno) => Reply::Done {
                result: Err(errno),
                output: Vec::new(),
            },
        }
    }

    /// The first round reads the request, the second what it points at, the third does it.
    fn round(&mut self, ioctl: Ioctl<'_>) -> Result<Reply, Errno> {
        let request_len = match ioctl.command {
            SNP_GET_REPORT => REPORT_REQUEST,
            SNP_GET_EXT_REPORT => EXT_REPORT_REQUEST,
            _ => return Err(Errno::NOTTY),
        };
        let place = region(ioctl.argument, REQUEST);
        if ioctl.input.is_empty() {
            return Ok(again(vec![place], Vec::new()));
        }
        let request = Request::parse(ioctl.input).ok_or(Errno::INVAL)?;
        request.check()?;
        let input = vec![place, region(request.data, request_len)];
        let (_, data) = ioctl.input.split_at(REQUEST);
        if data.is_empty() {
            return Ok(again(input, Vec::new()));
        }
        let wanted = Wanted::parse(ioctl.command, data).ok_or(Errno::INVAL)?;
        wanted.check()?;
        if ioctl.output_len == 0 {
            let mut output = input.clone();
            output.push(region(request.response, RESPONSE));
            if wanted.certificates_len > 0 {
                output.push(region(wanted.address, wanted.certificates_len as usize));
            }
            return Ok(again(input, output));
        }
        if self.dead {
            return Err(Errno::NOTTY);
        }
        Ok(self.answer(&wanted, ioctl.input))
    }

    fn answer(&mut self, wanted: &Wanted<'_>, memory: &[u8]) -> Reply {
        let next = match self.answers.len() {
            0 => Answer::Honest,
            1 => self.answers[0].clone(),
            _ => self.answers.pop_front().unwrap_or(Answer::Honest),
        };
        println!("snp-device: request answer={}", describe(&next));
        match next {
            Answer::Stall => Reply::Never,
            Answer::StallUnread => loop {
                thread::park();
            },
            Answer::Failure {
                errno,
                exitinfo2,
                milliseconds,
                dead,
            } => {
                thread::sleep(Duration::from_millis(milliseconds));
                self.dead = dead;
                failed(Errno::from_raw_os_error(errno), exitinfo2, memory)
            }
            Answer::CertificatesLength(len) => too_small(len, memory),
            answer => self.respond(&answer, wanted, memory),
        }
    }

    /// A response of the firmware, which the driver copies whole, and so it does the certificates.
    fn respond(&self, answer: &Answer, wanted: &Wanted<'_>, memory: &[u8]) -> Reply {
        let certificates = &self.behaviour.certificates;
        let len = u32::try_from(certificates.len()).unwrap_or(u32::MAX);
        let offered = wanted.certificates_len;
        if wanted.extended && len > offered {
            return too_small(len.next_multiple_of(PAGE), memory);
        }
        let report = match answer {
            Answer::Fixed(report) => Ok(report.clone()),
            _ => self.report(wanted.report_data),
        };
        let Ok(report) = report else {
            return failed(Errno::IO, NO_FIRMWARE_CALL, memory);
        };
        let status = if let Answer::Status(status) = answer {
            *status
        } else {
            0
        };
        let size = match answer {
            Answer::ReportSize(size) => *size,
            _ => u32::try_from(report.len()).unwrap_or(u32::MAX),
        };
        let mut response = [status.to_le_bytes(), size.to_le_bytes()].concat();
        response.resize(REPORT_AT, 0);
        response.extend(report);
        response.resize(RESPONSE, 0);
        let mut output = with_exit_info(memory, 0);
        if let Answer::CertificatesBeside(len) = answer {
            set_certificates_len(&mut output, *len);
        }
        output.extend(response);
        if offered > 0 {
            let end = output.len() + offered as usize;
            output.extend(certificates);
            output.resize(end, 0);
        }
        Reply::Done {
            result: Ok(()),
            output,
        }
    }

    fn report(&self, report_data: &[u8]) -> io::Result<Vec<u8>> {
        let mut fields = self.behaviour.report.clone();
        fields.report_data.copy_from_slice(report_data);
        Ok(fields.signed_by(&self.behaviour.leaf)?.to_vec())
    }
}

/// `struct snp_guest_request_ioctl`.
struct Request {
    version: u8,
    data: u64,
    response: u64,
}

impl Request {
    fn parse(memory: &[u8]) -> Option<Self> {
        if memory.len() < REQUEST {
            return None;
        }
        Some(Self {
            version: *memory.first()?,
            data: u64_at(memory, 8)?,
            response: u64_at(memory, 16)?,
        })
    }

    fn check(&self) -> Result<(), Errno> {
        if self.version == 0 || self.data == 0 || self.response == 0 {
            return Err(Errno::INVAL);
        }
        Ok(())
    }
}

/// `struct snp_report_req` or `struct snp_ext_report_req`.
struct Wanted<'a> {
    report_data: &'a [u8],
    extended: bool,
    address: u64,
    certificates_len: u32,
}

impl<'a> Wanted<'a> {
    fn parse(command: u32, data: &'a [u8]) -> Option<Self> {
        let extended = command == SNP_GET_EXT_REPORT;
        let (address, len) = match extended {
            true => (u64_at(data, 96)?, u32_at(data, 104)?),
            false => (0, 0),
        };
        Some(Self {
            report_data: data.get(..64)?,
            extended,
            address,
            certificates_len: if address == 0 { 0 } else { len },
        })
    }

    fn check(&self) -> Result<(), Errno> {
        let len = self.certificates_len;
        if len > MAX_CERTIFICATES || !len.is_multiple_of(PAGE) {
            return Err(Errno::INVAL);
        }
        Ok(())
    }
}

/// Nothing is written back but the reason.
fn failed(errno: Errno, exitinfo2: u64, memory: &[u8]) -> Reply {
    Reply::Done {
        result: Err(errno),
        output: with_exit_info(memory, exitinfo2),
    }
}

/// The host wants room for more certificates.
fn too_small(certificates_len: u32, memory: &[u8]) -> Reply {
    let mut output = with_exit_info(memory, VMM_INVALID_LEN);
    set_certificates_len(&mut output, certificates_len);
    Reply::Done {
        result: Err(Errno::IO),
        output,
    }
}

/// The caller's two structures with `exitinfo2` set in the first.
fn with_exit_info(memory: &[u8], exitinfo2: u64) -> Vec<u8> {
    let mut output = memory.to_vec();
    put(&mut output, 24, &exitinfo2.to_le_bytes());
    output
}

/// `certs_len` of `struct snp_ext_report_req`.
fn set_certificates_len(output: &mut [u8], len: u32) {
    put(output, REQUEST + 104, &len.to_le_bytes());
}

fn put(output: &mut [u8], offset: usize, bytes: &[u8]) {
    let places = output.iter_mut().skip(offset);
    places.zip(bytes).for_each(|(place, byte)| *place = *byte);
}

const fn region(address: u64, len: usize) -> Region {
    Region {
        address,
        len: len as u64,
    }
}

const fn again(input: Vec<Region>, output: Vec<Region>) -> Reply {
    Reply::Again { input, output }
}

/// For the console, without the bytes of a report.
fn describe(answer: &Answer) -> String {
    match answer {
        Answer::Fixed(report) => format!("fixed:{}", report.len()),
        answer => format!("{answer:?}").replace(' ', ""),
    }
}
