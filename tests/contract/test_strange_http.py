"""Requests that are strange around the body: types, methods, routes, versions, credentials.

Every answer is the contract's envelope, to what is no HTTP at all as well.
"""

import gzip
import json
from typing import Any

import pytest

from tests.contract.backends import Flow
from tests.contract.envelope import answered, envelope, refused
from tests.contract.wire import post, wire
from tests.service import INSPECTOR_TOKEN, ROUTE, TOKEN

GET = b'{"operation":"GET","key":"strange"}'


# -- HTTP -----------------------------------------------------------------------------------------

CONTENT_TYPES = [
    *("application/json", "application/json; charset=utf-8", "application/json;charset=utf-16"),
    *("APPLICATION/JSON", "application/x-www-form-urlencoded", "text/plain", "text/html"),
    *("multipart/form-data; boundary=x", "application/octet-stream", "nonsense", "", "; ; ="),
]


@pytest.mark.parametrize("content_type", [None, *CONTENT_TYPES])
def test_any_content_type_is_json(flow: Flow, content_type: str | None) -> None:
    """A flow's default is a form's type: a body is JSON whatever its type is said to be."""
    headers = {"authorization": f"Bearer {TOKEN}"}
    if content_type is not None:
        headers["content-type"] = content_type
    answered(flow.service.request("POST", ROUTE, GET, headers))


@pytest.mark.parametrize("encoding", ["identity", "gzip", "deflate", "br", "nonsense"])
def test_content_encoding_is_not_applied(flow: Flow, encoding: str) -> None:
    """JSON that calls itself compressed is JSON; what is compressed is refused by name."""
    answered(flow.service.post(GET, {"content-encoding": encoding}))
    packed = gzip.compress(GET, mtime=0)
    refused(flow.service.post(packed, {"content-encoding": encoding}), "invalid_request", "gzip")


@pytest.mark.parametrize("target", ["/", "?x=1", "/?x=1", "?"])
def test_a_slash_or_a_query_at_the_end_changes_nothing(flow: Flow, target: str) -> None:
    """The route is known with a slash at its end and with a query, without a redirect."""
    headers = {"authorization": f"Bearer {TOKEN}"}
    answered(flow.service.request("POST", ROUTE + target, GET, headers))


def test_the_target_may_be_a_whole_url(flow: Flow) -> None:
    """A proxy's form of a request line is the same route (RFC 9112, 3.2.2)."""
    with wire(flow.service.port) as connection:
        connection.send(post(GET, target=f"http://flowcache.example{ROUTE}"))
        answered(connection.receive())


METHODS = ["GET", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY", "post", "NONSENSE"]


@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize("method", METHODS)
def test_another_method_is_not_allowed(flow: Flow, method: str, slash: str) -> None:
    """The route has one method; the answer to another says which, and needs no credential."""
    for headers in ({}, {"authorization": f"Bearer {TOKEN}"}):
        answer = flow.service.request(method, ROUTE + slash, None, headers)
        refused(answer, "method_not_allowed", ROUTE)
        assert answer.headers["allow"] == "POST"


def test_head_is_not_allowed_and_has_no_body(flow: Flow) -> None:
    """HEAD is answered as GET is, without the body."""
    with wire(flow.service.port) as connection:
        connection.send(b"HEAD %b HTTP/1.1\r\nHost: x\r\n\r\n" % ROUTE.encode() + post(GET))
        answer = connection.receive(has_body=False)
        assert (answer.status, answer.headers["allow"]) == (405, "POST")
        assert answer.headers["content-type"] == "application/json"
        answered(connection.receive())


PATHS = [
    *("/", "/nope", "/data-action", "/data-action/", "/data-action/redis/x", "/data-action/other"),
    *("/DATA-ACTION/REDIS", "//data-action/redis", "/../etc/passwd", "/%2e%2e/", "/%ff%fe", "/%00"),
    *("/metrics/x", "/inspector/x", "/healthz/", "/inspector/", "/rest", "/" + "x" * 2_000),
]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path[:30])
def test_an_unknown_route_is_not_found(flow: Flow, path: str) -> None:
    """No such route: the contract's envelope, with and without a credential, for every method."""
    for method in ("GET", "POST", "DELETE", "OPTIONS"):
        body = GET if method == "POST" else None
        for headers in ({}, {"authorization": f"Bearer {TOKEN}"}):
            told = refused(flow.service.request(method, path, body, headers), "not_found")
            assert len(told["error"]) < 300


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/inspector", "/openapi.json"])
def test_a_page_has_no_other_methods(flow: Flow, path: str) -> None:
    """Pages are read only; any other method is refused, and ``Allow`` says which there are."""
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        answer = flow.service.request(method, path, None, {})
        refused(answer, "method_not_allowed", path)
        assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD"}


