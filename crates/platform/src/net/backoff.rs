//! Exponential back-off with jitter, as values: no clock, no randomness of its own.

use std::time::Duration;

/// Doubles from a first pause to a longest one; each pause is spread by a quarter either way, so
/// that nodes that boot together do not ask together.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    next: Duration,
    longest: Duration,
}

impl Backoff {
    /// A back-off that starts at `first` and never exceeds `longest` by more than its jitter.
    #[must_use]
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            next: first,
            longest,
        }
    }

    /// The pause before the next attempt; `random` is any 32 random bits.
    #[must_use]
    pub fn pause(&mut self, random: u32) -> Duration {
        let base = self.next;
        self.next = base.saturating_mul(2).min(self.longest);
        // Between three quarters and five quarters of the base.
        let spread = base / 2;
        let share = u64::from(random);
        let jitter = u64::try_from(spread.as_micros())
            .unwrap_or(u64::MAX)
            .saturating_mul(share >> 16)
            >> 16;
        base - base / 4 + Duration::from_micros(jitter)
    }

    /// Starts over: the last attempt got somewhere.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_longest_and_starts_over() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(300));
        let low: Vec<_> = (0..4).map(|_| backoff.pause(0).as_millis()).collect();
        assert_eq!(low, [75, 150, 225, 225]);
        backoff.reset();
        assert!((124..=125).contains(&backoff.pause(u32::MAX).as_millis()));
    }

    #[test]
    fn extreme_pauses_do_not_overflow() {
        let mut backoff = Backoff::new(Duration::from_secs(u64::MAX / 4), Duration::MAX);
        for _ in 0..4 {
            assert!(backoff.pause(u32::MAX) > Duration::ZERO);
        }
    }
}
