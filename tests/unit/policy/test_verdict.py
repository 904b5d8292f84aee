"""The verdict: what is not said is denied, and each limit is at its very number."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flowcache.authz.keys import ALL_KEYS
from flowcache.authz.permissions import Permission
from flowcache.authz.principal import Principal
from flowcache.authz.verdict import ALLOW, Deny, Reason, judge, placed
from flowcache.contract.coercion import MAX_KEY_BYTES
from flowcache.operations.operation import READS, WRITES
from flowcache.ports import Command, Once, SizeLimits

WHO = Principal("flow", frozenset({Permission.DATA_WRITE}), ALL_KEYS, prefix=b"ns:")


def reason(who: Principal = WHO, key: bytes = b"k", value: bytes = b"v") -> Reason | None:
    command = Command((b"SET", key, value), ttl=60, writes=True, sizes=SizeLimits(value=10))
    verdict = judge(who, WRITES, "SET", command)
    return verdict.reason if isinstance(verdict, Deny) else None


def test_who_has_no_permissions_may_do_nothing() -> None:
    """None at all, as a token whose scope names none of ours, is not the same as all."""
    assert reason() is None
    for permissions in (frozenset[Permission](), frozenset({Permission.DATA_READ})):
        assert reason(replace(WHO, permissions=permissions)) is Reason.PERMISSION


def test_no_operations_are_not_all_operations() -> None:
    """Only who has no list is not held to one."""
    assert reason(replace(WHO, operations=frozenset())) is Reason.OPERATION
    assert reason(replace(WHO, operations=frozenset({"SET"}))) is None


@pytest.mark.parametrize("prefix", [b"", b"ns:"])
def test_a_key_may_be_as_long_as_redis_is_given_it(prefix: bytes) -> None:
    """The namespace is part of it, and costs its own length."""
    who, most = replace(WHO, prefix=prefix), MAX_KEY_BYTES - len(prefix)
    assert reason(who, b"k" * most) is None
    assert reason(who, b"k" * (most + 1)) is Reason.KEY_LENGTH


def test_a_value_may_be_as_long_as_was_said() -> None:
    """To the byte."""
    assert reason(value=b"v" * 10) is None
    assert reason(value=b"v" * 11) is Reason.VALUE_LENGTH


@pytest.mark.parametrize("prefix", [b"", b"ns:"])
def test_what_is_flowcaches_own_is_nobodys(prefix: bytes) -> None:
    """In a namespace as well, where it would do no harm: a key means the same everywhere."""
    assert reason(replace(WHO, prefix=prefix), b"flowcache:rate:x") is Reason.RESERVED


def test_a_token_is_its_clients_own() -> None:
    """Of two who share a namespace neither can repeat, or take, the other's."""
    command = Command((b"SET", b"k", b"v"), ttl=60, writes=True, once=Once(b"once", b"f", 1))
    tokens = set()
    for name in ("one", "other"):
        there = placed(command, replace(WHO, name=name))
        assert there.once is not None
        assert there.key == b"ns:k"
        tokens.add(there.once.token)
    assert len(tokens) == 2


def test_a_read_is_held_to_no_length_of_values() -> None:
    """What it is given is no value."""
    read = Command((b"GET", b"k", b"an argument that is long"), sizes=SizeLimits(value=10))
    who = replace(WHO, permissions=frozenset({Permission.DATA_READ}))
    assert judge(who, READS, "GET", read) is ALLOW


RESERVED = b"flowcache:k"


@pytest.mark.parametrize("place", [2, 3, 4])
def test_every_key_of_a_command_is_judged(place: int) -> None:
    """A second key is as much a key as the first; what is no key is not taken for one."""
    words = [b"BITOP", RESERVED, b"to", b"one", b"other"]
    assert judge(WHO, WRITES, "BITOP", bitop(words)) is ALLOW
    words[place] = RESERVED
    verdict = judge(WHO, WRITES, "BITOP", bitop(words))
    assert isinstance(verdict, Deny)
    assert verdict.reason is Reason.RESERVED


def test_every_key_of_a_command_is_placed() -> None:
    """All lie in the namespace, and nothing else is changed."""
    there = placed(bitop([b"BITOP", b"AND", b"to", b"one", b"other"]), WHO)
    assert there.words == (b"BITOP", b"AND", b"ns:to", b"ns:one", b"ns:other")


def test_keys_are_no_value() -> None:
    """However long they are: they count for the length of keys."""
    mset = Command(
        (b"MSET", b"k" * 100, b"v" * 5, b"l" * 100, b"v" * 5),
        keys=(1, 3),
        writes=True,
        sizes=SizeLimits(value=10),
    )
    assert judge(WHO, WRITES, "MSET", mset) is ALLOW


def bitop(words: list[bytes]) -> Command:
    return Command(tuple(words), keys=(2, 3, 4), writes=True)
