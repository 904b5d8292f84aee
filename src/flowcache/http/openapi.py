"""The contract as a document, OpenAPI 3.1; `docs` makes a page of it.

It is made from the code: operations from the catalogue, codes from the tree of errors, answers
from the contract's structs, limits from the settings. What the code does not say for itself stands
in the tables below; a test fails on an operation, a field or a code that is missing there.

The schemas say what is really accepted, coercions included, so that a generated client and a
fuzzer come to the same verdict as `contract.request.coerce`. Two rules are beyond JSON Schema and
told in words: lengths are in bytes of UTF-8, where a schema counts characters, and a body has a
greatest size and depth.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from itertools import groupby
from typing import Any, NamedTuple

import msgspec

from flowcache.contract import answer
from flowcache.contract.coercion import MAX_CONTEXT_BYTES, MAX_KEY_BYTES
from flowcache.contract.request import MAX_DEADLINE_MS, MAX_DEPTH, Body
from flowcache.errors import (
    Failure,
    Forbidden,
    Internal,
    InvalidRequest,
    NotFound,
    RateLimited,
    TooLarge,
    Unauthorized,
    all_failures,
)
from flowcache.http.app import ROUTE
from flowcache.http.data_action import DataActionSettings
from flowcache.http.inspector.view import MAX_LIMIT, AuditFilter
from flowcache.operations.catalogue import AS_HASH, CATALOGUE
from flowcache.operations.operation import Operation
from flowcache.policy.permissions import Permission
from flowcache.ports import Access, Mode
from flowcache.status import CIRCUIT_STATES, StoreStatus
from flowcache.telemetry.exposition import CONTENT_TYPE

__all__ = ["JSON", "Schema", "document", "field_name"]

Schema = dict[str, Any]

JSON = "application/json"


# -- what the code does not say for itself --------------------------------------------------------


class _Remedy(NamedTuple):
    """What a code looks like, and what a flow should do about it."""

    error: str
    advice: str


_REMEDIES: dict[str, _Remedy] = {
    "invalid_request": _Remedy(
        "ttl: expected a whole number of seconds from 1 to 2592000, got a string 'soon'.",
        "Mend the flow: `error` names the field and what it wanted. Sent again, it fails again.",
    ),
    "unauthorized": _Remedy(
        "No credential; send the header Authorization: Bearer <token>.",
        "Send the token that the operator of the service gave you.",
    ),
    "forbidden": _Remedy(
        "This credential may not do this; it lacks data:write.",
        "Ask the operator for a credential that may. Sent again, it fails again.",
    ),
    "not_found": _Remedy(
        "There is no POST /data-action.",
        f"Correct the URL and the method: data actions go to `POST {ROUTE}`.",
    ),
    "wrong_type": _Remedy(
        "The key holds another type of value.",
        "Use the operations of the type that the key was written with, or another key.",
    ),
    "conflict": _Remedy(
        "The idempotency key was used with another body.",
        "Use one `idempotencyKey` for one write only; the first write stands.",
    ),
    "too_large": _Remedy(
        "body: over the limit of 262144 bytes.",
        "Send or store less under one key.",
    ),
    "rate_limited": _Remedy(
        "Too many calls.",
        "Wait for the seconds in `Retry-After`; go on without the cache until then.",
    ),
    "invalid_response": _Remedy(
        "What Redis answered to HGETALL does not fit its response schema.",
        "Go on without the cache, and delete or rewrite the key: another program wrote it.",
    ),
    "internal": _Remedy(
        "A bug in flowcache; its log tells more under 5f0c9a7e2b1d4c68-0000002a.",
        "Go on without the cache, and report the `requestId` to the operator.",
    ),
    "circuit_open": _Remedy(
        "Redis has not been answering for this key; it is given time to recover.",
        "Go on without the cache; calls are let through again after `Retry-After` seconds.",
    ),
    "redis_unavailable": _Remedy(
        "Redis is not to be reached.",
        "Go on without the cache. Repeat the call only where `retryable` is true: otherwise "
        "a write may have been done.",
    ),
    "deadline_exceeded": _Remedy(
        "Redis did not answer in time.",
        "Go on without the cache. A write may have been done; with an `idempotencyKey` it is "
        "safe to repeat.",
    ),
}
"""Code -> its example and its remedy."""

_QUERIES: dict[str, tuple[str, Schema]] = {
    "limit": (
        "The most audit records to show; the newest are kept.",
        {"type": "integer", "minimum": 0, "maximum": MAX_LIMIT, "default": AuditFilter().limit},
    ),
    "flow": ("Only records of this `flowId`.", {"type": "string"}),
    "interaction": ("Only records of this `interactionId`.", {"type": "string"}),
    "operation": ("Only records of this operation, in any case.", {"type": "string"}),
    "outcome": (
        "Only records of this outcome: `ok`, a code, or `failed` for any but `ok`.",
        {"type": "string"},
    ),
}
"""Parameter of ``/inspector`` -> what it does. Each is a field of `AuditFilter`."""


# -- the document ---------------------------------------------------------------------------------


def document(version: str, settings: DataActionSettings | None = None) -> dict[str, Any]:
    """Return the OpenAPI document; its limits are those of ``settings``, or else the defaults."""
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
        "paths": _paths(settings),
        "components": {
            "schemas": _schemas(settings),
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
                "when": _first_line(kind),
                "advice": _REMEDIES[kind.code].advice,
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
  beside them. The codes are closed: a method that a route does not have is answered as a route
  that does not exist, with `not_found`.
- A failure is not a cache miss: a miss is `success: true`, `data: null`, `hit: false`.
- A write that makes a key gives it a time to live in the same atomic step.
- Fields are never renamed or removed. New ones may come: ignore those you do not know.
"""


