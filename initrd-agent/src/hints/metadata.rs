//! Hints from a cloud's HTTP metadata service.

use super::{HintsError, MAX_LEN};
use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};
use ureq::{
    Agent,
    config::Config,
    http::Uri,
    unversioned::{
        resolver::{ResolvedSocketAddrs, Resolver},
        transport::{DefaultConnector, NextTimeout},
    },
};

/// The link-local address that clouds serve metadata on.
pub const URL: &str = "http://169.254.169.254/constellation/v1/hints";

/// A metadata service is on the same machine; one that is not there must not hold a boot up.
const CONNECT_TIME: Duration = Duration::from_millis(1000);
const TOTAL_TIME: Duration = Duration::from_millis(3000);

/// Fetches the document.
///
/// # Errors
/// [`HintsError::Metadata`] and [`HintsError::Status`] for anything but an answer with status 200
/// within the limits.
pub fn fetch(url: &str) -> Result<Vec<u8>, HintsError> {
    let failed = |error| HintsError::Metadata(Box::new(error));
    let config = Agent::config_builder()
        .proxy(None)
        .max_redirects(0)
        .timeout_connect(Some(CONNECT_TIME))
        .timeout_global(Some(TOTAL_TIME))
        .build();
    let agent = Agent::with_parts(config, DefaultConnector::default(), AddressOnly);
    let mut answer = agent.get(url).call().map_err(failed)?;
    // Without redirects allowed, one comes back as an answer.
    let status = answer.status().as_u16();
    if status != 200 {
        return Err(HintsError::Status { got: status });
    }
    answer
        .body_mut()
        .with_config()
        .limit(MAX_LEN)
        .read_to_vec()
        .map_err(failed)
}

/// Looks nothing up: the URL's host is an address. ureq's own resolver would start a thread, for its time limit.
#[derive(Debug)]
struct AddressOnly;

impl Resolver for AddressOnly {
    fn resolve(
        &self,
        uri: &Uri,
        _config: &Config,
        _timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let host = uri.host().and_then(|host| host.parse().ok());
        let host: Ipv4Addr = host.ok_or(ureq::Error::HostNotFound)?;
        let mut addresses = self.empty();
        addresses.push(SocketAddr::from((host, uri.port_u16().unwrap_or(80))));
        Ok(addresses)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::{Read, Write},
        net::TcpListener,
        thread,
    };

    /// Answers one request with these bytes.
    fn serve(answer: Vec<u8>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!(
            "http://{}/constellation/v1/hints",
            listener.local_addr().unwrap()
        );
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let len = stream.read(&mut request).unwrap();
            assert!(request[..len].starts_with(b"GET /constellation/v1/hints HTTP/1.1\r\n"));
            stream.write_all(&answer).unwrap();
        });
        url
    }

    fn answer(head: &str, body: &[u8]) -> Vec<u8> {
        let mut answer =
            format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
        answer.extend_from_slice(body);
        answer
    }

    #[test]
    fn a_document() {
        assert_eq!(fetch(&serve(answer("200 OK", b"{}"))).unwrap(), b"{}");
    }

    #[test]
    fn redirects_errors_and_floods_are_refused() {
        for bad in [
            answer("302 Found\r\nLocation: http://127.0.0.1:1/", b""),
            answer("404 Not Found", b"{}"),
            answer("500 Oops", b"{}"),
            answer("200 OK", &[b' '; 16 * 1024 + 1]),
            b"nonsense\r\n\r\n".to_vec(),
            Vec::new(),
        ] {
            assert!(fetch(&serve(bad)).is_err());
        }
    }

    #[test]
    fn nobody_there() {
        assert!(fetch("http://127.0.0.1:1/").is_err());
    }

    #[test]
    fn no_name_is_looked_up() {
        let error = fetch("http://localhost:1/").unwrap_err();
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert_eq!(cause, ureq::Error::HostNotFound.to_string());
    }
}
