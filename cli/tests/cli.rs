//! The `constellation` program as an operator runs it.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot run the program fails"
)]

#[path = "support/operator.rs"]
mod operator;
#[path = "../../crates/measure/tests/support/pe_file.rs"]
mod pe_file;

use measure::{
    cmdline::Cmdline,
    uki::{Parts, build},
};
use operator::Operator;
use pe_file::pe;
use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

const ZERO: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Measurements that cover every PCR a policy wants.
fn measurements(value: &str) -> String {
    let pcr = |index: u32| {
        let value = if index == 15 { ZERO } else { value };
        format!("\"{index}\": [\"{value}\"]")
    };
    let pcrs: Vec<String> = [0, 2, 3, 4, 7, 9, 11, 12, 13, 15].map(pcr).into();
    format!("{{\"pcrs\": {{{}}}}}", pcrs.join(", "))
}

#[test]
fn keys_are_private_and_never_overwritten() {
    let operator = Operator::new();
    operator.owner();
    operator.ok("keys new --out keys --passphrase-file passphrase");
    operator.ok("pki new --out pki");
    operator.ok("keys audit --out audit");
    operator.ok(
        "owner certify --owner-key owner/owner.key --out admission --passphrase-file passphrase",
    );
    let secrets = [
        "owner/owner.key",
        "keys/master-secret.key",
        "pki/join-service.key",
        "pki/key-service.key",
        "audit/audit.key",
        "admission/admission.key",
    ];
    for secret in secrets {
        assert_eq!(mode(&operator.path(secret)), 0o600, "{secret}");
    }
    let before = fs::read(operator.path("owner/owner.key")).unwrap();
    let error = operator.fails("owner new --out owner --passphrase-file passphrase");
    assert!(error.contains("owner/owner.key"), "{error}");
    assert_eq!(fs::read(operator.path("owner/owner.key")).unwrap(), before);
}

#[test]
fn a_wrong_passphrase_and_a_key_of_another_kind_are_named() {
    let operator = Operator::new();
    operator.owner();
    operator.ok("keys new --out keys --passphrase-file passphrase");
    fs::write(operator.path("wrong"), "wrong\n").unwrap();
    let certify = |key: &str, passphrase: &str| {
        operator.fails(&format!(
            "owner certify --owner-key {key} --out out --passphrase-file {passphrase}"
        ))
    };
    let error = certify("owner/owner.key", "wrong");
    assert!(error.contains("wrong passphrase"), "{error}");
    let error = certify("keys/master-secret.key", "passphrase");
    assert!(error.contains("owner key"), "{error}");
    assert!(error.contains("hint: "), "{error}");
    assert!(!operator.path("out/admission.key").exists());
}

#[test]
fn reference_values_grow_shrink_and_are_checked_before_they_are_signed() {
    let operator = Operator::new();
    operator.owner();
    fs::write(operator.path("a.json"), measurements(&"a".repeat(64))).unwrap();
    fs::write(operator.path("b.json"), measurements(&"b".repeat(64))).unwrap();
    let add = |image: &str, file: &str| {
        format!("reference-values add rv.json --image {image} --role worker --measurements {file}")
    };
    operator.ok(&add("one", "a.json"));
    operator.ok(&add("two", "b.json"));
    let error = operator.fails(&add("two", "b.json"));
    assert!(error.contains("image `two` is there already"), "{error}");
    let listed: serde_json::Value =
        serde_json::from_str(&operator.ok("reference-values list rv.json --output json")).unwrap();
    assert_eq!(listed["serial"], 2);
    assert_eq!(listed["images"].as_array().unwrap().len(), 2);

    operator.ok("reference-values remove rv.json --image one");
    let error = operator.fails("reference-values remove rv.json --image one");
    assert!(error.contains("there is no image `one`"), "{error}");

    let sign = "--owner-key owner/owner.key --passphrase-file passphrase --out signed.json";
    operator.ok(&format!("reference-values sign rv.json {sign}"));
    let signed = fs::read(operator.path("signed.json")).unwrap();
    let latch = fs::read_to_string(operator.path("rv.json"))
        .unwrap()
        .replace(ZERO, &"c".repeat(64));
    fs::write(operator.path("rv.json"), latch).unwrap();
    let error = operator.fails(&format!("reference-values sign rv.json {sign}"));
    assert!(error.contains("nothing was signed"), "{error}");
    assert_eq!(
        fs::read(operator.path("signed.json")).unwrap(),
        signed,
        "the old one stays"
    );
}

#[test]
fn a_policy_that_trusts_nobody_or_a_manufacturer_is_not_made() {
    let operator = Operator::new();
    let error = operator.fails("policy new policy.json");
    assert!(error.contains("--bound-ek-ca"), "{error}");
    fs::write(operator.path("ca.pem"), "no certificate").unwrap();
    operator.fails("policy new policy.json --bound-ek-ca ca.pem");
    assert!(!operator.path("policy.json").exists());
    let hash = "d".repeat(64);
    operator.ok(&format!("policy new policy.json --ek-hash {hash}"));
}