def _operations() -> list[dict[str, Any]]:
    types = _answer_types()
    return [
        {
            "name": name,
            "summary": operation.summary,
            "value": operation.value,
            "permission": operation.permission.value,
            "data": types[name],
        }
        for name, operation in CATALOGUE.items()
    ]


def _limits(settings: DataActionSettings) -> list[dict[str, Any]]:
    """Return the limits a caller can run into, in the units in which it would meet them."""
    limits = settings.limits
    rows: tuple[tuple[str, float, str], ...] = (
        ("Body", settings.max_body, "bytes"),
        ("Answer", settings.max_answer, "bytes"),
        ("Depth of arrays and objects in a body", MAX_DEPTH, "levels"),
        ("Key", MAX_KEY_BYTES, "bytes"),
        ("`flowId`, `interactionId`, `idempotencyKey`", MAX_CONTEXT_BYTES, "bytes each"),
        ("Longest time to live", limits.max_ttl, "seconds"),
        ("Time to live where none is asked for", limits.default_ttl, "seconds"),
        ("Time for a body to arrive", settings.body_timeout, "seconds"),
        ("Time for Redis to answer, from then on", round(settings.deadline * 1000), "ms"),
        ("Memory of a write with an `idempotencyKey`", settings.once_lifetime, "seconds"),
    )
    return [{"what": what, "limit": limit, "unit": unit} for what, limit, unit in rows]


def _first_line(kind: type[Failure]) -> str:
    return (kind.__doc__ or kind.__name__).partition("\n")[0]


# -- schemas --------------------------------------------------------------------------------------


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(properties: Mapping[str, Schema], **more: Any) -> Schema:
    """Return the schema of an object that has all these properties, and maybe others."""
    return {"type": "object", "properties": dict(properties), "required": list(properties)} | more


def _schemas(settings: DataActionSettings) -> dict[str, Schema]:
    _, found = msgspec.json.schema_components(
        (answer.Answer, answer.FailedAnswer, StoreStatus, *_all_answers()),
        ref_template="#/components/schemas/{name}",
    )
    # Docstrings quote code with two backticks, descriptions (CommonMark) with one.
    schemas: dict[str, Schema] = {
        name: schema | {"description": schema.get("description", "").replace("``", "`")}
        for name, schema in found.items()
    }
    _narrow(
        schemas["Metadata"],
        requestId={"description": "Unique to the call: what to name when asking for help."},
        latencyMs={"minimum": 0, "description": "Milliseconds in flowcache, Redis included."},
        operation={"description": "In upper case, as the caller named it; null if unreadable."},
        hit={"description": "Whether a read found the key; null on writes and failures."},
        stale={
            "description": "There, and true, when a replica answered a read whose primary is down "
            "or slow: what was written a moment ago may be missing."
        },
    )
    _narrow(schemas["Answer"], success={"const": True})
    _narrow(
        schemas["FailedAnswer"],
        success={"const": False},
        data={"type": "null"},
        error={"description": "A sentence for people. It may change; compare `code`."},
        code={
            "enum": [kind.code for kind in all_failures()],
            "description": "What went wrong, for programs: one of the table of codes.",
        },
        retryable={"description": "Whether the same call may succeed later and is safe to repeat."},
    )
    return {
        "Request": {
            "description": "A data action. Fields it does not name are ignored.",
            "anyOf": [request for name in CATALOGUE for request in _requests(name)],
        },
        **{field_name(name): field for name, field in _fields(settings).items()},
        "Absent": _ABSENT,
        **schemas,
        **{_answer_name(name): _answer(name) for name in CATALOGUE},
        **_inspector(),
    }


