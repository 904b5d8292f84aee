"""The operations: what each asks of Redis, and when two calls are the same write."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from flowcache.authz.permissions import Permission
from flowcache.contract.request import TtlLimits, coerce, decode
from flowcache.errors import InvalidRequest
from flowcache.operations.catalogue import CATALOGUE, Plan, plan
from flowcache.operations.operation import Repeated
from flowcache.ports import Bound, Once, SizeLimits, Values
from tests.commands import command as made_command

ONCE_MS = 600_000
VALUES = {"SET": {"a": 1}, "HSET": {"a": 1}, "INCR": 3}


def planned_from(raw: str) -> Plan:
    return plan(coerce(decode(raw.encode()), TtlLimits()), ONCE_MS)


def planned(**fields: Any) -> Plan:
    return planned_from(json.dumps({"key": "k"} | fields))


def fingerprint(**fields: Any) -> bytes:
    once = planned(**{"idempotencyKey": "o"} | fields).command.once
    assert once is not None
    return once.fingerprint


def refusal(**fields: Any) -> str:
    with pytest.raises(InvalidRequest) as caught:
        planned(**fields)
    return caught.value.message


def shown(name: str, **more: Any) -> Plan:
    """Plan an operation as the documentation shows it."""
    sample = CATALOGUE[name].sample
    return planned(**{"operation": name, "key": sample.key, **sample.fields} | more)


def test_the_operations_of_the_contract_are_there() -> None:
    """Under their own names, and whatever others there are."""
    assert {"SET", "GET", "HSET", "HGETALL", "DEL", "INCR"} <= set(CATALOGUE)
    assert all(operation.name == name for name, operation in CATALOGUE.items())


class TestEachRow:
    """What holds for all operations, those to come included."""

    @pytest.fixture(params=CATALOGUE)
    def name(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    def test_it_is_shown_as_it_is_used(self, name: str) -> None:
        """The example is a call that is accepted, and has all that the operation takes."""
        operation, command = shown(name)
        assert operation is CATALOGUE[name]
        assert command.key == operation.sample.key.encode()
        assert {each.name for each in operation.takes} <= operation.sample.fields.keys()
        assert operation.summary.endswith(".")

    def test_it_says_what_it_does_to_redis(self, name: str) -> None:
        """Its command is among those that Redis must permit, and so is EXPIRE where it is used."""
        operation, command = shown(name)
        used = {each.split()[0].encode() for each in operation.uses}
        assert command.name in used
        assert (command.ttl is None) or command.name == b"SET" or b"EXPIRE" in used
        assert all("key" in each.split() for each in operation.uses)

    def test_it_needs_the_permission_of_what_it_does(self, name: str) -> None:
        """A write needs `data:write`; what tells what was stored needs `data:read`."""
        operation, command = shown(name)
        assert command.writes is operation.is_write
        assert command.writes is (Permission.DATA_WRITE in operation.permissions)
        tells = {Values.STRING_READ, Values.FIELD_READ, Values.FIELDS_READ}
        if operation.values in tells or not operation.is_write:
            assert Permission.DATA_READ in operation.permissions

    def test_it_says_what_bounds_a_value_that_it_returns(self, name: str) -> None:
        """What is stored may be large: whatever returns it looks at its size first."""
        operation = CATALOGUE[name]
        bounds = {
            Values.STRING_READ: Bound.STRING,
            Values.FIELD_READ: Bound.FIELD,
            Values.FIELDS_READ: Bound.HASH,
        }
        assert operation.bound is bounds.get(operation.values, operation.bound)

    def test_what_writes_is_not_repeated_by_itself(self, name: str) -> None:
        """With an idempotency key it is done once, or refused; a read is done again."""
        operation = CATALOGUE[name]
        assert (operation.repeated is Repeated.NATURALLY) is not operation.is_write
        if operation.repeated is Repeated.NEVER:
            with pytest.raises(InvalidRequest, match="idempotencyKey"):
                shown(name, idempotencyKey="o")
        else:
            once = shown(name, idempotencyKey="o").command.once
            assert (once is not None) is operation.is_write

    def test_a_missing_parameter_is_refused_by_its_name(self, name: str) -> None:
        """One that has a default may be left out, be absent, or be a placeholder."""
        operation = CATALOGUE[name]
        for each in operation.takes:
            fields = {k: v for k, v in operation.sample.fields.items() if k != each.name}
            call = {"operation": name, **fields}
            if each.is_required:
                assert refusal(**call).startswith(f"{each.name}: missing; {name} needs ")
            else:
                for absent in (None, "", "${input.x}"):
                    assert planned(**call).command == planned(**call | {each.name: absent}).command


def test_what_can_not_be_recorded_is_refused_before_it_is_done() -> None:
    """An operation whose reply can't be kept is not done with an idempotency key."""
    never = dataclasses.replace(CATALOGUE["DEL"], repeated=Repeated.NEVER)
    wanted = coerce(decode(b'{"operation":"DEL","key":"k","idempotencyKey":"o"}'), TtlLimits())
    with pytest.raises(InvalidRequest, match=r"^idempotencyKey: DEL can't be answered again"):
        never.command(wanted, SizeLimits(), ONCE_MS)


