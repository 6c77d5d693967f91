#!/usr/bin/env python3
"""Independent reader of Constellation state-disk headers, for disaster recovery.

Written from docs/state-disk.md alone and with nothing but the Python standard library. It reads the
first 68 KiB of a disk and a file with the 32-byte data key, prints the header and the device-mapper
tables, and with --volume-keys writes the 96 bytes of volume keys to a new file that only its owner
can read. It never writes to the disk. Exit status: 0 opened, 1 refused or malformed, 2 blank.
"""
import argparse
import hashlib
import hmac
import os
import struct
import sys
import uuid

SLOT, SECOND, PREAMBLE, SEALED = 4096, 65536, 64, 336


class Refused(Exception):
    """The slots are not a state disk of format version 1, or the key is not theirs."""


# --- AES-256-GCM (FIPS 197, SP 800-38D); slow and not in constant time, which is no matter here ---

def xtime(a):
    return (a << 1) ^ (0x11B if a & 0x80 else 0)


def make_sbox():
    exp, a = [], 1
    for _ in range(255):
        exp.append(a)
        a ^= xtime(a)  # 3 generates the field's multiplicative group
    sbox = [0x63] * 256
    for i, value in enumerate(exp):
        inverse = exp[(255 - i) % 255]
        folded = inverse | inverse << 8
        sbox[value] = 0x63 ^ inverse ^ sum_xor((folded >> shift) & 0xFF for shift in (4, 5, 6, 7))
    return sbox


def sum_xor(values):
    total = 0
    for value in values:
        total ^= value
    return total


SBOX = make_sbox()


def expand_key(key):
    words, rcon = [list(key[i:i + 4]) for i in range(0, 32, 4)], 1
    for i in range(8, 60):
        word = list(words[-1])
        if i % 8 == 0:
            word = [SBOX[b] for b in word[1:] + word[:1]]
            word[0] ^= rcon
            rcon = xtime(rcon)
        elif i % 8 == 4:
            word = [SBOX[b] for b in word]
        words.append([a ^ b for a, b in zip(words[i - 8], word)])
    return [sum(words[i:i + 4], []) for i in range(0, 60, 4)]


def encrypt_block(keys, block):
    state = [a ^ b for a, b in zip(block, keys[0])]
    for index, key in enumerate(keys[1:], 1):
        state = [SBOX[state[(i + 4 * (i % 4)) % 16]] for i in range(16)]
        if index < 14:
            mixed = []
            for c in range(0, 16, 4):
                col = state[c:c + 4]
                mixed += [xtime(col[i]) ^ xtime(col[(i + 1) % 4]) ^ col[(i + 1) % 4]
                          ^ col[(i + 2) % 4] ^ col[(i + 3) % 4] for i in range(4)]
            state = mixed
        state = [a ^ b for a, b in zip(state, key)]
    return bytes(state)


def ghash(h, data):
    y = 0
    for i in range(0, len(data), 16):
        x, v, y = y ^ int.from_bytes(data[i:i + 16], "big"), h, 0
        for bit in range(127, -1, -1):
            if x >> bit & 1:
                y ^= v
            v = v >> 1 ^ (0xE1 << 120 if v & 1 else 0)
    return y.to_bytes(16, "big")


def open_gcm(key, nonce, aad, sealed):
    """Decrypts, or gives None when the tag does not fit."""
    keys, (body, tag) = expand_key(key), (sealed[:-16], sealed[-16:])
    pad = lambda data: data + bytes(-len(data) % 16)
    stream = lambda counter: encrypt_block(keys, nonce + struct.pack(">I", counter))
    h = int.from_bytes(encrypt_block(keys, bytes(16)), "big")
    digest = ghash(h, pad(aad) + pad(body) + struct.pack(">QQ", 8 * len(aad), 8 * len(body)))
    expected = bytes(a ^ b for a, b in zip(digest, stream(1)))
    if not hmac.compare_digest(expected, tag):
        return None
    blocks = (body[i:i + 16] for i in range(0, len(body), 16))
    return b"".join(bytes(a ^ b for a, b in zip(block, stream(i)))
                    for i, block in enumerate(blocks, 2))


def header_key(data_key):
    """HKDF-SHA256 (RFC 5869) without salt, one block of output."""
    prk = hmac.digest(bytes(32), data_key, hashlib.sha256)
    return hmac.digest(prk, b"state-disk header v1\x01", hashlib.sha256)


# --- docs/state-disk.md ---

