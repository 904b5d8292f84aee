"""A command as bytes."""

from collections.abc import Sequence

import hiredis
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowcache.ports import APPEND, Command, Once, SizeLimits
from flowcache.store.commands import ASKING, PING, SMALL, Packed, pack, pack_whole
from flowcache.store.slots import key_slot, once_key
from tests.commands import command as made_command

ONCE = Once(b"token", b"fingerprint", 5_000)
SIZES = b"262144", b"10000", b"%d" % SMALL
"""The most bytes and fields that a key may hold, and the most bytes of a reply."""


def read(data: bytes) -> list[bytes]:
    """Read one command as a server would, and see that there is nothing behind it."""
    reader = hiredis.Reader()
    reader.feed(data)
    command = reader.gets()
    assert isinstance(command, list)
    assert reader.gets() is False
    return command


def script(packed: Packed) -> list[bytes]:
    """Return what follows the script, and see that the fallback carries the same."""
    name, digest, *rest = read(packed.data)
    assert name == b"EVALSHA"
    assert len(digest) == 40
    fallback, text, *again = read(packed.with_script())
    assert fallback == b"EVAL"
    assert b"KEYS[1]" in text
    assert again == rest
    return rest


def test_plain() -> None:
    """What is atomic by itself is sent as it is."""
    assert pack(made_command(b"TTL", b"k")) == Packed(b"*2\r\n$3\r\nTTL\r\n$1\r\nk\r\n")
    put = made_command(b"SET", b"k", b"v", writes=True)
    assert read(pack(put).data) == [b"SET", b"k", b"v"]


@pytest.mark.parametrize(("reply", "most"), [(SMALL * 2, SMALL), (SMALL, SMALL), (1000, 1000)])
def test_a_read_is_bounded(reply: int, most: int) -> None:
    """It asks for what may travel on a shared connection, or less where less may be answered."""
    sizes = SizeLimits(reply=reply)
    packed = pack(made_command(b"GET", b"k", sizes=sizes))
    assert read(packed.data) == [b"GETRANGE", b"k", b"0", b"%d" % most]
    assert packed.most == most
    packed = pack(made_command(b"HGETALL", b"k", sizes=sizes))
    assert script(packed) == [
        *(b"1", b"k", b"hash", b"%d" % most, b"10000", b"0"),
        *(b"HGETALL", b"k"),
    ]
    assert packed.most == most
    whole = pack_whole(made_command(b"GET", b"k"), 5_000_000)
    assert script(whole) == [
        *(b"1", b"k", b"string", b"5000000", b"10000", b"0"),
        *(b"GET", b"k"),
    ]


def test_set_takes_its_life_along() -> None:
    """SET has its TTL as an argument, and needs no script."""
    command = made_command(b"SET", b"k", b"v", ttl=60, writes=True)
    assert read(pack(command).data) == [b"SET", b"k", b"v", b"EX", b"60"]


def test_other_writes_with_a_life() -> None:
    """Every other write with a TTL is a script on one key."""
    command = made_command(b"HSET", b"k", b"f", b"v", ttl=60, writes=True)
    assert script(pack(command)) == [
        *(b"1", b"k", b"growing hash", b"60", b"", b"0", *SIZES),
        *(b"HSET", b"k", b"f", b"v"),
    ]


@pytest.mark.parametrize(("ttl", "life"), [(60, b"60"), (None, b"0")])
@pytest.mark.parametrize(
    ("name", "bound"), [(b"UNLINK", b"small"), (b"HSET", b"growing hash"), (b"INCRBY", b"counter")]
)
def test_writes_to_be_applied_once(name: bytes, bound: bytes, ttl: int | None, life: bytes) -> None:
    """A write to be applied once is a script on its key and its record."""
    command = made_command(name, b"k", b"v", ttl=ttl, writes=True, once=ONCE)
    assert script(pack(command)) == [
        *(b"2", b"k", once_key(b"k", b"token")),
        *(bound, life, b"fingerprint", b"5000", *SIZES),
        *(name, b"k", b"v"),
    ]


def test_a_set_to_be_applied_once_takes_its_life_along() -> None:
    """As one that is not."""
    command = made_command(b"SET", b"k", b"v", ttl=60, writes=True, once=ONCE)
    assert script(pack(command))[-5:] == [b"SET", b"k", b"v", b"EX", b"60"]


def test_all_keys_of_a_script_are_named() -> None:
    """Redis is told of each, the record last; the words are as they were."""
    words = (b"BITOP", b"AND", b"{t}to", b"{t}one", b"{t}other")
    packed = pack(Command(words, keys=(2, 3, 4), writes=True, once=ONCE))
    count, *rest = script(packed)
    assert count == b"4"
    assert rest[:4] == [*words[2:], once_key(b"{t}to", b"token")]
    assert tuple(rest[-5:]) == words


@settings(deadline=None)
@given(
    st.sampled_from([b"TTL", b"SET", b"HSET", b"INCRBY"]),
    st.binary(),
    st.lists(st.binary(), max_size=5),
    st.none() | st.integers(1, 10**10),
    st.none() | st.builds(Once, st.binary(), st.binary(), st.integers(1, 10**12)),
)
def test_any_bytes(
    name: bytes, key: bytes, args: Sequence[bytes], ttl: int | None, once: Once | None
) -> None:
    """No byte of a key or value can break out of its place; all keys are of one slot."""
    packed = pack(made_command(name, key, *args, ttl=ttl, writes=True, once=once))
    if packed.script is None:
        words = read(packed.data)
        assert words[: 2 + len(args)] == [name, key, *args]
        return
    count, *rest = script(packed)
    keys, rest = rest[: int(count)], rest[int(count) :]
    assert keys[0] == key
    assert {key_slot(each) for each in keys} == {key_slot(key)}
    words = rest[7:]
    assert words[: 2 + len(args)] == [name, key, *args]


def test_what_has_no_key() -> None:
    """The two commands that the store sends on its own account."""
    assert read(ASKING) == [b"ASKING"]
    assert read(PING) == [b"PING"]


def test_an_append_is_one_script() -> None:
    """All entries of a batch go in one atomic step, each value as it is."""
    values = [b'{"a":1}', b"\x00\xff", b""]
    packed = pack(made_command(APPEND, b"stream", b"10", b"record", *values, writes=True))
    assert script(packed) == [b"1", b"stream", b"10", b"record", *values]
