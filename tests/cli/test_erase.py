"""``flowcache erase``, as an operator with a request of a data subject meets it."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from flowcache.audit.chain import Entry
from flowcache.audit.reading import Query, Reader
from flowcache.audit.verifying import verify
from tests.cli.test_cli import flowcache, nodes
from tests.http.test_audit_journal import fill, small_disk
from tests.servers import FLOWCACHE_ACL, Cluster, RedisProcess, SentinelGroup, eventually

KEY = "the-signing-key-of-the-erase-tests"
MINE = ("--pattern", "customer:4711:*")
PREFIX = "customer:4711"


@pytest.fixture
def server(fresh_standalone: RedisProcess) -> RedisProcess:
    """A server with five keys of the subject, and three of others."""
    with fresh_standalone.client() as client:
        for number in range(5):
            client.set(f"{PREFIX}:{number}", "value")
            client.set(f"flowcache:ns:billing:{PREFIX}:{number}", "value")
        for other in (
            "customer:47110:x",
            "customer:4711",
            f"flowcache:ns:billing-2:{PREFIX}:x",
        ):
            client.set(other, "value")
    return fresh_standalone


def environment(server: RedisProcess, journal: Path | None, **more: str) -> dict[str, str]:
    told = {"REDIS_NODES": nodes(server)}
    if journal is not None:
        told |= {
            "FLOWCACHE_AUDIT_JOURNAL": str(journal),
            "FLOWCACHE_AUDIT_SIGNING_KEY": KEY,
        }
    return told | more


def keys(server: RedisProcess) -> set[str]:
    with server.client(decode_responses=True) as client:
        return set(client.scan_iter(count=1000))


def story(journal: Path) -> list[tuple[str, Any]]:
    """Return kind and outcome of each erasure's records; they have to be sound."""
    with Reader(journal) as reader:
        assert verify(reader, KEY.encode()).is_well
    return [(entry.kind, entry.outcome) for entry in erasures(journal)]


def erasures(journal: Path) -> list[Entry]:
    with Reader(journal) as reader:
        return [e for e in reader.records(Query()) if e.operation == "ERASE"]


