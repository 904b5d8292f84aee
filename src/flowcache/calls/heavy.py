"""Commands that keep Redis busy for long: few of them are at Redis at once.

Redis does one thing at a time, and everybody waits for it. It keeps a hash of up to 512 fields as
one list, and looks through that for each field of an HSET: 510 short fields, a body of 4 KB, take
1.4 ms. Hundreds of these, sent at once by one client, would be served before the next call of any
other.

So a heavy command waits for a place here, before it is sent and before its circuit is asked.
Clients are served round robin. A command keeps its place until its reply comes. If the reply is not
there at the deadline, it keeps the place for some time more: else a caller with a short deadline
could send one command after the other.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from flowcache.errors import AnsweredLate, DeadlineExceeded
from flowcache.executing import Heard, Receiver
from flowcache.fair_queue import FairPlaces
from flowcache.ports import Command

if TYPE_CHECKING:
    from flowcache.calls.call import Call

__all__ = ["MOST", "MOST_WAITING", "HeavyReceiver", "is_heavy"]

MOST: Final = 4
"""Heavy commands of a worker that are at Redis at once: 6 ms of its time, as a rule."""
MOST_WAITING: Final = 64
"""Those of one client that wait. Each holds some hundred kilobytes."""
_MANY_WORDS: Final = 64
_MANY_BYTES: Final = 16 * 1024


def is_heavy(command: Command) -> bool:
    """Tell whether a command is a write of very many fields or bytes."""
    words = command.words
    return command.writes and (len(words) > _MANY_WORDS or sum(map(len, words)) > _MANY_BYTES)


class HeavyReceiver(Receiver):
    """Gives a place back when the reply to a heavy command has come, and hands the reply on.

    ``seconds`` is how long the place is kept from then on if there was no reply in time.
    """

    __slots__ = ("_call", "_places", "_seconds")

    def __init__(self, places: FairPlaces, call: Call, seconds: float) -> None:
        self._places = places
        self._call = call
        self._seconds = seconds

    def hear(self, result: Heard) -> None:
        if isinstance(result, DeadlineExceeded) and not isinstance(result, AnsweredLate):
            asyncio.get_running_loop().call_later(self._seconds, self._places.give)
        else:
            self._places.give()
        self._call.hear(result)
