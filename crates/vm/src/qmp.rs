//! QEMU's machine protocol: reset, power, and the network cable.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

/// QEMU answers at once unless it is gone.
const PATIENCE: Duration = Duration::from_secs(10);

/// The control channel of one machine; it connects at its first use.
#[derive(Debug)]
pub struct Qmp {
    path: PathBuf,
    stream: Option<BufReader<UnixStream>>,
}

impl Qmp {
    /// The channel at this socket.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path, stream: None }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Presses the reset button.
    pub fn reset(&mut self) -> Result<()> {
        self.execute("system_reset", &json!({})).map(drop)
    }

    /// Presses the power button: the guest shuts down by itself.
    pub fn power_down(&mut self) -> Result<()> {
        self.execute("system_powerdown", &json!({})).map(drop)
    }

    /// Stops the processors where they are.
    pub fn pause(&mut self) -> Result<()> {
        self.execute("stop", &json!({})).map(drop)
    }

    /// Lets the processors go on.
    pub fn resume(&mut self) -> Result<()> {
        self.execute("cont", &json!({})).map(drop)
    }

    /// Plugs the network cable in or pulls it.
    pub fn set_link(&mut self, up: bool) -> Result<()> {
        self.execute("set_link", &json!({"name": "card", "up": up}))
            .map(drop)
    }

    /// Runs any command and gives its answer.
    pub fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        if self.stream.is_none() {
            self.stream = Some(connect(&self.path)?);
            self.request(&json!({"execute": "qmp_capabilities"}))?;
        }
        self.request(&json!({"execute": command, "arguments": arguments}))
            .with_context(|| format!("QEMU command {command}"))
    }

    fn request(&mut self, request: &Value) -> Result<Value> {
        let stream = self.stream.as_mut().context("not connected")?;
        stream
            .get_mut()
            .write_all(format!("{request}\n").as_bytes())?;
        loop {
            let answer = read_message(stream)?;
            if let Some(value) = answer.get("return") {
                return Ok(value.clone());
            }
            if let Some(error) = answer.get("error") {
                bail!("refused: {error}");
            }
            // Anything else is an event or the greeting.
        }
    }
}

/// A machine that has just been started takes a moment to listen.
fn connect(path: &Path) -> Result<BufReader<UnixStream>> {
    let end = Instant::now() + PATIENCE;
    let stream = loop {
        match UnixStream::connect(path) {
            Ok(stream) => break stream,
            Err(_) if Instant::now() < end => thread::sleep(Duration::from_millis(5)),
            Err(error) => bail!("connect {}: {error}", path.display()),
        }
    };
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(BufReader::new(stream))
}

fn read_message(stream: &mut BufReader<UnixStream>) -> Result<Value> {
    let mut line = String::new();
    if stream.read_line(&mut line)? == 0 {
        bail!("QEMU closed its control channel");
    }
    serde_json::from_str(&line).with_context(|| format!("QEMU said {line:?}"))
}