def test_all_keys_of_a_subject_are_removed(server: RedisProcess, tmp_path: Path) -> None:
    """They are gone, all others are there, and the record says who removed how many and why."""
    journal = tmp_path / "audit.db"
    before = keys(server)
    done = flowcache(
        *("erase", *MINE, "--yes", "--by", "dpo", "--reason", "TICKET-1"),
        environment=environment(server, journal),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("5 keys removed; none of customer:4711:* is left.\n")
    assert before - keys(server) == {f"{PREFIX}:{number}" for number in range(5)}
    assert story(journal) == [("intent", "intended"), ("outcome", "ok")]
    intent, outcome = erasures(journal)
    assert (outcome.client, outcome.key) == ("dpo", "customer:4711:*")
    told = json.loads(outcome.detail or "")
    assert told.pop("user")
    assert told == {"namespace": None, "dry_run": False, "reason": "TICKET-1", "keys": 5}
    assert intent.request_id == outcome.request_id
    assert f"On record as {outcome.request_id}." in done.stderr
    asked = flowcache("audit", "query", "-j", str(journal), "--operation", "erase")
    assert asked.stderr == "1 records\n"
    assert "dpo" in asked.stdout
    assert '"reason":"TICKET-1"' in asked.stdout


def test_a_dry_run_removes_nothing(server: RedisProcess, tmp_path: Path) -> None:
    """It counts, names keys where it is asked to, and is on record as what it was."""
    journal = tmp_path / "audit.db"
    before = keys(server)
    done = flowcache("erase", *MINE, "--dry-run", environment=environment(server, journal))
    assert (done.returncode, done.stdout) == (
        0,
        "5 keys of customer:4711:*. Nothing was removed.\n",
    )
    named = flowcache(
        "erase", *MINE, "--dry-run", "--show-keys", environment=environment(server, journal)
    )
    assert set(named.stdout.splitlines()[:-1]) == {f"{PREFIX}:{number}" for number in range(5)}
    assert keys(server) == before
    for entry in erasures(journal):
        assert json.loads(entry.detail or "")["dry_run"] is True
    assert story(journal) == [("intent", "intended"), ("outcome", "ok")] * 2


def test_keys_of_a_namespace(server: RedisProcess) -> None:
    """Its keys go, under the names that its clients know; no other namespace's do."""
    before = keys(server)
    done = flowcache(
        *("erase", *MINE, "--namespace", "billing", "--yes", "--unrecorded"),
        environment=environment(server, None),
    )
    assert done.returncode == 0, done.stderr
    assert "none of customer:4711:* in namespace billing is left." in done.stdout
    assert "no client of this configuration has the namespace billing; none has any" in done.stderr
    assert {key for key in before if key.startswith("flowcache:ns:billing:")} == (
        before - keys(server)
    )


@pytest.mark.parametrize("how", ["argument", "file", "input"])
def test_a_subject_is_taken_letter_by_letter(
    fresh_standalone: RedisProcess, tmp_path: Path, how: str
) -> None:
    """An id from outside that looks like a pattern is none; it need not be an argument."""
    with fresh_standalone.client() as client:
        client.mset({"customer:*:x": "1", "customer:4711:x": "1"})
    given = {
        "argument": ("--subject", "*"),
        "file": ("--subject-file", str(tmp_path / "subject")),
        "input": ("--subject-file", "-"),
    }
    (tmp_path / "subject").write_text("*\n")
    done = flowcache(
        *("erase", "--pattern", "customer:{subject}:*", *given[how], "--yes", "--unrecorded"),
        environment=environment(fresh_standalone, None),
        said="*\n",
    )
    assert done.returncode == 0, done.stderr
    assert keys(fresh_standalone) == {"customer:4711:x"}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--pattern", "customer*"), '"customer*" is no pattern'),
        (("--pattern", "a:*:b"), "the * stands at the end only"),
        (("--pattern", "flowcache:*"), "flowcache's own"),
        (("--pattern", "*"), "add --everything"),
        (("--pattern", "*", "--namespace", "billing"), "add --everything"),
        (("--pattern", "a:{subject}"), "go together"),
        (("--pattern", "a:*", "--subject", "4711"), "go together"),
        (("--pattern", "a:{subject}", "--subject", ""), "the subject is empty"),
        (("--pattern", "a:{subject}", "--subject-file", "/nowhere"), "can't be read"),
        (("--pattern", "{subject}", "--subject", "flowcache:ns:a:b"), "flowcache's own"),
        (("--pattern", "a:*", "--namespace", "a:b"), "--namespace a:b"),
    ],
)
def test_what_can_be_misread_is_not_begun(
    server: RedisProcess, arguments: tuple[str, ...], told: str
) -> None:
    """Exit code 2, one sentence, and every key is where it was."""
    before = keys(server)
    done = flowcache(
        "erase", *arguments, "--yes", "--unrecorded", environment=environment(server, None)
    )
    assert done.returncode == 2
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert keys(server) == before


def test_everything_has_to_be_said(server: RedisProcess) -> None:
    """Then all keys go that are nobody's namespace and not flowcache's own."""
    done = flowcache(
        *("erase", "--pattern", "*", "--everything", "--yes", "--unrecorded"),
        environment=environment(server, None),
    )
    assert done.returncode == 0, done.stderr
    assert {key.partition(":")[0] for key in keys(server)} == {"flowcache"}


def test_nobody_to_ask(server: RedisProcess, tmp_path: Path) -> None:
    """A script has to say that it means it."""
    done = flowcache("erase", *MINE, environment=environment(server, tmp_path / "audit.db"))
    assert done.returncode == 2
    assert "--yes" in done.stderr


