"""The server runs on both loops: what holds for one by chance need not hold for the other."""

import asyncio
import ssl
from collections.abc import Callable, Mapping

import pytest
import uvloop

from tests.servers.certificates import Certificates, make_certificates
from tests.unit.http.server.serving import TlsPair


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Make an authority, and whom it signed for."""
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def tls_pair(certificates: Certificates) -> TlsPair:
    """Make what both sides of TLS go by."""
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(certificates.server.certificate, certificates.server.key)
    return TlsPair(server, ssl.create_default_context(cafile=certificates.authority.certificate))


@pytest.fixture(params=["plain", "tls"])
def tls(request: pytest.FixtureRequest) -> TlsPair | None:
    """What holds for HTTP holds for HTTPS."""
    return request.getfixturevalue("tls_pair") if request.param == "tls" else None
