"""The workers of one service as one: each answers the others over a Unix socket.

Every worker listens on a socket of its own in a directory that the supervisor made for them, only
readable by their user. Whoever connects sends one byte, the `Question`, and gets the worker's
report: bytes, opaque here. To gather, a worker asks each socket there is.

A worker that ends in good order leaves its last totals behind in a file, so that the totals of
the service don't fall when its workers are replaced. It does so while it can still be asked: at no
moment is it nowhere, and whoever finds it in both places can tell. Of the many that end in the
life of a service only the last few are kept apart; those before are folded into one report. Known
weakness: one that is killed can't leave anything, and its share is lost, which Prometheus takes for
a reset.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from pathlib import Path

import msgspec
import structlog

from flowcache.fleet.shared_file import SharedFile

__all__ = ["Fleet", "Question"]

_log = structlog.get_logger(__name__)
_decode = msgspec.msgpack.Decoder(list[bytes]).decode

_TIMEOUT = 0.5
"""Seconds a sibling has to hand over its report."""
_MOST_BYTES = 64 * 1024 * 1024
_KEPT_APART = 32
"""How many of those that ended last are kept apart. One that ended within the timeout may also be
reported as living, which only shows while it is apart: so as many as may end in that time."""


class Question(Enum):
    """What a worker is asked for."""

    TOTALS = b"t"
    """Everything but audit records."""
    EVERYTHING = b"e"
    OVERRIDES = b"o"
    """To follow what operators want of circuits; answered by how many were switched."""


class Fleet:
    """This worker among its siblings.

    ``report`` answers for this one. ``fold`` makes one report of several that workers left.
    """

    def __init__(
        self,
        directory: Path,
        report: Callable[[Question], bytes],
        fold: Callable[[list[bytes]], bytes],
    ) -> None:
        self._directory = directory
        self._left = SharedFile(directory / "left.msgpack")
        self._fold = fold
        self._path = directory / f"{os.getpid()}.worker"
        self._report = report
        self._last_known: dict[Question, dict[Path, bytes]] = {}
        self._server: asyncio.AbstractServer | None = None
        self._handing_over: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen for siblings."""
        self._path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._accept, self._path)

    async def close(self) -> None:
        """Leave the last totals behind, and stop listening."""
        if self._server is None:
            return
        server, self._server = self._server, None
        with suppress(FileNotFoundError):  # the supervisor was faster at clearing up
            self._leave()
        server.close()
        await server.wait_closed()
        await asyncio.gather(*self._handing_over)  # else a sibling would get half a report
        self._path.unlink(missing_ok=True)

    def _leave(self) -> None:
        with self._left.alone():
            reports = [*self.left(), self._report(Question.TOTALS)]
            oldest, newest = reports[:-_KEPT_APART], reports[-_KEPT_APART:]
            if len(oldest) > 1:
                oldest = [self._fold(oldest)]
            self._left.replace(msgspec.msgpack.encode([*oldest, *newest]))

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._hand_over(reader, writer))
        self._handing_over.add(task)
        task.add_done_callback(self._handing_over.discard)

    async def _hand_over(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_TIMEOUT):
                writer.write(self._report(Question(await reader.readexactly(1))))
                await writer.drain()
        except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError):
            pass  # no sibling, or one that gave up: it tells so itself
        finally:
            writer.close()

    async def gather(self, question: Question) -> list[bytes]:
        """Return the reports of all workers that live, this one's first.

        One that is too slow this time is told of as it was when it last answered.
        """
        others = self._siblings()
        reports = await asyncio.gather(*(_ask(path, question) for path in others))
        before = self._last_known.get(question, {})
        known = {
            path: report if report is not None else before.get(path, b"")
            for path, report in zip(others, reports, strict=True)
        }
        self._last_known[question] = known
        return [self._report(question), *(report for report in known.values() if report)]

    async def tell(self, question: Question) -> tuple[list[bytes], int]:
        """Have all workers do what ``question`` says; return their answers, this one's first.

        The number is of those that live and did not answer in time: they may do it later.
        """
        answers = await asyncio.gather(*(_ask(path, question) for path in self._siblings()))
        told = [answer for answer in answers if answer]
        return [self._report(question), *told], answers.count(None)

    def _siblings(self) -> list[Path]:
        return sorted(p for p in self._directory.glob("*.worker") if p != self._path)

    def left(self) -> list[bytes]:
        """Return the last totals of the workers that have ended, oldest first.

        To miss nobody, gather first: who ends in between is found here then.
        """
        written = self._left.read()
        if written is None:
            return []
        try:
            return _decode(written)
        except msgspec.MsgspecError as fault:
            # Nothing of ours can have written it. The totals begin anew: Prometheus copes.
            _log.error("ended_workers_report_unreadable", fault=str(fault))
            return []


async def _ask(path: Path, question: Question) -> bytes | None:
    """Return a sibling's report; empty when it is gone, None when it is too slow."""
    try:
        async with asyncio.timeout(_TIMEOUT):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                writer.write(question.value)
                return await _read_all(reader)
            finally:
                writer.close()
    except TimeoutError:
        return None
    except OSError:
        return b""


async def _read_all(reader: asyncio.StreamReader) -> bytes:
    report = bytearray()
    while part := await reader.read(1 << 16):
        report += part
        if len(report) > _MOST_BYTES:
            return b""
    return bytes(report)
