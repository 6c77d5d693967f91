//! `make e2e-snp`: a cluster of guests that believe to be SEV-SNP guests, with the OS image of that kind.
//!
//! A test init before the agent provides `/dev/sev-guest`; a development root is in AMD's place. All else
//! is as on an SNP host: a direct boot, no TPM, the launch measurement as the only identity of what runs.

use anyhow::{Context as _, Result, bail, ensure};
use kubernetes_binaries::Kubernetes;
use qemu_tests::{
    Boot, Chip, Chronicle, Cli, Disk, Documents, Image, Lan, Machine, MachineConfig, SnpGuest,
    Timeline, Workspace, development_root, policy, run,
};
use serde_json::json;
use software_snp::Product;
use std::{
    fs,
    net::{Ipv4Addr, SocketAddrV4},
    path::PathBuf,
    process::Command,
    time::Duration,
};

use crate::{
    objects::{self, HOST_CREDENTIAL},
    operator::{PATIENCE, apply, follow, show, until},
};

/// Exit status of `verify` when a node does not answer (docs/verify.md).
const UNAVAILABLE: i32 = 4;

const EVIDENCE: &str = "sev-snp";

/// The image's folder and its name in the reference values.
const IMAGE: &str = "os-sev-snp";

/// As QEMU's user network hands them out.
const CONTROL: Seat = Seat::new("control-0", 15);
const WORKER: Seat = Seat::new("worker-1", 16);

const MEMORY_MIB: u32 = 3072;
const PROCESSORS: u8 = 2;
const STATE_MIB: u64 = 16 * 1024;

/// What the host offers: a line of `tmpfiles.d(5)`, which makes [`objects::HOST_FILE`].
const CREDENTIAL: &str = "f /run/taken-from-the-host 0644 root root - -";

/// Where the data of a state disk begins (docs/state-disk.md).
const DATA: u64 = 16 << 20;

/// Until a booting machine has its address.
const BOOT: Duration = Duration::from_secs(180);

/// How long `init` and `recover` try to reach the agent, in seconds.
const WAIT: &str = "300";

/// A node's name and the last number of its address.
#[derive(Clone, Copy)]
struct Seat {
    name: &'static str,
    number: u8,
}

impl Seat {
    const fn new(name: &'static str, number: u8) -> Self {
        Self { name, number }
    }

    const fn address(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, 2, self.number)
    }

    const fn port(self, port: u16) -> SocketAddrV4 {
        SocketAddrV4::new(self.address(), port)
    }
}

/// Loopback ports.
struct Ports {
    agent: u16,
    api: u16,
    control: u16,
    worker: u16,
}

pub(crate) struct Story {
    workspace: Workspace,
    guest: SnpGuest,
    boot: Boot,
    chip: Chip,
    cli: Cli,
    documents: Documents,
    lan: Lan,
    ports: Ports,
    kubectl: PathBuf,
    /// Those that are on. Consoles go with them.
    machines: Vec<Machine>,
    chronicle: Chronicle,
}

impl Story {
    pub(crate) fn begin() -> Result<Self> {
        let chronicle = Chronicle::begin();
        let workspace = Workspace::create("e2e-snp")?;
        let guest = SnpGuest::of(Image::of(IMAGE)?, PROCESSORS, &workspace)?;
        let chip = Chip::new(&development_root("own")?, Product::Milan, 1);
        let cli = Cli::new(&workspace.subdir("owner")?)?;
        let owner = cli.owner_new()?;
        let owner = owner["fingerprint"].as_str().context("a fingerprint")?;
        let boot = guest.boot(EVIDENCE, &format!("constellation.owner={owner}"))?;
        let documents = sign(&cli, &guest, &boot, &chip)?;
        let places = [
            CONTROL.port(30091),
            CONTROL.port(6443),
            CONTROL.port(30081),
            WORKER.port(30081),
        ];
        let (lan, ports) = Lan::start(&workspace, &places)?;
        let [agent, api, control, worker] = ports[..] else {
            bail!("a port for each place");
        };
        let ports = Ports {
            agent,
            api,
            control,
            worker,
        };
        for seat in [CONTROL, WORKER] {
            Disk::blank_state(&workspace.file(&state(seat)), STATE_MIB)?;
        }
        Ok(Self {
            workspace,
            guest,
            boot,
            chip,
            cli,
            documents,
            lan,
            ports,
            kubectl: Kubernetes::find()?.program("kubectl"),
            machines: Vec::new(),
            chronicle,
        })
    }

