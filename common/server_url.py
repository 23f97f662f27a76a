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
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and url.isprintable()
    except ValueError:
        good = False
    require(good, f"{flag}: want an address like http://localhost:8000/v1")


def has_secret(url: str) -> bool:
    """Return whether an address has a user, a password, a query or a fragment: it may be a key, and is recorded.

    >>> has_secret("http://one:8000/v1"), has_secret("http://one:8000/v1?key=1")
    (False, True)
    """
    parts = urlsplit(url)
    return bool(parts.username or parts.password or parts.query or parts.fragment)


def server_urls(text: str) -> list[str]:
    """Return the addresses of a fleet, as `public_url` writes them.

    Raises:
        InputError: there is none, one is no address, holds a secret (these are recorded), or comes twice.

    >>> server_urls("http://one:8000, http://two:8000/v1/")
    ['http://one:8000/v1', 'http://two:8000/v1']
    """
    given = [url.strip() for url in text.split(",") if url.strip()]
    require(bool(given), "--engine server: needs --server URL, or several with commas in between")
    for url in given:
        check_url(url, "--server")
        require(not has_secret(url),
                f"--server {public_url(url)}: leave out user, password, query; OPENAI_API_KEY is the key")  # fmt: skip
    urls = [public_url(url) for url in given]
    twice = [url for url in urls if urls.count(url) > 1]
    require(not twice, f"--server {twice[:1]}: is given twice")
    return urls
