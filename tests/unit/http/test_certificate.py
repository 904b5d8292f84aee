"""What the service shows of itself: which files are taken, and what is told of them."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from flowcache.settings.server_tls import ClientAuth, ServerTls, TlsFiles, read_tls
from tests.servers.certificates import Certificates, Pair, make_certificates

DAY = 86_400.0


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def files(pair: Pair, **more: object) -> TlsFiles:
    return TlsFiles(str(pair.certificate), str(pair.key), **more)  # type: ignore[arg-type]


def test_a_pair_that_fits_is_taken(made: Certificates) -> None:
    """Its end is that of the first certificate in the file, the service's own."""
    own = read_tls(files(made.server))
    assert own.not_after - own.not_before == pytest.approx(DAY)
    assert own.context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert own.context.verify_mode is ssl.CERT_NONE


def test_what_is_agreed_upon_keeps_a_secret(made: Certificates) -> None:
    """Whoever gets the key some day reads nothing of before, and no client makes us work anew."""
    context = read_tls(files(made.server)).context
    older = [each["name"] for each in context.get_ciphers() if each["protocol"] != "TLSv1.3"]
    assert older
    assert all(name.startswith("ECDHE-") for name in older)
    assert all("GCM" in name or "CHACHA20" in name for name in older)
    assert context.options & ssl.OP_NO_RENEGOTIATION
    assert context.options & ssl.OP_NO_COMPRESSION


def test_a_chain_is_shown_whole(made: Certificates, tmp_path: Path) -> None:
    """What stands behind the certificate goes along; the key may be in the same file."""
    chain = tmp_path / "chain.pem"
    parts = (made.server.certificate, made.authority.certificate, made.server.key)
    chain.write_bytes(b"".join(part.read_bytes() for part in parts))
    own = read_tls(files(Pair(chain, chain)))
    assert own.not_after == read_tls(files(made.server)).not_after


@pytest.mark.parametrize(
    ("auth", "mode"),
    [(ClientAuth.OPTIONAL, ssl.CERT_OPTIONAL), (ClientAuth.REQUIRED, ssl.CERT_REQUIRED)],
)
def test_callers_are_asked_as_configured(
    made: Certificates, auth: ClientAuth, mode: ssl.VerifyMode
) -> None:
    """The authorities of callers are those of the file, and none of this machine's."""
    ca = str(made.authority.certificate)
    context = read_tls(files(made.server, client_ca=ca, client_auth=auth)).context
    assert context.verify_mode is mode
    assert context.verify_flags & ssl.VERIFY_X509_PARTIAL_CHAIN  # an intermediate is enough
    assert len(context.get_ca_certs()) == 1


def test_nobody_is_asked_for_a_password(made: Certificates, tmp_path: Path) -> None:
    """A service that waits at a terminal for one would not start, and not say why."""
    locked = tmp_path / "locked.pem"
    key = serialization.load_pem_private_key(made.server.key.read_bytes(), None)
    locked.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"password"),
        )
    )
    with pytest.raises(ValueError, match=f"^http.tls_key_file = {locked}: is encrypted"):
        read_tls(files(Pair(made.server.certificate, locked)))


def test_what_can_not_be_used_is_told_by_its_setting(made: Certificates, tmp_path: Path) -> None:
    """Each fault is one sentence: which setting, which file, and what is wrong with it."""
    half = tmp_path / "half.pem"
    half.write_bytes(made.server.certificate.read_bytes()[:-40])
    nothing = tmp_path / "nothing.pem"
    nothing.write_bytes(b"")
    server = made.server
    for pair, told in (
        (Pair(half, server.key), f"http.tls_cert_file = {half}: not a PEM certificate"),
        (Pair(nothing, server.key), f"http.tls_cert_file = {nothing}: not a PEM certificate"),
        (Pair(server.key, server.key), f"http.tls_cert_file = {server.key}: not a PEM certificate"),
        (Pair(server.certificate, nothing), f"http.tls_key_file = {nothing}: not a PEM key"),
        (
            Pair(server.certificate, made.client.key),
            f"http.tls_key_file = {made.client.key}: not the key of http.tls_cert_file",
        ),
    ):
        with pytest.raises(ValueError, match=r"^http\.tls_") as fault:
            read_tls(files(pair))
        assert str(fault.value).startswith(told)
    with pytest.raises(
        ValueError, match=r"^http\.tls_client_ca_file = .*: contains no PEM certificates"
    ):
        read_tls(files(server, client_ca=str(nothing), client_auth=ClientAuth.REQUIRED))


@pytest.mark.parametrize(
    ("now", "told"),
    [
        (-1.0, ["not valid before 1970-01-01 00:00 UTC"]),
        (0.0, []),
        (78 * DAY, []),
        (80 * DAY, ["expires on 1970-04-11 00:00 UTC"]),
        (100 * DAY + 1, ["expired on 1970-04-11 00:00 UTC"]),
    ],
)
def test_an_operator_is_warned_in_time(now: float, told: list[str]) -> None:
    """Before it counts, three weeks before its end, and after it."""
    own = ServerTls(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), "/tls.crt", 0.0, 100 * DAY)
    assert list(own.warnings(now)) == [f"http.tls_cert_file = /tls.crt: {each}" for each in told]
