"""Pages from outside: what never changes is made once, what all share is shared."""

from __future__ import annotations

import gzip
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from time import monotonic

import pytest

from tests.contract.envelope import answered, refused
from tests.contract.wire import post, wire
from tests.servers import RedisProcess, eventually
from tests.service import Service
from tests.service import service as running_service

CONSTANT = pytest.mark.parametrize("path", ["/docs", "/openapi.json"])


@CONSTANT
def test_a_page_that_never_changes_is_sent_once(service: Service, path: str) -> None:
    """Whoever has it already is told that it is still the same, with no body."""
    first = service.request("GET", path)
    etag = first.headers["etag"]
    assert (first.status, etag[0], etag[-1]) == (200, '"', '"')
    assert first.headers["cache-control"] == "no-cache"
    assert service.request("GET", path).body == first.body
    for condition in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        again = service.request("GET", path, None, {"if-none-match": condition})
        assert (again.status, again.body) == (304, b"")
        assert again.headers["etag"] == etag
        assert "content-length" not in again.headers
    for condition in ('"other"', "", etag.strip('"')):
        assert service.request("GET", path, None, {"if-none-match": condition}).status == 200


@CONSTANT
@pytest.mark.parametrize(
    ("accepted", "small"),
    [
        ("gzip", True),
        ("br, GZIP;q=0.5", True),
        ("gzip;q=0", False),
        ("gzip; q=0.000", False),
        ("identity", False),
        ("", False),
        ("br", False),
    ],
)
def test_a_page_is_sent_compressed_to_whoever_asks(
    service: Service, path: str, accepted: str, small: bool
) -> None:
    """The two forms have the same content and tags of their own, and caches are told of both."""
    plain = service.request("GET", path)
    answer = service.request("GET", path, None, {"accept-encoding": accepted})
    assert answer.headers["vary"] == plain.headers["vary"] == "accept-encoding"
    assert answer.headers["content-type"] == plain.headers["content-type"]
    assert answer.headers.get("content-encoding") == ("gzip" if small else None)
    assert (gzip.decompress(answer.body) if small else answer.body) == plain.body
    assert (answer.headers["etag"] != plain.headers["etag"]) is small
    assert (len(answer.body) < len(plain.body) / 2) is small


@CONSTANT
def test_a_page_shows_nothing_of_who_asks(service: Service, path: str) -> None:
    """A Host header that somebody made up reaches no other reader, and not this one either."""
    before = service.request("GET", path)
    asked = service.request("GET", path, None, {"host": "evil.example", "x-forwarded-host": "evil"})
    assert asked.body == before.body == service.request("GET", path).body
    assert asked.headers["etag"] == before.headers["etag"]
    assert b"evil" not in asked.body


def test_head_tells_of_a_page_without_sending_it(service: Service) -> None:
    """The headers are those of GET."""
    plain = service.request("GET", "/docs")
    with wire(service.port) as connection:
        connection.send(b"HEAD /docs HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = connection.receive(has_body=False)
        assert answer.status == 200
        assert answer.headers["content-length"] == str(len(plain.body))
        assert answer.headers["etag"] == plain.headers["etag"]


def test_metrics_that_many_ask_for_at_once_are_the_same(service: Service) -> None:
    """A crowd costs ten looks a second at most; whoever asks afterwards sees what is new."""
    began = monotonic()
    with ThreadPoolExecutor(16) as crowd:
        told = list(crowd.map(lambda _: service.request("GET", "/metrics").body, range(64)))
    assert len(set(told)) <= 2 + (monotonic() - began) / 0.1
    service.call(operation="GET", key="k")
    assert service.request("GET", "/metrics").body not in told


def test_with_redis_at_a_standstill_all_learn_at_once_that_it_is_not_ready(
    fresh_standalone: RedisProcess,
) -> None:
    """However many ask /readyz, Redis is asked once, nobody waits longer than one, and /healthz
    says that the process is alive."""
    environment = {"REDIS_NODES": f"127.0.0.1:{fresh_standalone.port}"}
    with running_service(environment) as started, ExitStack() as stack:
        fresh_standalone.pause()
        try:
            eventually(lambda: not started.is_ready(), what="the standstill to be noticed")
            crowd = [stack.enter_context(wire(started.port)) for _ in range(50)]
            for each in crowd:
                each.send(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert {each.receive().status for each in crowd} == {503}
            assert started.request("GET", "/healthz").status == 200
        finally:
            fresh_standalone.resume()
        eventually(started.is_ready, what="Redis to be back")


def test_a_crowd_without_a_credential_is_answered_and_keeps_no_caller_out() -> None:
    """Three hundred connections that ask for pages, for what is not there and with no credential:
    each is answered, in the envelope where it is refused, and a caller's calls all succeed."""
    asked = {
        b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n": None,
        b"GET /docs HTTP/1.1\r\nHost: x\r\n\r\n": None,
        b"GET /nope HTTP/1.1\r\nHost: x\r\n\r\n": "not_found",
        b"PUT /docs HTTP/1.1\r\nHost: x\r\n\r\n": "method_not_allowed",
        post(b"{}", authorization=b"Bearer wrong"): "unauthorized",
    }
    environment = {"FLOWCACHE_AUTH_FAILURES_PER_MINUTE": "100000"}
    with running_service(environment, "--embedded") as started, ExitStack() as stack:
        crowd = [stack.enter_context(wire(started.port)) for _ in range(300)]
        requests = [list(asked)[number % len(asked)] for number in range(len(crowd))]
        for _ in range(3):
            for each, raw in zip(crowd, requests, strict=True):
                each.send(raw)
            answered(started.call(operation="GET", key="k"))
            for each, raw in zip(crowd, requests, strict=True):
                answer, code = each.receive(), asked[raw]
                if code is None:
                    assert answer.status == 200
                else:
                    refused(answer, code)
