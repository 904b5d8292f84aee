"""The vault: what goes to Redis, and what comes back, command by command."""

from __future__ import annotations

import asyncio
import hmac
from base64 import b64encode
from collections.abc import Iterable
from typing import Any

import pytest
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap, aes_key_wrap

from flowcache.authz.keys import namespace_prefix
from flowcache.encryption.envelope import Parts, parse
from flowcache.encryption.keys import Key, WrittenKeys
from flowcache.encryption.settings import Plaintext, SealingSettings
from flowcache.encryption.vault import Vault
from flowcache.errors import Forbidden, InvalidResponse
from flowcache.operations.catalogue import CATALOGUE
from flowcache.ports import Command, Done, Once, Reply, SizeLimits, Values
from flowcache.secret import Secret
from tests.commands import command as made_command
from tests.commands import request
from tests.envelopes import KEYS, SECRETS, Sealer, line
from tests.executing import CoroutineExecutor

ACME = namespace_prefix("acme")


class Redis(CoroutineExecutor):
    """An executor that replies as it is told, and remembers what it was asked."""

    def __init__(self, reply: Reply = b"OK", *, stale: bool = False) -> None:
        self.reply = reply
        self.stale = stale
        self.commands: list[Command] = []

    async def execute(self, command: Command, deadline: float) -> Done:
        self.commands.append(command)
        return Done(self.reply, "shard", self.stale)


def vault(
    redis: Redis,
    *,
    keys: str = KEYS,
    active: str = "k1",
    spaces: Iterable[bytes] | None = None,
    plaintext: Plaintext = Plaintext.REFUSE,
) -> Vault:
    chosen = None if spaces is None else tuple(spaces)
    return Vault(redis, SealingSettings(WrittenKeys(Secret(keys)), active, chosen, plaintext))


def run(redis: Redis, command: Command, **chosen: Any) -> tuple[Reply, Command]:
    """Return the reply and the command that reached Redis."""

    return asyncio.run(_execute(vault(redis, **chosen), command)), redis.commands[-1]


def sealed(value: bytes, key: bytes = b"k", field: bytes | None = None, by: str = "k1") -> bytes:
    return Sealer(by).seal(value, key, field)


# -- what is written -------------------------------------------------------------------------------


def test_a_value_is_sealed() -> None:
    """SET sends an envelope for this very key; name, key, TTL and reply are as they were."""
    command = made_command(b"SET", b"k", b'{"a":1}', ttl=60, writes=True)
    reply, sent = run(Redis(), command)
    assert reply == b"OK"
    assert (sent.name, sent.key, sent.ttl, sent.writes) == (b"SET", b"k", 60, True)
    (stored,) = sent.words[2:]
    assert Sealer().open(stored, b"k") == b'{"a":1}'


def test_each_field_is_sealed_for_itself() -> None:
    """HSET leaves the names of the fields in clear, and binds each value to its own."""
    _, sent = run(
        Redis(2), made_command(b"HSET", b"k", b"a", b"same", b"b", b"same", ttl=60, writes=True)
    )
    assert sent.words[2::2] == (b"a", b"b")
    assert [
        Sealer().open(stored, b"k", field)
        for field, stored in zip(sent.words[2::2], sent.words[3::2], strict=True)
    ] == [b"same", b"same"]
    assert sent.words[3] != sent.words[5]


def test_fields_that_are_written_together_have_nonces_of_their_own() -> None:
    """Only halves of them are shared: under one nonce two values would give each other away."""
    fields = [b"%d" % number for number in range(20)]
    args = tuple(part for field in fields for part in (field, b"same"))
    _, sent = run(Redis(20), made_command(b"HSET", b"k", *args, ttl=60, writes=True))
    nonces = [taken.nonce for taken in map(parse, sent.words[3::2]) if isinstance(taken, Parts)]
    assert len(set(nonces)) == len(fields)


def test_the_active_key_seals() -> None:
    """Whatever else there is, one key writes."""
    _, sent = run(Redis(), made_command(b"SET", b"k", b"1", ttl=60, writes=True), active="k2")
    assert Sealer("k2").open(sent.words[2], b"k") == b"1"


def test_the_same_value_twice_looks_different() -> None:
    """Who reads Redis can't tell that a value was written again."""
    redis = Redis()
    for _ in range(2):
        run(redis, made_command(b"SET", b"k", b"1", ttl=60, writes=True))
    one, other = redis.commands
    assert one.words != other.words


