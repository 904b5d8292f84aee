"""The contract as a document, OpenAPI 3.1; `admin.docs` makes a page of it.

It is made from the code: operations from the catalogue, codes from the tree of errors, answers
from the contract's structs, limits from the settings. What the code does not say for itself is in
`remedies`; a test fails on an operation, a field or a code that is missing there.
"""

from __future__ import annotations

from typing import Any

from flowcache.admin.openapi.data import answer_types, data_schemas, field_name
from flowcache.admin.openapi.inspector import inspector_schemas
from flowcache.admin.openapi.paths import paths
from flowcache.admin.openapi.remedies import REMEDIES, first_line
from flowcache.admin.openapi.schema import JSON, Schema
from flowcache.api.app import ROUTE
from flowcache.api.data_action import DataActionSettings
from flowcache.authz.permissions import Permission
from flowcache.contract.coercion import MAX_CONTEXT_BYTES, MAX_KEY_BYTES
from flowcache.errors import all_failures
from flowcache.operations.catalogue import CATALOGUE

__all__ = ["JSON", "Schema", "document", "field_name"]


def document(
    version: str, settings: DataActionSettings | None = None, need_credential: bool = False
) -> dict[str, Any]:
    """Return the OpenAPI document; its limits are those of ``settings``, or else the defaults.

    ``need_credential`` is whether metrics and documentation are for whoever may inspect.
    """
    settings = settings or DataActionSettings()
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "flowcache",
            "version": version,
            "summary": "Redis data actions for contact-centre flows",
            "description": _ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/", "description": "This service"}],
        "tags": [
            {"name": "data", "description": "What flows call."},
            {"name": "operation", "description": "For those who run the service."},
            {"name": "documentation", "description": "The contract, for programs and people."},
        ],
        "paths": paths(settings, need_credential),
        "components": {
            "schemas": data_schemas(settings) | inspector_schemas(),
            "securitySchemes": {
                "flow": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A token that may run data operations: "
                    f"`{Permission.DATA_READ}` to read, `{Permission.DATA_WRITE}` to write.",
                },
                "flowBasic": {
                    "type": "http",
                    "scheme": "basic",
                    "description": "The same token as password, with the client's name as user.",
                },
                "flowKey": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "X-API-Key",
                    "description": "The same token by itself. Of two credentials neither counts.",
                },
                "flowCertificate": {
                    "type": "mutualTLS",
                    "description": "A certificate of a client, where it is asked for.",
                },
                "inspector": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": f"A token with `{Permission.INSPECT_READ}`; a flow's has not.",
                },
                "control": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": f"A token with `{Permission.CIRCUITS_WRITE}`: an operator's.",
                },
            },
        },
        "x-operations": _operations(),
        "x-codes": [
            {
                "code": kind.code,
                "status": kind.status,
                "when": first_line(kind),
                "advice": REMEDIES[kind.code].advice,
                "retryable": kind.default_retryable,
            }
            for kind in all_failures()
        ],
        "x-limits": _limits(settings),
    }


_ABOUT = f"""\
A flow posts a small JSON body to `{ROUTE}`; flowcache runs the Redis operation it names, within a
deadline, and answers with one JSON object on one line.

- Every answer has `success`, `data` and `metadata`; a failure has `error`, `code` and `retryable`
  as well. There are no other codes than those listed here.
- A failure is not a cache miss: a miss is `success: true`, `data: null`, `hit: false`.
- A write that makes a key gives it a time to live in the same atomic step.
- Fields are never renamed or removed. New ones may come: ignore those you do not know.
"""


def _operations() -> list[dict[str, Any]]:
    types = answer_types()
    return [
        {
            "name": name,
            "summary": operation.summary,
            "takes": {each.name: each.kind.about for each in operation.takes},
            "permissions": sorted(operation.permissions),
            "data": types[name],
        }
        for name, operation in CATALOGUE.items()
    ]


def _limits(settings: DataActionSettings) -> list[dict[str, Any]]:
    """Return the limits a caller can run into, in the units in which it would meet them."""
    limits = settings.limits
    rows: tuple[tuple[str, float, str], ...] = (
        ("Body", settings.max_body, "bytes"),
        ("A value that is read, as stored", settings.sizes.reply, "bytes"),
        ("Array items and object members", settings.bounds.max_elements, "elements"),
        ("Depth of arrays and objects in a body", settings.bounds.max_depth, "levels"),
        ("Key", MAX_KEY_BYTES, "bytes"),
        ("What a key holds after a write, as stored", settings.sizes.value, "bytes"),
        ("Fields of a hash after a write", settings.sizes.fields, "fields"),
        ("`flowId`, `interactionId`, `idempotencyKey`", MAX_CONTEXT_BYTES, "bytes each"),
        ("Longest time to live", limits.max_ttl, "seconds"),
        ("Time to live where none is asked for", limits.default_ttl, "seconds"),
        ("Time for a body to arrive", settings.body_timeout, "seconds"),
        ("Time for Redis to answer, from then on", round(settings.deadline * 1000), "ms"),
        ("Memory of a write with an `idempotencyKey`", settings.once_lifetime, "seconds"),
    )
    return [{"what": what, "limit": limit, "unit": unit} for what, limit, unit in rows]
