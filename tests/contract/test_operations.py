"""Every operation, against every kind of Redis: what is stored, what comes back, how long it lives.

A test looks into Redis itself (`flow.redis`) where an answer could hide the truth: at TTLs, at the
stored bytes, at what other programs may have left there.
"""

import json
import re
from itertools import count
from typing import Any

import pytest

from tests.contract.backends import Flow
from tests.contract.envelope import answered, refused
from tests.contract.together import together
from tests.servers import eventually

MAX_TTL = 2_592_000
DEFAULT_TTL = 3600


def assert_lives(flow: Flow, key: str | bytes, seconds: int) -> None:
    """Fail unless the key's life is ``seconds``, less what a slow machine may have taken."""
    left = flow.redis("TTL", key)
    assert seconds - 50 < left <= seconds


# -- one operation after the other ----------------------------------------------------------------


def test_set_stores_json_and_says_ok(flow: Flow, key: str) -> None:
    """SET stores the value as compact JSON text, which any other program can read."""
    told = answered(flow.call(operation="SET", key=key, value={"tier": "gold", "n": [1, None]}))
    assert told["data"] == "OK"
    assert told["metadata"]["hit"] is None
    assert told["metadata"]["operation"] == "SET"
    assert flow.redis("GET", key) == b'{"tier":"gold","n":[1,null]}'


def test_set_overwrites(flow: Flow, key: str) -> None:
    """SET replaces whatever the key held, of whichever type, and its life with it."""
    flow.redis("RPUSH", key, "a", "b")
    assert flow.call(operation="SET", key=key, value=1, ttl=500).data == "OK"
    assert flow.call(operation="SET", key=key, value=2).data == "OK"
    assert flow.call(operation="GET", key=key).data == 2
    assert_lives(flow, key, DEFAULT_TTL)


def test_get_tells_a_hit_from_a_miss(flow: Flow, key: str) -> None:
    """GET of a key that is not there is a success with null and no hit."""
    miss = answered(flow.call(operation="GET", key=key))
    assert (miss["data"], miss["metadata"]["hit"]) == (None, False)
    answered(flow.call(operation="SET", key=key, value="there"))
    hit = answered(flow.call(operation="GET", key=key))
    assert (hit["data"], hit["metadata"]["hit"]) == ("there", True)


def test_a_stored_null_is_a_hit(flow: Flow, key: str) -> None:
    """A null that was stored is told from a key that is not there."""
    assert flow.call(operation="SET", key=key, value=None).data == "OK"
    told = answered(flow.call(operation="GET", key=key))
    assert (told["data"], told["metadata"]["hit"]) == (None, True)


def test_hset_counts_new_fields(flow: Flow, key: str) -> None:
    """HSET answers how many fields are new, and leaves the hash's other fields alone."""
    first = answered(flow.call(operation="HSET", key=key, value={"a": "1", "b": "2"}))
    assert (first["data"], first["metadata"]["hit"]) == (2, None)
    assert flow.call(operation="HSET", key=key, value={"b": "3", "c": "4"}).data == 1
    assert flow.call(operation="HSET", key=key, value={"b": "5"}).data == 0
    assert flow.redis("HGETALL", key) == {b"a": b"1", b"b": b"5", b"c": b"4"}


def test_hgetall_tells_a_hit_from_a_miss(flow: Flow, key: str) -> None:
    """HGETALL of a key that is not there is a success with null and no hit."""
    miss = answered(flow.call(operation="HGETALL", key=key))
    assert (miss["data"], miss["metadata"]["hit"]) == (None, False)
    answered(flow.call(operation="HSET", key=key, value={"name": "Ada"}))
    hit = answered(flow.call(operation="HGETALL", key=key))
    assert (hit["data"], hit["metadata"]["hit"]) == ({"name": "Ada"}, True)


def test_del_counts_removed_keys(flow: Flow, key: str) -> None:
    """DEL answers 1 for a key that was there and 0 for one that was not; neither is a hit."""
    answered(flow.call(operation="SET", key=key, value=1))
    first = answered(flow.call(operation="DEL", key=key))
    assert (first["data"], first["metadata"]["hit"]) == (1, None)
    again = answered(flow.call(operation="DEL", key=key))
    assert (again["data"], again["metadata"]["hit"]) == (0, None)
    assert flow.redis("EXISTS", key) == 0


