"""What a receiver has can be verified as the journal can: exactly, in any order, once or twice."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest

from flowcache.audit.chain import Cut, Entry, Link, cut_seal, digest, seal
from flowcache.audit.reading import Reader
from flowcache.audit.received import Received, gap_line, line
from flowcache.audit.verifying import Report, heads, verify
from tests.unit.audit.journals import SIGNING_KEY, chain

KEY = SIGNING_KEY.encode()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.db"


def lines_of(path: Path) -> list[bytes]:
    with Reader(path) as reader:
        return [line(link) for writer in reader.writers() for link in reader.links(writer, 0)]


def report_of(lines: list[bytes]) -> Report:
    return verify(Received(lines), KEY)


def test_what_was_written_is_what_is_read(path: Path) -> None:
    """Every field comes through exactly: the hashes and seals fit."""
    chain(path, [3, 4])
    chain(path, [1])
    lines = lines_of(path)
    report = report_of(lines)
    assert (report.is_well, report.records, report.chains) == (True, len(lines), 2)
    with Reader(path) as reader:
        assert heads(Received(lines)) == heads(reader)


def test_a_time_that_json_could_bend_is_exact() -> None:
    """Floats are written so that they are read as the same."""
    entry = Entry(7, 0, "open", 1_700_000_000.123456717, latency_ms=0.1 + 0.2, hit=1, stale=1)
    link = Link(entry, digest(bytes(32), entry), None)
    (read,) = Received([line(link)]).links(7, 0)
    assert read == link


def test_order_and_repetition_do_not_matter(path: Path) -> None:
    """At least once, from several senders: duplicates and any order verify."""
    chain(path, [10])
    chain(path, [5])
    lines = lines_of(path) * 2
    Random(1).shuffle(lines)
    report = report_of(lines)
    assert (report.is_well, report.records) == (True, len(lines) // 2)


@pytest.mark.parametrize(
    ("field", "value"),
    [("client", "nobody"), ("at_unix", 1.0), ("hit", None), ("stale", False), ("key", "other")],
)
def test_a_changed_record_is_found(path: Path, field: str, value: Any) -> None:
    """Whatever is changed on the way or afterwards does not fit its hash."""
    chain(path, [3])
    lines = lines_of(path)
    named = json.loads(lines[2])
    lines[2] = json.dumps(named | {field: value}).encode()
    assert [fault.seq for fault in report_of(lines).faults] == [2]


def test_a_time_for_people_is_that_which_was_hashed(path: Path) -> None:
    """What is shown of a record is what is verified: neither can be bent alone."""
    chain(path, [3])
    lines = lines_of(path)
    lines[2] = json.dumps(json.loads(lines[2]) | {"at": "2020-01-01T00:00:00.000+00:00"}).encode()
    assert report_of(lines).damage == ["line 3 is no record"]


def test_a_missing_record_is_found(path: Path) -> None:
    """A line that somebody removed leaves a gap that no notice explains."""
    chain(path, [3])
    lines = lines_of(path)
    del lines[2]
    assert [fault.what for fault in report_of(lines).faults] == ["missing"]


def test_two_versions_of_a_record_are_damage(path: Path) -> None:
    """The same number twice, and not the same: one of them is forged."""
    name = chain(path, [3])
    lines = lines_of(path)
    lines.append(json.dumps(json.loads(lines[1]) | {"client": "nobody"}).encode())
    assert report_of(lines).damage == [f"writer {name}, record 1: came in two versions"]


def test_gaps_are_passed_over_wherever_they_are() -> None:
    """Several gaps in one chain: what is between them is verified, too."""
    links, before = [], bytes(32)
    for seq in range(12):
        entry = Entry(7, seq, "open" if seq == 0 else "call", float(seq))
        before = digest(before, entry)
        links.append(Link(entry, before, seal(KEY, before)))
    lines = []
    for first, last in ((2, 4), (7, 7)):
        unsealed = Cut(7, last + 1, links[last].hash, 50.0, 40.0, 0)
        cut = unsealed._replace(seal=cut_seal(KEY, unsealed))
        lines.append(gap_line(7, first, last, cut))
    gone = {2, 3, 4, 7}
    lines += [line(link) for link in links if link.entry.seq not in gone]
    assert report_of(lines).is_well
    forged = json.loads(lines[3]) | {"client": "nobody"}
    lines[3] = json.dumps(forged).encode()
    assert [fault.seq for fault in report_of(lines).faults] == [forged["seq"]]


def test_a_gap_that_nobody_sealed_is_found(path: Path) -> None:
    """Who removes lines and writes a notice for them needs the key."""
    chain(path, [5])
    lines = lines_of(path)
    last = json.loads(lines[3])
    notice = gap_line(int(last["writer"], 16), 2, 3, None)
    cut = {"hash": last["hash"], "seal": None, "at": "", "at_unix": 1.0, "newest": 0.5, "early": 0}
    forged = json.loads(notice) | cut
    report = report_of([*lines[:2], json.dumps(forged).encode(), *lines[4:]])
    assert [fault.what for fault in report.faults] == [
        "the cut before it was not signed with this key"
    ]


@pytest.mark.parametrize(
    "added",
    [b'"note":"approved"', b'"outcome":"forbidden"', b'"client":"mallory","client":"mallory"'],
)
@pytest.mark.parametrize("at_front", [True, False])
def test_what_was_added_to_a_record_is_found(path: Path, added: bytes, at_front: bool) -> None:
    """No field of anybody else's, and none twice: readers differ on which of two counts."""
    chain(path, [3])
    first, *others = lines_of(path)
    bent = b"{" + added + b"," + first[1:] if at_front else first[:-1] + b"," + added + b"}"
    assert Received([bent, *others]).damage() == ["line 1 is no record"]


