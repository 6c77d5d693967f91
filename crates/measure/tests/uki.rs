//! Building, owning and predicting, with PE files made here.

#![allow(clippy::unwrap_used, reason = "a failing helper fails its test")]

#[path = "support/pe_file.rs"]
mod pe_file;

use measure::{
    cmdline::{Cmdline, CmdlineError},
    pcr::sha256,
    pe::{Pe, PeError},
    predict::{PredictError, events, predict},
    uki::{Parts, Uki, UkiError, build, own},
};
use pe_file::{COFF, OPTIONAL, TABLE, pe, put};
use std::{fs, path::Path, process::Command};

const MAGIC: &[u8] = b"#### LoaderInfo: systemd-stub 254.26-1 ####";

fn stub() -> Vec<u8> {
    pe(&[
        (".text", b"code"),
        (".sdmagic", MAGIC),
        (".sbat", b"sbat,1"),
    ])
}

fn uki_of(stub: &[u8], cmdline: &str, initrd: &[u8]) -> Vec<u8> {
    let parts = Parts {
        stub,
        kernel_release: "6.12.0",
        cmdline: &Cmdline::parse(cmdline.as_bytes()).unwrap(),
        initrd,
        kernel: &pe(&[(".text", b"kernel")]),
    };
    build(&parts).unwrap()
}

fn uki(cmdline: &str) -> Vec<u8> {
    uki_of(&stub(), cmdline, b"initrd")
}

#[test]
fn equal_parts_give_equal_bytes_without_time_stamp_and_checksum() {
    let file = uki("quiet");
    assert_eq!(file, uki("quiet"));
    assert_eq!(file[COFF + 4..COFF + 16], [0; 12]);
    assert_eq!(file[OPTIONAL + 64..OPTIONAL + 68], [0; 4]);
    let parsed = Uki::parse(&file).unwrap();
    assert_eq!(parsed.cmdline().as_str(), "quiet");
    assert_eq!(parsed.section(".initrd").unwrap(), b"initrd");
    assert_eq!(parsed.section(".uname").unwrap(), b"6.12.0");
}

#[test]
fn owning_changes_the_owner_and_nothing_else() {
    let published = uki("quiet constellation.evidence=tpm");
    let owned = own(&published, &[0xab; 32]).unwrap();
    let cmdline = format!(
        "quiet constellation.evidence=tpm constellation.owner={}",
        "ab".repeat(32)
    );
    assert_eq!(owned, uki(&cmdline));
    let other = own(&owned, &[0xcd; 32]).unwrap();
    assert_eq!(other, uki(&cmdline.replace("ab", "cd")));
    assert_eq!(own(&other, &[0xab; 32]).unwrap(), owned);
}

#[test]
fn owning_replaces_the_word_where_it_stands() {
    let owned = own(&uki("constellation.owner=00 quiet"), &[1; 32]).unwrap();
    let owned = Uki::parse(&owned).unwrap();
    let expected = format!("constellation.owner={} quiet", "01".repeat(32));
    assert_eq!(owned.cmdline().as_str(), expected);
}

#[test]
fn refuses_to_own_an_image_that_something_else_has_changed() {
    let mut file = uki("quiet");
    file.extend_from_slice(b"trailing");
    assert_eq!(own(&file, &[1; 32]).unwrap_err(), UkiError::NotCanonical);
    let mut file = uki("quiet");
    let time_stamp = COFF + 4;
    file[time_stamp] = 1;
    assert_eq!(own(&file, &[1; 32]).unwrap_err(), UkiError::NotCanonical);
    let mut file = uki("quiet");
    let release = file.windows(6).position(|bytes| bytes == b"6.12.0");
    let padding = release.unwrap() + 6;
    file[padding] = 1;
    assert_eq!(own(&file, &[1; 32]).unwrap_err(), UkiError::NotCanonical);
}

#[test]
fn refuses_command_lines_that_readers_split_differently() {
    let long = "a".repeat(2049);
    for (text, expected) in [
        ("a  b", CmdlineError::Byte { offset: 2 }),
        (" a", CmdlineError::Byte { offset: 0 }),
        ("a ", CmdlineError::Byte { offset: 1 }),
        ("a\n", CmdlineError::Byte { offset: 1 }),
        ("a\0", CmdlineError::Byte { offset: 1 }),
        ("a=\"b c\"", CmdlineError::Byte { offset: 2 }),
        ("a\tb", CmdlineError::Byte { offset: 1 }),
        ("grün", CmdlineError::Byte { offset: 2 }),
        (long.as_str(), CmdlineError::Length { got: 2049 }),
        (
            "constellation.owner=1 constellation.owner=1",
            CmdlineError::SecondOwner,
        ),
    ] {
        assert_eq!(
            Cmdline::parse(text.as_bytes()).unwrap_err(),
            expected,
            "{text:?}"
        );
    }
    let line = Cmdline::parse(b"a=1 b=x=y quiet").unwrap();
    assert_eq!((line.value("b"), line.value("quiet")), (Some("x=y"), None));
}

