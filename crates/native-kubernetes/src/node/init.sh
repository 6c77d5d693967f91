# The first process of an isolated node, in new namespaces: makes its file systems its own, takes its
# network interface, and reaps. What it may write to is below $dir; the rest of the machine's files are
# there to be read.
set -eu
dir=$1 name=$2 address=$3 gateway=$4 cni=$5

mount --make-rprivate /
mount -t tmpfs run /run
mkdir -p /run/lock /run/sysctl
for lower in etc var/lib opt usr/libexec; do
    [ -d "/$lower" ] || continue
    mkdir -p "$dir/overlay/$lower/upper" "$dir/overlay/$lower/work"
    mount -t overlay -o "lowerdir=/$lower,upperdir=$dir/overlay/$lower/upper,workdir=$dir/overlay/$lower/work" overlay "/$lower"
done
# containerd's own overlays cannot be on an overlay.
for data in var/lib/kubelet var/lib/containerd var/lib/etcd var/log; do
    mkdir -p "$dir/data/$data" "/$data"
    mount --bind "$dir/data/$data" "/$data"
done
mkdir -p /var/log/pods /opt/cni
ln -sfn "$cni" /opt/cni/bin
mount --make-rshared /

# What a kubelet demands of the kernel, in front of the settings that all of the machine shares.
for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
    kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
    file=/run/sysctl/$(basename "${setting%%=*}")
    echo "${setting##*=}" >"$file"
    mount --bind "$file" "/proc/sys/${setting%%=*}"
done

hostname "$name"
echo "$name" >/etc/hostname
printf '127.0.0.1 localhost\n%s %s\n' "$address" "$name" >/etc/hosts
ip link set lo up
until ip link show eth0 >/dev/null 2>&1; do sleep 0.02; done
ip address add "$address/24" dev eth0
ip link set eth0 up
ip route add default via "$gateway"
echo 1 >/proc/sys/net/ipv4/ip_forward
echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables

: >/run/node-is-up
while :; do
    sleep 3600 &
    wait
done
