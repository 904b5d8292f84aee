"""JSON lines, appended to a file or to standard output.

The file may be rotated by renaming it: each batch looks whether the path still leads to what is
open, and begins a new file if it does not. A batch that a full disk has no room for is taken back,
so that the disk is no fuller for having tried. A line that was torn by a crash is ended before the
next is written, so that at most one line of a file is none.

Of what went to standard output nothing can be taken back, and nobody can look at what is there: so
an empty line goes first, at the start and after a failure, and ends what may have been torn.

A disk may hang and a pipe may stay full. Both are waited for in a thread that the end of the
process does not wait for; one batch is written at a time, and whoever closes lets it.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import stat
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Lock, Thread

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
        self._writing = Lock()

    async def send(self, batch: Batch) -> None:
        """Append a batch; see `Destination.send`."""
        await _apart(partial(self._append, batch.jsonl))

    async def close(self) -> None:
        """Close the file. One that is being written to is left to the end of the process."""
        if self._writing.acquire(blocking=False):
            self._close()
            self._writing.release()

    def _append(self, text: bytes) -> None:
        with self._writing:
            try:
                file = self._open()
                size = os.fstat(file).st_size
                try:
                    _write_all(file, text)
                    _sync(file)
                except OSError:
                    if os.fstat(file).st_size > size:  # less, if somebody emptied it meanwhile
                        os.ftruncate(file, size)
                    raise
            except OSError as fault:
                self._close()  # opened anew, it is known whether the last line has an end
                raise NotNow(f"{self._path}: {fault.strerror}") from None

    def _open(self) -> int:
        if self._file is not None and database.identity(self._path) != self._identity:
            self._close()
        if self._file is None:
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK
            self._file = file = os.open(self._path, flags, 0o600)
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "is no regular file")
            self._identity = status.st_dev, status.st_ino
            self._keep_name()
            if status.st_size and os.pread(file, 1, status.st_size - 1) != b"\n":
                _write_all(file, b"\n")
        return self._file

    def _keep_name(self) -> None:
        """Put the name of a file that may be new on disk: without it a power cut takes the file."""
        directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _sync(directory)
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
        self._writing = Lock()
        self._key: str | None = None
        """Of the batch that was begun last; so many bytes of it are ``_written``."""
        self._written = 0
        self._may_be_torn = True
        """Whether the last line there may have no end."""

    async def send(self, batch: Batch) -> None:
        """Write what is not yet written of a batch; see `Destination.send`."""
        await _apart(partial(self._write, batch))

    async def close(self) -> None:
        """Leave it open: it is not ours."""

    def _write(self, batch: Batch) -> None:
        with self._writing:
            text = batch.jsonl
            if batch.key != self._key:
                self._key, self._written = batch.key, 0
            try:
                if self._may_be_torn:
                    _write_some(self._file, b"\n")
                    self._may_be_torn = False
                while left := memoryview(text)[self._written :]:
                    self._written += _write_some(self._file, left)
            except OSError as fault:
                self._written = text.rfind(b"\n", 0, self._written) + 1  # go on with a whole line
                self._may_be_torn = True
                raise NotNow(f"standard output: {fault.strerror}") from None


async def _apart(work: Callable[[], None]) -> None:
    """Do ``work``, which may never end, in a thread that no end of the process waits for.

    Who stops waiting for it does not stop it.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def tell(fault: Exception | None) -> None:
        if done.cancelled():
            return
        if fault is None:
            done.set_result(None)
        else:
            done.set_exception(fault)

    def run() -> None:
        fault: Exception | None = None
        try:
            work()
        except Exception as caught:
            fault = caught
        with suppress(RuntimeError):  # the loop has ended: nobody waits
            loop.call_soon_threadsafe(tell, fault)

    Thread(target=run, name="delivery", daemon=True).start()
    await done


def _write_all(file: int, text: bytes) -> None:
    left = memoryview(text)
    while left:
        left = left[os.write(file, left) :]


def _write_some(file: int, text: bytes | memoryview) -> int:
    """Write at least one byte, however long that takes; return how many were written.

    Standard output may be a pipe that does not block, as those who share it left it.
    """
    while True:
        try:
            return os.write(file, text)
        except BlockingIOError:
            room = select.poll()
            room.register(file, select.POLLOUT)
            room.poll()


def _sync(file: int) -> None:
    """Put on disk what was written; a file system that does not know how is taken at its word."""
    try:
        os.fsync(file)
    except OSError as fault:
        if fault.errno != errno.EINVAL:
            raise
