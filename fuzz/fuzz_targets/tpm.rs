//! What a TPM, or somebody who claims to be one, sends: quote, signature, keys, event log.
#![no_main]
use fuzz::got_through;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((which, data)) = data.split_first() else {
        return;
    };
    match which % 6 {
        0 => got_through(tpm::Quote::parse(data).is_ok()),
        1 => got_through(tpm::Signature::parse(data).is_ok()),
        2 => got_through(tpm::Public::parse(data).is_ok()),
        3 => got_through(tpm::AttestationKey::parse(data).is_ok()),
        4 => got_through(tpm::EndorsementKey::parse(data).is_ok()),
        _ => {
            let log = tpm::EventLog::parse(data);
            got_through(log.is_ok());
            if let Ok(log) = log {
                for (pcr, value) in log.replay() {
                    drop(log.explain(pcr, &value, &[]));
                }
            }
        }
    }
});
