//! The way to a join service: a configured link, hints, addresses. All of it the host's word, all
//! of it refreshed while the node waits.

use crate::{
    console::step,
    endpoints::Endpoint,
    exit::{ExitReason, Failure, chain, exits},
    hints::{FW_CFG, Hints, HintsError, METADATA_URL, fetch, read_fw_cfg},
    unlock::Way,
};
use platform::net::{Backoff, Network, NetworkError, configure};
use platform::random;
use std::{
    net::SocketAddr,
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

/// One attempt on the network: links, DHCP and routers together.
const BUDGET: Duration = Duration::from_secs(10);

/// All name lookups of one refresh together.
const LOOKUP_TIME: Duration = Duration::from_secs(4);

/// How long known addresses are used before names are looked up and hints read again.
const REFRESH: Duration = Duration::from_secs(30);

/// The pause while there is nobody to dial.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What is known about the way.
#[derive(Debug)]
pub struct Guide {
    network: Network,
    renew_at: Instant,
    hints: Hints,
    backoff: Backoff,
}

impl Guide {
    /// Waits until the network is there, however late it comes, and reads the hints.
    ///
    /// # Errors
    /// [`ExitReason::Network`] when the kernel, not the network, refuses.
    pub fn find() -> Result<Self, Failure> {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        let network = loop {
            match configure(BUDGET) {
                Ok(network) => break network,
                Err(error @ (NetworkError::NoLink { .. } | NetworkError::NoAddress { .. })) => {
                    step("network").with_text("error", &chain(&error)).end();
                    sleep(pause(&mut backoff)?);
                }
                Err(error) => return Err(exits(ExitReason::Network)(error)),
            }
        };
        report(&network);
        Ok(Self {
            renew_at: renew_at(&network),
            network,
            hints: read_hints(),
            backoff: Backoff::new(FIRST_PAUSE, LONGEST_PAUSE),
        })
    }

    const fn lacks(&self, needs_name: bool) -> bool {
        self.hints.endpoints.is_empty() || (needs_name && self.hints.node_name.is_none())
    }

    fn look_up(&self) -> Vec<SocketAddr> {
        let deadline = Instant::now() + LOOKUP_TIME;
        let servers = self.network.name_servers();
        let mut addresses = Vec::new();
        for endpoint in &self.hints.endpoints {
            match endpoint.addresses(&servers, deadline) {
                Ok(found) => addresses.extend(found),
                Err(error) => report_lookup(endpoint, &error),
            }
        }
        addresses
    }

    /// A lease that cannot be renewed is kept: giving the address up would only lose the network.
    fn renew_lease(&mut self) {
        if Instant::now() < self.renew_at {
            return;
        }
        match configure(BUDGET) {
            Ok(network) => {
                report(&network);
                self.network = network;
            }
            Err(error) => step("network").with_text("error", &chain(&error)).end(),
        }
        self.renew_at = renew_at(&self.network);
    }
}

impl Way for Guide {
    fn hints(&self) -> &Hints {
        &self.hints
    }

    /// Also renews the lease when it is half over. Fails only without random bytes.
    fn addresses(&mut self, needs_name: bool) -> Result<(Vec<SocketAddr>, Duration), Failure> {
        self.renew_lease();
        if self.lacks(needs_name) {
            self.hints = read_hints();
        }
        let addresses = match self.lacks(needs_name) {
            true => Vec::new(),
            false => self.look_up(),
        };
        let named = !needs_name || self.hints.node_name.is_some();
        step("round")
            .with("endpoints", self.hints.endpoints.len())
            .with("addresses", addresses.len())
            .with("node_name", if named { "known" } else { "missing" })
            .end();
        if addresses.is_empty() {
            return Ok((addresses, pause(&mut self.backoff)?));
        }
        self.backoff.reset();
        Ok((addresses, REFRESH))
    }
}

fn renew_at(network: &Network) -> Instant {
    Instant::now() + network.renew_after()
}

fn pause(backoff: &mut Backoff) -> Result<Duration, Failure> {
    let random = random::array().map_err(exits(ExitReason::Network))?;
    Ok(backoff.pause(u32::from_ne_bytes(random)))
}

fn report(network: &Network) {
    let mut line = step("network").with("link", &network.link.name);
    if let Some(lease) = &network.lease {
        let address = format!("{}/{}", lease.address, lease.prefix_len);
        line = line.with("address", address);
    }
    if let Some(advert) = &network.advertisement {
        line = line.with("address", format!("{}/64", advert.address));
    }
    line.with("name_servers", network.name_servers().len())
        .end();
}

fn report_lookup(endpoint: &Endpoint, error: &platform::net::ResolveError) {
    step("lookup")
        .with("endpoint", endpoint)
        .with_text("error", &chain(error))
        .end();
}

/// The host's file first; the metadata service is asked only while that names no endpoint, so that
/// a machine without one does not wait for it.
fn read_hints() -> Hints {
    let hints = usable("fw-cfg", read_fw_cfg(Path::new(FW_CFG)));
    if !hints.endpoints.is_empty() {
        return hints;
    }
    hints.or(usable("metadata", fetch(METADATA_URL).map(Some)))
}

fn usable(source: &str, bytes: Result<Option<Vec<u8>>, HintsError>) -> Hints {
    let ignored = |what: &str| {
        step("hints")
            .with("source", source)
            .with_text("ignored", what)
            .end()
    };
    let parsed = match bytes {
        Ok(Some(bytes)) => Hints::parse(&bytes, ignored),
        Ok(None) => return Hints::default(),
        Err(error) => Err(error),
    };
    match parsed {
        Ok(hints) => {
            step("hints")
                .with("source", source)
                .with("endpoints", hints.endpoints.len())
                .with(
                    "node_name",
                    hints.node_name.as_ref().map_or("-", |name| name.as_str()),
                )
                .with(
                    "role",
                    hints
                        .role
                        .map_or_else(|| "-".to_owned(), |role| role.to_string()),
                )
                .end();
            hints
        }
        Err(error) => {
            step("hints")
                .with("source", source)
                .with_text("error", &chain(&error))
                .end();
            Hints::default()
        }
    }
}
