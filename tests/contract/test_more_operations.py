"""HGET, HDEL, EXISTS, TTL, EXPIRE, GETDEL and DECR, on every kind of Redis."""

from __future__ import annotations

import pytest

from tests.contract.backends import Flow
from tests.contract.envelope import answered, refused


def hit_of(answer: dict[str, object]) -> object:
    metadata = answer["metadata"]
    assert isinstance(metadata, dict)
    return metadata["hit"]


class TestHget:
    def test_it_returns_a_field(self, flow: Flow, key: str) -> None:
        """The text as HSET stored it; a miss without the field, and without the hash."""
        missing = answered(flow.call(operation="HGET", key=key, field="n"))
        assert (missing["data"], hit_of(missing)) == (None, False)
        answered(flow.call(operation="HSET", key=key, value={"n": 7, "e": "", "t": "é"}))
        for name, text in (("n", "7"), ("e", ""), ("t", "é")):
            found = answered(flow.call(operation="HGET", key=key, field=name))
            assert (found["data"], hit_of(found)) == (text, True)
        missing = answered(flow.call(operation="HGET", key=key, field="other"))
        assert (missing["data"], hit_of(missing)) == (None, False)

    @pytest.mark.parametrize("field", [None, "", "${input.name}", 5, ["n"]])
    def test_it_needs_a_field(self, flow: Flow, key: str, field: object) -> None:
        """A variable that was not filled in is no name."""
        answer = refused(flow.call(operation="HGET", key=key, field=field), "invalid_request")
        assert answer["error"].startswith("field: HGET needs a string")

    def test_a_large_field_is_read(self, flow: Flow, key: str) -> None:
        """One that does not travel with the others comes whole."""
        large = "x" * 100_000
        answered(flow.call(operation="HSET", key=key, value={"large": large}))
        assert flow.call(operation="HGET", key=key, field="large").data == large

    def test_another_type_is_told(self, flow: Flow, key: str) -> None:
        """A string has no fields."""
        answered(flow.call(operation="SET", key=key, value=1))
        refused(flow.call(operation="HGET", key=key, field="n"), "wrong_type")


class TestHdel:
    def test_it_removes_fields(self, flow: Flow, key: str) -> None:
        """As many as there were; the TTL stays, and the last field takes the hash along."""
        answered(flow.call(operation="HSET", key=key, value={"a": 1, "b": 2, "c": 3}, ttl=500))
        assert flow.call(operation="HDEL", key=key, fields=["a", "b", "x"], ttl=5).data == 2
        assert 450 < flow.redis("TTL", key) <= 500
        assert flow.call(operation="HDEL", key=key, fields="c").data == 1
        assert flow.redis("EXISTS", key) == 0
        assert flow.call(operation="HDEL", key=key, fields=["c"]).data == 0

    def test_it_is_not_run_again(self, flow: Flow, key: str) -> None:
        """A repetition leaves a field that was written again."""
        answered(flow.call(operation="HSET", key=key, value={"a": 1}))
        body = {"operation": "HDEL", "key": key, "fields": ["a"], "idempotencyKey": "i"}
        assert flow.call(**body).data == 1
        answered(flow.call(operation="HSET", key=key, value={"a": 2}))
        assert flow.call(**body).data == 1
        assert flow.call(operation="HGET", key=key, field="a").data == "2"
        refused(flow.call(**(body | {"fields": ["b"]})), "conflict")

    @pytest.mark.parametrize("fields", [None, [], "", [""], ["${x}"], [1], {"a": 1}])
    def test_it_needs_names(self, flow: Flow, key: str, fields: object) -> None:
        """At least one, and each filled in."""
        answer = refused(flow.call(operation="HDEL", key=key, fields=fields), "invalid_request")
        assert answer["error"].startswith("fields: HDEL needs")

    def test_too_many_names_are_refused(self, flow: Flow, key: str) -> None:
        """The limit is told."""
        names = [f"f{number}" for number in range(1001)]
        answer = refused(flow.call(operation="HDEL", key=key, fields=names), "too_large")
        assert "at most 1000" in answer["error"]


def test_exists_tells_whether_there_is_a_key(flow: Flow, key: str) -> None:
    """Of any type; it is a read, with a hit or a miss."""
    missing = answered(flow.call(operation="EXISTS", key=key))
    assert (missing["data"], hit_of(missing)) == (0, False)
    answered(flow.call(operation="HSET", key=key, value={"a": 1}))
    found = answered(flow.call(operation="EXISTS", key=key))
    assert (found["data"], hit_of(found)) == (1, True)


