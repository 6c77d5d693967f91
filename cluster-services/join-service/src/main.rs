//! The join service: appraises nodes and issues join and rejoin tickets.

use std::process::ExitCode;

fn main() -> ExitCode {
    service_runtime::program::main::<join_service::JoinService>()
}
