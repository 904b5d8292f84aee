"""What comes of a batch of keys to remove: counted as Redis says, whatever became of the others."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from flowcache.authz.keys import KeyPattern
from flowcache.errors import Forbidden, RedisUnavailable, Unconfirmed
from flowcache.ports import Command, Done, Reply
from flowcache.store.erasing import Erasure
from flowcache.store.redis_store import RedisStore
from flowcache.store.settings import StoreSettings


class Answering:
    """A store that answers as it is told, by key."""

    def __init__(self, **replies: Reply | Exception) -> None:
        self.replies = replies

    async def execute(self, command: Command, deadline: float) -> Done:
        reply = self.replies[command.key.decode()]
        if isinstance(reply, Exception):
            raise reply
        return Done(reply, "shard")


def removed(erasure: Erasure, **replies: Reply | Exception) -> tuple[int, list[bytes]]:
    """Return how many keys of a batch there were, and which are said to be removed."""
    erasure._store = cast(RedisStore, Answering(**replies))
    shown: list[bytes] = []
    keys = [key.encode() for key in replies]
    return asyncio.run(erasure._remove(keys, shown.append)), shown


@pytest.fixture
def erasure() -> Erasure:
    return Erasure(StoreSettings(), b"", KeyPattern(b"", True), lambda: 0.0)


def test_what_was_gone_already_is_not_removed(erasure: Erasure) -> None:
    """A key that expired meanwhile, or that SCAN named twice, is neither shown nor counted."""
    assert removed(erasure, a=1, b=0, c=1) == (2, [b"a", b"c"])
    assert erasure.removed == 2


def test_what_replicas_did_not_confirm_is_not_forgotten(erasure: Erasure) -> None:
    """There was a key, so that another pass follows; whatever is confirmed later, this was not."""
    assert removed(erasure, a=1, b=Unconfirmed("late")) == (2, [b"a"])
    assert removed(erasure, c=1) == (1, [b"c"])
    assert (erasure.removed, erasure._is_confirmed) == (2, False)


def test_what_can_not_be_tried_again_is_told_first(erasure: Erasure) -> None:
    """One primary that is away hides no refusal by another; what was removed is counted."""
    with pytest.raises(Forbidden):
        removed(erasure, a=1, b=RedisUnavailable("away"), c=Forbidden("no"))
    assert erasure.removed == 1
