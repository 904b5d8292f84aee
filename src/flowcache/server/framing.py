"""From bytes to requests: where a head ends and what it says, where a body ends. No I/O.

llhttp (by httptools) judges every byte of a head and of a chunked body, with none of its
leniencies: bare LF, folded lines, space before a colon, two lengths, a length beside chunks are
refused. It knows RTSP and ICE as well, and allows several blanks before the version; what stands
there is looked at here. It has two habits that a server can't live with, so it is never fed beyond
an end:

- it can't be stopped: whatever follows a message in the same bytes is parsed as the next one, and
  a client could make it queue thousands of requests. The end of a head and that of a chunked
  body are always an empty line, so it is fed up to the next one, and asked;
- it takes a request that offers an upgrade to have no body, whatever its length says. So lengths
  are counted here.

A head has a parser of its own: to make one costs less than to feed it a body.

A method that llhttp doesn't know is a method all the same (RFC 9110, 9.1): llhttp is given a GET in
its place. That word is the only thing that is judged here.
"""

from __future__ import annotations

import re
from hashlib import sha256

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from flowcache.server.refusal import BadRequest

__all__ = ["MAX_FIELDS", "MAX_HEAD", "ChunkedBody", "Head", "HeadReader", "KnownHead"]

MAX_HEAD = 32 * 1024
"""Bytes of a head, from its first to the end of its empty line."""
MAX_FIELDS = 100
"""Lines of a head after the first."""

_LINE_END = b"\r\n"
_EMPTY_LINE = b"\r\n\r\n"
_STRADDLE = len(_EMPTY_LINE) - 1
_NAMES = {
    b"POST": "POST",
    b"GET": "GET",
    b"HEAD": "HEAD",
    b"PUT": "PUT",
    b"PATCH": "PATCH",
    b"DELETE": "DELETE",
    b"OPTIONS": "OPTIONS",
    b"TRACE": "TRACE",
    b"CONNECT": "CONNECT",
}
"""The methods that llhttp may see as they came; the first is by far the most frequent."""
_NATIVE = tuple(name + b" " for name in _NAMES)

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
_OPENING = re.compile(rb"(?:\r\n){0,2}(%b{1,32}) " % _TOKEN)
_MAY_OPEN = re.compile(rb"(?:\r\n){0,2}(?:%b{1,32}|\r)?" % _TOKEN)
_TLS_HANDSHAKE = b"\x16"


