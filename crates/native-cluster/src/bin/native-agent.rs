//! `native-agent SETTINGS`: is admitted once and ends when the hand-off is written.

use anyhow::{Result, bail};
use std::path::Path;

fn main() -> Result<()> {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let [settings] = arguments.as_slice() else {
        bail!("usage: native-agent SETTINGS.json");
    };
    native_agent::admit(&native_agent::Settings::read(Path::new(settings))?)
}