/// A refused recovery needs a node (`qemu-tests`: `disk`, `operator`); docs/formats.md, "Exit status".
#[test]
fn recover_tells_a_node_that_does_not_answer_from_a_file_that_fails() {
    let operator = Operator::new();
    operator.owner();
    operator.ok("keys new --out keys --passphrase-file passphrase");
    fs::write(operator.path("a.json"), measurements(&"a".repeat(64))).unwrap();
    operator.ok("reference-values add rv.json --image one --role worker --measurements a.json");
    operator.ok(&format!(
        "policy new policy.json --ek-hash {}",
        "d".repeat(64)
    ));
    let sign = "--owner-key owner/owner.key --passphrase-file passphrase";
    operator.ok(&format!(
        "policy sign policy.json {sign} --out policy.signed.json"
    ));
    operator.ok(&format!(
        "reference-values sign rv.json {sign} --out rv.signed.json"
    ));
    // Nobody has listened on port 1 for decades (tcpmux).
    let recover = format!(
        "recover 127.0.0.1:1 --wait 0 --records nodes.json --master-secret keys/master-secret.key \
         --cluster keys/cluster.json --policy policy.signed.json --reference-values rv.signed.json {sign}"
    );
    let records = |text: &str| fs::write(operator.path("nodes.json"), text).unwrap();

    let known = format!(
        "{{\"nodes\": [{{\"node\": \"a\", \"role\": \"worker\", \"state\": \"active\", \
         \"disk\": \"01234567-89ab-4def-8123-456789abcdef\", \"attester\": \"{}\", \"image\": \"one\", \
         \"generation\": 1, \"key_version\": 1, \"created\": 1, \"last_seen\": 1}}], \"boots\": []}}",
        "d".repeat(64)
    );
    for (text, status, why) in [
        (known.as_str(), 4, "hint: is the node waiting?"),
        ("{\"nodes\": [], \"boots\": []}", 1, "no records"),
        (known.get(1..).unwrap(), 1, "nodes.json"),
    ] {
        records(text);
        let error = operator.ends(&recover, status);
        assert!(error.contains(why), "{error}");
        let kept = fs::read_to_string(operator.path("nodes.json")).unwrap();
        assert_eq!(kept, text, "a recovery that failed changed the records");
    }
}

#[test]
fn only_unified_kernel_images_are_owned_and_measured() {
    let operator = Operator::new();
    operator.owner();
    fs::write(operator.path("image.efi"), b"MZ but nothing more").unwrap();
    let error = operator.fails("image own image.efi --owner owner/owner.pub --out owned.efi");
    assert!(error.contains("image.efi"), "{error}");
    assert!(!operator.path("owned.efi").exists());
    let error = operator.fails("measure image.efi");
    assert!(
        error.contains("hint: give a unified kernel image"),
        "{error}"
    );
}

/// A refused node's log names the event that differs, because the reference values carry the events.
#[test]
fn measured_events_reach_the_reference_values() {
    let operator = Operator::new();
    let magic: &[u8] = b"#### LoaderInfo: systemd-stub 254.26-1 ####";
    let parts = Parts {
        stub: &pe(&[(".text", b"code"), (".sdmagic", magic)]),
        kernel_release: "6.12.0",
        cmdline: &Cmdline::parse(b"quiet").unwrap(),
        initrd: b"initrd",
        kernel: &pe(&[(".text", b"kernel")]),
    };
    fs::write(operator.path("image.efi"), build(&parts).unwrap()).unwrap();
    let measured = operator.ok("measure image.efi --output json");
    fs::write(operator.path("image.json"), &measured).unwrap();
    operator.ok("reference-values add rv.json --image one --role worker --measurements image.json");
    let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    let added = json(&fs::read_to_string(operator.path("rv.json")).unwrap());
    let events = &added["images"][0]["events"];
    assert_eq!(*events, json(&measured)["events"]);
    assert_eq!(events["9"][0]["name"], "kernel command line");
    assert_eq!(events["4"].as_array().unwrap().len(), 4);
    assert_eq!(events["11"].as_array().unwrap().len(), 8);
}

#[test]
fn errors_say_what_to_do_next() {
    let operator = Operator::new();
    let error = operator.ends("node list --socket absent.sock", 4);
    assert!(
        error.contains("`absent.sock`") && error.contains("hint: "),
        "{error}"
    );
    assert_eq!(operator.run("no-such-verb").status.code(), Some(2));
    assert!(operator.ok("completions bash").contains("constellation"));
    operator.ok("man --out man");
    assert!(operator.path("man/constellation-recover.1").exists());
}
