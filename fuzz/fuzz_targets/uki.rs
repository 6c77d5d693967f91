//! Images and firmware an operator was given.
#![no_main]
use fuzz::got_through;
use libfuzzer_sys::fuzz_target;
use measure::sev_snp::{Firmware, KernelHashes, LaunchConfig, VcpuSignature, Vmm};

fuzz_target!(|data: &[u8]| got_through(run(data)));

fn run(data: &[u8]) -> bool {
    let predicted = measure::predict::predict(data).is_ok();
    let owned = measure::uki::own(data, &[1; 32]).is_ok();
    let firmware = Firmware::parse(data);
    if let Ok(firmware) = firmware {
        launch(firmware);
        return true;
    }
    predicted && owned
}

/// Any firmware that parses has a measurement, or says why not.
fn launch(firmware: Firmware<'_>) {
    for vmm in [Vmm::Qemu, Vmm::Ec2] {
        let config = LaunchConfig {
            firmware,
            kernel: Some(KernelHashes::of(b"kernel", b"initrd", "cmdline")),
            guest_features: 1,
            vmm,
        };
        if let Ok(prepared) = config.prepare() {
            drop(prepared.measurement(2, VcpuSignature::new(25, 1, 1)));
        }
    }
}
