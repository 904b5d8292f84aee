"""What a worker makes of the machine it runs on."""

from __future__ import annotations

import os
import resource

import pytest
from structlog.testing import capture_logs

from flowcache.server import worker

WITHOUT_END = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("soft", "hard", "asks", "gets"),
    [
        (65_536, 65_536, None, 4096),
        (1024, 65_536, 4244, 4096),
        (1024, WITHOUT_END, 4244, 4096),
        (1024, 2048, 2048, 1900),
        (1024, 1024, 1024, 876),
        (64, 64, 64, 15),
        (20, 20, 20, 1),
    ],
)
def test_as_many_connections_as_there_are_files(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, asks: int | None, gets: int
) -> None:
    """A worker asks for no more files than it needs and may have, and says what it can't have.

    Some are left for Redis, its siblings and the journal; one connection there always is.
    """
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(worker, "_files_open", lambda: 20)
    monkeypatch.setattr(resource, "getrlimit", lambda which: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda which, limits: asked.append(limits))
    with capture_logs() as logged:
        assert worker._within_files(4096) == gets
    assert asked == ([] if asks is None else [(asks, hard)])
    if gets == 4096:
        assert logged == []
    else:
        (told,) = logged
        assert told["event"] == "file_descriptor_limit_too_low"
        assert (told["limit"], told["needed"], told["connections"]) == (asks, 4244, gets)
        assert "LimitNOFILE=4244" in told["remedy"]


def test_the_descriptors_that_are_open_are_counted() -> None:
    """What the worker has open already is not promised to connections."""
    before = worker._files_open()
    with open(os.devnull), open(os.devnull):
        assert worker._files_open() == before + 2
    assert worker._files_open() == before
