//! Limits that hold before any expensive work: how much one peer may ask for, and how much all may.

use std::{
    collections::HashMap,
    hash::Hash,
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What limits count as one peer: an IPv4 address, or the /64 that an IPv6 host has to itself.
#[must_use]
pub fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !(u128::MAX >> 64)).into(),
    }
}

/// A token bucket for each peer. Time is an argument, so that a test needs no clock.
#[derive(Debug)]
pub struct RateLimit<K> {
    burst: u32,
    interval: Duration,
    buckets: Mutex<HashMap<K, Bucket>>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: u32,
    refilled: Instant,
}

impl<K: Hash + Eq> RateLimit<K> {
    /// The most peers remembered at a time: some 100 bytes each, so a megabyte. A peer that is
    /// forgotten starts with a full bucket, hence an address flood weakens this limit to the
    /// [`Gate`]'s and no further.
    const MAX_PEERS: usize = 8192;

    /// At most `per_second` on average and `burst` at once.
    #[must_use]
    pub fn new(per_second: NonZeroU32, burst: NonZeroU32) -> Self {
        Self {
            burst: burst.get(),
            interval: Duration::from_secs(1) / per_second.get(),
            buckets: Mutex::default(),
        }
    }

    /// Takes one from `peer`'s bucket; `false` when it is empty.
    #[must_use]
    pub fn admit(&self, peer: K, now: Instant) -> bool {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= Self::MAX_PEERS && !buckets.contains_key(&peer) {
            buckets.retain(|_, bucket| self.refill(*bucket, now).tokens < self.burst);
            if buckets.len() >= Self::MAX_PEERS {
                buckets.clear();
            }
        }
        let bucket = buckets.entry(peer).or_insert(Bucket {
            tokens: self.burst,
            refilled: now,
        });
        *bucket = self.refill(*bucket, now);
        let admitted = bucket.tokens > 0;
        bucket.tokens = bucket.tokens.saturating_sub(1);
        admitted
    }

    fn refill(&self, bucket: Bucket, now: Instant) -> Bucket {
        let elapsed = now.saturating_duration_since(bucket.refilled).as_nanos();
        let interval = self.interval.as_nanos().max(1);
        let earned = u32::try_from(elapsed / interval).unwrap_or(u32::MAX);
        let tokens = bucket.tokens.saturating_add(earned);
        if tokens >= self.burst {
            return Bucket {
                tokens: self.burst,
                refilled: now,
            };
        }
        Bucket {
            tokens,
            refilled: bucket.refilled + self.interval * earned,
        }
    }
}

/// At most so many at a time from one peer, and so many from all.
#[derive(Debug, Clone)]
pub struct Gate<K> {
    all: Arc<Semaphore>,
    per_peer: usize,
    open: Arc<Mutex<HashMap<K, usize>>>,
}

/// A place inside a [`Gate`]; dropping it frees the place.
#[derive(Debug)]
pub struct Pass<K: Hash + Eq> {
    peer: K,
    open: Arc<Mutex<HashMap<K, usize>>>,
    _all: OwnedSemaphorePermit,
}

impl<K: Hash + Eq + Clone> Gate<K> {
    /// A gate for `all` in total, `per_peer` from one peer.
    #[must_use]
    pub fn new(all: usize, per_peer: usize) -> Self {
        Self {
            all: Arc::new(Semaphore::new(all)),
            per_peer,
            open: Arc::default(),
        }
    }

    /// A place for `peer`, unless it or everybody together has too many.
    #[must_use]
    pub fn enter(&self, peer: K) -> Option<Pass<K>> {
        let all = Arc::clone(&self.all).try_acquire_owned().ok()?;
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(peer.clone()).or_insert(0);
        if *count >= self.per_peer {
            return None;
        }
        *count += 1;
        drop(open);
        Some(Pass {
            peer,
            open: Arc::clone(&self.open),
            _all: all,
        })
    }
}

impl<K: Hash + Eq> Drop for Pass<K> {
    fn drop(&mut self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(per_second: u32, burst: u32) -> RateLimit<u32> {
        RateLimit::new(
            NonZeroU32::new(per_second).unwrap(),
            NonZeroU32::new(burst).unwrap(),
        )
    }

    #[test]
    fn a_burst_then_the_rate() {
        let (limit, start) = (limit(10, 3), Instant::now());
        let after = |ms| start + Duration::from_millis(ms);
        let admitted = |now| (0..5).filter(|_| limit.admit(1, now)).count();
        assert_eq!(admitted(after(0)), 3);
        assert_eq!(admitted(after(99)), 0);
        assert_eq!(admitted(after(100)), 1);
        assert_eq!(admitted(after(350)), 2);
        assert_eq!(admitted(after(10_000)), 3);
    }

    #[test]
    fn one_peer_does_not_use_up_anothers() {
        let (limit, now) = (limit(1, 1), Instant::now());
        assert!(limit.admit(1, now));
        assert!(!limit.admit(1, now));
        assert!(limit.admit(2, now));
    }

    #[test]
    fn many_peers_do_not_grow_the_map() {
        let (limit, now) = (limit(1, 1), Instant::now());
        for peer in 0..50_000 {
            assert!(limit.admit(peer, now));
        }
        assert!(limit.buckets.lock().unwrap().len() <= RateLimit::<u32>::MAX_PEERS);
    }

    #[test]
    fn a_gate_counts_peers_and_total() {
        let gate = Gate::new(3, 2);
        let first = gate.enter('a').unwrap();
        let _second = gate.enter('a').unwrap();
        assert!(gate.enter('a').is_none());
        let _third = gate.enter('b').unwrap();
        assert!(gate.enter('c').is_none());
        drop(first);
        assert!(gate.enter('a').is_some());
        assert!(gate.enter('c').is_some());
        assert_eq!(gate.open.lock().unwrap().len(), 2);
    }
}
