"""RESP, as little of it as the tests say themselves (the Redis protocol specification)."""

from __future__ import annotations

from flowcache.store.settings import Address
from flowcache.store.slots import SLOTS

__all__ = [
    "NULL",
    "OK",
    "array",
    "bulk",
    "error",
    "hello",
    "integer",
    "push",
    "serving",
    "sharing",
    "words",
]

OK = b"+OK\r\n"
NULL = b"_\r\n"


def bulk(value: bytes | str) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return b"$%d\r\n%b\r\n" % (len(data), data)


def integer(value: int) -> bytes:
    return b":%d\r\n" % value


def array(*items: bytes) -> bytes:
    """Return an array of what is RESP already."""
    return b"*%d\r\n%b" % (len(items), b"".join(items))


def push(*items: bytes) -> bytes:
    """Return a message that nobody asked for, of what is RESP already."""
    return b">%d\r\n%b" % (len(items), b"".join(items))


def error(text: bytes | str) -> bytes:
    return b"-%b\r\n" % (text.encode() if isinstance(text, str) else text)


def words(*args: bytes | str) -> bytes:
    """Return a command."""
    return array(*map(bulk, args))


def hello(mode: str) -> bytes:
    """Return a reply to HELLO, as far as it is read: ``standalone``, ``sentinel``, ``cluster``."""
    return b"%%2\r\n%b%b%b%b" % (bulk("proto"), integer(3), bulk("mode"), bulk(mode))


def serving(primary: Address, *replicas: Address) -> bytes:
    """Return a reply to CLUSTER SLOTS where one shard has them all."""
    return array(_shard(0, SLOTS - 1, primary, *replicas))


def sharing(last: int, one: Address, other: Address | None) -> bytes:
    """Return one where ``one`` has the slots up to ``last``, and ``other`` the rest, or nobody."""
    rest = () if other is None else (_shard(last + 1, SLOTS - 1, other),)
    return array(_shard(0, last, one), *rest)


def _shard(first: int, last: int, *servers: Address) -> bytes:
    nodes = (
        array(bulk(node.host), integer(node.port), bulk(f"id of {node.port}")) for node in servers
    )
    return array(integer(first), integer(last), *nodes)
