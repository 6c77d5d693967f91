//! Load: as much as there is, or at a fixed rate.

use crate::process::ProcessId;
use anyhow::{Context as _, Result, anyhow, ensure};
use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

/// What saturation cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Saturation {
    /// Completed a second.
    pub(crate) per_second: f64,
    /// CPU time of the watched process for each, in microseconds.
    pub(crate) cpu_us: f64,
    /// The same of a second process.
    pub(crate) other_cpu_us: f64,
}

/// Every worker works without a pause for `duration`. `watched` are the processes whose time counts.
pub(crate) fn saturate<W: Sync>(
    workers: &[W],
    duration: Duration,
    watched: (ProcessId, Option<ProcessId>),
    work: impl Fn(&W, usize) -> Result<()> + Sync,
) -> Result<Saturation> {
    let other = || watched.1.map_or(Ok(Duration::ZERO), ProcessId::cpu_time);
    let (before, other_before) = (watched.0.cpu_time()?, other()?);
    let begun = Instant::now();
    let (done, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    in_parallel(workers, |worker| {
        for turn in 0.. {
            if over.load(Ordering::Relaxed) || begun.elapsed() >= duration {
                break;
            }
            if let Err(error) = work(worker, turn) {
                over.store(true, Ordering::Relaxed);
                return Err(error);
            }
            done.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    })?;
    let took = begun.elapsed();
    let done = done.into_inner();
    ensure!(done > 0, "nothing was completed in {duration:?}");
    let each = |time: Duration| time.as_secs_f64() * 1e6 / count(done);
    Ok(Saturation {
        per_second: count(done) / took.as_secs_f64(),
        cpu_us: each(watched.0.cpu_time()?.saturating_sub(before)),
        other_cpu_us: each(other()?.saturating_sub(other_before)),
    })
}

/// Starts `per_second` for `duration`, whoever of the workers is free, and gives how long each took
/// in milliseconds, counted from when it should have begun: a late start is the service's delay.
pub(crate) fn pace<W: Sync>(
    workers: &[W],
    duration: Duration,
    per_second: f64,
    work: impl Fn(&W, usize) -> Result<()> + Sync,
) -> Result<Vec<f64>> {
    let interval = Duration::from_secs_f64(1.0 / per_second);
    let begun = Instant::now();
    let next = AtomicUsize::new(0);
    let latencies = in_parallel(workers, |worker| {
        let mut latencies = Vec::new();
        loop {
            let turn = next.fetch_add(1, Ordering::Relaxed);
            let due = interval.mul_f64(count(turn));
            if due >= duration {
                return Ok(latencies);
            }
            thread::sleep(due.saturating_sub(begun.elapsed()));
            work(worker, latencies.len())?;
            latencies.push((begun.elapsed() - due).as_secs_f64() * 1e3);
        }
    })?;
    Ok(latencies.concat())
}

/// One thread for each worker; the first failure is the outcome.
fn in_parallel<W: Sync, T: Send>(
    workers: &[W],
    run: impl Fn(&W) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    thread::scope(|scope| {
        let run = &run;
        let threads: Vec<_> = workers
            .iter()
            .map(|worker| scope.spawn(move || run(worker)))
            .collect();
        let join = |thread: thread::ScopedJoinHandle<'_, Result<T>>| {
            thread.join().map_err(|_| anyhow!("a worker died"))?
        };
        threads.into_iter().map(join).collect::<Result<_>>()
    })
    .context("load")
}

#[expect(clippy::cast_precision_loss, reason = "counts here are far below 2^52")]
pub(crate) fn count(number: usize) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(200);

    fn own() -> (ProcessId, Option<ProcessId>) {
        (ProcessId(std::process::id()), None)
    }

    #[test]
    fn what_waits_its_turn_is_late() {
        // Twice as much as one worker can do.
        let work = |(): &(), _| {
            thread::sleep(Duration::from_millis(20));
            Ok(())
        };
        let latencies = pace(&[()], SHORT, 100.0, work).unwrap();
        assert_eq!(latencies.len(), 20);
        assert!(latencies[0] >= 20.0 && latencies[0] < latencies[19]);
        assert!(latencies[19] > 200.0, "{latencies:?}");
    }

    #[test]
    fn a_failure_ends_the_run() {
        let work = |(): &(), turn| {
            ensure!(turn < 3, "the fourth");
            Ok(())
        };
        let error = saturate(&[(), ()], Duration::from_secs(60), own(), work).unwrap_err();
        assert!(format!("{error:#}").contains("the fourth"));
    }

    #[test]
    fn the_rate_is_what_was_done() {
        let work = |(): &(), _| {
            thread::sleep(Duration::from_millis(10));
            Ok(())
        };
        let saturation = saturate(&[(), ()], SHORT, own(), work).unwrap();
        assert!(
            (50.0..210.0).contains(&saturation.per_second),
            "{saturation:?}"
        );
    }
}
