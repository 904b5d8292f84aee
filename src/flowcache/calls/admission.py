"""Admission: whether this worker has room for one more call of this client.

The rule: half of ``max_in_flight`` is kept for the clients, one place for each and the rest by
their weight, and the other half is for whoever asks first; so a client that has fewer calls at work
than places are kept for it is never refused for want of room, whatever the others do. (Half of a
small ``max_in_flight`` may be less than one place for each; then nothing is kept.)

While the event loop lags, a share of the calls is refused, of those clients only that have more
calls at work than the clients have on average: whoever asks for little did not make the lag.

To decide takes no look at the others: a call takes a place that is kept for its client, or else one
of those for all. What else may refuse a call before anything is spent on it belongs into `enter`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf
from sys import maxsize

from flowcache.authz.principal import Principal
from flowcache.calls.standing_lag import StandingLag
from flowcache.errors import Overloaded, RateLimited

__all__ = ["Admission", "Share"]


class Share:
    """The places of one client: ``kept`` are its own, ``most`` is how many it may have at all."""

    __slots__ = ("at_work", "kept", "most")

    def __init__(self, kept: int, most: int) -> None:
        self.kept = kept
        self.most = most
        self.at_work = 0


class Admission:
    """Count the calls at work, of each client and in all; refuse those there is no room for.

    ``principals`` are those that may make data actions; for others, whose calls are refused
    later, no place is kept.
    ``lag`` tells when calls are to be refused because the event loop is too slow.
    """

    __slots__ = ("_busy", "_free", "_lag", "_shares", "at_work", "refusals")

    def __init__(
        self,
        max_in_flight: int,
        principals: Iterable[Principal] = (),
        lag: StandingLag | None = None,
    ) -> None:
        self._lag = lag or StandingLag(inf)
        clients = list(principals)
        kept = _kept(max_in_flight, clients)
        self._free = max_in_flight - sum(kept)
        """Places that are nobody's own, and are not taken."""
        self._shares = {
            client.name: Share(own, client.max_in_flight or maxsize)
            for client, own in zip(clients, kept, strict=True)
        }
        self._busy = 0
        """How many clients have calls at work."""
        self.at_work = 0
        """Calls that were let in and have no reply yet."""
        self.refusals = 0
        """Calls that were answered with `Overloaded`, whatever there was no room for."""

    def enter(self, client: str) -> Share:
        """Take a place for a call of ``client``; give it back with `leave`, whatever happens.

        Raises:
            RateLimited: the client has as many calls at work as it may have.
            Overloaded: its own places are taken, and so are those for all; or the event loop lags.
        """
        share = self._shares.get(client) or self._stranger(client)
        at_work = share.at_work
        if (
            self._lag.share
            and at_work
            and (at_work * self._busy > self.at_work or self._busy == 1)
            and self._lag.refuses()
        ):
            raise Overloaded("flowcache is too busy to answer in time; this call was not begun.")
        if at_work >= share.most:
            raise RateLimited(f"This client has too many calls at work; the limit is {share.most}.")
        if at_work >= share.kept:
            if not self._free:
                raise Overloaded("flowcache has too many calls at work; this call was not begun.")
            self._free -= 1
        if not at_work:
            self._busy += 1
        share.at_work = at_work + 1
        self.at_work += 1
        return share

    def leave(self, share: Share) -> None:
        """Give a place back: one for all if the client has more than its own."""
        self.at_work -= 1
        at_work = share.at_work = share.at_work - 1
        if not at_work:
            self._busy -= 1
        if at_work >= share.kept:
            self._free += 1

    def _stranger(self, client: str) -> Share:
        share = self._shares[client] = Share(0, maxsize)
        return share


def _kept(max_in_flight: int, clients: Sequence[Principal]) -> list[int]:
    """Return how many places are kept for each client: half of all of them, at most."""
    half, weights = max_in_flight // 2, sum(client.weight for client in clients)
    if half < len(clients):
        return [0] * len(clients)
    parts = [1 + (half - len(clients)) * client.weight // weights for client in clients]
    return [
        min(part, client.max_in_flight or part) for part, client in zip(parts, clients, strict=True)
    ]
