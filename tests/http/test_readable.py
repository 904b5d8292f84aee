"""What was accepted can be read: whatever it is made of, and however near it is to the limits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.envelopes import KEYS
from tests.servers import SERVERS, standalone
from tests.service import Answer, Service, service

SMALL = {
    "FLOWCACHE_HTTP_MAX_ANSWER_BYTES": "8192",
    "FLOWCACHE_DATA_MAX_VALUE_BYTES": "8192",
    "FLOWCACHE_DATA_MAX_FIELDS": "20000",
}
"""Limits that a few calls come up to; those of writes are lowered to what can be read."""
SEALED = {"FLOWCACHE_ENCRYPTION_KEYS": KEYS}
CONTROL = "\x00"
LIMIT = 256 * 1024


@pytest.fixture(params=SERVERS.values(), ids=list(SERVERS), scope="module")
def nodes(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """A server of each make, as flowcache is told of it."""
    with standalone(request.param()) as server:
        yield {
            "REDIS_NODES": f"127.0.0.1:{server.port}",
            "FLOWCACHE_DATA_DEADLINE_MS": "10000",
            "FLOWCACHE_HTTP_MAX_BODY_BYTES": str(2 << 20),
        }


@pytest.fixture(params=[{}, SEALED], ids=["clear", "sealed"], scope="module")
def small(request: pytest.FixtureRequest, nodes: dict[str, str]) -> Iterator[Service]:
    with service(nodes | SMALL | request.param) as running:
        yield running


@pytest.fixture(params=[{}, SEALED], ids=["clear", "sealed"], scope="module")
def large(request: pytest.FixtureRequest, nodes: dict[str, str]) -> Iterator[Service]:
    """A service with the limits that it has by default."""
    with service(nodes | request.param) as running:
        yield running


def call(running: Service, operation: str, value: Any = None) -> Answer:
    body = {"operation": operation, "key": "k"} | ({} if value is None else {"value": value})
    return running.post(json.dumps(body).encode())


letters = st.sampled_from([CONTROL, "\x1f", "\x7f", '"', "\\", "\n", "/", "a", "é", "\u2028"])
sizes = st.integers(0, 20) | st.integers(0, 4000) | st.integers(7900, 8200)
texts = st.builds(lambda letter, size: letter * size, letters, sizes)
few = st.dictionaries(texts.map(lambda text: text[:100]), texts, min_size=1, max_size=4)
many = st.builds(
    lambda first, count, prefix, value: {f"{prefix}{first + n}": value for n in range(count)},
    st.integers(0, 1500),
    st.integers(1, 700),
    letters | st.just(""),
    st.text(letters, max_size=4) | st.just("12345678901234567890"),
)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(few | many, min_size=1, max_size=6))
def test_a_hash_is_read_as_it_was_written(small: Service, brought: list[dict[str, str]]) -> None:
    """After each HSET the whole hash is read; one that was refused as too large changed nothing."""
    call(small, "DEL")
    held: dict[str, str] = {}
    for fields in brought:
        status = call(small, "HSET", fields).status
        assert status in (200, 413)
        if status == 200:
            held |= fields
        answer = call(small, "HGETALL")
        assert (answer.status, answer.json["data"]) == (200, held or None)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(texts | st.lists(texts, max_size=3) | st.dictionaries(texts, texts, max_size=3))
def test_a_value_is_read_as_it_was_written(small: Service, value: Any) -> None:
    """A JSON value that SET accepts is what GET returns."""
    if call(small, "SET", value).status == 200:
        assert call(small, "GET").data == value


def test_a_hash_of_control_characters_is_read(large: Service) -> None:
    """Its answer is six times as long as what is stored, and longer than what a read may return."""
    call(large, "DEL")
    held: dict[str, str] = {}
    for number in range(6):
        fields = {f"f{number}": CONTROL * (LIMIT // 6 - 200)}
        assert call(large, "HSET", fields).status == 200
        held |= fields
    answer = call(large, "HGETALL")
    assert answer.data == held
    assert len(answer.body) > 5 * LIMIT


@pytest.mark.parametrize("length", [1, 4, 20, 100])
@pytest.mark.parametrize("letter", [CONTROL, "x"])
class TestManyFields:
    """As many fields as are accepted are read, though beyond 512 their size is an estimate."""

    def test_up_to_small_limits(self, small: Service, letter: str, length: int) -> None:
        self._fill_and_read(small, letter * length)

    def test_up_to_the_usual_limits(self, large: Service, letter: str, length: int) -> None:
        self._fill_and_read(large, letter * length)

    def _fill_and_read(self, running: Service, value: str) -> None:
        call(running, "DEL")
        held: dict[str, str] = {}
        step = 40
        for first in range(1000, 11_000, step):
            fields = {f"{first + n}": value for n in range(step)}
            if call(running, "HSET", fields).status != 200:
                break
            held |= fields
        assert held
        assert call(running, "HGETALL").data == held


def test_a_text_at_the_limit_is_read(large: Service) -> None:
    """Written as JSON it counts as it is answered; one byte more is refused."""
    value = CONTROL * ((LIMIT - 2) // 6)
    value += "x" * (LIMIT - 2 - 6 * len(value))
    assert call(large, "SET", value + "x").status == 413
    assert call(large, "SET", value).status == 200
    assert call(large, "GET").data == value
