//! `/dev/sev-guest` of test images: PID 1 first, then the device.

use std::process::ExitCode;

fn main() -> ExitCode {
    if std::process::id() == 1 {
        snp_device::init::run();
    }
    let Err(error) = snp_device::init::serve();
    println!("snp-device: device failed: {error}");
    ExitCode::FAILURE
}
