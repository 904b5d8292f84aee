"""No request makes flowcache call anybody: whom it calls is in the configuration alone."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from joserfc import jws
from joserfc.jwk import ECKey, KeySet

from tests.servers import eventually
from tests.servers.ports import LOOPBACK
from tests.service import ROUTE, Service, service

OURS = ECKey.generate_key("P-256", {"kid": "one"})
THEIRS = ECKey.generate_key("P-256", {"kid": "one"})
CLAIMS = {
    "iss": "https://idp.example/",
    "aud": "flowcache",
    "sub": "app-1",
    "exp": 4_000_000_000,
    "scope": "data:read data:write",
}


class Trap:
    """A server that nobody has reason to call; ``answer`` is what it says to who does."""

    def __init__(self, answer: bytes = b"") -> None:
        self.heard: list[bytes] = []
        self._answer = answer
        self._listener = socket.create_server((LOOPBACK, 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://{LOOPBACK}:{self.port}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection:
                connection.settimeout(10)
                self.heard.append(connection.recv(65536))
                if self.heard[-1] == b"over":
                    return
                connection.sendall(self._answer)

    def close(self) -> None:
        """End it; what it heard before stays."""
        with socket.create_connection((LOOPBACK, self.port)) as last:
            last.sendall(b"over")
        self._thread.join()
        self._listener.close()
        self.heard.pop()


@contextmanager
def trap(answer: bytes = b"") -> Iterator[Trap]:
    made = Trap(answer)
    try:
        yield made
    finally:
        made.close()


def configuration(directory: Path, keys: str) -> Path:
    file = directory / "flowcache.toml"
    file.write_text(
        f"""
[jwt]
issuer = "https://idp.example/"
audience = "flowcache"
keys = "{keys}"

[clients.app]
subject = "app-1"
permissions = ["data:read", "data:write"]
keys = ["*"]
"""
    )
    return file


def token(key: ECKey, header: Mapping[str, Any]) -> str:
    return jws.serialize_compact(
        {"alg": "ES256", "kid": "one"} | dict(header),
        json.dumps(CLAIMS),
        key,
        registry=jws.JWSRegistry(strict_check_header=False),
    )


@pytest.fixture(scope="module")
def trapped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, Trap]]:
    """Share a service that knows an issuer's keys, and a trap."""
    directory = tmp_path_factory.mktemp("issuer")
    keys = directory / "keys.json"
    keys.write_text(json.dumps(KeySet([OURS]).as_dict(private=False)))
    file = configuration(directory, str(keys))
    with trap() as caught, service({}, "--embedded", "--config", str(file)) as running:
        yield running, caught


def headers_to(url: str) -> dict[str, dict[str, Any]]:
    """Return headers of a token that would lead a credulous verifier to ``url``, or astray."""
    theirs = KeySet([THEIRS]).as_dict(private=False)
    return {
        "jku": {"jku": f"{url}/jwks"},
        "x5u": {"x5u": f"{url}/chain.pem"},
        "jwk": {"jwk": theirs["keys"][0]},
        "x5c": {"x5c": ["MIIB"]},
        "kid as URL": {"kid": f"{url}/jwks"},
        "kid as path": {"kid": "../../../../../../dev/null"},
        "kid as device": {"kid": "/dev/zero"},
        "kid as SQL": {"kid": "one' UNION SELECT 'secret' --"},
        "kid as command": {"kid": "one; cat /etc/passwd"},
        "kid with a zero": {"kid": "one\x00"},
        "kid empty": {"kid": ""},
    }


@pytest.mark.parametrize("name", headers_to(""))
def test_a_token_says_nothing_of_where_its_keys_are(
    trapped: tuple[Service, Trap], name: str
) -> None:
    """It is nobody's, whatever its header names; and nobody is asked about it."""
    running, caught = trapped
    header = headers_to(caught.url)[name]
    bearer = {"authorization": f"Bearer {token(THEIRS, header)}"}
    answer = running.request("POST", ROUTE, b'{"operation":"GET","key":"k"}', bearer)
    assert (answer.status, answer.code) == (401, "unauthorized")
    assert caught.heard == []


def test_such_a_header_beside_a_true_signature_is_not_followed_either(
    trapped: tuple[Service, Trap],
) -> None:
    """The key that counts is the issuer's of that name."""
    running, caught = trapped
    header = {"jku": f"{caught.url}/jwks", "x5u": f"{caught.url}/chain.pem"}
    bearer = {"authorization": f"Bearer {token(OURS, header)}"}
    answer = running.request("POST", ROUTE, b'{"operation":"GET","key":"k"}', bearer)
    assert answer.status == 200
    assert caught.heard == []


def test_no_field_or_header_is_an_address(trapped: tuple[Service, Trap]) -> None:
    """Not the host, nor the target, nor what proxies say, nor anything in the body."""
    running, caught = trapped
    there = f"{LOOPBACK}:{caught.port}"
    body = json.dumps(
        {
            "operation": "SET",
            "key": caught.url,
            "value": {"url": caught.url, "$ref": caught.url},
            "flowId": caught.url,
            "interactionId": caught.url,
            "idempotencyKey": caught.url,
            "callback": caught.url,
            "url": caught.url,
        }
    ).encode()
    named = {
        "authorization": f"Bearer {running.token}",
        "host": there,
        "forwarded": f"for={there};host={there};proto=http",
        "x-forwarded-for": LOOPBACK,
        "x-forwarded-host": there,
        "x-original-url": f"{caught.url}/",
        "x-rewrite-url": f"{caught.url}/",
        "origin": caught.url,
        "referer": caught.url,
        "via": f"1.1 {there}",
        "upgrade": "h2c",
    }
    inspector = named | {"authorization": f"Bearer {running.inspector_token}"}
    assert running.request("POST", ROUTE, body, named).status == 200
    assert running.request("POST", f"{caught.url}{ROUTE}", body, named).status == 200
    for path in ("/docs", "/openapi.json", "/readyz", "/metrics", f"/inspector?flow={caught.url}"):
        assert running.request("GET", path, None, inspector).status == 200
        assert running.request("GET", caught.url + path, None, inspector).status == 200
    assert running.request("CONNECT", there, None, named).status == 404
    assert caught.heard == []


def test_a_redirect_of_the_issuer_is_not_followed(tmp_path: Path) -> None:
    """Its keys come from where the operator said; an issuer that was taken over leads nowhere."""
    with trap() as caught:
        redirect = f"HTTP/1.1 302 Found\r\nlocation: {caught.url}/jwks\r\ncontent-length: 0\r\n\r\n"
        with trap(redirect.encode()) as issuer:
            file = configuration(tmp_path, f"{issuer.url}/jwks")
            with service({}, "--embedded", "--config", str(file)) as running:
                eventually(lambda: issuer.heard, what="the issuer to be asked")
                eventually(lambda: "issuer_keys_unreadable" in running.log, what="that to be told")
                assert running.call(operation="GET", key="k").status == 200
        assert caught.heard == []