@pytest.mark.parametrize(
    ("fields", "command"),
    [
        ({"operation": "SET", "value": {"a": [1, None]}}, (b"SET", (b'{"a":[1,null]}',), 3600)),
        ({"operation": "SET", "value": "x"}, (b"SET", (b'"x"',), 3600)),
        ({"operation": "SET", "value": None}, (b"SET", (b"null",), 3600)),
        ({"operation": "set", "value": 1, "ttl": 5}, (b"SET", (b"1",), 5)),
        ({"operation": "GET"}, (b"GET", (), None)),
        ({"operation": "GET", "ttl": 5, "value": 1}, (b"GET", (), None)),
        ({"operation": "HSET", "value": {"a": "x"}}, (b"HSET", (b"a", b"x"), 3600)),
        ({"operation": "HGETALL"}, (b"HGETALL", (), None)),
        ({"operation": "DEL"}, (b"UNLINK", (), None)),
        ({"operation": "INCR"}, (b"INCRBY", (b"1",), 3600)),
        ({"operation": "INCR", "value": None}, (b"INCRBY", (b"1",), 3600)),
        ({"operation": "INCR", "value": "${step}"}, (b"INCRBY", (b"1",), 3600)),
        ({"operation": "INCR", "value": 0, "ttl": 7}, (b"INCRBY", (b"0",), 7)),
        ({"operation": "INCR", "value": "-2.0"}, (b"INCRBY", (b"-2",), 3600)),
        ({"operation": "INCR", "value": 10**15 - 1}, (b"INCRBY", (b"%d" % (10**15 - 1),), 3600)),
    ],
)
def test_an_operation_is_one_command(
    fields: dict[str, Any], command: tuple[bytes, tuple[bytes, ...], int | None]
) -> None:
    """A call becomes one Redis command on its key; what writes carries its time to live."""
    made = planned(**fields).command
    assert (made.name, made.words[2:], made.ttl) == command
    assert made.key == b"k"
    assert made.once is None


@pytest.mark.parametrize("name", ["SET", "HSET"])
def test_no_write_makes_a_key_that_lives_for_ever(name: str) -> None:
    """Whatever the flow says of the time to live, what makes a key has one."""
    for ttl in (None, "", "${input.ttl}", 1):
        assert planned(operation=name, value={"a": 1}, ttl=ttl).command.ttl


