use super::{
    abi::RESPONSE_LEN,
    answer::{Answer, MAX_CERTIFICATES, MalformedAnswer, REPORT_LEN},
    *,
};
use evidence::{Binding, Channel, Side};
use std::{cell::Cell, collections::VecDeque};

const BUSY: u64 = 2 << 32;
const INVALID_LEN: u64 = 1 << 32;
const EIO: i32 = 5;
const EAGAIN: i32 = 11;
const EINVAL: i32 = 22;
const ENOTTY: i32 = 25;
const ETIMEDOUT: i32 = 110;

/// Short, so that a test waits for nothing.
const SHORT: Limits = Limits {
    whole: Duration::from_secs(5),
    busy: Duration::from_millis(20),
    pause: Duration::from_millis(1),
};

fn binding() -> Binding {
    Binding::compute(&Channel {
        attester: Side::Client,
        client_hello: b"one",
        server_hello: b"two",
        client_spki: b"three",
        server_spki: b"four",
        exporter: &[5; 32],
    })
}

/// An answer without certificates, as the driver gives it.
fn good(room: usize) -> Answer {
    let mut response = vec![0; RESPONSE_LEN];
    response[4..8].copy_from_slice(&1184_u32.to_le_bytes());
    response[0x20..][..REPORT_LEN].fill(0xa5);
    Answer {
        errno: 0,
        certs_len: u32::try_from(room).unwrap(),
        exitinfo2: 0,
        response,
        certificates: vec![0; room],
    }
}

fn failed(errno: i32, exitinfo2: u64) -> Answer {
    Answer {
        errno,
        exitinfo2,
        ..good(FIRST_ROOM)
    }
}

fn wants(certs_len: u32) -> Answer {
    Answer {
        certs_len,
        ..failed(EIO, INVALID_LEN)
    }
}

/// One answer after the other, each asked for with the room that it says.
fn replay(answers: Vec<Answer>) -> Result<SnpEvidence, SevGuestError> {
    let mut answers = VecDeque::from(answers);
    collect(SHORT, |room, _| {
        let answer = answers.pop_front().unwrap();
        assert_eq!(answer.certificates.len(), room);
        Ok(answer)
    })
}

fn refused(answer: Answer) -> SevGuestError {
    replay(vec![answer]).unwrap_err()
}

