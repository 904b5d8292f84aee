"""TLS from outside: a real flowcache, its files, and callers with certificates of their own."""

from __future__ import annotations

import asyncio
import http.client
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.contract.wire import post
from tests.http.callers import calling
from tests.servers import eventually
from tests.servers.certificates import Certificates, Pair, make_certificates
from tests.service import CONTROL_TOKEN, ROUTE, TOKEN, Answer, Service, service

GET = b'{"operation":"GET","key":"k"}'


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def fingerprint(pair: Pair) -> str:
    der = ssl.PEM_cert_to_DER_cert(pair.certificate.read_text())
    return f"sha256:{sha256(der).hexdigest()}"


def clients(made: Certificates) -> str:
    """Return a configuration with clients that are known by certificates."""
    may = 'permissions = ["data:read", "inspect:read"]'
    return f"""
[clients.pinned]
certificates = ["{fingerprint(made.client)}"]
{may}
namespace = "pinned"

[clients.other]
certificates = ["dns:other.flow.test"]
{may}
namespace = "other"
"""


@contextmanager
def serving(made: Certificates, folder: Path, *arguments: str, **more: str) -> Iterator[Service]:
    file = folder / "flowcache.toml"
    file.write_text(clients(made))
    environment = {f"FLOWCACHE_HTTP_{name.upper()}": value for name, value in more.items()}
    with service(environment, "--embedded", "-c", str(file), *arguments, ready=False) as running:
        eventually(lambda: "serves on" in running.log, what="the banner")
        yield running


def https(made: Certificates, folder: Path, auth: str = "optional") -> dict[str, str]:
    """Return settings of TLS, with files of their own in ``folder``."""
    show(made.server, folder)
    return {
        "tls_cert_file": str(folder / "crt"),
        "tls_key_file": str(folder / "key"),
        "tls_client_auth": auth,
        "tls_client_ca_file": str(made.authority.certificate),
    }


def show(pair: Pair, folder: Path) -> None:
    """Have the service's files hold another certificate."""
    for name, source in (("key", pair.key), ("crt", pair.certificate)):
        beside = folder / f"{name}.new"
        beside.write_bytes(source.read_bytes())
        os.replace(beside, folder / name)


