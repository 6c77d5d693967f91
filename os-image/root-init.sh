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
busybox mount -t ext4 -o noatime,inode_readahead_blks=0 /dev/mapper/constellation-state "$state" || finish mount-failed
# Reads of the bare device were not to run ahead into sectors that nobody wrote; a file system's may.
device=$(busybox readlink -f /dev/mapper/constellation-state)
busybox echo 128 >"/sys/block/${device##*/}/queue/read_ahead_kb"
# The tripwire of docs/state-disk.md: the generation of the header is kept in the file system too.
header=$(busybox sed -n 's/.*"generation":\([0-9]*\).*/\1/p' /run/constellation/handoff.json)
data=$(busybox cat "$state/generation" 2>/dev/null || busybox echo 0)
for number in "$header" "$data"; do
    case "$number" in
    '' | *[!0-9]*)
        say "tripwire header=$header data=$data: not two numbers"
        finish rolled-back
        ;;
    esac
done
if [ "$data" -ge "$header" ]; then
    say "tripwire header=$header data=$data: the header is older than the data"
    finish rolled-back
elif [ "$data" -lt $((header - 1)) ]; then
    say "tripwire header=$header data=$data: old data, or boots that ended before the data was reached"
fi
busybox echo "$header" >"$state/generation.new" || finish write-failed
busybox sync "$state/generation.new" || finish sync-failed
busybox mv "$state/generation.new" "$state/generation" || finish write-failed
counter=$(busybox cat "$state/counter" 2>/dev/null || busybox echo 0)
counter=$((counter + 1))
busybox echo "$counter" >"$state/counter.new" || finish write-failed
busybox sync "$state/counter.new" || finish sync-failed
busybox mv "$state/counter.new" "$state/counter" || finish write-failed
busybox sync "$state" || finish sync-failed
say "counter=$counter"
