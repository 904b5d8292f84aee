"""A short run of the attacks of `chaos.neighbours`, without the bars on time, and its own parts."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from chaos.history import OK, Call, Strike
from chaos.neighbours import rigs
from chaos.neighbours.attacker import Attack, Attacker, Manner
from chaos.neighbours.isolation import Cost, Isolation, Vitals, broken, cost_of
from chaos.neighbours.liar import Liar
from chaos.neighbours.report import Row, keep, table
from chaos.neighbours.requests import page
from chaos.neighbours.scenarios import SCENARIOS, against
from chaos.run import examine
from chaos.stage import Stage
from tests.servers import RedisProcess, standalone

SHORT = (
    "bodies just allowed",
    "deadline of 1 ms",
    "false maps",
    "large hash legally built",
    "large strings",
    "/metrics",
)
SECONDS = 1.0
DEADLINE = 0.8
COST = Cost(
    calls=100,
    failed=Counter(),
    excused=Counter(),
    p999=0.1,
    worst=0.1,
    generator_late=0.01,
    recovered=None,
)
VITALS = Vitals(opened=0, peak_mib=60, plain=OK, plain_seconds=0.01)


@pytest.mark.parametrize("name", SHORT)
def test_neighbours_do_not_notice_an_attack(name: str) -> None:
    """No call of a neighbour fails, no circuit opens and memory is bounded while one attacks."""
    (scenario,) = (each for each in SCENARIOS if each.name == f"neighbours: {name}")
    result = examine(scenario, seconds=SECONDS, seed=1, timed=False)
    assert result.broken == ()
    assert result.cost is not None
    assert result.cost.calls > 0
    assert sum(result.attacked.values()) > 0


def open_circuits(stage: Stage[RedisProcess]) -> None:
    """Have Redis lose every connection, again and again, until circuits open."""
    for _ in range(60):
        stage.servers.cli("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        stage.hold(0.02)


def test_harm_is_found() -> None:
    """The whole harness finds calls that failed, without anything to excuse it."""
    result = examine(against("harm", "", open_circuits), seconds=SECONDS, seed=1, timed=False)
    assert any("failed for another's doing" in what for what in result.broken)


# -- what is counted -------------------------------------------------------------------------------


def call(scheduled: float, answered: float, outcome: str = OK, woken: float | None = None) -> Call:
    return Call(
        operation="GET",
        key="k",
        seq=0,
        attempt=1,
        once=False,
        scheduled=scheduled,
        woken=scheduled if woken is None else woken,
        answered=answered,
        outcome=outcome,
    )


class TestCost:
    def test_latency_counts_from_when_a_call_should_have_left(self) -> None:
        """What the generator was late to send is taken off, and is shown beside it."""
        cost = cost_of([call(1.0, 1.5, woken=1.2)], [(1.6, 0.0)], (), Isolation())
        assert cost.p999 == cost.worst == pytest.approx(0.3)
        assert cost.generator_late == pytest.approx(0.2)

    @pytest.mark.parametrize(
        ("tick", "late"),
        [
            ((1.501, 0.0), 0.0),  # on time: the answer was noticed as it came
            ((1.501, 0.301), 0.3),  # due at 1.2: from then on the loop was busy
            ((1.501, 0.001), 0.0),  # due at the moment of the answer
            ((1.501, 1.0), 0.5),  # busy from before the call on: never more than all of it
        ],
    )
    def test_an_answer_that_lay_unread_is_not_late(
        self, tick: tuple[float, float], late: float
    ) -> None:
        """The time from a tick's due moment to the answer is the generator's own."""
        cost = cost_of([call(1.0, 1.5)], [(0.9, 0.0), tick], (), Isolation())
        assert cost.worst == pytest.approx(0.5 - late)

    def test_failures_are_of_another_s_doing_unless_something_was_struck(self) -> None:
        """Calls that met a strike, or came within a second after it, are excused; others not."""
        strike = Strike("Redis stopped", (range(16_384),), at=10.0, mended=13.0)
        calls = [
            call(9.0, 9.9, "circuit_open"),
            call(9.5, 10.1, "deadline_exceeded"),
            call(13.9, 13.9, "circuit_open"),
            call(14.1, 14.1, "circuit_open"),
            call(15.0, 15.1, "forbidden"),
        ]
        isolation = Isolation(codes=frozenset({"forbidden"}))
        cost = cost_of(calls, [], [strike], isolation)
        assert cost.failed == Counter(circuit_open=2)
        assert cost.excused == Counter(deadline_exceeded=1, circuit_open=1, forbidden=1)
        assert cost.recovered == pytest.approx(2.0)

    def test_calls_of_a_stopped_worker_may_be_late(self) -> None:
        """Only those, and only where the worker itself is stopped."""
        strike = Strike("worker stopped", (range(16_384),), at=10.0, mended=12.0)
        calls = [call(10.0, 12.1), call(13.0, 13.1)]
        assert cost_of(calls, [], [strike], Isolation()).worst == pytest.approx(2.1)
        stopped = Isolation(worker_is_stopped=True)
        assert cost_of(calls, [], [strike], stopped).worst == pytest.approx(0.1)


class TestBars:
    @pytest.mark.parametrize(
        ("cost", "vitals"),
        [
            (replace(COST, failed=Counter(circuit_open=1)), VITALS),
            (COST, replace(VITALS, opened=1)),
            (COST, replace(VITALS, opened=None)),
            (COST, replace(VITALS, peak_mib=257)),
            (COST, replace(VITALS, restarts=1)),
            (COST, replace(VITALS, plain="overloaded")),
            (replace(COST, p999=0.821), VITALS),
            (COST, replace(VITALS, plain_seconds=0.6)),
        ],
    )
    def test_each_bar_breaks_alone(self, cost: Cost, vitals: Vitals) -> None:
        """One thing that is wrong is one sentence."""
        assert len(broken(cost, vitals, Isolation(), DEADLINE, timed=True)) == 1

    def test_a_worker_says_what_held_it_up(self) -> None:
        """Time without a core is the machine's doing, and is told beside the time that was lost."""
        told = replace(VITALS, lost_seconds=3.21, waited_seconds=0.45).blame()
        assert "3.21 s" in told
        assert "0.45 s" in told

    def test_bars_hold_at_their_edges(self) -> None:
        """What is just allowed breaks nothing, and time is no bar where it is not asked for."""
        vitals = replace(VITALS, peak_mib=256, plain_seconds=0.5)
        assert broken(replace(COST, p999=0.82), vitals, Isolation(), DEADLINE, timed=True) == []
        late = replace(COST, p999=9.0)
        assert broken(late, VITALS, Isolation(), DEADLINE, timed=False) == []

    def test_a_service_that_must_refuse_has_to(self) -> None:
        """Where every call has to be refused in the end, an answer breaks the bar."""
        isolation = Isolation(ends_in_refusal=True)
        refusing = replace(VITALS, plain="audit_unavailable")
        failed = replace(COST, failed=Counter(audit_unavailable=9))
        assert broken(failed, refusing, isolation, DEADLINE, timed=True) == []
        assert len(broken(failed, VITALS, isolation, DEADLINE, timed=True)) == 1


