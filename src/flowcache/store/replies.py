"""What may come back in place of a reply, and what follows from it.

A reply is a value; so is everything that comes instead of one. The store looks at the class of
what it got, and for an error reply at its first word, in the table `REACTIONS`:

    retry    it was not executed: learn from it and send it again
    refuse   it was not executed and would not be now: the call fails, Redis is to blame
    answer   Redis did its work: the call fails for a reason that lies with the caller
"""

from __future__ import annotations

import asyncio
import re
from enum import Enum, auto
from typing import Any, Final

from flowcache.errors import (
    Conflict,
    Declined,
    Failure,
    Forbidden,
    InvalidRequest,
    NotYet,
    RedisUnavailable,
    TooLarge,
    Unfinished,
    WrongType,
)

__all__ = [
    "EXPIRED",
    "FULL",
    "LOST",
    "NOT_SENT",
    "OVERSIZED",
    "REACTIONS",
    "TOO_LARGE",
    "ErrorReply",
    "Fault",
    "LostReply",
    "Reaction",
    "SlowReply",
    "reaction",
]


_MOST_CODE = 64
"""Characters of a code; the server may say anything."""

_VAGUE = frozenset({"ERR", "@user_script:"})
"""First words that say nothing by themselves. The second is how Redis 6 begins some of a script."""

_IN_SCRIPT = re.compile(
    r"(?:ERR Error running script \(call to f_[0-9a-f]+\): @user_script:[0-9]+: )?"
    r"@user_script: [0-9]+: -([A-Z]+) "
)
"""How Redis 6.2 and older wrap the error of a command in a script, returned or raised by it."""


class Fault:
    """Anything that came in place of a reply."""

    __slots__ = ()


