#!/usr/bin/env python3
"""Lists the records of packs and verifies them, by docs/STORAGE_FORMAT.md alone.

    tools/read_pack.py DATA_DIR/hot/packs/*.pack

One line for each record; exit code 1 if anything is not as it was written.
"""
import hashlib
import struct
import sys

TABLE = []
for number in range(256):
    for _ in range(8):
        number = number >> 1 ^ (0x82F63B78 if number & 1 else 0)
    TABLE.append(number)


def crc32c(data, crc=0):
    crc ^= 0xFFFFFFFF
    for byte in data:
        crc = TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


CHANGES = {1: "commit", 2: "delete", 3: "delete-key", 4: "mend", 5: "update", 6: "move"}


def batch_at(data, offset, pack):
    """The length of the whole batch at an offset, or None."""
    if data[offset : offset + 4] != b"JSBT" or offset + 48 > len(data):
        return None
    checksum, owner, number, previous, records, length = struct.unpack_from("<IQQIIQ", data, offset + 4)
    batch = data[offset : offset + length]
    whole = owner == pack and 48 <= length <= 1 << 20 and len(batch) == length and crc32c(batch[8:]) == checksum
    return (length, number, previous, records, checksum) if whole else None


def read_batch(data, offset, length, pack):
    position, good = offset + 48, True
    while position < offset + length:
        checksum, owner, at, sequence, body, body_checksum, details, kind = struct.unpack_from(
            "<IQQQIIIB", data, position + 4
        )
        content_hash = data[position + 48 : position + 80]
        body_bytes = data[position + 96 : position + 96 + body]
        details_bytes = data[position + 96 + body : position + 96 + body + details]
        faults = [
            name
            for name, holds in [
                ("magic", data[position : position + 4] == b"JSRC"),
                ("place", (owner, at) == (pack, position)),
                ("record", crc32c(data[position + 8 : position + 96] + details_bytes) == checksum),
                ("body", crc32c(body_bytes) == body_checksum),
                ("hash", not body or hashlib.sha256(body_bytes).digest() == content_hash),
            ]
            if not holds
        ]
        what = CHANGES.get(details_bytes[0] if details_bytes else 0, "?") if kind else "data"
        print(f"  {position:>10}  {sequence:>8}  {what:<10}  {body:>7}  {content_hash.hex()}  {' '.join(faults) or 'ok'}")
        good &= not faults
        position += 96 + body + details
        if "magic" in faults:
            break
    return good


def read_pack(path):
    data = open(path, "rb").read()
    if not any(data[:4096]):
        print(f"{path}: never finished")
        return True
    pack, made, instance, core, cold = struct.unpack_from("<QQqIB", data, 8)
    if data[:8] != b"JSPACK\0\1" or crc32c(data[:44]) != struct.unpack_from("<I", data, 44)[0]:
        print(f"{path}: not a pack")
        return False
    print(f"{path}: pack {pack:016x}, {'cold' if cold else 'hot'}, core {core}, made with {made} bytes")
    offset, expected, last, good = 4096, 0, 0, True
    while found := batch_at(data, offset, pack):
        length, number, previous, _, checksum = found
        if (number, previous) != (expected, last):
            print(f"  {offset:>10}  batch {number} does not follow {expected - 1}")
            good = False
        good &= read_batch(data, offset, length, pack)
        offset, expected, last = offset + -(-length // 4096) * 4096, number + 1, checksum
    later = range(offset + 4096, min(offset + (1 << 20) + 4096, len(data)), 4096)
    if any(batch_at(data, position, pack) for position in later):
        print(f"  {offset:>10}  DAMAGED: an acknowledged batch is not as it was written")
        return False
    print(f"  {offset:>10}  end of the log, {expected} batches")
    return good


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(0 if all([read_pack(path) for path in sys.argv[1:]]) else 1)
