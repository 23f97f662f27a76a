"""Check and shorten the addresses of OpenAI-compatible servers."""

from __future__ import annotations

from urllib.parse import urlsplit

from common.arguments import require

# reading an answer that has the wrong form raises one of these
NOT_AS_AGREED = (AttributeError, IndexError, TypeError, ValueError)


def public_url(url: str) -> str:
    """Return the address without user, password and query, which may be secret; add /v1 if it has no path.

    >>> public_url("https://me:secret@example.org:8000/?key=1"), public_url("http://[::1]:80/api/v1/")
    ('https://example.org:8000/v1', 'http://[::1]:80/api/v1')
    """
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/') or '/v1'}"


def check_url(url: str, flag: str) -> None:
    """Raise InputError, which names the flag, unless the address is http or https with a host."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    require(good, f"{flag}: want an address like http://localhost:8000/v1")
