"""How replies that many operations have become data."""

from __future__ import annotations

from typing import NamedTuple

from flowcache.contract.bounds import DEFAULT_BOUNDS, Bounds
from flowcache.operations.operation import Result, unexpected
from flowcache.ports import Reply

__all__ = ["Number"]

_EXACT = 2**53
"""From here on a number is no longer exact: not in a flow, which counts in doubles, nor in Lua."""


class Number(NamedTuple):
    """Reads the reply of ``operation`` as a whole number from ``low`` on."""

    operation: str
    low: int = 0

    def __call__(self, reply: Reply, _: Bounds = DEFAULT_BOUNDS, /) -> Result:
        if type(reply) is not int or not self.low <= reply < _EXACT:
            raise unexpected(self.operation)
        return Result(reply, None)
