"""``flowcache audit``, as a security officer at a terminal meets it."""

from __future__ import annotations

import csv
import io
import json
import re
import stat
from pathlib import Path
from threading import Event, Thread
from time import time

import pytest

from flowcache.audit.settings import KeyNames
from flowcache.audit.writing import ChainWriter
from flowcache.secret import Secret
from tests.cli.test_cli import flowcache
from tests.unit.audit.journals import SIGNING_KEY, by_hand, chain, checked, pruned, record, settings

KEY = {"FLOWCACHE_AUDIT_SIGNING_KEY": SIGNING_KEY}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.db"


@pytest.mark.parametrize("command", ["verify", "query", "export", "copy"])
def test_help_has_an_example(command: str) -> None:
    """The help of a command shows how it is used."""
    shown = flowcache("audit", command, "--help")
    assert shown.returncode == 0
    assert f"flowcache audit {command} " in " ".join(shown.stdout.split())


def test_a_sound_journal(path: Path) -> None:
    """All is well: exit 0, and how much was looked at."""
    chain(path)
    done = flowcache("audit", "verify", "--journal", str(path), environment=KEY)
    assert (done.returncode, done.stdout) == (0, "5 records in 1 chains: all are correct.\n")


def test_a_journal_that_was_tampered_with(path: Path) -> None:
    """Exit 1, and which record of which writer is wrong, and how."""
    name = chain(path)
    with by_hand(path) as hand:
        hand.execute("UPDATE records SET client = 'nobody' WHERE seq = 2")
        hand.execute("DELETE FROM records WHERE seq = 4")
    done = flowcache("audit", "verify", "--journal", str(path))
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"writer {name}, record 2: not what was written here")
    assert lines[1].startswith(f"writer {name}: has no closing record: process ")
    assert lines[2] == "Signatures were not checked: no signing key is configured."
    assert lines[3] == "4 records in 1 chains: SOME ARE NOT what was written."


def test_many_faults_are_counted(path: Path) -> None:
    """A chain that is wrong everywhere does not flood the terminal."""
    name = chain(path, [100])
    with by_hand(path) as hand:
        hand.execute("UPDATE records SET client = 'nobody'")
    done = flowcache("audit", "verify", "--journal", str(path), environment=KEY)
    assert done.returncode == 1
    assert f"writer {name}: and 82 more" in done.stdout
    assert len(done.stdout.splitlines()) == 22


def test_an_anchor_finds_what_was_taken_away(path: Path, tmp_path: Path) -> None:
    """What an earlier run noted is missed by a later one."""
    chain(path)
    anchor = str(tmp_path / "heads.json")
    verify = ("audit", "verify", "--journal", str(path))
    assert flowcache(*verify, "--write-anchor", anchor, environment=KEY).returncode == 0
    assert flowcache(*verify, "--anchor", anchor, environment=KEY).returncode == 0
    with by_hand(path) as hand:
        hand.execute("DELETE FROM records WHERE seq = 4")
    assert flowcache(*verify, environment=KEY).returncode == 0  # the admitted weakness
    done = flowcache(*verify, "--anchor", anchor, environment=KEY)
    assert done.returncode == 1
    assert "record 4: missing, though the anchor saw it" in done.stdout


def test_the_first_run_writes_the_anchor_that_the_next_one_reads(
    path: Path, tmp_path: Path
) -> None:
    """The daily command is the same from the first day on; that there was none is said loudly."""
    chain(path)
    anchor = str(tmp_path / "heads.json")
    daily = ("audit", "verify", "-j", str(path), "--anchor", anchor, "--write-anchor", anchor)
    first = flowcache(*daily, environment=KEY)
    assert first.returncode == 0
    assert "THERE IS NO ANCHOR YET" in first.stderr
    again = flowcache(*daily, environment=KEY)
    assert (again.returncode, "ANCHOR" in again.stderr) == (0, False)
    other = str(tmp_path / "misspelt.json")
    missing = flowcache("audit", "verify", "-j", str(path), "--anchor", other, environment=KEY)
    assert missing.returncode == 2


def test_an_anchor_that_can_not_be_written_stays_as_it_was(path: Path, tmp_path: Path) -> None:
    """It is replaced as a whole or not at all."""
    chain(path)
    anchor = tmp_path / "heads.json"
    verify = ("audit", "verify", "-j", str(path), "--write-anchor", str(anchor))
    assert flowcache(*verify, environment=KEY).returncode == 0
    before = anchor.read_bytes()
    (tmp_path / "heads.json.new").mkdir()
    done = flowcache(*verify, environment=KEY)
    assert (done.returncode, anchor.read_bytes()) == (2, before)
    assert "can't be written" in done.stderr


