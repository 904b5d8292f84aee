"""JSON lines, appended to a file or to standard output.

The file may be rotated by renaming it: each batch looks whether the path still leads to what is
open, and begins a new file if it does not. A line that was torn by a crash or a full disk is ended
before the next is written, so that at most one line of a file is none.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from pathlib import Path

from flowcache.audit import database
from flowcache.delivery.batch import Batch
from flowcache.outbound.judging import NotNow

__all__ = ["FileDestination", "StandardOutput"]


class FileDestination:
    """Append to the file at ``path``, readable for its user only; a batch is on disk when taken."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None
        self._identity: tuple[int, int] | None = None

    async def send(self, batch: Batch) -> None:
        """Append a batch; see `Destination.send`."""
        await asyncio.to_thread(self._append, batch.jsonl)

    async def close(self) -> None:
        """Close the file."""
        self._close()

    def _append(self, text: bytes) -> None:
        try:
            file = self._open()
            _write_all(file, text)
            os.fsync(file)
        except OSError as fault:
            self._close()  # opened anew, it is known whether the last line has an end
            raise NotNow(f"{self._path}: {fault.strerror}") from None

    def _open(self) -> int:
        if self._file is not None and database.identity(self._path) != self._identity:
            self._close()
        if self._file is None:
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._file = file = os.open(self._path, flags, 0o600)
            status = os.fstat(file)
            self._identity = status.st_dev, status.st_ino
            self._keep_name()
            if status.st_size and os.pread(file, 1, status.st_size - 1) != b"\n":
                _write_all(file, b"\n")
        return self._file

    def _keep_name(self) -> None:
        """Put the name of a file that may be new on disk: without it a power cut takes the file."""
        directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):
                os.close(file)


class StandardOutput:
    """Write to standard output, for a log collector. A batch was taken when it was written."""

    def __init__(self, file: int = 1) -> None:
        self._file = file

    async def send(self, batch: Batch) -> None:
        """Write a batch; see `Destination.send`."""
        try:
            await asyncio.to_thread(_write_all, self._file, batch.jsonl)
        except OSError as fault:
            raise NotNow(f"standard output: {fault.strerror}") from None

    async def close(self) -> None:
        """Leave it open: it is not ours."""


def _write_all(file: int, text: bytes) -> None:
    left = memoryview(text)
    while left:
        left = left[os.write(file, left) :]
