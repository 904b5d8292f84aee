"""The schemas of what operators see: ``/inspector`` and ``/inspector/circuits``."""

from __future__ import annotations

import msgspec

from flowcache.admin.inspector.answers import CONFIGURED, Circuits, CircuitsSwitched, Inspector
from flowcache.admin.openapi.schema import Schema
from flowcache.ports import Access, Mode

__all__ = ["inspector_schemas"]


def inspector_schemas() -> dict[str, Schema]:
    """Return the schemas of all that is answered there, and of what is asked."""
    _, schemas = msgspec.json.schema_components(
        (Inspector, Circuits, CircuitsSwitched), ref_template="#/components/schemas/{name}"
    )
    return {**schemas, "CircuitOrder": _ORDER}


_ORDER: Schema = {
    "type": "object",
    "description": "For circuits of all workers, those to come included, until another order "
    "covers it or the service ends.",
    "properties": {
        "mode": {
            "enum": [*Mode, CONFIGURED],
            "description": "Who decides: the circuit (`auto`), or you: nothing is let through "
            "(`forced-open`), everything is (`disabled`), or the circuit judges and refuses nobody "
            "(`observe`). `configured` removes the override.",
        },
        "shard": {
            "type": ["string", "null"],
            "description": "The name of a shard; without one, all.",
        },
        "access": {
            "enum": [*Access, None],
            "description": "The kind of access; without one, all.",
        },
    },
    "required": ["mode"],
    "additionalProperties": False,
    "examples": [{"mode": "forced-open", "shard": "127.0.0.1:7000", "access": "read"}],
}
