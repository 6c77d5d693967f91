//! Launch measurements: the shared vectors, the `sev` crate as an oracle, and hostile firmware.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "support/ovmf.rs"]
mod ovmf;

use measure::sev_snp::{
    Firmware, FirmwareError, KernelHashes, LaunchConfig, LaunchError, VcpuSignature, Vmm,
};
use ovmf::{
    CPUID, HASH_TABLE_GUID, HASHES, MEMORY, METADATA_GUID, Ovmf, RESET_GUID, SECRETS, words,
};
use serde_json::Value;
use sev::measurement::{
    snp::{SnpMeasurementArgs, snp_calc_launch_digest},
    vcpu_types::CpuType,
    vmsa::{GuestFeatures, VMMType},
};
use std::fs;

/// A file of the vectors; `None`, said aloud, where there are none.
fn vector(name: &str) -> Option<Vec<u8>> {
    vectors::vector(&format!("snp/{name}"))
}

fn firmware(name: &str) -> Option<Vec<u8>> {
    vector(&format!("tests__measurement__{name}"))
}

/// What a case of the vectors asks for.
fn launch(case: &Value, firmware: &[u8]) -> Result<[u8; 48], LaunchError> {
    let text = |key: &str| case[key].as_str();
    let number = text("guest_features").unwrap().strip_prefix("0x").unwrap();
    let vmm = match text("vmm_type") {
        Some("EC2") => Vmm::Ec2,
        None | Some("QEMU") => Vmm::Qemu,
        other => panic!("{other:?}"),
    };
    assert_eq!(text("vcpu_type"), Some("EpycV4"));
    let config = LaunchConfig {
        firmware: Firmware::parse(firmware).unwrap(),
        // Every case has `/dev/null` for both files, or no kernel.
        kernel: text("kernel")
            .map(|_| KernelHashes::of(b"", b"", text("append").unwrap_or_default())),
        guest_features: u64::from_str_radix(number, 16).unwrap(),
        vmm,
    };
    let vcpus = text("vcpus").unwrap().parse().unwrap();
    config
        .prepare()?
        .measurement(vcpus, "EPYC-v4".parse().unwrap())
}

#[test]
fn every_launch_of_the_vectors_has_the_measurement_they_say() {
    let Some(expected) = vector("expected_launch_digests.json") else {
        return;
    };
    let expected: Value = serde_json::from_slice(&expected).unwrap();
    let cases = expected["cases"].as_array().unwrap();
    assert!(cases.len() >= 15);
    for case in cases {
        let name = case["case"].as_str().unwrap();
        let firmware = firmware(case["ovmf"].as_str().unwrap()).unwrap();
        let measured = launch(case, &firmware);
        match case["expect_hex"].as_str() {
            Some(digest) => assert_eq!(hex::encode(measured.unwrap()), digest, "{name}"),
            None => assert_eq!(measured, Err(LaunchError::NoKernelHashes), "{name}"),
        }
    }
}