@pytest.mark.parametrize(
    "plant",
    [("SET", "x"), ("HSET", "f", "v"), ("RPUSH", "x"), ("SADD", "x"), ("ZADD", "1", "x")],
    ids=lambda plant: plant[0],
)
def test_del_removes_a_key_of_any_type(flow: Flow, key: str, plant: tuple[str, ...]) -> None:
    """DEL asks no key for its type."""
    command, *arguments = plant
    flow.redis(command, key, *arguments)
    assert flow.call(operation="DEL", key=key).data == 1
    assert flow.redis("EXISTS", key) == 0


@pytest.mark.usefixtures("in_clear")
def test_incr_counts_from_nothing(flow: Flow, key: str) -> None:
    """INCR answers the new number, up or down, and each step renews the counter's life."""
    first = answered(flow.call(operation="INCR", key=key, ttl=500))
    assert (first["data"], first["metadata"]["hit"]) == (1, None)
    assert_lives(flow, key, 500)
    assert flow.call(operation="INCR", key=key, value="41").data == 42
    assert_lives(flow, key, DEFAULT_TTL)
    assert flow.call(operation="INCR", key=key, value=-44.0).data == -2
    assert flow.call(operation="INCR", key=key, value=0).data == -2
    assert flow.call(operation="GET", key=key).data == -2


@pytest.mark.usefixtures("in_clear")
def test_incr_counts_on_from_a_number_that_was_set(flow: Flow, key: str) -> None:
    """A number stored by SET is a counter; any other value is wrong_type and stays as it was."""
    answered(flow.call(operation="SET", key=key, value=7))
    assert flow.call(operation="INCR", key=key).data == 8
    for value in ("7", 7.5, [7]):
        answered(flow.call(operation="SET", key=key, value=value, ttl=500))
        refused(flow.call(operation="INCR", key=key), "wrong_type")
        assert flow.call(operation="GET", key=key).data == value
        assert_lives(flow, key, 500)
    flow.redis("DEL", key)
    flow.redis("HSET", key, "a", "b")
    refused(flow.call(operation="INCR", key=key), "wrong_type")


@pytest.mark.usefixtures("in_clear")
def test_incr_refuses_to_leave_what_can_be_counted(flow: Flow, key: str) -> None:
    """A step to where numbers are no longer exact is refused and not done, with or without once."""
    for held, step in ((2**63 - 1, 1), (2**53 - 1, 1), (1 - 2**53, -1), (2**53, 0), (2**62, -5)):
        flow.redis("SET", key, str(held), "EX", 500)
        for once in ({}, {"idempotencyKey": "i"}):
            answer = flow.call(operation="INCR", key=key, value=step, **once)
            assert refused(answer, "invalid_request")["error"].startswith("value: ")
        assert flow.redis("GET", key) == str(held).encode()
    flow.redis("SET", key, str(2**53 - 2), "EX", 500)
    assert flow.call(operation="INCR", key=key).data == 2**53 - 1
    assert flow.call(operation="INCR", key=key, value=-1).data == 2**53 - 2
    for _ in range(2):
        assert flow.call(operation="INCR", key=key, idempotencyKey="j").data == 2**53 - 1


@pytest.mark.parametrize(
    "spell", [str.lower, str.capitalize, str.swapcase, str.upper], ids=lambda spell: spell.__name__
)
def test_the_case_of_an_operation_does_not_matter(flow: Flow, key: str, spell: Any) -> None:
    """An operation is known in any case; the answer names it in upper case."""
    for operation, value in (("SET", 1), ("GET", None), ("DEL", None)):
        told = answered(flow.call(operation=spell(operation), key=key, value=value))
        assert told["metadata"]["operation"] == operation
    assert flow.call(operation=spell("HSET"), key=key, value={"a": 1}).data == 1
    assert flow.call(operation=spell("HGETALL"), key=key).data == {"a": "1"}


def test_an_operation_is_named_in_ascii_only(flow: Flow, key: str) -> None:
    """A letter that merely becomes an ASCII one in upper case makes another, unknown name."""
    refused(flow.call(operation="\u017fet", key=key, value=1), "invalid_request", "operation:")
    assert flow.redis("EXISTS", key) == 0


