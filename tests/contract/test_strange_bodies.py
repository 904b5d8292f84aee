"""Bodies as no sane client sends them, and as some do: each has one decided answer.

The decisions stand in `contract.request`. Whatever comes, the answer is the contract's envelope
and never a 500.
"""

import gzip
import http.client
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.contract.backends import Flow
from tests.contract.envelope import STATUS, answered, envelope, refused
from tests.contract.wire import post, wire
from tests.service import ROUTE, TOKEN, Answer, service

MAX_BODY = 256 * 1024
MAX_DEPTH = 64
OPERATIONS = ("SET", "GET", "HSET", "HGETALL", "DEL")

GET = b'{"operation":"GET","key":"strange"}'


def setting(value: bytes) -> bytes:
    """Write a SET of this JSON text."""
    return b'{"operation":"SET","key":"strange","value":%b}' % value


def nested(depth: int, opening: bytes = b"[", closing: bytes = b"]", inside: bytes = b"") -> bytes:
    """Write a SET that is ``depth`` levels deep, the body itself being the first."""
    return setting(opening * (depth - 1) + inside + closing * (depth - 1))


class Body(NamedTuple):
    """A body, and what the sentence that refuses it says."""

    name: str
    raw: bytes
    says: str = "body:"


# -- what is no JSON object -----------------------------------------------------------------------

REFUSED = [
    Body("empty", b"", "got nothing"),
    Body("spaces", b" \r\n\t ", "got nothing"),
    Body("only a byte order mark", b"\xef\xbb\xbf", "got nothing"),
    Body("a word", b"hello"),
    Body("an array", b"[]"),
    Body("an array of a call", b"[" + GET + b"]"),
    Body("a string", b'"GET"'),
    Body("a call as a string", json.dumps(GET.decode()).encode()),
    Body("a number", b"17"),
    Body("true", b"true"),
    Body("null", b"null"),
    Body("half an object", GET[:-1]),
    Body("half a string", GET[:-3]),
    Body("a comma too many", GET[:-1] + b",}"),
    Body("a comma too few", b'{"operation":"GET" "key":"strange"}'),
    Body("two objects", GET + GET),
    Body("something behind it", GET + b" x"),
    Body("a comment", b"/* */" + GET),
    Body("single quotes", GET.replace(b'"', b"'")),
    Body("names without quotes", b"{operation:GET,key:strange}"),
    Body("an assignment", b"payload=" + GET),
    Body("XML", b"<?xml version='1.0'?><operation>GET</operation>"),
    Body("a raw line break in a string", setting(b'"a\nb"')),
    Body("a raw NUL in a string", setting(b'"a\x00b"')),
    Body("a NUL before it", b"\x00" + GET),
    Body("a NUL behind it", GET + b"\x00"),
    Body("only NULs", b"\x00" * 64),
    Body("an unknown escape", setting(b'"\\x41"')),
    Body("half an escape", setting(b'"\\u12"')),
    Body("NaN", setting(b"NaN")),
    Body("Infinity", setting(b"Infinity")),
    Body("-Infinity", setting(b"-Infinity")),
    Body("beyond a double", setting(b"1e400")),
    Body("beyond a double, negative", setting(b"-1e400")),
    Body("beyond a double, as a ttl", setting(b'1,"ttl":1e400')),
    Body("a leading zero", setting(b"01")),
    Body("a leading plus", setting(b"+1")),
    Body("a leading point", setting(b".5")),
    Body("hexadecimal", setting(b"0x10")),
    Body("5,000 digits", setting(b"9" * 5000)),
    Body("5,000 digits as a ttl", setting(b'1,"ttl":' + b"9" * 5000)),
    Body("a high surrogate alone", setting(b'"\\ud800"')),
    Body("a low surrogate alone", setting(b'"\\udc00"')),
    Body("surrogates the wrong way round", setting(b'"\\ude00\\ud83d"')),
    Body("a surrogate in a key", b'{"operation":"GET","key":"a\\ud800b"}'),
    Body("a surrogate in a name", setting(b'{"\\ud800":1}')),
    Body("a surrogate in an unknown field", setting(b'1,"x":"\\udfff"')),
    Body("a surrogate in raw UTF-8", setting(b'"\xed\xa0\x80"')),
    Body("Latin-1", setting('"Grüße"'.encode("latin-1")), "UTF-8"),
    Body("a byte that UTF-8 has not", setting(b'"\xff"'), "UTF-8"),
    Body("an overlong NUL", setting(b'"\xc0\x80"'), "UTF-8"),
    Body("half a character", setting(b'"\xe2\x82"'), "UTF-8"),
    Body("beyond Unicode", setting(b'"\xf4\x90\x80\x80"'), "UTF-8"),
    Body("UTF-16 with a mark", GET.decode().encode("utf-16"), "UTF-16"),
    Body("UTF-16 without a mark", GET.decode().encode("utf-16-le"), "UTF-16"),
    Body("UTF-16, the other way", GET.decode().encode("utf-16-be"), "UTF-16"),
    Body("UTF-32", GET.decode().encode("utf-32"), "UTF-32"),
    Body("gzip", gzip.compress(GET, mtime=0), "gzip"),
    Body("65 levels of arrays", nested(65), "64 levels"),
    Body("65 levels of objects", nested(65, b'{"a":', b"}", b"1"), "64 levels"),
    Body("65 levels in an unknown field", b'{"x":' + b"[" * 64 + b"]" * 64 + b"}", "64 levels"),
    Body("1,000 levels", nested(1_000), "64 levels"),
    Body("100,000 levels", nested(100_000), "64 levels"),
    Body("100,000 levels without an end", setting(b"[" * 100_000)),
    Body("40,000 objects without an end", b'{"a":' * 40_000),
    Body("only brackets", b"[" * 200_000),
    Body("only quotes", b'"' * 200_001),
    Body("only backslashes", b'{"' + b"\\" * 200_000),
    Body("random bytes", bytes(range(256)) * 64),
]