#[test]
fn predicts_the_events_in_the_order_of_a_real_boot() {
    let file = uki("quiet");
    let events = events(&file).unwrap();
    let names: Vec<&str> = events[&4].iter().map(|event| event.name.as_str()).collect();
    assert_eq!(
        names[1..],
        ["separator", "unified kernel image", "kernel in it"]
    );
    assert_eq!(events[&9][0].digest, sha256(b"q\0u\0i\0e\0t\0\0\0"));
    assert_eq!(events[&9][1].digest, sha256(b"initrd"));
    assert_eq!(events[&11][0].digest, sha256(b".linux\0"));
    assert_eq!(events[&11][3].digest, sha256(b"quiet"));
    assert_eq!(events[&11].len(), 10);
}

#[test]
fn every_change_of_the_image_changes_a_prediction() {
    let original = predict(&uki("quiet")).unwrap();
    let changed = predict(&uki("quiet single")).unwrap();
    assert_ne!(
        (original.pcr4, original.pcr9, original.pcr11),
        (changed.pcr4, changed.pcr9, changed.pcr11)
    );
    let changed = predict(&uki_of(&stub(), "quiet", b"initrd+")).unwrap();
    assert_ne!(original.pcr9, changed.pcr9);
    assert_ne!(original.pcr11, changed.pcr11);
    let mut other_stub = stub();
    other_stub[0x400] ^= 1;
    let changed = predict(&uki_of(&other_stub, "quiet", b"initrd")).unwrap();
    assert_ne!(original.pcr4, changed.pcr4);
    assert_eq!(original.pcr11, changed.pcr11);
}

#[test]
fn predicts_nothing_for_a_stub_or_section_it_does_not_know() {
    let older = pe(&[(".sdmagic", b"#### LoaderInfo: systemd-stub 252.39 ####")]);
    let error = predict(&uki_of(&older, "quiet", b"i")).unwrap_err();
    assert!(matches!(error, PredictError::Stub { got } if got.contains("252.39")));
    let none = pe(&[(".text", b"code")]);
    let error = predict(&uki_of(&none, "quiet", b"i")).unwrap_err();
    assert!(matches!(error, PredictError::Stub { .. }));
    for name in [".pcrpkey", ".ucode", ".dtb", ".profile"] {
        let with_extra = pe(&[
            (".sdmagic", MAGIC),
            (".uname", b"u"),
            (".cmdline", b"quiet"),
            (".initrd", b"i"),
            (".linux", &pe(&[(".text", b"kernel")])),
            (name, b"x"),
        ]);
        let refused = Uki::parse(&with_extra).unwrap_err();
        assert_eq!(
            refused,
            UkiError::UnknownSection {
                name: name.to_owned()
            }
        );
    }
    // Before ours a section counts as the stub's, and the stub would still read it.
    let hidden = pe(&[(".sdmagic", MAGIC), (".pcrpkey", b"key")]);
    let error = Uki::parse(&uki_of(&hidden, "quiet", b"i")).unwrap_err();
    assert_eq!(
        error,
        UkiError::UnknownSection {
            name: ".pcrpkey".to_owned()
        }
    );
}

#[test]
fn refuses_a_section_that_is_missing_or_there_twice() {
    let missing = pe(&[(".uname", b"u"), (".cmdline", b"c"), (".linux", b"k")]);
    assert_eq!(
        Uki::parse(&missing).unwrap_err(),
        UkiError::Missing { name: ".initrd" }
    );
    let twice = uki_of(&pe(&[(".sdmagic", MAGIC), (".sbat", b"s")]), "quiet", b"i");
    let mut twice = twice;
    put(&mut twice, TABLE + 40, b".cmdline");
    assert_eq!(
        Uki::parse(&twice).unwrap_err(),
        UkiError::Missing { name: ".cmdline" }
    );
}

#[test]
fn refuses_truncation_at_every_offset_and_survives_any_flipped_header_bit() {
    let file = uki("quiet");
    for length in 0..file.len() {
        assert!(Uki::parse(&file[..length]).is_err(), "{length} bytes");
    }
    for bit in 0..0x400 * 8 {
        let mut flipped = file.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        // Whatever it says, it returns; and what it accepts it measures differently in PCR 4,
        // unless only what Authenticode leaves out has changed: checksum, certificate entry.
        let checksum = OPTIONAL + 64..OPTIONAL + 68;
        let certificates = OPTIONAL + 144..OPTIONAL + 152;
        let excluded = checksum.contains(&(bit / 8)) || certificates.contains(&(bit / 8));
        if let Ok(changed) = predict(&flipped) {
            assert!(
                excluded || changed.pcr4 != predict(&file).unwrap().pcr4,
                "bit {bit}"
            );
        }
    }
}