@pytest.mark.parametrize("kind", ["hash", "Hash", "HASH"])
def test_set_and_get_of_a_hash(flow: Flow, key: str, kind: str) -> None:
    """With type hash, SET is HSET and GET is HGETALL; the answer names what was asked for."""
    told = answered(flow.call(operation="SET", key=key, type=kind, value={"n": 1}))
    assert (told["data"], told["metadata"]["operation"]) == (1, "SET")
    assert flow.redis("HGETALL", key) == {b"n": b"1"}
    assert_lives(flow, key, DEFAULT_TTL)
    told = answered(flow.call(operation="GET", key=key, type=kind))
    assert (told["data"], told["metadata"]["operation"]) == ({"n": "1"}, "GET")
    assert told["metadata"]["hit"] is True


def test_type_hash_changes_nothing_else(flow: Flow, key: str) -> None:
    """HSET, HGETALL and DEL mean themselves whatever the type says."""
    for kind in ("hash", "string"):
        assert flow.call(operation="HSET", key=key, type=kind, value={"a": "b"}).data == 1
        assert flow.call(operation="HGETALL", key=key, type=kind).data == {"a": "b"}
        assert flow.call(operation="DEL", key=key, type=kind).data == 1


@pytest.mark.parametrize("absent", [None, "", "${input.type}", "string", "String"])
def test_string_is_the_type_of_who_names_none(flow: Flow, key: str, absent: str | None) -> None:
    """A type that was never set is string."""
    assert flow.call(operation="SET", key=key, type=absent, value={"a": 1}).data == "OK"
    assert flow.call(operation="GET", key=key, type=absent).data == {"a": 1}


# -- life -----------------------------------------------------------------------------------------

TTLS = [
    (60, 60),
    ("60", 60),
    (" 60 ", 60),
    (60.0, 60),
    ("60.0", 60),
    (1e3, 1000),
    (MAX_TTL, MAX_TTL),
    (str(MAX_TTL), MAX_TTL),
    (None, DEFAULT_TTL),
    ("", DEFAULT_TTL),
    ("${input.ttl}", DEFAULT_TTL),
]

BAD_TTLS = [
    *(0, -1, 1.5, -0.0, 1e300, MAX_TTL + 1, 2**63, 10**100),
    *("0", "-1", "1.5", "abc", "1e3", "0x3c", "60s", " ", str(MAX_TTL + 1), "9" * 5000, "٦٠"),
    *(True, False, [], [60], {}, {"seconds": 60}),
]


def bodies(key: str) -> list[dict[str, Any]]:
    """Return each way of writing a key."""
    return [
        {"operation": "SET", "key": key, "value": "v"},
        {"operation": "HSET", "key": key, "value": {"f": "v"}},
        {"operation": "SET", "type": "hash", "key": key, "value": {"f": "v"}},
    ]


@pytest.mark.parametrize(("ttl", "seconds"), TTLS, ids=repr)
def test_a_write_lives_as_long_as_was_asked(flow: Flow, key: str, ttl: Any, seconds: int) -> None:
    """Strings and hashes get the ttl of the call, however it is spelled, else the default."""
    for body in bodies(key):
        answered(flow.call(**body, ttl=ttl))
        assert_lives(flow, key, seconds)
        flow.redis("DEL", key)


def test_without_a_ttl_a_write_lives_for_the_default(flow: Flow, key: str) -> None:
    """A write that says nothing of its life still gets one: 3,600 seconds."""
    for body in bodies(key):
        answered(flow.call(**body))
        assert_lives(flow, key, DEFAULT_TTL)
        flow.redis("DEL", key)


@pytest.mark.parametrize("ttl", BAD_TTLS, ids=lambda ttl: repr(ttl)[:20])
def test_a_bad_ttl_writes_nothing(flow: Flow, key: str, ttl: Any) -> None:
    """A ttl that is no whole number in range is refused by name, and nothing is written."""
    for body in bodies(key):
        refused(flow.call(**body, ttl=ttl), "invalid_request", "ttl:")
        assert flow.redis("EXISTS", key) == 0


