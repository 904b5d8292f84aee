"""An HTTP endpoint: a batch is a POST, and any 2xx says that it was taken.

``Idempotency-Key`` is the same for a batch that is sent again, ``WRITER:FIRST-LAST``. After a crash
the same records may come in batches that are cut otherwise: what always holds is that a record is
known by its writer and number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from flowcache.delivery.batch import Batch
from flowcache.delivery.settings import Endpoint, Shape
from flowcache.outbound.client import Outbound
from flowcache.outbound.judging import Answer, NotNow, judge
from flowcache.secret import Secret

__all__ = ["EndpointDestination", "Fixed", "Target"]

_TYPES = {Shape.JSONL: "application/x-ndjson", Shape.JSON: "application/json"}


class Target(Protocol):
    """Where batches are posted, and with which token."""

    async def url(self) -> str:
        """Return where to post.

        Raises:
            NotNow, Refused: it can't be found out.
        """

    async def token(self) -> Secret | None:
        """Return the token to show, None where none is wanted.

        Raises:
            NotNow, Refused: there is none to be had.
        """

    def renews(self, token: Secret) -> bool:
        """Take back a token that was answered with 401; tell whether there will be another."""


class Fixed:
    """What the configuration says, for ever. A `Target`."""

    def __init__(self, settings: Endpoint) -> None:
        self._settings = settings

    async def url(self) -> str:
        """Return the URL."""
        return self._settings.url

    async def token(self) -> Secret | None:
        """Return the token."""
        return self._settings.token

    def renews(self, _: Secret) -> bool:
        """Say that there is no other."""
        return False


class EndpointDestination:
    """Post batches to ``target`` over ``outbound``, which this closes. ``now`` is Unix time."""

    def __init__(
        self, target: Target, outbound: Outbound, shape: Shape, now: Callable[[], float]
    ) -> None:
        self._target = target
        self._outbound = outbound
        self._shape = shape
        self._now = now

    async def send(self, batch: Batch) -> None:
        """Post a batch; see `Destination.send`. A 401 is answered once with a new token."""
        url, token = await self._target.url(), await self._target.token()
        answer = await self._post(url, token, batch)
        if answer.status == 401 and token is not None and self._target.renews(token):
            answer = await self._post(url, token := await self._target.token(), batch)
            if answer.status == 401:
                raise NotNow("the endpoint answered 401, to a new token as well")
        judge(answer, "the endpoint", self._now)

    async def close(self) -> None:
        """Close the connections."""
        await self._outbound.close()

    async def _post(self, url: str, token: Secret | None, batch: Batch) -> Answer:
        headers = {"content-type": _TYPES[self._shape], "idempotency-key": batch.key}
        if token is not None:
            headers["authorization"] = f"Bearer {token.reveal()}"
        content = batch.jsonl if self._shape is Shape.JSONL else batch.json
        return await self._outbound.post(url, content, headers)
