"""Who holds what: the shape of a Redis, as plain records, and how servers tell it.

The one border for what servers say of themselves and of each other: each function here reads one
reply, believes nothing of it, and returns records or raises a `ValueError` whose sentence holds
nothing that the server said. The bounds: slots within 0 to 16,383, each with one owner; at most
`_MOST_PRIMARIES` shards and `_MOST_REPLICAS` replicas of each; a host of at most 255 printable
characters, a port from 1 to 65,535 (0 would name a Unix socket).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from functools import wraps
from types import MappingProxyType
from typing import Any, NamedTuple, ParamSpec, TypeVar

from flowcache.store.settings import Address
from flowcache.store.slots import SLOTS

__all__ = [
    "Kind",
    "Layout",
    "Role",
    "ShardMap",
    "SlotsReader",
    "Topology",
    "address_of",
    "from_cluster_nodes",
    "from_hello",
    "from_master_address",
    "from_masters",
    "from_replicas",
    "from_role",
    "is_replica",
]

_MOST_PRIMARIES = 1000
_MOST_REPLICAS = 32
_PIECE = 500
_HOST = re.compile(r"[^\s\x00-\x20\x7f-\xa0/@,\[\]]{1,255}")

_P = ParamSpec("_P")
_T = TypeVar("_T")


def _reader(command: str) -> Callable[[Callable[_P, _T]], Callable[_P, _T]]:
    """Make whatever goes wrong with a reply to ``command`` a ValueError that says so."""

    def decorate(read: Callable[_P, _T]) -> Callable[_P, _T]:
        @wraps(read)
        def guarded(*args: _P.args, **more: _P.kwargs) -> _T:
            try:
                return read(*args, **more)
            except _Unfit as fault:
                raise ValueError(f"{command} came with {fault}") from None
            except (TypeError, ValueError, LookupError, AttributeError):
                raise ValueError(f"{command} came in another shape") from None

        return guarded

    return decorate


class _Unfit(ValueError):
    """A reply has the right shape, and says what can't be."""


class Kind(StrEnum):
    """How the servers belong together."""

    STANDALONE = "standalone"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


class ShardMap(NamedTuple):
    """A primary, its replicas, and the slots they hold as inclusive ranges."""

    primary: Address
    replicas: tuple[Address, ...] = ()
    slots: tuple[tuple[int, int], ...] = ()


class Topology(NamedTuple):
    """All shards of a Redis. Outside a cluster there is one, and it holds every key.

    ``names`` are the host names that a cluster announces beside addresses.
    """

    kind: Kind
    shards: tuple[ShardMap, ...]
    names: Mapping[Address, str] = MappingProxyType({})


class Layout(NamedTuple):
    """Who owns which slots, as one node of a cluster sees it.

    ``owners`` are ids with their epochs and slots; an epoch grows when slots get another owner.
    ``is_moving`` says that the node gives or takes a slot: keys of it may be on two nodes.
    """

    owners: frozenset[tuple[str, ...]]
    is_moving: bool


class Role(NamedTuple):
    """What a server is: a primary with replicas, or a replica of ``primary``."""

    primary: Address | None
    replicas: tuple[Address, ...] = ()


@_reader("CLUSTER NODES")
def from_cluster_nodes(reply: Any) -> Layout:
    """Read the reply to CLUSTER NODES (Redis command reference).

    ``id address flags primary ping pong epoch link slot slot ...``; a slot in brackets is one that
    the node itself gives or takes.

    Raises:
        ValueError: the reply has another shape.
    """
    owners, is_moving = [], False
    for line in reply.decode().splitlines():
        node, _, _, _, _, _, epoch, _, *slots = line.split(" ")
        owned = [slot for slot in slots if not slot.startswith("[")]
        is_moving = is_moving or len(owned) < len(slots)
        if owned:
            owners.append((node, epoch, *owned))
    return Layout(frozenset(owners), is_moving)


class SlotsReader:
    """Reads the reply to CLUSTER SLOTS (Redis command reference), a piece at a time.

    A node that does not know its own address leaves it empty: then it is the one that was asked.
    From Redis 7 on there may be a host name beside an address; it is what a certificate is for.
    """

    def __init__(self, asked: Address) -> None:
        self._asked = asked
        self._slots: dict[Address, list[tuple[int, int]]] = {}
        self._replicas: dict[Address, dict[Address, None]] = {}
        self._known: dict[tuple[Any, Any], Address] = {}
        self._names: dict[Address, str] = {}

    @_reader("CLUSTER SLOTS")
    def pieces(self, reply: Any) -> list[list[Any]]:
        """Return the ranges that are to be read, in pieces of a millisecond or less.

        Raises:
            ValueError: the reply has another shape, or more ranges than there are slots.
        """
        if len(_list(reply)) > SLOTS:
            raise _Unfit("more ranges than there are slots")
        return [reply[start : start + _PIECE] for start in range(0, len(reply), _PIECE)]

    @_reader("CLUSTER SLOTS")
    def read(self, ranges: list[Any]) -> None:
        """Read a piece.

        Raises:
            ValueError: it has another shape, or says what can't be.
        """
        for first, last, primary, *others in ranges:
            if not 0 <= _integer(first) <= _integer(last) < SLOTS:
                raise _Unfit("a range of slots that can't be")
            owner = self._address(primary)
            if owner not in self._slots:
                self._slots[owner], self._replicas[owner] = [], {}
                if len(self._slots) > _MOST_PRIMARIES:
                    raise _Unfit(f"more than {_MOST_PRIMARIES} primaries")
            self._slots[owner].append((first, last))
            replicas = self._replicas[owner]
            if len(others) <= _MOST_REPLICAS:
                replicas.update(dict.fromkeys(map(self._address, others)))
            if len(others) > _MOST_REPLICAS or len(replicas) > _MOST_REPLICAS:
                raise _Unfit(f"more than {_MOST_REPLICAS} replicas of one primary")

    @_reader("CLUSTER SLOTS")
    def topology(self) -> Topology:
        """Return what all pieces together say.

        Raises:
            ValueError: a slot has two owners.
        """
        end = -1
        for first, last in sorted(held for each in self._slots.values() for held in each):
            if first <= end:
                raise _Unfit("a slot that has two owners")
            end = last
        shards = (
            ShardMap(owner, tuple(self._replicas[owner]), tuple(sorted(self._slots[owner])))
            for owner in sorted(self._slots)
        )
        return Topology(Kind.CLUSTER, tuple(shards), self._names)

    def _address(self, node: Any) -> Address:
        place = node[0], node[1]
        found = self._known.get(place)
        if found is None:
            found = self._known[place] = address_of(*place, self._asked)
            if (name := _host_name(node)) is not None:
                self._names[found] = name
        return found


