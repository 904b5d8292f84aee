"""What keys may count on: the slots of the specification, and records beside what they record."""

import binascii

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flowcache.ports import RESERVED_PREFIX
from flowcache.store.slots import SLOTS, key_slot, once_key, tag_of_slot

# Bytes with many braces in them.
KEYS = st.lists(st.sampled_from([b"{", b"}", b"a", b"bc", b"\x00\xff", b""]), max_size=12).map(
    b"".join
) | st.binary(max_size=600)


def crc16(data: bytes) -> int:
    """CRC16 as the specification's appendix A defines it, bit by bit."""
    crc = 0
    for byte in data:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1) ^ 0x1021 if crc & 0x8000 else crc << 1
    return crc & 0xFFFF


def test_the_specifications_own_example() -> None:
    """CRC16 of 123456789 is 0x31C3 (Redis Cluster specification, "Keys distribution model")."""
    assert crc16(b"123456789") == binascii.crc_hqx(b"123456789", 0) == 0x31C3
    assert key_slot(b"123456789") == 0x31C3 % SLOTS


@pytest.mark.parametrize(
    ("key", "slot"),
    [
        # As CLUSTER KEYSLOT answers.
        (b"", 0),
        (b"foo", 12182),
        (b"bar", 5061),
        (b"hello", 866),
        (b"somekey", 11058),
        (b"foo{hash_tag}", 2515),
        (b"bar{hash_tag}", 2515),
        (b"{user1000}.following", 3443),
        (b"{user1000}.followers", 3443),
    ],
)
def test_known_slots(key: bytes, slot: int) -> None:
    """Slots are those that Redis computes."""
    assert key_slot(key) == slot


@pytest.mark.parametrize(
    ("key", "hashed"),
    [
        # The specification's examples, "Hash tags" ...
        (b"{user1000}.following", b"user1000"),
        (b"foo{}{bar}", b"foo{}{bar}"),
        (b"foo{{bar}}zap", b"{bar"),
        (b"foo{bar}{zap}", b"bar"),
        # ... and what is left.
        (b"{}", b"{}"),
        (b"{", b"{"),
        (b"}", b"}"),
        (b"{{", b"{{"),
        (b"{{}", b"{"),
        (b"{{}}", b"{"),
        (b"}{", b"}{"),
        (b"}{a}", b"a"),
        (b"a}b", b"a}b"),
        (b"a{b", b"a{b"),
        (b"{a}b}", b"a"),
        (b"{ }", b" "),
        (b"{\x00}", b"\x00"),
        (b"{}a{b}", b"{}a{b}"),
    ],
)
def test_hash_tags(key: bytes, hashed: bytes) -> None:
    """Of a key with a tag only the tag is hashed: from the first { to the next }, if not empty."""
    assert key_slot(key) == crc16(hashed) % SLOTS


@settings(deadline=None)
@given(KEYS)
def test_a_slot_is_a_slot(key: bytes) -> None:
    """Any bytes have a slot, and no other than those there are."""
    assert 0 <= key_slot(key) < SLOTS


@settings(deadline=None)
@given(KEYS, st.binary(max_size=100))
@example(b"", b"")
@example(b"a}b", b"token")
@example(b"{a}b}", b"token")
@example(b"{{", b"token")
@example(b"{}", b"token")
@example(b"{" * 64, b"token")
@example(b"x" * 65, b"token")
def test_a_record_lives_with_its_key(key: bytes, token: bytes) -> None:
    """The record of a write is in the slot of its key, or no script could touch both."""
    record = once_key(key, token)
    assert key_slot(record) == key_slot(key)
    assert record.startswith(RESERVED_PREFIX)
    assert len(record) < 150


@settings(deadline=None)
@given(KEYS, KEYS, st.binary(max_size=20), st.binary(max_size=20))
@example(b"a", b"ab", b"bc", b"c")
@example(b"1", b"11", b"1:", b":")
def test_records_differ(key: bytes, other: bytes, token: bytes, another: bytes) -> None:
    """Two writes share a record if and only if key and token are the same."""
    same = (key, token) == (other, another)
    assert (once_key(key, token) == once_key(other, another)) is same


def test_names_of_records_stay() -> None:
    """Records that were written before are found: a slot's tag is the least number of it."""
    assert once_key(b"x" * 65, b"t").startswith(b"flowcache:once:{38699}:")
    for slot in (0, 1, 5061, SLOTS - 1):
        number = next(n for n in range(200_000) if key_slot(b"%d" % n) == slot)
        assert tag_of_slot(slot) == b"%d" % number


@settings(deadline=None)
@given(st.integers(0, SLOTS - 1))
@example(0)
@example(SLOTS - 1)
def test_every_slot_has_a_tag(slot: int) -> None:
    """For each slot there is a short tag that leads to it."""
    tag = tag_of_slot(slot)
    assert key_slot(b"{%b}anything" % tag) == slot
    assert len(tag) < 10
