"""What operators want of circuits: known to all workers, in order, whole or not at all."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from flowcache.fleet.overrides import Overrides
from flowcache.ports import Access, Mode, Order
from flowcache.status import CircuitOverride

SHARDS = ("a:1", "b:2")
CIRCUITS = list(itertools.product(SHARDS, Access))
CONFIGURED = Mode.AUTO


class Worker:
    """A worker that has every circuit there is, and the mode that each is in."""

    def __init__(self, directory: Path) -> None:
        self.modes = dict.fromkeys(CIRCUITS, CONFIGURED)
        self.obeyed: list[Sequence[Order]] = []
        self.overrides = Overrides(directory, self.obey)

    def obey(self, orders: Sequence[Order]) -> int:
        self.obeyed.append(orders)
        before, self.modes = self.modes, dict.fromkeys(CIRCUITS, CONFIGURED)
        for order in orders:
            met = [
                c for c in CIRCUITS if order.shard in (None, c[0]) and order.access in (None, c[1])
            ]
            self.modes |= dict.fromkeys(met, order.mode or CONFIGURED)
        return sum(before[circuit] != mode for circuit, mode in self.modes.items())

    def override(
        self, mode: Mode | None, shard: str | None = None, access: Access | None = None
    ) -> None:
        self.overrides.add(Order(mode, shard, access), "control", 1.5)

    def in_force(self) -> list[Order]:
        return [override.order for override in self.overrides.in_force()]


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    return Worker(tmp_path)


def test_nobody_has_an_override_at_first(worker: Worker) -> None:
    """A service begins without any, and following none meets nothing."""
    assert worker.overrides.in_force() == []
    assert worker.overrides.follow() == 0


def test_who_reads_meanwhile_reads_what_was_there(worker: Worker, tmp_path: Path) -> None:
    """A sibling that has begun to read finds the overrides of before, whole."""
    worker.override(Mode.FORCED_OPEN, "a:1")
    before = (tmp_path / "circuits.json").read_bytes()
    with (tmp_path / "circuits.json").open("rb", buffering=0) as reading:
        begun = reading.read(5)
        worker.override(Mode.DISABLED)
        assert begun + reading.read() == before
    assert [override.order.mode for override in worker.overrides.in_force()] == [Mode.DISABLED]


def test_an_override_is_followed_once(worker: Worker) -> None:
    """It tells how many circuits changed; repeated following takes nothing up again."""
    worker.override(Mode.FORCED_OPEN, "a:1")
    assert [worker.overrides.follow(), worker.overrides.follow()] == [len(Access), 0]
    order = Order(Mode.FORCED_OPEN, "a:1")
    assert worker.obeyed == [[order]]
    assert worker.overrides.in_force() == [CircuitOverride(order, "control", 1.5)]


def test_a_sibling_follows_as_well(worker: Worker, tmp_path: Path) -> None:
    """What one worker was asked is known to the other, with who asked and when."""
    sibling = Worker(tmp_path)
    worker.override(Mode.DISABLED, None, Access.READ)
    assert sibling.overrides.follow() == len(SHARDS)
    assert sibling.obeyed == [worker.in_force()]


@pytest.mark.parametrize(
    ("first", "second", "left"),
    [
        ((None, None), (None, None), 1),
        (("a:1", None), (None, None), 1),
        (("a:1", Access.READ), (None, None), 1),
        (("a:1", Access.READ), ("a:1", None), 1),
        (("a:1", Access.READ), (None, Access.READ), 1),
        ((None, None), ("a:1", None), 2),
        (("a:1", None), ("b:2", None), 2),
        (("a:1", None), ("a:1", Access.READ), 2),
        ((None, Access.READ), ("a:1", None), 2),
    ],
)
def test_an_override_replaces_those_it_covers(
    worker: Worker,
    first: tuple[str | None, Access | None],
    second: tuple[str | None, Access | None],
    left: int,
) -> None:
    """What no circuit follows any more is not kept; what some do, is."""
    worker.override(Mode.DISABLED, *first)
    worker.override(Mode.AUTO, *second)
    assert len(worker.in_force()) == left


def test_what_was_asked_can_be_taken_back(worker: Worker) -> None:
    """Nothing is left of it, and circuits are as they are configured."""
    worker.override(Mode.DISABLED, "a:1")
    worker.overrides.follow()
    worker.override(None, "a:1")
    assert worker.in_force() == []
    assert worker.overrides.follow() == len(Access)
    assert set(worker.modes.values()) == {CONFIGURED}


def test_a_part_can_be_taken_back(worker: Worker) -> None:
    """It holds what is beneath it off that part, and goes when nothing is beneath it any more."""
    worker.override(Mode.DISABLED)
    worker.override(None, None, Access.WRITE)
    worker.override(Mode.OBSERVE, "a:1", Access.READ)
    worker.overrides.follow()
    assert worker.modes == {
        circuit: Mode.OBSERVE
        if circuit == ("a:1", Access.READ)
        else CONFIGURED
        if circuit[1] is Access.WRITE
        else Mode.DISABLED
        for circuit in CIRCUITS
    }
    worker.override(None, "b:2")
    assert worker.in_force()[1:] == [
        Order(None, None, Access.WRITE),
        Order(Mode.OBSERVE, "a:1", Access.READ),
        Order(None, "b:2"),
    ]
    worker.override(None)
    assert worker.in_force() == []


def test_what_is_taken_back_beside_an_order_leaves_nothing(worker: Worker) -> None:
    """Nothing was asked of that shard."""
    worker.override(Mode.DISABLED, "a:1")
    worker.override(None, "b:2")
    assert worker.in_force() == [Order(Mode.DISABLED, "a:1")]


@given(
    st.lists(
        st.tuples(
            st.sampled_from([None, *Mode]),
            st.sampled_from([None, *SHARDS]),
            st.sampled_from([None, *Access]),
            st.booleans(),
        ),
        max_size=12,
    )
)
def test_late_early_or_new_all_workers_agree(
    tmp_path_factory: pytest.TempPathFactory,
    overrides: list[tuple[Mode | None, str | None, Access | None, bool]],
) -> None:
    """One that hears of every override, one that misses some, and one spawned after all of them."""
    directory = tmp_path_factory.mktemp("fleet")
    prompt, late = Worker(directory), Worker(directory)
    modes = dict.fromkeys(CIRCUITS, CONFIGURED)
    for mode, shard, access, heard in overrides:
        prompt.override(mode, shard, access)
        for circuit in CIRCUITS:
            if shard in (None, circuit[0]) and access in (None, circuit[1]):
                modes[circuit] = mode or CONFIGURED
        prompt.overrides.follow()
        if heard:
            late.overrides.follow()
    spawned = Worker(directory)
    late.overrides.follow()
    spawned.overrides.follow()
    assert prompt.modes == late.modes == spawned.modes == modes
    assert len(prompt.overrides.in_force()) <= (len(SHARDS) + 1) * (len(Access) + 1)


def test_overrides_of_the_same_moment_are_all_kept(tmp_path: Path) -> None:
    """Two workers that are asked at once overwrite nothing of each other's."""
    workers = [Worker(tmp_path) for _ in range(4)]

    def ask(number: int) -> None:
        workers[number % 4].override(Mode.OBSERVE, f"s:{number}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(40)))
    orders = workers[0].in_force()
    assert len(orders) == 40
    assert {order.shard for order in orders} == {f"s:{number}" for number in range(40)}


def test_what_cannot_be_read_stops_nobody(worker: Worker, tmp_path: Path) -> None:
    """A file of another version is logged; circuits stay, and the next override is applied."""
    (tmp_path / "circuits.json").write_bytes(b'[{"number":"seven"}]')
    with capture_logs() as logged:
        assert worker.overrides.follow() == 0
    assert [entry["log_level"] for entry in logged] == ["error"]
    worker.override(Mode.DISABLED)
    assert worker.overrides.follow() == len(CIRCUITS)