class Head:
    """What a request says before its body. llhttp fills it in by the methods ``on_…``.

    ``headers`` are pairs as they came, names in lower case; ``fields`` the same by name, the last
    of each. ``length`` is the body's in bytes, -1 when it is chunked.
    """

    __slots__ = (
        "expects_continue",
        "fields",
        "headers",
        "keep_alive",
        "length",
        "method",
        "target",
        "version",
    )

    def __init__(self) -> None:
        self.method = ""
        self.target = b""
        self.version = ""
        self.headers: list[tuple[bytes, bytes]] = []
        self.fields: dict[bytes, bytes]
        self.length = 0
        self.keep_alive = True
        self.expects_continue = False

    def on_url(self, part: bytes) -> None:
        """Take a piece of the target."""
        self.target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a field; llhttp leaves the blanks after its value to us."""
        self.headers.append((name.lower(), value.rstrip()))

    def settle(self, method: str, version: str) -> None:
        """Read what concerns the connection and the body, once all fields are there.

        Raises:
            BadRequest: a rule of HTTP is broken that llhttp doesn't know of.
        """
        self.method, self.version = method, version
        headers = self.headers
        if len(headers) > MAX_FIELDS:
            raise _refused(f"it has more than {MAX_FIELDS} header fields")
        self.fields = fields = dict(headers)
        if version == "1.1":
            if b"host" not in fields:
                raise _refused("it has no Host")
        elif version != "1.0":
            raise _refused("HTTP/1.1 and HTTP/1.0 are spoken here")
        if len(fields) != len(headers) and self._all(b"host", headers).count(b",") > 0:
            raise _refused("it has more than one Host")
        length = fields.get(b"content-length")
        if length is not None:
            # llhttp has seen that it is one number of 64 bits; int() refuses thousands of zeros.
            self.length = int(length.lstrip(b"0") or b"0")
        elif b"transfer-encoding" in fields:
            if version == "1.0":
                raise _refused("HTTP/1.0 has no Transfer-Encoding")
            if self._all(b"transfer-encoding", headers).lower() != b"chunked":
                raise _refused("the only Transfer-Encoding there is here is chunked")
            self.length = -1
        if b"connection" in fields or version == "1.0":
            options = [o.strip() for o in self._all(b"connection", headers).lower().split(b",")]
            self.keep_alive = b"close" not in options and (
                version == "1.1" or b"keep-alive" in options
            )
        if method == "CONNECT":
            self.keep_alive = False  # what follows would be meant for somebody else
        if b"expect" in fields:
            self.expects_continue = (
                version == "1.1" and fields[b"expect"].lower() == b"100-continue"
            )

    def without_fields(self) -> Head:
        """Return what is known of this head but its fields."""
        head = Head()
        head.method, head.target, head.version = self.method, self.target, self.version
        head.fields = {}
        head.length = self.length
        head.keep_alive, head.expects_continue = self.keep_alive, self.expects_continue
        return head

    @staticmethod
    def _all(name: bytes, headers: list[tuple[bytes, bytes]]) -> bytes:
        """Return the values of all fields of one name as one (RFC 9110, 5.3)."""
        return b",".join(value for each, value in headers if each == name)


class HeadReader:
    """Read one head after the other from a connection's bytes."""

    __slots__ = ("_head", "_line", "_method", "_opening", "_parser", "_size", "_tail")

    def __init__(self) -> None:
        self._opening = b""
        """What came of a first word that is not complete."""
        self._start()

    def _start(self) -> None:
        self._parser: HttpRequestParser | None = None
        self._head: Head
        self._line = b""
        """What came of a head that is not complete, until its first line is."""
        self._method = ""
        self._size = 0
        self._tail = b""

    @property
    def is_inside(self) -> bool:
        """Whether a head has begun and not ended."""
        return self._parser is not None or self._opening != b""

    def feed(self, data: bytes) -> tuple[Head, bytes] | None:
        """Return the head that ``data`` completes and what follows it; None while there is none.

        Raises:
            BadRequest: these bytes are no HTTP that is served here.
        """
        parser = self._parser
        if parser is None:
            if self._opening or not data.startswith(_NATIVE):
                opened = self._open(data)
                if opened is None:
                    return None
                data = opened
            self._head = Head()
            self._parser = parser = HttpRequestParser(self._head)
        end = _end(self._tail, data)
        self._size += end or len(data)
        if self._size > MAX_HEAD:
            raise _refused(f"its head is longer than {MAX_HEAD} bytes")
        try:
            parser.feed_data(memoryview(data)[:end] if end else data)
        except HttpParserUpgrade:
            pass  # an offer that is not taken up; the head is complete
        except HttpParserError as fault:
            raise _refused(_reason(fault)) from None
        if not end:
            self._tail = (self._tail + data)[-_STRADDLE:]
            if _LINE_END not in self._line:
                self._line += data
            return None
        head = self._head
        del self._head  # it holds a credential, as a rule
        line = self._line + data if self._line else data
        if not line.startswith(b"HTTP/", len(parser.get_method()) + len(head.target) + 2):
            raise _refused("HTTP/1.1 and HTTP/1.0 are spoken here")
        head.settle(self._method or _NAMES[parser.get_method()], parser.get_http_version())
        if self._method or self._tail:
            self._start()
        else:
            self._parser, self._size = None, 0
        return head, data[end:]

    def _open(self, data: bytes) -> bytes | None:
        """Return ``data`` from its first word, with one that llhttp knows; None when it isn't all
        there."""
        data = self._opening + data
        found = _OPENING.match(data)
        if found is None:
            if _MAY_OPEN.fullmatch(data):
                self._opening = data
                return None
            if data.startswith(_TLS_HANDSHAKE):
                raise _refused("TLS is not spoken here, only plain HTTP/1.1")
            raise _refused("it does not begin with a method")
        self._opening = b""
        method = found[1]
        if method == b"PRI":
            raise _refused("HTTP/2 is not spoken here, only HTTP/1.1")
        if method in _NAMES:
            return data[found.start(1) :]
        self._method = method.decode("ascii")
        return b"GET" + data[found.end(1) :]


