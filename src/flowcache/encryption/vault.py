"""The vault: an executor that seals what goes to Redis and opens what comes back.

It stands where its inner executor would, so that the way of a call does not know of it: without
encryption it is not made, and costs nothing. A key outside of the sealed spaces passes it at the
price of one comparison, and so does a key of flowcache's own: a record of a write, a shared rate.

A command says where its values are (`ports.Values`), in its words or in its reply. One that says
nothing of it is refused, so that a new one can't store in clear by being forgotten. So is what
Redis has to work with: it can't count what it can't read. Why so:
docs/decisions/0019-encryption-at-rest.md.

What it does not hide: key names, the names of a hash's fields, how long a value is, how long it
lives, and when it is used. What it can't find: that Redis gave back an older value of the same key.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

from msgspec import structs

from flowcache.encryption.envelope import DecryptionFailure, field_of, string_of
from flowcache.encryption.keyring import Keyring, new_half
from flowcache.encryption.settings import Plaintext, SealingSettings
from flowcache.errors import Forbidden, InvalidResponse
from flowcache.executing import Executor, Heard, Receiver
from flowcache.ports import (
    NAMESPACES,
    RESERVED_PREFIX,
    Command,
    Done,
    Once,
    Reply,
    Values,
)
from flowcache.status import EncryptionKeyStatus, EncryptionStatus

__all__ = ["Vault"]

_Words = tuple[bytes, ...]

_WHY = {
    DecryptionFailure.PLAINTEXT: "it is not encrypted, as it has to be.",
    DecryptionFailure.MALFORMED: "it is damaged.",
    DecryptionFailure.UNKNOWN_KEY: "flowcache does not have the key that it was encrypted with.",
    DecryptionFailure.ALTERED: "it was altered, or moved here.",
}
"""What a caller is told: nothing of what is stored."""


class _Opening(Receiver):
    """Open what comes back, and pass it on."""

    __slots__ = ("_opened", "_receiver", "_vault", "_words")

    def __init__(self, vault: Vault, opened: _Opened, words: _Words, receiver: Receiver) -> None:
        self._vault = vault
        self._opened = opened
        self._words = words
        self._receiver = receiver

    def hear(self, result: Heard) -> None:
        if isinstance(result, Done):
            try:
                reply = self._opened(self._vault, self._words, result.reply)
                result = Done(reply, result.shard, result.stale)
            except InvalidResponse as failure:
                failure.shard = result.shard
                result = failure
        self._receiver.hear(result)


class Vault(Executor):
    """Run commands by ``inner``; in the sealed spaces Redis sees ciphertext only."""

    __slots__ = (
        "_covers",
        "_failures",
        "_inner",
        "_reads_plaintext",
        "_ring",
        "_sealed",
        "_writes_plaintext",
    )

    def __init__(self, inner: Executor, settings: SealingSettings) -> None:
        self._inner = inner
        self._ring = Keyring(settings.provider.fetch(), settings.active)
        self._covers = _everything if settings.spaces is None else _these(settings.spaces)
        self._reads_plaintext = settings.plaintext is not Plaintext.REFUSE
        self._writes_plaintext = settings.plaintext is Plaintext.WRITE
        self._sealed = {} if self._writes_plaintext else _SEALED
        self._failures = dict.fromkeys(DecryptionFailure, 0)

    def submit(self, command: Command, deadline: float, receiver: Receiver) -> None:
        """Run ``command``, as `Executor.submit`.

        Raises:
            Forbidden: the command can't work on what is sealed.
        """
        if any(map(self._covers, command.all_keys())):
            command, receiver = self._sealed_command(command, receiver)
        self._inner.submit(command, deadline, receiver)

    def status(self) -> EncryptionStatus:
        """Return what was counted since the worker started."""
        return EncryptionStatus(
            {
                key_id: EncryptionKeyStatus(key_id == self._ring.active, sealed, opened)
                for key_id, (sealed, opened) in self._ring.counts().items()
            },
            {reason.value: count for reason, count in self._failures.items()},
        )

    def _sealed_command(self, command: Command, receiver: Receiver) -> tuple[Command, Receiver]:
        """Return ``command`` as it goes to Redis, and who opens what comes back."""
        key, values, once = command.key, command.values, command.once
        if values is Values.IN_CLEAR:
            _refuse()
        seal, opened = self._sealed.get(values), _OPENED.get(values)
        words = command.words if seal is None else seal(self._ring, command.words)
        if once is not None:
            once = self._keyed(once, key)
        command = structs.replace(command, words=words, once=once)
        return command, receiver if opened is None else _Opening(self, opened, words, receiver)

    def _keyed(self, once: Once, key: bytes) -> Once:
        """Return ``once`` with fingerprints that tell nobody anything.

        They are those of this very write: the same value under another key, or written again with
        another token, has others. That of who has no keys yet is known, too, where it tells no more
        than what is stored.
        """
        place = len(key).to_bytes(2) + key + once.token
        first, *others = self._ring.fingerprints(once.fingerprint + place)
        if self._writes_plaintext:
            others.append(once.fingerprint)
        return structs.replace(once, fingerprint=first, former=tuple(others))

    def _open(self, stored: bytes, bound: bytes) -> bytes:
        plain = self._ring.open(stored, bound)
        if not isinstance(plain, DecryptionFailure):
            return plain
        self._failures[plain] += 1
        if plain is DecryptionFailure.PLAINTEXT and self._reads_plaintext and _is_text(stored):
            return stored
        raise InvalidResponse(f"What is stored under this key can't be opened: {_WHY[plain]}")

    def open_string(self, words: _Words, reply: Reply) -> Reply:
        """Return the string in ``reply``; what is none is left to who reads it."""
        return self._open(reply, string_of(words[1])) if isinstance(reply, bytes) else reply

    def open_field(self, words: _Words, reply: Reply) -> Reply:
        """Return the field in ``reply``; what is none is left to who reads it."""
        bound = field_of(words[1]) + words[2]
        return self._open(reply, bound) if isinstance(reply, bytes) else reply

    def open_fields(self, words: _Words, reply: Reply) -> Reply:
        """Return the hash in ``reply``; what is none is left to who reads it."""
        if not isinstance(reply, dict):
            return reply
        place, unseal = field_of(words[1]), self._open
        return {field: unseal(stored, place + field) for field, stored in reply.items()}


def _everything(key: bytes) -> bool:
    return key.startswith(NAMESPACES) or not key.startswith(RESERVED_PREFIX)


def _these(spaces: tuple[bytes, ...]) -> Callable[[bytes], bool]:
    return lambda key: key.startswith(spaces)


def _is_text(stored: bytes) -> bool:
    """Tell whether flowcache may have written this: an envelope with a damaged mark is no text."""
    try:
        stored.decode()
    except UnicodeDecodeError:
        return False
    return True


def _refuse() -> NoReturn:
    raise Forbidden(
        "operation: it can't work on values that are encrypted; "
        "use a client whose namespace is not encrypted."
    )


# -- where values are, and what becomes of them ----------------------------------------------------

_Opened = Callable[[Vault, _Words, Reply], Reply]


def _seal_string(ring: Keyring, words: _Words) -> _Words:
    name, key, value, *more = words
    return (name, key, ring.seal(value, string_of(key)), *more)


def _seal_fields(ring: Keyring, words: _Words) -> _Words:
    place, half = field_of(words[1]), new_half()
    sealed = list(words)
    for at in range(3, len(words), 2):
        sealed[at] = ring.seal(words[at], place + words[at - 1], half)
    return tuple(sealed)


_SEALED: dict[Values, Callable[[Keyring, _Words], _Words]] = {
    Values.STRING_WRITTEN: _seal_string,
    Values.FIELDS_WRITTEN: _seal_fields,
}
"""Where a command holds values -> its words as they go to Redis."""

_OPENED: dict[Values, _Opened] = {
    Values.STRING_READ: Vault.open_string,
    Values.FIELD_READ: Vault.open_field,
    Values.FIELDS_READ: Vault.open_fields,
}
"""Where a reply holds values -> the reply as it would be without encryption."""
