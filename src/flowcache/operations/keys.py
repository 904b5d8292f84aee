"""Keys of any type."""

from __future__ import annotations

from flowcache.contract.request import Request
from flowcache.operations.operation import WRITES, Operation, Repeated, Sample
from flowcache.operations.parameters import Nothing
from flowcache.operations.replies import Number
from flowcache.ports import Values

__all__ = ["OPERATIONS"]


def _unlink(request: Request, _: Nothing) -> tuple[bytes, ...]:
    return b"UNLINK", request.key  # as DEL, but Redis frees a large value in the background


OPERATIONS = (
    Operation(
        name="DEL",
        summary="Remove the key, whatever its type; returns how many keys were removed.",
        permissions=WRITES,
        words=_unlink,
        uses=("UNLINK key",),
        values=Values.NONE,
        repeated=Repeated.RECORDED,
        read=Number("DEL"),
        answers=int,
        sample=Sample("customer:42", 1, {"none": 0}),
    ),
)