def _narrow(schema: Schema, **properties: Schema) -> None:
    """Add what the struct's types can't say."""
    for name, more in properties.items():
        schema["properties"][name] |= more


_ABSENT: Schema = {
    "description": "What a flow sends for a variable that was never set: null, an empty string, "
    "or a placeholder that was not filled in. It counts as not sent.",
    "anyOf": [{"type": "null"}, {"const": ""}, {"type": "string", "pattern": r"^\$\{[\s\S]*\}$"}],
}


def _fields(settings: DataActionSettings) -> dict[str, Schema]:
    """Return the fields of a request, each by itself."""
    limits = settings.limits
    return {
        "operation": {
            "description": f"What to do, in any case: {', '.join(f'`{n}`' for n in CATALOGUE)}.",
            "type": "string",
            "pattern": _any_case(CATALOGUE),
        },
        "key": {
            "description": f"The Redis key, 1 to {MAX_KEY_BYTES} bytes of UTF-8.",
            "type": "string",
            "minLength": 1,
            "maxLength": MAX_KEY_BYTES,
        },
        "value": {
            "description": "What to write. "
            + " ".join(f"`{op.name}`: {op.value}." for op in CATALOGUE.values() if op.value)
            + " The other operations ignore it."
        },
        "ttl": _optional(
            f'Whole seconds until a written key is gone, 1 to {limits.max_ttl}; `"60"` and '
            f"`60.0` are 60. {limits.default_ttl} if absent.",
            *_whole_numbers(limits.max_ttl),
            default=limits.default_ttl,
        ),
        "type": _optional(
            "`string` or `hash`, in any case; `string` if absent. With `hash`, "
            + " and ".join(f"`{name}` means `{as_.name}`" for name, as_ in AS_HASH.items())
            + ".",
            _words("string", "hash"),
            default="string",
        ),
        "flowId": _context("The flow that calls, for the audit."),
        "interactionId": _context("The interaction it serves, for the audit."),
        "deadlineMs": _optional(
            'Whole milliseconds this call may wait for Redis; `"200"` is 200. It lowers the '
            f"service's own limit of {round(settings.deadline * 1000)} and never raises it.",
            *_whole_numbers(MAX_DEADLINE_MS),
        ),
        "idempotencyKey": _context(
            "A repeated write with the same key answers as the first did and is not run again, "
            f"for {settings.once_lifetime:g} seconds. With another body it is a `conflict`."
        ),
    }


def _optional(description: str, *schemas: Schema, **more: Any) -> Schema:
    return {"description": description, "anyOf": [*schemas, _ref("Absent")], **more}


def _context(description: str) -> Schema:
    return _optional(
        f"{description} A string or a number, at most {MAX_CONTEXT_BYTES} bytes.",
        {"type": "string", "maxLength": MAX_CONTEXT_BYTES},
        {"type": "number"},
    )


def _whole_numbers(high: int) -> tuple[Schema, Schema]:
    """Return what `coercion.integer` takes for 1 to ``high``: a number, or a text of one."""
    return (
        {"type": "integer", "minimum": 1, "maximum": high},
        {"type": "string", "pattern": rf"^\s*\+?0*(?:{_numerals(high)})(?:\.0*)?\s*$"},
    )


def _numerals(high: int) -> str:
    """Return a regular expression of the numerals 1 to ``high``, without leading zeros.

    A shorter numeral is smaller; one as long is, at the first digit where it differs.
    """
    digits = str(high)
    rest = len(digits) - 1
    found = [f"[1-9][0-9]{{0,{rest - 1}}}"] if rest else []
    for place, digit in enumerate(digits):
        low = 0 if place else 1
        if int(digit) > low:
            lower = f"[{low}-{int(digit) - 1}]"
            found.append(f"{digits[:place]}{lower}[0-9]{{{rest - place}}}")
    return "|".join([*found, digits])


