//! `constellation policy new` for every kind of evidence.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot run the program fails"
)]

#[path = "support/operator.rs"]
mod operator;

use operator::Operator;
use serde_json::{Value, json};
use software_snp::{DevelopmentRoot, Product};
use std::{fs, path::Path, sync::LazyLock};

static ROOT: LazyLock<DevelopmentRoot> = LazyLock::new(|| {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("development-root.json");
    DevelopmentRoot::kept_in(&path).unwrap()
});

const GENOA: &str = "--minimum-tcb Genoa:bootloader=10,tee=0,snp=23,microcode=84";

fn made(operator: &Operator) -> Value {
    serde_json::from_slice(&fs::read(operator.path("policy.json")).unwrap()).unwrap()
}

#[test]
fn a_policy_for_reports_is_strict_where_nothing_is_said() {
    let operator = Operator::new();
    operator.ok(&format!(
        "policy new policy.json --evidence sev-snp {GENOA} --endorsement-key vcek"
    ));
    let expected = json!({
        "version": 1,
        "serial": 1,
        "evidence": ["sev-snp"],
        "sev_snp": {
            "products": [{
                "product": "Genoa",
                "endorsement_key": "vcek",
                "minimum_tcb": {"bootloader": 10, "tee": 0, "snp": 23, "microcode": 84},
            }],
            "vmpl": 0,
            "guest_policy": {
                "allow_smt": false,
                "require_single_socket": false,
                "minimum_abi": [0, 0],
            },
            "alias_check": "required",
            "revocation_lists": "required",
        },
    });
    assert_eq!(made(&operator), expected);
}

#[test]
fn every_option_goes_into_the_policy() {
    let operator = Operator::new();
    let chip = "cd".repeat(64);
    let hash = "ab".repeat(32);
    operator.ok(&format!(
        "policy new policy.json --evidence tpm --evidence sev-snp --evidence sev-snp-vtpm \
         --ek-hash {hash} {GENOA} \
         --minimum-tcb Turin:fmc=1,bootloader=2,tee=3,snp=4,microcode=5 \
         --upcoming-tcb Turin:fmc=1,bootloader=2,tee=3,snp=4,microcode=6 \
         --upcoming-from 2027-01-31T00:00:00Z --endorsement-key vlek --vmpl 1 --allow-smt \
         --require-single-socket --minimum-abi 1.55 --alias-check unavailable \
         --revocation-lists when-given --chip {chip}"
    ));
    let policy = made(&operator);
    let rules = &policy["sev_snp"];
    assert_eq!(
        policy["evidence"],
        json!(["tpm", "sev-snp", "sev-snp-vtpm"])
    );
    assert_eq!(policy["tpm"]["ek_hashes"], json!([hash]));
    assert_eq!(policy["sev_snp_vtpm"]["pcrs"], policy["tpm"]["pcrs"]);
    assert_eq!(rules["products"][0]["product"], "Genoa");
    assert_eq!(rules["products"][0]["upcoming_tcb"], Value::Null);
    assert_eq!(rules["products"][1]["endorsement_key"], "vlek");
    assert_eq!(rules["products"][1]["minimum_tcb"]["fmc"], 1);
    let upcoming = &rules["products"][1]["upcoming_tcb"];
    assert_eq!(upcoming["effective"], "2027-01-31T00:00:00Z");
    assert_eq!(upcoming["minimum_tcb"]["microcode"], 6);
    assert_eq!(rules["vmpl"], 1);
    assert_eq!(
        rules["guest_policy"],
        json!({"allow_smt": true, "require_single_socket": true, "minimum_abi": [1, 55]})
    );
    assert_eq!(rules["alias_check"], "unavailable");
    assert_eq!(rules["revocation_lists"], "when-given");
    assert_eq!(rules["chips"], json!([chip]));
    operator.owner();
    operator.ok(
        "policy sign policy.json --owner-key owner/owner.key --passphrase-file passphrase \
         --out policy.signed.json",
    );
}

#[test]
fn azure_compares_the_pcrs_that_a_tpm_does() {
    let operator = Operator::new();
    let line = format!(
        "policy new policy.json --evidence azure-sev-snp {GENOA} --endorsement-key vcek --allow-smt"
    );
    let error = operator.fails(&format!("{line} --vmpl 2"));
    assert!(error.contains("azure-sev-snp"), "{error}");
    operator.ok(&line);
    let policy = made(&operator);
    assert_eq!(
        policy["azure_sev_snp"]["pcrs"],
        json!([0, 2, 3, 4, 7, 9, 11, 12, 13, 15])
    );
    assert_eq!(policy["tpm"], Value::Null);
}

#[test]
fn an_image_in_a_paravisor_is_compared_with_both() {
    let operator = Operator::new();
    let pcrs = json!({"pcrs": {"11": ["11".repeat(32)]}});
    fs::write(operator.path("pcrs.json"), pcrs.to_string()).unwrap();
    let launch = json!({"sev_snp": {"measurements": ["22".repeat(48)]}});
    fs::write(operator.path("launch.json"), launch.to_string()).unwrap();
    let paravisor = "99".repeat(48);
    let add = "reference-values add rv.json --image one --role worker --measurements";
    let error = operator.fails(&format!("{add} launch.json --paravisor {paravisor}"));
    assert!(error.contains("expected `pcrs` beside it"), "{error}");
    // Two kinds in one image would leave one of them without its latch.
    let error = operator.fails(&format!("{add} launch.json --measurements pcrs.json"));
    assert!(error.contains("expected no `pcrs` beside it"), "{error}");
    let listed = operator.ok(&format!("{add} pcrs.json --paravisor {paravisor}"));
    assert!(listed.contains("PCR 11; paravisor"), "{listed}");
    let values: Value =
        serde_json::from_slice(&fs::read(operator.path("rv.json")).unwrap()).unwrap();
    let launch = &values["images"][0]["azure_sev_snp"]["measurements"];
    assert_eq!(*launch, json!([paravisor]));
}

