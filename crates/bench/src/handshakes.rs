//! Bare mutual TLS handshakes with the configuration of attested TLS, and nothing after them.

use crate::process::ProcessId;
use anyhow::{Context as _, Result, ensure};
use attested_tls::TlsEnd;
use qemu_tests::{Process, Workspace, contained};
use rustls::{ClientConfig, ClientConnection, pki_types::ServerName};
use std::{
    env,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    sync::Arc,
};
use tokio::{io::AsyncWriteExt as _, net::TcpListener};
use tokio_rustls::TlsAcceptor;

/// Serves handshakes as the services do, a task each on a runtime with a thread for each
/// processor, until standard input ends. Prints its port first.
pub(crate) fn serve() -> Result<()> {
    let acceptor = TlsAcceptor::from(TlsEnd::generate()?.bare_server());
    let runtime = tokio::runtime::Runtime::new()?;
    let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
    println!("{}", listener.local_addr()?.port());
    runtime.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                if let Ok(mut tls) = acceptor.accept(stream).await {
                    // The client waits for this end: then the whole handshake has been paid for.
                    drop(tls.shutdown().await);
                }
            });
        }
    });
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(())
}

/// A running [`serve`].
#[derive(Debug)]
pub(crate) struct Server {
    process: Process,
    address: SocketAddr,
    client: Arc<ClientConfig>,
}

impl Server {
    /// Starts this very program as a server.
    pub(crate) fn start(workspace: &Workspace) -> Result<Self> {
        let mut command = contained(env::current_exe()?);
        command
            .arg("serve-handshakes")
            .stdin(std::process::Stdio::piped());
        let log = workspace.file("handshakes.log");
        let mut process = Process::spawn_piped("handshakes", command, &log)?;
        let stdout = process.take_stdout().context("no standard output")?;
        let mut port = String::new();
        BufReader::new(stdout).read_line(&mut port)?;
        let port: u16 = port.trim().parse().context("the server's port")?;
        Ok(Self {
            process,
            address: (Ipv4Addr::LOCALHOST, port).into(),
            client: TlsEnd::generate()?.bare_client(),
        })
    }

    /// The server's process.
    pub(crate) fn id(&self) -> ProcessId {
        ProcessId(self.process.id())
    }

    /// One handshake, to the end of the connection.
    pub(crate) fn handshake(&self) -> Result<()> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from("constellation")?;
        let mut connection = ClientConnection::new(self.client.clone(), name)?;
        let mut tls = rustls::Stream::new(&mut connection, &mut stream);
        tls.flush()?;
        ensure!(tls.read(&mut [0])? == 0, "the server sent something");
        Ok(())
    }
}
