"""What must hold of the neighbours' calls while somebody attacks, and how flowcache did itself.

Pure, except for `look_at`, which asks a running flowcache.
"""

from __future__ import annotations

import http.client
import json
import re
import ssl
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chaos.figures import GRACE, percentile
from chaos.history import OK, SILENT, Call, Strike
from tests.service import INSPECTOR_TOKEN, ROUTE, Service

__all__ = ["MEMORY_MIB", "Cost", "Isolation", "Vitals", "broken", "cost_of", "look_at"]

MEMORY_MIB = 256
"""The most memory that a worker may ever have had resident."""
RECOVERY_SECONDS = 1.0
"""How long after a strike calls may still fail: circuits have to see that Redis is back."""
PATIENCE_SECONDS = 5.0
AT_ONCE_SECONDS = 0.5
"""How long a call may take when everything is over."""

Tick = tuple[float, float]
"""When the generator's loop woke, and how late; see `load.Told.ticks`."""

_LOST = re.compile(r"^flowcache_event_loop_lost_seconds_total(?:\{.*\})? (\S+)$", re.M)
_OPENED = re.compile(r'^flowcache_circuit_transitions_total\{.*to="open".*\} (\S+)$', re.M)


@dataclass(frozen=True, slots=True)
class Isolation:
    """What one scenario excuses. By default nothing: no call fails and none is late.

    Calls of the time of a strike may always fail: Redis, or the worker itself, was stopped then.
    """

    codes: frozenset[str] = frozenset()
    """Outcomes that calls may have at any time, by no neighbour's doing: a Redis user's rights."""
    redis_is_ill: bool = False
    """Whether circuits may open."""
    worker_is_stopped: bool = False
    """Whether calls of the time of the strike may be late."""
    ends_in_refusal: bool = False
    """Whether the service has to refuse everything from some time after the strike on."""


@dataclass(frozen=True, slots=True)
class Vitals:
    """How flowcache did, at the end."""

    opened: int | None
    """How often any circuit opened; None where flowcache did not say."""
    peak_mib: int
    """The most memory that one of its workers had resident (VmHWM)."""
    plain: str
    """What came of a plain call when everything was over: a code, `ok`, or `SILENT`."""
    plain_seconds: float
    restarts: int = 0
    """How many workers had to be replaced."""
    lost_seconds: float = 0.0
    """For how long a worker's event loop did not turn."""
    waited_seconds: float = 0.0
    """How long a worker was ready to run and had no core (`schedstat`)."""

    def blame(self) -> str:
        """Return what tells flowcache's doing from that of a busy machine."""
        return (
            f"workers' event loops did not turn for {self.lost_seconds:.2f} s, and a worker that "
            f"was ready to run waited {self.waited_seconds:.2f} s for a core"
        )


@dataclass(frozen=True, slots=True)
class Cost:
    """What an attack cost the neighbours. Times are in seconds."""

    calls: int
    failed: Counter[str]
    """Calls that failed for another's doing, by outcome."""
    excused: Counter[str]
    """Those that failed because Redis or the worker itself was stopped, or lacks a right."""
    p999: float
    """Latency from when a call should have left, less what the generator itself was late; of the
    calls that may not be late."""
    worst: float
    generator_late: float
    """The 99.9th percentile of what was taken off."""
    recovered: float | None
    """How long after the last strike ended the last call failed that was sent then; None without
    a strike, 0 when none failed."""


def cost_of(
    calls: Sequence[Call],
    ticks: Sequence[Tick],
    strikes: Sequence[Strike],
    isolation: Isolation,
) -> Cost:
    """Compute what an attack cost."""
    woken = [at for at, _ in ticks]
    late = {id(call): call.lateness + _noticed_late(call, ticks, woken) for call in calls}
    failed, excused = Counter[str](), Counter[str]()
    for call in calls:
        if not call.ok:
            struck = any(_overlaps(call, strike, RECOVERY_SECONDS) for strike in strikes)
            ours = not (struck or call.outcome in isolation.codes)
            (failed if ours else excused)[call.outcome] += 1
    timed = [
        call
        for call in calls
        if not (isolation.worker_is_stopped and any(_overlaps(call, s, 0.0) for s in strikes))
    ]
    served = [call.answered - call.scheduled - late[id(call)] for call in timed]
    return Cost(
        calls=len(calls),
        failed=failed,
        excused=excused,
        p999=percentile(served, 0.999),
        worst=max(served, default=0.0),
        generator_late=percentile(late.values(), 0.999),
        recovered=_recovered(calls, strikes),
    )


def _noticed_late(call: Call, ticks: Sequence[Tick], woken: Sequence[float]) -> float:
    """Return for how long an answer may have lain unread because the generator's loop was busy.

    The generator's clock ticks all the time. A tick that was due before the answer was noticed, and
    came after it, says that the loop was busy from then on.
    """
    place = bisect_left(woken, call.answered)
    if place == len(ticks):
        return 0.0
    at, late = ticks[place]
    begun = max(at - late, call.woken)
    return max(0.0, call.answered - begun)


