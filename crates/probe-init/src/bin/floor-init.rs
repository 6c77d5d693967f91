//! An init that only powers off: what a boot costs before any init does anything.

use rustix::system::{RebootCommand, reboot};

fn main() {
    if let Err(error) = reboot(RebootCommand::PowerOff) {
        println!("floor: power off: {error}");
    }
}