@pytest.mark.parametrize("name", [b"INCRBY", b"APPEND", b"TAKE"])
def test_a_command_that_is_not_known_is_refused(name: bytes) -> None:
    """What nobody taught the vault to seal does not reach Redis in clear."""
    redis = Redis()
    with pytest.raises(Forbidden, match="encrypted"):
        run(redis, made_command(name, b"k", b"1", ttl=60, writes=True))
    assert redis.commands == []


def test_each_operation_says_whether_it_works_on_what_is_encrypted() -> None:
    """It does where it says so: what it writes is not sent in clear. Else it is refused."""
    for operation in CATALOGUE.values():
        made = operation.command(request(operation.name, **operation.sample.fields), SizeLimits())
        if not operation.works_encrypted:
            with pytest.raises(Forbidden):
                run(Redis(None), made)
            continue
        _, sent = run(Redis(None), made)
        holds_values = operation.values in (Values.STRING_WRITTEN, Values.FIELDS_WRITTEN)
        assert (sent.words != made.words) is holds_values, operation.name


# -- what is read ----------------------------------------------------------------------------------


def test_replies_are_opened() -> None:
    """GET and HGETALL reply as they would without encryption, a replica's as well."""
    assert run(Redis(sealed(b"[1]")), made_command(b"GET", b"k"))[0] == b"[1]"
    fields = {b"a": sealed(b"1", b"k", b"a"), b"": sealed(b"", b"k", b"")}
    assert run(Redis(fields), made_command(b"HGETALL", b"k"))[0] == {b"a": b"1", b"": b""}
    old = Redis(sealed(b"old"), stale=True)
    done = asyncio.run(_done(vault(old), made_command(b"GET", b"k")))
    assert done == Done(b"old", "shard", stale=True)


@pytest.mark.parametrize("name", [b"GET", b"HGETALL"])
@pytest.mark.parametrize("reply", [None, {}, 5, [b"x"], "text"])
def test_a_reply_that_holds_no_value_is_left_to_the_operation(name: bytes, reply: Reply) -> None:
    """A miss stays a miss, and a reply of another shape is judged where all such are."""
    assert run(Redis(reply), made_command(name, b"k"))[0] == reply


def test_every_key_opens() -> None:
    """What an older key sealed is read as long as the key is there."""
    for by in ("k1", "k2", "k3"):
        assert run(Redis(sealed(b"1", by=by)), made_command(b"GET", b"k"))[0] == b"1"


def _flipped(stored: bytes, at: int) -> bytes:
    changed = bytearray(stored)
    changed[at] ^= 1
    return bytes(changed)


FLAWED = {
    "in clear": (b"private-needle", "plaintext"),
    "empty": (b"", "plaintext"),
    "cut short": (sealed(b"private-needle")[:30], "malformed"),
    "a mark and nothing": (b"\xfc", "malformed"),
    "of another version": (b"\xfc\x02" + sealed(b"private-needle")[2:], "malformed"),
    "of an unknown key": (sealed(b"private-needle", by="k3"), "unknown_key"),
    "with a flipped bit": (_flipped(sealed(b"private-needle"), -20), "altered"),
    "of another key": (sealed(b"private-needle", b"other"), "altered"),
    "of a field": (sealed(b"private-needle", b"k", b""), "altered"),
    "of another key's name": (sealed(b"private-needle").replace(b"k1", b"k2", 1), "altered"),
    "cut at the end": (sealed(b"private-needle")[:-1], "altered"),
}


@pytest.mark.parametrize(("stored", "flaw"), FLAWED.values(), ids=FLAWED)
def test_what_can_not_be_opened_is_refused_and_counted(stored: bytes, flaw: str) -> None:
    """`invalid_response`, in words that hold nothing of what is stored, alone or in a hash."""
    two = f"{line('k1')},{line('k2')}"
    for name, reply in ((b"GET", stored), (b"HGETALL", {b"f": stored})):
        if name == b"HGETALL" and flaw == "altered":
            reply = {b"g": sealed(b"private-needle", b"k", b"f")}
        watched = vault(Redis(reply), keys=two)
        with pytest.raises(InvalidResponse) as caught:
            asyncio.run(_execute(watched, made_command(name, b"k")))
        assert caught.value.message.startswith("What is stored under this key can't be opened: ")
        assert "needle" not in caught.value.message
        counted = {each: n for each, n in watched.status().decryption_failures.items() if n}
        assert counted == {flaw: 1}
        assert not any(key.decrypted for key in watched.status().keys.values())