def _any_case(words: Iterable[str]) -> str:
    return "^(?:" + "|".join("".join(map(_letter, word)) for word in words) + ")$"


def _letter(letter: str) -> str:
    upper, lower = letter.upper(), letter.lower()
    return f"[{upper}{lower}]" if upper != lower else re.escape(letter)


def _words(*words: str) -> Schema:
    return {"type": "string", "pattern": _any_case(words)}


def _requests(name: str) -> list[Schema]:
    """Return what a request of one operation looks like: one way, or two where `type` tells."""
    operation, as_hash = CATALOGUE[name], AS_HASH.get(name)
    if as_hash is None or _value_schema(operation) == _value_schema(as_hash):
        return [_request(name, operation, {})]
    of_a_hash = _request(name, as_hash, {"type": _words("hash")})
    of_a_hash["title"] += " of a hash"
    of_a_hash["required"].append("type")
    return [
        _request(name, operation, {"type": {"anyOf": [_words("string"), _ref("Absent")]}}),
        of_a_hash,
    ]


def _request(name: str, operation: Operation, narrowed: Mapping[str, Schema]) -> Schema:
    """Return the schema of a request that names ``name`` and means ``operation``."""
    properties = {field: _ref(field_name(field)) for field in Body.__struct_fields__}
    required = ["operation", "key"]
    value = _value_schema(operation)
    if value is not None:
        properties["value"] = value
        if not operation.value_optional:
            required.append("value")
    return {
        "title": name,
        "description": operation.summary,
        "type": "object",
        "required": required,
        "properties": {**properties, "operation": _words(name), **narrowed},
    }


def _value_schema(operation: Operation) -> Schema | None:
    """Return what the operation's `value` must be; None where it is ignored."""
    return None if operation.value is None else dict(operation.value_schema or {})


def field_name(field: str) -> str:
    """Return the name of a field's schema."""
    return field[0].upper() + field[1:]


def _all_answers() -> list[Any]:
    return [operation.answers for operation in CATALOGUE.values()]


def _answer_types() -> dict[str, Schema]:
    """Return the schema of `data` for each operation, as it is without ``"type": "hash"``."""
    schemas, _ = msgspec.json.schema_components(
        _all_answers(), ref_template="#/components/schemas/{name}"
    )
    return dict(zip(CATALOGUE, schemas, strict=True))


def _answer_name(name: str) -> str:
    return f"{name.title().replace('_', '')}Answer"


def _answer(name: str) -> Schema:
    types = _answer_types()
    data, as_hash = types[name], AS_HASH.get(name)
    if as_hash is not None and {} not in (data, types[as_hash.name]):
        data = {"anyOf": [data, types[as_hash.name] | {"description": 'With `"type": "hash"`.'}]}
    return {
        "description": f"The answer to {name}. {CATALOGUE[name].summary}",
        "allOf": [
            _ref("Answer"),
            _object({"data": data, "metadata": _object({"operation": {"const": name}})}),
        ],
    }


