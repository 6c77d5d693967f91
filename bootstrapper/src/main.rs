//! The bootstrapper: makes a Kubernetes node of an admitted machine.

use std::process::ExitCode;

fn main() -> ExitCode {
    service_runtime::program::main::<bootstrapper::Bootstrapper>()
}