class KnownHead:
    """A head that a connection has seen: the next one is known by its digest, and not parsed.

    Clients tend to repeat a head to the byte. It holds a credential, as a rule, which must not stay
    in memory between two requests: neither the bytes nor the fields are kept, only their digest,
    what framing needs, and what the application makes of it (``kept``).
    """

    __slots__ = ("_digest", "_size", "head", "kept", "whole")

    def __init__(self, raw: bytes, head: Head, kept: object) -> None:
        self._digest = sha256(raw).digest()
        self._size = len(raw)
        self.whole = self._size + head.length
        """The bytes of a request that has this head, with its body."""
        self.head = head.without_fields()
        self.kept = kept

    def begins(self, data: bytes) -> bool:
        """Tell whether ``data`` begins with a whole request that has this head."""
        return len(data) >= self.whole and sha256(data[: self._size]).digest() == self._digest

    def body(self, data: bytes) -> bytes:
        """Return the body of that request."""
        return data[self._size : self.whole]


_CHUNKED_HEAD = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
_OVERHEAD = 4 * 1024
"""Bytes that chunks may cost beside what they carry, and as many more as they carry. Extensions and
trailers are read and dropped, and would have no end otherwise."""
_PIECES = 1024
_BYTES_A_PIECE = 128
"""Pieces in which a body may come, and one more for so many bytes: each costs a call. Clients write
chunks of kilobytes, or a small body word by word."""
_SLICE = 4 * 1024
"""Bytes after which is looked whether the chunks are worth reading on."""


class ChunkedBody:
    """Unpack a chunked body. llhttp calls the methods ``on_…``."""

    __slots__ = ("_overhead", "_parser", "_parts", "_pieces", "_tail", "is_complete")

    def __init__(self) -> None:
        self.is_complete = False
        self._parts: list[bytes] = []
        self._tail = b""
        self._overhead = _OVERHEAD
        self._pieces = _PIECES * _BYTES_A_PIECE
        """How many more may come, in bytes that pay for them."""
        self._parser = HttpRequestParser(self)
        self._parser.feed_data(_CHUNKED_HEAD)

    def on_body(self, part: bytes) -> None:
        """Take a piece of the body."""
        self._parts.append(part)

    def on_message_complete(self) -> None:
        """Note the end."""
        self.is_complete = True

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Return what ``data`` carries of the body, and what of it follows the body's end.

        Raises:
            BadRequest: the chunks break the rules, or are mostly something else than a body.
        """
        view, at, size = memoryview(data), 0, len(data)
        body: list[bytes] = []
        try:
            while at < size and not self.is_complete:
                end = _end(self._tail, data, at, at + _SLICE) or min(at + _SLICE, size)
                self._parser.feed_data(view[at:end])
                self._pay(end - at, is_first=not at)
                body += self._parts
                self._parts.clear()
                at = end
            self._tail = (self._tail + data[:at])[-_STRADDLE:]
        except HttpParserError as fault:
            raise _refused(_reason(fault)) from None
        return b"".join(body), data[at:]

    def _pay(self, fed: int, *, is_first: bool) -> None:
        """Charge what was fed to what it carries. To receive something costs more than its first
        piece does: a client that sends a byte now and then is not charged for these."""
        carried, pieces = sum(map(len, self._parts)), len(self._parts) - is_first
        self._overhead += 2 * carried - fed
        self._pieces += carried - _BYTES_A_PIECE * pieces
        if self._overhead < 0 or self._pieces < 0:
            raise _refused("its chunks carry too little")


def _end(tail: bytes, data: bytes, start: int = 0, stop: int | None = None) -> int:
    """Return where in ``data`` the first empty line ends, 0 when there is none.

    ``tail`` is what came before ``data``: an empty line may have begun there. The end of a message
    never overlaps another empty line: before it stands a character of a line that isn't empty.
    One that begins from ``stop`` on is not looked for.
    """
    if tail and not start:
        at = (tail + data[:_STRADDLE]).find(_EMPTY_LINE)
        if at >= 0:
            return at + len(_EMPTY_LINE) - len(tail)
    at = data.find(_EMPTY_LINE, start, None if stop is None else stop + _STRADDLE)
    return at + len(_EMPTY_LINE) if at >= 0 else 0


def _reason(fault: HttpParserError) -> str:
    """Return llhttp's reason; it is a constant of llhttp, and repeats nothing of the request."""
    text = str(fault)
    return text[:1].lower() + text[1:]


def _refused(why: str) -> BadRequest:
    return BadRequest(f"The request is no valid HTTP: {why}.")
