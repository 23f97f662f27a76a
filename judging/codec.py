"""Messages across the sandbox's border: tagged JSON in frames with a length before them.

The judge decodes what a hostile process wrote, so there is no pickle and no marshal here, and everything has a cap.
What a message says about values is judging/python/objects.py's business.
"""

from __future__ import annotations

import json
import struct
from typing import Any

MAX_FRAME = 2 * 1024 * 1024  # bytes: what one reply of the untrusted side may hold
MAX_REQUEST = 16 * 1024 * 1024  # bytes: what the trusted side may send

_LENGTH = struct.Struct(">I")


class TooBig(ValueError):
    """A value that does not fit: its message says which cap it met."""


class Malformed(ValueError):
    """Bytes that our side would never have written."""


class Costly(Malformed):
    """What would take the judge far longer to read than the other end to write."""


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


# made once: json.dumps and json.loads make one a call as soon as an option is not the default
_JSON_WRITER = json.JSONEncoder(allow_nan=False, check_circular=False, separators=(",", ":"))
_JSON_READER = json.JSONDecoder(parse_constant=_no_constant)


def dump_frame(message: Any, limit: int = MAX_REQUEST) -> bytes:
    """One message as bytes: its length in four bytes, big-endian, then ASCII JSON.

    Raises:
        TooBig: longer than `limit` bytes.
    """
    body = _JSON_WRITER.encode(message).encode("ascii")
    if len(body) > limit:
        raise TooBig(f"it is larger than {limit // 1024} KiB")
    return _LENGTH.pack(len(body)) + body


def split_frame(buffer: bytes | bytearray, limit: int) -> tuple[Any, int] | None:
    """The first message in a buffer and the number of bytes it took; None while it is incomplete.

    Raises:
        Malformed: longer than `limit` bytes, or not JSON.
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
