//! A system call with a deadline: a forked child makes it and writes what came of it into a pipe.
//!
//! A thread would not do: a call that no signal ends keeps its thread and with it the process. The
//! child is a copy of the process, so it holds the secrets that the process held when it was forked;
//! it runs no code but the one call and is never left running on purpose.

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, Signal, WaitOptions, kill_process, waitpid},
};
use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
    thread,
    time::{Duration, Instant},
};

/// How long a child that is done or killed may take to be gone. One that a signal does not end is left
/// behind: to wait for it would be the stall that the child is there to prevent.
const GRACE: Duration = Duration::from_secs(1);
const REAP_POLL: Duration = Duration::from_millis(1);

/// Why there is no whole frame.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChildError {
    /// The deadline passed; the child was killed.
    #[error("child: deadline passed")]
    Deadline,
    /// The child ended early.
    #[error("child: ended before its answer was whole")]
    Ended,
    /// There was no child.
    #[error("fork a child")]
    Fork(#[source] io::Error),
    /// There was no pipe, or it could not be read.
    #[error("child: pipe")]
    Pipe(#[source] io::Error),
}

/// Runs `work` in a child with `device` and the writing end of a pipe, and fills `frame` from the
/// other end until `deadline`. The child is gone afterwards, or killed.
///
/// # Errors
/// [`ChildError`].
///
/// # Safety
/// The process may have other threads, whose locks stay as they are in the child for ever: `work`
/// must do nothing but system calls on memory that exists already. No allocation, no lock, no panic.
pub(super) unsafe fn run(
    device: BorrowedFd<'_>,
    frame: &mut [u8],
    deadline: Instant,
    work: impl FnOnce(BorrowedFd<'_>, BorrowedFd<'_>),
) -> Result<(), ChildError> {
    let (reader, writer) = io::pipe().map_err(ChildError::Pipe)?;
    // SAFETY: the child runs what follows in the `0` arm, which by this function's contract is only
    // system calls, and never returns from it.
    match unsafe { libc::fork() } {
        -1 => Err(ChildError::Fork(io::Error::last_os_error())),
        0 => {
            close_all_but([device.as_raw_fd(), writer.as_raw_fd()]);
            work(device, writer.as_fd());
            // SAFETY: ends this process at once; nothing of the parent's is flushed or dropped.
            unsafe { libc::_exit(0) }
        }
        child => {
            drop(writer);
            let filled = fill(frame, reader.as_fd(), deadline);
            end(Pid::from_raw(child), filled.is_err());
            filled
        }
    }
}

/// Closes what the child does not need, so that one that outlives its deadline keeps no disk and no
/// connection open.
fn close_all_but(mut kept: [RawFd; 2]) {
    kept.sort_unstable();
    let [low, high] = kept;
    for (first, last) in [(0, low - 1), (low + 1, high - 1), (high + 1, RawFd::MAX)] {
        if first <= last {
            // SAFETY: nothing in this process uses these any more; failing only keeps them open.
            unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
        }
    }
}

fn fill(mut frame: &mut [u8], reader: BorrowedFd<'_>, deadline: Instant) -> Result<(), ChildError> {
    while !frame.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).unwrap_or_default();
        let mut pipe = [PollFd::new(&reader, PollFlags::IN)];
        match poll(&mut pipe, Some(&timeout)) {
            Ok(0) => return Err(ChildError::Deadline),
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(error) => return Err(ChildError::Pipe(error.into())),
        }
        match rustix::io::read(reader, &mut *frame) {
            Ok(0) => return Err(ChildError::Ended),
            Ok(read) => frame = frame.get_mut(read..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(error) => return Err(ChildError::Pipe(error.into())),
        }
    }
    Ok(())
}

fn end(child: Option<Pid>, kill: bool) {
    let Some(child) = child else { return };
    if kill {
        // It is not reaped yet, so the number is still its own.
        kill_process(child, Signal::KILL).unwrap_or_default();
    }
    let until = Instant::now() + GRACE;
    while let Ok(None) | Err(Errno::INTR) = waitpid(Some(child), WaitOptions::NOHANG) {
        if Instant::now() >= until {
            return;
        }
        thread::sleep(REAP_POLL);
    }
}