@pytest.mark.parametrize("body", REFUSED, ids=lambda body: body.name)
def test_what_is_no_json_object_is_refused(flow: Flow, body: Body) -> None:
    """A body that is no JSON object is an invalid_request, which says what is wrong with it."""
    told = refused(flow.post(body.raw), "invalid_request", body.says)
    assert told["error"].startswith("body:")
    assert told["metadata"]["operation"] is None
    assert told["retryable"] is False


# -- what is one, and lacks what a call needs -----------------------------------------------------

KEY = b'"key":"strange"'

MISTAKEN = [
    Body("no field at all", b"{}", "operation:"),
    Body("no operation", b"{%b}" % KEY, "operation:"),
    *(
        Body(f"operation {value.decode()}", b'{"operation":%b,%b}' % (value, KEY), "operation:")
        for value in (b"5", b"null", b"true", b"[]", b'["GET"]', b"{}", b'""', b'"NOPE"', b'"GET "')
    ),
    Body("a command of Redis", b'{"operation":"FLUSHALL",%b}' % KEY, "operation:"),
    Body("a long operation", b'{"operation":"%b",%b}' % (b"GET" * 5_000, KEY), "operation:"),
    Body("two operations", b'{"operation":"GET\\r\\nDEL",%b}' % KEY, "operation:"),
    Body("a name in another case", b'{"Operation":"GET",%b}' % KEY, "operation:"),
    Body("no key", b'{"operation":"GET"}', "key:"),
    *(
        Body(f"key {value.decode()}", b'{"operation":"GET","key":%b}' % value, "key:")
        for value in (b"5", b"null", b"true", b"[]", b'["k"]', b"{}", b'""')
    ),
    Body("SET without a value", b'{"operation":"SET",%b}' % KEY, "value:"),
    Body("HSET without a value", b'{"operation":"HSET",%b}' % KEY, "value:"),
    *(
        Body(f"{field} {value.decode()}", setting(b'1,"%b":%b' % (field.encode(), value)), field)
        for field, values in {
            "ttl": (b"true", b"[]", b"{}", b'"soon"', b"1.5", b"0", b"-1", b"9" * 4300),
            "type": (b"5", b"true", b"[]", b"{}", b'"list"', b'"string "'),
            "flowId": (b"true", b"[]", b"{}"),
            "interactionId": (b"false", b"[1]", b'{"id":1}'),
            "deadlineMs": (b"true", b"[]", b"{}", b'"fast"', b"1.5", b"0", b"-1", b"1e12"),
            "idempotencyKey": (b"true", b"[]", b"{}"),
        }.items()
        for value in values
    ),
]


