"""Page tokens: where the next page goes on, bound to the list that they were made for."""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Final

from holdfast_scheduler.errors import INVALID_ARGUMENT, RefusedError
from holdfast_scheduler.model import ItemFault

_MARK: Final = 8  # bytes of the digest of list and place


def page_token(place: bytes | None, *belongs_to: str) -> str:
    """The token for the page after `place`; empty when there is none."""
    if place is None:
        return ""
    return base64.urlsafe_b64encode(_mark(belongs_to, place) + place).decode().rstrip("=")


def place_from(token: str, *belongs_to: str) -> bytes | None:
    """The place that a token names; None for the first page.

    Raises: RefusedError when it is malformed or belongs to another list or filter.
    """
    if not token:
        return None
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) <= _MARK or raw[:_MARK] != _mark(belongs_to, raw[_MARK:]):
        message = "page_token: is not a next_page_token of this list; repeat the request that gave it, unchanged"
        raise RefusedError(ItemFault(INVALID_ARGUMENT, "INVALID_FILTER", message, {"field": "page_token"}))
    return raw[_MARK:]


def _mark(belongs_to: tuple[str, ...], place: bytes) -> bytes:
    return hashlib.sha256("\0".join((*belongs_to, place.hex())).encode()).digest()[:_MARK]
