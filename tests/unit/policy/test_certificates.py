"""Certificates of clients: how they are written, whose they are, and what goes together."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from flowcache.authn.certificates import Certificate, Certificates, decode, read_name
from flowcache.authn.principals import UNKNOWN, Credential, Principals
from flowcache.authn.tokens import Token, digest
from flowcache.authn.x509 import read_certificate
from flowcache.authz.networks import Networks, read_network
from flowcache.authz.permissions import Permission
from flowcache.authz.principal import Principal
from flowcache.errors import Unauthorized

NOW = 1_800_000_000.0
KEY = ec.generate_private_key(ec.SECP256R1())
SUBJECT = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "dns:app.test")])


def made(
    *names: x509.GeneralName, begins: float = NOW - 60, ends: float = NOW + 60
) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(SUBJECT)
        .issuer_name(SUBJECT)
        .public_key(KEY.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.fromtimestamp(begins, UTC))
        .not_valid_after(datetime.fromtimestamp(ends, UTC))
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(KEY, hashes.SHA256())


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


def pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def fingerprint(certificate: x509.Certificate) -> str:
    return f"sha256:{sha256(der(certificate)).hexdigest()}"


def as_envoy(certificate: x509.Certificate) -> str:
    return (
        f'By=spiffe://proxy;Hash={"ab" * 32};Cert="{quote(pem(certificate), safe="")}";'
        'Subject="CN=a, \\"b\\"; Cert=\\"c\\",O=d";URI=spiffe://flow.test/app;DNS=app.test'
    )


FORMS: dict[str, Callable[[x509.Certificate], str]] = {
    "PEM": pem,
    "nginx": lambda c: quote(pem(c), safe=""),
    "AWS": lambda c: quote(pem(c), safe="+=/"),
    "RFC 9440": lambda c: f":{b64encode(der(c)).decode()}:",
    "HAProxy": lambda c: b64encode(der(c)).decode(),
    "Envoy": as_envoy,
    "Envoy, alone": lambda c: f'Cert="{quote(pem(c), safe="")}"',
}

APP = made(x509.DNSName("App.Test"), x509.UniformResourceIdentifier("spiffe://flow.test/app"))
OTHER, NAMELESS = made(), made()
OLD = made(begins=NOW - 60, ends=NOW - 1)
YOUNG = made(begins=NOW + 1)
BOTH = made()

READS = frozenset({Permission.DATA_READ})
app = Principal("app", READS, certificates=("dns:app.test",))
other = Principal("other", READS, certificates=(fingerprint(OTHER),))
times = Principal("times", READS, certificates=(fingerprint(OLD), fingerprint(YOUNG)))
ended = Principal("ended", READS, certificates=("uri:spiffe://flow.test/ended",), expires=NOW)
strict = Principal("strict", READS, certificates=(fingerprint(BOTH),), both=True)
EVERYBODY = (app, other, times, ended, strict)
KNOWN = Principals(
    (Credential(Token(digest(who.name.encode())), who) for who in EVERYBODY), lambda: NOW
)
PROXIES = Networks([read_network("10.0.0.0/8")])
HEADER = b"client-cert"
PROXY, STRANGER = ("10.0.0.1", 1), ("192.0.2.1", 1)


def certificates(header: bytes | None = HEADER) -> Certificates:
    return Certificates(EVERYBODY, read_certificate, PROXIES, header)


def on_connection(certificate: x509.Certificate | None) -> dict[str, Any]:
    return {"tls": {"client_cert_chain": [pem(certificate)] if certificate else []}}


def who_calls(certificate: x509.Certificate | None, token: str | None) -> str:
    """Return the name of who shows these, on a connection of their own."""
    headers = [] if token is None else [(b"authorization", f"Bearer {token}".encode())]
    shown = certificates().shown(STRANGER, headers, on_connection(certificate))
    return KNOWN.authenticate(headers, "192.0.2.1", shown).name


# -- how they are written --------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_each_way_to_write_one_is_read(form: str) -> None:
    """What nginx, AWS, HAProxy, Traefik, Envoy and RFC 9440 write is the same certificate."""
    assert decode(FORMS[form](APP).encode()) == der(APP)


@pytest.mark.parametrize(
    "text",
    [
        *("", ":", "::", ":x", "%", "-----BEGIN CERTIFICATE-----", "Cert=", 'Cert=""', "Hash=ab"),
        pem(APP) + pem(APP),
        quote(pem(APP) + pem(OTHER)),
        pem(APP).replace("CERTIFICATE", "PUBLIC KEY"),
        f"{as_envoy(APP)},{as_envoy(APP)}",
        f"{as_envoy(APP)};{FORMS['Envoy, alone'](OTHER)}",
        f"{FORMS['RFC 9440'](APP)}, {FORMS['RFC 9440'](APP)}",
        FORMS["RFC 9440"](APP) + ";a=b",
        FORMS["RFC 9440"](APP).replace("M", " M", 1),
    ],
)
def test_two_or_none_are_not_read(text: str) -> None:
    """No choice is made among several, and nothing is made of half of one."""
    with pytest.raises(ValueError, match=r"certificate|base64|padding"):
        read_certificate(decode(text.encode()))


def test_a_certificate_that_is_out_of_the_rules_is_none() -> None:
    """What cryptography only warns of today (RFC 5280, 4.1.2.2) is refused, and warns nobody."""
    serial = APP.serial_number.to_bytes(APP.serial_number.bit_length() // 8 + 1)
    assert der(APP).count(serial) == 1
    negative = der(APP).replace(serial, bytes([serial[0] | 0x80]) + serial[1:])
    with pytest.raises(ValueError, match="no certificate"):
        read_certificate(negative)
    name = b"\x08app.test"  # of a kind that nobody uses: an X.400 address
    strange = der(made(x509.DNSName("app.test"))).replace(b"\x82" + name, b"\xa3" + name)
    with pytest.raises(ValueError, match="UnsupportedGeneralNameType"):
        read_certificate(strange)


@given(
    st.one_of(
        st.binary(max_size=300),
        st.text('ABC=+/:;",%-\\ \n', max_size=60).map(str.encode),
        st.tuples(st.sampled_from(sorted(FORMS)), st.integers(0, 900), st.binary(max_size=3)).map(
            lambda t: mutated(FORMS[t[0]](APP).encode(), t[1], t[2])
        ),
        st.binary(max_size=200).map(lambda b: b":" + b64encode(der(APP)[:-40] + b) + b":"),
    )
)
def test_no_header_does_harm(value: bytes) -> None:
    """Whatever a header holds, it is nobody's certificate, is refused, or is the right one."""
    try:
        shown = certificates().shown(PROXY, [(HEADER, value)], None)
    except Unauthorized:
        return
    assert shown is None or shown.principal in (None, app)


