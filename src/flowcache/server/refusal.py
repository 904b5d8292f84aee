"""What the server itself answers: to a request that is no HTTP, and for an application that failed.

The application says how such an answer looks, so that all that a client reads has one form.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from itertools import count
from typing import NamedTuple

__all__ = ["BadRequest", "Refusal", "Refuse", "plain_refusals"]


class BadRequest(Exception):
    """A client sent no HTTP that is served here. ``message`` tells the client why."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class Refusal(NamedTuple):
    """A whole answer. ``reference`` stands in it and in the log, so that one leads to the other."""

    reference: str
    status: int
    headers: Iterable[tuple[bytes, bytes]]
    body: bytes


Refuse = Callable[[str | None], Refusal]
"""Make the answer to a bad request from its message; None: the application failed."""


def plain_refusals() -> Refuse:
    """Return what answers in plain text: for an application that has no form of its own."""
    prefix, numbers = os.urandom(8).hex(), count(1)
    headers = ((b"content-type", b"text/plain; charset=utf-8"),)

    def refuse(why: str | None) -> Refusal:
        reference = f"{prefix}-{next(numbers):08x}"
        if why is None:
            return Refusal(reference, 500, headers, f"A bug; see {reference}.\n".encode())
        return Refusal(reference, 400, headers, f"{why}\n".encode())

    return refuse
