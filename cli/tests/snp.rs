//! What the `constellation` program says of SEV-SNP: launches and reports.
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
use serde_json::Value;
use std::fs;

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// The vectors' launches, through options and files.
#[test]
fn launch_measurements_agree_with_the_vectors() {
    let vector = |name| vectors::vector(&format!("snp/{name}"));
    let (Some(firmware), Some(expected)) = (
        vector("tests__measurement__ovmf_AmdSev_suffix.bin"),
        vector("expected_launch_digests.json"),
    ) else {
        return;
    };
    let operator = Operator::new();
    fs::write(operator.path("OVMF.fd"), firmware).unwrap();
    fs::write(operator.path("cmdline"), "console=ttyS0 loglevel=7\n").unwrap();
    let expected: Value = serde_json::from_slice(&expected).unwrap();
    let of = |name: &str| {
        let mut cases = expected["cases"].as_array().unwrap().iter();
        let case = cases.find(|case| case["case"] == name).unwrap();
        case["expect_hex"].as_str().unwrap().to_owned()
    };
    let measure = |options: &str| {
        let base = "measure --sev-snp --firmware OVMF.fd --kernel /dev/null --initrd /dev/null";
        json(&operator.ok(&format!("{base} {options} --output json")))
    };
    let printed = measure("--cmdline cmdline --vcpus 1 --vcpu-type EPYC-v4");
    assert_eq!(
        printed["sev_snp"]["measurements"][0],
        of("test_sev_snp_only")
    );
    let printed = measure("--vcpus 4 --vcpu-type EPYC-v4 --guest-features 0x21");
    let launch = &printed["launches"][0];
    assert_eq!(
        launch["measurement"],
        of("test_snp_with_multiple_vcpus_default")
    );
    assert_eq!(
        (&launch["vcpus"], &launch["vcpu_type"]),
        (&4.into(), &"EPYC-v4".into())
    );
}

/// An operator with firmware and an image.
fn operator() -> Operator {
    let operator = Operator::new();
    let parts = Parts {
        stub: &pe(&[(".text", b"code"), (".sdmagic", b"a stub")]),
        kernel_release: "6.12.0",
        cmdline: &Cmdline::parse(b"quiet constellation.evidence=sev-snp").unwrap(),
        initrd: b"initrd",
        kernel: &pe(&[(".text", b"kernel")]),
    };
    fs::write(operator.path("image.efi"), build(&parts).unwrap()).unwrap();
    fs::write(operator.path("OVMF.fd"), Ovmf::new().build()).unwrap();
    operator
}

const CPUS: &str = "--vcpus 1,2,4 --vcpu-type EPYC-Milan,EPYC-Genoa --vcpu-type 0x00b00f00";

#[test]
fn an_image_is_measured_as_its_parts_are() {
    let operator = operator();
    operator.ok("image unpack image.efi --out parts");
    assert_eq!(fs::read(operator.path("parts/initrd")).unwrap(), b"initrd");
    let measure = |what: &str| {
        operator.ok(&format!(
            "measure --sev-snp {what} --firmware OVMF.fd {CPUS} --output json"
        ))
    };
    let image = measure("image.efi");
    let parts = "--kernel parts/kernel --initrd parts/initrd --cmdline parts/cmdline";
    assert_eq!(image, measure(parts));
    let image = json(&image);
    assert_eq!(image["launches"].as_array().unwrap().len(), 9);
    assert_eq!(
        image["sev_snp"]["measurements"].as_array().unwrap().len(),
        9
    );
    let text = operator.ok(&format!(
        "measure --sev-snp image.efi --firmware OVMF.fd {CPUS}"
    ));
    for launch in image["launches"].as_array().unwrap() {
        assert!(
            text.contains(launch["measurement"].as_str().unwrap()),
            "{text}"
        );
    }
}

#[test]
fn launch_measurements_reach_the_reference_values() {
    let operator = operator();
    let measure = format!("measure --sev-snp image.efi --firmware OVMF.fd {CPUS} --output json");
    let measured = operator.ok(&measure);
    fs::write(operator.path("launch.json"), &measured).unwrap();
    let add = "reference-values add rv.json --role worker --measurements launch.json";
    let listed = operator.ok(&format!("{add} --image one"));
    assert!(
        listed.contains("one  worker  9 launch measurements"),
        "{listed}"
    );
    let added = json(&fs::read_to_string(operator.path("rv.json")).unwrap());
    let image = &added["images"][0];
    let measured = json(&measured);
    assert_eq!(
        image["sev_snp"]["measurements"],
        measured["sev_snp"]["measurements"]
    );
    assert_eq!(image.get("pcrs"), None);
    let error = operator.refused(&format!("{add} --image two --measurements launch.json"));
    assert!(error.contains("same kind"), "{error}");
}

#[test]
fn what_is_not_a_launch_is_refused() {
    let operator = operator();
    // Firmware that checks no hashes, and a file that is no firmware.
    let unchecked = Ovmf::new().without(ovmf::HASH_TABLE_GUID).build();
    fs::write(operator.path("unchecked.fd"), unchecked).unwrap();
    let measure = "measure --sev-snp image.efi --vcpus 1 --vcpu-type EPYC --firmware";
    let error = operator.refused(&format!("{measure} unchecked.fd"));
    assert!(error.contains("it would start any kernel"), "{error}");
    let error = operator.refused(&format!("{measure} image.efi"));
    assert!(error.contains("hint:"), "{error}");
    let error = operator.refused(&format!("{measure} OVMF.fd --guest-features 0x20"));
    assert!(error.contains("lack bit 0"), "{error}");
    fs::write(operator.path("cmdline"), "a  b").unwrap();
    let error = operator.refused(
        "measure --sev-snp --kernel image.efi --cmdline cmdline --vcpus 1 --vcpu-type EPYC \
         --firmware OVMF.fd",
    );
    assert!(error.contains("command line"), "{error}");
    for wrong in [
        "measure --sev-snp image.efi --firmware OVMF.fd --vcpus 1",
        "measure --sev-snp image.efi --firmware OVMF.fd --vcpu-type EPYC",
        "measure --sev-snp image.efi --vcpus 1 --vcpu-type EPYC",
        "measure --sev-snp --firmware OVMF.fd --vcpus 1 --vcpu-type EPYC",
        "measure --sev-snp image.efi --firmware OVMF.fd --vcpus 0 --vcpu-type EPYC",
        "measure --sev-snp image.efi --firmware OVMF.fd --vcpus 1 --vcpu-type EPYC-Rom",
        "measure --sev-snp image.efi --kernel image.efi --firmware OVMF.fd --vcpus 1 --vcpu-type EPYC",
        "measure image.efi --vcpus 1",
        "measure --kernel image.efi",
        "measure",
    ] {
        let output = operator.run(wrong);
        assert_eq!(output.status.code(), Some(2), "{wrong}");
    }
}
