//! Where a join service may be: `IP:port` or `name:port`, from a hint.

use platform::net::{ResolveError, is_host_name, resolve};
use serde::Deserialize;
use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
    time::Instant,
};

/// The most endpoints of one hint.
pub const MAX_ENDPOINTS: usize = 16;

/// One endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Endpoint {
    /// An address.
    Address(SocketAddr),
    /// A host name and a port.
    Name(String, u16),
}

/// A text that is no endpoint.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed endpoint: expected `IP:port` or `name:port`")]
pub struct MalformedEndpoint;

impl Endpoint {
    /// Its addresses; a name is looked up.
    ///
    /// # Errors
    /// [`ResolveError`] of a name.
    pub fn addresses(
        &self,
        servers: &[IpAddr],
        deadline: Instant,
    ) -> Result<Vec<SocketAddr>, ResolveError> {
        match self {
            Self::Address(address) => Ok(vec![*address]),
            Self::Name(name, port) => {
                let found = resolve(name, servers, deadline)?;
                Ok(found
                    .into_iter()
                    .map(|ip| SocketAddr::new(ip, *port))
                    .collect())
            }
        }
    }
}

impl FromStr for Endpoint {
    type Err = MalformedEndpoint;

    fn from_str(text: &str) -> Result<Self, MalformedEndpoint> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return reachable(address)
                .then_some(Self::Address(address))
                .ok_or(MalformedEndpoint);
        }
        let (name, port) = text.rsplit_once(':').ok_or(MalformedEndpoint)?;
        let port = port
            .parse()
            .ok()
            .filter(|port| *port != 0)
            .ok_or(MalformedEndpoint)?;
        // The last label of a name is never a number (RFC 3696, section 2): `10.0.0:1` is a
        // mistyped address.
        let last = name.rsplit('.').next().unwrap_or_default();
        let is_name = is_host_name(name) && !last.bytes().all(|b| b.is_ascii_digit());
        is_name
            .then(|| Self::Name(name.to_owned(), port))
            .ok_or(MalformedEndpoint)
    }
}

/// An address that a server can have.
fn reachable(address: SocketAddr) -> bool {
    let ip = address.ip();
    address.port() != 0 && !ip.is_unspecified() && !ip.is_multicast()
}

impl TryFrom<String> for Endpoint {
    type Error = MalformedEndpoint;

    fn try_from(text: String) -> Result<Self, MalformedEndpoint> {
        text.parse()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(name, port) => write!(f, "{name}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_names() {
        for good in [
            "10.0.2.2:30090",
            "[fd00::1]:1",
            "join.example.org:65535",
            "localhost:1",
            "a-1_b:2",
        ] {
            assert_eq!(good.parse::<Endpoint>().unwrap().to_string(), good);
        }
        assert_eq!(
            "1.2.3.4:5".parse(),
            Ok(Endpoint::Address(SocketAddr::from(([1, 2, 3, 4], 5))))
        );
    }

    #[test]
    fn everything_else_is_malformed() {
        for bad in [
            "",
            ":",
            "a",
            "a:",
            ":1",
            "a:0",
            "a:65536",
            "a:-1",
            "a b:1",
            "a/b:1",
            "10.0.0:1",
            "1.2.3.4:0",
            "0.0.0.0:1",
            "[::]:1",
            "224.0.0.1:1",
            "fd00::1:1",
            "[fd00::1]",
            "a\n:1",
            "http://a:1",
            "..:1",
            "256.1.1.1:1",
        ] {
            assert_eq!(bad.parse::<Endpoint>(), Err(MalformedEndpoint), "{bad:?}");
        }
    }
}
