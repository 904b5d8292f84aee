"""What a line of the log says, and what it never does."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog

from flowcache.metrics import logs

SECRET = "4711-is-nobody's-business"


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def logged(capsys: pytest.CaptureFixture[str], fault: BaseException) -> dict[str, Any]:
    """Log a bug and return the line as it is read."""
    logs.configure("info")
    structlog.get_logger().error("a bug", request_id="id-1", exc_info=fault)
    line: dict[str, Any] = json.loads(capsys.readouterr().err)
    return line


def open_nothing() -> None:
    with open("/nowhere/at-all"):
        pass


def caught(act: Callable[[], object]) -> BaseException:
    try:
        act()
    except Exception as fault:
        return fault
    raise AssertionError("it went well")


def told_twice() -> None:
    try:
        int(SECRET)
    except ValueError as fault:
        raise RuntimeError(SECRET) from fault


def meanwhile() -> None:
    try:
        int(SECRET)
    except ValueError:
        raise KeyError(SECRET)  # noqa: B904 - that is what is tried


@pytest.mark.parametrize(
    ("act", "kinds"),
    [
        (lambda: int(SECRET), ["ValueError"]),
        (lambda: dict[str, int]()[SECRET], ["KeyError"]),
        (lambda: SECRET.encode().decode("utf-16"), ["UnicodeDecodeError"]),
        (told_twice, ["ValueError", "RuntimeError"]),
        (meanwhile, ["ValueError", "KeyError"]),
    ],
)
def test_a_bug_is_told_without_its_words(
    capsys: pytest.CaptureFixture[str], act: Callable[[], object], kinds: list[str]
) -> None:
    """Where it was and of what kind, its causes too; what it says may be a customer's value."""
    line = logged(capsys, caught(act))
    assert SECRET not in json.dumps(line)
    assert (line["event"], line["request_id"], line["level"]) == ("a bug", "id-1", "error")
    parts = line["exception"].split("\n\nwhich led to:\n\n")
    assert [part.splitlines()[-1] for part in parts] == kinds
    assert all("test_logs.py" in part for part in parts)


def test_what_the_system_says_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """An operator has to know that the disk is full."""
    line = logged(capsys, caught(open_nothing))
    assert line["exception"].endswith("FileNotFoundError: No such file or directory")


def test_causes_without_end_end(capsys: pytest.CaptureFixture[str]) -> None:
    """Exceptions that are each other's cause are told, and the log goes on."""
    one, other = ValueError(), TypeError()
    one.__cause__, other.__cause__ = other, one
    assert logged(capsys, one)["exception"].count("ValueError") == 5


NASTY = "\x1b[2J\x9b\x7f\u202e\u2066\u200b\n\u2028\U000e0041\u3164"


@pytest.mark.parametrize("on_terminal", [False, True])
def test_no_value_steers_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, on_terminal: bool
) -> None:
    """What others wrote is shown as text, in a line of JSON and at a terminal; lines stay whole."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: on_terminal, raising=False)
    logs.configure("info")
    structlog.get_logger().error(NASTY, key=NASTY, many=[NASTY], fault=OSError(5, NASTY))
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    ours = re.sub(r"\x1b\[\d*m", "", said) if on_terminal else said
    assert ours[:-1].isprintable()
    assert "\u3164" not in said
    if not on_terminal:
        assert json.loads(said)["key"] == NASTY


def test_a_traceback_keeps_its_lines_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who reads the log at a terminal reads a traceback as Python shows it."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    logs.configure("info")
    structlog.get_logger().error("a bug", exc_info=caught(open_nothing))
    said = capsys.readouterr().err
    assert "Traceback (most recent call last):\n" in said
    assert "No such file or directory" in said
