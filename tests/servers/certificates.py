"""Certificates of a day's life for TLS tests: an authority, a server, a client, and a stranger."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

from .binaries import program
from .process import ClientTls

# All that openssl needs to know, so that no machine's own openssl.cnf has a say. The key usages and
# identifiers are what Python's strict verification (the default from 3.13 on) insists on.
OPENSSL_CONFIG = """\
[req]
distinguished_name = name
[name]
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical, CA:FALSE
subjectAltName = {names}
extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
[client]
basicConstraints = critical, CA:FALSE
subjectAltName = DNS:client.flow.test, URI:spiffe://flow.test/client
extendedKeyUsage = clientAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its private key, in PEM files."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Certificates:
    """What an authority signed, and `stranger`: a client that another authority signed."""

    authority: Pair
    server: Pair
    client: Pair
    other_authority: Pair
    stranger: Pair

    def client_tls(self, *, shows: Pair | None = None) -> ClientTls:
        """Return a client's files: it trusts the authority, and shows a certificate if given."""
        if shows is None:
            return ClientTls(self.authority.certificate)
        return ClientTls(self.authority.certificate, shows.certificate, shows.key)


def make_certificates(directory: Path, names: str = "IP:127.0.0.1, DNS:localhost") -> Certificates:
    """Make all keys and certificates as files in a directory, with the openssl command.

    ``names`` are those that the server's certificate is for.

    Raises:
        MissingProgramError: there is no openssl.
        subprocess.CalledProcessError: openssl refused; its words were on stderr.
    """
    openssl = program("openssl", package="openssl")
    config = directory / "openssl.cnf"
    config.write_text(OPENSSL_CONFIG.format(names=names), encoding="ascii")

    def make(name: str, kind: str, signer: Pair | None = None) -> Pair:
        pair = Pair(directory / f"{name}.crt", directory / f"{name}.key")
        signing = () if signer is None else ("-CA", signer.certificate, "-CAkey", signer.key)
        new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
        subprocess.run(
            [
                *(openssl, "req", "-x509", "-config", config, "-extensions", kind),
                *("-subj", f"/CN=flowcache test {name}", "-days", "1", *new_key, *signing),
                *("-keyout", pair.key, "-out", pair.certificate),
            ],
            check=True,
            capture_output=True,
        )
        return pair

    authority = make("authority", "authority")
    other_authority = make("other-authority", "authority")
    return Certificates(
        authority=authority,
        server=make("server", "server", authority),
        client=make("client", "client", authority),
        other_authority=other_authority,
        stranger=make("stranger", "client", other_authority),
    )
