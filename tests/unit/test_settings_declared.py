"""What follows from the declaration of a setting: the sample, the reference, names and sources."""

from __future__ import annotations

import re
import tomllib
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from flowcache.settings import (
    CLIENT_SETTINGS,
    SETTINGS,
    ConfigurationError,
    Setting,
    load,
    report,
)
from flowcache.settings.kinds import FILE, NEW_FILE, OUTPUT
from flowcache.settings.rules import AT_MOST, NEEDS, RULES
from flowcache.settings.showing import reference, sample

TOKEN = {"SERVICE_BEARER_TOKEN": "a-token-of-the-flows"}
NAMES = {row.name for row in SETTINGS}
ALL = (*SETTINGS, *CLIENT_SETTINGS)


def uncommented() -> dict[str, Any]:
    """Return the sample as it is when every setting in it is uncommented."""
    return tomllib.loads(re.sub(r"^#(?=[\w\[])", "", sample(), flags=re.MULTILINE))


@pytest.mark.parametrize("row", ALL, ids=lambda row: row.name)
def test_a_setting_is_described(row: Setting) -> None:
    """A description is sentences; without a default it is said what happens instead."""
    assert re.fullmatch(r"[A-Z`].*\.", row.about)
    assert (row.default is None) is bool(row.unset)


@pytest.mark.parametrize("row", ALL, ids=lambda row: row.name)
def test_an_example_could_be_configured(row: Setting) -> None:
    """What the sample shows can be uncommented, where it is no file and no secret."""
    is_path = row.kind in (FILE, NEW_FILE, OUTPUT) or row.holds is not None
    if row.default is None and not is_path and not row.is_secret:
        assert row.example is not None
        row.kind.read(row.example)


def test_the_sample_changes_nothing(tmp_path: Path) -> None:
    """As it is printed it is the default configuration."""
    file = tmp_path / "flowcache.toml"
    file.write_text(sample())
    assert load(file, TOKEN).shown == load(None, TOKEN).shown


def test_the_sample_has_every_setting_with_its_default() -> None:
    """Whatever is declared can be found there, and is valid TOML when it is uncommented."""
    document = uncommented()
    (client,) = document.pop("clients").values()
    names = [f"{section}.{key}" for section, keys in document.items() for key in keys]
    assert names == [row.name for row in SETTINGS]
    assert list(client) == [row.key for row in CLIENT_SETTINGS]
    for row in SETTINGS:
        if row.default is not None:
            assert document[row.section][row.key] == row.default


def test_no_line_of_the_sample_is_too_long() -> None:
    """It can be read in a terminal."""
    assert max(map(len, sample().splitlines())) <= 100


def test_the_reference_has_every_setting() -> None:
    """A setting has one line in its section; the file of a secret follows from the secret."""
    lines = list(reference())
    keys = [line.split("`")[1] for line in lines if line.startswith("| `")]
    assert keys == [row.key for row in ALL if row.holds is None]


def test_rules_name_settings() -> None:
    """A rule about a setting that was renamed would never be broken again."""
    named = chain(
        *([each.name, *each.one_of, *(each.when or ())[:1]] for each in NEEDS),
        *AT_MOST,
        *(each.names for each in RULES),
    )
    assert set(named) <= NAMES


def test_every_value_in_effect_has_its_source(tmp_path: Path) -> None:
    """Command line, variable, file, made up or default; of a secret in a file also which."""
    file, secret = tmp_path / "flowcache.toml", tmp_path / "secret"
    secret.write_text("a-password")
    file.write_text(f'[http]\nhost = "::1"\nport = 1\n[redis]\npassword_file = "{secret}"')
    made = {"inspector.token": "a-token-that-was-made"}
    found = report(file, TOKEN | {"FLOWCACHE_PORT": "2"}, {"http.workers": 3}, made)
    assert found.settings is not None
    sources = {row.name: (value, source) for row, value, source in found.effective}
    assert sources["http.host"] == ("::1", str(file))
    assert sources["http.port"] == (2, "FLOWCACHE_PORT")
    assert sources["http.workers"] == (3, "command line")
    assert sources["http.grace_seconds"] == (10.0, "default")
    assert sources["auth.token"] == ("***", "SERVICE_BEARER_TOKEN")
    assert sources["inspector.token"] == ("***", "generated")
    assert sources["redis.password"] == ("***", f"redis.password_file, {file}")
    assert sources["redis.username"] == (None, "default")


def test_every_fault_has_its_path_and_its_source(tmp_path: Path) -> None:
    """Faults are values: where, what, whence and why."""
    file = tmp_path / "flowcache.toml"
    file.write_text("[http]\nprot = 1\n[data]\ndeadline_ms = 0\n[clients.a]\nrates = 1\nweight = 0")
    with pytest.raises(ConfigurationError) as caught:
        load(file, TOKEN | {"FLOWCACHE_WORKERS": "many"}, {"http.host": " "})
    faults = {each.path: each for each in caught.value.faults}
    assert faults["http.prot"].source == str(file)
    assert faults["http.prot"].reason == "unknown setting; did you mean http.port?"
    assert faults["data.deadline_ms"][2:] == ("0", str(file))
    assert faults["http.workers"][2:] == ('"many"', "FLOWCACHE_WORKERS")
    assert faults["http.host"][2:] == ('" "', "command line")
    assert faults["clients.a.rates"][1:] == (
        "unknown setting; did you mean rate?",
        "",
        str(file),
    )
    assert faults["clients.a.weight"][2:] == ("0", str(file))
    assert str(faults["http.workers"]).startswith('http.workers (FLOWCACHE_WORKERS) = "many": ')


def test_a_setting_with_a_fault_is_shown_with_its_default() -> None:
    """What is in effect can be shown though something is wrong."""
    found = report(None, TOKEN | {"FLOWCACHE_PORT": "x"})
    assert found.settings is None
    assert [each.path for each in found.faults] == ["http.port"]
    assert {row.name: value for row, value, _ in found.effective}["http.port"] == 3000


@pytest.mark.parametrize(
    ("text", "path"),
    [('"" = 1', '""'), ('[http]\n"a b" = 1', 'http."a b"'), ('["a\\nb"]\nc = 1', r'"a\nb".c')],
)
def test_the_path_of_a_fault_is_written_as_in_toml(text: str, path: str, tmp_path: Path) -> None:
    """Whatever a key is, a fault is one line and its path can be searched for in the file."""
    file = tmp_path / "flowcache.toml"
    file.write_text(text)
    assert [each.path for each in report(file, TOKEN).faults] == [path]
