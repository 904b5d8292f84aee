"""Coercion: what an untyped flow variable means, by the declared type of its field.

A flow's variables arrive untyped: a number may come as text, an unset variable as null, as an
empty string, or as the placeholder that was never filled in (``${input.ttl}``). The rules:

- coercion belongs to the *field*: ``"60"`` is 60 for `ttl` and stays ``"60"`` as a value;
- an optional field that is null, ``""`` or an unfilled placeholder is absent;
- nothing is guessed: ``true`` is no integer, ``60.5`` is no integer, a number is no key.

Each function takes the field's name, for the sentence that says what was wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flowcache.errors import InvalidRequest, TooLarge

__all__ = [
    "MAX_CONTEXT_BYTES",
    "MAX_KEY_BYTES",
    "choice",
    "context",
    "integer",
    "is_absent",
    "key",
    "kind",
    "optional",
]

MAX_KEY_BYTES = 512
MAX_CONTEXT_BYTES = 256
"""The longest `flowId`, `interactionId` or `idempotencyKey`."""

_MAX_INTEGER_DIGITS = 19


def kind(value: object) -> str:
    """Name a JSON value's type the way a flow author would."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "an array"
        case dict():
            return "an object"
        case _:
            return "nothing: it is missing"


def is_absent(value: object) -> bool:
    """Tell whether ``value`` is what a flow sends for a variable that was never set."""
    if value is None or value == "":
        return True
    return isinstance(value, str) and value.startswith("${") and value.endswith("}")


def optional(
    field: str, value: object, coerce: Callable[..., Any], *limits: object, default: Any = None
) -> Any:
    """Coerce ``value`` unless it is absent, which means ``default``."""
    return default if is_absent(value) else coerce(field, value, *limits)


def key(field: str, value: object) -> bytes:
    """Return a Redis key of 1 to 512 bytes.

    Raises:
        InvalidRequest: it is missing, empty, or no string.
        TooLarge: it is longer than 512 bytes of UTF-8.
    """
    if not isinstance(value, str):
        raise InvalidRequest(f"{field}: expected a string of 1 to 512 bytes, got {kind(value)}.")
    if value.startswith("${") and value.endswith("}"):
        # Callers whose variables were never filled in must not meet under one key.
        raise InvalidRequest(f"{field}: expected a key, got a placeholder that was not filled in.")
    encoded = value.encode()
    if not encoded:
        raise InvalidRequest(f"{field}: expected a string of 1 to 512 bytes, got an empty one.")
    if len(encoded) > MAX_KEY_BYTES:
        raise TooLarge(f"{field}: {len(encoded)} bytes; a key has at most {MAX_KEY_BYTES}.")
    return encoded


def integer(field: str, value: object, low: int, high: int, unit: str) -> int:
    """Return an integer in ``low..high``; ``"60"``, ``" 60 "``, ``60.0`` and ``"60.0"`` are 60.

    Raises:
        InvalidRequest: it is something else; the sentence says what was wanted.
    """
    number = _integer_or_none(value)
    if number is None:
        shown = f" {value[:40]!r}" if isinstance(value, str) else ""
        raise InvalidRequest(
            f"{field}: expected a whole number of {unit} from {low} to {high}, "
            f"got {kind(value)}{shown}{' with a fraction' if isinstance(value, float) else ''}."
        )
    if not low <= number <= high:
        raise InvalidRequest(
            f"{field}: expected a whole number of {unit} from {low} to {high}, got one "
            f"{'below' if number < low else 'above'} that."
        )
    return number


def _integer_or_none(value: object) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    if not isinstance(value, str):
        return None
    text = value.strip()
    whole, _, fraction = text.partition(".")
    sign = whole[:1] if whole[:1] in ("+", "-") else ""
    digits = whole[len(sign) :]
    # str.isdigit() alone would admit digits of other scripts and superscripts.
    if not (digits.isascii() and digits.isdigit()) or fraction.strip("0"):
        return None
    digits = digits.lstrip("0") or "0"
    # int() has a limit of its own and raises; nothing that long is in any range.
    return int(sign + digits) if len(digits) <= _MAX_INTEGER_DIGITS else None


def choice(field: str, value: object, choices: tuple[str, ...]) -> str:
    """Return one of ``choices`` (lower case), whatever the case it came in.

    Raises:
        InvalidRequest: it is none of them.
    """
    if isinstance(value, str) and value.lower() in choices:
        return value.lower()
    wanted = " or ".join(f'"{item}"' for item in choices)
    shown = f'"{value[:40]}"' if isinstance(value, str) else kind(value)
    raise InvalidRequest(f"{field}: expected {wanted}, got {shown}.")


def context(field: str, value: object) -> str:
    """Return a text of at most 256 bytes; a number becomes its JSON text.

    Raises:
        InvalidRequest: it is neither a string nor a number.
        TooLarge: it is longer than 256 bytes of UTF-8.
    """
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise InvalidRequest(f"{field}: expected a string or a number, got {kind(value)}.")
    text = value if isinstance(value, str) else repr(value)
    size = len(text.encode())
    if size > MAX_CONTEXT_BYTES:
        raise TooLarge(f"{field}: {size} bytes; it has at most {MAX_CONTEXT_BYTES}.")
    return text
