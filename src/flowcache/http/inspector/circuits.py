"""Circuits at run time: what an operator asks of them, and what became of it.

A wish is for all circuits, or those of one shard, one kind of access, or both. It holds until
another wish covers it or the service ends, in all workers, those to come included.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from enum import StrEnum
from typing import Any, NamedTuple, TypeVar

import msgspec

from flowcache.contract.coercion import kind
from flowcache.errors import InvalidRequest
from flowcache.http.inspector.view import circuits_of, iso
from flowcache.ports import Access, Mode
from flowcache.status import CircuitWish, WorkerStatus

__all__ = ["SWITCH", "Control", "Order", "Switched", "circuits_view", "read_order", "shards_of"]

E = TypeVar("E", bound=StrEnum)

SWITCH = "SWITCH"
"""What the audit calls an order. The mode follows, of one that was carried out."""


class Order(NamedTuple):
    """What an operator asks for. None is all."""

    mode: Mode
    shard: str | None
    access: Access | None


class Switched(NamedTuple):
    """What became of an order.

    ``circuits``: how many there were to switch; those of shards that nobody called yet are made
    in their mode. ``workers``: how many have followed. ``silent``: how many did not answer in
    time; they follow at the next scrape or look at the inspector at the latest.
    """

    circuits: int
    workers: int
    silent: int


class Control(NamedTuple):
    """How the pages reach the circuits of all workers.

    ``configured`` is the mode where nobody has a wish. ``switch`` carries an order out, for the
    principal of that name at that address, in the request of that id; it raises `Unrecorded` where
    that can't be put on record.
    """

    configured: Mode
    wishes: Callable[[], Sequence[CircuitWish]]
    switch: Callable[[Order, str, str | None, str], Awaitable[Switched]]


def read_order(body: bytes, shards: Set[str]) -> Order:
    """Read the body of a POST. ``shards`` are the names that there are.

    Strict, unlike a flow's body: whoever misspells ``shard`` must not switch all there are.

    Raises:
        InvalidRequest: naming the field, and what it wanted.
    """
    try:
        told = msgspec.json.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as fault:
        raise InvalidRequest(f"body: no JSON: {fault}.") from None
    if not isinstance(told, dict):
        raise InvalidRequest(f"body: expected an object, got {kind(told)}.")
    unknown = told.keys() - set(Order._fields)
    if unknown:
        raise InvalidRequest(f"{min(unknown)[:64]}: unknown; there are {', '.join(Order._fields)}.")
    if "mode" not in told:
        raise InvalidRequest(f"mode: missing; expected {_choices(Mode)}.")
    return Order(
        _one_of(Mode, told, "mode"),
        _shard(told["shard"], shards) if told.get("shard") is not None else None,
        _one_of(Access, told, "access") if told.get("access") is not None else None,
    )


def _one_of(kinds: type[E], told: Mapping[str, Any], field: str) -> E:
    value = told[field]
    if isinstance(value, str) and value in list(kinds):
        return kinds(value)
    raise InvalidRequest(f"{field}: expected {_choices(kinds)}, got {_shown(value)}.")


def _shard(value: object, shards: Set[str]) -> str:
    if isinstance(value, str) and value in shards:
        return value
    there = f"there are {', '.join(sorted(shards))}" if shards else "none is known yet"
    raise InvalidRequest(
        f"shard: expected the name of one, got {_shown(value)}; {there}. Leave it out for all."
    )


def _choices(kinds: type[StrEnum]) -> str:
    return " or ".join(kinds)


def _shown(value: object) -> str:
    return f"{value[:64]!r}" if isinstance(value, str) else kind(value)


def shards_of(workers: Sequence[WorkerStatus], wishes: Sequence[CircuitWish]) -> set[str]:
    """Return the shards that an order may name: those there are, and those with a wish to undo."""
    living = [worker for worker in workers if worker.alive]
    return {
        *(shard.name for worker in living for shard in worker.store.shards),
        *(circuit.shard for worker in living for circuit in worker.circuits),
        *(wish.shard for wish in wishes if wish.shard is not None),
    }


def circuits_view(
    workers: Sequence[WorkerStatus], wishes: Sequence[CircuitWish], configured: Mode
) -> dict[str, Any]:
    """Return the circuits of all workers, and what was asked of them; the later wish counts."""
    return {
        "configured": configured.value,
        "wishes": [
            {
                "mode": wish.mode.value,
                "shard": wish.shard,
                "access": wish.access,
                "by": wish.by,
                "at": iso(wish.at),
            }
            for wish in wishes
        ],
        "circuits": circuits_of(workers),
    }
