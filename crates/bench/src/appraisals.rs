//! Appraisals of SEV-SNP reports on one thread, beside the two signatures that none can do without,
//! and beside another verifier. In memory: no channel, no service.

mod cases;

use crate::{
    report::{Goal, Report},
    statistics::median,
    tickets::count,
};
use anyhow::{Context as _, Result};
use appraisal::Endorsements;
use cases::Lab;
use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// Each round lets every subject take all reports once.
const ROUNDS: usize = 101;

/// A subject's times of all rounds, in microseconds for one report.
type Times = Vec<f64>;

pub(crate) fn measure(report: &mut Report) -> Result<()> {
    let lab = Lab::open()?;
    let (mut p384, mut rsa, mut ours, mut listed, mut other) = <(_, _, _, _, _)>::default();
    for round in 0..=ROUNDS {
        // Code and allocator warm up unmeasured.
        let warm = round > 0;
        let turn = |times: &mut Times, work: &dyn Fn(usize) -> Result<()>| -> Result<()> {
            let each = per_report(lab.len(), work)?;
            times.extend(warm.then_some(each));
            Ok(())
        };
        turn(&mut p384, &|at| lab.verify_p384(at))?;
        turn(&mut rsa, &|at| lab.verify_rsa(at))?;
        turn(&mut ours, &|at| lab.appraise(at, Endorsements::default()))?;
        turn(&mut listed, &|at| lab.appraise(at, lab.with_list()))?;
        turn(&mut other, &|at| lab.verify_by_sev(at))?;
    }
    let [p384, rsa, ours, listed, other] =
        [p384, rsa, ours, listed, other].map(|times: Times| median(times).context("no round"));
    let (p384, rsa, ours) = (p384?, rsa?, ours?);
    report.figure("p384_verify_us", p384, "a report's signature");
    report.figure("rsa4096_pss_verify_us", rsa, "a VCEK certificate's");
    let per_second = |us: f64| 1e6 / us;
    let note = "one thread, authorities verified before";
    report.figure("snp_appraisals_per_s", per_second(ours), note);
    let goal = Goal::AtLeast(0.9);
    let note = "times the two signatures' time";
    report.goal("snp_appraisals_over_ideal", (p384 + rsa) / ours, goal, note);
    let note = "with a revocation list to verify each time";
    report.figure("snp_appraisals_per_s_crl", per_second(listed?), note);
    let note = "crate `sev`, pure Rust; two signatures and no policy";
    report.figure("snp_appraisals_per_s_sev_crate", per_second(other?), note);
    Ok(())
}

/// This thread's own time, in microseconds for one of `reports`: what else runs does not count.
fn per_report(reports: usize, work: &dyn Fn(usize) -> Result<()>) -> Result<f64> {
    let before = thread_time()?;
    (0..reports).try_for_each(work)?;
    let took = thread_time()?.saturating_sub(before);
    Ok(took.as_secs_f64() * 1e6 / count(reports))
}

fn thread_time() -> Result<Duration> {
    Ok(clock_gettime(ClockId::ThreadCPUTime).try_into()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::ensure;
    use std::thread;

    #[test]
    fn only_work_is_time() {
        let idle = per_report(1, &|_| {
            thread::sleep(Duration::from_millis(100));
            Ok(())
        });
        assert!(idle.unwrap() < 50_000.0);
        let busy = per_report(1, &|_| {
            let begun = thread_time()?;
            while thread_time()?.saturating_sub(begun) < Duration::from_millis(10) {}
            Ok(())
        });
        assert!(busy.unwrap() >= 10_000.0);
    }

    #[test]
    fn a_report_that_is_refused_ends_the_measurement() {
        let second = |at| {
            ensure!(at == 0, "the second");
            Ok(())
        };
        per_report(1, &second).unwrap();
        per_report(2, &second).unwrap_err();
    }
}
