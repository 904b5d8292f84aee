"""Secrets are planted everywhere they may lawfully be, and searched for everywhere they may not.

What is planted stands in `planted`, what then happens in `driven`. To plant more, add a row there.
"""

from __future__ import annotations

import json
from base64 import b64encode
from contextlib import suppress
from hashlib import sha256
from typing import Any
from urllib.parse import quote

import pytest

from flowcache.secret import Secret
from flowcache.settings import SETTINGS, ConfigurationError, Setting, load
from tests.http.driven import Drive, Outputs, commands
from tests.http.planted import BUG, ECHOED, MARKERS, RECORDED, SECRETS, SHAPES, configure, marker
from tests.servers import standalone
from tests.service import service


def forms(planted: str) -> set[bytes]:
    """Return how a text may be written, so that it is still there for whoever looks for it."""
    raw = planted.encode()
    return {
        raw[:24],  # it may be cut off, too
        raw[-24:],
        b64encode(raw[:24]),
        raw.hex().encode(),
        quote(planted, safe="").encode(),
        sha256(raw).hexdigest().encode(),
        sha256(raw).digest(),
    }


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Outputs:
    """Plant, drive, and gather all that can be read."""
    directory = tmp_path_factory.mktemp("planted")
    with standalone(config=[f'requirepass "{MARKERS["redis.password"]}"']) as redis:
        environment = configure(directory, redis)
        hooks = directory / "hooks"
        hooks.mkdir()
        (hooks / "sitecustomize.py").write_text(BUG)
        buggy = environment | {"PYTHONPATH": str(hooks), "FLOWCACHE_LOG_LEVEL": "debug"}
        config = str(directory / "flowcache.toml")
        with service(buggy, "--config", config, "--workers", "2") as running:
            drive = Drive(running, redis, directory)
            drive.succeed()
            drive.show_wrong_credentials()
            drive.send_bad_bodies()
            drive.tamper()
            drive.break_redis()
            drive.break_journal()
            drive.crash()
            drive.reload_with_faults()
            drive.order()
            drive.succeed()
            with redis.client(password=MARKERS["redis.password"]) as operator:
                operator.set(f"customer:{MARKERS['subject of an erasure']}:1", "x")
            found = commands(environment, directory, redis.port, running.url)
            found |= drive.outputs()
            with redis.client(password=MARKERS["redis.password"]) as operator:
                found["stream in Redis"] = repr(operator.xrange("flowcache:audit")).encode()
            assert running.stop() == 0
            found["standard output and error"] = running.log.encode()
        settings = load(directory / "flowcache.toml", environment)
        found["repr of the settings"] = f"{settings!r} {settings}".encode()
        found["what is shown of the settings"] = json.dumps(settings.shown).encode()
        found |= {
            f"file {file.name}, at the end": file.read_bytes()
            for file in (directory / "journal").iterdir()
        }
    return found


@pytest.mark.parametrize("name", MARKERS)
def test_what_was_planted_is_nowhere(outputs: Outputs, name: str) -> None:
    """Neither as it is, nor encoded, nor as the hash that it is known by."""
    found = [
        (where, output[max(0, output.find(form) - 200) :][:500])
        for where, output in outputs.items()
        for form in forms(MARKERS[name])
        if form in output and not (name in ECHOED and where.startswith("answer "))
    ]
    assert found == []


def test_the_search_would_find_it(outputs: Outputs) -> None:
    """Each kind of output was read: what is to be in it is there."""
    for where in ("/inspector?limit=1000", "audit query", "audit export", "audit export, CSV"):
        for recorded in RECORDED.values():
            assert recorded.encode() in outputs[where], where
    for where in ("file delivered.jsonl, at the end", "stream in Redis"):
        assert RECORDED["flowId"].encode() in outputs[where], where
    journal = b"".join(output for where, output in outputs.items() if where.startswith("file "))
    assert RECORDED["flowId"].encode() in journal
    for where, words in (
        (
            "standard output and error",
            (b'"a bug"', b"RuntimeError", b"ValueError", b'"stray": true', b'"configuration"'),
        ),
        ("check, wrong password", (b"refused the user",)),
        ("check, bad secrets", (b"= ***",)),
        ("config show", (b'password = "***"',)),
        ("config show, JSON", (b'"value": "***"',)),
        ("config show, bad secrets", (b'"value": "***"',)),
        ("erase", (b"1 key removed",)),
        ("what is shown of the settings", (b"***",)),
        ("arguments of process 0", (b"flowcache",)),
    ):
        for word in words:
            assert word in outputs[where], where
    assert any(where.startswith("run directory: ") for where in outputs)
    answers = [output for where, output in outputs.items() if where.startswith("answer ")]
    for code in (
        *(b"invalid_request", b"unauthorized", b"forbidden", b"wrong_type", b"conflict"),
        *(b"too_large", b"internal", b"invalid_response", b"redis_unavailable"),
    ):
        assert any(code in answer for answer in answers), code


def test_every_setting_that_is_read_as_a_secret_is_one() -> None:
    """A new secret can't be forgotten: what its reader makes tells, and it is then planted."""
    for row in SETTINGS:
        made: object = None
        with suppress(ValueError):
            made = row.kind.read(SHAPES.get(row.name, str)(marker(row.name)))
        assert isinstance(made, Secret) is row.is_secret, row.name
    assert set(SECRETS) <= set(MARKERS)


@pytest.mark.parametrize("row", [row for row in SETTINGS if row.is_secret], ids=lambda r: r.name)
@pytest.mark.parametrize("shape", [" {0} ", "{0}\x00", "é{0}", ["{0}"], {"a": "{0}"}, "{0}" * 200])
def test_a_faulty_secret_is_not_told(row: Setting, shape: Any) -> None:
    """Whatever is wrong with it: the fault names the setting and not what was in it."""
    planted = SHAPES.get(row.name, str)(marker(row.name))
    filled = json.loads(json.dumps(shape).replace("{0}", planted))
    try:
        told = load(None, {"SERVICE_BEARER_TOKEN": "x"}, {row.name: filled}).shown
    except ConfigurationError as error:
        told = {"faults": {"all": list(map(str, error.faults))}, "error": {"repr": repr(error)}}
    assert planted not in json.dumps(told)
