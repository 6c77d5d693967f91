//! Machines on one network, and loopback ports that lead to them.

use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use child_process::{Process, contained};
use vm::{Arguments, Forward, on_switch, switch};

use crate::machine::qemu;
use crate::workspace::{Workspace, free_port};

/// A program that is to listen does so at once.
const LISTEN: Duration = Duration::from_secs(10);

/// A switch, and what hands out addresses on it: 10.0.2.15 to the first machine that asks, then the next. With
/// the last clone all ways in end; the switch itself carries frames until this program ends.
#[derive(Clone, Debug)]
pub struct Lan {
    switch: PathBuf,
    _uplink: Arc<Process>,
}

impl Lan {
    /// With a port of this computer for each of these places.
    pub fn start(workspace: &Workspace, places: &[SocketAddrV4]) -> Result<(Self, Vec<u16>)> {
        let socket = workspace.file("switch.sock");
        let listens = socket.clone();
        // It has nothing that anybody could miss, and ends with this program.
        thread::spawn(move || switch::run(&listens));
        let end = Instant::now() + LISTEN;
        while !socket.exists() {
            ensure!(Instant::now() < end, "the switch does not listen");
            thread::sleep(Duration::from_millis(10));
        }
        let mut forwards = Vec::new();
        for &to in places {
            let port = free_port()?;
            forwards.push(Forward { port, to });
        }
        let qmp = workspace.file("uplink.qmp");
        let mut command = contained(qemu());
        command.args(Arguments::uplink(&qmp, &socket, &forwards).into_vec());
        let uplink = Process::spawn("uplink", command, &workspace.file("uplink.log"))?;
        let lan = Self {
            switch: socket,
            _uplink: Arc::new(uplink),
        };
        Ok((lan, forwards.iter().map(|forward| forward.port).collect()))
    }

    /// A card of the machine with this number.
    pub(crate) fn connect(&self, args: &mut Arguments, number: u8) {
        let mac = format!("52:54:00:c0:57:{number:02x}");
        args.card(&on_switch(&self.switch), Some(&mac));
    }
}