@pytest.fixture(scope="module")
def running(made: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Share a flowcache that speaks TLS and looks at certificates."""
    folder = tmp_path_factory.mktemp("tls")
    with serving(made, folder, **https(made, folder)) as running:
        yield running


def trusting(made: Certificates, shows: Pair | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=made.authority.certificate)
    if shows is not None:
        context.load_cert_chain(shows.certificate, shows.key)
    return context


def ask(
    running: Service,
    context: ssl.SSLContext,
    method: str = "POST",
    path: str = ROUTE,
    body: bytes | None = GET,
    **headers: str,
) -> Answer:
    connection = http.client.HTTPSConnection("localhost", running.port, context=context, timeout=20)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, named)
        response = connection.getresponse()
        return Answer(response.status, dict(response.getheaders()), response.read())
    finally:
        connection.close()


def shaken(
    running: Service, context: ssl.SSLContext, session: ssl.SSLSession | None = None
) -> ssl.SSLSocket:
    """Return a connection on which hands have been shaken."""
    plain = socket.create_connection(("127.0.0.1", running.port))
    return context.wrap_socket(plain, server_hostname="localhost", session=session)


def inspect(running: Service, made: Certificates) -> Any:
    answer = ask(running, trusting(made, made.client), "GET", "/inspector", None)
    assert answer.status == 200
    return answer.json


# -- who calls -------------------------------------------------------------------------------------


def test_a_certificate_is_a_credential(running: Service, made: Certificates) -> None:
    """With one that a client is known by no token is needed; without either nobody gets in."""
    assert ask(running, trusting(made, made.client)).status == 200
    assert ask(running, trusting(made)).code == "unauthorized"
    assert ask(running, trusting(made), authorization=f"Bearer {TOKEN}").status == 200


@pytest.mark.parametrize("path", ["/docs", "/readyz", "/nowhere", "/inspector"])
def test_a_browser_is_told_to_come_by_tls_only(
    running: Service, made: Certificates, path: str
) -> None:
    """On pages, those that are refused too; over plain HTTP nothing of the kind is said."""
    answer = ask(running, trusting(made), "GET", path, None)
    assert answer.headers["strict-transport-security"] == "max-age=31536000"


def test_two_clients_at_once_are_refused_and_on_record(
    running: Service, made: Certificates
) -> None:
    """A certificate of one beside the token of another is nobody's call."""
    answer = ask(running, trusting(made, made.client), authorization=f"Bearer {TOKEN}")
    assert (answer.code, answer.json["error"]) == ("unauthorized", "Unknown credential.")
    newest = inspect(running, made)["auditLogs"][-1]
    assert (newest["client"], newest["outcome"]) == (None, "unauthorized")


def test_a_certificate_of_another_authority_does_not_get_in(
    running: Service, made: Certificates
) -> None:
    """The handshake ends it; nothing of HTTP is said."""
    with pytest.raises((ssl.SSLError, ConnectionError, http.client.RemoteDisconnected)):
        ask(running, trusting(made, made.stranger))


def test_a_header_from_a_caller_counts_for_nothing(running: Service, made: Certificates) -> None:
    """Who writes a certificate into a header has shown none."""
    written = quote(made.client.certificate.read_text())
    assert ask(running, trusting(made), client_cert=written).code == "unauthorized"


def test_one_that_is_required_is_required(made: Certificates, tmp_path: Path) -> None:
    """Without a certificate there is no handshake, with one the service is as ever."""
    with serving(made, tmp_path, **https(made, tmp_path, "required")) as running:
        assert ask(running, trusting(made, made.client)).status == 200
        with pytest.raises((ssl.SSLError, ConnectionError, http.client.RemoteDisconnected)):
            ask(running, trusting(made))
        both = tmp_path / "both.pem"
        both.write_bytes(made.stranger.key.read_bytes() + made.stranger.certificate.read_bytes())
        where = ("--url", f"https://localhost:{running.port}")
        trusts = ("--ca-file", made.authority.certificate)
        token = {"FLOWCACHE_INSPECTOR_CONTROL_TOKEN": CONTROL_TOKEN}
        shows_none = flowcache("circuits", *where, *trusts, **token)
        assert shows_none.returncode == 2
        assert "wants to see a certificate; show one with --cert-file" in shows_none.stderr
        other_name = ("--url", f"https://127.1:{running.port}")
        misnamed = flowcache("circuits", *other_name, *trusts, **token)
        assert misnamed.returncode == 2
        assert "ask by a name or an address that its certificate has" in misnamed.stderr
        half = flowcache(
            "circuits", *where, *trusts, "--cert-file", made.client.certificate, **token
        )
        assert half.returncode == 2
        assert "a certificate and its key in one file" in half.stderr
        refused = flowcache("circuits", *where, *trusts, "--cert-file", both, **token)
        assert (refused.returncode, "Traceback" in refused.stderr) == (2, False)
        both.write_bytes(made.client.key.read_bytes() + made.client.certificate.read_bytes())
        clash = flowcache("circuits", *where, *trusts, "--cert-file", both, **token)
        assert clash.returncode == 2
        assert "two credentials that clash. Show one that no client is named for." in clash.stderr


def test_a_trusted_proxy_hands_a_certificate_on(made: Certificates, tmp_path: Path) -> None:
    """As nginx writes it, over plain HTTP; one that nobody is known by is refused, as is none."""
    settings = {"trusted_proxies": "127.0.0.1", "client_certificate_header": "X-SSL-Client-Cert"}
    with serving(made, tmp_path, **settings) as running:

        def hand_on(pair: Pair) -> Answer:
            written = quote(pair.certificate.read_text(), safe="")
            return running.request("POST", ROUTE, GET, {"X-SSL-Client-Cert": written})

        assert hand_on(made.client).status == 200
        for answer in (
            hand_on(made.stranger),
            running.request("POST", ROUTE, GET, {"X-SSL-Client-Cert": "%%%"}),
        ):
            assert (answer.status, answer.json["error"]) == (401, "Unknown credential.")
        assert running.request("POST", ROUTE, GET).code == "unauthorized"
        newest = running.inspect()["auditLogs"]
        assert [each["client"] for each in newest[-4:]] == ["pinned", None, None, None]


# -- the port --------------------------------------------------------------------------------------


def test_http_1_1_is_agreed_upon(running: Service, made: Certificates) -> None:
    """A client that could speak HTTP/2 is told that it is 1.1 (ALPN), over TLS 1.2 or newer."""
    context = trusting(made)
    context.set_alpn_protocols(["h2", "http/1.1"])
    with shaken(running, context) as secure:
        assert secure.selected_alpn_protocol() == "http/1.1"
        assert secure.version() == "TLSv1.3"


def test_old_tls_is_not_spoken(running: Service, made: Certificates) -> None:
    """TLS 1.1 and what has no forward secrecy get an alert."""
    old = trusting(made)
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    static = trusting(made)
    static.maximum_version = ssl.TLSVersion.TLSv1_2
    static.set_ciphers("AES128-GCM-SHA256")
    for context in (old, static):
        with pytest.raises(ssl.SSLError):
            ask(running, context)


async def test_a_crowd_of_handshakes_gets_in_and_keeps_no_caller_out(
    running: Service, made: Certificates
) -> None:
    """Two hundred who connect at once are all answered, though only a few handshakes get on in one
    turn; who is connected already is answered meanwhile."""
    context, call = trusting(made, made.client), post(GET, authorization=None)

    async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(
            "127.0.0.1", running.port, ssl=context, server_hostname="localhost"
        )

    async def ask_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(call)
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0]))
        return head[:13]

    async def close(writer: asyncio.StreamWriter) -> None:
        writer.close()
        with suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()

    async def newcomer() -> bytes:
        reader, writer = await connect()
        try:
            return await ask_once(reader, writer)
        finally:
            await close(writer)

    reader, writer = await connect()
    crowd = asyncio.gather(*(newcomer() for _ in range(200)))
    answered = 0
    while not crowd.done():
        assert await ask_once(reader, writer) == b"HTTP/1.1 200 "
        answered += 1
    await close(writer)
    assert set(await crowd) == {b"HTTP/1.1 200 "}
    assert answered > 1


