"""The circuit breaker: who may call a shard, judged by how the last calls went.

Everything that decides about a circuit lives here, and nothing else does: no I/O, no clock, no
lock, no log. ``now``, in monotonic seconds, is an argument of every call.

    settings.py   when a circuit opens, and how it closes again
    records.py    its states, modes and reasons; what it tells callers, listeners and inspectors
    windows.py    the last calls, counted
    judges.py     what makes of results a reason to change state
    machine.py    the circuit itself: permits, generations, the table of transitions
"""

from flowcache.resilience.breaker.machine import Breaker
from flowcache.resilience.breaker.records import (
    Mode,
    Permit,
    Reason,
    Refused,
    Snapshot,
    State,
    Transition,
)
from flowcache.resilience.breaker.settings import BreakerSettings, Unit, Window

__all__ = [
    "Breaker",
    "BreakerSettings",
    "Mode",
    "Permit",
    "Reason",
    "Refused",
    "Snapshot",
    "State",
    "Transition",
    "Unit",
    "Window",
]
