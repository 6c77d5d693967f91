//! What the `constellation` program says of SEV-SNP: launches and reports.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot run the program fails"
)]

#[path = "../../crates/endorsements/tests/support/kds.rs"]
mod kds;
#[path = "support/operator.rs"]
mod operator;
#[path = "../../crates/measure/tests/support/ovmf.rs"]
mod ovmf;
#[path = "../../crates/measure/tests/support/pe_file.rs"]
mod pe_file;

use kds::{Answer, Kds};
use measure::{
    cmdline::Cmdline,
    uki::{Parts, build},
};
use operator::Operator;
use ovmf::Ovmf;
use pe_file::pe;
use serde_json::{Value, json};
use software_snp::{CrlFields, DevelopmentRoot, LeafKind, Product, ReportFields, Tcb};
use std::{
    fs,
    path::Path,
    sync::LazyLock,
    time::{SystemTime, UNIX_EPOCH},
};

fn parse(text: &str) -> Value {
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
        parse(&operator.ok(&format!("{base} {options} --output json")))
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
    let image = parse(&image);
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
    let added = parse(&fs::read_to_string(operator.path("rv.json")).unwrap());
    let image = &added["images"][0];
    let measured = parse(&measured);
    assert_eq!(
        image["sev_snp"]["measurements"],
        measured["sev_snp"]["measurements"]
    );
    assert_eq!(image.get("pcrs"), None);
    // Another firmware's beside them; what is in both counts once.
    let other = json!({"sev_snp": {"measurements": ["22".repeat(48), image["sev_snp"]["measurements"][0]]}});
    fs::write(operator.path("other.json"), other.to_string()).unwrap();
    operator.ok("reference-values remove rv.json --image one");
    let listed = operator.ok(&format!("{add} --image two --measurements other.json"));
    assert!(
        listed.contains("two  worker  10 launch measurements"),
        "{listed}"
    );
}

