"""TensorBoard's events as bytes: protocol buffers, of which a run needs few.

tensorboardX, which has them too, imports torch where that is installed, for seconds.
"""

import struct

import numpy as np

_POLYNOMIAL = 0x82F63B78  # of CRC-32C, reflected


def began(step: int, seconds: float) -> bytes:
    """Returns the event that hides what an earlier file has from a step on."""
    return _event(step, seconds, _bytes(7, b"\x08\x01"))  # session_log.status = START


def version(seconds: float) -> bytes:
    """Returns the event that a file begins with."""
    return _event(0, seconds, _bytes(3, b"brain.Event:2"))


def scalar(step: int, seconds: float, name: str, value: float) -> bytes:
    """Returns the event of a metric's value.

    Args:
        step: The step, from 0.
        seconds: When it was measured, since the epoch.
        name: The metric.
        value: Its value, kept in float32.
    """
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite
        kept = np.float32(value)
    shown = _bytes(1, name.encode()) + b"\x15" + struct.pack("<f", kept)
    return _event(step, seconds, _bytes(5, _bytes(1, shown)))  # summary.value


def framed(data: bytes) -> bytes:
    """Returns a record in TFRecord's frame of lengths and checksums."""
    length = struct.pack("<Q", len(data))
    return b"".join(part + _checksum(part) for part in (length, data))


def _event(step: int, seconds: float, what: bytes) -> bytes:
    time = b"\x09" + struct.pack("<d", seconds)
    return time + b"\x10" + _varint(step) + what


def _bytes(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    """Returns a number in groups of seven bits, the lowest first."""
    groups = [value & 127]
    while value := value >> 7:
        groups.append(value & 127)
    return bytes([*(group | 128 for group in groups[:-1]), groups[-1]])


def _remainder(value: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
    return value


_REMAINDERS = tuple(map(_remainder, range(256)))


def _checksum(data: bytes) -> bytes:
    """Returns the data's CRC-32C (RFC 3720, section 12.1), masked as TFRecord does."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _REMAINDERS[crc & 255 ^ byte]
    crc ^= 0xFFFFFFFF
    rotated = (crc >> 15 | crc << 17) + 0xA282EAD8
    return struct.pack("<I", rotated & 0xFFFFFFFF)
