"""Encode and decode the messages between judge and sandboxed process: JSON, with its length before it.

The judge decodes bytes that a hostile process wrote, so this file uses neither pickle nor marshal and limits every
size. How a message represents Python values is defined in judging/python/objects.py.
"""

from __future__ import annotations

import json
import struct
from typing import Any

MAX_FRAME = 2 * 1024 * 1024  # bytes: the largest reply of the untrusted side
MAX_REQUEST = 16 * 1024 * 1024  # bytes: the largest message of the trusted side
MAX_JOB = 64 * 1024 * 1024  # bytes: the largest task with its completion

_LENGTH = struct.Struct(">I")


class TooBig(ValueError):
    """A value exceeds a cap; the message says which."""


class Malformed(ValueError):
    """The other end sent bytes that our code never writes."""


class Costly(Malformed):
    """The other end sent a message that takes the judge far longer to read than it took to write."""


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


# made once: with any option, json.dumps and json.loads make a new encoder or decoder at each call
_JSON_WRITER = json.JSONEncoder(allow_nan=False, check_circular=False, separators=(",", ":"))
_JSON_READER = json.JSONDecoder(parse_constant=_no_constant)


def dump_frame(message: Any, limit: int = MAX_REQUEST) -> bytes:
    """Return one message as bytes: its length in four bytes, big-endian, then ASCII JSON.

    Raises:
        TooBig: the JSON is longer than `limit` bytes.
    """
    body = _JSON_WRITER.encode(message).encode("ascii")
    if len(body) > limit:
        raise TooBig(f"it is larger than {limit // 1024} KiB")
    return _LENGTH.pack(len(body)) + body


def split_frame(buffer: bytes | bytearray, limit: int) -> tuple[Any, int] | None:
    """Return the first message in a buffer and the number of bytes it took; None while it is incomplete.

    Raises:
        Malformed: the message is longer than `limit` bytes, or is not JSON.
    """
    if len(buffer) < 4:
        return None
    (length,) = _LENGTH.unpack_from(buffer)
    if length > limit:
        raise Malformed(f"a frame of {length} bytes, where {limit} are allowed")
    if len(buffer) < 4 + length:
        return None
    try:
        text = buffer[4 : 4 + length].decode("ascii")
        message, end = _JSON_READER.raw_decode(text)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"a frame that is not JSON: {error}"[:200]) from None
    if end != length:
        raise Malformed("a frame that goes on after its JSON")
    return message, 4 + length
