//! The key service: releases data keys to authenticated callers.

use std::process::ExitCode;

fn main() -> ExitCode {
    service_runtime::program::main::<key_service::KeyService>()
}
