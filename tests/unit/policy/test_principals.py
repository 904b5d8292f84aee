"""Who is let in, and by what credential."""

from __future__ import annotations

from base64 import b64encode

import pytest

from flowcache.authn.credentials import presented
from flowcache.authn.principals import Credential, Principals
from flowcache.authn.tokens import Token, digest
from flowcache.authz.networks import Networks, read_network
from flowcache.authz.permissions import Permission
from flowcache.authz.principal import Principal
from flowcache.errors import Forbidden, Unauthorized

READER = Principal("reader", frozenset({Permission.DATA_READ}))
INSPECTOR = Principal("inspector", frozenset({Permission.INSPECT_READ}))
NEAR = Principal(
    "near", frozenset({Permission.DATA_READ}), networks=Networks([read_network("10.0.0.0/8")])
)


class Day:
    """A time of day that stands still."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def credential(token: str, principal: Principal, expires: float | None = None) -> Credential:
    return Credential(Token(digest(token.encode()), expires), principal)


DAY = Day()
KNOWN = Principals(
    (
        credential("reader-token", READER),
        credential("old-reader-token", READER, expires=2000.0),
        credential("inspector-token", INSPECTOR),
        credential("near-token", NEAR),
    ),
    DAY,
)


def basic(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return b"Basic " + b64encode(raw)


def who(*headers: tuple[bytes, bytes], address: str | None = "192.0.2.1") -> Principal:
    return KNOWN.authenticate([(b"host", b"x"), *headers, (b"accept", b"*/*")], address)


def refused(*headers: tuple[bytes, bytes], address: str | None = "192.0.2.1") -> str:
    with pytest.raises(Unauthorized) as refusal:
        who(*headers, address=address)
    return refusal.value.message


@pytest.mark.parametrize(
    "header",
    [
        b"Bearer reader-token",
        b"bearer reader-token",
        b"BEARER reader-token",
        b"Bearer   reader-token",
        b"Bearer reader-token ",
        b"Bearer \treader-token\t",
        basic("reader:reader-token"),
        basic("reader:reader-token").replace(b"Basic", b"bAsIc"),
        basic("reader:reader-token").replace(b" ", b"   ") + b" ",
    ],
)
def test_a_known_token_is_its_principal(header: bytes) -> None:
    """The scheme's case and spaces around the token make no difference (RFC 9110, 11.1)."""
    assert who((b"authorization", header)) is READER


def test_a_key_is_a_token_without_a_scheme() -> None:
    """Platforms that can't set Authorization send X-API-Key."""
    assert who((b"x-api-key", b"reader-token")) is READER
    assert who((b"x-api-key", b" inspector-token ")) is INSPECTOR
    for wrong in (b"", b"Bearer reader-token", b"reader:reader-token"):
        refused((b"x-api-key", wrong))


def test_every_credential_has_its_own_principal() -> None:
    """It is the token that tells who calls, wherever it stands among the known ones."""
    assert who((b"authorization", b"Bearer inspector-token")) is INSPECTOR


@pytest.mark.parametrize(
    "header",
    [
        None,
        b"",
        b" ",
        b"Bearer",
        b"Bearer ",
        b"Bearer      ",
        b"Bearer reader-toke",
        b"Bearer reader-tokenn",
        b"Bearer Reader-token",
        b"Bearer reader-token inspector-token",
        b"Bearer reader token",
        b"Bearer,reader-token",
        b"Bearerreader-token",
        b" Bearer reader-token",
        b"reader-token",
        b"Token reader-token",
        b"Bearer \xff\xfe\x00",
        b"\xff\xfe \x80",
        "Bearer reader-tökén".encode(),
        b"Bearer reader-token\x00",
        b"Bearer " + b"x" * 100_000,
        b"Bearer " + digest(b"reader-token").hex().encode(),
        b"Bearer sha256:" + digest(b"reader-token").hex().encode(),
        b"Basic",
        b"Basic ",
        b"Basic reader-token",
        b"Basic reader:reader-token",
        basic(""),
        basic(":"),
        basic("reader"),
        basic("reader-token"),
        basic(":reader-token"),
        basic("reader:"),
        basic("Reader:reader-token"),
        basic("inspector:reader-token"),
        basic("reader :reader-token"),
        basic("reader: reader-token"),
        basic("reader:reader-token\n"),
        basic(b"\xff\xfe:\x80"),
        basic("reader:reader-token")[:-1],
        basic("reader:reader-token") + b"=",
        basic("reader:reader-token") + b"!",
        basic("reader:reader-token").replace(b"=", b""),
        b"Basic " + b"A" * 100_000,
    ],
)
def test_anything_else_is_nobody(header: bytes | None) -> None:
    """No credential, half of one, another kind of one: refused, whatever bytes it is made of."""
    refused(*(() if header is None else ((b"authorization", header),)))


