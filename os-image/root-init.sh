#!/usr/bin/busybox sh
# The root file system's init in demo and test images: shows that the state disk works.
# The agent has moved /proc, /sys, /dev and /run here and made the mapping.
export PATH=/usr/bin:/usr/sbin
say() { busybox echo "root: $*" >/dev/console; }
finish() {
    say "status=$1"
    busybox sync
    busybox umount /var/lib/constellation 2>/dev/null
    busybox poweroff -f
}
state=/var/lib/constellation
say "start hand_off=$(busybox test -f /run/constellation/handoff.json && busybox echo yes || busybox echo no)"
busybox mount -t ext4 -o noatime /dev/mapper/constellation-state "$state" || finish mount-failed
counter=$(busybox cat "$state/counter" 2>/dev/null || busybox echo 0)
counter=$((counter + 1))
busybox echo "$counter" >"$state/counter.new" || finish write-failed
busybox sync "$state/counter.new" || finish sync-failed
busybox mv "$state/counter.new" "$state/counter" || finish write-failed
busybox sync "$state" || finish sync-failed
say "counter=$counter"
