"""The workers of one service as one: each answers the others over a Unix socket.

Every worker listens on a socket of its own in a directory that the supervisor made for them, only
readable by their user. Whoever connects sends one byte, the `Question`, and gets the worker's
report: bytes, opaque here. To gather, a worker asks each socket there is.

A worker that ends in good order leaves its last totals behind as a file, so that the totals of
the service don't fall when its workers are replaced. Known weakness: one that is killed can't, and
its share is lost, which Prometheus takes for a reset.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from enum import Enum
from pathlib import Path

__all__ = ["Fleet", "Question"]

_PATIENCE = 0.5
"""Seconds a sibling has to hand over its report."""
_MOST_BYTES = 64 * 1024 * 1024


class Question(Enum):
    """What a worker is asked for."""

    TOTALS = b"t"
    """Everything but audit records."""
    EVERYTHING = b"e"
    WISHES = b"w"
    """To follow what operators want of circuits; answered by how many were switched."""


class Fleet:
    """This worker among its siblings. ``report`` answers for this one."""

    def __init__(self, directory: Path, report: Callable[[Question], bytes]) -> None:
        self._directory = directory
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
        """Stop listening, and leave the last totals behind."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
            await asyncio.gather(*self._handing_over)  # else a sibling would get half a report
        self._path.unlink(missing_ok=True)
        if self._directory.is_dir():
            self._path.with_suffix(".left").write_bytes(self._report(Question.TOTALS))

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._hand_over(reader, writer))
        self._handing_over.add(task)
        task.add_done_callback(self._handing_over.discard)

    async def _hand_over(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_PATIENCE):
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
        """Return the last totals of the workers that have ended."""
        return [path.read_bytes() for path in sorted(self._directory.glob("*.left"))]


async def _ask(path: Path, question: Question) -> bytes | None:
    """Return a sibling's report; empty when it is gone, None when it is too slow."""
    try:
        async with asyncio.timeout(_PATIENCE):
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
