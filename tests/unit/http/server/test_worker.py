"""What a worker makes of the machine it runs on."""

from __future__ import annotations

import resource

import pytest
from structlog.testing import capture_logs

from flowcache.http import worker

WITHOUT_END = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("soft", "hard", "wanted", "asks", "gets"),
    [
        (65_536, 65_536, 4096, None, 4096),
        (1024, 65_536, 4096, 4224, 4096),
        (1024, WITHOUT_END, 4096, 4224, 4096),
        (1024, 2048, 4096, 2048, 1920),
        (1024, 1024, 4096, 1024, 896),
        (100, 100, 4096, 100, 1),
    ],
)
def test_as_many_connections_as_there_are_files(
    monkeypatch: pytest.MonkeyPatch,
    soft: int,
    hard: int,
    wanted: int,
    asks: int | None,
    gets: int,
) -> None:
    """A worker asks for no more files than it needs and may have, and says what it can't have.

    Some are left for Redis, its siblings and the log; one connection there always is.
    """
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda which: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda which, limits: asked.append(limits))
    with capture_logs() as logged:
        assert worker._within_files(wanted) == gets
    assert asked == ([] if asks is None else [(asks, hard)])
    assert bool(logged) is (gets < wanted)
