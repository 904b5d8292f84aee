"""Examples: requests from the catalogue, answers that the operations themselves have read."""

from __future__ import annotations

from typing import Any

import msgspec

from flowcache.admin.openapi.remedies import REMEDIES
from flowcache.contract import answer
from flowcache.errors import Failure
from flowcache.operations.catalogue import CATALOGUE

__all__ = ["answer_examples", "failure_example", "request_examples"]

_REQUEST_ID = "5f0c9a7e2b1d4c68-0000002a"


def _request_example(name: str) -> dict[str, Any]:
    sample = CATALOGUE[name].sample
    return {"operation": name, "key": sample.key, **sample.fields}


def request_examples() -> dict[str, Any]:
    """Return examples of requests: one for each operation, and what an untyped flow sends."""
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


def answer_examples() -> dict[str, Any]:
    """Return examples of answers, read from sample replies by the operations themselves."""
    examples: dict[str, Any] = {}
    for name, operation in CATALOGUE.items():
        sample = operation.sample
        replies = {name: sample.reply} | {f"{name}_{k}": v for k, v in sample.others.items()}
        for label, reply in replies.items():
            data, hit = operation.read(reply)
            told = answer.succeeded(data, _REQUEST_ID, 0.42, name, hit)
            examples[label] = {"value": _plain(told)}
    return examples


def failure_example(kind: type[Failure]) -> Any:
    """Return an answer that says a failure of this kind."""
    failure = kind(REMEDIES[kind.code].error)
    return _plain(answer.failed(failure, _REQUEST_ID, 0.42, None))


def _plain(told: answer.Answer | answer.FailedAnswer) -> Any:
    return msgspec.to_builtins(told)