def test_ttl_tells_how_long_a_key_has_left(flow: Flow, key: str) -> None:
    """Null without a key; -1 for one that another program left without a TTL."""
    missing = answered(flow.call(operation="TTL", key=key))
    assert (missing["data"], hit_of(missing)) == (None, False)
    answered(flow.call(operation="SET", key=key, value=1, ttl=500))
    found = answered(flow.call(operation="TTL", key=key))
    assert 450 < found["data"] <= 500
    assert hit_of(found) is True
    flow.redis("PERSIST", key)
    assert flow.call(operation="TTL", key=key).data == -1
    flow.redis("DEL", key)


class TestExpire:
    def test_it_gives_a_ttl(self, flow: Flow, key: str) -> None:
        """That of the call, or the default; a key that is not there gets none."""
        assert flow.call(operation="EXPIRE", key=key, ttl=60).data == 0
        answered(flow.call(operation="SET", key=key, value=1))
        changed = answered(flow.call(operation="EXPIRE", key=key, ttl="60"))
        assert (changed["data"], hit_of(changed)) == (1, None)
        assert 10 < flow.redis("TTL", key) <= 60
        assert flow.call(operation="EXPIRE", key=key).data == 1
        assert 3550 < flow.redis("TTL", key) <= 3600

    @pytest.mark.parametrize("ttl", [0, -1, 2_592_001, "soon"])
    def test_it_never_makes_a_key_last(self, flow: Flow, key: str, ttl: object) -> None:
        """A TTL is within the limits, here as everywhere."""
        refused(flow.call(operation="EXPIRE", key=key, ttl=ttl), "invalid_request")

    def test_it_is_not_run_again(self, flow: Flow, key: str) -> None:
        """A repetition answers as the first, and another TTL is another call."""
        answered(flow.call(operation="SET", key=key, value=1))
        body = {"operation": "EXPIRE", "key": key, "ttl": 60, "idempotencyKey": "i"}
        assert flow.call(**body).data == 1
        flow.redis("EXPIRE", key, 1000)
        assert flow.call(**body).data == 1
        assert flow.redis("TTL", key) > 900
        refused(flow.call(**(body | {"ttl": 61})), "conflict")


class TestGetdel:
    def test_it_takes_a_value(self, flow: Flow, key: str) -> None:
        """What SET stored, once; then it is a miss."""
        value = {"a": [1, "é", None]}
        answered(flow.call(operation="SET", key=key, value=value))
        taken = answered(flow.call(operation="GETDEL", key=key))
        assert (taken["data"], hit_of(taken)) == (value, True)
        missing = answered(flow.call(operation="GETDEL", key=key))
        assert (missing["data"], hit_of(missing)) == (None, False)

    def test_a_repetition_answers_with_the_value(self, flow: Flow, key: str) -> None:
        """As the first did, though it is gone, and leaves what was written since."""
        body = {"operation": "GETDEL", "key": key, "idempotencyKey": "i"}
        answered(flow.call(operation="SET", key=key, value="007"))
        assert flow.call(**body).data == "007"
        answered(flow.call(operation="SET", key=key, value="new"))
        again = answered(flow.call(**body))
        assert (again["data"], hit_of(again)) == ("007", True)
        assert flow.call(operation="GET", key=key).data == "new"

    def test_a_large_value_is_refused_and_stays(self, flow: Flow, key: str) -> None:
        """With an idempotency key and without."""
        large = "x" * 100_000
        answered(flow.call(operation="SET", key=key, value=large))
        for more in ({}, {"idempotencyKey": "i"}):
            answer = refused(flow.call(operation="GETDEL", key=key, **more), "too_large")
            assert "nothing was done" in answer["error"]
        assert flow.call(operation="GET", key=key).data == large

    def test_another_type_is_told_and_stays(self, flow: Flow, key: str) -> None:
        """A hash is not taken."""
        answered(flow.call(operation="HSET", key=key, value={"a": 1}))
        refused(flow.call(operation="GETDEL", key=key), "wrong_type")
        assert flow.call(operation="EXISTS", key=key).data == 1


@pytest.mark.usefixtures("in_clear")
def test_decr_counts_down(flow: Flow, key: str) -> None:
    """From 0 on, by 1 or by `value`, with the TTL of the call; repeated, it counts once."""
    assert flow.call(operation="DECR", key=key, ttl=60).data == -1
    assert 10 < flow.redis("TTL", key) <= 60
    body = {"operation": "DECR", "key": key, "value": "4", "idempotencyKey": "i"}
    assert flow.call(**body).data == -5
    assert flow.call(**body).data == -5
    assert flow.call(operation="DECR", key=key, value=-6).data == 1
    refused(flow.call(operation="DECR", key=key, value="few"), "invalid_request")
