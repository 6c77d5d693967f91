//! Collects SNP evidence as the agent does, again and again, and says on the console how it went.
//!
//! It runs as PID 1 behind the test init (`snp-device.run=/snp-collect`); `snp-collect=<n>` on the
//! kernel's command line says how often.

use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

use evidence::{Binding, Channel, Side};
use platform::sev_guest::{DEVICE_PATH, SevGuest};
use platform::{mount, power};

/// Bytes a console line.
const LINE: usize = 256;

fn main() {
    if let Err(error) = run() {
        println!("snp-collect: failed {}", chain(error.as_ref()));
    }
    std::thread::sleep(Duration::from_millis(50));
    let Err(error) = power::power_off();
    println!("snp-collect: {error}");
}

fn run() -> Result<(), Box<dyn Error>> {
    mount::mount_system()?;
    let line = std::fs::read_to_string("/proc/cmdline")?;
    let mut words = line.split_whitespace();
    let count = words.find_map(|word| word.strip_prefix("snp-collect="));
    let count: u32 = count
        .ok_or("no snp-collect= on the command line")?
        .parse()?;
    for attempt in 0..count {
        let binding = binding(attempt);
        dump(attempt, "binding", binding.as_bytes());
        let begun = Instant::now();
        let evidence =
            SevGuest::open(Path::new(DEVICE_PATH)).and_then(|mut guest| guest.report(&binding));
        let took = begun.elapsed().as_millis();
        match evidence {
            Err(error) => println!("snp-collect: {attempt} ms={took} error {}", chain(&error)),
            Ok(evidence) => {
                dump(attempt, "report", &evidence.report);
                let room = evidence.certificates.len();
                dump(
                    attempt,
                    "certificates",
                    without_padding(&evidence.certificates),
                );
                println!("snp-collect: {attempt} ms={took} ok room={room}");
            }
        }
    }
    println!("snp-collect: end");
    Ok(())
}

/// Another one for each attempt.
fn binding(attempt: u32) -> Binding {
    Binding::compute(&Channel {
        attester: Side::Client,
        client_hello: &attempt.to_le_bytes(),
        server_hello: &[],
        client_spki: &[],
        server_spki: &[],
        exporter: &[0; 32],
    })
}

/// The driver hands over the whole buffer.
fn without_padding(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().rposition(|byte| *byte != 0);
    end.and_then(|last| bytes.get(..=last)).unwrap_or_default()
}

fn dump(attempt: u32, name: &str, bytes: &[u8]) {
    for part in bytes.chunks(LINE) {
        println!("snp-collect: {attempt} {name} {}", hex::encode(part));
    }
}

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
