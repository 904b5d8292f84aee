"""When a circuit opens, and how it closes again."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

__all__ = ["BreakerSettings", "Unit", "Window"]


class Unit(StrEnum):
    """What the length of a window is counted in."""

    CALLS = "calls"
    SECONDS = "seconds"


@dataclass(frozen=True, slots=True)
class Window:
    """The calls that rates are taken of: the last ``size`` calls, or those of ``size`` seconds.

    Raises:
        ValueError: ``size`` is less than 1.
    """

    size: int
    unit: Unit

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size must be 1 or more, not {self.size!r}")

    def __str__(self) -> str:
        return f"{self.size} {self.unit}"


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerSettings:
    """Set what opens a circuit, for how long, and what closes it again.

    A closed circuit opens at whatever comes first:

    ``failures``: so many failures in a row; 0 is off.
    ``window``: the calls that the two rates are taken of; None is off. Nothing is judged before
    ``min_calls`` of them are in (or the whole window, where that is fewer calls).
    ``failure_rate``: the share of them, above 0 and up to 1, that fail.
    ``slow_seconds``, ``slow_rate``: the share of them that take longer; None is off.

    ``open_seconds``: how long it then refuses everybody. Each time it opens again without having
    been closed it is ``open_factor`` times as long as before, a tenth more or less by chance, and
    never longer than ``open_max_seconds``.

    ``probes``: how many calls are then let through to see, all at once if they come at once. The
    two rates of them decide.
    ``probe_seconds``: how long a probe keeps its place without a result. It has to be longer than
    the longest deadline of a call, or slow probes never count.

    Raises:
        ValueError: naming every field that is out of range, with its value.
    """

    failures: int = 5
    window: Window | None = None
    min_calls: int = 20
    failure_rate: float = 0.5
    slow_seconds: float | None = None
    slow_rate: float = 0.5
    open_seconds: float = 10.0
    open_factor: float = 2.0
    open_max_seconds: float = 60.0
    probes: int = 1
    probe_seconds: float = 2.0

    def __post_init__(self) -> None:
        faults = [
            f"{name} must be {wanted}, not {value!r}"
            for name, (fits, wanted) in _RANGES.items()
            if not fits(value := getattr(self, name))
        ]
        if faults:
            raise ValueError("; ".join(faults))


_Range = tuple[Callable[[Any], bool], str]

# Each is written so that NaN fails, too.
_COUNT: Final[_Range] = (lambda value: value >= 1, "1 or more")
_RATE: Final[_Range] = (lambda value: 0 < value <= 1, "above 0 and up to 1")
_SECONDS: Final[_Range] = (lambda value: 0 < value < math.inf, "a positive number of seconds")
_RANGES: Final[dict[str, _Range]] = {
    "failures": (lambda value: value >= 0, "0 or more"),
    "min_calls": _COUNT,
    "failure_rate": _RATE,
    "slow_seconds": (
        lambda value: value is None or 0 < value < math.inf,
        "a positive number of seconds or None",
    ),
    "slow_rate": _RATE,
    "open_seconds": _SECONDS,
    "open_factor": (lambda value: 1 <= value < math.inf, "1 or more"),
    "open_max_seconds": _SECONDS,
    "probes": _COUNT,
    "probe_seconds": _SECONDS,
}
