//! The second half of an init: what the bootstrapper says, and what is left of it.

use super::{Site, bootstrapper, mode};
use api::bootstrap::{GetResultResponse, PhaseState, progress::Event};
use bootstrapper::{Script, Scripted, ended, phase};
use hand_off::InitMaterial;
use serde_json::{Value, json};
use software_tpm::SoftwareTpm;
use std::{fs, thread};
use vm::free_port;

/// As kubeadm writes it.
const KUBECONFIG: &str = include_str!("../support/kubeconfig.yaml");

/// Boots the node, admits it and lets its bootstrapper follow these scripts on the same port.
fn node(
    site: &Site,
    tpm: &SoftwareTpm,
    run: (u64, &'static str),
    scripts: Vec<Script>,
) -> (u16, thread::JoinHandle<Scripted>) {
    node_with(site, tpm, run, scripts, KUBECONFIG.to_owned())
}

/// The same with another kubeconfig as the result.
fn node_with(
    site: &Site,
    tpm: &SoftwareTpm,
    (generation, node_name): (u64, &'static str),
    scripts: Vec<Script>,
    kubeconfig: String,
) -> (u16, thread::JoinHandle<Scripted>) {
    let node = site.boot(tpm, 0);
    let port = node.port;
    let playing = thread::spawn(move || {
        let given = node.admitted().initialise(generation);
        let material: InitMaterial = serde_json::from_slice(&given.material).unwrap();
        // The hash of a machine: only the CLI knows as whom it attested the node.
        assert_eq!(material.attester.as_ref().map(String::len), Some(64));
        let record = json!({
            "node": node_name, "role": "control-plane", "state": "active",
            "disk": given.disk, "attester": "0f".repeat(32), "image": "bare",
            "generation": generation, "key_version": 1, "created": 1, "last_seen": 2,
        });
        let result = GetResultResponse {
            kubeconfig,
            node_record: record.to_string().into_bytes(),
        };
        Scripted::listen(port, &material.progress, scripts, result)
    });
    (port, playing)
}

fn whole() -> Script {
    vec![
        phase("kubeadm-init", 1, PhaseState::Running),
        Event::Log("[init] \x1b[31mgoing\x1b[0m".into()),
        phase("kubeadm-init", 1, PhaseState::Done),
        phase("services", 2, PhaseState::Running),
        phase("services", 2, PhaseState::Done),
        ended(""),
    ]
}

#[test]
fn a_run_is_followed_over_a_broken_connection_and_its_result_kept() {
    let (site, tpm) = Site::new("control-plane");
    let broken = whole()[..3].to_vec();
    let (port, playing) = node(&site, &tpm, (1, "control-0"), vec![broken, whole()]);
    let output = site
        .operator
        .run(&format!("--output json {}", Site::init(port, "")));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{stderr}");
    for line in [
        "[1/2] kubeadm-init: running at 1.5 s",
        "[1/2] kubeadm-init: done at 1.5 s",
        "[2/2] services: done at 3.0 s",
    ] {
        assert_eq!(
            stderr.lines().filter(|shown| *shown == line).count(),
            1,
            "{stderr}"
        );
    }
    assert!(!stderr.contains('\x1b'), "{stderr:?}");
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        answer["phases"],
        json!([{"name": "kubeadm-init", "elapsed_ms": 1500}, {"name": "services", "elapsed_ms": 3000}])
    );
    let bootstrapper = playing.join().unwrap();
    assert_eq!(bootstrapper.finished(), 1);

    let kubeconfig = site.operator.path("cluster/kubeconfig");
    let kept = fs::read_to_string(kubeconfig).unwrap();
    for line in KUBECONFIG.lines() {
        let part = line.trim_start_matches(['-', ' ']);
        assert!(kept.contains(part), "{part}: {kept}");
    }
    assert_eq!(mode(&site.operator, "cluster/kubeconfig"), 0o600);
    assert_eq!(
        site.json("cluster/nodes.json")["nodes"][0]["node"],
        "control-0"
    );
    let state = site.json("cluster/init.json");
    assert_eq!(state["init"]["finished"], true);
    assert_eq!(state["record"]["state"], "active");
    assert!(!site.operator.path("cluster/progress.json").exists());

    // It is over: nobody is asked any more, and the machine gets nothing.
    drop(bootstrapper);
    let again = site.operator.ok(&Site::init(1, ""));
    assert!(again.contains("kubeconfig merge"), "{again}");
}

#[test]
fn a_failed_run_says_why_and_the_next_command_goes_on() {
    let (site, tpm) = Site::new("control-plane");
    let failing = vec![
        phase("kubeadm-init", 1, PhaseState::Failed),
        ended("no \x07disk space"),
    ];
    let (port, playing) = node(&site, &tpm, (1, "control-0"), vec![failing, whole()]);
    let error = site.operator.fails(&Site::init(port, ""));
    assert!(
        error.contains("the bootstrapper failed: no ?disk space"),
        "{error}"
    );
    let bootstrapper = playing.join().unwrap();
    assert_eq!(site.json("cluster/init.json")["init"]["finished"], false);
    site.operator.ok(&Site::init(port, ""));
    assert_eq!(bootstrapper.finished(), 1);
}

/// Its power was cut while it was followed: the agent waits where the bootstrapper was.
#[test]
fn a_node_that_waits_again_is_admitted_again() {
    let (site, tpm) = Site::new("control-plane");
    site.admit(&tpm, 1);
    let (port, playing) = node(&site, &tpm, (2, "control-0"), vec![whole()]);
    site.operator.ok(&Site::init(port, ""));
    assert_eq!(playing.join().unwrap().finished(), 1);
    assert_eq!(site.json("cluster/init.json")["record"]["generation"], 2);
}

#[test]
fn a_record_of_another_node_is_not_kept() {
    let (site, tpm) = Site::new("control-plane");
    let (port, playing) = node(&site, &tpm, (1, "control-9"), vec![whole()]);
    let error = site.operator.fails(&Site::init(port, ""));
    assert!(error.contains("the record of another node"), "{error}");
    assert_eq!(playing.join().unwrap().finished(), 0);
    assert!(!site.operator.path("cluster/kubeconfig").exists());
}

/// It would run on the owner's machine.
#[test]
fn a_kubeconfig_with_a_program_is_not_kept() {
    let (site, tpm) = Site::new("control-plane");
    let kubeconfig = format!("{KUBECONFIG}    exec: {{command: sh}}\n");
    let run = (1, "control-0");
    let (port, playing) = node_with(&site, &tpm, run, vec![whole()], kubeconfig);
    let error = site.operator.fails(&Site::init(port, ""));
    assert!(
        error.contains("refused kubeconfig") && error.contains("exec"),
        "{error}"
    );
    assert_eq!(playing.join().unwrap().finished(), 0);
    assert!(!site.operator.path("cluster/kubeconfig").exists());
}

/// Somebody else on the port gets nothing and is believed nothing.
#[test]
fn only_the_bootstrapper_of_this_init_is_followed() {
    let (site, tpm) = Site::new("control-plane");
    let (foreign, other) = Site::new("control-plane");
    site.admit(&tpm, 1);
    let (port, playing) = node(&foreign, &other, (1, "control-0"), vec![whole()]);
    let at_foreign = foreign.operator.run(&Site::init(port, "--until admitted"));
    assert!(at_foreign.status.success());
    let bootstrapper = playing.join().unwrap();
    let command = Site::init(port, "").replace("--wait 20", "--wait 2");
    let error = site.operator.ends(&command, 4);
    assert!(error.contains("reach the bootstrapper"), "{error}");
    assert_eq!(bootstrapper.finished(), 0);
}

#[test]
fn a_bootstrapper_that_says_nothing_is_given_up() {
    let (site, tpm) = Site::new("control-plane");
    let (port, playing) = node(&site, &tpm, (1, "control-0"), Vec::new());
    let command = Site::init(port, "").replace("--wait 20", "--wait 3");
    let error = site.operator.ends(&command, 4);
    assert!(error.contains("ask the bootstrapper"), "{error}");
    assert_eq!(playing.join().unwrap().finished(), 0);
}

#[test]
fn a_port_that_says_nothing_is_given_up() {
    let (site, tpm) = Site::new("control-plane");
    site.admit(&tpm, 1);
    let command = Site::init(free_port().unwrap(), "").replace("--wait 20", "--wait 1");
    let error = site.operator.ends(&command, 4);
    assert!(error.contains("run the same command again"), "{error}");
}