def _overlaps(call: Call, strike: Strike, after: float) -> bool:
    over = float("inf") if strike.mended is None else strike.mended + after
    return call.answered >= strike.at and call.woken <= over


def _recovered(calls: Sequence[Call], strikes: Sequence[Strike]) -> float | None:
    if not strikes:
        return None
    over = strikes[-1].mended
    if over is None:
        return None
    return max(
        (call.woken - over for call in calls if not call.ok and call.woken > over), default=0
    )


def broken(
    cost: Cost,
    vitals: Vitals,
    isolation: Isolation,
    deadline: float,
    *,
    timed: bool,
) -> list[str]:
    """Say which promises to the neighbours are broken."""
    return list(_broken(cost, vitals, isolation, deadline, timed))


def _broken(
    cost: Cost, vitals: Vitals, isolation: Isolation, deadline: float, timed: bool
) -> Iterator[str]:
    if cost.failed and not isolation.ends_in_refusal:
        shown = ", ".join(f"{code} {n}" for code, n in cost.failed.most_common())
        yield f"{cost.failed.total()} of {cost.calls} calls failed for another's doing: {shown}"
    if vitals.opened is None:
        yield "flowcache did not answer GET /metrics afterwards"
    elif vitals.opened and not isolation.redis_is_ill:
        yield f"circuits opened {vitals.opened} times while Redis was healthy"
    if vitals.peak_mib > MEMORY_MIB:
        yield f"a worker took {vitals.peak_mib} MiB, {MEMORY_MIB} are allowed"
    if vitals.restarts:
        yield f"{vitals.restarts} workers ended and were replaced"
    if (vitals.plain == OK) == isolation.ends_in_refusal:
        yield f"a plain call afterwards: {vitals.plain}"
    if not timed:
        return
    if cost.p999 > deadline + GRACE:
        yield (
            f"p99.9 is {cost.p999 * 1000:.0f} ms without the generator's own lateness, which was "
            f"up to {cost.generator_late * 1000:.0f} ms; {(deadline + GRACE) * 1000:.0f} are "
            "allowed"
        )
    if vitals.plain_seconds > AT_ONCE_SECONDS and not isolation.ends_in_refusal:
        yield f"a plain call afterwards took {vitals.plain_seconds * 1000:.0f} ms"


# -- asking a running flowcache --------------------------------------------------------------------


def look_at(service: Service, token: str, ca: Path | None = None) -> Vitals:
    """Ask a running flowcache how it did; ``token`` is that of a client whose call must succeed."""
    context = None if ca is None else ssl.create_default_context(cafile=str(ca))
    body = json.dumps({"operation": "GET", "key": "ledger:afterwards"}).encode()
    began = time.monotonic()
    answered = _ask(service.port, context, "POST", ROUTE, token, body)
    took = time.monotonic() - began
    metrics = _ask(service.port, context, "GET", "/metrics", INSPECTOR_TOKEN)
    return Vitals(
        None if metrics is None else sum(int(float(n)) for n in _OPENED.findall(metrics)),
        max(map(_peak_mib, _children(service.process.pid))),
        SILENT if answered is None else _outcome(json.loads(answered)),
        took,
        restarts=service.log.count("a worker died"),
        lost_seconds=0.0 if metrics is None else sum(map(float, _LOST.findall(metrics))),
        waited_seconds=max(map(_waited_seconds, _children(service.process.pid))),
    )


def _outcome(answer: Mapping[str, Any]) -> str:
    return OK if answer["success"] else str(answer["code"])


def _ask(
    port: int,
    context: ssl.SSLContext | None,
    method: str,
    path: str,
    token: str,
    body: bytes | None = None,
) -> str | None:
    """Return the body of an answer, None where there was none in time."""
    connection: http.client.HTTPConnection
    if context is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
    else:
        connection = http.client.HTTPSConnection(
            "127.0.0.1", port, timeout=PATIENCE_SECONDS, context=context
        )
    try:
        connection.request(method, path, body, {"authorization": f"Bearer {token}"})
        return connection.getresponse().read().decode()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def _children(pid: int) -> list[int]:
    """Return the processes that a process started: flowcache's workers."""
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _waited_seconds(pid: int) -> float:
    """Return how long the main thread of a process waited for a core (sched-stats.rst of Linux)."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9


def _peak_mib(pid: int) -> int:
    """Return the most memory that a process had resident, in MiB (`VmHWM`, proc(5))."""
    for line in Path(f"/proc/{pid}/status").read_text("ascii", "replace").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) // 1024
    raise ValueError(f"process {pid} says nothing about its memory")
