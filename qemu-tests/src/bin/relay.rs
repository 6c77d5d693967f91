//! Carries one connection of a virtual machine to a loopback port of the host.
//!
//! The virtual network of the tests has no way out: QEMU starts this program for each connection
//! to an address it forwards, with the guest's bytes on standard input and output.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::ExitCode;
use std::thread;

fn main() -> ExitCode {
    let Some(stream) = std::env::args()
        .nth(1)
        .and_then(|to| TcpStream::connect(to).ok())
    else {
        // Standard error is the guest's connection too, so there is nothing to say.
        return ExitCode::FAILURE;
    };
    let Ok(to_host) = stream.try_clone() else {
        return ExitCode::FAILURE;
    };
    thread::spawn(move || {
        carry(std::io::stdin().lock(), &to_host);
        // The guest is done sending; the host's answer may still be on its way.
        drop(to_host.shutdown(Shutdown::Write));
    });
    carry(&stream, std::io::stdout().lock());
    ExitCode::SUCCESS
}

/// Copies until either side is done, each piece as soon as it is there.
fn carry(mut from: impl Read, mut to: impl Write) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let piece = buffer.get(..count).unwrap_or_default();
        if to.write_all(piece).and_then(|()| to.flush()).is_err() {
            return;
        }
    }
}