def _inspector() -> dict[str, Schema]:
    """Return the schema of what `inspector.view` makes."""
    text: Schema = {"type": "string"}
    whole: Schema = {"type": "integer", "minimum": 0}
    number: Schema = {"type": "number", "minimum": 0}
    maybe_text: Schema = {"type": ["string", "null"]}
    state: Schema = {"enum": list(CIRCUIT_STATES)}
    percentile: Schema = {"type": ["number", "null"], "description": "Null without calls."}
    metrics = {
        "totalRequests": whole,
        "cacheHits": whole,
        "cacheMisses": whole,
        "totalLatency": number | {"description": "Milliseconds of all calls together."},
        "hitRatio": number | {"maximum": 1, "description": "Hits of all lookups, 0 to 1."},
        "avgLatencyMs": number,
        "errors": {
            "type": "object",
            "additionalProperties": whole,
            "description": "Calls that failed, by `code`; `client_gone`: the caller hung up.",
        },
        "latency": _object(dict.fromkeys(("p50Ms", "p95Ms", "p99Ms"), percentile)),
    }
    operations: Schema = {"type": "object", "additionalProperties": _ref("CallMetrics")}
    entry: dict[str, Schema] = {
        "timestamp": text | {"format": "date-time"},
        "requestId": text,
        "client": maybe_text,
        "flowId": maybe_text,
        "interactionId": maybe_text,
        "operation": maybe_text,
        "key": maybe_text,
        "outcome": text
        | {
            "description": "`ok`, a failure's code, `cancelled`; `intended` for "
            "a write whose outcome was not recorded."
        },
        "success": {"type": "boolean"},
        "hit": {"type": ["boolean", "null"]},
        "hitRatio": {"type": "boolean", "description": "Whether it was a hit."},
        "latencyMs": number,
        "address": maybe_text | {"description": "Where the caller spoke from."},
        "shard": maybe_text | {"description": "The shard that the command was sent to."},
        "stale": {"type": "boolean", "description": "Whether a replica answered instead."},
    }
    rate: Schema = {"type": ["number", "null"], "minimum": 0, "maximum": 1}
    circuit = {
        "worker": whole,
        "shard": text,
        "access": {"enum": list(Access)},
        "mode": {"enum": list(Mode)},
        "state": state,
        "consecutiveFailures": whole,
        "calls": whole | {"description": "What the two rates are taken of."},
        "failureRate": rate | {"description": "Null without calls."},
        "slowRate": rate | {"description": "Null without calls."},
        "retryAfterSeconds": number,
        "reopened": whole | {"description": "How often, since it was last closed."},
        "refused": whole,
        "wouldRefuse": whole | {"description": "Calls that mode `observe` let through."},
        "transitions": whole,
    }
    worker = {
        "pid": whole,
        "startedAt": text | {"format": "date-time"},
        "inFlight": whole,
        "auditRecords": whole,
    }
    journal = {
        "worker": whole,
        "writer": text | {"description": "Its name in the journal."},
        "path": text,
        "mode": {"enum": ["relaxed", "strict"]},
        "fault": maybe_text,
        "queued": whole,
        "written": whole,
        "lost": whole,
    }
    return {
        "CallMetrics": _object(metrics, description="What came of calls since the workers began."),
        "AuditEntry": _object(
            entry, description="Who touched which key in which interaction, and what came of it."
        ),
        "Circuit": _object(circuit, description="A shard's circuit for one kind of access."),
        "CircuitOrder": {
            "type": "object",
            "description": "For circuits of all workers, those to come included, until another "
            "order covers it or the service ends.",
            "properties": {
                "mode": {
                    "enum": list(Mode),
                    "description": "Who decides: the circuit (`auto`), or you: nothing is let "
                    "through (`forced-open`), everything is (`disabled`), or the circuit judges "
                    "and refuses nobody (`observe`).",
                },
                "shard": maybe_text | {"description": "The name of a shard; without one, all."},
                "access": {
                    "enum": [*Access, None],
                    "description": "The kind of access; without one, all.",
                },
            },
            "required": ["mode"],
            "additionalProperties": False,
            "examples": [{"mode": "forced-open", "shard": "127.0.0.1:7000", "access": "read"}],
        },
        "CircuitsSwitched": _object(
            {
                "mode": {"enum": list(Mode)},
                "shard": maybe_text,
                "access": {"enum": [*Access, None]},
                "circuits": whole | {"description": "How many there were to switch."},
                "workers": whole | {"description": "How many have followed."},
                "silent": whole | {"description": "How many did not answer; they follow later."},
            },
            description="What became of an order.",
        ),
        "Circuits": _object(
            {
                "configured": {"enum": list(Mode), "description": "`breaker.mode`."},
                "wishes": {
                    "type": "array",
                    "items": _object(
                        {
                            "mode": {"enum": list(Mode)},
                            "shard": maybe_text,
                            "access": {"enum": [*Access, None]},
                            "by": text | {"description": "Whose credential it was."},
                            "at": text | {"format": "date-time"},
                        }
                    ),
                    "description": "Orders in force; of two for one circuit the later counts.",
                },
                "circuits": {"type": "array", "items": _ref("Circuit")},
            },
            description="The circuits of all workers, and what was asked of them.",
        ),
        "Inspector": _object(
            {
                "metrics": {
                    "allOf": [_ref("CallMetrics"), _object({"operations": operations})],
                    "description": "Of all calls, and by operation.",
                },
                "auditLogs": {
                    "type": "array",
                    "items": _ref("AuditEntry"),
                    "description": "Newest last.",
                },
                "circuitState": state | {"description": "The worst of all circuits."},
                "redisClusterStatus": text | {"description": "`ready`, or the first that is not."},
                "circuits": {"type": "array", "items": _ref("Circuit")},
                "secondChances": _object(
                    dict.fromkeys(
                        (
                            "hedges",
                            "hedgesRefused",
                            "rescues",
                            "answeredElsewhere",
                            "retries",
                            "retriesRefused",
                        ),
                        whole,
                    ),
                    description="Calls that were sent again, or to a second server.",
                ),
                "journal": {
                    "type": "array",
                    "items": _object(journal),
                    "description": "How each worker's writing to the audit journal does; empty "
                    "without one.",
                },
                "redis": {
                    "type": "array",
                    "items": {"allOf": [_object({"worker": whole}), _ref("StoreStatus")]},
                },
                "workers": {"type": "array", "items": _object(worker)},
                "configuration": {"type": "object", "description": "Secrets are masked."},
                "version": text,
            },
            description="What the service knows of itself.",
        ),
    }


