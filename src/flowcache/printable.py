"""Texts of strangers, fit to be shown."""

from __future__ import annotations

__all__ = ["printable"]


def printable(text: str) -> str:
    """Return a text that can't steer a terminal: a key may hold what callers like."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
