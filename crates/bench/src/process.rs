//! What the kernel says about a process.

use anyhow::{Context as _, Result, bail};
use child_process::Stopped;
use std::{fs, time::Duration};

/// A process by its id.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProcessId(pub(crate) u32);

impl ProcessId {
    /// The process of this name, as the kernel shortens it, whose control group is below this one.
    pub(crate) fn find(name: &str, group: &str) -> Result<Self> {
        // `TASK_COMM_LEN` (include/linux/sched.h): 16 with its zero.
        let name = name.get(..15).unwrap_or(name);
        for entry in fs::read_dir("/proc")? {
            let id = entry?.file_name();
            let Some(id) = id.to_str().and_then(|id| id.parse().ok()) else {
                continue;
            };
            let process = Self(id);
            // A process may end while it is looked at.
            let read = |file| process.read(file).unwrap_or_default();
            if read("comm").trim_end() == name && read("cgroup").contains(group) {
                return Ok(process);
            }
        }
        bail!("no process `{name}` runs there")
    }

    /// User and system time of all its threads, ended ones too. `proc(5)`: in clock ticks, fields
    /// 14 and 15; the kernel scales them to the precise run time.
    pub(crate) fn cpu_time(self) -> Result<Duration> {
        let stat = self.read("stat")?;
        // The name in parentheses may hold anything.
        let fields = stat.rsplit_once(')').context("`stat` without a name")?.1;
        let mut fields = fields.split_ascii_whitespace().skip(11);
        let mut next = || {
            fields
                .next()
                .context("`stat` is short")?
                .parse::<u64>()
                .context("`stat`")
        };
        let ticks = next()? + next()?;
        let hertz = rustix::param::clock_ticks_per_second();
        Ok(Duration::from_micros(ticks * 1_000_000 / hertz))
    }

    /// Resident memory now, in MiB.
    pub(crate) fn resident(self) -> Result<f64> {
        self.status_mib("VmRSS:")
    }

    /// Begins a new measurement of the peak. `proc(5)`: 5 in `clear_refs`.
    pub(crate) fn forget_peak(self) -> Result<()> {
        let path = format!("/proc/{}/clear_refs", self.0);
        fs::write(&path, "5").with_context(|| format!("write {path}"))
    }

    /// The most resident memory since then, in MiB.
    pub(crate) fn resident_peak(self) -> Result<f64> {
        self.status_mib("VmHWM:")
    }

    /// Stops the process until the value is dropped.
    pub(crate) fn stop(self) -> Result<Stopped> {
        Stopped::process(self.0)
    }

    fn status_mib(self, field: &str) -> Result<f64> {
        let status = self.read("status")?;
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let kib = line.and_then(|line| line.split_ascii_whitespace().next());
        let kib: f64 = kib.with_context(|| format!("no {field}"))?.parse()?;
        Ok(kib / 1024.0)
    }

    fn read(self, name: &str) -> Result<String> {
        let path = format!("/proc/{}/{name}", self.0);
        fs::read_to_string(&path).with_context(|| format!("read {path}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn a_process_is_found_in_its_group_only() {
        let own = fs::read_to_string("/proc/self/comm").unwrap();
        let group = fs::read_to_string("/proc/self/cgroup").unwrap();
        let group = group.lines().next().unwrap();
        assert!(ProcessId::find(own.trim_end(), group).is_ok());
        assert!(ProcessId::find(own.trim_end(), "no such group").is_err());
    }

    #[test]
    fn our_own_work_shows() {
        let own = ProcessId(std::process::id());
        let before = own.cpu_time().unwrap();
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(1) && own.cpu_time().unwrap() == before {}
        assert!(own.cpu_time().unwrap() > before);
        assert!(own.resident().unwrap() > 0.5);
        own.forget_peak().unwrap();
        assert!(own.resident_peak().unwrap() >= own.resident().unwrap());
    }
}
