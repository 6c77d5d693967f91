//! Child processes of tests and tools, which never outlive who started them.
//!
//! Three nets: `Drop` kills the whole process group; the kernel kills the child when the thread
//! that started it ends, however it ends (`setpriv --pdeathsig`, so that no `unsafe` is needed);
//! and an own process group keeps a terminal's Ctrl-C from reaching the child first. A child that
//! outlives the thread, but never the program, is started by [`Process::spawn_lasting`]. Those that are to listen
//! get their ports from [`free_port`].

mod ports;

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

pub use ports::{free_pair, free_port};

/// How often a waiting loop looks again.
const POLL: Duration = Duration::from_millis(10);

/// A running child process and its log.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

/// A command whose process dies with the calling thread and has its own process group.
///
/// The kernel ties the child to the *thread* that starts it: start it from a thread that lives
/// as long as the child shall.
pub fn contained(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command.stdin(Stdio::null()).process_group(0);
    command
}

/// Runs a command to its end and returns its standard output; a failure shows its error output.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("start {:?} (is it installed?)", command.get_program()))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?}: {}\n{stdout}{stderr}", output.status);
    }
    Ok(stdout)
}

impl Process {
    /// Starts a command made by [`contained`]; standard error goes to `log`, standard output too
    /// unless the command already says otherwise (`piped` keeps it for the caller).
    pub fn spawn(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        let file = log_file(log)?;
        command.stdout(file.try_clone()?).stderr(file);
        Self::start(name, command, log)
    }

    /// Like [`Process::spawn`], from a thread that lives as long as this program: for a child that
    /// several tests share, each of which has a thread of its own.
    pub fn spawn_lasting(name: &str, command: Command, log: &Path) -> Result<Self> {
        let (name, log) = (name.to_owned(), log.to_owned());
        let (sender, started) = mpsc::channel();
        let job = move || drop(sender.send(Self::spawn(&name, command, &log)));
        // If the thread is gone, the job is dropped, and the answer's other end with it.
        drop(lasting_thread().send(Box::new(job)));
        started
            .recv()
            .context("the thread that starts processes is gone")?
    }

    /// Like [`Process::spawn`], but standard output stays a pipe for [`Process::take_stdout`].
    pub fn spawn_piped(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        command.stdout(Stdio::piped()).stderr(log_file(log)?);
        Self::start(name, command, log)
    }

    fn start(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        let child = command
            .spawn()
            .with_context(|| format!("start {name}: {command:?}"))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log: log.to_owned(),
        })
    }

    /// The pipe of a [`Process::spawn_piped`] process, once.
    pub fn take_stdout(&mut self) -> Option<std::process::ChildStdout> {
        self.child.stdout.take()
    }

    /// The process id; `setpriv` has replaced itself by the program.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Where the process writes its errors.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The exit status if the process has ended.
    pub fn exit_status(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits for the process to end by itself.
    pub fn wait(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let end = Instant::now() + timeout;
        loop {
            if let Some(status) = self.exit_status()? {
                return Ok(status);
            }
            if Instant::now() >= end {
                bail!(
                    "{} still runs after {timeout:?}; log: {}",
                    self.name,
                    self.log.display()
                );
            }
            thread::sleep(POLL);
        }
    }

    /// Asks the process to end (SIGTERM) and waits for it.
    pub fn terminate(&mut self, timeout: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait(timeout)
    }

    /// Ends the process and its children at once (SIGKILL), as a crash or a power cut would.
    pub fn kill(&mut self) -> Result<()> {
        if self.exit_status()?.is_none() {
            self.signal(Signal::KILL)?;
            self.child.wait()?;
        }
        Ok(())
    }

    /// Sends a signal to the process group.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let raw = i32::try_from(self.child.id())?;
        let group = Pid::from_raw(raw).context("a process id is never 0")?;
        kill_process_group(group, signal)
            .with_context(|| format!("send {signal:?} to {}", self.name))
    }
}

/// A process that stands still until the value is dropped.
#[derive(Debug)]
pub struct Stopped(Pid);

impl Stopped {
    /// Stops the process with this id.
    pub fn process(id: u32) -> Result<Self> {
        let id = Pid::from_raw(i32::try_from(id)?).context("a process id is never 0")?;
        kill_process(id, Signal::STOP)?;
        Ok(Self(id))
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // It fails only when the process has ended, and then whoever waits for it says so.
        kill_process(self.0, Signal::CONT).unwrap_or_default();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A failure leaves the kernel's own net: the parent-death signal.
        drop(self.kill());
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// A thread that does jobs until the program ends.
fn lasting_thread() -> mpsc::Sender<Job> {
    static JOBS: OnceLock<mpsc::Sender<Job>> = OnceLock::new();
    let jobs = JOBS.get_or_init(|| {
        let (sender, jobs) = mpsc::channel::<Job>();
        thread::spawn(move || jobs.into_iter().for_each(|job| job()));
        sender
    });
    jobs.clone()
}

fn log_file(path: &Path) -> Result<File> {
    File::options()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("open log {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(log: &Path) -> Process {
        let mut command = contained("sleep");
        command.arg("1000");
        Process::spawn("sleep", command, log).unwrap()
    }

    fn gone(id: u32) -> bool {
        // A zombie that nobody has reaped has no command line any more.
        let end = Instant::now() + Duration::from_secs(5);
        while Instant::now() < end {
            match std::fs::read(format!("/proc/{id}/cmdline")) {
                Ok(line) if !line.is_empty() => thread::sleep(POLL),
                _ => return true,
            }
        }
        false
    }

    #[test]
    fn a_dropped_process_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let process = sleeper(&dir.path().join("log"));
        let id = process.id();
        drop(process);
        assert!(gone(id));
    }

    #[test]
    fn a_leaked_process_dies_with_the_thread_that_started_it() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let id = thread::spawn(move || {
            let process = sleeper(&log);
            // Wait for setpriv to have armed the signal and become `sleep`.
            let comm = format!("/proc/{}/comm", process.id());
            while std::fs::read_to_string(&comm).unwrap().trim() != "sleep" {
                thread::sleep(POLL);
            }
            let id = process.id();
            std::mem::forget(process);
            id
        })
        .join()
        .unwrap();
        assert!(gone(id));
    }

    #[test]
    fn a_lasting_process_stays_when_the_thread_that_asked_for_it_ends() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let mut process = thread::spawn(move || {
            let mut command = contained("sleep");
            command.arg("1000");
            Process::spawn_lasting("sleep", command, &log).unwrap()
        })
        .join()
        .unwrap();
        assert!(process.wait(Duration::from_millis(200)).is_err());
        let id = process.id();
        drop(process);
        assert!(gone(id));
    }

    #[test]
    fn a_wait_that_times_out_names_the_process_and_its_log() {
        let dir = tempfile::tempdir().unwrap();
        let mut process = sleeper(&dir.path().join("sleep.log"));
        let error = process.wait(Duration::from_millis(30)).unwrap_err();
        assert!(error.to_string().contains("sleep still runs"), "{error}");
        assert!(error.to_string().contains("sleep.log"), "{error}");
    }
}