#[test]
fn a_development_root_is_named_in_full_and_said_aloud() {
    let operator = Operator::new();
    let chain = ROOT.chain(Product::Genoa);
    for (name, der) in [
        ("ark", &chain.ark),
        ("ask", &chain.ask),
        ("asvk", &chain.asvk),
    ] {
        let pem = software_snp::pem("CERTIFICATE", der);
        fs::write(operator.path(name), pem).unwrap();
    }
    let line = format!("policy new policy.json --evidence sev-snp {GENOA} --endorsement-key vcek");
    operator.fails(&format!("{line} --development-root Genoa:ark,asvk,missing"));
    operator.fails(&format!("{line} --development-root Genoa:ask,ask,asvk"));
    let error = operator.fails(&format!("{line} --development-root Milan:ark,ask,asvk"));
    assert!(error.contains("`--development-root` of Milan"), "{error}");
    assert!(!operator.path("policy.json").exists());
    let said = operator.ok(&format!("{line} --development-root Genoa:ark,ask,asvk"));
    assert!(said.contains("Genoa by a development root"), "{said}");
    let root = &made(&operator)["sev_snp"]["products"][0]["development_root"];
    let ark = fs::read_to_string(operator.path("ark")).unwrap();
    assert_eq!(root["ark"].as_str(), Some(ark.as_str()));
}

#[test]
fn policies_that_would_not_mean_what_was_said_are_not_made() {
    let operator = Operator::new();
    let hash = "ab".repeat(32);
    for (line, expected) in [
        ("--evidence sev-snp".into(), "give `--minimum-tcb`"),
        (
            format!("--evidence sev-snp {GENOA}"),
            "give `--endorsement-key`",
        ),
        (
            format!("--evidence sev-snp {GENOA} --endorsement-key vcek --ek-hash {hash}"),
            "no `--evidence tpm` reads them",
        ),
        (
            format!("--ek-hash {hash} {GENOA} --endorsement-key vcek"),
            "no `--evidence` with a report reads them",
        ),
        (
            format!("--evidence sev-snp {GENOA} {GENOA} --endorsement-key vcek"),
            "Genoa twice",
        ),
        (
            format!("--evidence sev-snp --evidence sev-snp {GENOA} --endorsement-key vcek"),
            "each once",
        ),
        (
            "--evidence sev-snp --endorsement-key vcek \
             --minimum-tcb Turin:bootloader=1,tee=1,snp=1,microcode=1"
                .into(),
            "`fmc`, which this product line has",
        ),
        (
            format!(
                "--evidence sev-snp {GENOA} --endorsement-key vcek \
                 --upcoming-tcb Milan:bootloader=4,tee=0,snp=25,microcode=222"
            ),
            "`--upcoming-tcb` of Milan",
        ),
        (
            format!("--evidence sev-snp {GENOA} --endorsement-key vcek --vmpl 4"),
            "0 to 3",
        ),
    ] {
        let error = operator.fails(&format!("policy new policy.json {line}"));
        assert!(error.contains(expected), "{line}: {error}");
        assert!(!operator.path("policy.json").exists(), "{line}");
    }
}

#[test]
fn options_that_do_not_parse_say_what_is_expected() {
    let operator = Operator::new();
    for (option, expected) in [
        (
            "--minimum-tcb Siena:bootloader=1",
            "`Milan:`, `Genoa:` or `Turin:`",
        ),
        ("--minimum-tcb Genoa", "`Milan:`, `Genoa:` or `Turin:`"),
        ("--minimum-tcb Genoa:bootloader=1", "expected a TCB like"),
        (
            "--minimum-tcb Genoa:bootloader=1,tee=0,snp=1,microcode=256",
            "expected a TCB like",
        ),
        (
            "--minimum-tcb Genoa:bootloader=1,tee=0,snp=1,microcode=2,microcode=1",
            "expected a TCB like",
        ),
        (
            "--minimum-tcb Genoa:bootloader=1,tee=0,snp=1,microcode=2,psp=1",
            "expected a TCB like",
        ),
        ("--minimum-abi 1", "expected a version like `1.55`"),
        ("--chip cd", "expected 128 lower-case hex digits"),
        ("--upcoming-from 2027-01-31", "expected a time such as"),
        ("--development-root Genoa:ark", "expected three files"),
        ("--endorsement-key any", "vcek, vlek"),
        ("--alias-check off", "required, unavailable"),
        ("--revocation-lists never", "required, when-given"),
        ("--evidence none", "--evidence <KIND>"),
        ("--vmpl 0", "--minimum-tcb"),
        ("--allow-smt", "--minimum-tcb"),
    ] {
        let output = operator.run(&format!("policy new policy.json {option}"));
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{option}: {error}");
        assert!(error.contains(expected), "{option}: {error}");
    }
}

#[test]
fn the_help_says_what_each_rule_is_for() {
    let help = Operator::new().ok("policy new --help");
    for text in [
        "BadRAM",
        "a TPM manufacturer's root is no such CA",
        "whose PCRs are shown and decide nothing",
        "give up their secret",
        "for tests of clusters that protect nothing",
        "[default: 0]",
    ] {
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let found = words(&help).to_lowercase().contains(&text.to_lowercase());
        assert!(found, "`{text}` is not in:\n{help}");
    }
}