class ErrorReply(Fault):
    """An error as Redis sent it, such as ``WRONGTYPE Operation against ...``."""

    __slots__ = ("code", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.code = text.partition(" ")[0][:_MOST_CODE]
        if self.code in _VAGUE and (found := _IN_SCRIPT.match(text)):
            self.code = found[1]

    def __repr__(self) -> str:
        return f"ErrorReply({self.text!r})"


class Oversized(Fault):
    """The reply is larger than a link takes; the connection was given up on its account."""

    __slots__ = ()


class LostReply(Fault):
    """The link was lost before a reply came. ``sent``: Redis may have executed the command."""

    __slots__ = ("sent",)

    def __init__(self, sent: bool) -> None:
        self.sent = sent


class Expired(Fault):
    """The deadline passed before a reply came."""

    __slots__ = ()


EXPIRED: Final = Expired()


class SlowReply(Fault):
    """There is no reply yet, and the caller wanted to know. ``rest`` will be it."""

    __slots__ = ("rest",)

    def __init__(self, rest: asyncio.Future[Any]) -> None:
        self.rest = rest


class Full(Fault):
    """The link has as many commands waiting as it may; nothing was sent."""

    __slots__ = ()


OVERSIZED: Final = Oversized()
FULL: Final = Full()
LOST: Final = LostReply(sent=True)
NOT_SENT: Final = LostReply(sent=False)


class Reaction(Enum):
    """What the store does about an error reply."""

    MOVED = auto()
    """The slot has another home: note it, send there."""
    ASK = auto()
    """The slot is moving and this key is already there: send there once, after ASKING."""
    AGAIN = auto()
    """The slot is moving and the command's keys are not together: wait a moment, send again."""
    SCRIPT = auto()
    """The server lacks the script: send its text."""
    REFRESH = auto()
    """This server may not do that any more: ask who may, send there."""
    REFUSE = auto()
    """The server can't serve now."""
    ANSWER = auto()
    """The caller's own doing."""


REACTIONS: dict[str, tuple[Reaction, type[Failure], str]] = {
    "MOVED": (Reaction.MOVED, RedisUnavailable, "The slot of this key moves between servers."),
    "ASK": (Reaction.ASK, RedisUnavailable, "The slot of this key moves between servers."),
    "TRYAGAIN": (Reaction.AGAIN, Declined, "The slot of this key moves between servers."),
    "NOSCRIPT": (Reaction.SCRIPT, RedisUnavailable, "Redis does not keep flowcache's script."),
    "READONLY": (Reaction.REFRESH, RedisUnavailable, "The primary of this key just changed."),
    "CLUSTERDOWN": (Reaction.REFRESH, NotYet, "The Redis cluster is down."),
    "MASTERDOWN": (Reaction.REFRESH, NotYet, "The replica lost its primary."),
    "LOADING": (Reaction.REFUSE, NotYet, "Redis is loading its data."),
    "BUSY": (Reaction.REFUSE, NotYet, "Redis is busy with a script."),
    "OOM": (Reaction.REFUSE, Declined, "Redis is out of memory."),
    "MISCONF": (Reaction.REFUSE, Declined, "Redis can't save to disk and takes no writes."),
    "NOREPLICAS": (Reaction.REFUSE, Declined, "Redis has too few replicas to write."),
    "NOAUTH": (Reaction.REFUSE, RedisUnavailable, "Redis wants a password from flowcache."),
    "NOPERM": (Reaction.ANSWER, Forbidden, "Redis forbids flowcache's user this key or command."),
    "WRONGTYPE": (Reaction.ANSWER, WrongType, "The key holds another type of value."),
    "CONFLICT": (Reaction.ANSWER, Conflict, "The idempotency key was used with another body."),
    "TOOLARGE": (
        Reaction.ANSWER,
        TooLarge,
        "The key would hold more than {sizes.value} bytes. Store less under one key.",
    ),
    "LARGEREPLY": (
        Reaction.ANSWER,
        TooLarge,
        "More than 64 KiB are stored, or more than the operator lets a call return; nothing was "
        "done. Send GET, then DEL.",
    ),
    "TOOMANY": (
        Reaction.ANSWER,
        TooLarge,
        "The hash would have more than {sizes.fields} fields. Spread them over several keys.",
    ),
    "PARTLY": (
        Reaction.REFUSE,
        Unfinished,
        "Redis did the write, and refused its TTL or its record. Don't repeat it.",
    ),
}
"""First word of an error reply -> what to do, and what the call fails with otherwise.

``{sizes}`` in a message stands for the limits of the call."""

TOO_LARGE = "What is stored under this key is too large to be answered."

_ERR: dict[str, tuple[Reaction, type[Failure], str]] = {
    # A denial in a script, as worded by Redis 7.2 and Valkey, and before.
    "ACL failure in script": REACTIONS["NOPERM"],
    "user executing the script can't": REACTIONS["NOPERM"],
    "string exceeds maximum": (Reaction.ANSWER, TooLarge, "value: larger than Redis takes."),
    "value is not an integer": (
        Reaction.ANSWER,
        WrongType,
        "The key holds something else than a whole number.",
    ),
    "would overflow": (
        Reaction.ANSWER,
        InvalidRequest,
        "value: the number under the key would leave what can be counted exactly, 2^53.",
    ),
}
"""Words in an error reply that begins with a word of `_VAGUE` -> the same."""

_OTHER = (Reaction.REFUSE, Declined, "Redis refused the command.")
"""What follows from an error that is in neither table: the call fails, and no circuit counts it.

A server that answers is not silent. A circuit spares callers the wait for one that is, and an error
costs no wait. If the word says that the whole server is unwell, callers learn that from each reply;
if it concerns one key or command, an open circuit would fail everybody's calls. A word that is
known to concern the whole server has a row above, such as LOADING."""


def reaction(error: ErrorReply) -> tuple[Reaction, type[Failure], str]:
    """Look up what follows from ``error``; `_OTHER` if it is in no table."""
    if error.code in _VAGUE:
        return next((row for words, row in _ERR.items() if words in error.text), _OTHER)
    return REACTIONS.get(error.code, _OTHER)
