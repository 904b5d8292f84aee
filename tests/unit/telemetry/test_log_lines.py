"""How lines of the log leave a process: whole, one by one, and nothing else between them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from select import PIPE_BUF
from typing import Any

import pytest

SECRET = "4711-is-nobodys-business"

BEGIN = f"""
import logging, warnings
import structlog
from flowcache.metrics import logs

logs.configure("info")
log = structlog.get_logger()
SECRET = "{SECRET}"
"""


def written(*acts: str, **environment: str) -> list[bytes]:
    """Return what a process writes to standard error, each write by itself.

    A socket that keeps the bounds of messages takes the place of the pipe: what is one write there
    is one message here.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        subprocess.run(
            (sys.executable, "-c", BEGIN + "\n".join(acts)),
            stderr=theirs.fileno(),
            env=dict(os.environ) | environment,
            check=True,
            timeout=60,
        )
        theirs.close()
        return list(iter(lambda: ours.recv(1 << 20), b""))


def lines(*acts: str, **environment: str) -> list[dict[str, Any]]:
    """Return the lines that a process logs, each of which has to be one write."""
    sent = written(*acts, **environment)
    assert all(each.endswith(b"\n") and each.count(b"\n") == 1 for each in sent)
    assert all(len(each) <= PIPE_BUF for each in sent)
    return [json.loads(each) for each in sent]


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_line_is_one_write(unbuffered: str) -> None:
    """Lines of several workers never mix, whether Python buffers what it writes or not."""
    told = lines(
        "log.info('one')",
        "log.error('two', text='a\\nb\\x00\\U0001f600')",
        PYTHONUNBUFFERED=unbuffered,
    )
    assert [line["event"] for line in told] == ["one", "two"]
    assert told[1]["text"] == "a\nb\0😀"


def test_what_is_too_long_for_a_write_is_cut() -> None:
    """Of a long text beginning and end are told; fields that are short stay as they are."""
    deep = (
        "def even(n): odd(n - 1)",  # in turn: Python tells a line that is repeated once
        "def odd(n): n < 0 or even(n - 1); raise KeyError",
        "try: even(300)",
        "except KeyError as e: log.error('a bug', request_id='id-1', exc_info=e)",
    )
    faults = ("log.error('configuration', faults=['\\n\\U0001f600' * 50] * 100, other='x' * 5000)",)
    bug, configuration = lines(*deep, *faults)
    assert (bug["event"], bug["request_id"]) == ("a bug", "id-1")
    assert bug["exception"].startswith("Traceback (most recent call last):")
    assert bug["exception"].endswith("KeyError")
    assert configuration["faults"].startswith("['")
    assert "\U0001f600" in configuration["faults"]
    assert "[...]" in configuration["faults"]


def test_a_line_that_just_fits_is_whole() -> None:
    """Nothing is cut before it has to be."""
    base = len(written("log.info('e', text='')")[0])
    fits = PIPE_BUF - base
    just, over = lines(*(f"log.info('e', text='x' * {fits + more})" for more in (0, 1)))
    assert just["text"] == "x" * fits
    assert "[...]" in over["text"]


def test_what_libraries_say_is_a_line_without_their_words() -> None:
    """A warning of Python and a record of a library tell where and what kind, and quote nothing."""
    warned, recorded, failed = lines(
        "warnings.simplefilter('always')",
        "warnings.warn(SECRET, DeprecationWarning)",
        "logging.getLogger('asyncio').error('%s', SECRET)",
        "logging.getLogger('asyncio').info(SECRET)",
        "try: open('/nowhere/at-all')",
        "except OSError: logging.getLogger('asyncio').exception(SECRET)",
    )
    assert (warned["level"], warned["kind"]) == ("warning", "DeprecationWarning")
    assert warned["place"].startswith("<string>:")
    assert (recorded["level"], recorded["library"]) == ("error", "asyncio")
    assert failed["exception"].endswith("FileNotFoundError: No such file or directory")
    assert SECRET not in json.dumps([warned, recorded, failed])