def test_a_gap_with_a_field_of_somebody_else_is_no_gap() -> None:
    """It would say what nobody has hashed."""
    gap = gap_line(7, 0, 5, Cut(7, 6, bytes(32), 1.0, 0.5, 0))
    assert Received([gap]).damage() == []
    assert Received([gap[:-1] + b',"note":1}']).damage() == ["line 1 is no record"]


def test_a_line_that_a_crash_tore_is_passed_over(path: Path) -> None:
    """Its records were sent again, and if they were not, they are missing."""
    chain(path, [3])
    first, second, *others = lines_of(path)
    torn = [second[:40], b"[" * 100_000, b"\xff"]
    received = Received([first, *torn, second, *others])
    assert (received.damage(), received.skipped) == ([], 3)
    assert verify(received, KEY).is_well
    assert not report_of([first, *torn, *others]).is_well


@pytest.mark.parametrize("first", [0, 2])
def test_a_forged_record_before_a_gap_is_found(path: Path, first: int) -> None:
    """Where the front is missing too, the walk does not jump over what is there to the gap."""
    chain(path, [8])
    lines = lines_of(path)
    last = json.loads(lines[6])
    cut = Cut(int(last["writer"], 16), 7, bytes.fromhex(last["hash"]), 1.0, 0.5, 0)
    sealed = cut._replace(seal=cut_seal(KEY, cut))
    forged = json.dumps(json.loads(lines[4]) | {"client": "mallory"}).encode()
    gap = gap_line(cut.writer, 6, 6, sealed)
    report = report_of([*lines[first:4], forged, lines[5], gap, *lines[7:]])
    assert 4 in [fault.seq for fault in report.faults]


def test_an_empty_line_says_nothing() -> None:
    """Delivery to standard output ends lines that may have been torn."""
    assert Received([b"", b"\n", b" \n"]).damage() == []


def test_what_is_no_record_is_damage() -> None:
    """Somebody else's line is told of by its place, and the rest is read."""
    bad = [
        b"[]",
        b"null",
        b"{}",
        b'{"writer":"x","seq":0,"kind":"call"}',
        b'{"writer":1}',
        b'{"writer":"1","seq":"0","kind":"call"}',
        b'{"writer":"1","seq":0,"kind":"gap","until":"1"}',
    ]
    assert Received(bad).damage() == [f"line {n} is no record" for n in range(1, len(bad) + 1)]
    assert Received([b"{}"] * 50).damage()[-1] == "and 30 more"
