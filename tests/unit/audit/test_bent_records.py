"""A record whose beginning was damaged has columns of other types, and a number that is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowcache.audit.database import JournalFault
from flowcache.audit.reading import Query, Reader
from tests.unit.audit.journals import by_hand, chain, checked

HEAD = 32
"""Bytes before the writer's number: the length of the record's head, and the type of each column
(https://sqlite.org/fileformat2.html#record_format)."""


@pytest.mark.parametrize("bit", range(8))
def test_the_head_of_a_record(tmp_path: Path, bit: int) -> None:
    """Whichever bit of it is flipped, the verifier comes to its end, and so does who reads."""
    sound, broken = tmp_path / "audit.db", tmp_path / "broken.db"
    chain(sound, (1, 2, 3))
    with by_hand(sound) as hand:
        (writer,) = hand.execute("SELECT DISTINCT writer FROM records").fetchone()
    content = sound.read_bytes()
    mark = writer.to_bytes((writer.bit_length() + 8) // 8)
    at, places = content.find(mark), list[int]()
    while at >= 0:
        places.extend(range(max(0, at - HEAD), at))
        at = content.find(mark, at + 1)
    assert places
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1 << bit
        broken.write_bytes(damaged)
        try:
            checked(broken)
            with Reader(broken) as reader:
                list(reader.records(Query()))
        except JournalFault:
            continue
