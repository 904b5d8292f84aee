"""What is a request and what is not: the rules that keep one request from being two."""

from __future__ import annotations

import pytest

from flowcache.server.framing import MAX_FIELDS, MAX_HEAD, ChunkedBody, Head, HeadReader
from flowcache.server.refusal import BadRequest


def head(*lines: str, start: str = "POST / HTTP/1.1", host: str = "Host: x") -> bytes:
    """Write a head; lines are as they would stand there."""
    return "\r\n".join(filter(None, (start, host, *lines, "\r\n"))).encode("latin-1")


def read(data: bytes) -> Head:
    """Read one head that is complete, with nothing after it."""
    found = HeadReader().feed(data)
    assert found is not None
    complete, rest = found
    assert rest == b""
    return complete


def refused(data: bytes) -> str:
    with pytest.raises(BadRequest) as caught:
        HeadReader().feed(data)
    assert caught.value.message.startswith("The request is no valid HTTP: ")
    assert caught.value.message.endswith(".")
    return caught.value.message


def test_a_head_is_read() -> None:
    """Method, target, fields in order and by name, and what follows the head is left alone."""
    found = HeadReader().feed(head("X-One: 1", "x-one:  two ", "Content-Length: 3") + b"abcPOST")
    assert found is not None
    read, rest = found
    assert (read.method, read.target, read.version) == ("POST", b"/", "1.1")
    assert read.headers == [
        (b"host", b"x"),
        (b"x-one", b"1"),
        (b"x-one", b"two"),
        (b"content-length", b"3"),
    ]
    assert (read.length, read.keep_alive, read.expects_continue) == (3, True, False)
    assert rest == b"abcPOST"


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_a_head_is_the_same_however_it_is_cut(size: int) -> None:
    """Bytes arrive as the network likes."""
    data = b"\r\n" + head("X-One: 1", start="NONSENSE /a?b HTTP/1.1")
    reader = HeadReader()
    for at in range(0, len(data), size):
        assert not reader.is_inside or at
        found = reader.feed(data[at : at + size])
        assert (found is not None) == (at + size >= len(data))
    assert found is not None
    assert (found[0].method, found[0].target) == ("NONSENSE", b"/a?b")
    assert found[0].headers == [(b"host", b"x"), (b"x-one", b"1")]
    assert not reader.is_inside


