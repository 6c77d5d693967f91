//! Packets that the host sends to a booting node.
#![no_main]
use libfuzzer_sys::fuzz_target;
use platform::net::{dhcp::DhcpClient, router::RouterClient};
use std::time::Duration;

fuzz_target!(|data: &[u8]| {
    let Some((which, data)) = data.split_first() else {
        return;
    };
    let mac = [2, 0, 0, 0, 0, 1];
    if which % 2 == 0 {
        let mut client = DhcpClient::new(mac, Duration::ZERO);
        drop(client.poll(Duration::ZERO, 0x0102_0304));
        client.receive(Duration::from_millis(1), data);
        drop(client.poll(Duration::from_secs(1), 0x0102_0304));
    } else {
        let mut client = RouterClient::new(mac, Duration::ZERO);
        drop(client.poll(Duration::ZERO, 7));
        client.receive(data);
    }
});
