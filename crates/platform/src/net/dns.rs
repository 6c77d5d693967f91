//! The one lookup the initramfs needs: a name to addresses, over UDP, from the name servers the
//! link was given.
//!
//! Answers are hints: whoever stands behind an address must prove itself in the attested channel.

mod query;

pub use query::{Family, Query, encode_name, is_host_name};

use crate::random::{self, RandomError};
use query::MAX_MESSAGE;
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

/// How long one server may take for one question before the next is asked.
const ANSWER_TIME: Duration = Duration::from_millis(1500);

/// A name that led to no address.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// Not a host name.
    #[error(
        "malformed host name: expected labels of 1 to 63 letters, digits, `-` or `_`, 253 in all"
    )]
    MalformedName,
    /// The link has no name server.
    #[error("no name server to ask")]
    NoServer,
    /// The servers know the name and it has no address, or say that it does not exist.
    #[error("name has no address")]
    NoAddress,
    /// No usable answer before the deadline.
    #[error("no usable answer from {servers} name servers")]
    NoAnswer {
        /// How many were asked.
        servers: usize,
    },
    /// No random bytes for the question's id.
    #[error("make a question id")]
    Random(#[source] RandomError),
}

/// Looks `name` up, asking `servers` in turn until `deadline`; IPv4 addresses come first.
///
/// # Errors
/// [`ResolveError`]; only the malformed name is final, everything else may pass.
pub fn resolve(
    name: &str,
    servers: &[IpAddr],
    deadline: Instant,
) -> Result<Vec<IpAddr>, ResolveError> {
    let name = encode_name(name).ok_or(ResolveError::MalformedName)?;
    if servers.is_empty() {
        return Err(ResolveError::NoServer);
    }
    let mut answered = false;
    let mut addresses = Vec::new();
    for family in [Family::V4, Family::V6] {
        if let Some(found) = ask_any(&name, family, servers, deadline)? {
            answered = true;
            addresses.extend(found);
        }
    }
    match (addresses.is_empty(), answered) {
        (false, _) => Ok(addresses),
        (true, true) => Err(ResolveError::NoAddress),
        (true, false) => Err(ResolveError::NoAnswer {
            servers: servers.len(),
        }),
    }
}

/// The first answer that any server gives; `None` when none does in time.
fn ask_any(
    name: &[u8],
    family: Family,
    servers: &[IpAddr],
    deadline: Instant,
) -> Result<Option<Vec<IpAddr>>, ResolveError> {
    for server in servers {
        let until = deadline.min(Instant::now() + ANSWER_TIME);
        let id = random::array().map_err(ResolveError::Random)?;
        let query = Query {
            id: u16::from_be_bytes(id),
            name,
            family,
        };
        // An unreachable server is one more that does not answer.
        if let Ok(Some(found)) = ask(&query, SocketAddr::new(*server, 53), until) {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn ask(query: &Query<'_>, server: SocketAddr, until: Instant) -> io::Result<Option<Vec<IpAddr>>> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(server)?;
    socket.send(&query.encode())?;
    let mut message = [0; MAX_MESSAGE];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        socket.set_read_timeout(Some(left))?;
        let len = match socket.recv(&mut message) {
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        };
        if let Some(found) = query.parse_answer(&message[..len]) {
            return Ok(Some(found));
        }
    }
}

#[cfg(test)]
mod tests;
