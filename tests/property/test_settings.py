"""What the configuration promises whatever is in the file, the environment and on the line."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcache.settings import SETTINGS, ConfigurationError, Settings, load
from tests.property.strategies import documents, environments, modest, texts, toml

TOKEN = {"SERVICE_BEARER_TOKEN": "flow-token"}
WORD = "hunter2"
"""What must not be seen: part of every password here."""

punctuation = st.text("!#$%&'()*+,-./:;<=>?@[]^_{|}~ é", max_size=3)
passwords = st.builds(f"{{}}{WORD}{{}}".format, punctuation, punctuation)
locations = st.builds(
    "{}{}:{}@{}{}".format,
    st.sampled_from(["", "redis://", "rediss://", "redis+sentinel://", "rediz://", "//"]),
    st.sampled_from(["", "default"]),
    passwords,
    st.sampled_from(["cache", "cache:7000", "cache:70000", "a:1,b:2", "[::1]:7", ""]),
    st.sampled_from(["", "/0", "/x", "/name/1", "?db=1", "?db=x"]),
)


@pytest.fixture(scope="session")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("settings") / "flowcache.toml"


def written(path: Path, document: dict[str, Any]) -> Path:
    text = "\n".join(f"{toml(name)} = {toml(value)}" for name, value in document.items())
    path.write_text(text, "utf-8")
    return path


def outcome(*arguments: Any) -> Settings | ConfigurationError:
    """Load, and return what came of it; whatever else is raised fails the test."""
    try:
        return load(*arguments)
    except ConfigurationError as error:
        told = error
    assert told.faults
    assert all(fault.path and fault.reason for fault in told.faults)
    return told


@given(documents(), environments)
@modest
def test_any_configuration_is_settings_or_faults(
    path: Path, document: dict[str, Any], environment: dict[str, str]
) -> None:
    """Whatever a file and an environment hold, loading gives settings or tells the faults."""
    outcome(written(path, document), TOKEN | environment)


@given(st.binary(max_size=60) | texts.map(str.encode))
@modest
def test_any_file_is_settings_or_faults(path: Path, content: bytes) -> None:
    """A file that is no TOML at all is a fault of the configuration."""
    path.write_bytes(content)
    outcome(path, TOKEN)


@given(st.dictionaries(st.sampled_from(SETTINGS), texts | st.integers() | st.floats(), max_size=5))
@modest
def test_any_override_is_settings_or_faults(given_by_row: dict[Any, Any]) -> None:
    """What the command line hands over is read as strictly as the rest."""
    outcome(None, TOKEN, {row.name: value for row, value in given_by_row.items()})


@given(documents())
@modest
def test_the_documents_of_these_tests_are_toml(document: dict[str, Any]) -> None:
    """What these tests write is TOML, or they would test nothing but its parser."""
    text = toml({"document": document})
    assert tomllib.loads(f"a = {text}")["a"].keys() == {"document"}


@given(locations, st.sampled_from(["environment", "override", "text", "list"]))
@modest
def test_no_password_in_a_location_is_ever_told(path: Path, location: str, where: str) -> None:
    """A password in ``redis.nodes`` is in no fault and in nothing shown, however odd it is."""
    inside = {"text": location, "list": [location]}.get(where, "localhost")
    environment = TOKEN | ({"REDIS_NODES": location} if where == "environment" else {})
    overrides = {"redis.nodes": location} if where == "override" else {}
    found = outcome(written(path, {"redis": {"nodes": inside}}), environment, overrides)
    told = str(found) if isinstance(found, ConfigurationError) else repr((found, found.shown))
    assert WORD not in told


SECRET_ROWS = ["auth.token", "inspector.token", "redis.password", "redis.sentinel_password"]


@given(st.dictionaries(st.sampled_from([*SECRET_ROWS, "cxone.client_secret"]), passwords))
@modest
def test_no_secret_is_ever_told(path: Path, secrets: dict[str, str]) -> None:
    """A secret is in no fault, no repr and nothing shown, whether it is a good one or not."""
    rows = {row.name: row for row in SETTINGS}
    environment = {rows[name].variable: secret for name, secret in secrets.items()}
    for faulty in ({}, {"http.port": "x"}):
        found = outcome(None, environment, faulty)
        told = str(found) if isinstance(found, ConfigurationError) else repr((found, found.shown))
        assert WORD not in told