/// The same launches by the `sev` crate.
#[test]
fn another_implementation_agrees() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let (kernel, initrd) = (vec![0x5a; 70_000], vec![0xa5; 5]);
    let cmdline = "console=ttyS0 constellation.evidence=sev-snp";
    let bytes = Ovmf::new().build();
    let (ovmf, kernel_file) = (file("OVMF.fd", &bytes), file("kernel", &kernel));
    let initrd_file = file("initrd", &initrd);
    for (vcpus, name, cpu, features, vmm, oracle_vmm) in [
        (1, "EPYC", CpuType::Epyc, 0x1, Vmm::Qemu, VMMType::QEMU),
        (
            2,
            "EPYC-Rome-v3",
            CpuType::EpycRomeV3,
            0x21,
            Vmm::Qemu,
            VMMType::QEMU,
        ),
        (
            7,
            "EPYC-Milan-v2",
            CpuType::EpycMilanV2,
            0x1,
            Vmm::Qemu,
            VMMType::QEMU,
        ),
        (
            64,
            "EPYC-Genoa",
            CpuType::EpycGenoa,
            0x25,
            Vmm::Qemu,
            VMMType::QEMU,
        ),
        (
            255,
            "EPYC-Turin-v1",
            CpuType::EpycTurinV1,
            0x1,
            Vmm::Qemu,
            VMMType::QEMU,
        ),
        (
            3,
            "EPYC-Milan",
            CpuType::EpycMilan,
            0x1,
            Vmm::Ec2,
            VMMType::EC2,
        ),
    ] {
        for with_kernel in [true, false] {
            let oracle = snp_calc_launch_digest(SnpMeasurementArgs {
                vcpus,
                vcpu_type: cpu,
                ovmf_file: ovmf.clone(),
                guest_features: GuestFeatures(features),
                kernel_file: with_kernel.then(|| kernel_file.clone()),
                initrd_file: with_kernel.then(|| initrd_file.clone()),
                append: with_kernel.then_some(cmdline),
                ovmf_hash_str: None,
                vmm_type: Some(oracle_vmm),
            });
            let config = LaunchConfig {
                firmware: Firmware::parse(&bytes).unwrap(),
                kernel: with_kernel.then(|| KernelHashes::of(&kernel, &initrd, cmdline)),
                guest_features: features,
                vmm,
            };
            let signature: VcpuSignature = name.parse().unwrap();
            let ours = config.prepare().unwrap().measurement(vcpus, signature);
            let ours = hex::encode(ours.unwrap());
            assert_eq!(ours, oracle.unwrap().get_hex_ld(), "{vcpus} {name}");
        }
    }
}

/// Everything that the measurement must tell apart.
#[test]
fn every_input_changes_the_measurement() {
    let measure = |ovmf: &Ovmf, kernel, features, vmm, vcpus, cpu: &str| {
        let bytes = ovmf.build();
        let config = LaunchConfig {
            firmware: Firmware::parse(&bytes).unwrap(),
            kernel,
            guest_features: features,
            vmm,
        };
        let prepared = config.prepare().unwrap();
        prepared.measurement(vcpus, cpu.parse().unwrap()).unwrap()
    };
    let ovmf = Ovmf::new();
    let kernel =
        |kernel: &[u8], initrd: &[u8], cmdline| Some(KernelHashes::of(kernel, initrd, cmdline));
    let plain = kernel(b"k", b"i", "c");
    let mut moved = ovmf.clone();
    moved.sections[0].0 += 0x1000;
    moved.sections[0].1 -= 0x1000;
    let mut larger = ovmf.clone();
    larger.size += 0x1000;
    let shifted = ovmf
        .clone()
        .entry(HASH_TABLE_GUID, words(&[0x81_0d00, 0x200]));
    let other_entry = ovmf.clone().entry(RESET_GUID, words(&[0x80_c004]));
    let mut all = vec![
        measure(&ovmf, plain, 1, Vmm::Qemu, 2, "EPYC"),
        measure(&ovmf, None, 1, Vmm::Qemu, 2, "EPYC"),
        measure(&ovmf, kernel(b"K", b"i", "c"), 1, Vmm::Qemu, 2, "EPYC"),
        measure(&ovmf, kernel(b"k", b"I", "c"), 1, Vmm::Qemu, 2, "EPYC"),
        measure(&ovmf, kernel(b"k", b"i", "C"), 1, Vmm::Qemu, 2, "EPYC"),
        measure(&ovmf, kernel(b"k", b"", "c"), 1, Vmm::Qemu, 2, "EPYC"),
        measure(&ovmf, kernel(b"k", b"i", ""), 1, Vmm::Qemu, 2, "EPYC"),
        measure(&ovmf, plain, 0x21, Vmm::Qemu, 2, "EPYC"),
        measure(&ovmf, plain, 1, Vmm::Ec2, 2, "EPYC"),
        measure(&ovmf, plain, 1, Vmm::Qemu, 1, "EPYC"),
        measure(&ovmf, plain, 1, Vmm::Qemu, 3, "EPYC"),
        measure(&ovmf, plain, 1, Vmm::Qemu, 2, "EPYC-Milan"),
        measure(&moved, plain, 1, Vmm::Qemu, 2, "EPYC"),
        measure(&larger, plain, 1, Vmm::Qemu, 2, "EPYC"),
        measure(&shifted, plain, 1, Vmm::Qemu, 2, "EPYC"),
        measure(&other_entry, plain, 1, Vmm::Qemu, 2, "EPYC"),
    ];
    let count = all.len();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), count);
}

