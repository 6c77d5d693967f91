//! A machine's serial console: time-stamped lines, a log, and waiting for a line.

use std::fs::File;
use std::io::{Read, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::agent_line::{AgentExit, AgentStep};

/// Lines that a failed expectation shows.
const TAIL: usize = 25;

/// A longer line is cut: a guest must not be able to fill the harness's memory.
const MAX_LINE: usize = 4096;

/// One line and when it was complete, counted from the machine's start.
#[derive(Clone, Debug)]
pub struct Line {
    /// Time since the machine was started.
    pub at: Duration,
    /// The text without control characters.
    pub text: String,
}

impl Line {
    /// The line as logs and messages show it.
    fn stamped(&self) -> String {
        format!("{:7.3} {}\n", self.at.as_secs_f64(), self.text)
    }
}

/// The console of one boot.
#[derive(Debug)]
pub struct Console {
    shared: Arc<Shared>,
    log: PathBuf,
    next: usize,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: Vec<Line>,
    closed: bool,
}

impl Console {
    /// Reads `source` to its end in a thread of its own. With `echo` each line is printed as well.
    pub(crate) fn follow(
        source: impl Read + Send + 'static,
        started: Instant,
        log: &Path,
        echo: bool,
    ) -> Result<Self> {
        let shared = Arc::<Shared>::default();
        let file = File::create(log).with_context(|| format!("create {}", log.display()))?;
        let reader = Reader {
            shared: Arc::clone(&shared),
            started,
            log: file,
            echo,
        };
        thread::Builder::new()
            .name("console".to_owned())
            .spawn(move || reader.read_to_end(source))?;
        Ok(Self {
            shared,
            log: log.to_owned(),
            next: 0,
        })
    }

    /// Waits for the next line that contains `pattern`; lines up to it count as read.
    pub fn expect(&mut self, pattern: &str, timeout: Duration) -> Result<Line> {
        let (_, line) = self.expect_any(&[pattern], timeout)?;
        Ok(line)
    }

    /// Waits for the next line that contains any of `patterns`, and says which.
    pub fn expect_any(&mut self, patterns: &[&str], timeout: Duration) -> Result<(usize, Line)> {
        let wanted = patterns.join("` or `");
        self.expect_with(&format!("a line with `{wanted}`"), timeout, |line| {
            patterns
                .iter()
                .position(|pattern| line.text.contains(pattern))
                .map(|found| (found, line.clone()))
        })
    }

    /// Waits for the agent's step of this name.
    pub fn expect_step(&mut self, name: &str, timeout: Duration) -> Result<AgentStep> {
        self.expect_with(&format!("agent step `{name}`"), timeout, |line| {
            AgentStep::parse(&line.text).filter(|step| step.name == name)
        })
    }

    /// Waits for the agent's exit line.
    pub fn expect_exit(&mut self, timeout: Duration) -> Result<AgentExit> {
        self.expect_with("the agent's exit line", timeout, |line| {
            AgentStep::parse(&line.text)?.exit()
        })
    }

    /// The next line, or none once the machine is off.
    pub fn next_line(&mut self, timeout: Duration) -> Result<Option<Line>> {
        let found = self.expect_with("any line", timeout, |line| Some(line.clone()));
        match found {
            Err(_) if self.shared.lock().closed => Ok(None),
            found => found.map(Some),
        }
    }

    /// Waits until the console closes, that is, until the machine is off.
    pub fn wait_closed(&self, timeout: Duration) -> Result<()> {
        let end = Instant::now() + timeout;
        let mut state = self.shared.lock();
        while !state.closed {
            let Some(left) = end.checked_duration_since(Instant::now()) else {
                bail!(failure(&self.log, &state, "the machine to be off", timeout));
            };
            state = self.shared.wait(state, left);
        }
        Ok(())
    }

    /// Every line so far, read or not.
    pub fn lines(&self) -> Vec<Line> {
        self.shared.lock().lines.clone()
    }

    /// Every step that the agent has reported so far, with the machine's own clock.
    pub fn agent_steps(&self) -> Vec<(Duration, AgentStep)> {
        let state = self.shared.lock();
        let steps = state.lines.iter();
        steps
            .filter_map(|line| AgentStep::parse(&line.text).map(|step| (line.at, step)))
            .collect()
    }

    /// Where the console is logged.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The one loop behind every expectation.
    fn expect_with<T>(
        &mut self,
        wanted: &str,
        timeout: Duration,
        matches: impl Fn(&Line) -> Option<T>,
    ) -> Result<T> {
        let end = Instant::now() + timeout;
        let mut state = self.shared.lock();
        loop {
            while let Some(line) = state.lines.get(self.next) {
                self.next += 1;
                if let Some(found) = matches(line) {
                    return Ok(found);
                }
            }
            let left = end.checked_duration_since(Instant::now());
            let Some(left) = left.filter(|_| !state.closed) else {
                bail!(failure(&self.log, &state, wanted, timeout));
            };
            state = self.shared.wait(state, left);
        }
    }
}

impl Shared {
    /// A reader that panicked leaves whole lines behind, so its poison is no reason to stop.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, left: Duration) -> MutexGuard<'a, State> {
        let waited = self.changed.wait_timeout(state, left);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// Says what did not come, what came last, and where the rest is.
fn failure(log: &Path, state: &State, wanted: &str, timeout: Duration) -> String {
    let why = if state.closed {
        "the machine ended".to_owned()
    } else {
        format!("{timeout:?} passed")
    };
    let tail = state.lines.len().saturating_sub(TAIL);
    let lines: String = state.lines.iter().skip(tail).map(Line::stamped).collect();
    let log = log.display();
    format!("waited for {wanted}, but {why}; last lines:\n{lines}console log: {log}")
}

/// The thread behind a console.
struct Reader {
    shared: Arc<Shared>,
    started: Instant,
    log: File,
    echo: bool,
}

impl Reader {
    fn read_to_end(mut self, mut source: impl Read) {
        let mut pending = Vec::new();
        let mut chunk = [0; 1024];
        while let Ok(count @ 1..) = source.read(&mut chunk) {
            for &byte in chunk.iter().take(count) {
                match byte {
                    b'\n' => self.line(&mut pending),
                    _ if pending.len() >= MAX_LINE => self.line(&mut pending),
                    _ => pending.push(byte),
                }
            }
        }
        if !pending.is_empty() {
            self.line(&mut pending);
        }
        self.shared.lock().closed = true;
        self.shared.changed.notify_all();
    }

    fn line(&mut self, pending: &mut Vec<u8>) {
        let at = self.started.elapsed();
        let text = printable(&String::from_utf8_lossy(pending));
        pending.clear();
        if text.is_empty() {
            return;
        }
        let line = Line { at, text };
        let logged = line.stamped();
        if self.echo {
            eprint!("      {logged}");
        }
        // A full disk must not stop the console; the test sees the lines all the same.
        drop(self.log.write_all(logged.as_bytes()));
        self.shared.lock().lines.push(line);
        self.shared.changed.notify_all();
    }
}

/// Drops terminal escape sequences (the firmware paints its screen) and control characters.
fn printable(text: &str) -> String {
    let mut clean = String::new();
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        if char == '\u{1b}' {
            skip_escape(&mut chars);
        } else if !char.is_control() {
            clean.push(char);
        }
    }
    clean.trim_end().to_owned()
}

/// A control sequence (`ESC [`) ends with a byte from `@` to `~`; other sequences are one byte.
fn skip_escape(chars: &mut std::str::Chars<'_>) {
    if chars.next() == Some('[') {
        chars.find(|char| ('@'..='~').contains(char));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    fn console(text: &'static str) -> (Console, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("console.log");
        let console = Console::follow(text.as_bytes(), Instant::now(), &log, false).unwrap();
        (console, dir)
    }

    #[test]
    fn expectations_read_on_from_the_last_match() {
        let (mut console, _dir) = console("one\ntwo\none again\n");
        assert_eq!(console.expect("one", SOON).unwrap().text, "one");
        assert_eq!(console.expect("one", SOON).unwrap().text, "one again");
        assert!(console.expect("two", SOON).is_err());
    }

    #[test]
    fn a_failed_expectation_shows_the_last_lines_and_the_log() {
        let (mut console, _dir) = console("booting\nsomething else");
        let error = console.expect("unlocked", SOON).unwrap_err().to_string();
        assert!(
            error.contains("waited for a line with `unlocked`"),
            "{error}"
        );
        assert!(error.contains("the machine ended"), "{error}");
        assert!(error.contains("something else"), "{error}");
        assert!(error.contains("console.log"), "{error}");
    }

    #[test]
    fn a_silent_console_times_out() {
        let (reader, _writer) = std::io::pipe().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let mut console = Console::follow(reader, Instant::now(), &log, false).unwrap();
        let error = console.expect("x", Duration::from_millis(20)).unwrap_err();
        assert!(error.to_string().contains("20ms passed"), "{error}");
    }

    #[test]
    fn the_agents_exit_is_found_among_other_lines() {
        let text = "agent: 1.000 start\r\nkernel noise\nagent: 2.500 exit code=20 reason=refused action=power-off\n";
        let (mut console, _dir) = console(text);
        let exit = console.expect_exit(SOON).unwrap();
        assert_eq!(exit.code, 20);
        assert_eq!(console.agent_steps().len(), 2);
    }

    #[test]
    fn escape_sequences_are_dropped() {
        assert_eq!(printable("\u{1b}[2J\u{1b}[01;01Htext\u{1b}[0m\r"), "text");
        assert_eq!(printable("\u{1b}[2J"), "");
    }

    #[test]
    fn an_endless_line_is_cut() {
        let source = std::io::repeat(b'a').take(3 * MAX_LINE as u64);
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let console = Console::follow(source, Instant::now(), &log, false).unwrap();
        console.wait_closed(SOON).unwrap();
        assert!(
            console
                .lines()
                .iter()
                .all(|line| line.text.len() <= MAX_LINE)
        );
    }
}