def test_hset_renews_the_life_of_the_whole_hash(flow: Flow, key: str) -> None:
    """Each HSET gives the hash its own ttl anew, a longer one or a shorter one."""
    for ttl in (100, 1000, 200):
        answered(flow.call(operation="HSET", key=key, value={f"f{ttl}": "v"}, ttl=ttl))
        assert_lives(flow, key, ttl)
    answered(flow.call(operation="HSET", key=key, value={"f100": "w"}))
    assert_lives(flow, key, DEFAULT_TTL)


def test_hset_gives_a_life_to_a_hash_that_had_none(flow: Flow, key: str) -> None:
    """A hash that another program wrote without a TTL gets one with the first HSET."""
    flow.redis("HSET", key, "theirs", "1")
    assert flow.call(operation="HSET", key=key, value={"ours": "2"}).data == 1
    assert_lives(flow, key, DEFAULT_TTL)


def test_reading_leaves_the_life_alone(flow: Flow, key: str) -> None:
    """GET and HGETALL neither renew a life nor give one."""
    answered(flow.call(operation="SET", key=key, value=1, ttl=500))
    answered(flow.call(operation="GET", key=key, ttl=60))
    assert_lives(flow, key, 500)
    flow.redis("DEL", key)
    flow.redis("HSET", key, "f", "v")
    answered(flow.call(operation="HGETALL", key=key, ttl=60))
    assert flow.redis("TTL", key) == -1


def test_what_has_lived_is_gone(flow: Flow, key: str) -> None:
    """A key whose time is over is a miss."""
    answered(flow.call(operation="SET", key=key, value=1, ttl=1))
    answered(flow.call(operation="HSET", key=f"{key}:hash", value={"a": 1}, ttl=1))
    eventually(lambda: flow.call(operation="GET", key=key).json["metadata"]["hit"] is False)
    eventually(lambda: flow.call(operation="HGETALL", key=f"{key}:hash").data is None)


# -- values ---------------------------------------------------------------------------------------

VALUES: list[Any] = [
    *(0, 1, -1, 42, 0.1, -2.5, 1e308, 5e-324, 1.0),
    *(True, False, None),
    *("", "text", "42", "true", "null", " spaced ", '"quoted"', "${input.name}", "__type"),
    *([], [1, "two", None, [3.5]], {}, {"": ""}, {"a": {"b": [{"c": None}]}}),
    *(
        "Grüße, 世界",
        "🦉\U0001d518",
        "e\u0301",
        "\u202e right to left",
        "\u2028\u2029",
        "\ufeff",
        "\uffff",
    ),
    *("nul\x00inside", "\x00", "\t\r\n\b\f\x1b\x7f\x85", "back\\slash/", {"k\x00ey 🦉": "\x00"}),
    *(2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 2**64 + 1, -(2**53) - 1),
    *(-(2**63), -(2**63) - 1, -(2**64) - 1, 10**40 + 7, -(10**40) - 7, [2**70, {"n": 2**90 + 1}]),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: ascii(value)[:40])
def test_a_value_comes_back_as_it_went_in(flow: Flow, key: str, value: Any) -> None:
    """Any JSON value survives SET and GET: type, text and each digit of it."""
    answered(flow.call(operation="SET", key=key, value=value))
    got = flow.call(operation="GET", key=key).data
    assert got == value
    assert type(got) is type(value)


def test_the_digits_of_an_integer_are_all_kept(flow: Flow, key: str) -> None:
    """An integer is text to us: up to 4,300 digits go in, lie in Redis, and come out alike."""
    for digits in ("9007199254740993", "18446744073709551617", "7" * 4300, "-" + "7" * 4299):
        body = f'{{"operation":"SET","key":"{key}","value":{digits}}}'
        assert answered(flow.post(body.encode()))["data"] == "OK"
        assert flow.redis("GET", key) == digits.encode()
        assert f'"data":{digits},'.encode() in flow.call(operation="GET", key=key).body


def test_a_value_may_be_spelled_in_escapes(flow: Flow, key: str) -> None:
    """Escapes, pairs of surrogates and raw UTF-8 spell the same text."""
    for spelling in (b'"\\ud83e\\udd89 \\u0000 \\u00fc"', '"🦉 \\u0000 ü"'.encode()):
        body = b'{"operation":"SET","key":"%b","value":%b}' % (key.encode(), spelling)
        assert answered(flow.post(body))["data"] == "OK"
        assert flow.call(operation="GET", key=key).data == "🦉 \x00 ü"


