"""Any life of a journal: writers that come, write, crash, come back and end; retention; readers.

The model is the list of what each writer was told is on disk, and the time of it. At each step the
verifier must have nothing to say, and what is read must be what was written, but for fronts that
retention was entitled to.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
)

from flowcache.audit.chain import Kind, writer_name
from flowcache.audit.reading import Query, Reader
from flowcache.audit.settings import AuditSettings
from flowcache.audit.verifying import Anchor, heads, verify
from flowcache.audit.writing import ChainWriter, Note
from flowcache.ports import AuditRecord
from flowcache.secret import Secret

DAY = 86_400.0
KEEP_DAYS = 2
KEY = Secret("a key that the machine seals with")

texts = st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
records = st.builds(
    AuditRecord,
    at=st.just(0.0),
    request_id=st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    client=texts,
    flow_id=texts,
    interaction_id=texts,
    operation=texts,
    key=st.none() | st.binary(max_size=12),
    outcome=st.sampled_from(["ok", "redis_unavailable", ""]),
    hit=st.none() | st.booleans(),
    latency_ms=st.floats(0, 1e6).map(lambda ms: ms + 0.0),
    address=texts,
    shard=texts,
    stale=st.booleans(),
    kind=st.sampled_from(["call", "intent", "outcome"]),
)


def strangers_of(writer: ChainWriter) -> str:
    return writer_name(writer._unauthenticated.writer)


class Lives(RuleBasedStateMachine):
    writers: Bundle[ChainWriter] = Bundle("writers")

    @initialize(sealed=st.booleans())
    def begin(self, sealed: bool) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.path = Path(self.directory.name) / "audit.db"
        self.key = KEY if sealed else None
        self.now = 1_700_000_000.0
        self.written: dict[str, list[tuple[float, str]]] = {}
        self.anchors: list[Anchor] = []
        self.ended: set[str] = set()
        self.open()

    def teardown(self) -> None:
        if hasattr(self, "directory"):
            self.directory.cleanup()

    @rule(target=writers)
    def open(self) -> ChainWriter:
        kept = AuditSettings(journal=self.path, signing_key=self.key, keep_days=KEEP_DAYS)
        writer = ChainWriter(kept, lambda: self.now)
        writer.open()
        self.written[writer.name] = []
        return writer

    @rule(writer=writers, batch=st.lists(records, max_size=4), lost=st.integers(0, 2))
    def append(self, writer: ChainWriter, batch: list[AuditRecord], lost: int) -> None:
        notes = [Note(Kind.LOST, {"records": lost})] * bool(lost)
        if not batch and not notes:
            return
        stamped = [
            AuditRecord(self.now, *(getattr(r, f) for f in AuditRecord.__struct_fields__[1:]))
            for r in batch
        ]
        writer.append([*stamped, *notes])
        for each in stamped:
            name = writer.name if each.client is not None else strangers_of(writer)
            self.written.setdefault(name, []).append((self.now, each.request_id))

    @rule(writer=writers)
    def stumble(self, writer: ChainWriter) -> None:
        """The file is closed under it; it goes on with its chain."""
        writer.abandon()

    @rule(writer=consumes(writers))
    def crash(self, writer: ChainWriter) -> None:
        writer.abandon()

    @rule(writer=consumes(writers))
    def end(self, writer: ChainWriter) -> None:
        writer.close()
        self.ended |= {writer.name, strangers_of(writer)} & self.written.keys()

    @rule(hours=st.integers(1, 40))
    def wait(self, hours: int) -> None:
        self.now += hours * 3600

    @rule(writer=writers)
    def retain(self, writer: ChainWriter) -> None:
        while (gone := writer.retain(self.now)) is not None and gone.is_full:
            pass
        assert writer.tampering is None

    @rule()
    def note(self) -> None:
        with Reader(self.path) as reader:
            self.anchors.append(heads(reader))

    @invariant()
    def all_is_well(self) -> None:
        if not hasattr(self, "path"):
            return
        key = None if self.key is None else self.key.reveal().encode()
        with Reader(self.path) as reader:
            for anchor in (None, *self.anchors):
                report = verify(reader, key, anchor)
                assert report.is_well, report
            assert {f"{w:012x}" for w in report.unfinished} == self.written.keys() - self.ended
            found: dict[str, list[tuple[float, str]]] = {name: [] for name in self.written}
            for entry in sorted(reader.records(Query()), key=lambda e: e.seq):
                if entry.request_id is not None:
                    found[f"{entry.writer:012x}"].append((entry.at, entry.request_id))
        for name, wanted in self.written.items():
            kept = found[name]
            gone = wanted[: len(wanted) - len(kept)]
            assert wanted[len(gone) :] == kept
            assert all(at < self.now - KEEP_DAYS * DAY for at, _ in gone)


TestLives = Lives.TestCase
TestLives.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
