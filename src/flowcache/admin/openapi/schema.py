"""JSON Schema, as far as this document needs it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["JSON", "Schema", "obj", "ref"]

Schema = dict[str, Any]

JSON = "application/json"


def ref(name: str) -> Schema:
    """Return a reference to a schema of the document."""
    return {"$ref": f"#/components/schemas/{name}"}


def obj(properties: Mapping[str, Schema], **more: Any) -> Schema:
    """Return the schema of an object that has all these properties, and maybe others."""
    return {"type": "object", "properties": dict(properties), "required": list(properties)} | more