def test_a_large_value_comes_back_whole(flow: Flow, key: str) -> None:
    """200 KB of text go in and come out, in a string as in a hash."""
    value = "".join(f"{number:08x}é" for number in range(20_000))
    assert len(value.encode()) == 200_000
    for operation, sent in (("SET", value), ("HSET", {"all": value})):
        body = {"operation": operation, "key": f"{key}:{operation}", "value": sent}
        answered(flow.post(json.dumps(body, ensure_ascii=False).encode()))
    assert flow.call(operation="GET", key=f"{key}:SET").data == value
    assert flow.call(operation="HGETALL", key=f"{key}:HSET").data == {"all": value}


KEYS = [
    *("k", "k" * 512, "é" * 256, "🦉" * 128),
    *("with space", " ", "new\nline", "\r\n", "tab\t", "nul\x00inside", "\x00", "colon:s:"),
    *("{", "}", "{}", "{}x", "x{}", "a}b", "a{b", "{tag}y", "x{tag}", "{{a}}b", "{a}{b}", "}{"),
    *('"quoted"', "back\\slash", "*", "?[a-z]", "$1", "${input.key}x", "Grüße", "世界", "\u2028"),
    *("SET", "flowcache", "../../etc/passwd", "%00", "+441234567890", "-1", "null"),
]


@pytest.mark.parametrize("name", KEYS, ids=lambda name: ascii(name)[:30])
def test_a_key_is_taken_as_it_is(flow: Flow, name: str) -> None:
    """A key of 1 to 512 bytes names exactly that key in Redis, whatever is in it."""
    raw = name.encode()
    flow.redis("DEL", raw)
    assert flow.call(operation="SET", key=name, value=name, ttl=60).data == "OK"
    assert json.loads(flow.redis("GET", raw)) == name
    assert_lives(flow, raw, 60)
    assert flow.call(operation="GET", key=name).data == name
    assert flow.call(operation="DEL", key=name).data == 1
    assert flow.call(operation="HSET", key=name, value={name: name}, ttl=60).data == 1
    assert_lives(flow, raw, 60)
    assert flow.call(operation="HGETALL", key=name).data == {name: name}
    assert flow.call(operation="DEL", key=name).data == 1
    assert flow.redis("EXISTS", raw) == 0


def test_a_key_too_long_is_refused(flow: Flow) -> None:
    """513 bytes are too many, counted as UTF-8, for every operation."""
    for name in ("k" * 513, "é" * 257):
        for body in (*bodies(name), {"operation": "GET", "key": name}):
            refused(flow.call(**body), "too_large", "key:")


@pytest.mark.parametrize("name", ["${input.key}", "${}", "${a}${b}", "${phone\n}"])
def test_a_key_that_was_never_filled_in_is_refused(flow: Flow, name: str) -> None:
    """A placeholder is no key: every caller whose variable is unset would meet under it."""
    for body in (
        *bodies(name),
        {"operation": "GET", "key": name},
        {"operation": "DEL", "key": name},
    ):
        refused(flow.call(**body), "invalid_request", "key:")
    assert flow.redis("EXISTS", name) == 0


def test_flowcaches_own_records_are_out_of_reach(flow: Flow, key: str) -> None:
    """Nobody may read, write or remove the record of a write: it would be run again."""
    answered(flow.call(operation="SET", key=key, value=1, idempotencyKey="i"))
    names = [record.decode() for record in flow.redis.keys("flowcache:once:*")]
    for name in (*names[:3], "flowcache:once:{x}:y", "flowcache:ns:other:k", "flowcache:rate:flow"):
        before = flow.redis("EXISTS", name)
        for body in (*bodies(name), *({"operation": o, "key": name} for o in ("GET", "DEL"))):
            refused(flow.call(**body), "forbidden", "key:")
        assert flow.redis("EXISTS", name) == before


# -- fields ---------------------------------------------------------------------------------------

