"""JSON lines in a file: appended, on disk, through rotation, torn lines and full disks."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path

import pytest

from flowcache.delivery.batch import Batch
from flowcache.delivery.destination import Destination
from flowcache.delivery.lines import FileDestination, StandardOutput
from flowcache.outbound.judging import NotNow


def send(destination: Destination, *lines: bytes) -> None:
    asyncio.run(destination.send(Batch("w", 0, len(lines) - 1, lines, len(lines), 0, False)))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


def test_batches_are_appended(path: Path) -> None:
    """A line a record, behind what is there, readable for its user only."""
    file = FileDestination(path)
    send(file, b"1", b"2")
    send(file, b"3")
    asyncio.run(file.close())
    again = FileDestination(path)
    send(again, b"4")
    asyncio.run(again.close())
    assert path.read_bytes() == b"1\n2\n3\n4\n"
    assert path.stat().st_mode & 0o777 == 0o600


def test_rotation_by_renaming(path: Path) -> None:
    """When the file was moved away, the next batch begins a new one; no batch is in both."""
    file = FileDestination(path)
    send(file, b"1")
    rotated = path.rename(path.with_suffix(".1"))
    send(file, b"2")
    asyncio.run(file.close())
    assert (rotated.read_bytes(), path.read_bytes()) == (b"1\n", b"2\n")


def test_a_removed_file_is_begun_anew(path: Path) -> None:
    """Whoever removes the file gets the next batch in a new one."""
    file = FileDestination(path)
    send(file, b"1")
    path.unlink()
    send(file, b"2")
    asyncio.run(file.close())
    assert path.read_bytes() == b"2\n"


def test_a_torn_line_is_ended(path: Path) -> None:
    """What a crash left of a line does not spoil the next one."""
    path.write_bytes(b'1\n{"torn":')
    file = FileDestination(path)
    send(file, b"2")
    asyncio.run(file.close())
    assert path.read_bytes() == b'1\n{"torn":\n2\n'


def test_a_batch_is_on_disk_when_it_was_taken(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written, and the name that a new file is found by: a power cut takes neither."""
    fsync, synced = os.fsync, set[int]()

    def noting(file: int) -> None:
        synced.add(os.fstat(file).st_ino)
        fsync(file)

    monkeypatch.setattr("flowcache.delivery.lines.os.fsync", noting)
    file = FileDestination(path)
    send(file, b"1")
    assert synced == {path.stat().st_ino, path.parent.stat().st_ino}
    synced.clear()
    send(file, b"2")
    assert path.stat().st_ino in synced
    asyncio.run(file.close())


def test_a_line_that_a_full_disk_tore_is_ended(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The batch is sent again by the same process: of all its lines one is none."""

    def breaking_off(file: int, text: bytes) -> None:
        os.write(file, text[:-3])
        raise OSError(errno.ENOSPC, "No space left on device")

    file = FileDestination(path)
    send(file, b"1")
    with monkeypatch.context() as full:
        full.setattr("flowcache.delivery.lines._write_all", breaking_off)
        with pytest.raises(NotNow, match="No space left"):
            send(file, b'{"seq":2}', b'{"seq":3}')
    send(file, b'{"seq":2}', b'{"seq":3}')
    asyncio.run(file.close())
    assert path.read_bytes().splitlines() == [
        b"1",
        b'{"seq":2}',
        b'{"seq":',
        b'{"seq":2}',
        b'{"seq":3}',
    ]


def test_what_is_written_in_part_is_gone_on_with(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system may take less than it was given: the rest follows."""
    write = os.write
    monkeypatch.setattr(
        "flowcache.delivery.lines.os.write", lambda file, text: write(file, text[:3])
    )
    file = FileDestination(path)
    send(file, b'{"seq":1}', b'{"seq":2}')
    asyncio.run(file.close())
    assert path.read_bytes() == b'{"seq":1}\n{"seq":2}\n'


def test_a_full_disk_is_not_for_now() -> None:
    """What can't be written is told by the system's own words, and tried again."""
    file = FileDestination(Path("/dev/full"))
    with pytest.raises(NotNow, match=r"/dev/full: .+"):
        send(file, b"1")
    asyncio.run(file.close())


def test_a_directory_that_is_gone_is_not_for_now(tmp_path: Path) -> None:
    """It may come back, as a volume does that is not mounted yet."""
    file = FileDestination(tmp_path / "gone" / "audit.jsonl")
    with pytest.raises(NotNow, match="No such file"):
        send(file, b"1")
    (tmp_path / "gone").mkdir()
    send(file, b"1")
    asyncio.run(file.close())


def test_standard_output() -> None:
    """All of a batch is written, however little the pipe takes at once."""
    read, write = os.pipe()
    with os.fdopen(read, "rb") as reader:
        send(StandardOutput(write), b"1", b"2")
        os.close(write)
        assert reader.read() == b"1\n2\n"


def test_a_closed_standard_output_is_not_for_now() -> None:
    """A collector that went away may come back with the service's restart."""
    read, write = os.pipe()
    os.close(read)
    with pytest.raises(NotNow, match="standard output: Broken pipe"):
        send(StandardOutput(write), b"1")
    os.close(write)
