"""The codes and statuses that flows are built on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from flowcache import errors
from flowcache.errors import Failure, RedisUnavailable, all_failures

TABLE = [
    ("invalid_request", 400, False),
    ("unauthorized", 401, False),
    ("forbidden", 403, False),
    ("not_found", 404, False),
    ("method_not_allowed", 405, False),
    ("wrong_type", 409, False),
    ("conflict", 409, False),
    ("too_large", 413, False),
    ("rate_limited", 429, True),
    ("invalid_response", 500, False),
    ("internal", 500, False),
    ("circuit_open", 503, True),
    ("overloaded", 503, True),
    ("audit_unavailable", 503, True),
    ("redis_unavailable", 503, True),
    ("deadline_exceeded", 504, True),
]
"""Code, status and whether a repetition may help: wire format, never renamed or renumbered."""


def below(kind: type[Failure]) -> Iterator[type[Failure]]:
    """Yield all that is drawn under ``kind`` in the tree."""
    for child in kind.__subclasses__():
        yield child
        yield from below(child)


rows = pytest.mark.parametrize("kind", all_failures(), ids=lambda kind: kind.__name__)
every = pytest.mark.parametrize("kind", list(below(Failure)), ids=lambda kind: kind.__name__)


def test_the_codes_are_those_of_the_contract_and_no_others() -> None:
    """Every row of the contract's table has its failure, in its order, and nothing else has."""
    assert [(kind.code, kind.status, kind.default_retryable) for kind in all_failures()] == TABLE


def test_every_failure_of_the_module_is_in_the_table() -> None:
    """No failure can be raised whose code a flow was not told of."""
    codes = {code for code, _, _ in TABLE}
    kinds = [getattr(errors, name) for name in errors.__all__ if name[0].isupper()]
    assert {kind.code for kind in kinds if kind is not Failure} == codes


@rows
def test_a_finer_distinction_is_none_to_the_caller(kind: type[Failure]) -> None:
    """What the breaker tells apart, such as a refused write, has the code that it is a kind of."""
    assert all((child.code, child.status) == (kind.code, kind.status) for child in below(kind))


def test_there_are_reasons_not_to_blame_the_shard() -> None:
    """A Redis that is well and refuses is unavailable to the caller, and not to the breaker."""
    assert list(below(RedisUnavailable))


@every
def test_a_failure_can_be_repeated_as_its_kind_says(kind: type[Failure]) -> None:
    """Unless whoever raises it knows better, the kind decides whether to retry."""
    assert kind("x").retryable is kind.default_retryable


@rows
def test_what_may_be_repeated_says_when(kind: type[Failure]) -> None:
    """A failure that passes by itself has a time to wait; one that does not has none."""
    assert (kind("x").retry_after is not None) is kind.default_retryable
    assert kind("x", retry_after=7.5).retry_after == 7.5


@every
@pytest.mark.parametrize("retryable", [True, False])
def test_whoever_raises_a_failure_may_know_better(kind: type[Failure], retryable: bool) -> None:
    """A write whose fate is unknown isn't safe to repeat, whatever its kind says."""
    assert kind("x", retryable=retryable).retryable is retryable


@every
def test_a_failure_reads_as_its_message(kind: type[Failure]) -> None:
    """The sentence that the caller reads is the one that a log shows."""
    failure = kind("A sentence.", retry_after=1.5)
    assert str(failure) == failure.message == "A sentence."
    assert failure.retry_after == 1.5
