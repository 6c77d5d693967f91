//! `make demo`: what a new user does, on real parts, with a live view.
//!
//! `VERBOSE=1` shows the node's console as well.

use std::process::ExitCode;

mod story;
mod view;

fn main() -> ExitCode {
    let verbose = std::env::var_os("VERBOSE").is_some_and(|value| value != "0");
    match story::tell(verbose) {
        Ok(()) => {
            println!("demo: ok");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            println!("demo: failed: {failure:#}");
            ExitCode::FAILURE
        }
    }
}
