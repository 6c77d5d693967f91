//! A learning switch for QEMU's `-netdev stream`: machines of one user on one Ethernet.
//!
//! Not QEMU's own hub: it repeats every frame to every port, and user networking takes frames between
//! two machines for connections to itself and resets them. Here a frame goes where its address was
//! seen; only broadcasts go to all.

use anyhow::{Context as _, Result};
use std::{
    collections::HashMap,
    io::{self, BufReader, Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

/// The largest frame that QEMU sends: 64 KiB and its headers (`NET_BUFSIZE`, `include/net/net.h`).
const MAX_FRAME: usize = 4096 + 65536;

/// The shortest one with both addresses and a type.
const MIN_FRAME: usize = 14;

/// Frames that wait for a slow machine; more are dropped, as a switch does.
const QUEUE: usize = 1024;

/// A hardware address.
type Address = [u8; 6];

/// An Ethernet frame, without QEMU's length before it.
pub type Frame = Arc<[u8]>;

/// Who is connected, and who was seen where.
#[derive(Default)]
struct Ports {
    next: usize,
    queues: HashMap<usize, SyncSender<Frame>>,
    seen: HashMap<Address, usize>,
}

/// Carries frames between all that connect to `socket`, until the process ends.
///
/// # Errors
/// If the socket cannot be made.
pub fn run(socket: &Path) -> Result<()> {
    // A leftover of a switch that was killed.
    drop(std::fs::remove_file(socket));
    let listener =
        UnixListener::bind(socket).with_context(|| format!("listen on `{}`", socket.display()))?;
    serve(&listener);
    Ok(())
}

fn serve(listener: &UnixListener) {
    let ports = Arc::new(Mutex::new(Ports::default()));
    for stream in listener.incoming().flatten() {
        // A connection that is gone already is nobody's loss.
        drop(attach(&ports, stream));
    }
}

fn attach(ports: &Arc<Mutex<Ports>>, stream: UnixStream) -> io::Result<()> {
    let to_machine = stream.try_clone()?;
    let (queue, frames) = sync_channel(QUEUE);
    let port = lock(ports).add(queue);
    let ports = Arc::clone(ports);
    thread::spawn(move || send_all(&frames, to_machine));
    thread::spawn(move || {
        let mut from = BufReader::new(stream);
        while let Ok(frame) = receive(&mut from) {
            lock(&ports).forward(port, &frame);
        }
        lock(&ports).remove(port);
    });
    Ok(())
}

fn lock(ports: &Mutex<Ports>) -> std::sync::MutexGuard<'_, Ports> {
    // No method leaves the table half changed.
    ports.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ports {
    fn add(&mut self, queue: SyncSender<Frame>) -> usize {
        let port = self.next;
        self.next += 1;
        self.queues.insert(port, queue);
        port
    }

    fn remove(&mut self, port: usize) {
        self.queues.remove(&port);
        self.seen.retain(|_, at| *at != port);
    }

    fn forward(&mut self, from: usize, frame: &Frame) {
        let (Some(to), Some(source)) = (address(frame, 0), address(frame, 6)) else {
            return;
        };
        if !is_group(source) {
            self.seen.insert(source, from);
        }
        if is_group(to) {
            let others = self.queues.iter().filter(|(port, _)| **port != from);
            others.for_each(|(_, queue)| drop(queue.try_send(Arc::clone(frame))));
        } else if let Some(port) = self.seen.get(&to).filter(|port| **port != from)
            && let Some(queue) = self.queues.get(port)
        {
            drop(queue.try_send(Arc::clone(frame)));
        }
        // Whoever is asked for was heard before: addresses are found by broadcast.
    }
}

fn address(frame: &[u8], at: usize) -> Option<Address> {
    frame.get(at..at + 6)?.try_into().ok()
}

/// The lowest bit of the first byte: broadcast and multicast (IEEE 802-2014, 8.2.2).
fn is_group(address: Address) -> bool {
    address[0] & 1 == 1
}

/// Reads a frame as QEMU writes it to a socket: four bytes of length, big-endian, and the frame.
///
/// # Errors
/// The end of the stream, or a length that no frame has.
pub fn receive(from: &mut impl Read) -> io::Result<Frame> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if !(MIN_FRAME..=MAX_FRAME).contains(&length) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut frame = vec![0; length];
    from.read_exact(&mut frame)?;
    Ok(frame.into())
}

/// Writes a frame as QEMU reads it.
///
/// # Errors
/// When the other end is gone.
pub fn send(to: &mut impl Write, frame: &[u8]) -> io::Result<()> {
    let length = u32::try_from(frame.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend_from_slice(frame);
    to.write_all(&bytes)
}

fn send_all(frames: &Receiver<Frame>, mut to: UnixStream) {
    for frame in frames {
        if send(&mut to, &frame).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const BROADCAST: Address = [0xff; 6];

    fn start() -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("switch");
        let listener = UnixListener::bind(&socket).unwrap();
        thread::spawn(move || serve(&listener));
        (dir, socket)
    }

    fn plug_in(socket: &Path) -> UnixStream {
        let stream = UnixStream::connect(socket).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_millis(300)))
            .unwrap();
        stream
    }

    fn say(stream: &mut UnixStream, to: Address, from: Address) {
        let mut bytes = 16_u32.to_be_bytes().to_vec();
        for part in [&to[..], &from, b"word"] {
            bytes.extend_from_slice(part);
        }
        stream.write_all(&bytes).unwrap();
    }

    fn machine(number: u8) -> Address {
        [0x52, 0x54, 0, 0, 0, number]
    }

    #[test]
    fn a_broadcast_reaches_all_others_and_an_answer_only_who_asked() {
        let (_dir, socket) = start();
        let mut ports = [(); 3].map(|()| plug_in(&socket));
        // Each is known to be there when its own broadcast came through.
        let [a, b, c] = &mut ports;
        let mut attempts = 0;
        let asked = loop {
            say(a, BROADCAST, machine(1));
            if let (Ok(frame), Ok(_)) = (receive(b), receive(c)) {
                break frame;
            }
            attempts += 1;
            assert!(attempts < 20);
        };
        assert_eq!(address(&asked, 6), Some(machine(1)));
        say(b, machine(1), machine(2));
        let answer = receive(a).unwrap();
        assert_eq!(address(&answer, 6), Some(machine(2)));
        assert!(receive(c).is_err(), "nobody else hears it");
    }

    #[test]
    fn a_frame_for_an_unknown_address_goes_nowhere() {
        let (_dir, socket) = start();
        let (mut a, mut b) = (plug_in(&socket), plug_in(&socket));
        say(&mut a, machine(9), machine(1));
        assert!(receive(&mut b).is_err());
    }

    #[test]
    fn impossible_lengths_end_the_connection() {
        for length in [0_u32, 13, u32::MAX] {
            let bytes = length.to_be_bytes();
            assert!(receive(&mut &bytes[..]).is_err(), "{length}");
        }
    }
}
