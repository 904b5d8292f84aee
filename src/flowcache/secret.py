"""A type for what must never be shown."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import NoReturn

__all__ = ["Secret", "SecretInFile"]


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

    def fresh(self) -> Secret:
        """Return it as it is now.

        Raises:
            ValueError: it can't be read any more; see `SecretInFile`.
        """
        return self

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


class SecretInFile(Secret):
    """A secret that ``read`` takes from a file, which may be replaced by one that holds the next.

    It stays what it was at first; who can use the next one asks for it with `fresh`.
    """

    __slots__ = ("_read",)

    def __init__(self, read: Callable[[], Secret]) -> None:
        super().__init__(read().reveal())
        self._read = read

    def fresh(self) -> Secret:
        """Return what the file holds now.

        Raises:
            ValueError: it can't be read, or holds none.
        """
        return self._read()
