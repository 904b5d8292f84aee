"""What an operator may ask of circuits, and what is shown of it."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcache.admin.inspector.circuits import circuits_view, read_order, shards_of
from flowcache.errors import InvalidRequest
from flowcache.ports import Access, Mode, Order
from flowcache.status import CircuitOverride
from tests.unit.telemetry.statuses import circuit, link, shard, worker

SHARDS = {"a:1", "b:2"}


def read(**body: Any) -> Order:
    return read_order(json.dumps(body).encode(), SHARDS)


def fault(body: bytes, shards: set[str] = SHARDS) -> str:
    with pytest.raises(InvalidRequest) as caught:
        read_order(body, shards)
    return caught.value.message


MODES = "auto or forced-open or disabled or observe or configured"


@pytest.mark.parametrize("mode", Mode)
def test_a_mode_alone_is_for_all(mode: Mode) -> None:
    """Whoever names no shard and no access means each."""
    assert read(mode=mode) == Order(mode, None, None)
    assert read(mode=mode, shard=None, access=None) == Order(mode, None, None)


def test_what_was_asked_is_taken_back_in_a_word() -> None:
    """Not by null: whoever sends a variable that is not set must not undo what another did."""
    assert read(mode="configured", access="read") == Order(None, None, Access.READ)


@pytest.mark.parametrize("access", Access)
def test_a_shard_and_an_access_narrow_it(access: Access) -> None:
    """Each by its name."""
    assert read(mode="auto", shard="a:1", access=access) == Order(Mode.AUTO, "a:1", access)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "body: no JSON: "),
        (b"{", "body: no JSON: "),
        (b'{"mode":"\xff"}', "body: no JSON: "),
        (b"[" * 2000, "body: no JSON: "),
        (b"[]", "body: expected an object, got an array."),
        (b'"auto"', "body: expected an object, got a string."),
        (
            b"{}",
            f"mode: missing; expected {MODES}.",
        ),
        (
            b'{"mode":"open"}',
            f"mode: expected {MODES}, got 'open'.",
        ),
        (
            b'{"mode":null}',
            f"mode: expected {MODES}, got null.",
        ),
        (
            b'{"mode":["auto"]}',
            f"mode: expected {MODES}, got an",
        ),
        (
            b'{"mode":"auto","shard":"c:3"}',
            "shard: expected the name of one, got 'c:3'; there are a:1, b:2. Leave it out for all.",
        ),
        (
            b'{"mode":"auto","shard":""}',
            "shard: expected the name of one, got ''; there are a:1, b:2. Leave it out for all.",
        ),
        (b'{"mode":"auto","shard":7}', "shard: expected the name of one, got a number; "),
        (
            b'{"mode":"auto","access":"reads"}',
            "access: expected read or write or fallback, got 'reads'.",
        ),
        (b'{"mode":"auto","access":""}', "access: expected read or write or fallback, got ''."),
        (
            b'{"mode":"forced-open","shards":"a:1"}',
            "shards: unknown; there are mode, shard, access.",
        ),
    ],
)
def test_a_fault_names_its_field(body: bytes, told: str) -> None:
    """A slip never switches more than was meant: it switches nothing, and says what it wanted."""
    assert fault(body).startswith(told)


def test_without_any_shard_the_name_of_one_is_a_fault() -> None:
    """Before Redis was reached nobody knows a shard; all of them can be switched."""
    assert "none is known yet" in fault(b'{"mode":"auto","shard":"a:1"}', set())
    assert read_order(b'{"mode":"auto"}', set()) == Order(Mode.AUTO, None, None)


def test_a_fault_is_short_whatever_was_sent() -> None:
    """A long text is not sent back."""
    assert len(fault(json.dumps({"mode": "x" * 4000}).encode())) < 200
    assert len(fault(json.dumps({"x" * 4000: 1}).encode())) < 200


@given(
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["mode", "shard", "access", "x"]), inner, max_size=4)
        ),
    ).map(lambda value: json.dumps(value).encode())
)
def test_any_body_is_an_order_or_a_fault(body: bytes) -> None:
    """Whatever is sent, there is a sentence about it, and no bug."""
    with suppress(InvalidRequest):
        assert read_order(body, SHARDS).shard in {None, *SHARDS}


def test_shards_are_those_there_are_and_those_with_an_override() -> None:
    """One that nobody called, one that has a circuit, one whose override is to be undone."""
    overrides = [CircuitOverride(Order(Mode.DISABLED, "w:4"), "control", 0.0)]
    workers = [
        worker(1, shards=[shard(link("a:1"))]),
        worker(2, circuits=[circuit(shard="b:2")]),
        worker(3, shards=[shard(link("gone:3"))], alive=False),
    ]
    assert shards_of(workers, overrides) == {"a:1", "b:2", "w:4"}


def test_the_view_shows_circuits_and_overrides() -> None:
    """Each circuit with its worker; each override with who set it and when; the configured mode."""
    overrides = [
        CircuitOverride(Order(Mode.FORCED_OPEN), "control", 0.0),
        CircuitOverride(Order(None, "a:1", Access.READ), "control", 1.5),
    ]
    view = circuits_view([worker(7, circuits=[circuit()])], overrides, Mode.OBSERVE)
    shown = msgspec.to_builtins(view)
    assert shown["configured"] == "observe"
    assert shown["overrides"] == [
        {
            "mode": "forced-open",
            "shard": None,
            "access": None,
            "by": "control",
            "at": "1970-01-01T00:00:00.000Z",
        },
        {
            "mode": "configured",
            "shard": "a:1",
            "access": "read",
            "by": "control",
            "at": "1970-01-01T00:00:01.500Z",
        },
    ]
    assert [(c["worker"], c["shard"], c["mode"]) for c in shown["circuits"]] == [(7, "a:1", "auto")]
