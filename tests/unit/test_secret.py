"""What must never be shown isn't."""

from __future__ import annotations

import json
import logging
import pickle
import traceback
from collections.abc import Callable

import msgspec
import pytest

from flowcache.authn.principals import Credential
from flowcache.authz.permissions import Permission
from flowcache.authz.principal import Principal
from flowcache.secret import Secret, SecretInFile
from flowcache.store.settings import StoreSettings

SECRET = Secret("hunter2")


@pytest.mark.parametrize(
    "show",
    [
        repr,
        str,
        ascii,
        format,
        lambda secret: f"{secret} {secret!r} {secret!s} {secret!a}",
        "{0} {0!r} {0!s} {0!a}".format,
        lambda secret: "%s %r" % (secret, secret),  # noqa: UP031 - as old log calls do it
        lambda secret: str([secret, {"token": secret}, (secret,)]),
        lambda secret: repr(ValueError("bad token", secret)),
        lambda secret: str(KeyError(secret)),
        lambda secret: repr(StoreSettings(password=secret, sentinel_password=secret)),
        lambda secret: repr(Credential(secret, Principal("flow", frozenset()))),
        lambda secret: json.dumps({"token": secret}, default=str),
        lambda secret: str(logging.LogRecord("x", 10, "x", 1, "%s", (secret,), None).getMessage()),
    ],
)
def test_no_way_of_showing_shows_it(show: Callable[[Secret], str]) -> None:
    """Whatever turns a secret into text gives the mask."""
    assert "***" in show(SECRET)
    assert not set("§¤¶") & set(show(Secret("§¤¶")))  # no part of it either
    assert "\\xa7" not in show(Secret("§¤¶"))


def test_a_traceback_does_not_show_it() -> None:
    """An exception that a secret was given to prints the mask."""
    assert "hunter2" not in "".join(traceback.format_exception(LookupError(SECRET)))


@pytest.mark.parametrize(
    "encode", [json.dumps, msgspec.json.encode, msgspec.msgpack.encode, msgspec.to_builtins]
)
def test_no_encoder_writes_it(encode: Callable[[object], object]) -> None:
    """A secret that slips into an answer or a report is refused, not written."""
    with pytest.raises(TypeError):
        encode({"token": SECRET})


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_it_can_not_be_pickled(protocol: int) -> None:
    """`reveal` is the one way to the value: what is pickled would carry it in clear."""
    with pytest.raises(TypeError):
        pickle.dumps(SECRET, protocol)


def test_it_has_no_dict_to_look_into() -> None:
    """`vars` and `__dict__`, which reporters of errors like to print, are not there."""
    with pytest.raises(TypeError):
        vars(SECRET)


def test_reveal_is_the_way_to_the_value() -> None:
    """Whoever asks by name gets the value."""
    assert SECRET.reveal() == "hunter2"


def test_secrets_are_compared_by_value() -> None:
    """Two secrets are equal when their values are; a secret equals no text."""
    assert Secret("hunter2") == SECRET
    assert hash(Secret("hunter2")) == hash(SECRET)
    assert Secret("hunter3") != SECRET
    assert SECRET != "hunter2"
    assert SECRET != b"hunter2"


@pytest.mark.parametrize(
    ("candidate", "matches"),
    [
        (b"hunter2", True),
        (b"hunter", False),
        (b"hunter22", False),
        (b"Hunter2", False),
        (b"", False),
        (b"\xff\xfe", False),
    ],
)
def test_a_candidate_matches_when_it_is_the_value(candidate: bytes, matches: bool) -> None:
    """Bytes match when they are the value's UTF-8, whatever else they are."""
    assert SECRET.matches(candidate) is matches


def test_a_secret_may_have_any_letters() -> None:
    """A password need not be ASCII."""
    assert Secret("pässword").matches("pässword".encode())


def test_an_empty_secret_is_false() -> None:
    """Whether there is a secret can be asked without revealing it."""
    assert SECRET
    assert not Secret("")


def test_permissions_are_resource_and_action() -> None:
    """Permissions read ``resource:action`` and stand in order."""
    values = [permission.value for permission in Permission]
    assert values == sorted(values)
    assert values == ["circuits:write", "data:read", "data:write", "inspect:read"]


def test_one_in_a_file_stays_until_it_is_asked_for_anew() -> None:
    """What was read at first is what it is; the file's next content is had by asking."""
    held = ["first", "second"]
    secret = SecretInFile(lambda: Secret(held[0]))
    held.pop(0)
    assert secret.reveal() == "first"
    assert secret.fresh().reveal() == "second"
    assert SECRET.fresh() is SECRET
    assert "first" not in repr(secret)
    with pytest.raises(TypeError):
        pickle.dumps(secret)
