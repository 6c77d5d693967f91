//! The bootstrapper: makes a Kubernetes node of an admitted machine.

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    if arguments == ["mount-state"] {
        return bootstrapper::mount_state::main();
    }
    service_runtime::program::main::<bootstrapper::Bootstrapper>()
}