@pytest.mark.parametrize("first", [b"Bearer reader-token", b"Bearer wrong", b"nonsense", b""])
@pytest.mark.parametrize("name", [b"authorization", b"x-api-key"])
def test_of_two_credentials_neither_counts(first: bytes, name: bytes) -> None:
    """A proxy before us may have looked at the other one; two that are equal are two."""
    for headers in (
        ((b"authorization", first), (name, b"reader-token")),
        ((name, b"reader-token"), (b"authorization", first)),
    ):
        assert refused(*headers) == "Two credentials; send one."


def test_whatever_is_wrong_with_a_token_the_answer_is_the_same() -> None:
    """Unknown, expired, from elsewhere, another client's: a guesser learns nothing."""
    DAY.now = 3000.0
    try:
        told = {
            refused((b"authorization", b"Bearer unknown")),
            refused((b"authorization", b"Bearer old-reader-token")),
            refused((b"authorization", b"Bearer near-token")),
            refused((b"authorization", basic("inspector:reader-token"))),
            refused((b"x-api-key", b"unknown")),
        }
    finally:
        DAY.now = 1000.0
    assert told == {"Unknown credential."}


@pytest.mark.parametrize(
    "header", [b"Bearer wrong-but-secret", b"wrong-but-secret x", b"Bearer", basic("a:wrong-but")]
)
def test_a_refusal_repeats_nothing(header: bytes) -> None:
    """What was presented may be a credential of something else: it is not shown."""
    assert "wrong-but" not in refused((b"authorization", header))


def test_a_token_counts_until_it_expires() -> None:
    """To the second: at its expiry it does not count any more; the one beside it does."""
    old, new = (b"x-api-key", b"old-reader-token"), (b"x-api-key", b"reader-token")
    try:
        DAY.now = 1999.999
        assert who(old) is who(new) is READER
        DAY.now = 2000.0
        refused(old)
        assert who(new) is READER
    finally:
        DAY.now = 1000.0


@pytest.mark.parametrize(
    ("address", "let_in"),
    [
        ("10.0.0.1", True),
        ("10.255.255.255", True),
        ("::ffff:10.0.0.1", True),
        ("11.0.0.1", False),
        ("::1", False),
        ("10.0.0.1.example", False),
        ("", False),
        (None, False),
    ],
)
def test_a_client_calls_from_its_networks_only(address: str | None, let_in: bool) -> None:
    """A token that leaked is of no use elsewhere; an address that is none is elsewhere."""
    key = (b"x-api-key", b"near-token")
    if let_in:
        assert who(key, address=address) is NEAR
    else:
        refused(key, address=address)
    assert who((b"x-api-key", b"reader-token"), address=address) is READER


@pytest.mark.parametrize("header", [None, b"", b"Bearer ", b"Bearer x"])
def test_with_nobody_known_everybody_is_refused(header: bytes | None) -> None:
    """The default is to refuse."""
    headers = [] if header is None else [(b"authorization", header)]
    with pytest.raises(Unauthorized):
        Principals((), DAY).authenticate(headers, None)


@pytest.mark.parametrize("permission", Permission)
@pytest.mark.parametrize("principal", [READER, INSPECTOR, Principal("nobody", frozenset())])
def test_what_was_not_given_is_refused(principal: Principal, permission: Permission) -> None:
    """A principal passes with a permission it was given and with no other."""
    if permission in principal.permissions:
        principal.require(permission)
        return
    with pytest.raises(Forbidden, match=permission.value):
        principal.require(permission)


def test_what_is_known_does_not_show_its_tokens() -> None:
    """No repr of those who are known shows a token, nor what a weak one could be guessed from."""
    shown = repr(
        (
            KNOWN,
            credential("reader-token", READER),
            presented([(b"authorization", basic("reader:reader-token"))]),
        )
    )
    assert "reader-token" not in shown
    assert digest(b"reader-token").hex() not in shown
    assert repr(digest(b"reader-token")) not in shown
