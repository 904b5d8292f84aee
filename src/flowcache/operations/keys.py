"""Keys of any type: DEL."""

from __future__ import annotations

from flowcache.authz.permissions import Permission
from flowcache.contract.bounds import DEFAULT_BOUNDS, Bounds
from flowcache.contract.request import Request
from flowcache.operations.operation import Operation, Result, Sample, unexpected
from flowcache.ports import Command, Reply, SizeLimits

__all__ = ["DEL"]


def _del(request: Request, sizes: SizeLimits) -> Command:
    return Command((b"DEL", request.key), writes=True, sizes=sizes)


def _read_del(reply: Reply, _: Bounds = DEFAULT_BOUNDS) -> Result:
    if type(reply) is not int or reply < 0:
        raise unexpected("DEL")
    return Result(reply, None)


DEL = Operation(
    name="DEL",
    summary="Remove the key, whatever its type; returns how many keys were removed.",
    permission=Permission.DATA_WRITE,
    command=_del,
    read=_read_del,
    answers=int,
    sample=Sample("customer:42", 1, {"none": 0}),
)
