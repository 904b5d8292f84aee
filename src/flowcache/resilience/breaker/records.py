"""What a circuit is called, and what it tells: to callers, to listeners, to inspectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NewType

from flowcache.ports import Mode

__all__ = ["Mode", "Permit", "Reason", "Refused", "Snapshot", "State", "Transition"]

Permit = NewType("Permit", int)
"""The right to make one call: a number that tells for whom its result counts."""


class State(StrEnum):
    """Say how a circuit treats callers. The values are shown to operators and never renamed."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class Reason(StrEnum):
    """Say what moved a circuit. The values are fit for a metric's label and never renamed."""

    CONSECUTIVE_FAILURES = "consecutive failures"
    FAILURE_RATE = "failure rate"
    SLOW_CALL_RATE = "slow call rate"
    OPEN_TIME_OVER = "open time over"
    INVITED = "invited"
    PROBE_SUCCEEDED = "probe succeeded"
    PROBE_FAILED = "probe failed"
    PROBE_SLOW = "probe slow"
    SWITCHED = "mode switched"


@dataclass(frozen=True, slots=True)
class Refused:
    """Tell a caller that the circuit lets nothing through now.

    ``retry_after``: seconds, above 0. A caller who comes back that much later is let through,
    unless another was faster, or an operator holds the circuit open: then it ``is_ordered``.
    """

    retry_after: float
    is_ordered: bool = False


@dataclass(frozen=True, slots=True)
class Transition:
    """Record one change of state or mode, for a metric, a log line, an event.

    ``at`` is the ``now`` of the call that brought it about. A circuit whose open time is over turns
    half-open with the next caller and not before; `Breaker.state` says so at once.
    ``mode`` is the mode from then on. A switch of mode may leave the state as it is.
    """

    at: float
    before: State
    after: State
    reason: Reason
    mode: Mode


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Show a circuit to an inspector, as it is at one moment.

    ``failures``: failures in a row; 0 unless closed.
    ``calls``: results that the rates are taken of: the window's, or the probes' while half-open.
    ``failure_rate``, ``slow_rate``: shares of them; None while there are none.
    ``reopened``: how often it opened again since it was last closed.
    ``retry_after``: what a caller would be told now, in seconds; 0.0 if one would be let through.
    ``refused``: callers that were refused since the circuit was made.
    ``would_refuse``: callers that were let through in mode observe and only there.
    ``transitions``: how often each state was entered since the circuit was made; one for each
    `Transition` that was told.
    """

    state: State
    mode: Mode
    failures: int
    calls: int
    failure_rate: float | None
    slow_rate: float | None
    reopened: int
    retry_after: float
    refused: int
    would_refuse: int
    transitions: Mapping[State, int]