@pytest.mark.parametrize("line", [b"OPTIONS *", b"CONNECT example.org:443"], ids=repr)
def test_a_target_that_is_no_path_is_not_found(flow: Flow, line: bytes) -> None:
    """What is meant for proxies and servers at large is no route of ours."""
    with wire(flow.service.port) as connection:
        connection.send(line + b" HTTP/1.1\r\nHost: example.org:443\r\n\r\n")
        refused(connection.receive(), "not_found")


def test_a_websocket_is_refused(flow: Flow, key: str) -> None:
    """An upgrade is not taken up, and the service is none the worse for it."""
    upgrade = {
        "connection": "Upgrade",
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    answered(flow.call(operation="SET", key=key, value=1))
    for path, code in ((ROUTE, "method_not_allowed"), ("/inspector/live", "not_found")):
        refused(flow.service.request("GET", path, None, upgrade), code)
    assert flow.call(operation="GET", key=key).data == 1


def test_expect_100_continue_is_answered_before_the_body(flow: Flow) -> None:
    """A client that asks first is told to go on, then answered."""
    request = post(GET, "Expect: 100-continue")
    with wire(flow.service.port) as connection:
        connection.send(request[: -len(GET)])
        assert connection.receive().status == 100
        connection.send(GET)
        answered(connection.receive())


@pytest.mark.parametrize(
    ("code", "request_"),
    [
        ("unauthorized", post(GET, "Expect: 100-continue", authorization=None)),
        (
            "too_large",
            post(b"", "Expect: 100-continue", "Content-Length: 999999", declares_length=False),
        ),
    ],
    ids=["no credential", "too large"],
)
def test_a_refusal_spares_the_client_its_body(flow: Flow, code: str, request_: bytes) -> None:
    """Who asks first and would be refused anyway is refused at once."""
    with wire(flow.service.port) as connection:
        connection.send(request_.removesuffix(GET))
        refused(connection.receive(), code)


def test_http_1_0_is_answered_and_hung_up(flow: Flow) -> None:
    """HTTP/1.0 has no persistent connections, unless the client asks for one."""
    with wire(flow.service.port) as connection:
        connection.send(post(GET, version="1.0"))
        answered(connection.receive())
        assert connection.is_over()
    with wire(flow.service.port) as connection:
        for _ in range(2):
            connection.send(post(GET, "Connection: keep-alive", version="1.0"))
            answered(connection.receive())


def test_pipelined_requests_are_answered_in_order(flow: Flow, key: str) -> None:
    """Requests sent without waiting are run and answered one after the other, failures too."""
    bodies: list[dict[str, Any]] = [
        {"operation": "SET", "key": key, "value": 1},
        {"operation": "GET", "key": key},
        {"operation": "NOPE", "key": key},
        {"operation": "SET", "key": key, "value": 2},
        {"operation": "GET", "key": key},
        {"operation": "DEL", "key": key},
        {"operation": "GET", "key": key},
    ]
    with wire(flow.service.port) as connection:
        connection.send(b"".join(post(json.dumps(body).encode()) for body in bodies) * 5)
        for _ in range(5):
            told = [envelope(connection.receive()) for _ in bodies]
            assert [each["data"] for each in told] == ["OK", 1, None, "OK", 2, 1, None]
            assert told[2]["code"] == "invalid_request"


def test_a_refused_body_leaves_the_connection_usable(flow: Flow) -> None:
    """A client's mistake costs it no connection."""
    with wire(flow.service.port) as connection:
        for body in (b"", b"nonsense", b"[" * 1_000, b"\xff", GET):
            connection.send(post(body))
            envelope(connection.receive())
        connection.send(post(GET, authorization=b"Bearer wrong"))
        refused(connection.receive(), "unauthorized")
        connection.send(post(GET))
        answered(connection.receive())


NO_HTTP = {
    "garbage": b"GARBAGE\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "no Host": post(GET).replace(b"Host: flowcache\r\n", b""),
    "two Hosts": post(GET, "Host: other"),
    "bare LF": post(GET).replace(b"\r\n", b"\n"),
    "folded": post(GET, "X-Long: a\r\n b"),
    "space before colon": post(GET, "X-Odd : a"),
    "two lengths": post(GET, f"Content-Length: {len(GET)}"),
    "length and chunks": post(GET, "Transfer-Encoding: chunked"),
    "negative length": post(GET, "Content-Length: -5", declares_length=False),
    "gzip coding": post(GET, "Transfer-Encoding: gzip, chunked", declares_length=False),
    "long head": post(GET, f"X-Long: {'x' * 40_000}"),
    "many fields": post(GET, *["X: y"] * 200),
    "HTTP/3.0": post(GET, version="3.0"),
}


@pytest.mark.parametrize("case", NO_HTTP)
def test_what_is_no_valid_http_gets_the_envelope_and_an_end(flow: Flow, case: str) -> None:
    """A refusal below the application is one like any other, and the last of its connection."""
    with wire(flow.service.port) as connection:
        connection.send(NO_HTTP[case])
        answer = connection.receive()
        told = refused(answer, "invalid_request", "The request is no valid HTTP")
        assert answer.headers["connection"] == "close"
        assert "server" not in answer.headers
        assert TOKEN not in told["error"]
        assert connection.is_over()
    answered(flow.service.post(GET))


# -- credentials ----------------------------------------------------------------------------------

GOOD = [
    b"Bearer " + TOKEN.encode(),
    b"bearer " + TOKEN.encode(),
    b"BEARER " + TOKEN.encode(),
    b"bEaReR   " + TOKEN.encode() + b"  ",
]

BAD = [
    None,
    b"",
    b"Bearer",
    b"Bearer ",
    b"Bearer  ",
    b"Bearer wrong",
    b"Bearer \xff\xfe",
    "Bearer tökén".encode(),
    b"Bearer " + b"x" * 8_000,
    b"Bearer " + TOKEN.encode()[:-1],
    b"Bearer " + TOKEN.encode() + b"x",
    b"Bearer x" + TOKEN.encode(),
    b"Bearer " + TOKEN.encode().upper(),
    b"Bearer " + TOKEN.encode() + b", Bearer " + TOKEN.encode(),
    b"Bearer " + TOKEN.encode() + b" " + TOKEN.encode(),
    b'Bearer "' + TOKEN.encode() + b'"',
    b"Bearer" + TOKEN.encode(),
    b"Bearers " + TOKEN.encode(),
    b"Basic " + TOKEN.encode(),
    b"Basic Zmxvdzpmbg==",
    b"Digest username=flow",
    TOKEN.encode(),
]


@pytest.mark.parametrize("authorization", GOOD, ids=repr)
def test_the_scheme_is_known_in_any_case(flow: Flow, authorization: bytes) -> None:
    """The scheme of a credential is case-insensitive (RFC 9110, 11.1); spaces do not matter."""
    with wire(flow.service.port) as connection:
        connection.send(post(GET, authorization=authorization))
        answered(connection.receive())


@pytest.mark.parametrize("authorization", BAD, ids=lambda header: repr(header)[:40])
def test_a_bad_credential_is_unauthorized(flow: Flow, authorization: bytes | None) -> None:
    """No credential, or anything but the token, is a 401 that names the scheme to use."""
    for body in (GET, b"nonsense", b""):
        with wire(flow.service.port) as connection:
            connection.send(post(body, authorization=authorization))
            answer = connection.receive()
        told = refused(answer, "unauthorized")
        assert answer.headers["www-authenticate"] == "Bearer"
        assert told["metadata"]["operation"] is None
        assert TOKEN.encode() not in answer.body


@pytest.mark.parametrize("order", [(GOOD[0], BAD[5]), (BAD[5], GOOD[0]), (GOOD[0], GOOD[0])])
@pytest.mark.parametrize("page", [ROUTE, "/inspector"])
def test_two_credentials_are_none(
    flow: Flow, page: str, order: tuple[bytes | None, bytes | None]
) -> None:
    """Of two credentials neither counts: a proxy before us may have looked at the other one."""
    first, second = (
        header and header.replace(TOKEN.encode(), INSPECTOR_TOKEN.encode())
        if page == "/inspector"
        else header
        for header in order
    )
    assert second is not None
    request = post(GET, f"Authorization: {second.decode()}", target=page, authorization=first)
    with wire(flow.service.port) as connection:
        connection.send(request.replace(b"POST", b"GET", 1) if page == "/inspector" else request)
        refused(connection.receive(), "unauthorized")


def test_a_large_body_without_a_credential_is_unauthorized(flow: Flow) -> None:
    """Nobody has to be known to be told that they are not."""
    refused(flow.service.request("POST", ROUTE, GET + b" " * 200_000, {}), "unauthorized")


def test_the_inspectors_credential_runs_no_operation(flow: Flow, key: str) -> None:
    """A credential that may inspect may neither read nor write data."""
    headers = {"authorization": f"Bearer {INSPECTOR_TOKEN}"}
    for body in ({"operation": "SET", "value": 1}, {"operation": "GET"}, {"operation": "DEL"}):
        raw = json.dumps(body | {"key": key}).encode()
        refused(flow.service.request("POST", ROUTE, raw, headers), "forbidden")
    assert flow.redis("EXISTS", key) == 0
