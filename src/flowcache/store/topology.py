"""Who holds what: the shape of a Redis, as plain records."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any, NamedTuple

from flowcache.store.settings import Address

__all__ = ["Kind", "Layout", "ShardMap", "Topology", "from_cluster_nodes", "from_cluster_slots"]


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
    """All shards of a Redis. Outside a cluster there is one, and it holds every key."""

    kind: Kind
    shards: tuple[ShardMap, ...]


class Layout(NamedTuple):
    """Who owns which slots, as one node of a cluster sees it.

    ``owners`` are ids with their epochs and slots; an epoch grows when slots get another owner.
    ``is_moving`` says that the node gives or takes a slot: keys of it may be on two nodes.
    """

    owners: frozenset[tuple[str, ...]]
    is_moving: bool


def from_cluster_nodes(reply: Any) -> Layout:
    """Read the reply to CLUSTER NODES (Redis command reference).

    ``id address flags primary ping pong epoch link slot slot ...``; a slot in brackets is one that
    the node itself gives or takes.

    Raises:
        ValueError: the reply has another shape.
    """
    owners, is_moving = [], False
    try:
        for line in reply.decode().splitlines():
            node, _, _, _, _, _, epoch, _, *slots = line.split(" ")
            owned = [slot for slot in slots if not slot.startswith("[")]
            is_moving = is_moving or len(owned) < len(slots)
            if owned:
                owners.append((node, epoch, *owned))
    except (ValueError, AttributeError) as fault:
        raise ValueError(f"CLUSTER NODES came in another shape: {fault}") from None
    return Layout(frozenset(owners), is_moving)


def from_cluster_slots(reply: Sequence[Any], asked: Address) -> Topology:
    """Read the reply to CLUSTER SLOTS (Redis command reference).

    A node that does not know its own address leaves it empty: then it is the one that was asked.

    Raises:
        ValueError: the reply has another shape.
    """
    slots: dict[Address, list[tuple[int, int]]] = {}
    replicas: dict[Address, list[Address]] = {}
    try:
        for first, last, primary, *others in reply:
            address = _address(primary, asked)
            slots.setdefault(address, []).append((int(first), int(last)))
            known = replicas.setdefault(address, [])
            known.extend(a for a in (_address(o, asked) for o in others) if a not in known)
    except (TypeError, ValueError, LookupError, AttributeError) as fault:
        raise ValueError(f"CLUSTER SLOTS came in another shape: {fault}") from None
    return Topology(
        Kind.CLUSTER,
        tuple(ShardMap(a, tuple(replicas[a]), tuple(sorted(slots[a]))) for a in sorted(slots)),
    )


def _address(node: Sequence[Any], asked: Address) -> Address:
    host, port = node[0], int(node[1])
    return Address.told(host.decode() if isinstance(host, bytes) else host, port, asked)
