//! The real services as child processes.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::process::{Process, Stopped, contained};
use crate::workspace::program;

/// How long a service may take to become ready, or to end when asked.
const PATIENCE: Duration = Duration::from_secs(20);

/// How often a waiting loop looks again.
const POLL: Duration = Duration::from_millis(20);

/// Log lines that a failure shows.
const TAIL: usize = 15;

/// One service: a program, its configuration, its log, and while it runs its process.
#[derive(Debug)]
pub struct Service {
    name: String,
    config: PathBuf,
    log: PathBuf,
    admin_port: u16,
    process: Option<Process>,
}

impl Service {
    /// Describes the service `name`, the name of its program as well. `admin_port` is where it
    /// answers `/readyz`.
    pub fn new(name: &str, dir: &Path, config: &str, admin_port: u16) -> Result<Self> {
        let path = dir.join(format!("{name}.toml"));
        fs::write(&path, config).with_context(|| format!("write {}", path.display()))?;
        Ok(Self {
            name: name.to_owned(),
            config: path,
            log: dir.join(format!("{name}.log")),
            admin_port,
            process: None,
        })
    }

    /// Adds to the configuration of a service that does not run.
    pub fn configure(&self, more: &str) -> Result<()> {
        let mut file = fs::File::options().append(true).open(&self.config)?;
        let written = file.write_all(more.as_bytes());
        written.with_context(|| format!("write {}", self.config.display()))
    }

    /// Starts the service and waits until it is ready.
    pub fn start(&mut self) -> Result<()> {
        self.spawn()?;
        self.wait_ready()
    }

    /// Starts the service without waiting.
    pub fn spawn(&mut self) -> Result<()> {
        let mut command = contained(program(&self.name)?);
        command.arg("--config").arg(&self.config);
        self.process = Some(Process::spawn(&self.name, command, &self.log)?);
        Ok(())
    }

    /// Waits until `/readyz` says yes.
    pub fn wait_ready(&mut self) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while !is_ready(self.admin_port) {
            let process = self
                .process
                .as_mut()
                .context("the service is not started")?;
            let ended = process.exit_status()?;
            if ended.is_some() || Instant::now() >= end {
                let state = ended.map_or_else(|| "runs".to_owned(), |status| status.to_string());
                bail!("{} is not ready ({state}); {}", self.name, self.log_tail());
            }
            thread::sleep(POLL);
        }
        Ok(())
    }

    /// Asks the service to end (SIGTERM) and waits until it has.
    pub fn stop(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            let status = process.terminate(PATIENCE)?;
            anyhow::ensure!(
                status.success(),
                "{} ended with {status}; {}",
                self.name,
                self.log_tail()
            );
        }
        Ok(())
    }

    /// Ends the service at once, as a crash would.
    pub fn kill(&mut self) -> Result<()> {
        self.process
            .take()
            .map_or(Ok(()), |mut process| process.kill())
    }

    /// The process id while the service runs.
    pub fn id(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// Lets it stand still, with all of its connections, until the value is dropped.
    pub fn stand_still(&self) -> Result<Stopped> {
        Stopped::process(self.id().context("the service is not started")?)
    }

    /// The log file.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// A place in the log, to look only at what comes later.
    pub fn log_position(&self) -> u64 {
        self.log.metadata().map_or(0, |metadata| metadata.len())
    }

    /// Waits for a whole log line after `position` that contains all of `words`.
    pub fn expect_log(&self, position: u64, words: &[&str], timeout: Duration) -> Result<String> {
        let end = Instant::now() + timeout;
        loop {
            let bytes = fs::read(&self.log).unwrap_or_default();
            let new = bytes.get(usize::try_from(position)?..).unwrap_or_default();
            let text = String::from_utf8_lossy(new);
            let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
            let found = whole
                .lines()
                .find(|line| words.iter().all(|word| line.contains(word)));
            if let Some(line) = found {
                return Ok(line.to_owned());
            }
            if Instant::now() >= end {
                bail!(
                    "{} did not log {words:?} in {timeout:?}; {}",
                    self.name,
                    self.log_tail()
                );
            }
            thread::sleep(POLL);
        }
    }

    fn log_tail(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines
            .get(lines.len().saturating_sub(TAIL)..)
            .unwrap_or_default();
        let log = self.log.display();
        format!("its last lines:\n  {}\nlog: {log}", tail.join("\n  "))
    }
}

fn is_ready(port: u16) -> bool {
    let answer = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).and_then(|mut stream| {
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream
            .write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    });
    answer.is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::Metadata;

    fn service(dir: &Path) -> Service {
        Service::new("sample", dir, "", 1).unwrap()
    }

    #[test]
    fn only_the_status_200_is_ready() {
        let ready = Metadata::serve("ready").unwrap();
        assert!(is_ready(ready.port()));
        let not_yet = Metadata::answer("HTTP/1.1 503 Service Unavailable\r\n\r\n").unwrap();
        assert!(!is_ready(not_yet.port()));
        assert!(!is_ready(crate::workspace::free_port().unwrap()));
    }

    #[test]
    fn a_log_line_is_found_after_the_position_only_and_only_whole() {
        let dir = tempfile::tempdir().unwrap();
        let service = service(dir.path());
        fs::write(service.log(), "refused pcr 4\n").unwrap();
        let position = service.log_position();
        let soon = Duration::from_millis(50);
        assert!(service.expect_log(0, &["pcr", "refused"], soon).is_ok());
        assert!(service.expect_log(position, &["pcr"], soon).is_err());
        fs::write(service.log(), "refused pcr 4\nrefused pcr 11").unwrap();
        let error = service.expect_log(position, &["pcr"], soon).unwrap_err();
        assert!(error.to_string().contains("sample did not log"), "{error}");
    }
}
