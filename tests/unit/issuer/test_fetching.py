"""Keys come whole, in time, and from where the operator said, or a reason comes."""

from __future__ import annotations

import asyncio
import ssl
import threading
from pathlib import Path

import pytest

from flowcache.issuer.fetching import KeysFault, fetch_keys, read_keys
from tests.servers import eventually
from tests.servers.certificates import make_certificates
from tests.unit.issuer.issuers import Drip, answer, issuer

KEYS = b'{"keys":[]}'
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "good",
    [answer(KEYS), b"HTTP/1.0 200 OK\r\n\r\n" + KEYS, CHUNKED + b"b\r\n" + KEYS + b"\r\n0\r\n\r\n"],
)
def test_keys_are_read_whole(good: bytes) -> None:
    """Whatever way HTTP has to say how long an answer is."""
    with issuer(good) as there:
        assert read_keys(there.url.replace("http", "HTTP") + "?tenant=1") == KEYS
    assert there.asked == [b"GET /jwks?tenant=1 HTTP/1.1"]


BAD: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "no proper answer"),
    "no HTTP": (b"garbage\r\n\r\n", "no proper answer: BadStatusLine"),
    "a header without end": (b"HTTP/1.1 200 OK\r\nx: " + b"a" * 70_000, "answer: LineTooLong"),
    "a chunk that broke off": (CHUNKED + b'100\r\n{"keys":', "answer: IncompleteRead"),
    "a body that broke off": (answer(KEYS)[:-3], "broke off"),
    "not found": (answer(KEYS, "404 Not Found"), "status 404"),
    "a redirect": (answer(b"", "302 Found", "location: /next"), "status 302: redirects are not"),
    "too much": (answer(b" " * ((1 << 20) + 1)), "longer than 1048576"),
}


@pytest.mark.parametrize("name", BAD)
def test_an_answer_that_is_none_is_one_kind_of_fault(name: str) -> None:
    """However an issuer or what stands before it breaks: a reason, and no exception of others."""
    said, reason = BAD[name]
    with issuer(said) as there, pytest.raises(KeysFault, match=reason) as raised:
        read_keys(there.url)
    assert "garbage" not in str(raised.value)
    assert len(there.asked) == 1


@pytest.mark.parametrize(
    "location", ["/no/such/file", "/", "http://127.0.0.1:1/", "http://[::1", "http://127.0.0.1:x/"]
)
def test_what_is_not_there_is_the_same_kind_of_fault(location: str) -> None:
    """A file or a server that is away, or a URL that is none."""
    with pytest.raises(KeysFault):
        read_keys(location)


@pytest.mark.parametrize(
    "slow",
    [
        Drip(answer(KEYS)[: -len(KEYS)], KEYS * 20),
        Drip(b"HTTP/1.1 200 OK\r\n", b"x: " + b"y" * 200),
        Drip(CHUNKED, b"1\r\nx\r\n" * 40),
        Drip(b"", b"H" * 200),
    ],
    ids=["body", "head", "chunks", "first line"],
)
def test_all_of_an_answer_has_one_deadline(slow: Drip) -> None:
    """One that comes byte by byte holds nobody: its whole is in time, not each byte."""
    slow = slow._replace(start=slow.start.replace(b"content-length: 11", b"content-length: 220"))
    with issuer(slow) as there, pytest.raises(KeysFault, match="timed out"):
        read_keys(there.url, timeout=0.2)


def test_a_proxy_of_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys that come in clear come from this host, and not by way of another."""
    with issuer(answer(KEYS)) as there, issuer(answer(b"forged")) as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        assert read_keys(there.url) == KEYS
    assert proxy.asked == []


def test_an_issuer_is_who_its_certificate_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over TLS: one that nobody vouches for is not believed; the deadline is the same."""
    made = make_certificates(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(made.server.certificate, made.server.key)
    with issuer(answer(KEYS), tls=tls) as there:
        with pytest.raises(KeysFault, match="CERTIFICATE_VERIFY_FAILED"):
            read_keys(there.url)
        monkeypatch.setenv("SSL_CERT_FILE", str(made.authority.certificate))
        assert read_keys(there.url) == KEYS
    slow = Drip(answer(b" " * 200)[:-200], b" " * 200)
    with issuer(slow, tls=tls) as there, pytest.raises(KeysFault, match="timed out"):
        read_keys(there.url, timeout=0.2)


def test_keys_are_fetched_beside_the_loop() -> None:
    """What was read is returned, and what could not be is the fault that it was."""
    with issuer(answer(KEYS), b"garbage\r\n\r\n") as there:
        assert asyncio.run(fetch_keys(there.url)) == KEYS
        with pytest.raises(KeysFault, match="BadStatusLine"):
            asyncio.run(fetch_keys(there.url))


def test_nobody_waits_for_what_does_not_end() -> None:
    """Neither the caller nor the end of the loop: whoever reads is left alone with it."""

    def reading() -> bool:
        return any(each.name == "keys of the issuer" for each in threading.enumerate())

    with issuer(Drip(b"", b"H" * 200)) as there:
        with pytest.raises(KeysFault, match=r"no answer within 0\.05 s"):
            asyncio.run(fetch_keys(there.url, within=0.05))
        assert reading()
    eventually(lambda: not reading(), what="the reading to end")