@pytest.mark.parametrize("body", MISTAKEN, ids=lambda body: body.name[:40])
def test_a_mistake_names_its_field(flow: Flow, body: Body) -> None:
    """A field that is missing or of a wrong type is refused in a sentence that names it first."""
    told = refused(flow.post(body.raw), "invalid_request")
    assert told["error"].startswith(body.says)
    assert len(told["error"]) < 300
    assert told["retryable"] is False


@pytest.mark.parametrize("field", ["key", "flowId", "interactionId", "idempotencyKey"])
def test_a_field_too_long_names_itself(flow: Flow, field: str) -> None:
    """What is over the limit of its field is too_large, and the answer does not repeat it."""
    fields = {"operation": "GET", "key": "strange"} | {field: "x" * 100_000}
    told = refused(flow.call(**fields), "too_large", f"{field}:")
    assert len(told["error"]) < 300


def test_an_unknown_operation_is_repeated_in_part_only(flow: Flow) -> None:
    """The answer names an unknown operation, up to 32 characters of it."""
    told = refused(flow.call(operation="nope" * 1000, key="strange"), "invalid_request")
    assert told["metadata"]["operation"] == "NOPE" * 8
    told = refused(flow.call(operation="nope", key="strange"), "invalid_request", '"NOPE"')
    assert all(name in told["error"] for name in OPERATIONS)


# -- what is strange, and means something ---------------------------------------------------------


def test_of_a_field_that_comes_twice_the_last_counts(flow: Flow, key: str) -> None:
    """Duplicate names mean what they mean in a browser: the last one wins, at every level."""
    body = (
        '{"operation":"DEL","key":"%s:not","ttl":1,"value":1,"ttl":60,'
        '"value":{"a":1,"a":2},"operation":"SET","key":"%s"}'
    )
    told = answered(flow.post((body % (key, key)).encode()))
    assert (told["data"], told["metadata"]["operation"]) == ("OK", "SET")
    assert flow.redis("GET", key) == b'{"a":2}'
    assert 10 < flow.redis("TTL", key) <= 60
    assert flow.redis("EXISTS", f"{key}:not") == 0


def test_a_byte_order_mark_is_skipped(flow: Flow, key: str) -> None:
    """What some editors put before UTF-8 does no harm."""
    body = b'\xef\xbb\xbf{"operation":"SET","key":"%b","value":"\xef\xbb\xbf"}' % key.encode()
    assert answered(flow.post(body))["data"] == "OK"
    assert flow.call(operation="GET", key=key).data == "\ufeff"


def test_unknown_fields_are_ignored(flow: Flow, key: str) -> None:
    """A newer flow may send what this flowcache does not know, of any type and under any name."""
    unknown: dict[str, Any] = {
        "": 1,
        "Key": "other",
        "KEY": None,
        "ttl ": "never",
        "__proto__": {"key": "other"},
        "__type": "x",
        "metadata": {"operation": "DEL"},
        "a\x00b": [[]],
        "n" * 10_000: "🦉",
    }
    assert flow.call(**unknown, operation="SET", key=key, value=1).data == "OK"
    assert flow.call(operation="GET", key=key, **unknown).data == 1


def test_white_space_does_not_matter(flow: Flow, key: str) -> None:
    """JSON may be laid out as one likes, up to the limit of the body."""
    body = json.dumps({"operation": "SET", "key": key, "value": [1]}, indent=4).encode()
    padded = b"\r\n\t " * 50_000 + body + b"\n" * 1_000
    assert answered(flow.post(padded))["data"] == "OK"
    assert flow.redis("GET", key) == b"[1]"


@pytest.mark.parametrize(
    "raw",
    [
        nested(MAX_DEPTH),
        nested(MAX_DEPTH, b'{"a":', b"}", b"1"),
        setting(b"[" + b"[]," * 1_000 + b"{}]"),
        setting(b'"' + b"[{" * 50_000 + b'"'),
        setting(b'["\\"[[[' + b"[" * 1_000 + b'","\\\\",{"' + b"{" * 1_000 + b'":1}]'),
    ],
    ids=["64 arrays", "64 objects", "wide", "brackets in a string", "brackets behind escapes"],
)
def test_depth_is_counted_and_not_brackets(flow: Flow, raw: bytes) -> None:
    """64 levels are taken, and so are many brackets side by side or inside of strings."""
    assert answered(flow.post(raw))["data"] == "OK"
    assert flow.call(operation="GET", key="strange").data == json.loads(raw)["value"]