async def _done(watched: Vault, command: Command) -> Done:
    return await watched.execute(command, 0.0)


async def _execute(watched: Vault, command: Command) -> Reply:
    return (await _done(watched, command)).reply


def test_plaintext_passes_where_that_was_chosen() -> None:
    """A space that is only now encrypted is read as it is, and counted; its writes are sealed."""
    chosen: dict[str, Any] = {"plaintext": Plaintext.READ}
    assert run(Redis(b'"old"'), made_command(b"GET", b"k"), **chosen)[0] == b'"old"'
    mixed = {b"a": b"clear", b"b": sealed(b"new", b"k", b"b")}
    assert run(Redis(mixed), made_command(b"HGETALL", b"k"), **chosen)[0] == {
        b"a": b"clear",
        b"b": b"new",
    }
    watched = vault(Redis(b"clear"), **chosen)
    asyncio.run(_execute(watched, made_command(b"GET", b"k")))
    assert watched.status().decryption_failures["plaintext"] == 1


@pytest.mark.parametrize(
    "case", [name for name, (_, flaw) in FLAWED.items() if flaw != "plaintext"]
)
def test_what_claims_to_be_sealed_is_never_taken_for_plaintext(case: str) -> None:
    """Even where plaintext is read: nobody gets ciphertext for an answer."""
    stored, _ = FLAWED[case]
    keys = f"{line('k1')},{line('k2')}"
    with pytest.raises(InvalidResponse):
        run(Redis(stored), made_command(b"GET", b"k"), keys=keys, plaintext=Plaintext.READ)


def test_a_space_may_be_written_in_clear_for_a_while() -> None:
    """Before all instances have the keys: ciphertext is read, and nobody meets any by us."""
    chosen: dict[str, Any] = {"plaintext": Plaintext.WRITE}
    for name, args in ((b"SET", (b"1",)), (b"HSET", (b"a", b"1")), (b"UNLINK", ())):
        _, sent = run(Redis(), made_command(name, b"k", *args, ttl=60, writes=True), **chosen)
        assert sent.words[2:] == args
    assert run(Redis(b"clear"), made_command(b"GET", b"k"), **chosen)[0] == b"clear"
    assert run(Redis(sealed(b"1")), made_command(b"GET", b"k"), **chosen)[0] == b"1"
    with pytest.raises(Forbidden):
        run(Redis(), made_command(b"INCRBY", b"k", b"1", ttl=60, writes=True), **chosen)


def test_bytes_that_are_no_text_never_pass_as_plaintext() -> None:
    """flowcache wrote text only: an envelope whose first byte was damaged is not handed out."""
    with pytest.raises(InvalidResponse):
        run(
            Redis(_flipped(sealed(b"private-needle"), 0)),
            made_command(b"GET", b"k"),
            plaintext=Plaintext.READ,
        )


# -- which keys ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "spaces", "is_sealed"),
    [
        (ACME + b"k", [ACME], True),
        (ACME, [ACME], True),
        (namespace_prefix("acme2") + b"k", [ACME], False),
        (namespace_prefix("other") + b"k", [ACME, namespace_prefix("other")], True),
        (b"k", [ACME], False),
        (b"acme:k", [ACME], False),
        (b"k", None, True),
        (ACME + b"k", None, True),
        (b"flowcache:rate:acme", None, False),
        (b"flowcache:once:{k}:1", None, False),
    ],
)
def test_a_key_is_sealed_by_where_it_lies(
    key: bytes, spaces: list[bytes] | None, is_sealed: bool
) -> None:
    """The spaces that were chosen, all by default, and never what is flowcache's own."""
    _, sent = run(Redis(), made_command(b"SET", key, b"1", ttl=60, writes=True), spaces=spaces)
    assert (sent.words[2:] != (b"1",)) is is_sealed
    if is_sealed:
        assert Sealer().open(sent.words[2], key) == b"1"


# -- written once ----------------------------------------------------------------------------------


