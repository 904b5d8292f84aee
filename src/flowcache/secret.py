"""A type for what must never be shown."""

from __future__ import annotations

import hmac
from typing import NoReturn

__all__ = ["Secret"]


class Secret:
    """Hold a secret that no ``repr``, ``str``, f-string or log line can show.

    `reveal` is the one way to the value: searching for it finds every use.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the value itself. Never log or store what this returns."""
        return self._value

    def matches(self, candidate: bytes) -> bool:
        """Compare with ``candidate`` in time that does not depend on where they differ."""
        return hmac.compare_digest(self._value.encode(), candidate)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not written anywhere")

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return self.matches(other._value.encode())

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __bool__(self) -> bool:
        return bool(self._value)