#[test]
fn launches_that_cannot_be_are_refused() {
    let bytes = Ovmf::new().build();
    let config = LaunchConfig {
        firmware: Firmware::parse(&bytes).unwrap(),
        kernel: None,
        guest_features: 1,
        vmm: Vmm::Qemu,
    };
    let epyc: VcpuSignature = "EPYC".parse().unwrap();
    let prepared = config.prepare().unwrap();
    for got in [0, 4097, u32::MAX] {
        assert_eq!(
            prepared.measurement(got, epyc),
            Err(LaunchError::Vcpus { got })
        );
    }
    prepared.measurement(4096, epyc).unwrap();
    let no_snp = LaunchConfig {
        guest_features: 0x20,
        ..config
    };
    let got = 0x20;
    assert_eq!(
        no_snp.prepare().unwrap_err(),
        LaunchError::GuestFeatures { got }
    );

    let bytes = Ovmf::new().without(RESET_GUID).build();
    let no_reset = LaunchConfig {
        firmware: Firmware::parse(&bytes).unwrap(),
        ..config
    };
    let prepared = no_reset.prepare().unwrap();
    prepared.measurement(1, epyc).unwrap();
    assert_eq!(
        prepared.measurement(2, epyc),
        Err(LaunchError::NoResetBlock)
    );

    for ovmf in [
        Ovmf::new().without(HASH_TABLE_GUID),
        Ovmf::new().entry(HASH_TABLE_GUID, words(&[0, 0])),
    ] {
        let bytes = ovmf.build();
        let no_hashes = LaunchConfig {
            firmware: Firmware::parse(&bytes).unwrap(),
            kernel: Some(KernelHashes::of(b"", b"", "")),
            ..config
        };
        assert_eq!(
            no_hashes.prepare().unwrap_err(),
            LaunchError::NoKernelHashes
        );
    }
}

/// The error of parsing a firmware.
fn refusal(ovmf: &Ovmf) -> FirmwareError {
    Firmware::parse(&ovmf.build()).unwrap_err()
}

#[test]
fn firmware_tables_are_read_within_the_file() {
    let ovmf = Ovmf::new();
    let missing = |field| FirmwareError::Missing { field };
    let truncated = |field| FirmwareError::Truncated { field };
    assert_eq!(
        refusal(&ovmf.clone().without(METADATA_GUID)),
        missing("SEV metadata")
    );
    for guid in [METADATA_GUID, RESET_GUID, HASH_TABLE_GUID] {
        let mut twice = ovmf.clone();
        let entry = twice.entries.iter().find(|(name, _)| *name == guid);
        let entry = entry.unwrap().clone();
        twice.entries.push(entry);
        assert!(
            matches!(refusal(&twice), FirmwareError::Duplicate { .. }),
            "{guid}"
        );
        let short = ovmf.clone().entry(guid, vec![1; 3]);
        assert!(
            matches!(refusal(&short), FirmwareError::Truncated { .. }),
            "{guid}"
        );
    }
    for from_end in [0x10001, u32::MAX, 3, 0] {
        let outside = ovmf.clone().entry(METADATA_GUID, words(&[from_end]));
        assert_eq!(
            refusal(&outside),
            truncated("SEV metadata"),
            "{from_end:#x}"
        );
    }
    // The table's own length, then that of its first and its last entry.
    let file = ovmf.build();
    let footer = file.len() - 32 - 18;
    for length in [0_u16, 17, u16::MAX] {
        let mut file = file.clone();
        file[footer..footer + 2].copy_from_slice(&length.to_le_bytes());
        assert_eq!(
            Firmware::parse(&file).unwrap_err(),
            truncated("GUID table"),
            "{length}"
        );
    }
    for length in [0_u16, 17, 200, u16::MAX] {
        let mut file = file.clone();
        file[footer - 18..footer - 16].copy_from_slice(&length.to_le_bytes());
        let expected = truncated("entry of the GUID table");
        assert_eq!(Firmware::parse(&file).unwrap_err(), expected, "{length}");
    }
    let mut no_footer = file.clone();
    no_footer[footer + 2] ^= 1;
    let expected = missing("footer of the GUID table");
    assert_eq!(Firmware::parse(&no_footer).unwrap_err(), expected);
}

