//! A metadata service: one fixed answer to every request, well-formed or not.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result};

/// A running metadata service on loopback; it ends with the value.
#[derive(Debug)]
pub struct Metadata {
    port: u16,
    stop: Arc<AtomicBool>,
    requests: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Metadata {
    /// Serves hints as a cloud would.
    pub fn serve(hints: &str) -> Result<Self> {
        Self::answer(format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{hints}",
            hints.len()
        ))
    }

    /// Gives these bytes as the answer, whatever was asked.
    pub fn answer(response: impl AsRef<[u8]>) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listen")?;
        let port = listener.local_addr()?.port();
        let stop = Arc::new(AtomicBool::new(false));
        let requests = Arc::new(AtomicUsize::new(0));
        let response = response.as_ref().to_vec();
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&requests));
        let thread = thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                count.fetch_add(1, Ordering::SeqCst);
                // A guest that hangs up early is no fault of the service.
                drop(respond(stream, &response));
            }
        });
        Ok(Self {
            port,
            stop,
            requests,
            thread: Some(thread),
        })
    }

    /// The loopback port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How many connections it has answered.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

impl Drop for Metadata {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the accept loop.
        drop(TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)));
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// Reads a request's head, at most 4 KiB of it, and answers.
fn respond(mut stream: TcpStream, response: &[u8]) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.set_write_timeout(Some(Duration::from_secs(5)))?;
    let mut head: Vec<u8> = Vec::new();
    let mut chunk = [0; 512];
    while head.len() < 4096 && !head.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut chunk)? {
            0 => break,
            count => head.extend(chunk.iter().take(count)),
        }
    }
    stream.write_all(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_answers_with_the_hints_and_counts() {
        let metadata = Metadata::serve("{}").unwrap();
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, metadata.port())).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(
            answer.ends_with("Content-Length: 2\r\nConnection: close\r\n\r\n{}"),
            "{answer}"
        );
        assert_eq!(metadata.requests(), 1);
    }
}
