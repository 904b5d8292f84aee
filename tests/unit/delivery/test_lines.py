"""JSON lines in a file: appended, on disk, through rotation, torn lines and full disks."""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flowcache.delivery.batch import Batch
from flowcache.delivery.destination import Destination
from flowcache.delivery.lines import FileDestination, StandardOutput
from flowcache.outbound.judging import NotNow
from tests.delivery.loops import room_for


def send(destination: Destination, *lines: bytes, first: int = 0) -> None:
    last = first + len(lines) - 1
    asyncio.run(destination.send(Batch("w", first, last, lines, len(lines), 0, False)))


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


def test_a_full_disk_is_not_for_now(path: Path) -> None:
    """What has no room is told by the system's own words, taken back whole, and tried again."""
    file = FileDestination(path)
    send(file, b"1")
    for _ in range(3):
        with room_for(5), pytest.raises(NotNow, match=rf"{path}: File too large"):
            send(file, b"22", b"33")
        assert path.read_bytes() == b"1\n"
    send(file, b"22", b"33")
    asyncio.run(file.close())
    assert path.read_bytes() == b"1\n22\n33\n"


def test_only_a_regular_file_is_written_to(tmp_path: Path) -> None:
    """Of a pipe or a device nobody can tell what is in it, nor that it is on disk."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, Path("/dev/full")):
        with pytest.raises(NotNow, match=f"{path}: is no regular file"):
            send(FileDestination(path), b"1")


def test_a_batch_given_up_is_never_written_beside_another(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that hangs holds the next batch up, and the file stays open until it is done."""
    sync, hangs, go_on = os.fsync, threading.Event(), threading.Event()

    def slow(file: int) -> None:
        hangs.set()
        go_on.wait()
        sync(file)

    async def give_up_and_go_on() -> None:
        file = FileDestination(path)
        first = asyncio.create_task(file.send(Batch("w", 0, 0, [b"1"], 1, 0, False)))
        assert await asyncio.to_thread(hangs.wait, 20)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await file.close()  # does not wait, and takes nothing away from the thread
        second = asyncio.create_task(file.send(Batch("w", 1, 1, [b"2"], 1, 0, False)))
        go_on.set()
        await second
        await file.close()

    monkeypatch.setattr("flowcache.delivery.lines.os.fsync", slow)
    asyncio.run(give_up_and_go_on())
    assert path.read_bytes() == b"1\n2\n"


def test_a_directory_that_is_gone_is_not_for_now(tmp_path: Path) -> None:
    """It may come back, as a volume does that is not mounted yet."""
    file = FileDestination(tmp_path / "gone" / "audit.jsonl")
    with pytest.raises(NotNow, match="No such file"):
        send(file, b"1")
    (tmp_path / "gone").mkdir()
    send(file, b"1")
    asyncio.run(file.close())


def test_standard_output() -> None:
    """All of a batch is written, behind an end for a line that another process may have torn."""
    read, write = os.pipe()
    with os.fdopen(read, "rb") as reader:
        output = StandardOutput(write)
        send(output, b"1", b"2")
        send(output, b"3", first=2)
        os.close(write)
        assert reader.read() == b"\n1\n2\n3\n"


def test_a_standard_output_that_does_not_block() -> None:
    """A full pipe is waited for: each line comes once, however little it takes at once."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    lines = [b"%d" % each + b"x" * 400 for each in range(1000)]
    with ThreadPoolExecutor() as pool, os.fdopen(read, "rb") as reader:
        sent = pool.submit(send, StandardOutput(write), *lines)
        got = [reader.readline() for _ in range(1 + len(lines))]
        sent.result()
        os.close(write)
        assert got == [b"\n", *(line + b"\n" for line in lines)]
        assert reader.read() == b""


def test_standard_output_on_a_full_disk(path: Path) -> None:
    """What was torn is ended, and its record comes again; those before it do not."""
    with path.open("wb") as there:
        output = StandardOutput(there.fileno())
        with room_for(6), pytest.raises(NotNow, match="standard output: File too large"):
            send(output, b"11", b"22")
        send(output, b"11", b"22")
    assert path.read_bytes() == b"\n11\n22\n22\n"


def test_a_closed_standard_output_is_not_for_now() -> None:
    """A collector that went away may come back with the service's restart."""
    read, write = os.pipe()
    os.close(read)
    with pytest.raises(NotNow, match="standard output: Broken pipe"):
        send(StandardOutput(write), b"1")
    os.close(write)