#[test]
fn sections_are_understood_or_refused() {
    let change = |change: &dyn Fn(&mut Ovmf)| {
        let mut ovmf = Ovmf::new();
        change(&mut ovmf);
        refusal(&ovmf)
    };
    let unknown = change(&|ovmf| ovmf.sections[1].2 = 5);
    assert_eq!(unknown, FirmwareError::UnknownSection { index: 1, got: 5 });
    let overlap = change(&|ovmf| ovmf.sections[1].0 = 0x80_8000);
    assert_eq!(overlap, FirmwareError::Overlap { index: 1 });
    for (address, size) in [(0x80_0800, 0x1000), (0x80_0000, 0x800), (0x80_0000, 0)] {
        let error = change(&|ovmf| ovmf.sections[0] = (address, size, MEMORY));
        assert!(matches!(error, FirmwareError::Unaligned { .. }), "{error}");
    }
    let wraps = change(&|ovmf| ovmf.sections[0] = (0xffff_f000, 0x2000, MEMORY));
    assert!(matches!(wraps, FirmwareError::Truncated { .. }), "{wraps}");
    for (index, change_to) in [
        (2, (0x81_3000, 0x2000, SECRETS)),
        (3, (0x81_3000, 0x2000, CPUID)),
        (5, (0x81_0000, 0x1000, MEMORY)),
        (4, (0x80_f000, 0x1000, HASHES)),
        (0, (0x1000_0000, 0x2000_0000, MEMORY)),
    ] {
        let error = change(&|ovmf| ovmf.sections[index] = change_to);
        let refused = matches!(
            error,
            FirmwareError::Limit { .. }
                | FirmwareError::Missing { .. }
                | FirmwareError::Duplicate { .. }
        );
        assert!(refused, "{change_to:?}: {error}");
    }
    for (index, value) in [
        (0, 0x1234),
        (1, 0),
        (1, 0x1000),
        (2, 0),
        (2, 2),
        (3, 0),
        (3, 33),
        (3, u32::MAX),
    ] {
        let error = change(&|ovmf| ovmf.metadata_header[index] = Some(value));
        let refused = matches!(
            error,
            FirmwareError::Unexpected { .. } | FirmwareError::Limit { .. }
        );
        assert!(refused, "{index} {value}: {error}");
    }
    for (address, size) in [
        (0x80_ffff, 0x400), // before its page
        (0x81_0f80, 0x100), // across its end
        (0x81_1000, 0x100), // behind it
        (0x81_0000, 0xaf),  // too small
        (0x81_0000, 0x1001),
        (0xffff_ffff, u32::MAX),
    ] {
        let error = change(&|ovmf| {
            *ovmf = ovmf.clone().entry(HASH_TABLE_GUID, words(&[address, size]));
        });
        let refused = matches!(
            error,
            FirmwareError::Truncated { .. } | FirmwareError::Limit { .. }
        );
        assert!(refused, "{address:#x} {size:#x}: {error}");
    }
}

#[test]
fn any_bytes_give_an_answer() {
    let file = Ovmf::new().build();
    for size in [0, 1, 18, 50, 4095, 4097, 16 << 20 | 1, 17 << 20] {
        assert!(Firmware::parse(&vec![0; size]).is_err(), "{size}");
    }
    // The smallest file that holds the tables, with every byte of them changed.
    for pages in 1..16 {
        Firmware::parse(&file[file.len() - pages * 4096..]).unwrap();
        assert!(Firmware::parse(&file[..pages * 4096]).is_err());
    }
    let measure = |bytes: &[u8]| {
        let config = LaunchConfig {
            firmware: Firmware::parse(bytes).ok()?,
            kernel: Some(KernelHashes::of(b"", b"", "")),
            guest_features: 1,
            vmm: Vmm::Qemu,
        };
        let prepared = config.prepare().ok()?;
        prepared.measurement(2, "EPYC".parse().unwrap()).ok()
    };
    let page = &file[file.len() - 4096..];
    let right = measure(page);
    assert!(right.is_some());
    for at in 0xc00..4096 - 32 {
        for flip in [1, 0x80, 0xff] {
            let mut changed = page.to_vec();
            changed[at] ^= flip;
            assert_ne!(measure(&changed), right, "{at:#x}");
        }
    }
}
