"""How key names are kept."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcache.audit.redaction import redaction
from flowcache.audit.settings import KeyNames
from flowcache.secret import Secret

SECRET = Secret("s" * 32)


@pytest.mark.parametrize(
    ("key", "kept"),
    [
        (b"caller:C-1", "caller:***"),
        (b"caller:C-1:address", "caller:***"),
        (b"4915112345678", "***"),
        (b":x", ":***"),
        (b"", "***"),
    ],
)
def test_a_masked_key_says_what_kind_of_thing_it_was(key: bytes, kept: str) -> None:
    """What comes before the first colon stays, and nothing else."""
    assert redaction(KeyNames.MASKED, None)(key) == kept


@given(st.binary(min_size=1, max_size=64), st.binary(min_size=1, max_size=64))
def test_a_hashed_key_can_be_looked_for_and_not_read(one: bytes, other: bytes) -> None:
    """Equal keys are kept alike, others are not, and another secret makes another hash."""
    hashed = redaction(KeyNames.HMAC, SECRET)
    assert (hashed(one) == hashed(other)) == (one == other)
    assert hashed(one) != redaction(KeyNames.HMAC, Secret("t" * 32))(one)
    assert len(hashed(one)) == len("hmac:") + 32


@given(st.binary(max_size=64))
def test_a_plain_key_is_always_a_text(key: bytes) -> None:
    """A key cut in the middle of a character is kept as far as it can be read."""
    redaction(KeyNames.PLAIN, None)(key).encode()


def test_a_plain_key_is_kept_as_it_is() -> None:
    """Nothing is done to it."""
    assert redaction(KeyNames.PLAIN, None)("clé:漢".encode()) == "clé:漢"