FIELDS: list[tuple[Any, str]] = [
    *(("text", "text"), ("", ""), ("null", "null"), ("nul\x00", "nul\x00"), ("🦉", "🦉")),
    *((0, "0"), (-7, "-7"), (1.5, "1.5"), (1.0, "1.0"), (2**64 + 1, str(2**64 + 1))),
    *((True, "true"), (False, "false")),
    *(([], "[]"), ({}, "{}"), ([1, None, "x"], '[1,null,"x"]'), ({"a": {"b": 1}}, '{"a":{"b":1}}')),
]


def test_fields_become_text_by_the_rules(flow: Flow, key: str) -> None:
    """Strings are stored as they are, numbers and booleans as JSON text, nested values as JSON."""
    sent = {f"f{place}": value for place, (value, _) in enumerate(FIELDS)}
    stored = {f"f{place}": text for place, (_, text) in enumerate(FIELDS)}
    assert flow.call(operation="HSET", key=key, value=sent).data == len(FIELDS)
    assert flow.call(operation="HGETALL", key=key).data == stored
    inside = {name.decode(): text.decode() for name, text in flow.redis("HGETALL", key).items()}
    assert inside == stored


def test_the_name_of_a_field_is_taken_as_it_is(flow: Flow, key: str) -> None:
    """A field may have any name, the empty one and JavaScript's own included."""
    names = ["", " ", "__proto__", "constructor", "nul\x00", "🦉", "{a}", "n" * 1000, "\ufeff"]
    fields = dict.fromkeys(names, "v")
    assert flow.call(operation="HSET", key=key, value=fields).data == len(names)
    assert flow.call(operation="HGETALL", key=key).data == fields


def test_a_null_field_is_refused_and_nothing_is_written(flow: Flow, key: str) -> None:
    """One null among good fields refuses them all, and the answer names the field."""
    for kind, operation in (("string", "HSET"), ("hash", "SET")):
        fields = {"good": "1", "tier": None, "also good": "2"}
        told = refused(
            flow.call(operation=operation, type=kind, key=key, value=fields),
            "invalid_request",
            "value:",
        )
        assert '"tier"' in told["error"]
        assert flow.redis("EXISTS", key) == 0


@pytest.mark.parametrize("value", [None, "text", 5, True, [], [1], {}], ids=repr)
def test_a_hash_needs_an_object_of_fields(flow: Flow, key: str, value: Any) -> None:
    """HSET of anything but an object with fields is refused, naming `value`."""
    refused(flow.call(operation="HSET", key=key, value=value), "invalid_request", "value:")
    refused(flow.call(operation="SET", type="hash", key=key, value=value), "invalid_request")
    assert flow.redis("EXISTS", key) == 0


@pytest.mark.parametrize("once", [{}, {"idempotencyKey": "many"}], ids=["plain", "idempotent"])
@pytest.mark.parametrize("count", [5_000, 10_000, 10_001])
def test_a_hash_of_many_fields(flow: Flow, key: str, count: int, once: dict[str, str]) -> None:
    """As many small fields as a hash may have are set in one step, with the ttl; no more.

    Where values are encrypted, what is stored for each reaches the limit of bytes first.
    """
    fields = {str(number): number % 10 for number in range(count)}
    body = {"operation": "HSET", "key": key, "value": fields, "ttl": 600, **once}
    answer = flow.post(json.dumps(body, separators=(",", ":")).encode())
    if count > (5_000 if flow.is_sealed else 10_000):
        refused(answer, "too_large")
        assert flow.redis.raw("EXISTS", key) == 0
        return
    assert answered(answer)["data"] == count
    assert_lives(flow, key, 600)
    assert flow.redis("HLEN", key) == count
    got = flow.call(operation="HGETALL", key=key).data
    assert got == {name: str(value) for name, value in fields.items()}


# -- what other programs left ---------------------------------------------------------------------