def parse_preamble(slot):
    """None for a blank slot."""
    if not any(slot):
        return None
    magic, version, flags, key_version, disk, generation, nonce, length, reserved = struct.unpack(
        "<8sHHI16sQ12sI8s", slot[:PREAMBLE])
    if (magic, version, flags, length) != (b"CSTLDISK", 1, 0, SEALED) or any(reserved):
        raise Refused("a slot has no preamble of format version 1")
    if key_version == 0 or generation == 0:
        raise Refused("a preamble's key version or generation is 0")
    if any(slot[PREAMBLE + SEALED:]):
        raise Refused("bytes after a sealed header are not zero")
    return {"disk": uuid.UUID(bytes=disk), "key_version": key_version, "generation": generation,
            "nonce": nonce, "slot": slot}


def choose(slots):
    """The slots that have the form of a sealed header, newest first."""
    found, flaw = [], None
    for index, slot in enumerate(slots):
        try:
            preamble = parse_preamble(slot)
        except Refused as error:
            flaw = error
            continue
        if preamble:
            found.append(dict(preamble, index=index))
    if not found and flaw:
        raise flaw
    if len({preamble["disk"] for preamble in found}) > 1:
        raise Refused("the slots name two disks")
    return sorted(found, key=lambda preamble: -preamble["generation"])


def parse_body(body):
    (keys, cluster, role, unfinished, pad1, name, pad2, stack, pad3, data, start, journal, interleave,
     buffers, watermark, commit, block, tag, pad4, superblock) = struct.unpack(
        "<96s32sBB2s64s4sB7sQ8I8s64s", body)
    name, _, rest = name.partition(b"\0")
    fixed = (stack, start, block, tag) == (1, 32768, 4096, 32)
    if any(pad1 + pad2 + pad3 + pad4 + rest) or role not in (1, 2) or unfinished > 1 or not fixed:
        raise Refused("the authenticated body is not of format version 1")
    return {"volume_keys": keys, "cluster": cluster.hex(), "name": name.decode("ascii"),
            "role": {1: "control-plane", 2: "worker"}[role], "unfinished": bool(unfinished),
            "data_sectors": data, "superblock": superblock, "integrity":
            f"{start} {tag} J 7 block_size:{block} journal_sectors:{journal} "
            f"interleave_sectors:{interleave} buffer_sectors:{buffers} "
            f"journal_watermark:{watermark} commit_time:{commit} fix_padding"}


def open_disk(slots, data_key):
    """None for a blank disk."""
    preambles = choose(slots)
    for preamble in preambles:
        slot = preamble["slot"]
        body = open_gcm(header_key(data_key), preamble["nonce"], slot[:PREAMBLE],
                        slot[PREAMBLE:PREAMBLE + SEALED])
        if body is not None:
            return dict(preamble, **parse_body(body))
    if preambles:
        raise Refused(f"no slot of disk {preambles[0]['disk']} authenticates under the data key")
    return None


def describe(header):
    key = f"constellation:state-disk/{header['disk']}"
    sectors = header["data_sectors"]
    return "\n".join([
        f"slot: {header['index']}", f"disk: {header['disk']}",
        f"generation: {header['generation']}", f"key version: {header['key_version']}",
        f"cluster: {header['cluster']}", f"node: {header['name']}", f"role: {header['role']}",
        f"init unfinished: {'yes' if header['unfinished'] else 'no'}",
        f"superblock: {header['superblock'].hex()}", f"key: {key}",
        f"table constellation-state-integrity: 0 {sectors} integrity DISK {header['integrity']}",
        f"table constellation-state: 0 {sectors} crypt "
        f"capi:authenc(hmac(sha256),xts(aes))-plain64 :96:logon:{key} 0 "
        "/dev/mapper/constellation-state-integrity 0 2 integrity:32:aead sector_size:4096"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("disk", help="the disk, its partition, or a copy of its first 68 KiB")
    parser.add_argument("data_key", help="a file with the 32 bytes of the data key")
    parser.add_argument("--volume-keys", metavar="FILE", help="write the volume keys to a new file")
    arguments = parser.parse_args()
    with open(arguments.disk, "rb") as disk, open(arguments.data_key, "rb") as key:
        start, data_key = disk.read(SECOND + SLOT), key.read()
    if len(start) != SECOND + SLOT or len(data_key) != 32:
        sys.exit("refused: the disk is shorter than 68 KiB or the data key is not 32 bytes")
    try:
        header = open_disk([start[:SLOT], start[SECOND:]], data_key)
    except Refused as error:
        sys.exit(f"refused: {error}")
    if header is None:
        print("blank")
        sys.exit(2)
    print(describe(header))
    if arguments.volume_keys:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with open(os.open(arguments.volume_keys, flags, 0o600), "wb") as file:
            file.write(header["volume_keys"])


if __name__ == "__main__":
    main()