#[test]
fn names_what_is_wrong_with_a_pe_file() {
    let change = |offset: usize, value: &[u8]| {
        let mut file = stub();
        put(&mut file, offset, value);
        Pe::parse(&file).unwrap_err()
    };
    let unexpected = |field, expected, got| PeError::Unexpected {
        field,
        expected,
        got,
    };
    assert_eq!(change(0, b"ZM"), unexpected("e_magic", 0x5a4d, 0x4d5a));
    assert_eq!(
        change(COFF, &[0x4c, 1]),
        unexpected("Machine", 0x8664, 0x14c)
    );
    assert_eq!(
        change(OPTIONAL, &[0x0b, 1]),
        unexpected("Magic", 0x20b, 0x10b)
    );
    let limit = |field, limit, got| PeError::Limit { field, limit, got };
    assert_eq!(
        change(COFF + 2, &[33, 0]),
        limit("NumberOfSections", 32, 33)
    );
    assert_eq!(
        change(OPTIONAL + 108, &[17]),
        limit("NumberOfRvaAndSizes", 16, 17)
    );
    assert_eq!(
        change(COFF + 2, &[20, 0]),
        limit("section table", 0x400, TABLE + 800)
    );
    // The second section moved onto the first one.
    assert_eq!(
        change(TABLE + 40 + 12, &0x1000_u32.to_le_bytes()),
        PeError::Layout { index: 1 }
    );
    let truncated = PeError::Truncated {
        field: "section data",
    };
    assert_eq!(change(TABLE + 20, &u32::MAX.to_le_bytes()), truncated);
}

#[test]
fn refuses_a_signed_stub_and_one_without_room() {
    let cmdline = Cmdline::parse(b"quiet").unwrap();
    let build_with = |stub: &[u8]| {
        let parts = Parts {
            stub,
            kernel_release: "6",
            cmdline: &cmdline,
            initrd: b"i",
            kernel: b"k",
        };
        build(&parts).unwrap_err()
    };
    let mut signed = stub();
    put(&mut signed, OPTIONAL + 112 + 32, &0x400_u32.to_le_bytes());
    put(&mut signed, OPTIONAL + 112 + 36, &8_u32.to_le_bytes());
    assert_eq!(build_with(&signed), UkiError::Pe(PeError::Signed));
    let names: Vec<String> = (0..14).map(|index| format!(".s{index}")).collect();
    let sections: Vec<(&str, &[u8])> = names
        .iter()
        .map(|name| (name.as_str(), &b"x"[..]))
        .collect();
    assert_eq!(
        build_with(&pe(&sections)),
        UkiError::Pe(PeError::NoRoom { sections: 18 })
    );
}

#[test]
fn leaves_signature_and_checksum_out_of_the_authenticode_digest() {
    let plain = stub();
    let digest = Pe::parse(&plain).unwrap().authenticode_sha256().unwrap();
    let mut signed = plain.clone();
    put(&mut signed, OPTIONAL + 64, &0x1234_u32.to_le_bytes());
    put(
        &mut signed,
        OPTIONAL + 112 + 32,
        &u32::try_from(plain.len()).unwrap().to_le_bytes(),
    );
    put(&mut signed, OPTIONAL + 112 + 36, &16_u32.to_le_bytes());
    signed.extend_from_slice(&[0x5a; 16]);
    assert_eq!(
        Pe::parse(&signed).unwrap().authenticode_sha256().unwrap(),
        digest
    );
    let mut changed = plain;
    changed[0x401] ^= 1;
    assert_ne!(
        Pe::parse(&changed).unwrap().authenticode_sha256().unwrap(),
        digest
    );
}

/// `systemd-measure` is the independent computation of PCR 11 by the authors of the stub.
#[test]
fn agrees_with_systemd_measure() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let program = workspace.join("target/tools/bin/systemd-measure");
    assert!(program.exists(), "run `./setup.sh` first");
    let file = uki("console=ttyS0 quiet");
    let parsed = Uki::parse(&file).unwrap();
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("systemd-measure");
    fs::create_dir_all(&dir).unwrap();
    let mut command = Command::new(program);
    // No phase: the boot phases are extended by a userspace that our initramfs does not have.
    command.args(["calculate", "--bank=sha256", "--phase=:"]);
    for section in [".linux", ".cmdline", ".initrd", ".uname", ".sbat"] {
        let path = dir.join(section);
        let content = parsed.pe().section(section).unwrap().data();
        fs::write(&path, content).unwrap();
        let name = section.trim_start_matches('.');
        command.arg(format!("--{name}={}", path.display()));
    }
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(
        text.trim(),
        format!("11:sha256={}", predict(&file).unwrap().pcr11)
    );
}
