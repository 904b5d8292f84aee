"""The workers of a service as one: whoever answers in time is gathered, nobody else."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import stat
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from flowcache.fleet import messages as module
from flowcache.fleet.messages import Fleet, Question

Report = Callable[[Question], bytes]
Talk = Callable[[asyncio.StreamWriter, asyncio.Event], Awaitable[None]]

TOTALS = Question.TOTALS


@pytest.fixture
def directory() -> Iterator[Path]:
    """Give a directory whose path is short enough for a socket's."""
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)


@pytest.fixture
def many_pids(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every fleet of the test be a process of its own, as it is in a service."""
    pids = itertools.count(1)
    monkeypatch.setattr(os, "getpid", lambda: next(pids))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TIMEOUT", 0.2)


@pytest.fixture(autouse=True)
async def settled() -> AsyncIterator[None]:
    """Let all that a test began come to its end, so that no connection outlives its loop."""
    yield
    if begun := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(begun, timeout=5)
    await asyncio.sleep(0)


def says(text: bytes) -> Report:
    return lambda _: text


def files(directory: Path, suffix: str) -> list[str]:
    return [name for name in os.listdir(directory) if name.endswith(suffix)]


@asynccontextmanager
async def running(directory: Path, report: Report) -> AsyncIterator[Fleet]:
    fleet = Fleet(directory, report, b"+".join)
    await fleet.start()
    try:
        yield fleet
    finally:
        await fleet.close()


@asynccontextmanager
async def sibling(directory: Path, talk: Talk) -> AsyncIterator[None]:
    """Run a sibling that talks as it likes once it was asked; the event says that all is over."""
    over = asyncio.Event()

    async def asked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        await talk(writer, over)
        writer.close()

    server = await asyncio.start_unix_server(asked, directory / "0.worker")
    try:
        yield
    finally:
        over.set()
        server.close()
        await server.wait_closed()


def once(*answers: bytes) -> Talk:
    """Return a sibling's talk: these answers, one at a time, and then silence."""
    left = list(answers)

    async def talk(writer: asyncio.StreamWriter, over: asyncio.Event) -> None:
        if left:
            writer.write(left.pop(0))
        else:
            await over.wait()

    return talk


# -- who is gathered -------------------------------------------------------------------------------


@pytest.mark.usefixtures("many_pids")
async def test_workers_gather_each_other_and_themselves_first(directory: Path) -> None:
    """Whichever worker is asked, it has the reports of all, its own at the front."""
    names = [b"one", b"two", b"three"]
    async with AsyncExitStack() as stack:
        fleets = [await stack.enter_async_context(running(directory, says(name))) for name in names]
        for name, fleet in zip(names, fleets, strict=True):
            reports = await fleet.gather(TOTALS)
            assert reports[0] == name
            assert sorted(reports) == sorted(names)


async def test_a_worker_alone_gathers_itself(directory: Path) -> None:
    """One worker is a fleet."""
    async with running(directory, says(b"alone")) as fleet:
        assert await fleet.gather(TOTALS) == [b"alone"]


@pytest.mark.usefixtures("many_pids")
@pytest.mark.parametrize("question", Question)
async def test_every_worker_answers_the_question_that_is_asked(
    directory: Path, question: Question
) -> None:
    """Whether audit records are wanted goes to each sibling as it stands."""

    def report(asked: Question) -> bytes:
        return asked.name.encode()

    async with running(directory, report), running(directory, report) as fleet:
        assert await fleet.gather(question) == [question.name.encode()] * 2


@pytest.mark.usefixtures("many_pids")
async def test_a_report_is_that_of_the_moment_and_may_be_long(directory: Path) -> None:
    """A sibling is asked anew each time, and hands over megabytes as well as bytes."""
    reports = [b"last", b"x" * 3_000_000, b"short"]
    async with running(directory, lambda _: reports.pop()), running(directory, says(b"me")) as me:
        assert await me.gather(TOTALS) == [b"me", b"short"]
        assert await me.gather(TOTALS) == [b"me", b"x" * 3_000_000]


# -- who has ended ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("many_pids")
async def test_a_worker_that_left_is_not_gathered_and_leaves_its_totals(directory: Path) -> None:
    """A worker that ends takes its socket along; what it has counted stays."""
    async with running(directory, says(b"stays")) as fleet:
        async with running(directory, lambda asked: b"leaves " + asked.value):
            assert len(await fleet.gather(TOTALS)) == 2
            assert fleet.left() == []
        assert await fleet.gather(TOTALS) == [b"stays"]
        assert fleet.left() == [b"leaves " + TOTALS.value]
    assert files(directory, ".worker") == []


async def test_everybody_who_left_is_told_of(directory: Path) -> None:
    """However often workers are replaced, and be it under the same process id, all are there."""
    for name in (b"a", b"b", b"c"):
        async with running(directory, says(name)):
            pass
    async with running(directory, says(b"me")) as fleet:
        assert fleet.left() == [b"a", b"b", b"c"]


@pytest.mark.usefixtures("many_pids")
async def test_a_worker_that_ends_is_at_no_moment_nowhere(directory: Path) -> None:
    """While it still hands a report over, its totals are there already."""
    async with running(directory, says(b"me")) as fleet:
        ending = Fleet(directory, says(b"x" * 5_000_000), b"+".join)
        before = files(directory, ".worker")
        await ending.start()
        (name,) = set(files(directory, ".worker")) - set(before)
        reader, writer = await asyncio.open_unix_connection(directory / name)
        writer.write(TOTALS.value)
        assert await reader.read(1)
        closing = asyncio.create_task(ending.close())
        await asyncio.sleep(0)
        assert not closing.done()
        assert [len(report) for report in fleet.left()] == [5_000_000]
        writer.transport.abort()
        await closing


@pytest.mark.usefixtures("many_pids")
async def test_those_who_left_long_ago_are_one(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies in the directory doesn't grow with every worker that ends; nobody is dropped."""
    monkeypatch.setattr(module, "_KEPT_APART", 2)
    for name in (b"a", b"b", b"c", b"d", b"e"):
        async with running(directory, says(name)):
            pass
    fleet = Fleet(directory, says(b"me"), b"+".join)
    assert fleet.left() == [b"a+b+c", b"d", b"e"]
    assert sorted(os.listdir(directory)) == ["left.lock", "left.msgpack"]


@pytest.mark.usefixtures("many_pids")
async def test_who_leaves_at_the_same_moment_is_kept(directory: Path) -> None:
    """Workers that end at once overwrite nothing of each other's."""

    def live(name: bytes) -> None:
        async def life() -> None:
            async with running(directory, says(name)):
                pass

        asyncio.run(life())

    names = [b"%d" % number for number in range(32)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(live, names))
    assert sorted(Fleet(directory, says(b""), b"+".join).left()) == sorted(names)


async def test_what_was_left_and_cannot_be_read_stops_nobody(directory: Path) -> None:
    """The log tells, totals begin anew, and whoever ends next is kept."""
    (directory / "left.msgpack").write_bytes(b"\xc1")
    async with running(directory, says(b"me")) as fleet:
        with capture_logs() as logged:
            assert fleet.left() == []
        assert [entry["log_level"] for entry in logged] == ["error"]
    assert fleet.left() == [b"me"]


async def test_an_end_without_a_directory_is_no_error() -> None:
    """A supervisor that was faster at clearing up breaks no worker's end."""
    with tempfile.TemporaryDirectory() as made:
        fleet = Fleet(Path(made), says(b""), b"+".join)
        await fleet.start()
    await fleet.close()


async def test_closing_twice_or_before_the_start_is_no_error(directory: Path) -> None:
    """An end that comes early leaves nothing to mend."""
    fleet = Fleet(directory, says(b""), b"+".join)
    await fleet.close()
    await fleet.start()
    await fleet.close()
    await fleet.close()
    assert files(directory, ".worker") == []
    assert fleet.left() == [b""]


# -- who does not answer ---------------------------------------------------------------------------


async def test_a_socket_that_a_dead_worker_left_is_passed_over(directory: Path) -> None:
    """A worker that was killed leaves its file behind; it counts for nothing."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(directory / "0.worker"))
    (directory / "1.worker").write_text("no socket at all")
    (directory / "2.worker").symlink_to(directory / "gone in between")
    async with running(directory, says(b"alive")) as fleet:
        assert await fleet.gather(TOTALS) == [b"alive"]


async def test_a_worker_takes_over_the_file_of_a_dead_one(directory: Path) -> None:
    """A process id that comes round again finds its place free, whatever was left there."""
    (directory / f"{os.getpid()}.worker").write_text("no socket at all")
    async with running(directory, says(b"alive")) as fleet:
        assert await fleet.gather(TOTALS) == [b"alive"]


async def test_a_silent_sibling_is_passed_over_in_half_a_second(directory: Path) -> None:
    """A worker that hangs makes nobody wait longer than the patience there is."""
    loop = asyncio.get_running_loop()
    async with sibling(directory, once()), running(directory, says(b"me")) as fleet:
        began = loop.time()
        assert await fleet.gather(TOTALS) == [b"me"]
        assert 0.4 < loop.time() - began < 5


@pytest.mark.usefixtures("impatient")
async def test_a_sibling_that_stops_half_way_is_passed_over(directory: Path) -> None:
    """Half a report from a worker that hangs is none."""

    async def halting(writer: asyncio.StreamWriter, over: asyncio.Event) -> None:
        writer.write(b"half a rep")
        await over.wait()

    async with sibling(directory, halting), running(directory, says(b"me")) as fleet:
        assert await fleet.gather(TOTALS) == [b"me"]


@pytest.mark.usefixtures("impatient")
async def test_a_sibling_that_is_slow_for_once_is_told_of_as_it_was(directory: Path) -> None:
    """A worker with much to do doesn't make the totals fall; once it is gone it counts no more."""
    async with running(directory, says(b"me")) as fleet:
        async with sibling(directory, once(b"as it was")):
            for _ in range(3):
                assert await fleet.gather(TOTALS) == [b"me", b"as it was"]
        assert await fleet.gather(TOTALS) == [b"me"]


@pytest.mark.usefixtures("impatient")
async def test_what_is_told_of_a_slow_sibling_answers_the_question(directory: Path) -> None:
    """What was told without audit records does not stand in for a report with them."""
    talk = once(b"everything", b"totals")
    async with sibling(directory, talk), running(directory, says(b"me")) as fleet:
        assert await fleet.gather(Question.EVERYTHING) == [b"me", b"everything"]
        assert await fleet.gather(Question.TOTALS) == [b"me", b"totals"]
        assert await fleet.gather(Question.EVERYTHING) == [b"me", b"everything"]


@pytest.mark.usefixtures("impatient")
async def test_a_report_without_an_end_is_passed_over(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sibling that has lost its mind fills nobody's memory."""
    monkeypatch.setattr(module, "_MOST_BYTES", 100_000)
    talk = once(b"x" * 200_000)
    async with sibling(directory, talk), running(directory, says(b"me")) as fleet:
        assert await fleet.gather(TOTALS) == [b"me"]


# -- who asks oddly --------------------------------------------------------------------------------


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("question", [b"", b"x", b"\xff"])
async def test_whoever_asks_nothing_that_makes_sense_gets_nothing(
    directory: Path, question: bytes
) -> None:
    """A connection that is no sibling's is closed, soon, and nothing is told."""
    async with running(directory, says(b"kept quiet")) as fleet:
        (name,) = files(directory, ".worker")
        reader, writer = await asyncio.open_unix_connection(directory / name)
        writer.write(question)
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()
        assert await fleet.gather(TOTALS) == [b"kept quiet"]


async def test_whoever_is_gone_while_it_is_told_disturbs_nobody(directory: Path) -> None:
    """A worker that asks and hangs up leaves the one it asked as it was."""
    async with running(directory, says(b"x" * 5_000_000)) as fleet:
        (name,) = files(directory, ".worker")
        reader, writer = await asyncio.open_unix_connection(directory / name)
        writer.write(TOTALS.value)
        assert await reader.read(1)
        writer.transport.abort()
        assert len(await fleet.gather(TOTALS)) == 1


async def test_a_socket_is_a_socket(directory: Path) -> None:
    """What a worker leaves in the directory while it lives is its socket, and nothing else."""
    async with running(directory, says(b"")):
        (name,) = os.listdir(directory)
        assert stat.S_ISSOCK(os.stat(directory / name).st_mode)


# -- who is told -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("many_pids")
async def test_all_workers_do_what_they_are_told(directory: Path) -> None:
    """Each is asked once, and answers; the one that tells is the first."""
    asked: list[Question] = []

    def follow(question: Question) -> bytes:
        asked.append(question)
        return b"%d" % len(asked)

    async with AsyncExitStack() as stack:
        one, *_ = [await stack.enter_async_context(running(directory, follow)) for _ in range(3)]
        answers, silent = await one.tell(Question.OVERRIDES)
        assert sorted(answers) == [b"1", b"2", b"3"]
        assert silent == 0
        assert asked == [Question.OVERRIDES] * 3


@pytest.mark.usefixtures("impatient")
async def test_who_is_too_slow_to_be_told_is_counted(directory: Path) -> None:
    """It is not told of as it was before, unlike in a report: it may not have done it yet."""
    async with running(directory, says(b"7")) as fleet, sibling(directory, once(b"8")):
        assert await fleet.tell(Question.OVERRIDES) == ([b"7", b"8"], 0)
        assert await fleet.tell(Question.OVERRIDES) == ([b"7"], 1)


async def test_who_is_gone_is_not_waited_for(directory: Path) -> None:
    """The socket of a worker that was killed stays behind; nobody is missing."""
    async with running(directory, says(b"7")) as fleet:
        (directory / "0.worker").touch()
        assert await fleet.tell(Question.OVERRIDES) == ([b"7"], 0)
