//! The verification service: fresh evidence of a running node, for anybody who asks.

use std::process::ExitCode;

fn main() -> ExitCode {
    service_runtime::program::main::<verification_service::VerificationService>()
}
