//! How long to leave a service alone that fails.

use aws_lc_rs::rand;
use std::time::Duration;

/// Exponential back-off with jitter: after each failure in a row the wait doubles up to a bound, and
/// is somewhere between half of that and all of it, so that many clients do not come back together.
#[derive(Debug)]
pub(crate) struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
}

impl Backoff {
    pub(crate) const fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            failures: 0,
        }
    }

    /// The service works.
    pub(crate) const fn reset(&mut self) {
        self.failures = 0;
    }

    /// How long to wait after one more failure.
    pub(crate) fn next(&mut self) -> Duration {
        let mut random = [0; 4];
        // Without randomness the full wait is as good, for one client.
        if rand::fill(&mut random).is_err() {
            random = [0xff; 4];
        }
        self.next_with(u32::from_le_bytes(random))
    }

    fn next_with(&mut self, random: u32) -> Duration {
        let factor = 1_u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        self.failures = self.failures.saturating_add(1);
        let full = self.first.saturating_mul(factor).min(self.longest);
        let half = full / 2;
        half + half.mul_f64(f64::from(random) / f64::from(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn waits_double_up_to_the_bound_and_start_again() {
        let mut backoff = Backoff::new(SECOND, 10 * SECOND);
        let waits = [(); 6].map(|()| backoff.next_with(u32::MAX).as_secs());
        assert_eq!(waits, [1, 2, 4, 8, 10, 10]);
        backoff.reset();
        assert_eq!(backoff.next_with(u32::MAX), SECOND);
        backoff.failures = u32::MAX;
        assert_eq!(backoff.next_with(u32::MAX), 10 * SECOND);
    }

    #[test]
    fn jitter_takes_away_up_to_half() {
        let wait = |random| Backoff::new(SECOND, SECOND).next_with(random);
        assert_eq!(wait(0), SECOND / 2);
        assert_eq!(wait(u32::MAX), SECOND);
        let drawn: Vec<_> = (0..32)
            .map(|_| Backoff::new(SECOND, SECOND).next())
            .collect();
        assert!(drawn.iter().all(|it| (SECOND / 2..=SECOND).contains(it)));
        assert!(drawn.iter().any(|it| *it != drawn[0]));
    }
}
