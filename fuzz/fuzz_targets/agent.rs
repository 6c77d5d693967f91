//! Hints of the host, and the measured command line.
#![no_main]
use initrd_agent::{cmdline::CommandLine, hints::Hints};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((which, data)) = data.split_first() else {
        return;
    };
    if which % 2 == 0 {
        drop(Hints::parse(data, |_| {}));
    } else {
        drop(CommandLine::parse(data));
    }
});