def test_who_sends_on_before_the_handshake_is_not_read_without_end(
    running: Service, made: Certificates
) -> None:
    """What is no TLS, and however much of it, is answered by an end and not kept."""
    with socket.create_connection(("127.0.0.1", running.port), timeout=20) as connection:
        with suppress(ConnectionError):
            for _ in range(64):
                connection.sendall(b"\x16\x03\x01\xff\xff" * 20_000)
        with suppress(ConnectionError):
            while connection.recv(65536):
                pass
    assert ask(running, trusting(made, made.client)).status == 200


def test_a_session_is_resumed(running: Service, made: Certificates) -> None:
    """A caller that comes back need not shake hands in full, and is known as before."""
    context = trusting(made, made.client)
    head = f"POST {ROUTE} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(GET)}\r\n\r\n".encode()

    def call(session: ssl.SSLSession | None) -> ssl.SSLSocket:
        secure = shaken(running, context, session)
        secure.sendall(head + GET)
        assert secure.recv(65536).startswith(b"HTTP/1.1 200 ")
        return secure

    with call(None) as first, call(first.session) as second:
        assert second.session_reused


def test_the_certificates_end_can_be_watched(running: Service, made: Certificates) -> None:
    """Metric and inspector say when it ends, and the log warns of one that ends soon."""
    (told,) = inspect(running, made)["tls"]
    text = ask(running, trusting(made), "GET", "/metrics", None).body.decode()
    (line,) = [
        each
        for each in text.splitlines()
        if each.startswith("flowcache_tls_certificate_expires_timestamp_seconds ")
    ]
    with shaken(running, trusting(made)) as secure:
        shown = secure.getpeercert()
    assert shown is not None
    assert float(line.split()[1]) == ssl.cert_time_to_seconds(str(shown["notAfter"]))
    assert told["certificateExpires"].startswith("20")
    assert "tls_cert_file" in running.log
    assert "expires on" in running.log


# -- a new certificate -----------------------------------------------------------------------------


