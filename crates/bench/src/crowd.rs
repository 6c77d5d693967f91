//! Memory with a thousand accepted peers and one request of each in flight.

use crate::{attester::Attester, installation::Installation};
use anyhow::{Context as _, Result, anyhow, ensure};
use std::{
    sync::{
        Barrier, Condvar, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

/// Handshakes at a time: the crowd comes in, it does not storm.
const AT_A_TIME: usize = 8;

/// A peer's thread holds one connection.
const STACK: usize = 512 << 10;

/// For all requests to reach the key service's door.
const SETTLE: Duration = Duration::from_secs(5);

/// Resident memory in MiB.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    pub(crate) join_service: f64,
    /// The peak while it answers the crowd.
    pub(crate) key_service: f64,
}

/// Accepts every node, then stops the key service for a while: what the nodes ask meanwhile is in
/// flight. Every request is answered in the end.
pub(crate) fn measure(installation: &Installation) -> Result<Memory> {
    let crowd = installation.nodes.len();
    let (door, ready) = (Door::new(AT_A_TIME), Barrier::new(crowd + 1));
    let (begun, answered) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let peer = |node: &Attester| -> Result<()> {
        let accepted = door.pass(|| node.accepted());
        ready.wait();
        let (accepted, disk) = accepted?;
        ready.wait();
        begun.fetch_add(1, Ordering::SeqCst);
        accepted.request_key(disk)?;
        answered.fetch_add(1, Ordering::SeqCst);
        Ok(())
    };
    thread::scope(|scope| {
        let peer = &peer;
        let mut peers = Vec::with_capacity(crowd);
        for node in &installation.nodes {
            let thread = thread::Builder::new().stack_size(STACK);
            peers.push(thread.spawn_scoped(scope, move || peer(node))?);
        }
        ready.wait();
        // Loading its secret took half a gibibyte once, as passphrases shall.
        installation.key_service.forget_peak()?;
        let stopped = installation.key_service.stop()?;
        ready.wait();
        thread::sleep(SETTLE);
        let waiting = begun.load(Ordering::SeqCst) - answered.load(Ordering::SeqCst);
        let join_service = installation.join_service.resident()?;
        drop(stopped);
        for peer in peers {
            peer.join()
                .map_err(|_| anyhow!("a peer died"))?
                .context("a peer of the crowd")?;
        }
        ensure!(
            waiting == crowd,
            "{waiting} of {crowd} requests were in flight"
        );
        Ok(Memory {
            join_service,
            key_service: installation.key_service.resident_peak()?,
        })
    })
}

/// Lets a fixed number pass at a time.
struct Door {
    free: Mutex<usize>,
    left: Condvar,
}

impl Door {
    const fn new(places: usize) -> Self {
        Self {
            free: Mutex::new(places),
            left: Condvar::new(),
        }
    }

    fn pass<T>(&self, inside: impl FnOnce() -> T) -> T {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let free = self.left.wait_while(free, |free| *free == 0);
        *free.unwrap_or_else(PoisonError::into_inner) -= 1;
        let out = inside();
        *self.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.left.notify_one();
        out
    }
}