# -- routes ---------------------------------------------------------------------------------------


def _paths(settings: DataActionSettings) -> dict[str, Any]:
    status = _object({"status": {"const": "ok"}})
    ready = _object({"status": {"const": "ready"}})
    away = _object({"status": {"const": "unavailable"}, "error": {"type": "string"}})
    return {
        ROUTE: {"post": _data_action(settings)},
        "/healthz": {"get": _get("operation", "Tell whether the process is alive", _json(status))},
        "/readyz": {
            "get": _get(
                "operation",
                "Tell whether Redis answers",
                _json(ready),
                more={"503": {"description": "Redis does not answer.", "content": _json(away)}},
            )
        },
        "/metrics": {
            "get": _get(
                "operation",
                "Return the metrics of all workers, for Prometheus",
                {CONTENT_TYPE: {"schema": {"type": "string"}}},
            )
        },
        "/inspector": {"get": _inspect()},
        "/inspector/circuits": {"get": _list_circuits(), "post": _switch_circuits()},
        "/openapi.json": {
            "get": _get("documentation", "Return this document", _json({"type": "object"}))
        },
        "/docs": {
            "get": _get(
                "documentation",
                "Show this document as a page",
                {"text/html": {"schema": {"type": "string"}}},
            )
        },
    }


def _json(schema: Schema) -> dict[str, Any]:
    return {JSON: {"schema": schema}}