def mutated(text: bytes, at: int, inserted: bytes) -> bytes:
    return text[:at] + inserted + text[at + 1 :]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("sha256:" + "AB" * 32, "sha256:" + "ab" * 32),
        ("sha256:" + ":".join(["AB"] * 32), "sha256:" + "ab" * 32),
        ("sha256 Fingerprint=" + ":".join(["AB"] * 32), "sha256:" + "ab" * 32),
        ("SHA256 Fingerprint=" + ":".join(["AB"] * 32), "sha256:" + "ab" * 32),
        ("dns:Flow.Example", "dns:flow.example"),
        ("uri:spiffe://A/b", "uri:spiffe://A/b"),
    ],
)
def test_names_are_written_as_tools_print_them(text: str, name: str) -> None:
    """A fingerprint may be pasted from openssl; a host has no case, a URI has."""
    assert read_name(text) == name


@pytest.mark.parametrize(
    "text", ["", "sha256:ab", "sha1:" + "ab" * 20, "dns:", "dns:a b", "CN=app", "uri:\N{SNOWMAN}"]
)
def test_what_is_no_name_is_a_fault(text: str) -> None:
    """What would never be found in a certificate is not taken for its name."""
    with pytest.raises(ValueError, match="expected"):
        read_name(text)


# -- whose they are --------------------------------------------------------------------------------


def test_a_certificate_has_a_fingerprint_and_the_names_its_authority_vouches_for() -> None:
    """The subject is a text of whoever asked for the certificate: it names nobody."""
    assert read_certificate(der(APP)) == Certificate(
        frozenset({fingerprint(APP), "dns:app.test", "uri:spiffe://flow.test/app"}),
        NOW - 60,
        NOW + 60,
    )
    assert read_certificate(der(NAMELESS)).names == {fingerprint(NAMELESS)}


@pytest.mark.parametrize(
    ("certificate", "token", "name"),
    [
        (None, "app", "app"),
        (APP, None, "app"),
        (OTHER, None, "other"),
        (APP, "app", "app"),
        (NAMELESS, "app", "app"),
        (BOTH, "strict", "strict"),
    ],
)
def test_who_shows_what_is_one_clients_is_that_client(
    certificate: x509.Certificate | None, token: str | None, name: str
) -> None:
    """A token, a certificate, both; a certificate that names nobody opens the port and no more."""
    assert who_calls(certificate, token) == name


@pytest.mark.parametrize(
    ("certificate", "token"),
    [
        (APP, "other"),
        (APP, "unknown"),
        (NAMELESS, None),
        (NAMELESS, "unknown"),
        (OLD, None),
        (OLD, "times"),
        (YOUNG, None),
        (made(x509.UniformResourceIdentifier("spiffe://flow.test/ended")), None),
        (BOTH, None),
        (BOTH, "app"),
        (None, "strict"),
        (NAMELESS, "strict"),
        (APP, "strict"),
    ],
)
def test_all_else_is_refused_in_the_same_words(
    certificate: x509.Certificate | None, token: str | None
) -> None:
    """Two clients at once, nobody's, not valid now, half of what is needed: all sound the same."""
    with pytest.raises(Unauthorized) as refusal:
        who_calls(certificate, token)
    assert refusal.value.message == UNKNOWN


