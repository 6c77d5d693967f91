//! The Ethernet links of this machine, as sysfs shows them.

use std::{fs, io, path::Path};

const SYSFS: &str = "/sys/class/net";

/// `ARPHRD_ETHER` (`linux/if_arp.h`).
const ETHERNET: &str = "1";

/// The most links looked at; a host may offer any number.
const MAX_LINKS: usize = 8;

/// An Ethernet link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number of it.
    pub index: u32,
    /// The kernel's name of it.
    pub name: String,
    /// Its Ethernet address.
    pub mac: [u8; 6],
    /// Whether there is a carrier; never on a link that is down.
    pub carrier: bool,
}

/// The first eight Ethernet links, in the order of their kernel numbers.
///
/// # Errors
/// When sysfs cannot be read; a link that vanishes meanwhile is left out.
pub fn links() -> io::Result<Vec<Link>> {
    links_under(Path::new(SYSFS))
}

fn links_under(folder: &Path) -> io::Result<Vec<Link>> {
    let mut links: Vec<Link> = fs::read_dir(folder)?
        .filter_map(|entry| read_link(&entry.ok()?.path()))
        .collect();
    links.sort_by_key(|link| link.index);
    links.truncate(MAX_LINKS);
    Ok(links)
}

fn read_link(folder: &Path) -> Option<Link> {
    let read = |name: &str| {
        let text = fs::read_to_string(folder.join(name)).ok()?;
        Some(text.trim().to_owned())
    };
    if read("type")? != ETHERNET {
        return None;
    }
    Some(Link {
        index: read("ifindex")?.parse().ok()?,
        name: folder.file_name()?.to_str()?.to_owned(),
        mac: parse_mac(&read("address")?)?,
        // Reading it fails while the link is down.
        carrier: read("carrier").as_deref() == Some("1"),
    })
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        *byte = u8::from_str_radix(parts.next()?, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(folder: &Path, name: &str, files: &[(&str, &str)]) {
        let link = folder.join(name);
        fs::create_dir(&link).unwrap();
        for (file, text) in files {
            fs::write(link.join(file), text).unwrap();
        }
    }

    #[test]
    fn ethernet_links_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let mac = ("address", "52:54:00:01:02:ff\n");
        add(
            folder.path(),
            "eth1",
            &[("type", "1\n"), ("ifindex", "3\n"), mac],
        );
        let up = ("carrier", "1\n");
        add(
            folder.path(),
            "eth0",
            &[("type", "1\n"), ("ifindex", "2\n"), mac, up],
        );
        add(
            folder.path(),
            "lo",
            &[("type", "772\n"), ("ifindex", "1\n"), mac],
        );
        add(
            folder.path(),
            "odd",
            &[("type", "1\n"), ("ifindex", "x\n"), mac],
        );
        let links = links_under(folder.path()).unwrap();
        let names: Vec<_> = links
            .iter()
            .map(|link| (link.name.as_str(), link.carrier))
            .collect();
        assert_eq!(names, [("eth0", true), ("eth1", false)]);
        assert_eq!(links[0].mac, [0x52, 0x54, 0, 1, 2, 0xff]);
    }

    #[test]
    fn addresses_that_are_not_ethernet() {
        for bad in ["", "52:54:00:01:02", "52:54:00:01:02:03:04", "g0:0:0:0:0:0"] {
            assert_eq!(parse_mac(bad), None, "{bad}");
        }
    }
}