def served_by(running: Service, made: Certificates, other: Certificates) -> str:
    """Return which authority the service's certificate is of."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with shaken(running, context) as secure:
        der = secure.getpeercert(binary_form=True)
    names = {
        ssl.PEM_cert_to_DER_cert(each.server.certificate.read_text()): name
        for name, each in (("made", made), ("other", other))
    }
    assert der is not None
    return names[der]


async def test_a_new_certificate_costs_no_call(made: Certificates, tmp_path: Path) -> None:
    """At SIGHUP the workers go over to it one by one, while calls go on over TLS."""
    (tmp_path / "next").mkdir()
    following = make_certificates(tmp_path / "next")
    settings = https(made, tmp_path) | {"drain_seconds": "0.5"}
    context = ssl.create_default_context(cafile=made.authority.certificate)
    context.load_verify_locations(following.authority.certificate)
    with serving(made, tmp_path, "--workers", "2", **settings) as running:
        assert served_by(running, made, following) == "made"
        async with calling(running.port, kept=4, fresh=2, tls=context) as callers:
            await asyncio.to_thread(
                eventually, lambda: callers.outcomes["200"] > 50, what="calls that go well"
            )
            show(following.server, tmp_path)
            running.process.send_signal(signal.SIGHUP)
            await asyncio.to_thread(
                eventually,
                lambda: {served_by(running, made, following) for _ in range(8)} == {"other"},
                what="the new certificate",
            )
            so_far = callers.outcomes["200"]
            await asyncio.to_thread(
                eventually, lambda: callers.outcomes["200"] > so_far + 50, what="further calls"
            )
        assert set(callers.outcomes) == {"200"}


def test_a_broken_certificate_changes_nothing(made: Certificates, tmp_path: Path) -> None:
    """A key that does not fit is told in one line, and the workers go on as they are."""
    with serving(made, tmp_path, **https(made, tmp_path)) as running:
        (worker,) = inspect(running, made)["workers"]
        show(Pair(made.server.certificate, made.client.key), tmp_path)
        running.process.send_signal(signal.SIGHUP)
        eventually(lambda: "nothing is restarted" in running.log, what="the fault to be told")
        (told,) = [line for line in running.log.splitlines() if "not the key of" in line]
        assert "http.tls_key_file" in told
        assert "Traceback" not in running.log
        assert inspect(running, made)["workers"][0]["pid"] == worker["pid"]


# -- the command line ------------------------------------------------------------------------------


def flowcache(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flowcache", *map(str, arguments)]
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("FLOWCACHE_")}
    return subprocess.run(
        command, env=inherited | environment, capture_output=True, text=True, check=False
    )


def test_circuits_are_reached_over_tls(running: Service, made: Certificates) -> None:
    """With the authority's file they are shown; without it the remedy is named."""
    url = f"https://localhost:{running.port}"
    token = {"FLOWCACHE_INSPECTOR_CONTROL_TOKEN": CONTROL_TOKEN}
    where = ("circuits", "--url", url)
    assert flowcache(*where, "--ca-file", made.authority.certificate, **token).returncode == 0
    untrusted = flowcache(*where, **token)
    assert untrusted.returncode == 2
    assert "--ca-file" in untrusted.stderr
    nothing = flowcache(*where, "--ca-file", made.authority.key, **token)
    assert (nothing.returncode, "Traceback" in nothing.stderr) == (2, False)


def test_check_tells_what_is_wrong_with_a_certificate(made: Certificates, tmp_path: Path) -> None:
    """A key that is another's or encrypted is a fault; a certificate that ends soon a warning."""
    locked = tmp_path / "locked.key"
    subprocess.run(
        [
            "openssl",
            "pkey",
            "-in",
            made.server.key,
            "-aes256",
            "-passout",
            "pass:x",
            "-out",
            locked,
        ],
        check=True,
    )
    for key, told in (
        (made.client.key, "not the key of http.tls_cert_file"),
        (locked, "is encrypted"),
        (made.server.certificate, "not a PEM key"),
        (made.server.key, "Warning: http.tls_cert_file"),
    ):
        done = flowcache(
            "check",
            SERVICE_BEARER_TOKEN=TOKEN,
            FLOWCACHE_HTTP_TLS_CERT_FILE=str(made.server.certificate),
            FLOWCACHE_HTTP_TLS_KEY_FILE=str(key),
            REDIS_NODES="127.0.0.1:1",
        )
        said = done.stdout + done.stderr
        assert told in said
        assert done.returncode == 2  # nobody listens on port 1
        assert "Traceback" not in said