FOREIGN = [
    (b"plain text", "plain text"),
    (b"", ""),
    (b" ", " "),
    (b"Gr\xc3\xbc\xc3\x9fe", "Grüße"),
    (b"\x00\x01", "\x00\x01"),
    (b'{"broken":', '{"broken":'),
    (b'{"a":1}x', '{"a":1}x'),
    (b"{'a':1}", "{'a':1}"),
    (b"01", "01"),
    (b"+441234567890", "+441234567890"),
    (b"NaN", "NaN"),
    (b"-Infinity", "-Infinity"),
    (b"1e400", "1e400"),
    (b"9" * 5000, "9" * 5000),
    (b'"\\ud800"', '"\\ud800"'),
    (b'"\\udc00\\ud800"', '"\\udc00\\ud800"'),
    (b'\xef\xbb\xbf{"a":1}', '\ufeff{"a":1}'),
    (b' { "a" : 1 } \n', {"a": 1}),
    (b'{"a":1,"a":2}', {"a": 2}),
    (b"[" * 100_000, "[" * 100_000),
    (b"\xff\xfe\x00", {"base64": "//4A"}),
    (b'"\xff"', {"base64": "Iv8i"}),
    (b"caf\xe9", {"base64": "Y2Fm6Q=="}),
    (b"\xed\xa0\x80", {"base64": "7aCA"}),
    (b"\xc0\x80", {"base64": "wIA="}),
]


@pytest.mark.parametrize(("stored", "data"), FOREIGN, ids=lambda item: ascii(item)[:30])
def test_a_foreign_value_is_read_without_fail(
    flow: Flow, key: str, stored: bytes, data: Any
) -> None:
    """What is no JSON comes back as text, what is no text as base64: always a hit, no error."""
    flow.redis("SET", key, stored, "EX", 600)
    told = answered(flow.call(operation="GET", key=key))
    assert told["data"] == data
    assert told["metadata"]["hit"] is True


def test_foreign_json_of_too_many_elements_is_too_large(flow: Flow, key: str) -> None:
    """It is refused undecoded; the same as text, which costs nothing to make, comes back."""
    stored = b"[" + b",".join([b"[]"] * 10_001) + b"]"
    flow.redis("SET", key, stored, "EX", 600)
    told = refused(flow.call(operation="GET", key=key), "too_large")
    assert "10000 elements" in told["error"]
    flow.redis("SET", key, stored[1:], "EX", 600)
    assert flow.call(operation="GET", key=key).data == stored[1:].decode()


def test_foreign_json_of_any_depth_is_read(flow: Flow, key: str) -> None:
    """However deep another program nested, GET answers: with the JSON, or with its text.

    Where the one becomes the other, a decoder and an encoder must not disagree: some depths around
    Python's limit of recursion are tried one by one.
    """
    start = b'{"success":true,"data":'
    for depth in (65, 200, 500, *range(950, 1010), 5_000, 20_000):
        for stored in (b"[" * depth + b"]" * depth, b'{"":' * depth + b"0" + b"}" * depth):
            flow.redis("SET", key, stored, "EX", 600)
            answer = flow.call(operation="GET", key=key)
            assert answer.status == 200
            as_text = json.dumps(stored.decode()).encode()
            assert answer.body.startswith((start + stored + b",", start + as_text + b","))


def test_a_foreign_hash_of_text_is_read(flow: Flow, key: str) -> None:
    """Fields that another program wrote come back as strings, uninterpreted."""
    flow.redis("HSET", key, "json", '{"a":1}', "number", "5", "empty", "", "", "nameless")
    told = answered(flow.call(operation="HGETALL", key=key))
    assert told["data"] == {"json": '{"a":1}', "number": "5", "empty": "", "": "nameless"}


@pytest.mark.parametrize("bad", [("f", b"\xff"), (b"\xff", "v"), ("f", b"\xed\xa0\x80")], ids=repr)
def test_a_hash_that_is_no_text_is_not_leaked(flow: Flow, key: str, bad: tuple[Any, ...]) -> None:
    """A hash with bytes that are no UTF-8 breaks the schema; nothing of it reaches the caller."""
    flow.redis("HSET", key, "name-needle", "private-needle", *bad)
    answer = flow.call(operation="HGETALL", key=key)
    told = refused(answer, "invalid_response")
    assert told["retryable"] is False
    assert b"needle" not in answer.body
    assert "needle" not in flow.service.log


def test_an_answer_too_large_is_refused_and_not_cut(flow: Flow, key: str) -> None:
    """What another program stored beyond the limit of an answer is `too_large`, never cut JSON."""
    for size in (600_000, 5_000_000):
        for stored in (b'"%b"' % (b"x" * size), b"x" * size, b"\xff" * size, b"[1]" + b" " * size):
            flow.redis("SET", key, stored, "EX", 60)
            refused(flow.call(operation="GET", key=key), "too_large")
        flow.redis("DEL", key)
        flow.redis("HSET", key, "f", b"x" * size)
        refused(flow.call(operation="HGETALL", key=key), "too_large")
        flow.redis("DEL", key)