def at_a_terminal(
    arguments: tuple[str, ...], told: Mapping[str, str], said: str
) -> tuple[int, str]:
    """Run the command at a terminal where somebody types; return exit code and what it showed."""
    terminal, other_end = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "flowcache", *arguments],
        env=os.environ | dict(told),
        stdin=other_end,
        stdout=other_end,
        stderr=other_end,
    )
    os.close(other_end)
    os.write(terminal, said.encode())
    shown = b""
    try:
        while part := os.read(terminal, 4096):
            shown += part
    except OSError:  # Linux's way to say that the other end is closed
        pass
    os.close(terminal)
    return process.wait(60), shown.decode()


@pytest.mark.parametrize(("said", "left"), [("n\n", 5), ("\n", 5), ("y\n", 0)])
def test_somebody_is_asked(server: RedisProcess, tmp_path: Path, said: str, left: int) -> None:
    """How many keys it would be is told first; only a yes removes them, and a no is on record."""
    journal = tmp_path / "audit.db"
    code, shown = at_a_terminal(("erase", *MINE), environment(server, journal), said)
    assert "5 keys of customer:4711:*. Remove them? [y/N]" in shown
    assert len([key for key in keys(server) if key.startswith(f"{PREFIX}:")]) == left
    assert code == (1 if left else 0)
    assert story(journal)[1:] == [("outcome", "cancelled" if left else "ok")]


# -- the record ------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", ["hmac", "masked"])
def test_the_record_names_the_pattern_as_keys_are_named(
    server: RedisProcess, tmp_path: Path, names: str
) -> None:
    """Where key names are kept from the journal, so is the subject."""
    journal = tmp_path / "audit.db"
    kept = {"FLOWCACHE_AUDIT_KEYS": names, "FLOWCACHE_AUDIT_HMAC_SECRET": "h" * 32}
    told = environment(server, journal, **kept)
    assert flowcache("erase", *MINE, "--yes", environment=told).returncode == 0
    assert all(b"4711" not in file.read_bytes() for file in tmp_path.iterdir())
    asked = flowcache(
        "audit", "query", "-j", str(journal), "--key", "customer:4711:*", environment=told
    )
    assert asked.stderr == "1 records\n"


def test_without_a_journal(server: RedisProcess) -> None:
    """Nothing is removed that nobody would know of, unless that is said."""
    before = keys(server)
    done = flowcache("erase", *MINE, "--yes", environment=environment(server, None))
    assert done.returncode == 2
    assert "no audit journal is configured" in done.stderr
    assert keys(server) == before
    told = environment(server, None)
    assert flowcache("erase", *MINE, "--yes", "--unrecorded", environment=told).returncode == 0


def test_a_journal_that_is_full(server: RedisProcess, tmp_path: Path) -> None:
    """What can't be recorded is not begun."""
    before = keys(server)
    with small_disk(tmp_path / "disk") as disk:
        fill(disk)
        told = environment(server, disk / "audit.db")
        done = flowcache("erase", *MINE, "--yes", environment=told)
    assert done.returncode == 2
    assert "can't be written" in done.stderr
    assert "Nothing was done." in done.stderr
    assert keys(server) == before


# -- broken off ------------------------------------------------------------------------------------

MANY = 60_000


