"""Who is let in, and what they may do."""

from __future__ import annotations

import pytest

from flowcache.errors import Forbidden, Unauthorized
from flowcache.policy.permissions import Permission
from flowcache.policy.principals import Credential, Principal, Principals
from flowcache.secret import Secret

READER = Principal("reader", frozenset({Permission.DATA_READ}))
INSPECTOR = Principal("inspector", frozenset({Permission.INSPECT_READ}))
KNOWN = Principals(
    (Credential(Secret("reader-token"), READER), Credential(Secret("inspector-token"), INSPECTOR))
)


@pytest.mark.parametrize(
    "header",
    [
        b"Bearer reader-token",
        b"bearer reader-token",
        b"BEARER reader-token",
        b"Bearer   reader-token",
        b"Bearer reader-token ",
        b"Bearer \treader-token\t",
    ],
)
def test_a_known_token_is_its_principal(header: bytes) -> None:
    """The scheme's case and spaces around the token make no difference (RFC 9110, 11.1)."""
    assert KNOWN.authenticate(header) is READER


def test_every_credential_has_its_own_principal() -> None:
    """It is the token that tells who calls, wherever it stands among the known ones."""
    assert KNOWN.authenticate(b"Bearer inspector-token") is INSPECTOR


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
        b"Basic reader-token",
        b"Token reader-token",
        b"Bearer \xff\xfe\x00",
        b"\xff\xfe \x80",
        "Bearer reader-tökén".encode(),
        b"Bearer reader-token\x00",
        b"Bearer " + b"x" * 100_000,
    ],
)
def test_anything_else_is_nobody(header: bytes | None) -> None:
    """No credential, half of one, another kind of one: refused, whatever bytes it is made of."""
    with pytest.raises(Unauthorized):
        KNOWN.authenticate(header)


@pytest.mark.parametrize("header", [b"Bearer wrong-but-secret", b"wrong-but-secret x", b"Bearer"])
def test_a_refusal_repeats_nothing(header: bytes) -> None:
    """What was presented may be a credential of something else: it is not shown."""
    with pytest.raises(Unauthorized) as refusal:
        KNOWN.authenticate(header)
    assert "wrong-but-secret" not in refusal.value.message


@pytest.mark.parametrize("header", [None, b"", b"Bearer ", b"Bearer x"])
def test_with_nobody_known_everybody_is_refused(header: bytes | None) -> None:
    """The default is to refuse."""
    with pytest.raises(Unauthorized):
        Principals(()).authenticate(header)


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
    """No repr of those who are known shows a token."""
    assert "reader-token" not in repr(KNOWN)
