"""What the replies to CLUSTER SLOTS and CLUSTER NODES may look like, and what is made of them."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flowcache.store.settings import Address
from flowcache.store.topology import (
    Kind,
    Layout,
    Role,
    ShardMap,
    SlotsReader,
    Topology,
    from_cluster_nodes,
    from_hello,
    from_master_address,
    from_masters,
    from_replicas,
    from_role,
)

ASKED = Address("asked", 7000)
A, B, C = (Address("10.0.0.1", port) for port in (1, 2, 3))


def node(address: Address, *more: Any) -> list[Any]:
    return [address.host.encode(), address.port, b"id", *more]


def from_cluster_slots(reply: Any, asked: Address) -> Topology:
    reader = SlotsReader(asked)
    for piece in reader.pieces(reply):
        reader.read(piece)
    return reader.topology()


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


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        ([[0, 10**8, node(A)]], "a range of slots that can't be"),
        ([[-1, 5, node(A)]], "a range of slots that can't be"),
        ([[5, 4, node(A)]], "a range of slots that can't be"),
        ([[0, 5, node(A)], [5, 9, node(B)]], "a slot that has two owners"),
        ([[0, 5, node(A)]] * 2, "a slot that has two owners"),
        ([[0, 0, node(A)]] * 20_000, "more ranges than there are slots"),
        ([[n, n, [b"h%d" % n, 1]] for n in range(1001)], "more than 1000 primaries"),
        ([[0, 1, node(A), *[[b"h%d" % n, 1] for n in range(33)]]], "more than 32 replicas"),
        (
            [[n, n, node(A), *[[b"h%d" % (n * 9 + m), 1] for m in range(9)]] for n in range(4)],
            "more than 32 replicas",
        ),
        ([[0, 1, [b"/run/redis.sock", 0]]], "a host that can't be one"),
        ([[0, 1, [b"host", 0]]], "a port that can't be one"),
        ([[0, 1, [b"host", 65536]]], "a port that can't be one"),
        ([[0, 1, [b"x" * 256, 1]]], "a host that can't be one"),
        ([[0, 1, [b"a b", 1]]], "a host that can't be one"),
        ([[0, 1, [b"a\x1b[2J", 1]]], "a host that can't be one"),
        ([[0, 1, [b"me@elsewhere", 1]]], "a host that can't be one"),
    ],
)
def test_a_map_that_cannot_be(reply: Any, why: str) -> None:
    """Each bound of the map is a sentence of its own, which repeats nothing of the reply."""
    with pytest.raises(ValueError, match=f"^CLUSTER SLOTS came with {why}"):
        from_cluster_slots(reply, ASKED)


def test_a_large_map_that_can_be() -> None:
    """A thousand primaries, and a range for each slot, are a map."""
    reply = [[n, n, [b"h%d" % (n % 1000), 1]] for n in range(16384)]
    assert len(shards(reply)) == 1000


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


READERS: list[Callable[[Any], object]] = [
    from_cluster_nodes,
    from_hello,
    from_master_address,
    from_masters,
    from_replicas,
    from_role,
]


@pytest.mark.parametrize("read", READERS)
@settings(deadline=None)
@given(
    REPLIES
    | st.tuples(st.just(b"master"), REPLIES, REPLIES).map(list)
    | st.tuples(st.just(b"slave"), REPLIES, REPLIES).map(list)
    | st.dictionaries(st.sampled_from([b"mode", b"role", b"name", b"ip", b"port"]), REPLIES)
)
@example(None)
@example([b"master", 0, [[b"h", b"1", b"0"]] * 100_000])
@example([b"slave", b"h" * 100_000, 1])
@example([b"slave", b"h", 10**30])
@example({b"mode": b"nonsense"})
def test_anything_of_the_others(read: Callable[[Any], object], reply: Any) -> None:
    """Whatever a server says of itself is understood, or a ValueError with a short sentence."""
    why = ""
    try:
        read(reply)
    except ValueError as fault:
        why = str(fault)
    assert len(why) < 100


def test_roles() -> None:
    """A primary names its replicas, a replica its primary; ports come as text and as numbers."""
    others = [[b"10.0.0.1", b"2", b"0"], [b"10.0.0.1", b"3", b"0"]]
    assert from_role([b"master", 0, others]) == Role(None, (B, C))
    assert from_role([b"slave", b"10.0.0.1", 1, b"connected", 0]) == Role(A)


def test_what_hello_tells() -> None:
    """Kind and role; a server that says no mode is a standalone one."""
    assert from_hello({b"mode": b"cluster", b"role": b"replica"}) == (Kind.CLUSTER, True)
    assert from_hello({b"role": b"master"}) == (Kind.STANDALONE, False)


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