@pytest.mark.parametrize(
    "lines",
    [
        ("Content-Length: 1", "Content-Length: 1"),
        ("Content-Length: 1", "Content-Length: 2"),
        ("Content-Length: 1, 1",),
        ("Content-Length: 1", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: chunked", "Content-Length: 1"),
        ("Content-Length: +1",),
        ("Content-Length: -1",),
        ("Content-Length: 0x1",),
        ("Content-Length: 1 2",),
        ("Content-Length:",),
        ("Content-Length: 18446744073709551616",),
        ("Content-Length : 1",),
        ("Transfer-Encoding : chunked",),
        ("Transfer-Encoding: identity",),
        ("Transfer-Encoding: gzip",),
        ("Transfer-Encoding: gzip, chunked",),
        ("Transfer-Encoding: gzip", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: chunked, chunked",),
        ("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: chunked, gzip",),
        ("Transfer-Encoding: xchunked",),
        ("Transfer-Encoding: chunked;q=1",),
        ("Transfer-Encoding: \x0bchunked",),
        ("Transfer-Encoding: ",),
        ("A: b\r\n c",),
        ("A: b\r\n\tc",),
        (" A: b",),
        ("A: b\nC: d",),
        ("A: b\rC: d",),
        ("A: b\0c",),
        (": b",),
        ("A",),
        ("A(: b",),
        ("A b: c",),
        ("Host: y",),
        ("Host: x",),
    ],
    ids=repr,
)
def test_what_two_servers_might_read_differently_is_refused(lines: tuple[str, ...]) -> None:
    """A proxy before us must not see another request in the same bytes (RFC 9112, 11.2)."""
    refused(head(*lines))


@pytest.mark.parametrize(
    "data",
    [
        head(host=""),
        head(start="GET / HTTP/0.9"),
        head(start="GET / HTTP/2.0"),
        head(start="GET / HTTP/1.2"),
        head(start="GET /"),
        head(start="GET / HTTP/1.1 "),
        head(start="GET /a b HTTP/1.1"),
        head(start="GET /\x01 HTTP/1.1"),
        head(start="GET /\xff HTTP/1.1"),
        head(start="GET\t/ HTTP/1.1"),
        head(start="GET /  HTTP/1.1"),
        head(start="POST / RTSP/1.0"),
        head(start="OPTIONS * RTSP/1.1"),
        head(start="STRANGE / RTSP/1.0"),
        head(start="GET /HTTP/1.1 RTSP/1.0"),
        head(start="GET / ICE/1.0"),
        head(start="G(T / HTTP/1.1"),
        head(start=f"{'X' * 33} / HTTP/1.1"),
        head("Transfer-Encoding: chunked", start="POST / HTTP/1.0"),
        b"GET / HTTP/1.1\nHost: x\n\n",
        b"GET / HTTP/1.1\r\nHost: x\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n\n",
        b"\r\n\r\n\r\nGET / HTTP/1.1\r\n",
        b"\nGET / HTTP/1.1\r\n",
        b" GET / HTTP/1.1\r\n",
        b"GARBAGE\r\n\r\n",
        b"{}",
    ],
    ids=repr,
)
def test_what_is_no_request_is_refused(data: bytes) -> None:
    """As soon as bytes can't become a request any more, they are refused, complete or not."""
    refused(data)


def test_who_speaks_another_protocol_is_told_which() -> None:
    """TLS and HTTP/2 are frequent mistakes, and easy to tell."""
    assert "TLS" in refused(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
    assert "HTTP/2" in refused(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")


@pytest.mark.parametrize("size", [1, 2, 7])
def test_another_protocol_is_refused_however_it_is_cut(size: int) -> None:
    """What stands before the version is looked at, wherever the network has cut the first line."""
    data = b"\r\n" + head("X-One: HTTP/1.1", start="POST / RTSP/1.0")
    reader, last = HeadReader(), (len(data) - 1) // size * size
    for at in range(0, last, size):
        assert reader.feed(data[at : at + size]) is None
    with pytest.raises(BadRequest, match=r"HTTP/1\.1 and HTTP/1\.0 are spoken here"):
        reader.feed(data[last:])


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "TRACE", "QUERY", "post", "M-SEARCH"])
def test_any_token_is_a_method(method: str) -> None:
    """Which methods a route has is for the application to say."""
    assert read(head(start=f"{method} /x HTTP/1.1")).method == method


def test_an_unknown_method_is_no_longer_than_its_request() -> None:
    """The request after one with a strange method has its own."""
    reader = HeadReader()
    for method in ("NONSENSE", "POST", "nonsense", "GET"):
        found = reader.feed(head(start=f"{method} / HTTP/1.1"))
        assert found is not None
        assert found[0].method == method


@pytest.mark.parametrize("extra", [0, 1])
def test_a_head_has_its_limits(extra: int) -> None:
    """A head may be as long, and have as many fields, as its limits say, and no more."""
    long = head(f"A: {'x' * (MAX_HEAD - len(head('A: ')) + extra)}")
    many = head(*(["A: b"] * (MAX_FIELDS - 1 + extra)))
    assert len(long) == MAX_HEAD + extra
    for data in (long, many):
        if extra:
            refused(data)
        else:
            assert read(data)


def test_a_head_without_an_end_is_given_up() -> None:
    """What is held of a head is bounded, however slowly it comes."""
    reader, fields = HeadReader(), b"A: b\r\n" * 50
    started = head("A: b")[:-2]
    assert reader.feed(started) is None
    for _ in range((MAX_HEAD - len(started)) // len(fields)):
        assert reader.feed(fields) is None
    with pytest.raises(BadRequest, match="longer than"):
        reader.feed(fields)


@pytest.mark.parametrize(
    ("lines", "version", "stays"),
    [
        ((), "1.1", True),
        (("Connection: keep-alive",), "1.1", True),
        (("Connection: close",), "1.1", False),
        (("Connection: Keep-Alive, CLOSE",), "1.1", False),
        (("Connection: close", "Connection: keep-alive"), "1.1", False),
        (("Connection: closed",), "1.1", True),
        ((), "1.0", False),
        (("Connection: keep-alive",), "1.0", True),
        (("Connection: Upgrade", "Upgrade: h2c", "Content-Length: 2"), "1.1", True),
    ],
)
def test_who_wants_the_connection_to_stay(
    lines: tuple[str, ...], version: str, stays: bool
) -> None:
    """Persistence is as RFC 9112, 9.3, has it; an offer to upgrade changes nothing."""
    assert read(head(*lines, start=f"POST / HTTP/{version}")).keep_alive is stays


def test_what_follows_a_connect_is_for_somebody_else() -> None:
    """A tunnel is not made here, and its client may have sent ahead what it meant for it."""
    assert not read(head(start="CONNECT x:1 HTTP/1.1", host="Host: x:1")).keep_alive


@pytest.mark.parametrize(
    ("line", "version", "expects"),
    [
        ("Expect: 100-Continue", "1.1", True),
        ("Expect: 100-continue", "1.0", False),
        ("Expect: a miracle", "1.1", False),
        ("X: 100-continue", "1.1", False),
    ],
)
def test_who_waits_to_be_told_to_go_on(line: str, version: str, expects: bool) -> None:
    """An old client does not know of that, and would take it for the answer (RFC 9110, 10.1.1)."""
    found = read(head(line, "Content-Length: 2", start=f"POST / HTTP/{version}"))
    assert found.expects_continue is expects


def test_a_length_is_read_whatever_stands_before_it() -> None:
    """Zeros in front are no octal; that they are thousands is no reason for a bug."""
    assert read(head(f"Content-Length: {'0' * 5000}12")).length == 12
    assert read(head("Content-Length: 18446744073709551615")).length == 2**64 - 1
    assert read(head("Transfer-Encoding: Chunked")).length == -1
    assert read(head("Content-Length: 5", "Connection: upgrade", "Upgrade: x")).length == 5


# -- chunks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 1000])
def test_chunks_are_unpacked_and_nothing_after_them(size: int) -> None:
    """Extensions and trailers are dropped; the next request is left alone, however it is cut."""
    packed = b"5;a=b\r\nhel\r\n\r\n1\r\n!\r\n2\r\n\r\n\r\n0\r\nT: x\r\nU: y\r\n\r\n"
    after = b"\r\n\r\nPOST /"
    body = ChunkedBody()
    taken = rest = b""
    for at in range(0, len(packed + after), size):
        data = (packed + after)[at : at + size]
        if body.is_complete:
            rest += data
        else:
            part, beyond = body.feed(data)
            taken, rest = taken + part, rest + beyond
    assert (taken, rest) == (b"hel\r\n!\r\n", after)


@pytest.mark.parametrize(
    "packed",
    [
        b"zz\r\n",
        b"-1\r\n",
        b"0x1\r\n",
        b"+1\r\n",
        b" 1\r\n",
        b"1 \r\n",
        b"\r\n",
        b"1\na",
        b"1\r\nab",
        b"1\r\na\n",
        b"1;a\nb\r\n",
        b"10000000000000000\r\n",
        b"0\r\nA : b\r\n\r\n",
        b"0\r\nContent-Length : 1\r\n\r\n",
    ],
    ids=repr,
)
def test_chunks_that_break_the_rules_are_refused(packed: bytes) -> None:
    """A chunk that two servers might read differently is none."""
    with pytest.raises(BadRequest):
        ChunkedBody().feed(packed)


@pytest.mark.parametrize(
    ("begun", "endless"), [(b"1;", b"a" * 1000), (b"0\r\n", b"A: b\r\n" * 150)]
)
def test_what_chunks_carry_beside_the_body_is_bounded(begun: bytes, endless: bytes) -> None:
    """Extensions and trailers are dropped, and would have no end otherwise."""
    body = ChunkedBody()
    body.feed(begun + endless * 3)
    with pytest.raises(BadRequest, match="carry too little"):
        body.feed(endless * 3)


@pytest.mark.parametrize(
    "chunk", [b"1;" + b"a" * 100 + b"\r\nx\r\n", b"1\r\nx\r\n", b"6\r\n123456\r\n"]
)
def test_chunks_that_carry_too_little_are_refused(chunk: bytes) -> None:
    """A byte now and then does not pay for extensions without an end, nor a word for chunks."""
    body = ChunkedBody()
    body.feed(chunk * 30)
    with pytest.raises(BadRequest, match="carry too little"):
        body.feed(chunk * 4000)


@pytest.mark.parametrize("waste", [b"1\r\nx\r\n", b"6\r\n123456\r\n", b"\r\n\r\n"])
def test_what_is_refused_is_not_read_to_its_end(waste: bytes) -> None:
    """Of a hundred thousand pieces that came at once only some are handed over by the parser."""
    body = ChunkedBody()
    if waste == b"\r\n\r\n":  # the parser stops at each
        body.feed(b"%x\r\n" % (len(waste) * 100_000))
    with pytest.raises(BadRequest, match="carry too little"):
        body.feed(waste * 100_000)
    assert len(body._parts) < 1500


@pytest.mark.parametrize("size", [1, 4095, 4096, 4097, 300_000])
def test_long_chunks_are_unpacked_and_nothing_after_them(size: int) -> None:
    """However the end of the body lies to the pieces that are looked at, it is the end."""
    after = b"POST / HTTP/1.1\r\n\r\n"
    for left in range(12):
        length = 3 * 4096 - left
        packed = b"%x\r\n" % length + b"x" * length + b"\r\n0\r\n\r\n"
        body, taken, rest = ChunkedBody(), b"", b""
        for at in range(0, len(packed + after), size):
            data = (packed + after)[at : at + size]
            if body.is_complete:
                rest += data
            else:
                part, beyond = body.feed(data)
                taken, rest = taken + part, rest + beyond
        assert (len(taken), rest) == (length, after)


def test_what_follows_the_chunks_is_not_charged_to_them() -> None:
    """Requests that were sent ahead are none of the body's business, many as they may be."""
    after = b"POST / HTTP/1.1\r\n" * 10_000
    assert ChunkedBody().feed(b"1\r\nx\r\n0\r\n\r\n" + after) == (b"x", after)


def test_a_body_that_comes_word_by_word_is_a_body() -> None:
    """As clients send that write JSON piece by piece, or a byte in each packet."""
    body = ChunkedBody()
    assert body.feed(b'7\r\n"word",\r\n' * 600)[0] == b'"word",' * 600
    assert body.feed(b"0\r\n\r\n") == (b"", b"")
    assert body.is_complete
    dribble = ChunkedBody()
    dribble.feed(b"4000\r\n")
    assert b"".join(dribble.feed(b"x")[0] for _ in range(0x4000)) == b"x" * 0x4000
