//! A network between two programs on loopback that can be slow.

use anyhow::{Context as _, Result};
use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

/// Carries connections from its port to another one, and waits a while before it hands on a piece.
#[derive(Debug)]
pub(crate) struct Relay {
    port: u16,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    target: u16,
    delay_ms: AtomicU64,
    stopped: AtomicBool,
}

impl Relay {
    /// Listens on a free port, without a delay.
    pub(crate) fn to(target: u16) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listen")?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared {
            target,
            delay_ms: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
        });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            while let Ok((client, _)) = listener.accept() {
                if accepting.stopped.load(Ordering::SeqCst) {
                    return;
                }
                // A connection that breaks is the two programs' matter.
                drop(accepting.carry(&client));
            }
        });
        Ok(Self { port, shared })
    }

    /// Where it listens.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Changes the delay in each direction, of open connections too.
    pub(crate) fn set_delay(&self, delay: Duration) {
        let delay = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        self.shared.delay_ms.store(delay, Ordering::SeqCst);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        // Wakes the accept loop.
        drop(TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)));
    }
}

impl Shared {
    fn carry(self: &Arc<Self>, client: &TcpStream) -> io::Result<()> {
        let server = TcpStream::connect((Ipv4Addr::LOCALHOST, self.target))?;
        for (from, to) in [(client, &server), (&server, client)] {
            let (from, to) = (from.try_clone()?, to.try_clone()?);
            to.set_nodelay(true)?;
            let shared = Arc::clone(self);
            thread::spawn(move || drop(shared.pump(from, to)));
        }
        Ok(())
    }

    fn pump(&self, mut from: TcpStream, mut to: TcpStream) -> io::Result<()> {
        let mut buffer = [0; 64 * 1024];
        loop {
            let count = from.read(&mut buffer)?;
            if count == 0 {
                return to.shutdown(Shutdown::Write);
            }
            thread::sleep(Duration::from_millis(self.delay_ms.load(Ordering::SeqCst)));
            to.write_all(buffer.get(..count).unwrap_or_default())?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn what_goes_through_is_late_by_the_delay() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let relay = Relay::to(listener.local_addr().unwrap().port()).unwrap();
        let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, relay.port())).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        let mut send = |byte: u8| {
            let started = Instant::now();
            client.write_all(&[byte]).unwrap();
            let mut received = [0];
            server.read_exact(&mut received).unwrap();
            assert_eq!(received, [byte]);
            started.elapsed()
        };
        send(1);
        relay.set_delay(Duration::from_millis(80));
        assert!(send(2) >= Duration::from_millis(80));
    }
}