    pub(crate) fn tell(&mut self) -> Result<()> {
        self.switch_on(CONTROL, "init", &self.boot.clone())?;
        self.chronicle.point("a guest waits for its init");
        follow(&mut self.init())?;
        self.chronicle.point("init: the guest is a control plane");
        self.refused_image()?;
        self.switch_on(WORKER, "join", &self.boot.clone())?;
        until("the worker is ready", || self.is_ready(WORKER))?;
        self.chronicle.point("a worker joins");
        self.verify()?;
        self.chronicle.point("both are verified by their reports");
        self.credentials()?;
        let before = [self.kernel_boot(CONTROL)?, self.kernel_boot(WORKER)?];
        self.machines.clear();
        let old = self.disk(WORKER).copy_to(&self.workspace.file("old.raw"))?;
        self.switch_on(CONTROL, "recover", &self.boot.clone())?;
        follow(&mut self.recover())?;
        self.switch_on(WORKER, "rejoin", &self.boot.clone())?;
        for (seat, before) in [CONTROL, WORKER].into_iter().zip(before) {
            until("a node is back", || {
                Ok(self.kernel_boot(seat)? != before && self.is_ready(seat)?)
            })?;
        }
        self.verify()?;
        self.chronicle
            .point("all off; recover; both are back and verified");
        self.old_disk(&old)
    }

    /// The worker's host puts back an older state disk, then only what is behind its header.
    fn old_disk(&mut self, old: &Disk) -> Result<()> {
        self.machines.pop();
        let newest = self.workspace.file("newest.raw");
        let newest = self.disk(WORKER).copy_to(&newest)?;
        old.copy_to(&self.workspace.file(&state(WORKER)))?;
        self.switch_on(WORKER, "old-disk", &self.boot.clone())?;
        self.expect_exit("header-too-old")?;
        self.chronicle
            .point("an older state disk is put back: refused");
        newest.copy_to(&self.workspace.file(&state(WORKER)))?;
        self.disk(WORKER).put_back(old, DATA)?;
        self.switch_on(WORKER, "old-data", &self.boot.clone())?;
        let machine = self.machines.last_mut().context("it is on")?;
        let reported = "state: old data, or boots that ended";
        machine.console.expect(reported, PATIENCE)?;
        self.chronicle
            .point("older data behind the newest header: reported");
        Ok(())
    }

    /// A guest with another command line, which is another launch measurement.
    fn refused_image(&mut self) -> Result<()> {
        let Boot::Kernel {
            kernel,
            initrd,
            cmdline,
        } = self.boot.clone()
        else {
            bail!("only a direct boot is measured");
        };
        let other = Boot::Kernel {
            kernel,
            initrd,
            cmdline: format!("{cmdline} demo.release=unknown"),
        };
        self.switch_on(WORKER, "refused", &other)?;
        self.expect_exit("refused")?;
        self.chronicle
            .point("a guest with another command line: refused");
        Ok(())
    }

    /// Waits until the machine that was switched on last ends its boot for this reason (docs/agent.md).
    fn expect_exit(&mut self, reason: &str) -> Result<()> {
        let mut machine = self.machines.pop().context("it is on")?;
        let exit = machine.console.expect_exit(PATIENCE)?;
        ensure!(exit.reason == reason, "it ended as {exit:?}");
        Ok(())
    }

    fn disk(&self, seat: Seat) -> Disk {
        Disk::state(&self.workspace.file(&state(seat)))
    }

    /// The worker's host offers credentials; its system takes none.
    fn credentials(&mut self) -> Result<()> {
        let name = "look-for-credentials";
        let look = objects::look_for_credentials(name, WORKER.name);
        apply(self.kubectl(), &look)?;
        let mut seen = String::new();
        until("the worker is looked at", || {
            seen = run(self.kubectl().args(["logs", name]))?;
            Ok(seen.trim_end().ends_with(objects::LOOKED))
        })?;
        let lists: Vec<_> = seen.split(objects::RULE).map(str::trim).collect();
        let [offered, taken, _] = lists[..] else {
            bail!("three lists: {seen}");
        };
        let (smbios, fw_cfg) = offered.split_once('\n').context("offers in two places")?;
        ensure!(smbios != "0" && fw_cfg == CREDENTIAL, "offered: {offered}");
        ensure!(taken.is_empty(), "taken from the host: {taken}");
        self.chronicle
            .point("the host offers credentials: none is taken");
        Ok(())
    }

    /// Boots a machine and waits until it has its address.
    fn switch_on(&mut self, seat: Seat, label: &str, boot: &Boot) -> Result<()> {
        let behaviour = self.chip.guest(self.guest.measurement(boot)?)?;
        let mut config: MachineConfig = self.guest.machine(boot.clone(), &behaviour)?;
        config.memory_mib = MEMORY_MIB;
        config.lan = Some((self.lan.clone(), seat.number));
        config.disks = vec![
            Disk::root(&self.guest.image().root()),
            self.disk(seat).without_flushes(),
        ];
        if seat.name == WORKER.name {
            let hints = json!({
                "endpoints": [CONTROL.port(30090).to_string()],
                "node_name": seat.name, "role": "worker",
            });
            config.hints = Some(hints.to_string());
            let file = format!("{CREDENTIAL}\n");
            config.fw_cfg.push((HOST_CREDENTIAL.into(), file));
            let smbios = format!("io.systemd.credential:tmpfiles.extra={CREDENTIAL}");
            config.oem_strings = vec![smbios];
        }
        let mut machine = config.start(&format!("{}.{label}", seat.name))?;
        let address = format!("address={}/", seat.address());
        machine.console.expect(&address, BOOT)?;
        self.machines.push(machine);
        Ok(())
    }

