"""A small file that all workers of one host read and replace. Who reads it finds it whole."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["SharedFile"]


class SharedFile:
    """The file at ``path``. Next to it are its lock and, for a moment, its replacement."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> bytes | None:
        """Return what is in it, None when nobody has written it yet."""
        try:
            return self._path.read_bytes()
        except FileNotFoundError:
            return None

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other workers from writing. They hold it for a moment only."""
        with self._path.with_suffix(".lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def replace(self, content: bytes) -> None:
        """Replace it at once: who reads finds what was before, or ``content``, whole."""
        new = self._path.with_suffix(".new")
        new.write_bytes(content)
        os.replace(new, self._path)
