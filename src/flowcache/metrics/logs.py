"""Logging: one line of JSON an event on standard error, or of plain text on a terminal.

Values and secrets never reach a log: callers log names, codes and numbers only. Of a bug, of a
warning of Python and of what a library logs it is told where it was and of what kind, not what it
said.

A line is one write of at most `_LINE` bytes, which the kernel does not tear: several processes
write to the same pipe, and whoever reads it reads whole lines.
"""

from __future__ import annotations

import logging
import sys
import traceback
import warnings
from contextlib import suppress
from pathlib import PurePath
from select import PIPE_BUF
from typing import Any, TextIO, cast

import structlog

from flowcache.printable import printable, printable_json, printable_lines

__all__ = ["LEVELS", "configure"]

LEVELS = ("debug", "info", "warning", "error")

_LINE = PIPE_BUF
"""Bytes that a pipe takes in one piece (POSIX, ``write``)."""
_CUT = " [...] "
_LONG = 64
"""Characters of a text that can be cut."""


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


class _FittingLine:
    """Render an event as a line of JSON; what is too long is cut in its middle.

    So are tracebacks: where they begin and where they end says most.
    """

    def __init__(self) -> None:
        self._render = structlog.processors.JSONRenderer()  # in ASCII: a character is a byte

    def __call__(self, logger: Any, name: str, event: structlog.typing.EventDict) -> str:
        line = self._line(logger, name, event)
        while len(line) >= _LINE:
            longest = max(event, key=lambda field: len(_text(event[field])))
            text = _text(event[longest])
            if len(text) < _LONG:
                break
            kept = 3 * len(text) // 8
            event[longest] = text[:kept] + _CUT + text[-kept:]
            line = self._line(logger, name, event)
        return line

    def _line(self, logger: Any, name: str, event: structlog.typing.EventDict) -> str:
        return printable_json(str(self._render(logger, name, event)))


def _shown(logger: Any, name: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Make all values of an event fit for a terminal; a traceback keeps its lines."""
    return {
        field: value if isinstance(value, int | float | None) else _fit(field, _text(value))
        for field, value in event.items()
    }


def _fit(field: str, text: str) -> str:
    return printable_lines(text) if field == "exception" else printable(text)


def _text(value: object) -> str:
    return value if isinstance(value, str) else repr(value)


class _Libraries(logging.Handler):
    """Where the records of libraries end that nobody else handles."""

    def emit(self, record: logging.LogRecord) -> None:
        structlog.get_logger().log(
            record.levelno,
            "a library's message",
            library=record.name,
            place=_place(record.pathname, record.lineno),
            exc_info=record.exc_info,
        )


def _warned(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Take the place of `warnings.showwarning`, which writes plain text."""
    structlog.get_logger().warning(
        "a library's warning", kind=category.__name__, place=_place(filename, lineno)
    )


def _place(filename: str, line: int) -> str:
    return f"{'/'.join(PurePath(filename).parts[-2:])}:{line}"


def configure(level: str) -> None:
    """Set up logging for this process."""
    on_terminal = (_shown, structlog.dev.ConsoleRenderer())
    rendering = on_terminal if sys.stderr.isatty() else (_FittingLine(),)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.ExceptionRenderer(_traceback),
            *rendering,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        # Text and end of a line at once: print() writes them one by one where output is unbuffered.
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, _Forgiving(sys.stderr))),
        cache_logger_on_first_use=False,
    )
    warnings.showwarning = _warned
    logging.lastResort = _Libraries(logging.WARNING)