def test_4300_digits_are_taken(flow: Flow) -> None:
    """The longest integer that is taken has 4,300 digits, in a field that is ignored as well."""
    digits = b"9" * 4300
    assert answered(flow.post(setting(digits + b',"unknown":' + digits)))["data"] == "OK"


@pytest.mark.parametrize("item", [b"[]", b"{}", b"1", b'""'])
def test_elements_are_bounded(flow: Flow, key: str, item: bytes) -> None:
    """A value has at most 10,000 items and members, in a call as well as under its key."""
    at_most, too_many = (b"[" + b",".join([item] * n) + b"]" for n in (10_000, 10_020))
    body = b'{"operation":"SET","key":"%b","value":%b}'
    assert answered(flow.post(body % (key.encode(), at_most)))["data"] == "OK"
    assert len(flow.call(operation="GET", key=key).data) == 10_000
    told = refused(flow.post(body % (key.encode(), too_many)), "too_large", "body:")
    assert "10000 elements" in told["error"]
    assert len(flow.call(operation="GET", key=key).data) == 10_000


# -- how long, and in how many pieces -------------------------------------------------------------


def padded(size: int) -> bytes:
    """Write a SET of exactly that many bytes."""
    body = setting(b'"' + b"x" * (size - len(setting(b'""'))) + b'"')
    assert len(body) == size
    return body


def pieces(body: bytes, size: int) -> Iterator[bytes]:
    """Cut a body into chunks."""
    return (body[start : start + size] for start in range(0, len(body), size))


@pytest.mark.parametrize("size", [1_000, 16 * 1024, MAX_BODY])
def test_a_body_at_the_limit_is_taken(flow: Flow, size: int) -> None:
    """256 KiB are taken to the last byte, with a Content-Length and in chunks of any size."""
    body = padded(MAX_BODY)
    assert answered(flow.service.post(body))["data"] == "OK"
    assert answered(flow.service.post(pieces(body, size)))["data"] == "OK"


@pytest.mark.parametrize("size", [1_000, 16 * 1024, MAX_BODY + 1])
def test_a_body_over_the_limit_is_too_large(flow: Flow, key: str, size: int) -> None:
    """One byte more is too_large, with a Content-Length and in chunks, and nothing is written."""
    flow.redis("SET", "strange", "before", "EX", 600)
    body = padded(MAX_BODY + 1)
    refused(flow.service.post(body), "too_large", "body:")
    refused(flow.service.post(pieces(body, size)), "too_large", "body:")
    assert flow.redis("GET", "strange") == b"before"


@pytest.mark.parametrize("sent", [0, MAX_BODY, 3_000_000])
def test_a_body_much_too_large_is_answered_all_the_same(flow: Flow, sent: int) -> None:
    """The refusal is there to be read although the server takes no more of the body."""
    head = post(b"", f"Content-Length: {10_000_000}", declares_length=False)
    with wire(flow.service.port) as connection:
        connection.send(head + b"x" * sent)
        refused(connection.receive(), "too_large", "body:")


def test_a_body_in_small_chunks_is_put_together(flow: Flow, key: str) -> None:
    """Chunks may cut a body anywhere, inside of a character too; their extensions are ignored."""
    body = json.dumps({"operation": "SET", "key": key, "value": "🦉ü"}, ensure_ascii=False).encode()
    for size in (1, 2, 3, 7):
        assert answered(flow.service.post(pieces(body, size)))["data"] == "OK"
        assert flow.call(operation="GET", key=key).data == "🦉ü"
    chunk = b"%x;name=value\r\n%b\r\n" % (len(GET), GET)
    request = post(b"", "Transfer-Encoding: chunked", declares_length=False)
    with wire(flow.service.port) as connection:
        connection.send(request + chunk + b"0\r\nTrailer: 1\r\n\r\n")
        answered(connection.receive())


def test_a_body_that_comes_byte_by_byte_is_put_together(flow: Flow) -> None:
    """A slow client is as good as a fast one, within the time for a body."""
    with wire(flow.service.port) as connection:
        for byte in post(GET):
            connection.send(bytes([byte]))
        answered(connection.receive())


def test_a_chunked_body_without_a_chunk_is_empty(flow: Flow) -> None:
    """No chunks are no body."""
    refused(flow.service.post(iter(())), "invalid_request", "got nothing")


