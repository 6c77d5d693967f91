//! Kernel modules of the root: what pods' networks and file systems need, and the power button. The initramfs has loaded the rest.

use crate::{image::initrd::load_order, tool::Tool};
use anyhow::Context as _;
use std::{fs, path::Path};

/// With what they depend on. There are no others to load, whatever a program or a device of the host asks for.
const MODULES: &[&str] = &[
    "br_netfilter",
    "bridge",
    // The power button, and its key for systemd-logind.
    "button",
    "evdev",
    "ip6_tables",
    "ip6t_REJECT",
    "ip6table_filter",
    "ip6table_mangle",
    "ip6table_nat",
    "ip_set",
    "ip_set_hash_ip",
    "ip_set_hash_net",
    "ip_tables",
    "ipt_REJECT",
    "iptable_filter",
    "iptable_mangle",
    "iptable_nat",
    "iptable_raw",
    "nf_conntrack",
    "nf_conntrack_netlink",
    "nf_nat",
    "nf_tables",
    "nft_chain_nat",
    "nft_compat",
    "nft_ct",
    "nft_fib",
    "nft_fib_inet",
    "nft_limit",
    "nft_log",
    "nft_masq",
    "nft_nat",
    "nft_redir",
    "nft_reject",
    "nft_reject_inet",
    "nfnetlink",
    "overlay",
    "tun",
    "veth",
    "vxlan",
    "wireguard",
    "xt_LOG",
    "xt_MASQUERADE",
    "xt_REDIRECT",
    "xt_addrtype",
    "xt_comment",
    "xt_conntrack",
    "xt_limit",
    "xt_mark",
    "xt_multiport",
    "xt_nat",
    "xt_nfacct",
    "xt_physdev",
    "xt_recent",
    "xt_set",
    "xt_socket",
    "xt_statistic",
    "xt_tcpudp",
];

/// Copies them, and what `modprobe` reads.
pub(super) fn install(kernel: &Path, release: &str, tree: &Path) -> anyhow::Result<()> {
    let from = kernel.join("lib/modules").join(release);
    let to = tree.join("usr/lib/modules").join(release);
    let dep = fs::read_to_string(from.join("modules.dep"))
        .context("read `modules.dep`, which the initramfs writes")?;
    for path in load_order(&dep, MODULES)? {
        let file = to.join(&path);
        fs::create_dir_all(file.parent().context("a module is in a folder")?)?;
        fs::copy(from.join(&path), file)?;
    }
    for list in [
        "modules.builtin",
        "modules.builtin.modinfo",
        "modules.order",
    ] {
        fs::copy(from.join(list), to.join(list))?;
    }
    Tool::new("depmod", "kmod")
        .arg("-b")
        .arg(tree)
        .arg(release)
        .output()?;
    Ok(())
}