def test_what_was_let_go_of_is_told(path: Path) -> None:
    """How much, up to when, whether too early; and what nobody can know without the key."""
    chain(path, [10])
    assert pruned(path, 1_700_000_000.0 + 5 * 86_400) == 11
    verify = ("audit", "verify", "--journal", str(path))
    told = "11 records of 1 chains were removed by retention, the newest of 2023-11-14T22:13:29"
    sealed = flowcache(*verify, environment=KEY)
    assert sealed.returncode == 0
    assert told in sealed.stdout
    assert "YOUNGER" not in sealed.stdout
    assert "Without the signing key" not in sealed.stdout
    unsealed = flowcache(*verify)
    assert told in unsealed.stdout
    assert "For 1 chains no record mentions the removal." in unsealed.stdout


def test_what_was_let_go_of_too_early_is_told_loudly(path: Path) -> None:
    """A journal that is too small for its time says so to who verifies it."""
    writer = ChainWriter(settings(path, max_mb=1), time)
    for _ in range(5):
        writer.append([record(number, at=time()) for number in range(1000)])
    while (gone := writer.retain(time())) is not None and gone.is_full:
        pass
    writer.close()
    done = flowcache("audit", "verify", "--journal", str(path), environment=KEY)
    assert done.returncode == 0
    assert "OF THEM WERE YOUNGER THAN audit.keep_days" in done.stdout


def test_no_text_of_a_journal_steers_a_terminal(path: Path) -> None:
    """Whoever can write the file can't write the verdict."""
    chain(path, closed=False)
    said = '{"host":"h\\u001b[2Jall is well.","pid":1,"heads":{}}'
    with by_hand(path) as hand:
        hand.execute("UPDATE records SET detail = ? WHERE kind = 'open'", (said,))
    done = flowcache("audit", "verify", "--journal", str(path), environment=KEY)
    assert done.returncode == 1
    assert "\x1b" not in done.stdout
    assert r"\x1b[2J" in done.stdout


@pytest.mark.parametrize("content", [None, b"no database " * 500])
@pytest.mark.parametrize("command", ["verify", "query", "export"])
def test_a_journal_that_is_none(path: Path, command: str, content: bytes | None) -> None:
    """Exit 2, and one sentence that says why."""
    if content is not None:
        path.write_bytes(content)
    done = flowcache("audit", command, "--journal", str(path))
    assert done.returncode == 2
    assert done.stderr.startswith(f"flowcache: {path}: ")
    assert len(done.stderr.splitlines()) == 1


def test_which_journal() -> None:
    """Neither a journal nor a configuration that names one: the sentence says what to do."""
    done = flowcache("audit", "query")
    assert done.returncode == 2
    assert "--journal" in done.stderr


def test_the_journal_of_a_configuration(path: Path, tmp_path: Path) -> None:
    """The configuration of the service says which journal, without a credential of the service."""
    chain(path)
    config = tmp_path / "flowcache.toml"
    config.write_text(f'[audit]\njournal = "{path}"\n[http]\nport = 1\n')
    assert flowcache("audit", "verify", "-c", str(config), environment=KEY).returncode == 0


def test_a_query_shows_what_fits(path: Path) -> None:
    """A row a record, newest last; what steers a terminal is shown, not sent."""
    writer = ChainWriter(settings(path), time)
    writer.append([record(1), record(2, key=b"\x1b[2J\xe2\x80\xae[bold]x[/bold]"), record(3)])
    writer.close()
    done = flowcache("audit", "query", "--journal", str(path), "--since", "2023-11-14T22:13:22")
    assert done.returncode == 0
    rows = [line for line in done.stdout.splitlines() if "2023-" in line]
    assert len(rows) == 2
    assert r"\x1b[2J\u202e[bold]x[/bold]" in rows[0]
    assert "\x1b" not in done.stdout
    assert "client-3" in rows[1]
    assert "redis-3:6379 (replica)" in rows[1]
    assert done.stderr == "2 records\n"


def test_a_query_on_a_narrow_terminal(path: Path) -> None:
    """Times stay whole, and so does the rest; what has no room is named."""
    writer = ChainWriter(settings(path), time)
    writer.append([record(1, key=b"customer:" + b"k" * 30)])
    writer.close()
    narrow = {"TTY_COMPATIBLE": "1", "COLUMNS": "80", "NO_COLOR": "1", "TERM": "xterm"}
    done = flowcache("audit", "query", "--journal", str(path), environment=narrow)
    assert done.returncode == 0
    lines = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout).splitlines()
    (row,) = (line for line in lines if "2023-" in line)
    assert row.split()[:2] == ["2023-11-14T22:13:21.000+00:00", "client-1"]
    assert max(map(len, lines)) <= 80
    assert "\u2026" not in done.stdout
    assert "No room for address, flow, interaction, hit, ms, shard" in done.stderr