    fn init(&self) -> Command {
        let mut command = self.verb(&["init"]);
        command.arg(format!("127.0.0.1:{}", self.ports.agent));
        command.args(["--node-name", CONTROL.name, "--wait", WAIT, "--endpoint"]);
        command.arg(CONTROL.port(6443).to_string());
        command
            .arg("--workspace")
            .arg(self.workspace.file("cluster"));
        self.sign(&mut command);
        self.judge(&mut command);
        command
    }

    fn recover(&self) -> Command {
        let mut command = self.verb(&["recover"]);
        command.arg(format!("127.0.0.1:{}", self.ports.agent));
        command.args(["--wait", WAIT]);
        for (flag, name) in [
            ("--records", "nodes.json"),
            ("--master-secret", "master-secret.key"),
            ("--cluster", "cluster.json"),
        ] {
            command.arg(flag).arg(self.cluster(name));
        }
        self.sign(&mut command);
        self.judge(&mut command);
        command
    }

    /// `constellation verify` of both, once both answer.
    fn verify(&self) -> Result<()> {
        let command = |output: &str| {
            let mut command = Command::new(self.cli.program());
            command.args(["--output", output, "verify"]);
            command.arg(format!("{}=127.0.0.1:{}", CONTROL.name, self.ports.control));
            command.arg(format!("{}=127.0.0.1:{}", WORKER.name, self.ports.worker));
            command.arg("--owner").arg(self.cli.file("owner.pub"));
            command.arg("--cluster").arg(self.cluster("cluster.json"));
            self.judge(&mut command);
            command
        };
        until("both nodes answer", || {
            Ok(command("json").output()?.status.code() != Some(UNAVAILABLE))
        })?;
        show(&mut command("human"))
    }

    fn is_ready(&self, seat: Seat) -> Result<bool> {
        let ready = r#"jsonpath={.status.conditions[?(@.type=="Ready")].status}"#;
        Ok(self.of_node(seat, ready)? == "True")
    }

    fn kernel_boot(&self, seat: Seat) -> Result<String> {
        self.of_node(seat, "jsonpath={.status.nodeInfo.bootID}")
    }

    fn of_node(&self, seat: Seat, what: &str) -> Result<String> {
        run(self.kubectl().args(["get", "node", seat.name, "-o", what]))
    }

    fn kubectl(&self) -> Command {
        let mut command = Command::new(&self.kubectl);
        command.arg("--kubeconfig").arg(self.cluster("kubeconfig"));
        let server = format!("https://127.0.0.1:{}", self.ports.api);
        command.args(["--server", &server, "--tls-server-name", "kubernetes"]);
        command
    }

    fn cluster(&self, name: &str) -> PathBuf {
        self.workspace.file("cluster").join(name)
    }

    fn verb(&self, words: &[&str]) -> Command {
        let mut command = Command::new(self.cli.program());
        command.args(["--output", "json"]).args(words);
        command
    }

    fn sign(&self, command: &mut Command) {
        command.arg("--owner-key").arg(self.cli.file("owner.key"));
        command
            .arg("--passphrase-file")
            .arg(self.cli.passphrase_file());
    }

    fn judge(&self, command: &mut Command) {
        command.arg("--policy").arg(&self.documents.policy);
        let values = &self.documents.reference_values;
        command.arg("--reference-values").arg(values);
    }

    pub(crate) fn timeline(&self) -> Timeline {
        self.chronicle.timeline()
    }

    pub(crate) fn passed(self) -> Result<()> {
        drop(self.machines);
        self.workspace.passed()
    }
}

fn state(seat: Seat) -> String {
    format!("{}.state.raw", seat.name)
}

/// The chip's root in AMD's place; this boot, in both roles.
fn sign(cli: &Cli, guest: &SnpGuest, boot: &Boot, chip: &Chip) -> Result<Documents> {
    let (rules, values) = (cli.file("policy.json"), cli.file("reference-values.json"));
    fs::write(&rules, policy(EVIDENCE, chip)?.to_string())?;
    let measurements = cli.file("measurements.json");
    fs::write(&measurements, guest.measure(cli, boot)?.to_string())?;
    let roles = ["control-plane", "worker"];
    cli.reference_values_add(&values, IMAGE, &roles, &measurements)?;
    let documents = Documents {
        policy: cli.file("policy.signed.json"),
        reference_values: cli.file("reference-values.signed.json"),
    };
    cli.policy_sign(&rules, &documents.policy)?;
    cli.reference_values_sign(&values, &documents.reference_values)?;
    Ok(documents)
}