def test_the_table_shows_what_an_attack_cost_before(tmp_path: Path) -> None:
    """A row that was kept stands beside the new one of the same name."""
    old = Row("flood", 100, {"circuit_open": 40}, {}, 900, 950, 5, 7, 300, holds=False)
    new = Row("flood", 100, {}, {}, 30, 40, 5, 0, 60, holds=True, attacked={"200": 9})
    keep([old], tmp_path / "before.json")
    *_, row = table([new], tmp_path / "before.json").splitlines()
    assert row == (
        "| flood | `200` 9 | 100 | - | - | - | 30 | 40 | 5 | 0 | 60 | hold | 40 | 900 | 7 | 300 |"
    )
    *_, row = table([replace_name(new)], tmp_path / "before.json").splitlines()
    assert row.endswith("| hold | - | - | - | - |")


def replace_name(row: Row) -> Row:
    return Row("other", row.calls, {}, {}, 30, 40, 5, None, 60, holds=True)


# -- attackers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("manner", "outcome"),
    [
        ("ask", "200"),
        ("drip", "bytes"),
        ("do not read", "sent"),
        ("break off", "half sent"),
        ("shake hands", "connected"),
        ("stay", "connected"),
    ],
)
async def test_an_attacker_tells_what_it_did(manner: Manner, outcome: str) -> None:
    """Each manner is counted, and none sends more than it may."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer):
            while await reader.read(1 << 16):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        attack = Attack((page("/"),), manner=manner, most=3, seconds=0.5, port=port)
        attacker = Attacker(attack)
        await attacker.run(asyncio.Event())
    assert attacker.outcomes[outcome] > 0
    if outcome != "bytes":
        assert attacker.outcomes[outcome] <= attack.most


def test_a_liar_lies_where_told_and_nowhere_else() -> None:
    """A command that the lie takes never reaches the server; all others do."""
    with (
        standalone() as running,
        Liar(
            running.address, lambda command: b":7\r\n" if command[1:] == [b"lie"] else None
        ) as liar,
        closing(running.client(port=liar.address[1])) as client,
    ):
        assert client.set("truth", "yes")
        assert client.get("truth") == b"yes"
        assert str(client.get("lie")) == "7"
        assert liar.lies == 1


def test_keys_of_neighbours_go_by_the_names_that_they_gave() -> None:
    """The attacker's keys are nobody's business; a neighbour's have no namespace."""
    assert rigs.name_of("flowcache:ns:neighbour-1:counter:1") == "counter:1"
    assert rigs.name_of(f"{rigs.ATTACKERS}large") is None
    assert rigs.name_of("flowcache:once:{1}:x") == "flowcache:once:{1}:x"