def test_a_certificate_that_names_two_clients_is_nobodys() -> None:
    """There is exactly one client behind a call, or none."""
    two = made(x509.DNSName("app.test"), x509.UniformResourceIdentifier("spiffe://flow.test/ended"))
    with pytest.raises(Unauthorized, match=UNKNOWN):
        who_calls(two, None)
    with pytest.raises(Unauthorized, match=UNKNOWN):  # whether one of them has ended or not
        certificates().shown(STRANGER, [], on_connection(two))


def test_a_client_may_be_named_twice() -> None:
    """Two names of one certificate that are the same client's are no contradiction."""
    both = Principal("both", READS, certificates=("dns:app.test", "uri:spiffe://flow.test/app"))
    shown = Certificates((both,), read_certificate, PROXIES, None).shown(
        STRANGER, [], on_connection(APP)
    )
    assert shown is not None
    assert shown.principal is both


def test_a_uri_is_taken_letter_by_letter() -> None:
    """The name of a host is one in any case (RFC 4343); of a URI this holds for the host alone."""
    loud = made(x509.UniformResourceIdentifier("spiffe://flow.test/APP"))
    assert "uri:spiffe://flow.test/APP" in read_certificate(der(loud)).names
    assert read_name("uri:spiffe://flow.test/APP") == "uri:spiffe://flow.test/APP"


def test_networks_hold_for_certificates_as_well() -> None:
    """A certificate from elsewhere is nobody's, as a token is."""
    near = Principal("near", READS, certificates=("dns:app.test",), networks=PROXIES)
    shown = Certificates([near], read_certificate, PROXIES, None).shown(
        None, [], on_connection(APP)
    )
    assert Principals((), lambda: NOW).authenticate([], "10.1.1.1", shown) is near
    with pytest.raises(Unauthorized):
        Principals((), lambda: NOW).authenticate([], "192.0.2.1", shown)


def test_a_certificate_ends_in_the_midst_of_a_connection() -> None:
    """Its validity is looked at with each call, not with each handshake."""
    now = NOW
    known = Principals((), lambda: now)
    shown = certificates().shown(STRANGER, [], on_connection(APP))
    assert known.authenticate([], None, shown) is app
    now = NOW + 61
    with pytest.raises(Unauthorized):
        known.authenticate([], None, shown)


# -- where they come from --------------------------------------------------------------------------


def test_a_header_counts_from_a_trusted_proxy_only() -> None:
    """Anybody may write one; whoever is not a proxy has what their connection has."""
    header = [(HEADER, FORMS["RFC 9440"](APP).encode())]
    at = certificates()
    shown = at.shown(PROXY, header, None)
    assert shown is not None
    assert shown.principal is app
    assert at.shown(STRANGER, header, None) is None
    assert at.shown(None, header, None) is None
    assert at.shown(STRANGER, header, on_connection(None)) is None
    assert certificates(None).shown(PROXY, header, None) is None
    mine = at.shown(STRANGER, header, on_connection(OTHER))
    assert mine is not None
    assert mine.principal is other


def test_a_proxys_own_certificate_is_nobodys() -> None:
    """With what it hands on it speaks for its caller; without, its caller showed nothing."""
    at = certificates()
    assert at.shown(PROXY, [], on_connection(OTHER)) is None
    assert at.shown(PROXY, [(HEADER, b" ")], on_connection(OTHER)) is None
    shown = at.shown(PROXY, [(HEADER, pem(APP).replace("\n", " ").encode())], on_connection(OTHER))
    assert shown is not None
    assert shown.principal is app


def test_two_headers_are_refused() -> None:
    """A proxy that adds its own to what its caller wrote is no proxy to be trusted."""
    line = (HEADER, FORMS["nginx"](APP).encode())
    with pytest.raises(Unauthorized, match=UNKNOWN):
        certificates().shown(PROXY, [line, line], None)


def test_a_certificate_is_read_once() -> None:
    """All calls of a connection, and all a proxy hands on, find what was read the first time."""
    reads = 0

    def read(data: bytes) -> Certificate:
        nonlocal reads
        reads += 1
        return read_certificate(data)

    at = Certificates(EVERYBODY, read, PROXIES, HEADER)
    extensions, header = on_connection(APP), [(HEADER, FORMS["nginx"](APP).encode())]
    for _ in range(3):
        assert at.shown(STRANGER, [], extensions) == at.shown(PROXY, header, None)
    assert reads == 2


def test_what_is_kept_of_certificates_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever shows ever new ones fills no memory: the oldest are read again."""
    monkeypatch.setattr("flowcache.authn.certificates._MOST_KNOWN", 2)
    reads: list[bytes] = []

    def read(data: bytes) -> Certificate:
        reads.append(data)
        return read_certificate(data)

    at = Certificates(EVERYBODY, read, PROXIES, None)
    for certificate in (APP, OTHER, NAMELESS, APP):
        at.shown(STRANGER, [], on_connection(certificate))
    assert reads == [der(each) for each in (APP, OTHER, NAMELESS, APP)]
