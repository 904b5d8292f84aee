"""What the replies to CLUSTER SLOTS and CLUSTER NODES may look like, and what is made of them."""

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flowcache.store.settings import Address
from flowcache.store.topology import (
    Kind,
    Layout,
    ShardMap,
    Topology,
    from_cluster_nodes,
    from_cluster_slots,
)

ASKED = Address("asked", 7000)
A, B, C = (Address("10.0.0.1", port) for port in (1, 2, 3))


def node(address: Address, *more: Any) -> list[Any]:
    return [address.host.encode(), address.port, b"id", *more]


def shards(reply: list[Any]) -> tuple[ShardMap, ...]:
    topology = from_cluster_slots(reply, ASKED)
    assert topology.kind is Kind.CLUSTER
    return topology.shards


def test_a_shard_with_replicas() -> None:
    """The first node of a range is its primary, the others are replicas."""
    assert shards([[0, 16383, node(A), node(B), node(C)]]) == (ShardMap(A, (B, C), ((0, 16383),)),)


def test_ranges_of_one_primary_are_one_shard() -> None:
    """Ranges are collected by primary and sorted; a replica is named once."""
    reply = [
        [9000, 16383, node(A), node(C)],
        [0, 5, node(B)],
        [6, 8999, node(A), node(C)],
    ]
    assert shards(reply) == (
        ShardMap(A, (C,), ((6, 8999), (9000, 16383))),
        ShardMap(B, (), ((0, 5),)),
    )


@pytest.mark.parametrize("host", [b"", None, b"?", "", "?"])
def test_a_node_without_a_name_is_the_one_asked(host: object) -> None:
    """Redis leaves the host out, or says ?, when it doesn't know it: the connection tells."""
    (shard,) = shards([[0, 16383, [host, 7001, b"id", []], [host, 7002, b"id", []]]])
    assert shard.primary == Address("asked", 7001)
    assert shard.replicas == (Address("asked", 7002),)


def test_metadata_is_passed_over() -> None:
    """Since Redis 7 a node carries further fields, which change nothing."""
    reply = [[0, 16383, node(A, [b"hostname", b"a.example"]), node(B, {b"hostname": b"b"})]]
    assert shards(reply) == (ShardMap(A, (B,), ((0, 16383),)),)


def test_no_slots() -> None:
    """A node that knows of no slots tells of no shards."""
    assert from_cluster_slots([], ASKED) == Topology(Kind.CLUSTER, ())


@pytest.mark.parametrize(
    "reply",
    [
        None,
        1,
        [None],
        [[]],
        [[0, 1]],
        [[0, 16383, None]],
        [[0, 16383, []]],
        [[0, 16383, [b"host"]]],
        [[0, 16383, [b"host", b"port", b"id"]]],
        [[b"first", 16383, node(A)]],
        [[0, 16383, [b"\xff", 1, b"id"]]],
        [[0, 16383, node(A), 7]],
        [[0, 16383, {}]],
        {0: 1},
    ],
)
def test_other_shapes(reply: Any) -> None:
    """A reply of another shape is a ValueError that names the command."""
    with pytest.raises(ValueError, match="CLUSTER SLOTS came in another shape"):
        from_cluster_slots(reply, ASKED)


REPLIES = st.recursive(
    st.none() | st.integers() | st.binary(max_size=5) | st.text(max_size=5) | st.booleans(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.binary(max_size=3), inner),
    max_leaves=20,
)


@settings(deadline=None)
@given(REPLIES)
@example([[0, 1, {}]])
def test_anything(reply: Any) -> None:
    """Whatever comes is a topology or a ValueError."""
    try:
        topology = from_cluster_slots(reply, ASKED)
    except ValueError:
        return
    assert topology.kind is Kind.CLUSTER


NODES = b"""\
a 10.0.0.1:1@2,host-1 myself,master - 0 0 7 connected 0-5460 9000 [93->-b] [77-<-c]
b 10.0.0.1:2@3 master - 0 1 8 connected 5461-8999
r 10.0.0.1:3@4 slave a 0 1 7 connected
n :0@0 master,noaddr - 0 1 0 disconnected
"""


def test_who_owns_slots_and_since_when() -> None:
    """Ids, epochs and slots of those that own any; a slot in brackets is on the move."""
    owners = frozenset({("a", "7", "0-5460", "9000"), ("b", "8", "5461-8999")})
    assert from_cluster_nodes(NODES) == Layout(owners, is_moving=True)
    closed = NODES.replace(b" [93->-b] [77-<-c]", b"")
    assert from_cluster_nodes(closed) == Layout(owners, is_moving=False)


def test_an_epoch_makes_another_layout() -> None:
    """A slot that went and came back is told from one that stayed."""
    later = NODES.replace(b" 8 connected", b" 9 connected")
    assert from_cluster_nodes(later).owners != from_cluster_nodes(NODES).owners


@pytest.mark.parametrize("reply", [None, 7, b"a b c", b"\xff", [b"a"]])
def test_nodes_in_another_shape(reply: Any) -> None:
    """What is no such reply is said to be none."""
    with pytest.raises(ValueError, match="CLUSTER NODES came in another shape"):
        from_cluster_nodes(reply)
