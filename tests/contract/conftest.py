"""The fixture that this suite is about: one flowcache after the other, each with another Redis."""

import secrets
from collections.abc import Iterator

import pytest

from tests.contract.backends import BACKENDS, Flow


@pytest.fixture(scope="session", params=BACKENDS)
def flow(request: pytest.FixtureRequest) -> Iterator[Flow]:
    """Share a flowcache in front of one kind of Redis. Other tests' keys and calls are in it."""
    with BACKENDS[request.param](request.getfixturevalue) as running:
        yield running


@pytest.fixture
def in_clear(flow: Flow) -> None:
    """Leave out a test of INCR where values are encrypted: Redis can't count there."""
    if flow.is_sealed:
        pytest.skip("values are encrypted")


@pytest.fixture
def key() -> str:
    """Return a key that no other test has."""
    return f"contract:{secrets.token_hex(8)}"