#[test]
fn what_is_not_a_launch_is_refused() {
    let operator = operator();
    // Firmware that checks no hashes, and a file that is no firmware.
    let unchecked = Ovmf::new().without(ovmf::HASH_TABLE_GUID).build();
    fs::write(operator.path("unchecked.fd"), unchecked).unwrap();
    let measure = "measure --sev-snp image.efi --vcpus 1 --vcpu-type EPYC --firmware";
    let error = operator.fails(&format!("{measure} unchecked.fd"));
    assert!(error.contains("it would start any kernel"), "{error}");
    let error = operator.fails(&format!("{measure} image.efi"));
    assert!(error.contains("hint:"), "{error}");
    let error = operator.fails(&format!("{measure} OVMF.fd --guest-features 0x20"));
    assert!(error.contains("lack bit 0"), "{error}");
    fs::write(operator.path("cmdline"), "a  b").unwrap();
    let error = operator.fails(
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

/// Every field of every captured report, as independent tools read it.
#[test]
fn reports_are_shown_as_they_are() {
    let Some(expected) = vectors::vector("snp/expected_reports.json") else {
        return;
    };
    let expected: Value = serde_json::from_slice(&expected).unwrap();
    let operator = Operator::new();
    for (name, report, certificate) in [
        (
            "trustee test-report.bin + test-vcek.der",
            "verifier__snp__test-report.bin",
            "verifier__snp__test-vcek.der",
        ),
        (
            "trustee test-report.bin + test-vcek-invalid-legacy.der",
            "verifier__snp__test-report.bin",
            "verifier__snp__test-vcek-invalid-legacy.der",
        ),
        (
            "trustee test-report.bin + test-vcek-invalid-new.der",
            "verifier__snp__test-report.bin",
            "verifier__snp__test-vcek-invalid-new.der",
        ),
        (
            "trustee test-vlek-report.bin + test-vlek.der",
            "verifier__snp__test-vlek-report.bin",
            "verifier__snp__test-vlek.der",
        ),
        (
            "virtee report_milan.hex + vcek_milan.der",
            "tests__certs_data__report_milan.hex",
            "tests__certs_data__vcek_milan.der",
        ),
        (
            "go-sev-guest attestation.bin + vcek.testcer",
            "go-sev-guest__attestation.bin",
            "go-sev-guest__vcek.testcer",
        ),
        (
            "dstack sev_snp_attestation.bin @4",
            "sev_snp_attestation.bin",
            "sev_snp_vcek.pem",
        ),
    ] {
        let vector = |name: &str| vectors::vector(&format!("snp/{name}")).unwrap();
        let mut bytes = vector(report);
        if report.ends_with(".hex") {
            bytes = hex::decode(bytes.trim_ascii()).unwrap();
        }
        let start = if name.ends_with("@4") { 4 } else { 0 };
        fs::write(operator.path("report"), &bytes[start..start + 1184]).unwrap();
        fs::write(operator.path("certificate"), vector(certificate)).unwrap();
        // A VLEK is valid for a year; the newest VCEK is from 2026.
        let year = if name.starts_with("dstack") {
            2027
        } else {
            2025
        };
        let line = format!("snp show report --certificate certificate --at {year}-01-31T00:00:00Z");
        let shown = parse(&operator.ok(&format!("{line} --output json")));
        let expected = &expected[name];
        same(&shown, expected, name);
        let valid = expected["signature_valid_with_cert"].as_bool().unwrap();
        let text = operator.ok(&line);
        assert_eq!(text.contains("NOT VALID"), !valid, "{name}: {text}");
        let data = expected["report_data"].as_str().unwrap();
        assert!(text.contains(data), "{name}: {text}");
    }
}

fn same(shown: &Value, expected: &Value, name: &str) {
    for (ours, theirs) in [
        (&shown["version"], "version"),
        (&shown["vmpl"], "vmpl"),
        (&shown["policy"]["bits"], "policy"),
        (&shown["policy"]["abi"], "abi"),
        (&shown["policy"]["debug_allowed"], "debug_allowed"),
        (
            &shown["policy"]["migration_agent_allowed"],
            "migration_agent",
        ),
        (&shown["policy"]["smt_allowed"], "smt_allowed"),
        (&shown["platform"]["bits"], "platform_info"),
        (
            &shown["platform"]["alias_check_complete"],
            "alias_check_complete",
        ),
        (&shown["signature"]["signing_key"], "signing_key"),
        (&shown["signature"]["masked_chip_key"], "mask_chip_key"),
        (&shown["signature"]["valid"], "signature_valid_with_cert"),
        (&shown["report_data"], "report_data"),
        (&shown["report_id"], "report_id"),
        (&shown["launch"]["measurement"], "measurement"),
        (&shown["launch"]["host_data"], "host_data"),
        (&shown["launch"]["guest_svn"], "guest_svn"),
    ] {
        assert_eq!(*ours, expected[theirs], "{name}: {theirs}");
    }
    for tcb in ["current", "reported", "committed", "launch"] {
        let theirs = &expected[format!("{tcb}_tcb")];
        for (our, their) in [
            ("bootloader", "bl"),
            ("tee", "tee"),
            ("snp", "snp"),
            ("microcode", "ucode"),
        ] {
            assert_eq!(shown["tcb"][tcb][our], theirs[their], "{name}: {tcb} {our}");
        }
    }
    let absent = |digits: &Value| digits.as_str().unwrap().bytes().all(|digit| digit == b'0');
    for (ours, theirs) in [
        (&shown["chip_id"], "chip_id"),
        (&shown["launch"]["id_key_digest"], "id_key_digest"),
        (&shown["launch"]["author_key_digest"], "author_key_digest"),
    ] {
        let theirs = Some(&expected[theirs]).filter(|digits| !absent(digits));
        assert_eq!(*ours, theirs.cloned().unwrap_or_default(), "{name}");
    }
}

static ROOT: LazyLock<DevelopmentRoot> = LazyLock::new(|| {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    DevelopmentRoot::kept_in(&dir.join("development-root.json")).unwrap()
});

const CHIP: [u8; 64] = [9; 64];
const TCB: Tcb = Tcb {
    fmc: 0,
    bootloader: 4,
    tee: 0,
    snp: 24,
    microcode: 219,
};

/// A report of the development root's chip that says what it should, with changes.
fn report(change: impl FnOnce(&mut ReportFields)) -> Vec<u8> {
    let mut fields = ReportFields::new(Product::Milan, CHIP, TCB);
    fields.measurement = [3; 48];
    fields.report_data = [5; 64];
    change(&mut fields);
    let [bootloader, tee, _, _, _, _, snp, microcode] = fields.reported_tcb;
    let tcb = Tcb {
        fmc: 0,
        bootloader,
        tee,
        snp,
        microcode,
    };
    let key = match fields.signing_key() {
        LeafKind::Vcek => ROOT.vcek(Product::Milan, &CHIP, tcb),
        LeafKind::Vlek => ROOT.vlek(Product::Milan, "cloud", tcb),
    };
    // Keys differ from call to call: the certificate of this one goes beside it.
    let key = key.unwrap();
    [
        fields.signed_by(&key).unwrap().to_vec(),
        key.certificate().to_vec(),
    ]
    .concat()
}

type Change = fn(&mut ReportFields);

fn pem(der: &[u8]) -> String {
    software_snp::pem("CERTIFICATE", der)
}

/// Policy and reference values for [`report`]s.
fn documents(operator: &Operator) {
    let chain = ROOT.chain(Product::Milan);
    let policy = json!({
        "version": 1, "serial": 1, "evidence": ["sev-snp"],
        "sev_snp": {
            "products": [{
                "product": "Milan", "endorsement_key": "vcek",
                "minimum_tcb": { "bootloader": 4, "tee": 0, "snp": 24, "microcode": 219 },
                "development_root":
                    { "ark": pem(&chain.ark), "ask": pem(&chain.ask), "asvk": pem(&chain.asvk) },
            }],
            "vmpl": 0,
            "guest_policy":
                { "allow_smt": true, "require_single_socket": false, "minimum_abi": [0, 0] },
            "alias_check": "required",
            "revocation_lists": "when-given",
        },
    });
    let values = json!({
        "version": 1, "serial": 1,
        "images": [{
            "name": "node-1", "roles": ["worker"],
            "sev_snp": { "measurements": ["03".repeat(48)] },
        }],
    });
    fs::write(operator.path("policy.json"), policy.to_string()).unwrap();
    fs::write(operator.path("values.json"), values.to_string()).unwrap();
}

fn write_report(operator: &Operator, bytes: &[u8]) {
    fs::write(operator.path("report"), &bytes[..1184]).unwrap();
    fs::write(operator.path("vcek"), &bytes[1184..]).unwrap();
}

fn verify(data: &str) -> String {
    format!(
        "snp verify report --policy policy.json --reference-values values.json --report-data {data}"
    )
}

#[test]
fn a_good_report_is_accepted_and_each_lie_named() {
    let operator = Operator::new();
    documents(&operator);
    let data = "05".repeat(64);
    write_report(&operator, &report(|_| ()));
    let line = format!("{} --certificate vcek", verify(&data));
    let accepted = parse(&operator.ok(&format!("{line} --output json")));
    assert_eq!(accepted["accepted"], true);
    assert_eq!(accepted["image"], "node-1");
    assert_eq!(accepted["chip_id"], hex::encode(CHIP));
    assert_eq!(accepted["development_root"], true);
    assert_eq!(accepted["documents_signed"], false);
    let text = operator.ok(&line);
    assert!(text.contains("no processor vouches for it"), "{text}");

    let missing = operator.fails(&verify(&data));
    assert!(missing.contains("is not here"), "{missing}");
    let other = operator.fails(&format!("{} --certificate vcek", verify(&"06".repeat(64))));
    assert!(other.contains("REPORT_DATA"), "{other}");
    let lies: [(&str, Change); 6] = [
        ("VMPL: expected 0, got 1", |it| it.vmpl = 1),
        ("debug: expected forbidden, got allowed", |it| {
            it.policy |= 1 << 19
        }),
        ("ALIAS_CHECK_COMPLETE: expected 1, got 0", |it| {
            it.platform_info = 0
        }),
        ("reported TCB: snp: expected 24 or later, got 23", |it| {
            it.reported_tcb[6] = 23
        }),
        ("030303", |it| it.measurement = [4; 48]),
        ("certificate of the signing key", |it| {
            *it = it.clone().with_vlek();
        }),
    ];
    for (expected, lie) in lies {
        write_report(&operator, &report(lie));
        let error = operator.fails(&line);
        assert!(error.contains(expected), "{expected}: {error}");
    }
    // Without a certificate: no VCEK would help.
    let error = operator.fails(&verify(&data));
    assert!(error.contains("signed by a VLEK"), "{error}");
    let mut flipped = report(|_| ());
    flipped[0x50] ^= 1;
    write_report(&operator, &flipped);
    let error = operator.fails(&line);
    assert!(error.contains("signature"), "{error}");
    fs::write(operator.path("report"), [0; 1185]).unwrap();
    operator.fails(&line);
}

#[test]
fn signed_documents_are_opened_by_their_owner_only() {
    let operator = Operator::new();
    documents(&operator);
    operator.owner();
    for (kind, file) in [
        ("policy", "policy.json"),
        ("reference-values", "values.json"),
    ] {
        operator.ok(&format!(
            "{kind} sign {file} --owner-key owner/owner.key --out {file} --passphrase-file passphrase"
        ));
    }
    write_report(&operator, &report(|_| ()));
    let line = format!("{} --certificate vcek", verify(&"05".repeat(64)));
    let error = operator.fails(&line);
    assert!(error.contains("policy.json"), "{error}");
    let signed = operator.ok(&format!("{line} --owner owner/owner.pub --output json"));
    assert_eq!(parse(&signed)["documents_signed"], true);
}

/// AMD's own keys: a captured report, through every rule.
#[test]
fn a_report_of_a_real_chip_is_accepted() {
    let vector = |name: &str| vectors::vector(&format!("snp/verifier__snp__{name}"));
    let Some(report) = vector("test-report.bin") else {
        return;
    };
    let operator = Operator::new();
    documents(&operator);
    let text = fs::read_to_string(operator.path("policy.json")).unwrap();
    let mut policy = parse(&text);
    let rules = &mut policy["sev_snp"];
    rules["alias_check"] = json!("unavailable");
    let line = &mut rules["products"][0];
    line.as_object_mut().unwrap().remove("development_root");
    line["minimum_tcb"] = json!({ "bootloader": 3, "tee": 0, "snp": 8, "microcode": 115 });
    fs::write(operator.path("policy.json"), policy.to_string()).unwrap();
    let values = fs::read_to_string(operator.path("values.json")).unwrap();
    let measurement = hex::encode(&report[0x90..0xc0]);
    let values = values.replace(&"03".repeat(48), &measurement);
    fs::write(operator.path("values.json"), values).unwrap();
    fs::write(operator.path("report"), &report).unwrap();
    fs::write(operator.path("vcek"), vector("test-vcek.der").unwrap()).unwrap();
    let verify = verify(&hex::encode(&report[0x50..0x90]));
    let at = "--at 2025-01-31T00:00:00Z";
    let accepted = operator.ok(&format!("{verify} --certificate vcek {at}"));
    assert!(
        accepted.contains("bootloader=3 tee=0 snp=8 microcode=115"),
        "{accepted}"
    );
    // Through a folder, as a join service has it.
    operator.ok("snp import-certs --vcek vcek --folder kept");
    operator.ok(&format!("{verify} --folder kept {at}"));
    let error = operator.fails(&format!("{verify} --folder elsewhere {at}"));
    assert!(error.contains("elsewhere"), "{error}");
    let error = operator.fails(&format!(
        "{verify} --certificate vcek --at 2045-01-31T00:00:00Z"
    ));
    assert!(error.contains("out of date"), "{error}");
    for twin in ["test-vcek-invalid-legacy.der", "test-vcek-invalid-new.der"] {
        fs::write(operator.path("vcek"), vector(twin).unwrap()).unwrap();
        operator.fails(&format!("{verify} --certificate vcek {at}"));
        operator.fails("snp import-certs --vcek vcek --folder kept");
    }
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap().as_secs()
}

#[test]
fn certificates_travel_from_the_service_to_the_folder() {
    let operator = Operator::new();
    documents(&operator);
    let bytes = report(|_| ());
    write_report(&operator, &bytes);
    let fields = CrlFields {
        this_update: now() - 1000,
        next_update: now() + 1000,
        revoked: Vec::new(),
    };
    let list = ROOT.crl(Product::Milan, &fields).unwrap();
    let kds = Kds::start(move |path, before| match (before, path.ends_with("/crl")) {
        (0, _) => Answer::Status(429, "Retry-After: 1\r\n"),
        (_, true) => Answer::Body(list.clone()),
        (_, false) => Answer::Body(bytes[1184..].to_vec()),
    });
    let roots = "--development-roots-of policy.json";
    let fetch = format!(
        "snp fetch-certs report report --out bundle.json --kds {}",
        kds.url
    );
    let fetched = operator.ok(&format!("{fetch} {roots}"));
    assert!(
        fetched.contains("Milan VCEK of chip 0909090909090909"),
        "{fetched}"
    );
    assert!(fetched.contains("revocation list of Milan"), "{fetched}");
    assert_eq!(kds.paths().len(), 3);

    let import = "snp import-certs bundle.json --folder kept";
    let error = operator.fails(import);
    assert!(error.contains("not signed by the ASK"), "{error}");
    assert_eq!(fs::read_dir(operator.path("kept")).unwrap().count(), 0);
    let kept = parse(&operator.ok(&format!("{import} {roots} --output json")));
    assert_eq!(kept["certificates"].as_array().unwrap().len(), 1);
    assert_eq!(kept["revocation_lists"], json!(["Milan"]));
    let line = format!("{} --folder kept", verify(&"05".repeat(64)));
    assert!(operator.ok(&line).contains("node-1"));

    // AMD's roots did not sign what this service gives out, and a VLEK nobody gives out.
    let error = operator.fails(&fetch);
    assert!(error.contains("the service lies"), "{error}");
    write_report(&operator, &report(|it| *it = it.clone().with_vlek()));
    let error = operator.fails(&fetch);
    assert!(error.contains("hint: AMD gives VLEK"), "{error}");
    let absent = Kds::start(|_, _| Answer::Status(404, ""));
    write_report(&operator, &report(|_| ()));
    let fetch = format!("snp fetch-certs report --out new.json --kds {}", absent.url);
    let error = operator.fails(&fetch);
    assert!(error.contains("no such certificate"), "{error}");
    assert!(!operator.path("new.json").exists());
}
