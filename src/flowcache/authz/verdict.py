"""May this principal do this? `judge` is the whole answer."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from msgspec import structs

from flowcache.authz.permissions import Permission
from flowcache.authz.principal import Principal
from flowcache.contract.coercion import MAX_KEY_BYTES
from flowcache.errors import Failure, Forbidden, TooLarge
from flowcache.ports import RESERVED_PREFIX, Command, Values

__all__ = ["ALLOW", "Allow", "Deny", "Reason", "Verdict", "judge", "placed", "refusal"]


class Reason(StrEnum):
    """Why something is denied."""

    PERMISSION = "permission"
    OPERATION = "operation"
    RESERVED = "reserved"
    KEY = "key"
    KEY_LENGTH = "key_length"
    VALUE_LENGTH = "value_length"


@dataclass(frozen=True, slots=True)
class Allow:
    """It may be done."""


@dataclass(frozen=True, slots=True)
class Deny:
    """It may not be done; ``message`` says why to the caller, and nothing of other clients."""

    reason: Reason
    message: str


Verdict = Allow | Deny

ALLOW = Allow()

_STORING = frozenset({Values.IN_CLEAR, Values.STRING_WRITTEN, Values.FIELDS_WRITTEN})
"""Where the words of a write are what is stored."""

_FAILURES: dict[Reason, type[Failure]] = {
    Reason.PERMISSION: Forbidden,
    Reason.OPERATION: Forbidden,
    Reason.RESERVED: Forbidden,
    Reason.KEY: Forbidden,
    Reason.KEY_LENGTH: TooLarge,
    Reason.VALUE_LENGTH: TooLarge,
}


def judge(
    who: Principal, permissions: frozenset[Permission], operation: str, command: Command
) -> Verdict:
    """Tell whether ``who`` may run ``command``, which is what ``operation`` became. Pure.

    ``operation`` is the one that runs: GET of a hash is HGETALL. A TTL is not judged here: the
    client's own limits were those that the request was read with.
    """
    if not permissions <= who.permissions:
        # The configuration gives everybody something: a token's scope took it away.
        lacks = f"it lacks {' and '.join(sorted(permissions - who.permissions))}"
        why = lacks if who.permissions else "its token has no scope that counts here"
        return Deny(Reason.PERMISSION, f"This credential may not do this; {why}.")
    if who.operations is not None and operation not in who.operations:
        return Deny(Reason.OPERATION, f"operation: this credential may not run {operation}.")
    for place in command.keys:
        key = command.words[place]
        if key.startswith(RESERVED_PREFIX):
            return Deny(Reason.RESERVED, "key: what begins with flowcache: is flowcache's own.")
        if not who.keys.cover(key):
            return Deny(Reason.KEY, "key: this credential may not use it.")
        if len(who.prefix) + len(key) > MAX_KEY_BYTES:
            most = MAX_KEY_BYTES - len(who.prefix)
            return Deny(
                Reason.KEY_LENGTH,
                f"key: {len(key)} bytes; with this credential it has at most {most}.",
            )
    if command.writes and command.values in _STORING:
        # What the key becomes is looked at where it is written; this much it becomes at least.
        size = command.size()
        if size > command.sizes.value:
            return Deny(
                Reason.VALUE_LENGTH,
                f"value: {size} bytes; a key may hold {command.sizes.value}. Store less under it.",
            )
    return ALLOW


def placed(command: Command, who: Principal) -> Command:
    """Return ``command`` with its keys as they are in Redis, the name of ``who``, and its token.

    Two clients may reach one key. A token is each one's own: else a repetition would tell one what
    the other wrote, and who took a token first would keep the other's write from being done. No
    name of a client holds a colon.
    """
    words, once = command.words, command.once
    if who.prefix:
        placed = list(words)
        for place in command.keys:
            placed[place] = who.prefix + placed[place]
        words = tuple(placed)
    if once is not None:
        once = structs.replace(once, token=b"%b:%b" % (who.name.encode(), once.token))
    return structs.replace(command, words=words, once=once, client=who.name)


def refusal(verdict: Deny) -> Failure:
    """Return the failure that a denied call is answered with."""
    return _FAILURES[verdict.reason](verdict.message)
