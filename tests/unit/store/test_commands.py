"""A command as bytes."""

from collections.abc import Sequence

import hiredis
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowcache.ports import APPEND, Command, Once, SizeLimits
from flowcache.store.commands import ASKING, PING, SMALL, Packed, pack, pack_whole
from flowcache.store.slots import key_slot, once_key

ONCE = Once(b"token", b"fingerprint", 5_000)
SIZES = b"262144", b"10000"


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
    assert pack(Command((b"TTL", b"k"))) == Packed(b"*2\r\n$3\r\nTTL\r\n$1\r\nk\r\n")
    put = Command((b"SET", b"k", b"v"), writes=True)
    assert read(pack(put).data) == [b"SET", b"k", b"v"]


def test_a_removal_does_not_hold_redis_up() -> None:
    """DEL is sent as UNLINK, by itself and to be applied once."""
    assert read(pack(Command((b"DEL", b"k"), writes=True)).data) == [b"UNLINK", b"k"]
    assert b"UNLINK" in script(pack(Command((b"DEL", b"k"), writes=True, once=ONCE)))


@pytest.mark.parametrize(("reply", "most"), [(SMALL * 2, SMALL), (SMALL, SMALL), (1000, 1000)])
def test_a_read_is_bounded(reply: int, most: int) -> None:
    """It asks for what may travel on a shared connection, or less where less may be answered."""
    sizes = SizeLimits(reply=reply)
    packed = pack(Command((b"GET", b"k"), sizes=sizes))
    assert read(packed.data) == [b"GETRANGE", b"k", b"0", b"%d" % most]
    assert packed.most == most
    packed = pack(Command((b"HGETALL", b"k"), sizes=sizes))
    assert script(packed) == [b"1", b"k", b"HGETALL", b"%d" % most, b"10000", b"0"]
    assert packed.most == most
    whole = pack_whole(Command((b"GET", b"k")), 5_000_000)
    assert script(whole) == [b"1", b"k", b"GET", b"5000000", b"10000", b"0"]


def test_set_takes_its_life_along() -> None:
    """SET has its TTL as an argument, and needs no script."""
    command = Command((b"SET", b"k", b"v"), ttl=60, writes=True)
    assert read(pack(command).data) == [b"SET", b"k", b"v", b"EX", b"60"]


def test_other_writes_with_a_life() -> None:
    """Every other write with a TTL is a script on one key."""
    command = Command((b"HSET", b"k", b"f", b"v"), ttl=60, writes=True)
    assert script(pack(command)) == [b"1", b"k", b"HSET", b"60", b"", b"0", *SIZES, b"f", b"v"]


@pytest.mark.parametrize(("ttl", "life"), [(60, b"60"), (None, b"0")])
@pytest.mark.parametrize("name", [b"SET", b"HSET", b"INCRBY"])
def test_writes_to_be_applied_once(name: bytes, ttl: int | None, life: bytes) -> None:
    """A write to be applied once is a script on its key and its record."""
    command = Command((name, b"k", b"v"), ttl=ttl, writes=True, once=ONCE)
    assert script(pack(command)) == [
        *(b"2", b"k", once_key(b"k", b"token")),
        *(name, life, b"fingerprint", b"5000", *SIZES, b"v"),
    ]


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
    packed = pack(Command((name, key, *args), ttl=ttl, writes=True, once=once))
    if packed.script is None:
        words = read(packed.data)
        assert words[: 2 + len(args)] == [name, key, *args]
        return
    count, *rest = script(packed)
    keys, rest = rest[: int(count)], rest[int(count) :]
    assert keys[0] == key
    assert {key_slot(each) for each in keys} == {key_slot(key)}
    assert rest[0] == name
    assert rest[6:] == list(args)


def test_what_has_no_key() -> None:
    """The two commands that the store sends on its own account."""
    assert read(ASKING) == [b"ASKING"]
    assert read(PING) == [b"PING"]


def test_an_append_is_one_script() -> None:
    """All entries of a batch go in one atomic step, each value as it is."""
    values = [b'{"a":1}', b"\x00\xff", b""]
    packed = pack(Command((APPEND, b"stream", b"10", b"record", *values), writes=True))
    assert script(packed) == [b"1", b"stream", b"10", b"record", *values]