def _host_name(node: Sequence[Any]) -> str | None:
    """Return the host name of a node in CLUSTER SLOTS: ``ip, port, id, [metadata]``."""
    if len(node) < 4 or not node[3]:
        return None
    name = _fields(node[3]).get("hostname") or None
    if name is not None and not _HOST.fullmatch(name):
        raise _Unfit("a host that can't be one")
    return name


@_reader("HELLO")
def from_hello(reply: Any) -> tuple[Kind, bool]:
    """Read what kind of server the reply to HELLO is of, and whether it calls itself a replica.

    Raises:
        ValueError: the reply has another shape.
    """
    return Kind(_text(reply.get(b"mode", b"standalone"))), is_replica(reply)


def is_replica(reply: Any) -> bool:
    """Tell whether the reply to HELLO is that of a replica."""
    return isinstance(reply, dict) and reply.get(b"role") in (b"replica", b"slave")


@_reader("ROLE")
def from_role(reply: Any) -> Role:
    """Read the reply to ROLE.

    Raises:
        ValueError: the reply has another shape, or says what can't be.
    """
    match _text(reply[0]):
        case "master":
            others = _list(reply[2])
            if len(others) > _MOST_REPLICAS:
                raise _Unfit(f"more than {_MOST_REPLICAS} replicas")
            return Role(None, tuple(_address(host, port) for host, port, _ in others))
        case "slave":
            return Role(_address(reply[1], reply[2]))
    raise _Unfit("a role that is neither master nor slave")


@_reader("SENTINEL MASTERS")
def from_masters(reply: Any) -> tuple[str, ...]:
    """Read the names of the services in the reply to SENTINEL MASTERS.

    Raises:
        ValueError: the reply has another shape.
    """
    return tuple(_fields(item)["name"] for item in _list(reply))


@_reader("SENTINEL GET-MASTER-ADDR-BY-NAME")
def from_master_address(reply: Any) -> Address | None:
    """Read the primary of a service; None: the Sentinel does not know the service.

    Raises:
        ValueError: the reply has another shape, or says what can't be.
    """
    return None if reply is None else _address(*reply)


@_reader("SENTINEL REPLICAS")
def from_replicas(reply: Any) -> tuple[Address, ...]:
    """Read the replicas of a service that can be used.

    Raises:
        ValueError: the reply has another shape, or says what can't be.
    """
    down = ("s_down", "o_down", "disconnected")
    found = tuple(
        _address(fields["ip"], fields["port"])
        for fields in map(_fields, _list(reply))
        if not any(flag in fields.get("flags", "") for flag in down)
    )
    if len(found) > _MOST_REPLICAS:
        raise _Unfit(f"more than {_MOST_REPLICAS} replicas")
    return found


def address_of(host: Any, port: Any, asked: Address) -> Address:
    """Return the address that a server names, as far as it can be one.

    Raises:
        ValueError: it can't.
    """
    name = "" if host is None else _text(host)
    if name in ("", "?"):
        name = asked.host
    elif not _HOST.fullmatch(name):
        raise _Unfit("a host that can't be one")
    number = int(_text(port)) if isinstance(port, bytes | str) else _integer(port)
    if not 0 < number < 65536:
        raise _Unfit("a port that can't be one")
    return Address(name, number)


def _address(host: Any, port: Any) -> Address:
    """Return the address that a server names in full."""
    if _text(host) in ("", "?"):
        raise _Unfit("a host that can't be one")
    return address_of(host, port, Address("", 0))


def _fields(item: Any) -> dict[str, str]:
    """Read fields and their values: a map in RESP3, a flat list in RESP2."""
    pairs = item.items() if isinstance(item, dict) else zip(item[::2], item[1::2], strict=True)
    return {_text(name): _text(value) for name, value in pairs}


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, str | int):
        return str(value)
    raise TypeError


def _integer(value: Any) -> int:
    if type(value) is not int:
        raise TypeError
    return value


def _list(value: Any) -> Sequence[Any]:
    if not isinstance(value, list):
        raise TypeError
    return value
