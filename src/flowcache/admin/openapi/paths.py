"""The routes: what each takes, and what it answers."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from itertools import groupby
from typing import Any

from flowcache.admin.inspector.view import MAX_LIMIT, AuditFilter
from flowcache.admin.openapi.data import answer_name
from flowcache.admin.openapi.examples import answer_examples, failure_example, request_examples
from flowcache.admin.openapi.remedies import first_line
from flowcache.admin.openapi.schema import JSON, Schema, obj, ref
from flowcache.api.app import ROUTE
from flowcache.api.data_action import DataActionSettings
from flowcache.authz.permissions import Permission
from flowcache.errors import (
    Failure,
    Forbidden,
    Internal,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    Overloaded,
    RateLimited,
    TooLarge,
    Unauthorized,
    Unrecorded,
    all_failures,
)
from flowcache.metrics.exposition import CONTENT_TYPE
from flowcache.operations.catalogue import CATALOGUE

__all__ = ["paths"]

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

_INSPECTOR = {"inspector": [Permission.INSPECT_READ.value]}

_REFUSALS: list[type[Failure]] = [Unauthorized, Forbidden, RateLimited, Overloaded]
"""Failures of a page that takes a credential."""

_MISROUTED = {NotFound, MethodNotAllowed}
"""Failures that a request with this path and method can't get."""


def paths(settings: DataActionSettings, need_credential: bool) -> dict[str, Any]:
    """Return what is served, by route and method."""
    status = obj({"status": {"const": "ok"}})
    ready = obj({"status": {"const": "ready"}})
    away = obj({"status": {"const": "unavailable"}, "error": {"type": "string"}})
    return {
        ROUTE: {"post": _data_action(settings)},
        "/healthz": {"get": _get("operation", "Tell whether the process is alive", _json(status))},
        "/readyz": {
            "get": _get(
                "operation",
                "Tell whether calls can be served",
                _json(ready),
                more={
                    "503": {
                        "description": "Redis does not answer or refuses flowcache, or a record "
                        "that has to be kept can't be written; the error says which.",
                        "content": _json(away),
                    }
                },
            )
        },
        "/metrics": {
            "get": _get(
                "operation",
                "Return the metrics of all workers, for Prometheus",
                {CONTENT_TYPE: {"schema": {"type": "string"}}},
                need_credential=need_credential,
            )
        },
        "/inspector": {"get": _inspect()},
        "/inspector/circuits": {"get": _list_circuits(), "post": _switch_circuits()},
        "/openapi.json": {
            "get": _get(
                "documentation",
                "Return this document",
                _json({"type": "object"}),
                need_credential=need_credential,
            )
        },
        "/docs": {
            "get": _get(
                "documentation",
                "Show this document as a page",
                {"text/html": {"schema": {"type": "string"}}},
                need_credential=need_credential,
            )
        },
    }


def _json(schema: Schema) -> dict[str, Any]:
    return {JSON: {"schema": schema}}


def _get(
    tag: str,
    summary: str,
    content: dict[str, Any],
    more: dict[str, Any] | None = None,
    need_credential: bool = False,
) -> dict[str, Any]:
    """Describe a page that is the same for everybody who may see it."""
    refusals = _REFUSALS if need_credential else []
    return {
        "tags": [tag],
        "summary": summary,
        "security": [_INSPECTOR] if need_credential else [],
        "responses": {"200": {"description": "As asked for.", "content": content}}
        | (more or {})
        | _failures([*refusals, Internal]),
    }


def _inspect() -> dict[str, Any]:
    return {
        "tags": ["operation"],
        "summary": "Show metrics, the newest audit records, circuits and Redis",
        "description": "Unknown parameters are refused.",
        "operationId": "inspect",
        "security": [_INSPECTOR],
        "parameters": [
            {"name": name, "in": "query", "description": description, "schema": schema}
            for name, (description, schema) in _QUERIES.items()
        ],
        "responses": {
            "200": {"description": "As asked for.", "content": _json(ref("Inspector"))},
            **_failures([InvalidRequest, *_REFUSALS, Internal]),
        },
    }


def _list_circuits() -> dict[str, Any]:
    return {
        "tags": ["operation"],
        "summary": "Show the circuits of all workers and the overrides in force",
        "operationId": "listCircuits",
        "security": [_INSPECTOR],
        "responses": {
            "200": {"description": "As asked for.", "content": _json(ref("Circuits"))},
            **_failures([*_REFUSALS, Internal]),
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
        "requestBody": {"required": True, "content": _json(ref("CircuitOrder"))},
        "responses": {
            "200": {"description": "Done.", "content": _json(ref("CircuitsSwitched"))},
            **_failures([InvalidRequest, TooLarge, *_REFUSALS, Unrecorded, Internal]),
        },
    }


def _data_action(settings: DataActionSettings) -> dict[str, Any]:
    bodies = request_examples()
    answers = {"anyOf": [ref(answer_name(name)) for name in CATALOGUE]}
    return {
        "tags": ["data"],
        "summary": "Run one operation on one key",
        "description": "The body is read as JSON in UTF-8 whatever its `Content-Type` says. "
        f"It has at most {settings.max_body} bytes, {settings.bounds.max_elements} elements (array "
        f"items and object members) and {settings.bounds.max_depth} levels; of a field that comes "
        "twice the last counts.",
        "operationId": "runDataAction",
        "security": [{"flow": []}, {"flowBasic": []}, {"flowKey": []}, {"flowCertificate": []}],
        "requestBody": {
            "required": True,
            "content": {JSON: {"schema": ref("Request"), "examples": bodies}},
        },
        "responses": {
            "200": {
                "description": "Done. A miss is no failure: `data` is null and `hit` false.",
                "content": {JSON: {"schema": answers, "examples": answer_examples()}},
            },
            **_failures(kind for kind in all_failures() if kind not in _MISROUTED),
        },
    }


def _failures(kinds: Iterable[type[Failure]]) -> dict[str, Any]:
    """Return the responses of these failures, by status."""
    by_status = groupby(sorted(kinds, key=_status), key=_status)
    return {str(status): _failed(status, list(group)) for status, group in by_status}


def _status(kind: type[Failure]) -> int:
    return kind.status


def _failed(status: int, kinds: list[type[Failure]]) -> dict[str, Any]:
    schema = {"allOf": [ref("FailedAnswer"), obj({"code": {"enum": [k.code for k in kinds]}})]}
    response: dict[str, Any] = {
        "description": " ".join(f"`{kind.code}`: {first_line(kind)}" for kind in kinds),
        "content": {
            JSON: {
                "schema": schema,
                "examples": {kind.code: {"value": failure_example(kind)} for kind in kinds},
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