@pytest.mark.parametrize("once", [{}, {"idempotencyKey": "typed"}], ids=["plain", "idempotent"])
def test_an_operation_on_another_type_is_refused(
    flow: Flow, key: str, once: dict[str, str]
) -> None:
    """A hash is no string and a string no hash; a write refused for that changes nothing."""
    flow.redis("SET", key, "text", "EX", 500)
    fields = {"a": "b"}
    bodies: list[dict[str, Any]] = [
        {"operation": "HGETALL"},
        {"operation": "GET", "type": "hash"},
        {"operation": "HSET", "value": fields},
        {"operation": "SET", "type": "hash", "value": fields},
        {"operation": "HSET", "value": {str(number): 1 for number in range(4_500)}},
    ]
    for body in bodies:
        told = refused(flow.call(key=key, **body, **once), "wrong_type")
        assert told["retryable"] is False
    assert flow.redis("GET", key) == b"text"
    assert_lives(flow, key, 500)
    flow.redis("DEL", key)
    flow.redis("HSET", key, "f", "v")
    refused(flow.call(operation="GET", key=key, **once), "wrong_type")
    flow.redis("DEL", key)
    flow.redis("RPUSH", key, "item")
    for operation in ("GET", "HGETALL"):
        refused(flow.call(operation=operation, key=key), "wrong_type")
    refused(flow.call(operation="HSET", key=key, value=fields, **once), "wrong_type")
    assert flow.redis("LRANGE", key, 0, -1) == [b"item"]
    assert flow.redis("TTL", key) == -1


# -- side by side ---------------------------------------------------------------------------------


def test_each_caller_gets_an_answer_of_its_own(flow: Flow, key: str) -> None:
    """Calls that share a connection to Redis never get one another's replies."""
    turns = count()

    def write_and_read() -> None:
        mine = f"{key}:{next(turns)}"
        for turn in range(15):
            answered(flow.call(operation="SET", key=mine, value=[mine, turn]))
            assert flow.call(operation="GET", key=mine).data == [mine, turn]
            refused(flow.call(operation="HGETALL", key=mine), "wrong_type")
            answered(flow.call(operation="HSET", key=f"{mine}:h", value={mine: turn}))
            assert flow.call(operation="HGETALL", key=f"{mine}:h").data == {mine: str(turn)}
            assert flow.call(operation="DEL", key=mine, idempotencyKey=turn).data == 1

    together(8, write_and_read)


# -- metadata -------------------------------------------------------------------------------------


def test_each_call_has_an_id_of_its_own(flow: Flow, key: str) -> None:
    """No two answers carry the same requestId, failures included."""
    bodies: list[dict[str, Any]] = [
        {"operation": "GET", "key": key},
        {"operation": "SET", "key": key, "value": 1},
        {"operation": "NOPE", "key": key},
    ]
    ids = [flow.call(**body).json["metadata"]["requestId"] for body in bodies * 20]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[0-9A-Za-z-]{8,64}", each) for each in ids)


def test_the_latency_is_a_number_of_milliseconds(flow: Flow, key: str) -> None:
    """latencyMs is a number, above nothing and no more than a call can take."""
    for operation in ("GET", "HGETALL", "DEL"):
        latency = answered(flow.call(operation=operation, key=key))["metadata"]["latencyMs"]
        assert 0 < latency < 10_000


def test_a_shorter_deadline_may_be_asked_for(flow: Flow, key: str) -> None:
    """deadlineMs is taken as number, text or float; unset it is as if it had not been sent."""
    for deadline in (10_000, "10000", 10_000.0, None, "", "${input.deadline}", 2**31):
        assert flow.call(operation="GET", key=key, deadlineMs=deadline).data is None


def test_context_is_text_or_number(flow: Flow, key: str) -> None:
    """flowId and interactionId may be text, a number, or unset."""
    for context in ("retention", 7, 1.5, 2**70, None, "", "${input.flow}", "🦉" * 64):
        told = flow.call(operation="GET", key=key, flowId=context, interactionId=context)
        assert told.data is None
