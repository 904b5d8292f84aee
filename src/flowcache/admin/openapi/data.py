"""The schemas of a data action: its request, its answers.

The schemas say what is really accepted, coercions included, so that a generated client and a
fuzzer come to the same verdict as `contract.request.coerce`. Two rules are beyond JSON Schema and
told in words: lengths are in bytes of UTF-8, where a schema counts characters, and a body has a
greatest size and depth.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import groupby
from operator import itemgetter
from typing import Any

import msgspec

from flowcache.admin.openapi.schema import Schema, obj, ref
from flowcache.api.data_action import DataActionSettings
from flowcache.contract import answer
from flowcache.contract.coercion import MAX_CONTEXT_BYTES, MAX_KEY_BYTES
from flowcache.contract.request import COMMON_FIELDS, MAX_DEADLINE_MS
from flowcache.errors import all_failures
from flowcache.operations.catalogue import AS_HASH, CATALOGUE
from flowcache.operations.operation import Operation
from flowcache.operations.parameters import ABSENT, numerals

__all__ = ["answer_name", "answer_types", "data_schemas", "field_name", "parameters"]


def data_schemas(settings: DataActionSettings) -> dict[str, Schema]:
    """Return the schemas of requests and answers, by name."""
    _, found = msgspec.json.schema_components(
        (answer.Answer, answer.FailedAnswer, *_all_answers()),
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
        **{answer_name(name): _answer(name) for name in CATALOGUE},
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
        **{name: {"description": about} for name, about in parameters().items()},
    }


def parameters() -> dict[str, str]:
    """Return the fields that only some operations take, and what each is to whom."""
    takes = [
        (each.name, operation.name, each.kind.about)
        for operation in CATALOGUE.values()
        for each in operation.takes
    ]
    by_name = groupby(sorted(takes, key=itemgetter(0)), key=itemgetter(0))
    return {
        field: " ".join(f"`{operation}`: {about}." for _, operation, about in group)
        + " The other operations ignore it."
        for field, group in by_name
    }


def _optional(description: str, *schemas: Schema, **more: Any) -> Schema:
    return {"description": description, "anyOf": [*schemas, ABSENT], **more}


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
        {"type": "string", "pattern": rf"^\s*\+?0*(?:{numerals(high)})(?:\.0*)?\s*$"},
    )


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
    if as_hash is None or _parameters(operation) == _parameters(as_hash):
        return [_request(name, operation, {})]
    of_a_hash = _request(name, as_hash, {"type": _words("hash")})
    of_a_hash["title"] += " of a hash"
    of_a_hash["required"].append("type")
    return [
        _request(name, operation, {"type": {"anyOf": [_words("string"), ABSENT]}}),
        of_a_hash,
    ]


def _request(name: str, operation: Operation, narrowed: Mapping[str, Schema]) -> Schema:
    """Return the schema of a request that names ``name`` and means ``operation``."""
    common = {field: ref(field_name(field)) for field in COMMON_FIELDS}
    needed = [each.name for each in operation.takes if each.is_required]
    return {
        "title": name,
        "description": operation.summary,
        "type": "object",
        "required": ["operation", "key", *needed],
        "properties": {**common, **_parameters(operation), "operation": _words(name), **narrowed},
    }


def _parameters(operation: Operation) -> dict[str, Schema]:
    """Return what the fields must be that only some operations take."""
    return {each.name: each.schema for each in operation.takes}


def field_name(field: str) -> str:
    """Return the name of a field's schema."""
    return field[0].upper() + field[1:]


def _all_answers() -> list[Any]:
    return [operation.answers for operation in CATALOGUE.values()]


def answer_types() -> dict[str, Schema]:
    """Return the schema of `data` for each operation, as it is without ``"type": "hash"``."""
    schemas, _ = msgspec.json.schema_components(
        _all_answers(), ref_template="#/components/schemas/{name}"
    )
    return dict(zip(CATALOGUE, schemas, strict=True))


def answer_name(name: str) -> str:
    """Return the name of the schema of an operation's answer."""
    return f"{name.title().replace('_', '')}Answer"


def _answer(name: str) -> Schema:
    types = answer_types()
    data, as_hash = types[name], AS_HASH.get(name)
    if as_hash is not None and {} not in (data, types[as_hash.name]):
        data = {"anyOf": [data, types[as_hash.name] | {"description": 'With `"type": "hash"`.'}]}
    return {
        "description": f"The answer to {name}. {CATALOGUE[name].summary}",
        "allOf": [
            ref("Answer"),
            obj({"data": data, "metadata": obj({"operation": {"const": name}})}),
        ],
    }
