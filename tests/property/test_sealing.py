"""Sealing, for any value, key, field and damage."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from flowcache.contract.request import Request, TtlLimits
from flowcache.encryption.envelope import DecryptionFailure, Parts, parse
from flowcache.encryption.keyring import Keyring
from flowcache.encryption.keys import WrittenKeys
from flowcache.encryption.settings import Plaintext, SealingSettings
from flowcache.encryption.vault import Vault
from flowcache.errors import InvalidRequest, InvalidResponse
from flowcache.operations.catalogue import plan
from flowcache.ports import Command, Done, Reply
from flowcache.secret import Secret
from tests.commands import command as made_command
from tests.envelopes import KEYS, Sealer
from tests.executing import CoroutineExecutor
from tests.property.strategies import json_values, modest, stored, texts

PROVIDER = WrittenKeys(Secret(KEYS))
ids = st.sampled_from(["k1", "k2", "k3"])
keys = st.binary(min_size=1, max_size=40).filter(lambda key: not key.startswith(b"flowcache:"))
fields = st.none() | st.binary(max_size=20)
plaintexts = stored | st.binary(max_size=300)
hashes = st.dictionaries(
    texts, json_values.filter(lambda value: value is not None), min_size=1, max_size=5
)


class Memory(CoroutineExecutor):
    """As much of Redis as SET, GET, HSET and HGETALL need."""

    def __init__(self) -> None:
        self.held: dict[bytes, Any] = {}

    async def execute(self, command: Command, deadline: float) -> Done:
        return Done(self.reply(command), "shard")

    def reply(self, command: Command) -> Reply:
        name, key, *more = command.words
        match name:
            case b"SET":
                self.held[key] = more[0]
                return b"OK"
            case b"HSET":
                pairs = dict(zip(more[::2], more[1::2], strict=True))
                self.held.setdefault(key, {}).update(pairs)
                return len(pairs)
        return self.held.get(key)


def run(
    memory: Memory, *commands: Command, active: str = "k1", plaintext: Plaintext = Plaintext.REFUSE
) -> Reply:
    """Return the reply to the last command of a vault over ``memory``."""
    vault = Vault(memory, SealingSettings(PROVIDER, active, None, plaintext))

    async def call() -> Reply:
        reply: Reply = None
        for command in commands:
            reply = (await vault.execute(command, 0.0)).reply
        return reply

    return asyncio.run(call())


def planned(operation: str, key: bytes, value: object = None) -> tuple[Command, Any]:
    request = Request(
        operation, key, {"value": value}, TtlLimits().default_ttl, "string", None, None, None, None
    )
    row, command = plan(request, 1000)
    return command, row.read


@modest
@given(key=keys, value=json_values, active=ids, other=ids)
def test_any_json_comes_back(key: bytes, value: object, active: str, other: str) -> None:
    """SET and GET answer with the vault as they do without, whichever key is active by then."""
    write, _ = planned("SET", key, value)
    look, read = planned("GET", key)
    memory, clear = Memory(), Memory()
    run(memory, write, active=active)
    clear.reply(write)
    told = read(run(memory, look, active=other))
    assert told == read(clear.held[key])
    assert Sealer(active).open(memory.held[key], key) == clear.held[key]


@modest
@given(key=keys, value=hashes, more=hashes, active=ids, other=ids)
def test_any_hash_comes_back(
    key: bytes, value: dict[str, object], more: dict[str, object], active: str, other: str
) -> None:
    """Fields written at different times under different keys are one hash; names stay in clear."""
    try:
        writes = [planned("HSET", key, each)[0] for each in (value, more)]
    except (InvalidRequest, UnicodeEncodeError):
        assume(False)
    look, read = planned("HGETALL", key)
    memory, clear = Memory(), Memory()
    for write, by in zip(writes, (active, other), strict=True):
        run(memory, write, active=by)
        clear.reply(write)
    assert memory.held[key].keys() == clear.held[key].keys()
    assert read(run(memory, look)) == read(clear.held[key])


@modest
@given(plain=plaintexts, key=keys, field=fields, active=ids, data=st.data())
def test_any_damage_is_found(
    plain: bytes, key: bytes, field: bytes | None, active: str, data: st.DataObject
) -> None:
    """A flipped bit, a cut, bytes more: a value opens as it was written or not at all."""
    whole = Sealer(active).seal(plain, key, field)
    change = data.draw(st.sampled_from(["flip", "cut", "front", "append", "insert"]))
    at = data.draw(st.integers(0, len(whole) - 1))
    damaged = {
        "flip": bytes(
            [*whole[:at], whole[at] ^ 1 << data.draw(st.integers(0, 7)), *whole[at + 1 :]]
        ),
        "cut": whole[:at],
        "front": whole[at + 1 :],
        "append": whole + data.draw(st.binary(min_size=1, max_size=20)),
        "insert": whole[:at] + data.draw(st.binary(min_size=1, max_size=5)) + whole[at:],
    }[change]
    assume(damaged != whole)
    refuses(damaged, key, field, plain)
    if change == "flip":  # a mark that is gone makes no text of it
        refuses(damaged, key, field, plain, Plaintext.READ)


@modest
@given(plain=plaintexts, key=keys, field=fields, other_key=keys, other_field=fields, active=ids)
def test_a_value_opens_nowhere_else(
    plain: bytes,
    key: bytes,
    field: bytes | None,
    other_key: bytes,
    other_field: bytes | None,
    active: str,
) -> None:
    """Moved to another key, another field, from a string to a hash or back, it stays shut."""
    assume((key, field) != (other_key, other_field))
    refuses(Sealer(active).seal(plain, key, field), other_key, other_field, plain)


@modest
@given(plain=plaintexts, key=keys, field=fields, by=ids, claimed=ids)
def test_a_value_opens_with_its_own_key_only(
    plain: bytes, key: bytes, field: bytes | None, by: str, claimed: str
) -> None:
    """Another id in its header makes no other key open it."""
    assume(by != claimed)
    whole = Sealer(by).seal(plain, key, field)
    header = Sealer(claimed).header
    refuses(header + whole[len(header) :], key, field, plain)


def refuses(
    damaged: bytes,
    key: bytes,
    field: bytes | None,
    plain: bytes,
    plaintext: Plaintext = Plaintext.REFUSE,
) -> None:
    """Fail unless reading ``damaged`` is refused in words that tell nothing."""
    memory = Memory()
    memory.held[key] = damaged if field is None else {field: damaged}
    look = made_command(b"GET" if field is None else b"HGETALL", key)
    with pytest.raises(InvalidResponse) as caught:
        run(memory, look, plaintext=plaintext)
    assert len(plain) < 8 or plain not in caught.value.message.encode()


@modest
@given(planted=plaintexts, key=keys)
def test_nothing_in_clear_looks_sealed(planted: bytes, key: bytes) -> None:
    """What flowcache writes in clear, and any other text, is told from an envelope."""
    try:
        planted.decode()
        assert parse(planted) is DecryptionFailure.PLAINTEXT
    except UnicodeDecodeError:
        pass
    memory = Memory()
    memory.held[key] = planted
    with pytest.raises(InvalidResponse):
        run(memory, made_command(b"GET", key))


@modest
@given(plain=plaintexts, bound=st.binary(max_size=50), active=ids)
def test_an_envelope_is_as_long_as_its_page_says(plain: bytes, bound: bytes, active: str) -> None:
    """Header, nonce and tag are all that comes on top, and no nonce comes twice."""
    ring = Keyring(PROVIDER.fetch(), active)
    one, other = ring.seal(plain, bound), ring.seal(plain, bound)
    assert len(one) == len(plain) + 3 + len(active) + 24 + 16
    parts, again = parse(one), parse(other)
    assert isinstance(parts, Parts)
    assert isinstance(again, Parts)
    assert parts.nonce != again.nonce
    assert b"".join(parts) == one
    assert ring.open(one, bound) == plain
    assert plain == b"" or len(plain) < 4 or plain not in one
