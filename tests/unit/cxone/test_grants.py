"""The two requests for a token, and what an answer says."""

from __future__ import annotations

from base64 import b64decode
from urllib.parse import parse_qsl

import msgspec
import pytest

from flowcache.cxone.grants import granted, token_request
from flowcache.cxone.settings import CxoneSettings, Grant
from flowcache.outbound.judging import NotNow
from flowcache.secret import Secret

SETTINGS = CxoneSettings(
    "/audit",
    "who & who",
    Secret("s:e+c%r"),
    "https://api",
    access_key_id="key/id",
    access_key_secret=Secret("k=s&"),
)


def test_client_credentials() -> None:
    """The seed's request as it is meant: a form, in the body and in the header."""
    request = token_request(SETTINGS)
    assert request.url == "https://api/api/v2/oauth/token"
    assert request.headers["content-type"] == "application/x-www-form-urlencoded"
    assert "authorization" not in request.headers
    assert dict(parse_qsl(request.form.decode())) == {
        "grant_type": "client_credentials",
        "client_id": "who & who",
        "client_secret": "s:e+c%r",
        "scope": "api:read",
    }


def test_access_key() -> None:
    """CXone's own: the client as Basic, each half encoded, and the access key as user."""
    request = token_request(msgspec.structs.replace(SETTINGS, grant=Grant.ACCESS_KEY))
    assert request.url == "https://cxone.niceincontact.com/auth/token"
    kind, _, basic = request.headers["authorization"].partition(" ")
    assert (kind, b64decode(basic)) == ("Basic", b"who+%26+who:s%3Ae%2Bc%25r")
    assert dict(parse_qsl(request.form.decode())) == {
        "grant_type": "password",
        "username": "key/id",
        "password": "k=s&",
    }


@pytest.mark.parametrize("grant", Grant)
def test_a_request_does_not_show_its_secrets(grant: Grant) -> None:
    """A repr in a log or a traceback has the address only."""
    shown = repr(token_request(msgspec.structs.replace(SETTINGS, grant=grant)))
    assert shown.endswith("token', ***)")


@pytest.mark.parametrize(
    ("body", "seconds"),
    [
        (b'{"access_token":"t","expires_in":60}', 60.0),
        (b'{"access_token":"t","expires_in":"60","token_type":"bearer"}', 60.0),
        (b'{"access_token":"t"}', 3600.0),
        (b'{"access_token":"t","expires_in":null}', 3600.0),
    ],
)
def test_granted(body: bytes, seconds: float) -> None:
    """A token, and how long it lives; an hour where that is not said."""
    assert granted(body) == (Secret("t"), seconds)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"access_token":null}',
        b'{"access_token":""}',
        b'{"access_token":"a b"}',
        b'{"access_token":"a\\r\\nx: y"}',
        '{"access_token":"ä"}'.encode(),
        b'{"access_token":"secret","expires_in":"never"}',
        b'{"access_token":"secret","expires_in":[]}',
    ],
)
def test_not_granted(body: bytes) -> None:
    """What is no token is none, whatever the status was, and is not repeated."""
    with pytest.raises(NotNow, match=r"^the token endpoint answered with something") as e:
        granted(body)
    assert e.value.__cause__ is None
    assert e.value.__suppress_context__ or e.value.__context__ is None
