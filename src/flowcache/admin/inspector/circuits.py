"""Circuits at run time: what an operator asks of them, and what became of it.

An order is about all circuits, or those of one shard, one kind of access, or both. It holds until
another covers it or takes it back, or the service ends, in all workers, those to come included.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from typing import Any, NamedTuple

import msgspec

from flowcache.admin.inspector.answers import CONFIGURED, Circuits, CircuitsSwitched, Override
from flowcache.admin.inspector.view import circuits_of, iso
from flowcache.contract.coercion import kind
from flowcache.errors import InvalidRequest
from flowcache.ports import Access, Mode, Order
from flowcache.status import CircuitOverride, WorkerStatus

__all__ = [
    "SWITCH",
    "Control",
    "Switched",
    "circuits_view",
    "order_fields",
    "read_order",
    "shards_of",
    "switched_view",
]

_MODES = (*Mode, CONFIGURED)

SWITCH = "SWITCH"
"""What the audit calls an order. The mode follows, of one that was carried out."""


class Switched(NamedTuple):
    """What became of an order.

    ``circuits``: how many go by another mode now; those of shards that nobody called yet are made
    in theirs. ``workers``: how many have followed. ``silent``: how many did not answer in
    time; they follow at the next scrape or look at the inspector at the latest.
    """

    circuits: int
    workers: int
    silent: int


class Control(NamedTuple):
    """How the pages reach the circuits of all workers.

    ``configured`` is the mode without an override. ``switch`` carries out an order for the
    principal of that name at that address, in the request of that id. It raises `Unrecorded`
    if the order can't be recorded.
    """

    configured: Mode
    overrides: Callable[[], Sequence[CircuitOverride]]
    switch: Callable[[Order, str, str | None, str], Awaitable[Switched]]


def read_order(body: bytes, shards: Set[str]) -> Order:
    """Read the body of a POST. ``shards`` are the names that there are.

    Strict, unlike a flow's body: whoever misspells ``shard`` must not switch all there are.

    Raises:
        InvalidRequest: naming the field, and what it wanted.
    """
    try:
        asked = msgspec.json.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as fault:
        raise InvalidRequest(f"body: no JSON: {fault}.") from None
    if not isinstance(asked, dict):
        raise InvalidRequest(f"body: expected an object, got {kind(asked)}.")
    fields = Order.__struct_fields__
    unknown = asked.keys() - set(fields)
    if unknown:
        raise InvalidRequest(f"{min(unknown)[:64]}: unknown; there are {', '.join(fields)}.")
    if "mode" not in asked:
        raise InvalidRequest(f"mode: missing; expected {' or '.join(_MODES)}.")
    mode = _one_of(_MODES, asked, "mode")
    return Order(
        None if mode == CONFIGURED else Mode(mode),
        _shard(asked["shard"], shards) if asked.get("shard") is not None else None,
        Access(_one_of(tuple(Access), asked, "access"))
        if asked.get("access") is not None
        else None,
    )


def _one_of(choices: Sequence[str], asked: Mapping[str, Any], field: str) -> str:
    value = asked[field]
    if isinstance(value, str) and value in choices:
        return value
    raise InvalidRequest(f"{field}: expected {' or '.join(choices)}, got {_shown(value)}.")


def _shard(value: object, shards: Set[str]) -> str:
    if isinstance(value, str) and value in shards:
        return value
    there = f"there are {', '.join(sorted(shards))}" if shards else "none is known yet"
    raise InvalidRequest(
        f"shard: expected the name of one, got {_shown(value)}; {there}. Leave it out for all."
    )


def _shown(value: object) -> str:
    return f"{value[:64]!r}" if isinstance(value, str) else kind(value)


def order_fields(order: Order) -> dict[str, Any]:
    """Return an order as it is shown and recorded."""
    return {
        "mode": CONFIGURED if order.mode is None else order.mode.value,
        "shard": order.shard,
        "access": order.access,
    }


def shards_of(workers: Sequence[WorkerStatus], overrides: Sequence[CircuitOverride]) -> set[str]:
    """Return the shards that an order may name: those there are, and those with an override."""
    living = [worker for worker in workers if worker.alive]
    return {
        *(shard.name for worker in living for shard in worker.store.shards),
        *(circuit.shard for worker in living for circuit in worker.circuits),
        *(override.order.shard for override in overrides if override.order.shard is not None),
    }


def circuits_view(
    workers: Sequence[WorkerStatus], overrides: Sequence[CircuitOverride], configured: Mode
) -> Circuits:
    """Return the circuits of all workers, and the overrides; of two the later counts."""
    return Circuits(
        configured=configured,
        overrides=[
            Override(**order_fields(each.order), by=each.by, at=iso(each.at)) for each in overrides
        ],
        circuits=circuits_of(workers),
    )


def switched_view(order: Order, switched: Switched) -> CircuitsSwitched:
    """Return what an order changed."""
    return CircuitsSwitched(**order_fields(order), **switched._asdict())