def test_a_hashed_key_is_looked_for_by_its_name(path: Path) -> None:
    """Whoever has the secret asks for the key as it is."""
    secret = "h" * 32
    kept = settings(path, keys=KeyNames.HMAC, hmac_secret=Secret(secret))
    writer = ChainWriter(kept, time)
    writer.append([record(1), record(2)])
    writer.close()
    assert b"caller:" not in path.read_bytes()
    hashed = {"FLOWCACHE_AUDIT_KEYS": "hmac", "FLOWCACHE_AUDIT_HMAC_SECRET": secret}
    done = flowcache("audit", "query", "-j", str(path), "--key", "caller:2", environment=hashed)
    assert done.stderr == "1 records\n"
    assert "client-2" in done.stdout


def test_a_key_that_is_not_found_may_be_kept_otherwise(path: Path) -> None:
    """Without the service's configuration a hashed key is looked for as it is: that is said."""
    chain(path)
    done = flowcache("audit", "query", "-j", str(path), "--key", "nobody")
    assert done.returncode == 0
    assert done.stderr.startswith("0 records\nA key is found as the journal keeps it")


def test_an_outcome_that_is_none(path: Path) -> None:
    """A slip is told, not answered by no records."""
    chain(path)
    for command in ("query", "export"):
        done = flowcache("audit", command, "-j", str(path), "--outcome", "okk")
        assert done.returncode == 2
        assert "--outcome okk: there are audit_unavailable, cancelled" in done.stderr


def test_a_call_is_found_by_its_request_id_and_its_address(path: Path) -> None:
    """What the caller was told, and where they spoke from."""
    chain(path)
    for asked in (("--request", "id-1"), ("--address", "10.0.0.1")):
        done = flowcache("audit", "query", "-j", str(path), *asked)
        assert (done.stderr, "client-1" in done.stdout) == ("1 records\n", True)


def test_a_copy_is_whole_though_somebody_writes(path: Path, tmp_path: Path) -> None:
    """It ends, verifies with the key, and is for its user alone; no file is overwritten."""
    begun, over = Event(), Event()

    def write() -> None:
        writer = ChainWriter(settings(path), time)
        while not over.is_set():
            writer.append([record(1)])
            begun.set()
        writer.close()

    busy = Thread(target=write)
    busy.start()
    copy = tmp_path / "copy.db"
    try:
        assert begun.wait(20)
        done = flowcache("audit", "copy", "-j", str(path), str(copy))
    finally:
        over.set()
        busy.join()
    assert (done.returncode, done.stderr) == (0, "")
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    report = checked(copy)
    assert report.is_well
    assert report.records >= 2
    again = flowcache("audit", "copy", "-j", str(path), str(copy))
    assert again.returncode == 2
    assert "File exists" in again.stderr


def test_a_time_that_is_none(path: Path) -> None:
    """The sentence shows how a time is written."""
    chain(path)
    done = flowcache("audit", "query", "-j", str(path), "--since", "yesterday")
    assert done.returncode == 2
    assert "expected a time as 2026-01-31T08:00" in done.stderr


def test_an_export(path: Path, tmp_path: Path) -> None:
    """Every record, to standard output as JSON lines or to a new file as CSV."""
    chain(path)
    done = flowcache("audit", "export", "-j", str(path))
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    kinds = [line["kind"] for line in sorted(lines, key=lambda line: line["seq"])]
    assert kinds == ["open", "call", "call", "call", "close"]
    out = tmp_path / "out.csv"
    arguments = ("audit", "export", "-j", str(path), "--format", "csv", "-o", str(out))
    assert flowcache(*arguments, "--client", "client-1").returncode == 0
    (row,) = csv.DictReader(io.StringIO(out.read_text(), newline=""))
    assert row["request_id"] == "id-1"
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    again = flowcache(*arguments)
    assert again.returncode == 2
    assert "File exists" in again.stderr
    assert flowcache("audit", "export", "-j", str(path), "--format", "xml").returncode == 2


def test_an_exported_line_steers_no_terminal(path: Path) -> None:
    """JSON lines on a terminal are harmless, and decode to what the callers wrote."""
    nasty = "\x1b[2J\x9b1m\x7f\u202e\u2066\u200b\u2028\U000e0041\u3164"
    writer = ChainWriter(settings(path), time)
    writer.append([record(1, client=nasty, flow_id=nasty, key=nasty.encode(), detail=nasty)])
    writer.close()
    done = flowcache("audit", "export", "--journal", str(path))
    assert all(line.isprintable() for line in done.stdout.split("\n"))
    (call,) = [each for each in map(json.loads, done.stdout.splitlines()) if each["kind"] == "call"]
    assert [call[name] for name in ("client", "flow", "key", "detail")] == [nasty] * 4
