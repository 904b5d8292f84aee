"""Make text of others safe to show.

A key, a client's name or a server's error may hold escape sequences, which steer a terminal, and
characters that can't be seen or turn the order of what is shown, which deceive its reader. What may
be shown is what Unicode calls printable (no control, format, surrogate, private or unassigned
characters, and no separator but the space), without what has no glyph of its own.
"""

from __future__ import annotations

import re

__all__ = ["printable", "printable_json", "printable_lines"]

_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\uffa0\ufe00-\ufe0f\U000e0100-\U000e01ef]"
)
"""What Python calls printable and nobody sees: default ignorables of Unicode, the empty Braille."""


def printable(text: str) -> str:
    """Return a text on one line that can't steer a terminal; what may not be shown as ``\\x1b``."""
    return text if _is_harmless(text) else "".join(map(_escaped, text))


def printable_lines(text: str) -> str:
    """Return a text as `printable` does, line by line: its line ends, ``\\n``, stay."""
    return "\n".join(map(printable, text.split("\n")))


def printable_json(text: str) -> str:
    """Return a JSON text that decodes to the same value; what may not be shown as ``\\u001b``.

    Outside of strings JSON has nothing to escape but line ends, which stay.
    """
    if _is_harmless(text):
        return text
    return "".join(c if c == "\n" or _is_harmless(c) else _escaped_in_json(c) for c in text)


def _is_harmless(text: str) -> bool:
    return text.isprintable() and (text.isascii() or _INVISIBLE.search(text) is None)


def _escaped(character: str) -> str:
    if _is_harmless(character):
        return character
    return character.encode("unicode_escape").decode()


def _escaped_in_json(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))