def once_of(
    active: str = "k1",
    keys: str = KEYS,
    plaintext: Plaintext = Plaintext.REFUSE,
    **other: Any,
) -> Once:
    told: dict[str, Any] = {"key": b"k", "token": b"i", "fingerprint": b"f" * 32} | other
    once = Once(told["token"], told["fingerprint"], 600)
    command = made_command(b"SET", told["key"], b"1", ttl=60, writes=True, once=once)
    _, sent = run(Redis(), command, active=active, keys=keys, plaintext=plaintext)
    assert sent.once is not None
    assert (sent.once.token, sent.once.lifetime_ms) == (told["token"], 600)
    return sent.once


def test_a_repeated_write_has_the_same_fingerprint() -> None:
    """Ciphertext differs each time, what the record is told by does not."""
    assert once_of() == once_of()


def test_a_fingerprint_tells_writes_apart_and_nothing_else() -> None:
    """It is keyed, and that of no other body, key, token or secret."""
    different = [
        once_of(),
        once_of(fingerprint=b"g" * 32),
        once_of(key=b"l"),
        once_of(token=b"j"),
        once_of(key=b"ki", token=b"j"),
        once_of(key=b"k", token=b"ij"),
        once_of(keys=line("k1").replace("k1:AA", "k1:CC")),
    ]
    assert len({once.fingerprint for once in different}) == len(different)
    assert all(len(once.fingerprint) == 32 and b" " not in once.fingerprint for once in different)
    assert b"f" * 32 not in (once_of().fingerprint, *once_of().former)


def test_a_fingerprint_is_made_with_a_key_for_nothing_else() -> None:
    """By the book: HMAC under a key that is derived for it. Records in Redis outlive a version."""
    own = hmac.digest(SECRETS["k1"], b"flowcache 1 fingerprint\x01", "sha256")  # RFC 5869, 2.3
    written = b"f" * 32 + b"\x00\x01k" + b"i"
    assert once_of().fingerprint == hmac.digest(own, written, "sha256").hex()[:32].encode()


def test_a_write_is_known_again_after_the_active_key_changed() -> None:
    """The record holds what the key of then made of it; every key there is makes its own."""
    before, after = once_of("k1"), once_of("k3")
    assert before.fingerprint != after.fingerprint
    assert before.fingerprint in after.former
    assert after.fingerprint in before.former


def test_the_fingerprint_in_clear_is_known_while_values_are_in_clear() -> None:
    """A record of before there were keys is this write's; later it would let values be guessed."""
    clear = b"f" * 32
    assert clear in once_of(plaintext=Plaintext.WRITE).former
    assert once_of(plaintext=Plaintext.WRITE).fingerprint == once_of().fingerprint
    for later in (Plaintext.READ, Plaintext.REFUSE):
        once = once_of(plaintext=later)
        assert clear not in (once.fingerprint, *once.former)


# -- counts ----------------------------------------------------------------------------------------


def test_keys_tell_how_often_they_were_used() -> None:
    """By id: which one is active, what each sealed and opened; secrets are not among it."""

    async def use() -> Vault:
        redis = Redis()
        watched = vault(redis, active="k2")
        await _execute(watched, made_command(b"SET", b"k", b"1", ttl=60, writes=True))
        await _execute(
            watched, made_command(b"HSET", b"k", b"a", b"1", b"b", b"2", ttl=60, writes=True)
        )
        redis.reply = sealed(b"1", by="k1")
        await _execute(watched, made_command(b"GET", b"k"))
        return watched

    told = asyncio.run(use()).status()
    assert {
        name: (key.active, key.encrypted, key.decrypted) for name, key in told.keys.items()
    } == {
        "k1": (False, 0, 1),
        "k2": (True, 3, 0),
        "k3": (False, 0, 0),
    }
    assert not any(told.decryption_failures.values())


class Kms:
    """A key management service: what is kept is wrapped, and only it can unwrap."""

    def __init__(self, wrapped: dict[str, bytes]) -> None:
        self._wrapped = wrapped

    def fetch(self) -> tuple[Key, ...]:
        return tuple(
            Key(name, Secret(b64encode(aes_key_unwrap(b"m" * 32, secret)).decode()))
            for name, secret in self._wrapped.items()
        )


def test_another_provider_takes_the_place_of_written_keys() -> None:
    """The vault needs nothing of where its keys come from."""
    provider = Kms({"k1": aes_key_wrap(b"m" * 32, SECRETS["k1"])})
    watched = Vault(Redis(sealed(b"1")), SealingSettings(provider, "k1"))
    assert asyncio.run(_execute(watched, made_command(b"GET", b"k"))) == b"1"