@pytest.mark.parametrize(
    ("name", "meant"),
    [("SET", "HSET"), ("GET", "HGETALL"), ("HSET", "HSET"), ("HGETALL", "HGETALL"), ("DEL", "DEL")],
)
def test_the_type_hash_means_the_operation_of_hashes(name: str, meant: str) -> None:
    """SET and GET of a hash are HSET and HGETALL; the others mean themselves."""
    operation, command = planned(operation=name, type="hash", value={"a": 1})
    assert operation is CATALOGUE[meant]
    assert command == planned(operation=meant, value={"a": 1}).command


@pytest.mark.parametrize("name", ["FLUSHDB", "FLUSHALL", "S", "set x"])
def test_an_unknown_operation_is_told_those_there_are(name: str) -> None:
    """The refusal lists the catalogue."""
    assert refusal(operation=name) == (
        f'operation: "{name.upper()}" is unknown; there are {", ".join(CATALOGUE)}.'
    )


def test_set_needs_a_value_and_null_is_one() -> None:
    """A missing value is a mistake; null is a value."""
    assert refusal(operation="SET").startswith("value: missing; SET needs any JSON value.")


@pytest.mark.parametrize("operation", [{"operation": "HSET"}, {"operation": "SET", "type": "hash"}])
@pytest.mark.parametrize(
    ("value", "got"),
    [({}, "an empty object"), ([], "an array"), ("x", "a string"), (None, "null"), (1, "a number")],
)
def test_a_hash_needs_an_object_of_fields(
    operation: dict[str, Any], value: object, got: str
) -> None:
    """What is no object, or has no fields, is told so by the value's name."""
    message = refusal(**operation, value=value)
    assert message.startswith("value: HSET needs ")
    assert message.endswith(f"got {got}.")


@pytest.mark.parametrize(
    ("value", "got"),
    [
        (True, "got a boolean."),
        ("two", "got a string 'two'."),
        (1.5, "got a number with a fraction."),
        ({}, "got an object."),
        (10**15, "got one above that."),
        (-(10**15), "got one below that."),
    ],
)
def test_a_counter_moves_by_whole_steps(value: object, got: str) -> None:
    """What is no whole number of at most 15 digits is told so by the value's name."""
    message = refusal(operation="INCR", value=value)
    assert message.startswith("value: expected a whole number of steps from -999999999999999 to ")
    assert message.endswith(got)


def test_a_hash_without_a_value_is_told_so() -> None:
    """A missing object is named as missing."""
    assert refusal(operation="HSET") == (
        "value: missing; HSET needs an object; numbers and booleans become their JSON text, nested "
        "values JSON."
    )


@pytest.mark.parametrize(
    ("operation", "field", "meant"), [("HGET", "fields", "field"), ("HDEL", "field", "fields")]
)
def test_a_missing_parameter_with_another_name_is_named(
    operation: str, field: str, meant: str
) -> None:
    """The parameter that was sent is named, with the one that was expected."""
    message = refusal(operation=operation, **{field: "n"})
    assert message.startswith(f"{meant}: missing; {operation} needs ")
    assert message.endswith(f'Rename "{field}" to "{meant}".')


def test_a_field_of_a_hash_is_a_text() -> None:
    """Strings stay as they are; numbers and booleans are their JSON text; the rest is JSON."""
    value = {"s": "é", "empty": "", "n": 1, "f": 1.5, "t": True, "o": {"a": [1]}, "l": []}
    args = planned(operation="HSET", value=value).command.words[2:]
    assert dict(zip(args[::2], args[1::2], strict=True)) == {
        b"s": "é".encode(),
        b"empty": b"",
        b"n": b"1",
        b"f": b"1.5",
        b"t": b"true",
        b"o": b'{"a":[1]}',
        b"l": b"[]",
    }


def test_a_null_in_a_hash_is_refused_by_its_name() -> None:
    """Null has no text; the field that holds it is named, and only its name is told."""
    message = refusal(operation="HSET", value={"a": "kept quiet", "b": None})
    assert message.startswith('value: the field "b" is null')
    assert "kept quiet" not in message


