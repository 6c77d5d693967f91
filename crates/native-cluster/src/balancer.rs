//! What stands before the API servers of a cluster with several control-plane nodes: an address that is
//! no node's, and somebody behind it who answers.

use anyhow::{Context as _, Result};
use native_kubernetes::Network;
use std::{
    io,
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

/// The port of API servers, before and behind.
const PORT: u16 = 6443;

/// How long a node that is off is waited for.
const CONNECT: Duration = Duration::from_millis(500);

/// Carries connections to the first node of a list that takes them. Ends with the program.
#[derive(Debug, Clone)]
pub(crate) struct Balancer(Arc<Mutex<Vec<Ipv4Addr>>>);

impl Balancer {
    /// Where it listens.
    pub(crate) fn endpoint() -> String {
        format!("{}:{PORT}", Network::GATEWAY)
    }

    /// Listens on the gateway's address.
    pub(crate) fn start(network: &Network) -> Result<Self> {
        let balancer = Self(Arc::default());
        let own = balancer.clone();
        // Threads are born in the network of the one that starts them.
        network
            .inside(move || {
                let listener = TcpListener::bind((Network::GATEWAY, PORT))?;
                thread::spawn(move || own.serve(&listener));
                Ok::<_, io::Error>(())
            })?
            .context("listen before the API servers")?;
        Ok(balancer)
    }

    /// Adds a node.
    pub(crate) fn add(&self, node: Ipv4Addr) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(node);
    }

    fn serve(&self, listener: &TcpListener) {
        while let Ok((client, _)) = listener.accept() {
            let own = self.clone();
            // A connection that breaks is the two programs' matter.
            thread::spawn(move || drop(own.carry(&client)));
        }
    }

    fn carry(&self, client: &TcpStream) -> io::Result<()> {
        let nodes = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let connect = |node: &Ipv4Addr| {
            TcpStream::connect_timeout(&SocketAddr::from((*node, PORT)), CONNECT).ok()
        };
        let Some(server) = nodes.iter().find_map(connect) else {
            return Ok(());
        };
        let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
        thread::spawn(move || {
            drop(io::copy(&mut from_client, &mut to_server));
            drop(to_server.shutdown(Shutdown::Write));
        });
        let (mut from_server, mut to_client) = (server, client);
        drop(io::copy(&mut from_server, &mut to_client));
        to_client.shutdown(Shutdown::Both)
    }
}
