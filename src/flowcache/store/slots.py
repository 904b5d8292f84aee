"""Slots and the keys that flowcache makes. Every key of ours is built here, and only here.

Redis Cluster hashes a key into one of 16,384 slots by CRC16 (XMODEM). When the key holds ``{...}``
with something between the first ``{`` and the next ``}``, only that *hash tag* is hashed, so that
keys with the same tag live in the same slot (Redis Cluster specification, "Hash tags").
"""

from __future__ import annotations

from binascii import crc_hqx
from functools import cache
from hashlib import blake2b

from flowcache.ports import RESERVED_PREFIX

_ONCE = RESERVED_PREFIX + b"once:"

__all__ = ["SLOTS", "key_slot", "once_key", "tag_of_slot", "tags"]

SLOTS = 16_384


def key_slot(key: bytes) -> int:
    """Return the slot of ``key``, 0 to 16,383."""
    return crc_hqx(_hashed_part(key), 0) & 0x3FFF


def _hashed_part(key: bytes) -> bytes:
    start = key.find(b"{")
    if start >= 0:
        end = key.find(b"}", start + 1)
        if end > start + 1:
            return key[start + 1 : end]
    return key


def once_key(key: bytes, token: bytes) -> bytes:
    """Return where the record of an idempotent write to ``key`` is kept: in the slot of ``key``.

    The digest keeps the name short and lets any key and token be named.
    """
    digest = blake2b(b"%d:%b%b" % (len(key), key, token), digest_size=16).hexdigest().encode()
    return b"%b{%b}:%b" % (_ONCE, _tag_for(key), digest)


def _tag_for(key: bytes) -> bytes:
    """Return a hash tag of the slot of ``key``.

    What of the key is hashed is itself such a tag, unless it holds a brace: ``a}b`` is hashed
    whole, and ``{a}b}`` would hash ``a``. For those keys any number of the same slot will do.
    """
    part = _hashed_part(key)
    if part and b"}" not in part and len(part) <= 64:
        return part
    return tag_of_slot(key_slot(key))


@cache
def tags() -> tuple[bytes, ...]:
    """Return a short hash tag of each slot: the least number that leads there.

    It takes some 40 ms the first time, which is done when the store starts; no call need wait.
    """
    found: dict[int, bytes] = {}
    number = 0
    while len(found) < SLOTS:
        text = b"%d" % number
        found.setdefault(crc_hqx(text, 0) & 0x3FFF, text)
        number += 1
    return tuple(found[slot] for slot in range(SLOTS))


def tag_of_slot(slot: int) -> bytes:
    """Return a short hash tag of ``slot``."""
    return tags()[slot]
