//! Two isolated nodes become a cluster by plain kubeadm, and nothing of them stays. Needs root.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use native_kubernetes::{
    IsolatedNode, Kubernetes, Network, init, join, kubectl, kubernetes_images, may_isolate,
};
use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// How long a node may take to be ready after it joined.
const PATIENCE: Duration = Duration::from_secs(120);

/// What all of the machine shares and a kubelet, or a node's network, would change.
fn shared_settings() -> Vec<String> {
    let settings = [
        "kernel/hostname",
        "kernel/keys/root_maxkeys",
        "kernel/panic",
        "kernel/panic_on_oops",
        "net/ipv4/ip_forward",
        "vm/overcommit_memory",
        "vm/panic_on_oom",
    ];
    let read = |name| fs::read_to_string(Path::new("/proc/sys").join(name)).unwrap();
    let mut found: Vec<_> = settings.into_iter().map(read).collect();
    let interfaces = fs::read_dir("/sys/class/net").unwrap();
    found.extend(interfaces.map(|entry| entry.unwrap().path().display().to_string()));
    found.sort();
    found
}

/// What is left of nodes by the names of their control groups, which their folders have too.
fn remains(nodes: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    let hierarchies = fs::read_dir("/sys/fs/cgroup").unwrap();
    let hierarchies = hierarchies.map(|entry| entry.unwrap().path());
    for parent in hierarchies.chain(["/sys/fs/cgroup".into(), std::env::temp_dir()]) {
        let paths = nodes.iter().map(|node| parent.join(node));
        let left = paths.filter(|path| path.exists());
        found.extend(left.map(|path| path.display().to_string()));
    }
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let left = mounts
        .lines()
        .filter(|mount| nodes.iter().any(|node| mount.contains(node)));
    found.extend(left.map(str::to_owned));
    found
}

#[test]
fn two_nodes_become_ready_and_leave_nothing() {
    if !may_isolate() {
        return;
    }
    let before = shared_settings();
    let kubernetes = Kubernetes::find().unwrap();
    let started = Instant::now();
    let say = |what: &str| println!("{:>6.1?} {what}", started.elapsed());

    let network = Network::start().unwrap();
    let mut first = IsolatedNode::start(&kubernetes, &network, "control-plane-0", 1).unwrap();
    let mut second = IsolatedNode::start(&kubernetes, &network, "worker-0", 2).unwrap();
    say("nodes are up");
    let images = kubernetes_images(&kubernetes, first.folder()).unwrap();
    for node in [&first, &second] {
        for image in &images {
            node.import(image).unwrap();
        }
    }
    say("images are imported");
    let ticket = init(&mut first, kubernetes.version()).unwrap();
    say("kubeadm init is done");
    join(&mut second, kubernetes.version(), &ticket).unwrap();
    say("kubeadm join is done");
    let joined = Instant::now();
    loop {
        let nodes = kubectl(&first, &["get", "nodes", "--no-headers"]).unwrap();
        let ready = nodes
            .lines()
            .filter(|line| line.contains(" Ready "))
            .count();
        if ready == 2 {
            break;
        }
        assert!(joined.elapsed() < PATIENCE, "not ready: {nodes}");
        thread::sleep(Duration::from_millis(200));
    }
    say("both nodes are ready");

    // The operator's side: a thread in the nodes' network.
    let address = (first.address(), 6443);
    let connect = || std::net::TcpStream::connect(address).is_ok();
    assert!(network.inside(connect).unwrap());

    let names = [&first, &second].map(|node| node.cgroup().to_owned());
    assert!(
        !remains(&names).is_empty(),
        "the check looks at the wrong places"
    );
    drop((first, second, network));
    say("all is gone");
    assert_eq!(remains(&names), Vec::<String>::new());
    assert_eq!(shared_settings(), before);
}

/// What is on the disk survives a power cut, and nothing else.
#[test]
fn a_node_boots_again_from_its_disk() {
    if !may_isolate() {
        return;
    }
    let kubernetes = Kubernetes::find().unwrap();
    let network = Network::start().unwrap();
    let mut node = IsolatedNode::start(&kubernetes, &network, "node-0", 7).unwrap();
    node.write("/etc/kubernetes/kept", "on the disk").unwrap();
    node.write("/run/lost", "in memory").unwrap();
    assert!(
        !Path::new("/etc/kubernetes/kept").exists(),
        "the machine's own files are changed"
    );
    assert_eq!(node.run(&["hostname"]).unwrap().trim(), "node-0");
    let mut sleeper = node.command("sleep").unwrap();
    sleeper.arg("1000");
    let mut sleeper = node.spawn("sleeper", sleeper).unwrap();

    node.power_off().unwrap();
    assert!(
        sleeper.wait(Duration::from_secs(5)).is_ok(),
        "a process outlives the power"
    );
    assert!(node.run(&["true"]).is_err());
    node.power_on(&network).unwrap();
    assert_eq!(node.read("/etc/kubernetes/kept").unwrap(), "on the disk");
    assert!(node.read("/run/lost").is_err());
}

/// A program that is killed takes its nodes' processes with it; the rest goes with the next node.
#[test]
fn what_a_killed_program_left_is_removed() {
    if !may_isolate() {
        return;
    }
    let mut program = Command::new(env!("CARGO_BIN_EXE_isolated-node"));
    let mut program = program.stdout(Stdio::piped()).spawn().unwrap();
    let mut folder = String::new();
    // Held, or the program would end by itself at its next word.
    let mut output = BufReader::new(program.stdout.take().unwrap());
    output.read_line(&mut folder).unwrap();
    let folder = PathBuf::from(folder.trim());
    let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
    assert!(!processes_with(&name).is_empty(), "no node is there");
    program.kill().unwrap();
    program.wait().unwrap();
    let end = Instant::now() + Duration::from_secs(10);
    while !processes_with(&name).is_empty() {
        assert!(Instant::now() < end, "{:?}", processes_with(&name));
        thread::sleep(Duration::from_millis(50));
    }

    let network = Network::start().unwrap();
    let next = IsolatedNode::start(&Kubernetes::find().unwrap(), &network, "next", 1).unwrap();
    assert_eq!(remains(&[name]), Vec::<String>::new());
    drop(next);
}

/// Processes whose command line has this text.
fn processes_with(text: &str) -> Vec<String> {
    let processes = fs::read_dir("/proc").unwrap();
    let lines = processes.filter_map(|entry| {
        let line = fs::read(entry.ok()?.path().join("cmdline")).ok()?;
        Some(String::from_utf8_lossy(&line).into_owned())
    });
    lines.filter(|line| line.contains(text)).collect()
}
