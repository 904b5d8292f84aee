"""What every answer says to a browser, and what none says to an attacker."""

from __future__ import annotations

import base64
import hashlib
import re
import socket
from collections.abc import Iterator

import pytest

from tests.service import ROUTE, Answer, Service, service

PAGES = ("/healthz", "/readyz", "/metrics", "/inspector", "/inspector/circuits", "/openapi.json")
SHIELD = {
    "cache-control": "no-store",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
NOTHING = "default-src 'none'; frame-ancestors 'none'"


@pytest.fixture(scope="module")
def running() -> Iterator[Service]:
    """Share a flowcache with an embedded Valkey: its headers are the same for all."""
    with service({}, "--embedded") as started:
        yield started


def get(running: Service, path: str) -> Answer:
    headers = {"authorization": f"Bearer {running.inspector_token}"}
    return running.request("GET", path, None, headers)


def check_shield(answer: Answer, policy: str = NOTHING, cached: str = "no-store") -> None:
    shield = SHIELD | {"cache-control": cached}
    assert {name: answer.headers.get(name) for name in shield} == shield
    assert answer.headers["content-security-policy"] == policy


@pytest.mark.parametrize("path", PAGES)
def test_a_page_can_only_be_read(running: Service, path: str) -> None:
    """Not framed, not run as a script, not shown from a cache, not taken for another type. Only a
    page that is the same for everybody may be kept, and is asked for again each time."""
    answer = get(running, path)
    assert answer.status == 200
    check_shield(answer, cached="no-cache" if path == "/openapi.json" else "no-store")


@pytest.mark.parametrize(
    ("path", "status"), [("/nowhere", 404), ("/inspector/", 404), ("/docs/x", 404), (ROUTE, 405)]
)
def test_what_is_not_there_is_no_weaker(running: Service, path: str, status: int) -> None:
    """The answer may repeat a path of the caller's choice."""
    answer = get(running, path)
    assert answer.status == status
    check_shield(answer)


@pytest.mark.parametrize("path", ["/inspector", "/inspector/circuits"])
def test_a_refusal_is_no_weaker(running: Service, path: str) -> None:
    """Without a credential as with one."""
    answer = running.request("GET", path)
    assert answer.status == 401
    check_shield(answer)


def test_the_documentation_may_have_its_own_styles_and_nothing_else(running: Service) -> None:
    """They are told by their hash: a style or script that somebody slips in does nothing."""
    answer = get(running, "/docs")
    html = answer.body.decode()
    (style,) = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    check_shield(
        answer,
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        "no-cache",
    )
    assert "<script" not in html
    assert " style=" not in html


@pytest.mark.parametrize("host", ['x"><script>alert(1)</script>', "x'onload='y", "</style>"])
def test_a_host_of_the_callers_choice_is_text(running: Service, host: str) -> None:
    """The examples name the host that was asked for; it breaks out of nothing."""
    request = f"GET /docs HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", running.port), timeout=30) as connection:
        connection.sendall(request.encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert b"<script" not in answer
    assert f"://{host}".encode() not in answer
    assert answer.count(b"</style>") == (1 if b" 200 OK" in answer else 0)


@pytest.mark.parametrize("body", [b'{"operation":"GET","key":"k"}', b"{"])
def test_a_data_action_is_kept_by_nobody(running: Service, body: bytes) -> None:
    """Answer or failure: no cache keeps it, no browser guesses what it is."""
    answer = running.post(body)
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", [*PAGES, "/docs", "/nowhere", ROUTE])
def test_no_answer_says_what_runs_here(running: Service, path: str) -> None:
    """Neither product nor version: who looks for a hole has to try. HSTS is for TLS only."""
    answer = get(running, path) if path != ROUTE else running.call(operation="GET", key="k")
    told = set(answer.headers)
    assert not told & {"server", "x-powered-by", "via", "strict-transport-security"}
    assert "flowcache" not in str(answer.headers).lower()
    assert "uvloop" not in str(answer.headers).lower()


def test_no_request_is_not_told_more(running: Service) -> None:
    """What is refused before there is a request is answered by the server itself."""
    with socket.create_connection(("127.0.0.1", running.port), timeout=30) as connection:
        connection.sendall(b"nonsense\r\n\r\n")
        head = b"".join(iter(lambda: connection.recv(65536), b"")).partition(b"\r\n\r\n")[0]
    names = {line.partition(b":")[0].lower() for line in head.split(b"\r\n")[1:]}
    assert names == {
        b"date",
        b"content-type",
        b"cache-control",
        b"x-content-type-options",
        b"content-length",
        b"connection",
    }