@pytest.fixture
def begun(fresh_standalone: RedisProcess, tmp_path: Path) -> Any:
    """Yield an erasure that has much to do, and has begun to."""
    fresh_standalone.cli("DEBUG", "POPULATE", MANY, PREFIX, 8)
    process = subprocess.Popen(
        [sys.executable, "-m", "flowcache", "erase", *MINE, "--yes"],
        env=os.environ | environment(fresh_standalone, tmp_path / "audit.db"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    eventually(lambda: fresh_standalone.cli("DBSIZE") < MANY, what="a key to be removed")
    yield process
    process.kill()
    process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_that_is_broken_off_says_what_it_did(
    fresh_standalone: RedisProcess, tmp_path: Path, begun: Any, number: signal.Signals
) -> None:
    """Ctrl-C: how many keys were removed, on record too, and that others may be left."""
    begun.send_signal(number)
    _, told = begun.communicate(timeout=60)
    assert begun.returncode == 1
    assert "Traceback" not in told
    left = fresh_standalone.cli("DBSIZE")
    assert 0 < left < MANY
    (line,) = [line for line in told.splitlines() if line.startswith("flowcache: ")]
    assert "keys removed; others may be left. It was broken off." in line
    assert story(tmp_path / "audit.db") == [("intent", "intended"), ("outcome", "cancelled")]
    removed = json.loads(erasures(tmp_path / "audit.db")[1].detail or "")["keys"]
    assert 0 <= MANY - left - removed <= 200, "but for what was under way"


def test_one_that_is_killed_is_seen(
    fresh_standalone: RedisProcess, tmp_path: Path, begun: Any
) -> None:
    """kill -9: the journal says that it was begun, and nothing of an end; the next one ends it."""
    begun.kill()
    begun.wait()
    journal = tmp_path / "audit.db"
    assert story(journal) == [("intent", "intended")]
    asked = flowcache("audit", "query", "-j", str(journal), "--outcome", "intended")
    assert asked.stderr == "1 records\n"
    told = environment(fresh_standalone, journal)
    assert flowcache("erase", *MINE, "--yes", environment=told).returncode == 0
    assert fresh_standalone.cli("DBSIZE") == 0


def documented_acl() -> list[str]:
    """Return the rule that docs/operations.md tells operators to give the user that erases."""
    text = Path("docs/operations.md").read_text("utf-8")
    found = re.search(r"^ACL SETUSER flowcache-erase on >password (.*)$", text, re.M)
    assert found is not None
    return found[1].split()


def test_what_is_documented_suffices(server: RedisProcess, breakable_cluster: Cluster) -> None:
    """A user of its own may do what erasing takes, so that the service's need not."""
    user = {"FLOWCACHE_REDIS_USERNAME": "eraser", "FLOWCACHE_REDIS_PASSWORD": "secret"}
    for servers in ((server,), breakable_cluster.nodes):
        for each in servers:
            each.cli("ACL", "SETUSER", "eraser", "on", ">secret", *documented_acl())
        told = {"REDIS_NODES": nodes(*servers)} | user
        try:
            for pattern in ("customer:4711:*", "customer:4711"):
                for more in (("--dry-run",), ("--yes", "--unrecorded")):
                    done = flowcache("erase", "--pattern", pattern, *more, environment=told)
                    assert done.returncode == 0, done.stderr
        finally:
            for each in servers:
                each.cli("ACL", "DELUSER", "eraser")


def test_a_redis_that_forbids_it(server: RedisProcess, tmp_path: Path) -> None:
    """The service's own user may not search: exit code 1, and what is missing."""
    journal = tmp_path / "audit.db"
    server.cli("ACL", "SETUSER", "flowcache", "on", ">secret", *FLOWCACHE_ACL.split())
    user = {"FLOWCACHE_REDIS_USERNAME": "flowcache", "FLOWCACHE_REDIS_PASSWORD": "secret"}
    done = flowcache("erase", *MINE, "--yes", environment=environment(server, journal, **user))
    assert done.returncode == 1
    assert "0 keys removed; others may be left. Redis forbids flowcache's user" in done.stderr
    assert "erase as the user flowcache-erase" in done.stderr
    assert story(journal) == [("intent", "intended"), ("outcome", "forbidden")]


@pytest.mark.parametrize("kind", ["cluster", "sentinel"])
def test_other_topologies(
    kind: str, breakable_cluster: Cluster, breakable_sentinels: SentinelGroup
) -> None:
    """They are found out as the service finds them out."""
    names = [f"{PREFIX}:{number}" for number in range(30)]
    if kind == "cluster":
        seed = ",".join(f"{host}:{port}" for host, port in breakable_cluster.addresses)
        for name in names:
            breakable_cluster.node_of_key(name).cli("SET", name, "value")
    else:
        hosts = ",".join(f"{host}:{port}" for host, port in breakable_sentinels.addresses)
        seed = f"redis+sentinel://{hosts}/{breakable_sentinels.service}"
        for name in names:
            breakable_sentinels.primary().cli("SET", name, "value")
    done = flowcache("erase", *MINE, "--yes", "--unrecorded", "--redis", seed)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("30 keys removed; none of customer:4711:* is left.\n")
