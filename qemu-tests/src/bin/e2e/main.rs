//! `make e2e`: the whole story on virtual machines, with the OS image and the programs that users run.
//!
//! `e2e cluster` stops when the cluster is up and shown; `e2e` goes on to the end and prints a
//! timeline; `e2e snp` tells a shorter one of SEV-SNP guests. Everything goes through `constellation`, `kubectl`
//! and the consoles.

mod measured;
mod objects;
mod operator;
mod snp;
mod sockets;
mod story;

use anyhow::{Result, bail};
use operator::Operator;
use qemu_tests::Mini;
use story::Story;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["cluster", image] => show(image),
        ["snp"] => tell_of_snp(),
        [image] => tell(image),
        _ => bail!("usage: e2e IMAGE-FOLDER, e2e cluster IMAGE-FOLDER, e2e snp"),
    }
}

/// Brings a cluster up in the user's own folder, and leaves it running.
fn show(image: &str) -> Result<()> {
    let operator = Operator::of(Mini::of_user()?)?;
    operator.mini(&["up", "--image", image])?;
    operator.kubectl_shown(&["get", "nodes", "-o", "wide"])?;
    operator.verify_shown()
}

/// Tells the story in a folder of its own; everything ends with it.
fn tell(image: &str) -> Result<()> {
    let mut story = Story::begin(image)?;
    let told = story.tell();
    println!("{}", story.timeline());
    if let Err(error) = told {
        println!("{}", story.consoles());
        if let Err(other) = story.end() {
            println!("and the machines are not switched off: {other:#}");
        }
        return Err(error);
    }
    story.end()?;
    story.passed()?;
    println!("e2e: ok");
    Ok(())
}

fn tell_of_snp() -> Result<()> {
    let mut story = snp::Story::begin()?;
    let told = story.tell();
    println!("{}", story.timeline());
    told?;
    story.passed()?;
    println!("e2e-snp: ok");
    Ok(())
}
