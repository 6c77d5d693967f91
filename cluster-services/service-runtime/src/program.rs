//! What the `main` of every service does.

use crate::{
    config::{self, LogFormat},
    logs::{self, Chain},
    shutdown::Shutdown,
};
use serde::de::DeserializeOwned;
use std::{env, error::Error, ffi::OsString, path::PathBuf, process::ExitCode};

/// What the program needs of a configuration before the service exists.
pub trait ServiceConfig: DeserializeOwned {
    /// How to log.
    fn log_format(&self) -> LogFormat;
}

/// A service as its `main` sees it: configuration in, finished work out.
pub trait Service: 'static {
    /// Its configuration file.
    type Config: ServiceConfig + Send;
    /// Why it could not start, or why it stopped.
    type Error: Error + Send + 'static;
    /// Name of the program.
    const NAME: &'static str;

    /// Runs until `shutdown` is requested and the work in flight is done.
    fn run(
        config: Self::Config,
        shutdown: Shutdown,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;
}

/// Parses `--config FILE`, loads it, runs the service. The exit code is 0 after a requested shutdown,
/// 2 for a wrong command line or configuration and 1 for everything else.
#[must_use]
pub fn main<S: Service>() -> ExitCode {
    let path = match parse(env::args_os().skip(1)) {
        Command::Run(path) => path,
        Command::Version => {
            println!("{} {}", S::NAME, env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        Command::Usage => {
            eprintln!("usage: {} --config FILE | --version", S::NAME);
            return ExitCode::from(2);
        }
    };
    if let Err(error) = secret_file::forbid_core_dumps() {
        eprintln!("{}: cannot forbid core dumps: {error}", S::NAME);
        return ExitCode::FAILURE;
    }
    let config: S::Config = match config::load(&path) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("{}: {}", S::NAME, Chain(&error));
            return ExitCode::from(2);
        }
    };
    logs::init(config.log_format());
    match run::<S>(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = %Chain(error.as_ref()), "{} stopped", S::NAME);
            ExitCode::FAILURE
        }
    }
}

fn run<S: Service>(config: S::Config) -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let shutdown = Shutdown::on_signals()?;
        // On a worker, where a connection is accepted without waking this thread.
        tokio::spawn(S::run(config, shutdown)).await??;
        tracing::info!("{} stopped as requested", S::NAME);
        Ok(())
    })
}

#[derive(Debug, PartialEq, Eq)]
enum Command {
    Run(PathBuf),
    Usage,
    Version,
}

fn parse(arguments: impl Iterator<Item = OsString>) -> Command {
    let arguments: Vec<_> = arguments.take(3).collect();
    match arguments.as_slice() {
        [flag, path] if flag == "--config" => Command::Run(PathBuf::from(path)),
        [flag] if flag == "--version" => Command::Version,
        _ => Command::Usage,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anything_but_a_config_is_usage() {
        let parse_all = |words: &[&str]| parse(words.iter().map(OsString::from));
        assert_eq!(
            parse_all(&["--config", "a.toml"]),
            Command::Run("a.toml".into())
        );
        assert_eq!(parse_all(&["--version"]), Command::Version);
        for words in [
            &[][..],
            &["--config"],
            &["a.toml"],
            &["--config", "a", "b"],
            &["--insecure", "a"],
        ] {
            assert_eq!(parse_all(words), Command::Usage, "{words:?}");
        }
    }
}
