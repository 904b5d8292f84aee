"""What servers say of each other, at the edges of what is believed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from flowcache.store.settings import Address
from flowcache.store.topology import (
    SlotsReader,
    from_hello,
    from_master_address,
    from_replicas,
    from_role,
)

MOST = 32
"""Replicas that one primary may have."""
NODE = [b"10.0.0.1", 1, b"id"]


def replica(number: int, flags: bytes = b"slave") -> list[bytes]:
    return [b"ip", b"10.0.0.1", b"port", b"%d" % (number + 1), b"flags", flags]


def named(number: int) -> list[bytes]:
    return [b"10.0.0.1", b"%d" % (number + 1), b"0"]


def test_the_last_slot_is_the_last() -> None:
    """Slot 16,383 is one, and 16,384 is none, at either end of a range."""
    SlotsReader(Address("asked", 1)).read([[16383, 16383, NODE]])
    for first, last in ((0, 16384), (16384, 16384)):
        with pytest.raises(ValueError, match="a range of slots that can't be"):
            SlotsReader(Address("asked", 1)).read([[first, last, NODE]])


@pytest.mark.parametrize("flag", ["s_down", "o_down", "disconnected"])
def test_a_replica_that_is_down_is_none(flag: str) -> None:
    """A Sentinel names replicas that it can't reach, too: those are not used."""
    found = from_replicas([replica(0), replica(1, f"{flag},slave".encode()), replica(2)])
    assert found == (Address("10.0.0.1", 1), Address("10.0.0.1", 3))


@pytest.mark.parametrize(
    "read",
    [
        lambda count: from_replicas([replica(number) for number in range(count)]),
        lambda count: (
            from_role([b"master", 0, [named(number) for number in range(count)]]).replicas
        ),
    ],
    ids=["sentinel", "role"],
)
def test_so_many_replicas_and_no_more(read: Callable[[int], Any]) -> None:
    """Whoever tells of them."""
    assert len(read(MOST)) == MOST
    with pytest.raises(ValueError, match=f"more than {MOST} replicas"):
        read(MOST + 1)


@pytest.mark.parametrize("host", [b"", b"?"])
def test_who_is_elsewhere_has_a_name(host: bytes) -> None:
    """Only in a cluster's map a server may leave its host out; a primary elsewhere is named."""
    for read in (
        lambda: from_master_address([host, b"1"]),
        lambda: from_role([b"slave", host, 1, b"connected", 0]),
        lambda: from_role([b"master", 0, [[host, b"1", b"0"]]]),
    ):
        with pytest.raises(ValueError, match="a host that can't be one"):
            read()


@pytest.mark.parametrize(
    ("role", "is_replica"), [(b"replica", True), (b"slave", True), (b"master", False)]
)
def test_both_words_for_a_replica(role: bytes, is_replica: bool) -> None:
    """Servers of different age and make say it differently."""
    assert from_hello({b"mode": b"standalone", b"role": role})[1] is is_replica
