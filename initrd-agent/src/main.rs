//! `/init` of the initramfs. On a running system: `initrd-agent probe`.

use std::process::ExitCode;

fn main() -> ExitCode {
    if std::process::id() == 1 {
        initrd_agent::boot::run();
    }
    match std::env::args().skip(1).collect::<Vec<_>>().as_slice() {
        [verb] if verb == "probe" => initrd_agent::probe::run(),
        _ => {
            eprintln!(
                "initrd-agent runs as PID 1 of an initramfs\n\nhint: `initrd-agent probe` shows what it would find on this machine"
            );
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}
