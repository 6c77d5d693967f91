//! Raw Ethernet frames of one link (packet(7)).

use rustix::{
    event::{PollFd, PollFlags},
    fd::OwnedFd,
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType,
        addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque},
        bind, eth, recv, send, socket_with,
    },
};

/// `sockaddr_ll` (`linux/if_packet.h`): family, protocol in network order, interface index, then
/// hardware type, packet type and address, which binding does not use.
#[repr(C)]
#[derive(Default)]
struct LinkAddress {
    family: u16,
    protocol: u16,
    index: i32,
    hardware: u16,
    packet_type: u8,
    address_len: u8,
    address: [u8; 8],
}

// SAFETY: `with_sockaddr` passes a pointer to a live `sockaddr_ll` with its exact length.
unsafe impl SocketAddrArg for LinkAddress {
    unsafe fn with_sockaddr<R>(
        &self,
        f: impl FnOnce(*const SocketAddrOpaque, SocketAddrLen) -> R,
    ) -> R {
        // 20 bytes: no truncation.
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the structure is 20 bytes long"
        )]
        let len = size_of::<Self>() as SocketAddrLen;
        f(std::ptr::from_ref(self).cast(), len)
    }
}

/// A packet socket bound to one link.
#[derive(Debug)]
pub(super) struct PacketSocket(OwnedFd);

impl PacketSocket {
    /// Opens a socket that sees every frame of the link, bound before it can see any other's.
    pub(super) fn open(index: u32) -> Result<Self, Errno> {
        // Protocol 0 receives nothing until `bind` names one.
        let socket = socket_with(
            AddressFamily::PACKET,
            SocketType::RAW,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )?;
        let address = LinkAddress {
            family: AddressFamily::PACKET.as_raw(),
            // `eth::ALL` is kept in network order, as the address wants it.
            protocol: u16::try_from(eth::ALL.as_raw().get()).map_err(|_| Errno::INVAL)?,
            index: i32::try_from(index).map_err(|_| Errno::INVAL)?,
            ..LinkAddress::default()
        };
        bind(&socket, &address)?;
        Ok(Self(socket))
    }

    pub(super) fn send(&self, frame: &[u8]) -> Result<(), Errno> {
        send(&self.0, frame, SendFlags::empty()).map(|_| ())
    }

    /// The next frame, cut to the buffer; `None` when there is none now.
    pub(super) fn receive<'a>(&self, buffer: &'a mut [u8]) -> Result<Option<&'a [u8]>, Errno> {
        match recv(&self.0, &mut *buffer, RecvFlags::empty()) {
            Ok((len, _)) => Ok(buffer.get(..len)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) fn poll_fd(&self) -> PollFd<'_> {
        PollFd::new(&self.0, PollFlags::IN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_has_the_layout_of_the_kernel() {
        assert_eq!(size_of::<LinkAddress>(), 20);
        assert_eq!(std::mem::offset_of!(LinkAddress, index), 4);
    }

    /// Needs the right to open packet sockets; a machine without it must say exactly that.
    #[test]
    fn a_frame_comes_back_over_loopback() {
        let socket = match PacketSocket::open(1) {
            Ok(socket) => socket,
            Err(error) => return assert_eq!(error, Errno::PERM),
        };
        let mut frame = [0; 60];
        // An Ethertype for experiments (IEEE 802, clause 9.2.4), so that nobody answers.
        frame[12..14].copy_from_slice(&[0x88, 0xb5]);
        frame[14..].copy_from_slice(&[0xc5; 46]);
        socket.send(&frame).unwrap();
        let mut buffer = [0; 2048];
        for _ in 0..1000 {
            if socket.receive(&mut buffer).unwrap() == Some(&frame[..]) {
                return;
            }
        }
        panic!("the frame never came back");
    }
}
