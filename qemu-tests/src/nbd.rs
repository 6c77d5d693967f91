//! A disk whose host answers one block differently the next time: a network block device of our own.
//!
//! As much of the protocol (`doc/proto.md` of NetworkBlockDevice/nbd) as QEMU asks for.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Context as _, Result};

use vm::Disk;

/// What a host does to one block.
#[derive(Clone, Copy, Debug)]
pub struct Lie {
    /// The reads of the block that still get the truth.
    pub honest_reads: usize,
    /// The byte of the block that differs from then on.
    pub byte: usize,
    /// The bits of it.
    pub bits: u8,
}

/// A server of one state disk; it serves one machine after the other until the process ends.
#[derive(Debug)]
pub struct LyingDisk {
    port: u16,
    served: Arc<Mutex<Served>>,
}

#[derive(Debug)]
struct Served {
    file: File,
    /// Where the block is that the lie is about.
    block: u64,
    reads: usize,
    lie: Option<Lie>,
}

const HANDSHAKE: [u8; 18] = *b"NBDMAGICIHAVEOPT\0\x03";
const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
const OPTION_GO: u32 = 7;
const REPLY_ACK: u32 = 1;
const REPLY_INFO: u32 = 3;
const REPLY_UNSUPPORTED: u32 = 0x8000_0001;
/// The device has flags, and it flushes.
const TRANSMISSION_FLAGS: u16 = 0b101;
const SIMPLE_REPLY: u32 = 0x6744_6698;
const INVALID: u32 = 22;

impl LyingDisk {
    /// Serves the file of a state disk. Lies will be about its block at `block`.
    pub fn serve(disk: &Disk, block: u64) -> Result<Self> {
        let file = File::options().read(true).write(true).open(disk.path())?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listen")?;
        let port = listener.local_addr()?.port();
        let served = Arc::new(Mutex::new(Served {
            file,
            block,
            reads: 0,
            lie: None,
        }));
        let shared = Arc::clone(&served);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                // A machine that is switched off ends it in the middle of anything.
                drop(session(stream, &shared));
            }
        });
        Ok(Self { port, served })
    }

    /// The disk as a machine is given it.
    pub fn disk(&self) -> Disk {
        let address = format!("nbd:127.0.0.1:{}", self.port);
        Disk::state(Path::new(&address))
    }

    /// Counts reads from now on, and tells this lie.
    pub fn tell(&self, lie: Option<Lie>) {
        let mut served = lock(&self.served);
        (served.reads, served.lie) = (0, lie);
    }

    /// Reads of the block since then.
    pub fn reads(&self) -> usize {
        lock(&self.served).reads
    }
}

fn lock(served: &Mutex<Served>) -> MutexGuard<'_, Served> {
    served.lock().unwrap_or_else(PoisonError::into_inner)
}

fn session(mut stream: TcpStream, served: &Mutex<Served>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.write_all(&HANDSHAKE)?;
    take::<4>(&mut stream)?;
    while !negotiate(&mut stream, served)? {}
    loop {
        let _magic = take::<4>(&mut stream)?;
        let [_, _, _, kind] = take::<4>(&mut stream)?;
        let handle = take::<8>(&mut stream)?;
        let offset = u64::from_be_bytes(take(&mut stream)?);
        let mut bytes = vec![0; u32::from_be_bytes(take(&mut stream)?) as usize];
        let outcome = match kind {
            0 => lock(served).read(&mut bytes, offset),
            1 => {
                stream.read_exact(&mut bytes)?;
                let outcome = lock(served).file.write_all_at(&bytes, offset);
                bytes.clear();
                outcome
            }
            2 => return Ok(()),
            3 => lock(served).file.sync_data(),
            _ => Err(io::ErrorKind::Unsupported.into()),
        };
        let error = if outcome.is_ok() { 0 } else { INVALID };
        stream.write_all(&SIMPLE_REPLY.to_be_bytes())?;
        stream.write_all(&u32::to_be_bytes(error))?;
        stream.write_all(&handle)?;
        stream.write_all(if error == 0 { &bytes } else { &[] })?;
    }
}

/// One option; whether it was the last one.
fn negotiate(stream: &mut TcpStream, served: &Mutex<Served>) -> io::Result<bool> {
    let _magic = take::<8>(stream)?;
    let option = u32::from_be_bytes(take(stream)?);
    let mut data = vec![0; u32::from_be_bytes(take(stream)?) as usize];
    stream.read_exact(&mut data)?;
    let mut reply = |kind: u32, data: &[u8]| {
        let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
        stream.write_all(&OPTION_REPLY.to_be_bytes())?;
        stream.write_all(&option.to_be_bytes())?;
        stream.write_all(&kind.to_be_bytes())?;
        stream.write_all(&length.to_be_bytes())?;
        stream.write_all(data)
    };
    if option != OPTION_GO {
        return reply(REPLY_UNSUPPORTED, &[]).map(|()| false);
    }
    let size = lock(served).file.metadata()?.len();
    let info = [
        &[0, 0][..],
        &size.to_be_bytes(),
        &TRANSMISSION_FLAGS.to_be_bytes(),
    ];
    reply(REPLY_INFO, &info.concat())?;
    reply(REPLY_ACK, &[]).map(|()| true)
}

fn take<const N: usize>(stream: &mut TcpStream) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).map(|()| bytes)
}

impl Served {
    fn read(&mut self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(bytes, offset)?;
        let within = self.block.checked_sub(offset);
        let within = within.and_then(|within| usize::try_from(within).ok());
        let Some(block) = within.and_then(|within| bytes.get_mut(within..)) else {
            return Ok(());
        };
        if block.is_empty() {
            return Ok(());
        }
        self.reads += 1;
        if let Some(lie) = self.lie.filter(|lie| self.reads > lie.honest_reads)
            && let Some(byte) = block.get_mut(lie.byte)
        {
            *byte ^= lie.bits;
        }
        Ok(())
    }
}
