"""How much structure a JSON text may have, told without building anything of it.

A text of 255 KB may hold one string or 87,000 empty arrays: bytes alone don't tell what it costs to
decode. So its elements and its nesting are bounded as well. An *element* is an item of an array or
a member of an object. A number longer than 24 characters counts as one element for each 8 of them,
because the time for a long integer grows with the square of its length.
"""

from __future__ import annotations

import re
from itertools import accumulate
from math import isinf

import msgspec

__all__ = [
    "COUNTED_MORE",
    "DEAR",
    "DEFAULT_BOUNDS",
    "LIGHT",
    "Bounds",
    "finite",
    "too_deep",
    "too_many",
    "weight",
]


class Bounds(msgspec.Struct, frozen=True):
    """What a body and a stored value may have."""

    max_elements: int = 10_000
    max_depth: int = 64
    """Of a body only: a stored value that is nested deeper costs no more than a flat one."""


DEFAULT_BOUNDS = Bounds()


LIGHT = 1024
"""Up to so many bytes no text is dear: 512 elements take more."""
DEAR = 512
"""The `weight` over which a text takes more than about 0.1 ms to decode."""
_BYTES_OF_ELEMENT = 64

_SHORT = 16 * 1024
"""Up to so many bytes a text is cheap to decode, whatever it holds."""

_SYNTAX = msgspec.json.Decoder(msgspec.Raw)
_LONG_NUMBER, _ELEMENT_OF_NUMBER = 24, 8
COUNTED_MORE = f"a number longer than {_LONG_NUMBER} characters counts as several"
_NUMBER = re.compile(rb"[0-9.eE+-]+")
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in _STEPS)
_SPACE = b" \t\r\n"


def weight(raw: bytes) -> int:
    """Return what a text costs at most, in elements: to decode one, or 64 bytes, takes as long.

    It takes as much memory, too: 64 bytes for each, or a few times that.
    """
    marks = raw.count(b",") + raw.count(b"[") + raw.count(b"{")
    return len(raw) // _BYTES_OF_ELEMENT + marks


def too_many(raw: bytes, most: int) -> bool:
    """Return whether a JSON text has more than ``most`` elements.

    Raises:
        msgspec.DecodeError: it is not JSON. Short texts are not looked at so closely.
        RecursionError: it is nested so deeply that no parser can tell.
    """
    size = len(raw)
    if size <= _SHORT and size <= 2 * most:  # an element takes two bytes
        return False
    _SYNTAX.decode(raw)
    bare = _without_strings(raw, 4 * most + 2)
    return bare is None or _elements(bare, most) > most


def too_deep(raw: bytes, most: int) -> bool:
    """Return whether the arrays and objects of JSON are nested in more than ``most`` levels."""
    # It can't be nested deeper than it has opening brackets: the exact count is rarely needed.
    if raw.count(b"[") + raw.count(b"{") <= most:
        return False
    bare = _without_strings(raw, len(raw))
    return bare is not None and _depth(bare) > most


def _without_strings(raw: bytes, max_quotes: int) -> bytes | None:
    """Return a JSON text without what is between its quotes; None: it has more quotes than that.

    An element has two strings at most, four quotes.
    """
    plain = raw.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in raw else raw
    if plain.count(b'"') > max_quotes:
        return None
    return b'"'.join(plain.split(b'"')[::2])


def _elements(bare: bytes, enough: int) -> int:
    """Count the elements; stop when there are more than ``enough``."""
    count = bare.count(b",")
    if count > enough:
        return count
    # One more than there are commas, for each array or object that isn't empty.
    dense = bare.translate(None, _SPACE)
    containers = dense.count(b"[") + dense.count(b"{")
    count += containers - dense.count(b"[]") - dense.count(b"{}")
    if count <= enough and len(dense) > _SHORT:
        pieces = [piece for piece in dense.split(b",") if len(piece) > _LONG_NUMBER]
        lengths = map(len, _NUMBER.findall(b",".join(pieces)))
        count += sum(n // _ELEMENT_OF_NUMBER for n in lengths if n > _LONG_NUMBER)
    return count


def _depth(bare: bytes) -> int:
    """Return how deep the brackets are nested."""
    return max(accumulate(map(_STEPS.__getitem__, bare.translate(None, _NO_BRACKETS))), default=0)


def finite(text: str) -> float:
    """Read a number with a fraction or an exponent: the decoder's ``float_hook``.

    msgspec's own reader takes 9 microseconds for some (``1e300``), a hundred times what it takes
    for others; Python's takes 0.2 for any.

    Raises:
        ValueError: it is beyond a double.
    """
    number = float(text)
    if isinf(number):
        raise ValueError("number out of range")
    return number