@pytest.mark.parametrize("name", ["GET", "HGETALL"])
def test_a_read_is_not_remembered(name: str) -> None:
    """An idempotency key on a read changes nothing."""
    assert planned(operation=name, idempotencyKey="o").command.once is None


@pytest.mark.parametrize("name", ["SET", "HSET", "DEL"])
def test_a_write_with_an_idempotency_key_is_applied_once(name: str) -> None:
    """The key names the write, for as long as the operator says."""
    once = planned(operation=name, value={"a": 1}, idempotencyKey="né-1").command.once
    assert isinstance(once, Once)
    assert once.token == "né-1".encode()
    assert once.lifetime_ms == ONCE_MS


SET = {"operation": "SET", "value": {"a": 1}, "ttl": 60}
HSET = {"operation": "HSET", "value": {"a": 1, "b": 2}, "ttl": 60}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (SET, {"operation": "set"}),
        (SET, {"ttl": "60"}),
        (SET, {"ttl": 60.0}),
        (SET, {"ttl": " 60.0 "}),
        (SET, {"type": "string"}),
        (SET, {"flowId": "f", "interactionId": 5, "deadlineMs": 5}),
        (SET, {"somethingElse": 1}),
        (SET | {"ttl": None}, {"ttl": 3600}),
        (HSET, {"operation": "SET", "type": "hash"}),
        (HSET, {"value": {"b": 2, "a": 1}}),
        (HSET, {"value": {"a": "1", "b": "2"}}),
        ({"operation": "DEL"}, {"ttl": 5}),
        ({"operation": "DEL"}, {"value": 5}),
    ],
)
def test_the_same_effect_has_the_same_fingerprint(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    """A write that is sent again in another spelling is the same write."""
    assert fingerprint(**one) == fingerprint(**one | other)


def test_the_order_and_spacing_of_a_body_do_not_show_in_a_fingerprint() -> None:
    """A client that writes its JSON differently the second time sends the same write."""
    dense = '{"operation":"SET","key":"k","value":{"a":"\\u00e9"},"idempotencyKey":"o"}'
    spaced = ' { "idempotencyKey" : "o",\n"value":{"a" : "é"}, "key":"k","operation":"SET" } '
    assert planned_from(dense).command == planned_from(spaced).command


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (SET, {"key": "l"}),
        (SET, {"value": {"a": 2}}),
        (SET, {"value": {"a": "1"}}),
        (SET, {"value": {"a": True}}),
        (SET, {"value": None}),
        (SET, {"ttl": 61}),
        (SET, {"operation": "HSET"}),
        (SET, {"operation": "DEL"}),
        (HSET, {"value": {"a": 1}}),
        (HSET, {"value": {"a": 2, "b": 1}}),
        (HSET, {"value": {"a": 1, "b": 2, "c": 3}}),
        (HSET, {"value": {"a": "1b", "2": ""}}),
        ({"operation": "HSET", "value": {"ab": "c"}}, {"value": {"a": "bc"}}),
        ({"operation": "HSET", "value": {"a": "b", "c": "d"}}, {"value": {"a": "d", "c": "b"}}),
        ({"operation": "HSET", "value": {"a": "b", "c": "d"}}, {"value": {"b": "a", "d": "c"}}),
        ({"operation": "DEL"}, {"key": "l"}),
    ],
)
def test_another_effect_has_another_fingerprint(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Another key, value, time to live or operation under one idempotency key is noticed."""
    assert fingerprint(**one) != fingerprint(**one | other)


def test_a_fingerprint_tells_writes_from_one_another_not_calls() -> None:
    """The idempotency key is not part of what was written."""
    assert fingerprint(**SET) == fingerprint(**SET, idempotencyKey="another")


def test_a_plan_leaves_the_rest_of_the_command_alone() -> None:
    """An idempotency key adds to the command and changes nothing else of it."""
    _, command = planned(**SET, idempotencyKey="o")
    assert command == made_command(b"SET", b"k", b'{"a":1}', ttl=60, writes=True, once=command.once)
