//! A key distribution service on a real socket, as good or bad as a test wants.
#![allow(dead_code, reason = "each test program uses a part")]

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

/// What the server does with one request.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// 200 and this body.
    Body(Vec<u8>),
    /// This status and header lines, no body.
    Status(u16, &'static str),
    /// 200, the announced length, and half of the body.
    Truncated(Vec<u8>),
    /// Bytes for as long as somebody reads.
    Endless,
    /// Nothing for this long, then the end.
    Stall(Duration),
    /// Something that is not HTTP.
    Noise,
}

/// When which path was asked for.
type Log = Arc<Mutex<Vec<(Instant, String)>>>;

pub(crate) struct Kds {
    pub(crate) url: String,
    log: Log,
}

impl Kds {
    /// Answers each request by its path and how many came before it.
    pub(crate) fn start(answer: impl Fn(&str, usize) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let log = Log::default();
        let (answer, requests) = (Arc::new(answer), Arc::clone(&log));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (answer, requests) = (Arc::clone(&answer), Arc::clone(&requests));
                thread::spawn(move || serve(stream.unwrap(), &*answer, &requests));
            }
        });
        Self { url, log }
    }

    /// Paths asked for so far.
    pub(crate) fn paths(&self) -> Vec<String> {
        let log = self.log.lock().unwrap();
        log.iter().map(|(_, path)| path.clone()).collect()
    }

    /// Time between each request and the next.
    pub(crate) fn gaps(&self) -> Vec<Duration> {
        let log = self.log.lock().unwrap();
        let pairs = log.windows(2);
        pairs.map(|pair| pair[1].0 - pair[0].0).collect()
    }
}

fn serve(mut stream: TcpStream, answer: &dyn Fn(&str, usize) -> Answer, log: &Log) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut request = String::new();
    let mut line = String::new();
    while reader.read_line(&mut line).is_ok_and(|length| length > 2) {
        request += &line;
        line.clear();
    }
    let Some(path) = request.split(' ').nth(1).map(str::to_owned) else {
        return;
    };
    let before = {
        let mut log = log.lock().unwrap();
        log.push((Instant::now(), path.clone()));
        log.len() - 1
    };
    // The client may hang up at any time: that is its answer.
    let _sent = send(&mut stream, answer(&path, before));
}

fn send(stream: &mut TcpStream, answer: Answer) -> std::io::Result<()> {
    let head = |status: u16, length: usize, headers: &str| {
        format!(
            "HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n"
        )
    };
    match answer {
        Answer::Body(body) => {
            stream.write_all(head(200, body.len(), "").as_bytes())?;
            stream.write_all(&body)
        }
        Answer::Status(status, headers) => stream.write_all(head(status, 0, headers).as_bytes()),
        Answer::Truncated(body) => {
            stream.write_all(head(200, body.len(), "").as_bytes())?;
            stream.write_all(&body[..body.len() / 2])
        }
        Answer::Endless => {
            stream.write_all(b"HTTP/1.1 200 X\r\nConnection: close\r\n\r\n")?;
            loop {
                stream.write_all(&[0x30; 4096])?;
            }
        }
        Answer::Stall(time) => {
            thread::sleep(time);
            Ok(())
        }
        Answer::Noise => stream.write_all(&[0x16, 3, 1, 0, 0xff, b'\n', b'\n']),
    }
}
