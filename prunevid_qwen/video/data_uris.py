"""Pictures inside a ``data:`` URI, as clients of OpenAI's API send them."""

from __future__ import annotations

import base64
import binascii
import os
from typing import Any
from urllib.parse import unquote_to_bytes

from prunevid_qwen.errors import MediaError, excerpt

_URL_SAFE = bytes.maketrans(b"-_", b"+/")


def is_data_uri(source: Any) -> bool:
    """Tell whether ``source`` is a text that holds the content itself."""
    return isinstance(source, str) and source[:5].lower() == "data:"


def named(source: str | os.PathLike[str]) -> str:
    """Return what receipts call a source: a path as it is, or a few words on a data URI."""
    if not is_data_uri(source):
        return os.fsdecode(source)
    head = str(source)[5:].partition(",")[0]
    return f"a data: URI of {len(str(source)):,} characters ({excerpt(head, 40) or 'of no type'})"


def content_of(source: str) -> bytes:
    """Return the bytes in a data URI: base64, with or without padding and line breaks, or percent-encoded.

    Raises:
        MediaError: no comma, or no base64 after one that says so.
    """
    head, comma, body = source[5:].partition(",")
    if not comma:
        raise MediaError(f"{named(source)} has no comma: 'data:image/png;base64,' and then the picture is expected")
    held = unquote_to_bytes(body)
    if not head.lower().replace(" ", "").endswith(";base64"):
        return held
    held = b"".join(held.split()).translate(_URL_SAFE).rstrip(b"=")
    try:
        return base64.b64decode(held + b"=" * (-len(held) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise MediaError(f"{named(source)} is no base64 ({error}): encode the whole file again") from error