fn malformed(answer: Answer) -> MalformedAnswer {
    match refused(answer) {
        SevGuestError::Malformed(malformed) => malformed,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_report_comes_as_it_is_and_a_table_of_zeros_is_none() {
    let evidence = replay(vec![good(FIRST_ROOM)]).unwrap();
    assert_eq!(evidence.report, [0xa5; REPORT_LEN]);
    assert_eq!(evidence.certificates, []);
    let none = Answer {
        certs_len: 0,
        ..good(FIRST_ROOM)
    };
    assert_eq!(replay(vec![none]).unwrap().certificates, []);
}

#[test]
fn a_table_comes_raw_in_the_length_that_is_said() {
    for len in [4096_u32, 8192, 16384] {
        let mut answer = good(FIRST_ROOM);
        answer.certs_len = len;
        answer.certificates.fill(0x11);
        let table = replay(vec![answer]).unwrap().certificates;
        assert_eq!(table, vec![0x11; usize::try_from(len).unwrap()]);
    }
}

#[test]
fn a_firmware_status_is_an_error_and_is_named() {
    for status in [1_u32, 0x16, 0x27, 0x8000_0000] {
        let mut answer = good(FIRST_ROOM);
        answer.response[..4].copy_from_slice(&status.to_le_bytes());
        let SevGuestError::Firmware { got } = refused(answer) else {
            panic!("{status:#x}");
        };
        assert_eq!(got, status);
    }
}

#[test]
fn any_other_report_size_is_refused() {
    for size in [0_u32, 1183, 1185, 3968, 4000, u32::MAX] {
        let mut answer = good(FIRST_ROOM);
        answer.response[4..8].copy_from_slice(&size.to_le_bytes());
        assert_eq!(malformed(answer), MalformedAnswer::ReportSize { got: size });
    }
}

#[test]
fn a_table_that_is_not_whole_pages_or_longer_than_its_room_is_refused() {
    for got in [1, 4095, 4097, 16385, 20480, 32768, u32::MAX, 0xffff_f000] {
        let answer = Answer {
            certs_len: got,
            ..good(FIRST_ROOM)
        };
        let room = FIRST_ROOM;
        assert_eq!(
            malformed(answer),
            MalformedAnswer::CertificatesLength { room, got }
        );
    }
}

#[test]
fn more_room_is_given_once() {
    let room = 20480;
    let evidence = replay(vec![wants(20480), good(room)]).unwrap();
    assert_eq!(evidence.report.len(), REPORT_LEN);
    let again = Answer {
        certs_len: 24576,
        errno: EIO,
        exitinfo2: INVALID_LEN,
        ..good(room)
    };
    let error = replay(vec![wants(20480), again]).unwrap_err();
    let (first, then) = (20480, 24576);
    assert!(matches!(
        error,
        SevGuestError::Malformed(got) if got == MalformedAnswer::RoomAgain { first, then }
    ));
    // A driver that takes no more than its maximum says so.
    let error = replay(vec![
        wants(32768),
        Answer {
            errno: EINVAL,
            ..good(MAX_CERTIFICATES)
        },
    ]);
    assert!(matches!(
        error.unwrap_err(),
        SevGuestError::Request { source, .. } if source.raw_os_error() == Some(EINVAL)
    ));
}

#[test]
fn room_that_was_there_or_is_too_much_or_no_pages_is_refused() {
    for got in [
        0,
        1,
        4096,
        16384,
        16385,
        20479,
        36864,
        u32::MAX,
        0xffff_f000,
    ] {
        let room = FIRST_ROOM;
        assert_eq!(malformed(wants(got)), MalformedAnswer::Room { room, got });
    }
}

#[test]
fn a_busy_host_is_asked_again_and_not_for_ever() {
    let busy = || failed(EAGAIN, BUSY);
    replay(vec![busy(), failed(EAGAIN, 0), busy(), good(FIRST_ROOM)]).unwrap();
    let calls = Cell::new(0);
    let error = collect(SHORT, |_, _| {
        calls.set(calls.get() + 1);
        Ok(busy())
    });
    assert!(matches!(error.unwrap_err(), SevGuestError::Throttled));
    assert!((2..10).contains(&calls.get()), "{}", calls.get());
    // Here the driver itself had the patience.
    assert!(matches!(
        refused(failed(ETIMEDOUT, BUSY)),
        SevGuestError::Throttled
    ));
}

#[test]
fn other_errors_are_final_and_say_whose_they_are() {
    for (answer, expected) in [
        (failed(EIO, 0x16), (0x16, 0, EIO)),
        (failed(EIO, (1 << 63) | 0xff), (0xff, 1 << 31, EIO)),
        (failed(ENOTTY, 0), (0, 0, ENOTTY)),
        (failed(EAGAIN, 0x16), (0x16, 0, EAGAIN)),
        // A success that names an error is none.
        (failed(0, 0x16), (0x16, 0, 0)),
    ] {
        let SevGuestError::Request {
            firmware,
            vmm,
            source,
        } = refused(answer)
        else {
            panic!("{expected:?}");
        };
        let errno = source.raw_os_error().unwrap();
        assert_eq!((firmware, vmm, errno), expected);
    }
}

#[test]
fn a_device_that_does_not_exist_is_named() {
    let error = SevGuest::open(Path::new("/nonexistent/sev-guest")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot open SNP device `/nonexistent/sev-guest`"
    );
}

/// The whole path with a real child and a real ioctl, on a device that does not know it.
#[test]
fn a_device_that_does_not_know_the_request_fails_it() {
    let error = SevGuest::open(Path::new("/dev/null"))
        .unwrap()
        .report(&binding())
        .unwrap_err();
    assert!(
        matches!(
            &error,
            SevGuestError::Request { firmware: 0, vmm: 0, source }
                if source.raw_os_error() == Some(ENOTTY)
        ),
        "{error:?}"
    );
}

mod child {
    use super::super::child::{ChildError, run};
    use rustix::{
        process::{Pid, Signal, WaitOptions, kill_process, test_kill_process, waitpid},
        thread::nanosleep,
        time::Timespec,
    };
    use std::{
        fs::File,
        io::Read,
        os::fd::{AsFd, BorrowedFd},
        time::{Duration, Instant},
    };

    fn try_run(
        len: usize,
        time: u64,
        work: impl FnOnce(BorrowedFd<'_>, BorrowedFd<'_>),
    ) -> Result<Vec<u8>, ChildError> {
        let device = File::open("/dev/null").unwrap();
        let mut frame = vec![0; len];
        let deadline = Instant::now() + Duration::from_millis(time);
        // SAFETY: the tests below only make system calls on the stack.
        unsafe { run(device.as_fd(), &mut frame, deadline, work) }.map(|()| frame)
    }

    /// Writes who it is, which is all that a test needs to look for it.
    fn write_pid(pipe: BorrowedFd<'_>) {
        let pid = rustix::process::getpid().as_raw_pid().to_ne_bytes();
        rustix::io::write(pipe, &pid).unwrap_or_default();
    }

    fn sleep_a_little() {
        let little = Timespec {
            tv_sec: 0,
            tv_nsec: 10_000_000,
        };
        // Woken early or not, there is more to come.
        drop(nanosleep(&little));
    }

    fn pid(frame: &[u8]) -> Pid {
        Pid::from_raw(i32::from_ne_bytes(frame[..4].try_into().unwrap())).unwrap()
    }

    #[test]
    fn a_frame_comes_whole_and_the_child_is_gone() {
        let frame = try_run(4, 10_000, |_, pipe| write_pid(pipe)).unwrap();
        assert_ne!(pid(&frame), rustix::process::getpid());
        assert!(test_kill_process(pid(&frame)).is_err());
    }

    #[test]
    fn a_child_that_stalls_is_killed_at_the_deadline_and_reaped() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let started = Instant::now();
        let deadline = started + Duration::from_millis(300);
        let mut frame = [0; 8];
        let stall = |device: BorrowedFd<'_>, pipe: BorrowedFd<'_>| {
            write_pid(device);
            write_pid(pipe);
            loop {
                rustix::event::pause();
            }
        };
        // SAFETY: system calls only. The pipe of this test is the child's device.
        let stalled = unsafe { run(writer.as_fd(), &mut frame, deadline, stall) };
        assert!(matches!(stalled, Err(ChildError::Deadline)), "{stalled:?}");
        let late = Instant::now().checked_duration_since(deadline).unwrap();
        assert!(late < Duration::from_secs(1), "{late:?}");
        let mut number = [0; 4];
        reader.read_exact(&mut number).unwrap();
        // Neither running nor a zombie.
        assert!(waitpid(Some(pid(&number)), WaitOptions::NOHANG).is_err());
    }

    #[test]
    fn a_child_that_ends_early_is_no_answer() {
        let started = Instant::now();
        let ended = try_run(5, 10_000, |_, pipe| write_pid(pipe));
        assert!(matches!(ended, Err(ChildError::Ended)), "{ended:?}");
        assert!(started.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn a_child_that_dies_is_no_answer() {
        let ended = try_run(5, 10_000, |_, _| {
            kill_process(rustix::process::getpid(), Signal::KILL).unwrap_or_default();
        });
        assert!(matches!(ended, Err(ChildError::Ended)), "{ended:?}");
    }

    #[test]
    fn a_child_that_trickles_gets_no_more_time() {
        let started = Instant::now();
        let slow = try_run(4096, 200, |_, pipe| {
            loop {
                write_pid(pipe);
                sleep_a_little();
            }
        });
        assert!(matches!(slow, Err(ChildError::Deadline)), "{slow:?}");
        assert!(started.elapsed() < Duration::from_secs(2));
    }

    /// Whatever else is open here is closed there.
    #[test]
    fn a_child_has_its_device_and_its_pipe_and_nothing_else() {
        let other = File::open("/dev/zero").unwrap();
        let frame = try_run(3, 10_000, |device, pipe| {
            let open = |fd: BorrowedFd<'_>| u8::from(rustix::io::fcntl_getfd(fd).is_ok());
            let found = [open(device), open(other.as_fd()), open(pipe)];
            rustix::io::write(pipe, &found).unwrap_or_default();
        });
        assert_eq!(frame.unwrap(), [1, 0, 1]);
    }
}
