//! Starts an isolated node, says where it is, and holds it until it is killed; needs root.
//!
//! `cargo run -p native-kubernetes`, and then as it says.

use native_kubernetes::{IsolatedNode, Kubernetes, Network};
use std::thread;

fn main() -> anyhow::Result<()> {
    let network = Network::start()?;
    let node = IsolatedNode::start(&Kubernetes::find()?, &network, "node-0", 1)?;
    println!("{}", node.folder().display());
    let shell = node.command("bash")?;
    let words: Vec<_> = shell
        .get_args()
        .map(|word| word.to_string_lossy())
        .collect();
    println!("a shell in it: setpriv {}", words.join(" "));
    loop {
        thread::park();
    }
}