def _get(
    tag: str, summary: str, content: dict[str, Any], more: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Describe a page that is open to anybody."""
    return {
        "tags": [tag],
        "summary": summary,
        "security": [],
        "responses": {"200": {"description": "As asked for.", "content": content}}
        | (more or {})
        | _failures([Internal]),
    }


def _inspect() -> dict[str, Any]:
    return {
        "tags": ["operation"],
        "summary": "Show metrics, the newest audit records, circuits and Redis",
        "description": "Unknown parameters are refused.",
        "operationId": "inspect",
        "security": [{"inspector": [Permission.INSPECT_READ.value]}],
        "parameters": [
            {"name": name, "in": "query", "description": description, "schema": schema}
            for name, (description, schema) in _QUERIES.items()
        ],
        "responses": {
            "200": {"description": "As asked for.", "content": _json(_ref("Inspector"))},
            **_failures([InvalidRequest, Unauthorized, Forbidden, RateLimited, Internal]),
        },
    }


def _list_circuits() -> dict[str, Any]:
    return {
        "tags": ["operation"],
        "summary": "Show the circuits of all workers and the orders in force",
        "operationId": "listCircuits",
        "security": [{"inspector": [Permission.INSPECT_READ.value]}],
        "responses": {
            "200": {"description": "As asked for.", "content": _json(_ref("Circuits"))},
            **_failures([Unauthorized, Forbidden, RateLimited, Internal]),
        },
    }


def _switch_circuits() -> dict[str, Any]:
    return {
        "tags": ["operation"],
        "summary": "Switch the mode of circuits",
        "description": "Unknown fields are refused. It may be repeated: a circuit that is in the "
        "mode already goes on as it is.",
        "operationId": "switchCircuits",
        "security": [{"control": [Permission.CIRCUITS_WRITE.value]}],
        "requestBody": {"required": True, "content": _json(_ref("CircuitOrder"))},
        "responses": {
            "200": {"description": "Done.", "content": _json(_ref("CircuitsSwitched"))},
            **_failures([InvalidRequest, Unauthorized, Forbidden, TooLarge, RateLimited, Internal]),
        },
    }


def _data_action(settings: DataActionSettings) -> dict[str, Any]:
    bodies = _request_examples()
    answers = {"anyOf": [_ref(_answer_name(name)) for name in CATALOGUE]}
    return {
        "tags": ["data"],
        "summary": "Run one operation on one key",
        "description": "The body is read as JSON in UTF-8 whatever its `Content-Type` says. "
        f"It has at most {settings.max_body} bytes and {MAX_DEPTH} levels; of a field that comes "
        "twice the last counts.",
        "operationId": "runDataAction",
        "security": [{"flow": []}, {"flowBasic": []}, {"flowKey": []}],
        "requestBody": {
            "required": True,
            "content": {JSON: {"schema": _ref("Request"), "examples": bodies}},
        },
        "responses": {
            "200": {
                "description": "Done. A miss is no failure: `data` is null and `hit` false.",
                "content": {JSON: {"schema": answers, "examples": _answer_examples()}},
            },
            **_failures(kind for kind in all_failures() if kind is not NotFound),
        },
    }


def _failures(kinds: Iterable[type[Failure]]) -> dict[str, Any]:
    """Return the responses of these failures, by status."""
    by_status = groupby(sorted(kinds, key=_status), key=_status)
    return {str(status): _failed(status, list(group)) for status, group in by_status}


def _status(kind: type[Failure]) -> int:
    return kind.status


def _failed(status: int, kinds: list[type[Failure]]) -> dict[str, Any]:
    schema = {"allOf": [_ref("FailedAnswer"), _object({"code": {"enum": [k.code for k in kinds]}})]}
    response: dict[str, Any] = {
        "description": " ".join(f"`{kind.code}`: {_first_line(kind)}" for kind in kinds),
        "content": {
            JSON: {
                "schema": schema,
                "examples": {kind.code: {"value": _failure_example(kind)} for kind in kinds},
            }
        },
    }
    if status == HTTPStatus.UNAUTHORIZED:
        response["headers"] = {
            "WWW-Authenticate": {"required": True, "schema": {"const": "Bearer"}}
        }
    elif any(kind.default_retryable for kind in kinds):
        response["headers"] = {
            "Retry-After": {
                "description": "Whole seconds after which to try again, where that is known.",
                "schema": {"type": "integer", "minimum": 1},
            }
        }
    return response


# -- examples -------------------------------------------------------------------------------------

_REQUEST_ID = "5f0c9a7e2b1d4c68-0000002a"


def _request_example(name: str) -> dict[str, Any]:
    operation = CATALOGUE[name]
    body: dict[str, Any] = {"operation": name, "key": CATALOGUE[name].sample.key}
    if operation.value is not None:
        body |= {"value": operation.example, "ttl": 600}
    return body


def _request_examples() -> dict[str, Any]:
    examples = {
        name: {"summary": operation.summary, "value": _request_example(name)}
        for name, operation in CATALOGUE.items()
    }
    examples["untyped"] = {
        "summary": "What an untyped flow sends: numbers as text, variables that were never set.",
        "value": _request_example("SET")
        | {"operation": "set", "ttl": "600", "flowId": 17, "interactionId": "${input.contact}"},
    }
    return examples


def _answer_examples() -> dict[str, Any]:
    """Return examples of answers, read from sample replies by the operations themselves."""
    examples: dict[str, Any] = {}
    for name, operation in CATALOGUE.items():
        sample = CATALOGUE[name].sample
        replies = {name: sample.reply} | {f"{name}_{k}": v for k, v in sample.others.items()}
        for label, reply in replies.items():
            data, hit = operation.read(reply)
            told = answer.succeeded(data, _REQUEST_ID, 0.42, name, hit)
            examples[label] = {"value": _plain(told)}
    return examples


def _failure_example(kind: type[Failure]) -> Any:
    failure = kind(_REMEDIES[kind.code].error)
    return _plain(answer.failed(failure, _REQUEST_ID, 0.42, None))


def _plain(told: answer.Answer | answer.FailedAnswer) -> Any:
    return msgspec.to_builtins(told)
