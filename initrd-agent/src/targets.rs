//! When to dial whom: every address by itself, with its own back-off, so that one that does not
//! answer holds no other one up.

use platform::net::Backoff;
use std::{net::SocketAddr, time::Duration};

/// The most addresses dialled: those of the endpoints, names with several addresses among them.
pub const MAX_TARGETS: usize = 16;

/// Pauses between two attempts on one address (docs/agent.md).
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The addresses of join services.
#[derive(Debug, Default)]
pub struct Targets(Vec<Target>);

#[derive(Debug)]
struct Target {
    address: SocketAddr,
    backoff: Backoff,
    /// When to dial next; `None` while a connection is under way.
    due: Option<Duration>,
}

impl Targets {
    /// Takes the addresses known now; those known before keep their pauses.
    pub fn set(&mut self, addresses: &[SocketAddr], now: Duration) {
        self.0.retain(|target| addresses.contains(&target.address));
        for &address in addresses {
            let known = self.0.iter().any(|target| target.address == address);
            if !known && self.0.len() < MAX_TARGETS {
                self.0.push(Target {
                    address,
                    backoff: Backoff::new(FIRST_PAUSE, LONGEST_PAUSE),
                    due: Some(now),
                });
            }
        }
    }

    /// The address that has waited longest, if one is due; it is under way then.
    pub fn dial(&mut self, now: Duration) -> Option<SocketAddr> {
        let due = |target: &&mut Target| target.due.is_some_and(|due| due <= now);
        let target = self
            .0
            .iter_mut()
            .filter(due)
            .min_by_key(|target| target.due)?;
        target.due = None;
        Some(target.address)
    }

    /// An attempt ended without a channel.
    pub fn ended(&mut self, address: SocketAddr, now: Duration, random: u32) {
        if let Some(target) = self.0.iter_mut().find(|target| target.address == address) {
            target.due = Some(now.saturating_add(target.backoff.pause(random)));
        }
    }

    /// An attempt was given up, not because of its peer.
    pub fn release(&mut self, address: SocketAddr, now: Duration) {
        if let Some(target) = self.0.iter_mut().find(|target| target.address == address) {
            target.due = Some(now);
        }
    }

    /// When the next address is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        self.0.iter().filter_map(|target| target.due).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 30090))
    }

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn each_address_is_dialled_once_at_a_time_and_backs_off_alone() {
        let mut targets = Targets::default();
        targets.set(&[address(1), address(2)], at(0));
        assert_eq!(targets.dial(at(0)), Some(address(1)));
        assert_eq!(targets.dial(at(0)), Some(address(2)));
        assert_eq!(targets.dial(at(9999)), None);
        assert_eq!(targets.deadline(), None);

        targets.ended(address(2), at(10), 0);
        assert_eq!(targets.deadline(), Some(at(85)));
        assert_eq!(targets.dial(at(84)), None);
        assert_eq!(targets.dial(at(85)), Some(address(2)));
        targets.ended(address(2), at(100), 0);
        assert_eq!(targets.deadline(), Some(at(250)));
    }

    #[test]
    fn pauses_end_at_five_seconds_and_a_quarter() {
        let mut targets = Targets::default();
        targets.set(&[address(1)], at(0));
        let mut now = at(0);
        for _ in 0..20 {
            assert!(targets.dial(now).is_some());
            targets.ended(address(1), now, u32::MAX);
            let due = targets.deadline().unwrap();
            assert!(due - now <= at(6250) && due > now);
            now = due;
        }
    }

    #[test]
    fn new_addresses_join_and_old_ones_keep_their_pause() {
        let mut targets = Targets::default();
        targets.set(&[address(1), address(2)], at(0));
        targets.dial(at(0));
        targets.ended(address(1), at(0), u32::MAX);
        targets.set(&[address(1), address(3), address(3)], at(1));
        assert_eq!(targets.dial(at(1)), Some(address(3)));
        assert_eq!(targets.dial(at(1)), None);
        targets.release(address(3), at(2));
        assert_eq!(targets.dial(at(2)), Some(address(3)));
    }

    #[test]
    fn a_flood_of_addresses_is_cut() {
        let flood: Vec<_> = (0..=255).map(address).collect();
        let mut targets = Targets::default();
        targets.set(&flood, at(0));
        let dialled = std::iter::from_fn(|| targets.dial(at(0))).count();
        assert_eq!(dialled, MAX_TARGETS);
    }
}
