//! Hints of the host, and the measured command line.
#![no_main]
use fuzz::got_through;
use initrd_agent::{cmdline::CommandLine, hints::Hints};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| got_through(run(data)));

fn run(data: &[u8]) -> bool {
    let Some((which, data)) = data.split_first() else {
        return false;
    };
    if which % 2 == 0 {
        let mut whole = true;
        let hints = Hints::parse(data, |_| whole = false);
        hints.is_ok() && whole
    } else {
        CommandLine::parse(data).is_ok()
    }
}
