"""Addresses of OpenAI-compatible servers."""

from __future__ import annotations

from urllib.parse import urlsplit

from common.arguments import require

NOT_AS_AGREED = (AttributeError, IndexError, TypeError, ValueError)  # what an answer that is something else leads to


def public_url(url: str) -> str:
    """The address without user, password and query, which are nobody's business; /v1 where it has no path.

    >>> public_url("https://me:secret@example.org:8000/?key=1"), public_url("http://[::1]:80/api/v1/")
    ('https://example.org:8000/v1', 'http://[::1]:80/api/v1')
    """
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/') or '/v1'}"


def check_url(url: str, flag: str) -> None:
    """Raises InputError unless it is an http or https address; names the flag."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    require(good, f"{flag}: want an address like http://localhost:8000/v1")