def test_a_request_without_a_length_has_no_body(flow: Flow) -> None:
    """A POST that announces no body has none."""
    with wire(flow.service.port) as connection:
        connection.send(post(b"", declares_length=False))
        refused(connection.receive(), "invalid_request", "got nothing")


def test_a_body_that_ends_early_is_no_bug_of_ours(flow: Flow) -> None:
    """Who sends less than announced, and says it was all, is told so: it is no 500."""
    with wire(flow.service.port) as connection:
        connection.send(post(GET + b" " * 20)[:-20])
        connection.end()
        refused(connection.receive(), "invalid_request", "body:")


BROKEN_CHUNKS = [
    b"zz\r\nhello\r\n0\r\n\r\n",
    b"-5\r\nhello\r\n0\r\n\r\n",
    b"5\r\nhelloXX0\r\n\r\n",
    b"ffffffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    b"%x\r\n%b\r\nno number\r\n\r\n" % (len(GET), GET),
]


@pytest.mark.parametrize("chunks", BROKEN_CHUNKS, ids=lambda chunks: repr(chunks)[2:14])
def test_a_body_in_broken_chunks_is_no_bug_of_ours(flow: Flow, chunks: bytes) -> None:
    """Chunks that break the rules of HTTP are the client's mistake: it is no 500."""
    with wire(flow.service.port) as connection:
        connection.send(post(b"", "Transfer-Encoding: chunked", declares_length=False) + chunks)
        refused(connection.receive(), "invalid_request", "body:")


def test_a_body_that_never_ends_is_given_up() -> None:
    """A client that stalls in the middle of a body is answered after the time for a body."""
    environment = {"FLOWCACHE_HTTP_BODY_TIMEOUT_SECONDS": "0.2"}
    with service(environment, "--embedded") as running, wire(running.port) as connection:
        connection.send(post(GET + b" ")[:-1])
        refused(connection.receive(), "invalid_request", "body: it was not complete")


# -- anything at all ------------------------------------------------------------------------------

TEXTS = st.one_of(
    st.text(max_size=20),
    st.sampled_from(["", "fuzz:a", "fuzz:b", "${input.x}", "hash", "string", "60", "null", "a}b"]),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)
CALLS = st.fixed_dictionaries(
    {},
    optional={
        "operation": st.sampled_from([*OPERATIONS, "get", "FLUSHALL"]) | JSON,
        "key": st.sampled_from(["fuzz:a", "fuzz:b", "fuzz:c"]) | TEXTS.map("fuzz:{}".format) | JSON,
        "value": JSON | st.dictionaries(TEXTS, TEXTS | st.integers(), max_size=4),
        "ttl": st.integers(-5, 5_000) | JSON,
        "type": st.sampled_from(["hash", "string"]) | JSON,
        "flowId": JSON,
        "interactionId": JSON,
        "deadlineMs": st.integers(-1, 1_000) | JSON,
        "idempotencyKey": TEXTS | JSON,
        "unknown": JSON,
    },
)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Draw a call that something happened to on its way."""
    raw = bytearray(json.dumps(draw(CALLS)).encode())
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(raw)))
        raw[place : place + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(raw)


BODIES = (
    CALLS.map(lambda call: json.dumps(call).encode())
    | CALLS.map(lambda call: json.dumps(call, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    | JSON.map(lambda value: json.dumps(value).encode())
    | damaged()
    | st.binary(max_size=200)
)


class KeepAlive:
    """One connection for many calls; opened again where the server hung up."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)

    def __enter__(self) -> "KeepAlive":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def post(self, body: bytes) -> Answer:
        """Post a body to the data action."""
        self._connection.request("POST", ROUTE, body, {"authorization": f"Bearer {TOKEN}"})
        response = self._connection.getresponse()
        content = response.read()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, headers, content)


def test_whatever_is_posted_is_answered_by_the_contract(flow: Flow) -> None:
    """Any body at all gets the envelope, and none an internal error."""
    with KeepAlive(flow.service.port) as connection:

        @settings(
            max_examples=120,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        )
        @given(BODIES)
        def holds(body: bytes) -> None:
            answer = connection.post(body)
            told = envelope(answer)
            expected = {400, 409, 413}
            # A deadline of a millisecond may really pass.
            expected.add(STATUS["deadline_exceeded"] if b"deadlineMs" in body else 200)
            assert answer.status in expected | {200}, told

        holds()
    assert flow.service.inspect("?limit=0")["circuitState"] == "closed"
