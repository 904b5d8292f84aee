"""What a query finds, and in which order."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from flowcache.audit.chain import Kind
from flowcache.audit.exporting import Format, write
from flowcache.audit.reading import Query, Reader
from flowcache.audit.writing import ChainWriter, Note
from flowcache.ports import AuditRecord
from tests.unit.audit.journals import record, settings


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.db"


def keep(path: Path, *records: AuditRecord | Note) -> None:
    writer = ChainWriter(settings(path), lambda: 1.0)
    writer.append(records)
    writer.close()


def newest(path: Path, within: int | None = None, **fields: Any) -> list[str | None]:
    with Reader(path) as reader:
        return [entry.request_id for entry in reader.newest(Query(**fields), within)]


MANY = [record(number) for number in range(20)]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({"flow": "flow-3"}, [3]),
        ({"interaction": "interaction-4"}, [4]),
        ({"client": "client-5"}, [5]),
        ({"address": "10.0.0.7"}, [7]),
        ({"request": "id-8"}, [8]),
        ({"key": "caller:6"}, [6]),
        ({"operation": "SET"}, []),
        ({"outcome": "ok", "limit": 2}, [19, 18]),
        ({"outcome": "failed"}, []),
        ({"since": 1_700_000_017.0}, [19, 18, 17]),
        ({"until": 1_700_000_002.0}, [1, 0]),
        ({"since": 1_700_000_005.0, "until": 1_700_000_007.0, "key": "caller:6"}, [6]),
        ({"limit": 0}, []),
        ({"flow": "flow-3", "client": "client-4"}, []),
    ],
)
def test_filters(path: Path, wanted: dict[str, Any], found: list[int]) -> None:
    """Each filter keeps what fits it, all of them together what fits them all; newest first."""
    keep(path, *MANY)
    assert newest(path, **wanted) == [f"id-{number}" for number in found]


@pytest.mark.parametrize("part", [1, 2, 7, 20, 21])
def test_long_answers_are_read_in_parts(
    path: Path, part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long a part, every record is found once, be times equal or not."""
    monkeypatch.setattr("flowcache.audit.reading._PART", part)
    keep(path, *(record(number, at=float(number // 3)) for number in range(20)))
    assert newest(path) == [f"id-{number}" for number in reversed(range(20))]
    with Reader(path) as reader:
        calls = [e.request_id for e in reader.records(Query()) if e.kind == "call"]
    assert calls == [f"id-{number}" for number in range(20)]


def test_a_bounded_search_looks_at_the_newest_only(path: Path) -> None:
    """What is older than the newest so many records is not looked for."""
    keep(path, *MANY)
    assert newest(path, within=3) == ["id-19", "id-18", "id-17"]
    assert newest(path, within=3, flow="flow-3") == []
    assert newest(path, within=30, flow="flow-3") == ["id-3"]


def test_a_write_that_was_answered_is_shown_once(path: Path) -> None:
    """An intent is left out when its outcome is there, and shown when it is not."""
    keep(
        path,
        record(1, kind="intent", outcome="intended"),
        record(2, kind="intent", outcome="intended"),
        record(3, request_id="id-1", kind="outcome"),
    )
    with Reader(path) as reader:
        shown = [(e.request_id, e.outcome) for e in reader.newest(Query())]
        unfinished = [e.request_id for e in reader.newest(Query(outcome="intended"))]
        everything = [e.kind for e in reader.records(Query())]
    assert shown == [("id-1", "ok"), ("id-2", "intended")]
    assert unfinished == ["id-2"]
    assert everything.count("intent") == 2


def test_failed_means_any_code(path: Path) -> None:
    """``failed`` finds what was refused, and no intent."""
    keep(
        path,
        record(1, outcome="forbidden"),
        record(2),
        record(3, kind="intent", outcome="intended"),
    )
    assert newest(path, outcome="failed") == ["id-1"]


def test_an_intent_and_its_outcome_are_one_call_whatever_the_clock_did(path: Path) -> None:
    """A clock that was set back puts an outcome before its intent; the write is not unfinished."""
    keep(
        path,
        record(1, at=200.0, kind="intent", outcome="intended"),
        record(1, at=199.5, kind="outcome"),
        record(2, at=300.0, kind="intent", outcome="intended"),
        record(2, at=301.0, kind="outcome"),
        record(3, at=400.0, kind="intent", outcome="intended"),
    )
    with Reader(path) as reader:
        calls = [(e.request_id, e.outcome) for e in reader.newest(Query())]
        unfinished = [e.request_id for e in reader.newest(Query(outcome="intended"))]
        before = [e.request_id for e in reader.newest(Query(until=300.5))]
    assert calls == [("id-3", "intended"), ("id-2", "ok"), ("id-1", "ok")]
    assert unfinished == ["id-3"]
    assert before == ["id-1"]


def test_losses_are_shown(path: Path) -> None:
    """Whoever reads sees that there are records that he can't see."""
    keep(path, record(1), Note(Kind.LOST, {"records": 3}))
    with Reader(path) as reader:
        losses = [e.detail for e in reader.newest(Query()) if e.kind == "lost"]
    assert losses == ['{"records":3}']


NASTY = '=HYPERLINK("http://evil")'


def exported(path: Path, form: Format) -> str:
    out = io.StringIO()
    with Reader(path) as reader:
        write(reader.records(Query()), form, out)
    return out.getvalue()


def test_json_lines_are_exact(path: Path) -> None:
    """Each record is one line, with every field as it was kept."""
    keep(path, record(1, flow_id=NASTY, key="a\nb\u2028😀".encode(), hit=None))
    lines = [json.loads(line) for line in exported(path, Format.JSONL).split("\n")[:-1]]
    assert [line["kind"] for line in lines] == ["open", "close", "call"]
    line = lines[-1]
    assert line["flow"] == NASTY
    assert line["key"] == "a\nb\u2028😀"
    assert line["hit"] is None
    assert line["stale"] is True
    assert line["at"] == "2023-11-14T22:13:21.000+00:00"


def test_csv_is_harmless(path: Path) -> None:
    """Whatever a caller wrote into a field, a spreadsheet shows it and runs nothing."""
    keep(path, *(record(1, flow_id=f"{c}1+1", key=b'"a",b') for c in "=+-@"))
    rows = list(csv.DictReader(io.StringIO(exported(path, Format.CSV), newline="")))
    calls = [row for row in rows if row["kind"] == "call"]
    assert [row["flow"] for row in calls] == [f"'{c}1+1" for c in "=+-@"]
    assert {row["key"] for row in calls} == {'"a",b'}


def test_csv_steers_no_terminal(path: Path) -> None:
    """Nothing but ends of lines is in it that can't be printed, and each record is one line."""
    nasty = "\x1b[31m\x9b2J\x07\x00\t\r\n\u2028\u202e"
    keep(path, record(1, flow_id=nasty, key=nasty.encode(), interaction_id=f"\t{NASTY}"))
    lines = exported(path, Format.CSV).split("\r\n")
    assert len(lines) == 5  # names, open, close, call, and nothing after the last end
    assert all(line.isprintable() for line in lines)
    assert r"\x1b[31m\x9b2J\x07\x00\t\r\n\u2028\u202e" in lines[3]
