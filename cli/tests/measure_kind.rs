//! `constellation measure` against the kind of evidence in an image's command line.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot run the program fails"
)]

#[path = "support/operator.rs"]
mod operator;
#[path = "../../crates/measure/tests/support/ovmf.rs"]
mod ovmf;
#[path = "../../crates/measure/tests/support/pe_file.rs"]
mod pe_file;

use measure::{
    cmdline::Cmdline,
    uki::{Parts, build},
};
use operator::Operator;
use ovmf::Ovmf;
use pe_file::pe;
use std::fs;

/// What keeps root on a node from a second key is its kind's alone, so that an image must not be
/// accepted as another kind than its command line says.
#[test]
fn an_image_is_measured_as_what_it_attests_with() {
    let operator = Operator::new();
    fs::write(operator.path("OVMF.fd"), Ovmf::new().build()).unwrap();
    let pcrs_only = "PCRs are for `tpm` and `azure-sev-snp`";
    let write = |evidence: &str| {
        let cmdline = format!("quiet constellation.evidence={evidence}");
        let parts = Parts {
            stub: &pe(&[
                (".text", b"code"),
                (".sdmagic", b"#### LoaderInfo: systemd-stub 254.26-1 ####"),
            ]),
            kernel_release: "6.12.0",
            cmdline: &Cmdline::parse(cmdline.as_bytes()).unwrap(),
            initrd: b"initrd",
            kernel: &pe(&[(".text", b"kernel")]),
        };
        fs::write(operator.path("image.efi"), build(&parts).unwrap()).unwrap();
        fs::write(operator.path("cmdline"), cmdline).unwrap();
        fs::write(operator.path("kernel"), b"kernel").unwrap();
    };
    const CPUS: &str = "--firmware OVMF.fd --vcpus 1 --vcpu-type EPYC-Milan";
    let of_launch = format!("measure --sev-snp image.efi {CPUS}");
    let of_parts = format!("measure --sev-snp --kernel kernel --cmdline cmdline {CPUS}");
    for evidence in ["sev-snp", "sev-snp-vtpm"] {
        write(evidence);
        operator.ok(&of_launch);
        operator.ok(&of_parts);
        let error = operator.fails("measure image.efi");
        assert!(error.contains(pcrs_only), "{error}");
    }
    for evidence in ["tpm", "azure-sev-snp"] {
        write(evidence);
        operator.ok("measure image.efi");
        for launch in [&of_launch, &of_parts] {
            let error = operator.fails(launch);
            assert!(error.contains(pcrs_only), "{error}");
        }
    }
    write("none");
    assert!(
        operator
            .fails("measure image.efi")
            .contains("evidence=none")
    );
    assert!(operator.fails(&of_launch).contains("evidence=none"));
}
