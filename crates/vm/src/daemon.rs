//! Programs that stay when whoever started them ends, known by a file with their process id.

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant, SystemTime},
};

/// How often a waiting loop looks again.
const POLL: Duration = Duration::from_millis(20);

/// Where the start time is, counted from the state, the third field (proc_pid_stat(5)): field 22.
const START_TIME: usize = 22 - 3;

/// A program that runs on its own. The file names process and start time, so that a process that got
/// the same id later is never taken for it.
#[derive(Clone, Debug)]
pub struct Daemon {
    file: PathBuf,
}

impl Daemon {
    /// The daemon of this file, whether it runs or not.
    #[must_use]
    pub fn of(file: &Path) -> Self {
        Self {
            file: file.to_owned(),
        }
    }

    /// Starts a program in a session of its own, with its output in `log`.
    ///
    /// # Errors
    /// If it cannot be started, or runs already.
    pub fn start(&self, program: &Path, arguments: &Command, log: &Path) -> Result<()> {
        if self.is_running() {
            bail!("`{}` runs already", program.display());
        }
        let output = File::create(log).with_context(|| format!("create `{}`", log.display()))?;
        let mut command = Command::new("setsid");
        command.arg(program).args(arguments.get_args());
        command.stdin(Stdio::null());
        command.stdout(output.try_clone()?).stderr(output);
        let child = command
            .spawn()
            .with_context(|| format!("start `{}`", program.display()))?;
        let id = child.id();
        let start = start_time(id).with_context(|| {
            let (program, log) = (program.display(), log.display());
            format!("`{program}` ended at once; see `{log}`")
        })?;
        let text = format!("{id} {start}\n");
        fs::write(&self.file, text).with_context(|| format!("write `{}`", self.file.display()))
    }

    /// Whether it runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.process().is_some()
    }

    /// When it was started, if it runs.
    #[must_use]
    pub fn started(&self) -> Option<SystemTime> {
        self.process()?;
        self.file.metadata().ok()?.modified().ok()
    }

    /// Waits for it to end; false if it did not.
    #[must_use]
    pub fn ends_within(&self, patience: Duration) -> bool {
        let end = Instant::now() + patience;
        while self.is_running() {
            if Instant::now() >= end {
                return false;
            }
            thread::sleep(POLL);
        }
        true
    }

    /// Ends it at once, as a power cut would, if it runs.
    ///
    /// # Errors
    /// If it does not go.
    pub fn kill(&self) -> Result<()> {
        let Some(id) = self.process() else {
            return Ok(());
        };
        kill_process(id, Signal::KILL).with_context(|| format!("end process {id:?}"))?;
        if !self.ends_within(Duration::from_secs(10)) {
            bail!("process {id:?} does not end");
        }
        Ok(())
    }

    fn process(&self) -> Option<Pid> {
        let text = fs::read_to_string(&self.file).ok()?;
        let (id, start) = text.trim_end().split_once(' ')?;
        let id: u32 = id.parse().ok()?;
        (start_time(id)? == start)
            .then(|| i32::try_from(id).ok())
            .flatten()
            .and_then(Pid::from_raw)
    }
}

/// When a living process was started, in the kernel's ticks.
fn start_time(id: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The name before it may have spaces and parentheses.
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    let state = fields.clone().next()?;
    // Ended, and nobody has asked how yet.
    (!matches!(state, "Z" | "X"))
        .then(|| fields.nth(START_TIME).map(str::to_owned))
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_is_found_again_by_its_file_and_ended() {
        let dir = tempfile::tempdir().unwrap();
        let daemon = Daemon::of(&dir.path().join("pid"));
        assert!(!daemon.is_running());
        let mut arguments = Command::new("");
        arguments.arg("1000");
        let log = dir.path().join("log");
        daemon.start(Path::new("sleep"), &arguments, &log).unwrap();
        let again = Daemon::of(&dir.path().join("pid"));
        assert!(again.is_running());
        assert!(
            again.start(Path::new("sleep"), &arguments, &log).is_err(),
            "one at a time"
        );
        again.kill().unwrap();
        assert!(!daemon.is_running());
    }

    #[test]
    fn a_process_of_the_same_id_that_started_at_another_time_is_not_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        fs::write(&file, format!("{} 1\n", std::process::id())).unwrap();
        assert!(!Daemon::of(&file).is_running());
    }
}
