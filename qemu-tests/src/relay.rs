//! Whoever carries the network's bytes: it may hang up, or lose its speed in the middle of a session.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result};

/// Between two bytes of an answer that dribbles: nothing is ever silent for long, and no answer of
/// ours is through in a minute.
const DRIP: Duration = Duration::from_millis(500);

/// What a relay does with connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// From this turn of the server on, counted from 1, each byte takes half a second.
    DribbleFrom(usize),
    /// Carries everything at once.
    Full,
    /// Closes them.
    HangUp,
}

/// A relay on loopback, to a port on loopback; it takes no more connections once it is dropped.
#[derive(Debug)]
pub struct Relay {
    port: u16,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    target: u16,
    pace: Mutex<Pace>,
    stop: AtomicBool,
}

impl Relay {
    /// Listens on a free port.
    pub fn to(target: u16, pace: Pace) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listen")?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared {
            target,
            pace: Mutex::new(pace),
            stop: AtomicBool::new(false),
        });
        let accepting = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            while let Ok((guest, _)) = listener.accept() {
                if accepting.stop.load(Ordering::SeqCst) {
                    return;
                }
                let shared = Arc::clone(&accepting);
                // It ends with the connection; who hangs up early is no fault of the relay.
                thread::spawn(move || drop(shared.carry(guest)));
            }
        });
        Ok(Self {
            port,
            shared,
            thread: Some(thread),
        })
    }

    /// The loopback port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Changes the pace of the next connections.
    pub fn set(&self, pace: Pace) {
        *self.shared.pace() = pace;
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        // Wakes the accept loop.
        drop(TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)));
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

impl Shared {
    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn carry(&self, mut guest: TcpStream) -> io::Result<()> {
        let slow_from = match *self.pace() {
            Pace::DribbleFrom(turn) => turn,
            Pace::Full => usize::MAX,
            Pace::HangUp => return Ok(()),
        };
        let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, self.target))?;
        for stream in [&guest, &server] {
            stream.set_nodelay(true)?;
        }
        let spoke = Arc::new(AtomicBool::new(false));
        let (from, to, heard) = (guest.try_clone()?, server.try_clone()?, Arc::clone(&spoke));
        thread::spawn(move || drop(ask(from, to, &heard)));
        let (mut buffer, mut turn) = ([0; 16 * 1024], 0);
        loop {
            let count = server.read(&mut buffer)?;
            let answer = buffer.get(..count).unwrap_or_default();
            if answer.is_empty() || self.stop.load(Ordering::SeqCst) {
                return guest.shutdown(Shutdown::Both);
            }
            turn += usize::from(spoke.swap(false, Ordering::SeqCst));
            let piece = if turn < slow_from { count } else { 1 };
            for bytes in answer.chunks(piece) {
                guest.write_all(bytes)?;
                if turn >= slow_from {
                    thread::sleep(DRIP);
                }
            }
        }
    }
}

/// Carries what the guest says, and notes that it spoke: the server's next word is a new turn.
fn ask(mut guest: TcpStream, mut server: TcpStream, spoke: &AtomicBool) -> io::Result<()> {
    let mut buffer = [0; 16 * 1024];
    loop {
        let count = guest.read(&mut buffer)?;
        if count == 0 {
            return server.shutdown(Shutdown::Write);
        }
        spoke.store(true, Ordering::SeqCst);
        server.write_all(buffer.get(..count).unwrap_or_default())?;
    }
}
