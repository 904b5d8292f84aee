"""What chains bear witness to: how far the others in the file had come."""

from __future__ import annotations

import os
import socket
import sqlite3
from collections.abc import Collection, Mapping
from types import MappingProxyType

import msgspec

from flowcache.audit import database
from flowcache.audit.chain import Entry, Number, writer_name

__all__ = ["Witness", "look"]

_WITNESSED = 32
"""How many other chains a witness names: those that were written to last. It stays for good."""


class Witness(msgspec.Struct, frozen=True):
    """The detail of a first and a last record: who writes, and how far other chains had come."""

    host: str
    pid: int
    heads: dict[str, tuple[Number, str]]
    """By the writer's name: number and hash of the newest record."""


def look(
    connection: sqlite3.Connection,
    own: Collection[int],
    missing: Mapping[str, tuple[int, str]] = MappingProxyType({}),
) -> Witness:
    """Look at all chains but one's ``own``; those that were written to last are named.

    What is ``missing`` is named as it was when somebody saw it, whatever is there now.

    Raises:
        sqlite3.Error: the journal can't be read.
    """
    last = [link for link in database.heads(connection) if link.entry.writer not in own]
    # A time that is none was put there by somebody: their record is the first to be witnessed.
    last.sort(key=lambda link: _at(link.entry), reverse=True)
    heads = {
        writer_name(entry.writer): (entry.seq, hash_.hex()) for entry, hash_, _ in last[:_WITNESSED]
    }
    return Witness(socket.gethostname(), os.getpid(), heads | dict(missing))


def _at(entry: Entry) -> float:
    return entry.at if isinstance(entry.at, float) else float("inf")
