"""Logging: one line of JSON an event on standard error, or of plain text on a terminal.

Values and secrets never reach a log: callers log names, codes and numbers only, and of a bug it is
told where it was and of what kind, not what it said.
"""

from __future__ import annotations

import logging
import sys
import traceback
from contextlib import suppress
from typing import TextIO, cast

import structlog

__all__ = ["LEVELS", "configure"]

LEVELS = ("debug", "info", "warning", "error")


class _Forgiving:
    """A stream that loses a line rather than raise: a broken log must not break the service."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):
            return self._stream.write(text)
        return 0

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()


_MOST_CAUSES = 10


def _traceback(exc_info: structlog.typing.ExcInfo) -> str:
    """Return a traceback without the words of its exceptions, which may quote a value.

    ``int("4711")`` says what it could not read. What the system says of an OSError quotes nothing.
    """
    told: list[str] = []
    fault: BaseException | None = exc_info[1]
    while fault is not None and len(told) < _MOST_CAUSES:
        frames = "".join(traceback.format_tb(fault.__traceback__))
        words = f": {fault.strerror}" if isinstance(fault, OSError) and fault.strerror else ""
        told.append(
            f"Traceback (most recent call last):\n{frames}{type(fault).__qualname__}{words}"
        )
        fault = fault.__cause__ or (None if fault.__suppress_context__ else fault.__context__)
    return "\n\nwhich led to:\n\n".join(reversed(told))


def configure(level: str) -> None:
    """Set up logging for this process."""
    renderer: structlog.typing.Processor
    if sys.stderr.isatty():
        renderer = structlog.dev.ConsoleRenderer()
    else:
        renderer = structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.ExceptionRenderer(_traceback),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, _Forgiving(sys.stderr))),
        cache_logger_on_first_use=False,
    )
