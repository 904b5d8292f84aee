"""What the check of `make chaos` finds, and what it lets pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chaos.history import LOST, OK, REFUSED, Found, Loss, Strike, slot_of
from chaos.model import REPLICATION_WINDOW, Kind, judge
from tests.chaos.telling import TTL_MS, Telling, found, value

REGISTER = "register:plain:{1}:1"
LEDGER = "ledger:plain:{1}:2"
PLAIN = "counter:plain:{1}:3"
ONCE = "counter:once:{1}:4"
SHARD = (range(slot_of(REGISTER), slot_of(REGISTER) + 1),)
ELSEWHERE = (range(0, 1),)
UNSURE = "deadline_exceeded"


@pytest.fixture
def told() -> Telling:
    return Telling()


def kinds(told: Telling, end: Mapping[str, Any], *strikes: Strike) -> Counter[Kind]:
    """Return what is found, counted, where Redis has these values at the end."""
    counted: Counter[Kind] = Counter()
    for finding in judge(told.calls, found(end), strikes):
        counted[finding.kind] += finding.count
    return counted


def only(kind: Kind, count: int = 1) -> Counter[Kind]:
    return Counter({kind: count})


class TestRegisters:
    def test_newest_acknowledged_value_is_well(self, told: Telling) -> None:
        """A register that has its newest acknowledged value raises no finding."""
        told.write(REGISTER)
        told.read(REGISTER, value(REGISTER, 1))
        told.write(REGISTER)
        assert not kinds(told, {REGISTER: value(REGISTER, 2)})

    def test_loss_is_found(self, told: Telling) -> None:
        """An acknowledged write that isn't there is lost: the key gone, or an older value in it."""
        told.write(LEDGER)
        told.write(REGISTER)
        told.write(REGISTER)
        assert kinds(told, {REGISTER: value(REGISTER, 1)}) == only(Kind.LOST, 2)

    def test_loss_is_found_beside_a_vanished_unknown_write(self, told: Telling) -> None:
        """An acknowledged write is lost also when a later one, of unknown fate, was there once."""
        told.write(REGISTER)
        told.write(REGISTER, UNSURE)
        told.read(REGISTER, value(REGISTER, 2))
        assert kinds(told, {}) == only(Kind.LOST)

    def test_unknown_write_may_be_there_or_not(self, told: Telling) -> None:
        """A later write of unknown fate may have taken effect, or not."""
        told.write(REGISTER)
        told.write(REGISTER, UNSURE)
        assert not kinds(told, {REGISTER: value(REGISTER, 1)})
        assert not kinds(told, {REGISTER: value(REGISTER, 2)})

    def test_refused_write_must_not_be_there(self, told: Telling) -> None:
        """A write whose answer says that it was not done, and which is there, is found."""
        for outcome in (REFUSED, "circuit_open"):
            told.write(REGISTER, outcome)
        told.write(REGISTER, "redis_unavailable", retryable=True)
        for seq in (1, 2, 3):
            assert kinds(told, {REGISTER: value(REGISTER, seq)}) == only(Kind.REFUSED_YET_DONE)
        assert not kinds(told, {})

    def test_read_that_goes_back_is_found(self, told: Telling) -> None:
        """A read that is older than what was acknowledged before it is found, unless it says so."""
        told.write(REGISTER)
        told.write(REGISTER)
        told.read(REGISTER, value(REGISTER, 1), stale=True)
        assert not kinds(told, {REGISTER: value(REGISTER, 2)})
        told.read(REGISTER, value(REGISTER, 1))
        told.read(REGISTER, None)
        assert kinds(told, {REGISTER: value(REGISTER, 2)}) == only(Kind.WENT_BACK, 2)

    def test_reads_do_not_go_back_among_themselves(self, told: Telling) -> None:
        """What was read once is known: a later read must not miss it, acknowledged or not."""
        told.write(REGISTER)
        told.write(REGISTER, UNSURE)
        told.read(REGISTER, value(REGISTER, 2), stale=True)
        told.read(REGISTER, value(REGISTER, 1))
        assert not kinds(told, {REGISTER: value(REGISTER, 2)})
        told.read(REGISTER, value(REGISTER, 2))
        told.read(REGISTER, value(REGISTER, 1))
        assert kinds(told, {REGISTER: value(REGISTER, 2)}) == only(Kind.WENT_BACK)
        assert kinds(told, {REGISTER: value(REGISTER, 1)}) == only(Kind.WENT_BACK)

    @pytest.mark.parametrize("stale", [False, True])
    @pytest.mark.parametrize(
        "data",
        [value(LEDGER, 1), value(REGISTER, 2), value(REGISTER, 1, same=0), 7, "text", {}, []],
        ids=["foreign", "future", "torn", "number", "text", "empty", "list"],
    )
    def test_value_never_written_is_found(self, told: Telling, data: Any, stale: bool) -> None:
        """Another key's value, one not sent yet, a torn and a senseless one are wrong answers."""
        told.write(REGISTER)
        told.read(REGISTER, data, stale=stale)
        told.write(REGISTER)
        assert kinds(told, {REGISTER: value(REGISTER, 2)}) == only(Kind.WRONG_ANSWER)

    def test_foreign_value_at_the_end_is_found(self, told: Telling) -> None:
        """The end is held to the same: another key's value is no value of this key."""
        told.write(REGISTER)
        assert kinds(told, {REGISTER: value(LEDGER, 1)}) == only(Kind.WRONG_ANSWER)

    def test_late_landing_is_told_from_a_loss(self, told: Telling) -> None:
        """An older unknown write in place of a newer one may have landed late: unless it was seen
        before the newer one was sent, for then it can't land again."""
        told.write(REGISTER, UNSURE)
        told.write(REGISTER)
        assert kinds(told, {REGISTER: value(REGISTER, 1)}) == only(Kind.OVERTAKEN)
        seen = Telling()
        seen.write(REGISTER, UNSURE)
        seen.read(REGISTER, value(REGISTER, 1))
        seen.write(REGISTER)
        assert kinds(seen, {REGISTER: value(REGISTER, 1)}) == only(Kind.LOST)

    def test_repeated_write_is_one_write(self, told: Telling) -> None:
        """What a caller repeats with its idempotency key is acknowledged when one attempt is."""
        key = "register:once:{1}:9"
        told.write(key, LOST, OK)
        told.write(key, "deadline_exceeded", OK, retryable=True)
        assert kinds(told, {key: value(key, 1)}) == only(Kind.LOST)

    def test_strange_answer_to_a_write_is_found(self, told: Telling) -> None:
        """A write that is answered with another operation's answer is found."""
        told.write(REGISTER, data=1)
        assert kinds(told, {REGISTER: value(REGISTER, 1)}) == only(Kind.WRONG_ANSWER)


class TestCounters:
    def test_acknowledged_steps_add_up(self, told: Telling) -> None:
        """A counter at the number of its acknowledged steps raises no finding."""
        told.write(PLAIN, data=1)
        told.read(PLAIN, 1)
        told.write(PLAIN, data=2)
        assert not kinds(told, {PLAIN: "2"})

    def test_unknown_steps_may_count(self, told: Telling) -> None:
        """Each step of unknown fate may have counted, now or later, once."""
        told.write(PLAIN, data=1)
        told.write(PLAIN, UNSURE)
        told.write(PLAIN, LOST)
        told.write(PLAIN, data=3)
        for end in ("3", "4"):
            assert not kinds(told, {PLAIN: end})
        assert kinds(told, {PLAIN: "5"}) == only(Kind.DOUBLED)

    @pytest.mark.parametrize("key", [PLAIN, ONCE])
    def test_doubled_step_is_found(self, told: Telling, key: str) -> None:
        """A step that counted twice is found, at the end and by the next step's answer."""
        told.write(key, data=1)
        assert kinds(told, {key: "3"}) == only(Kind.DOUBLED, 2)
        told.write(key, data=3)
        assert kinds(told, {key: "3"}) == only(Kind.DOUBLED)

    def test_repetition_does_not_excuse_a_doubled_step(self, told: Telling) -> None:
        """A step that was lost, repeated with its idempotency key and acknowledged counts once."""
        told.write(ONCE, LOST, OK, data=1)
        assert not kinds(told, {ONCE: "1"})
        assert kinds(told, {ONCE: "2"}) == only(Kind.DOUBLED)

    def test_lost_steps_are_found(self, told: Telling) -> None:
        """Acknowledged steps that do not count are lost, each of them."""
        for number in (1, 2, 3):
            told.write(PLAIN, data=number)
        assert kinds(told, {PLAIN: "1"}) == only(Kind.LOST, 2)
        assert kinds(told, {}) == only(Kind.LOST, 3)

    def test_lost_steps_are_found_though_later_ones_count(self, told: Telling) -> None:
        """A step whose number is not beyond the one before tells of a loss that nobody else saw."""
        told.write(PLAIN, data=1)
        told.write(PLAIN, data=1)
        assert kinds(told, {PLAIN: "1"}) == only(Kind.LOST)

    def test_refused_step_must_not_count(self, told: Telling) -> None:
        """A step whose answer says that it was not done, and which counts, is found."""
        told.write(PLAIN, "redis_unavailable", retryable=True)
        assert not kinds(told, {})
        assert kinds(told, {PLAIN: "1"}) == only(Kind.REFUSED_YET_DONE)

    def test_reads_are_bounded(self, told: Telling) -> None:
        """A read below what was acknowledged went back; one above what was sent is wrong."""
        told.write(PLAIN, data=1)
        told.write(PLAIN, data=2)
        told.read(PLAIN, 1, stale=True)
        assert not kinds(told, {PLAIN: "2"})
        told.read(PLAIN, 1)
        assert kinds(told, {PLAIN: "2"}) == only(Kind.WENT_BACK)
        told.read(PLAIN, 3)
        told.read(PLAIN, "OK")
        assert kinds(told, {PLAIN: "2"}) == only(Kind.WENT_BACK) + only(Kind.WRONG_ANSWER, 2)

    def test_reads_do_not_go_back_among_themselves(self, told: Telling) -> None:
        """A step of unknown fate that a read has seen is known to the next read."""
        told.write(PLAIN, data=1)
        told.write(PLAIN, UNSURE)
        told.read(PLAIN, 2)
        told.read(PLAIN, 1)
        assert kinds(told, {PLAIN: "2"}) == only(Kind.WENT_BACK)

    def test_senseless_end_is_found(self, told: Telling) -> None:
        """A counter that holds something else than a number is a wrong answer."""
        told.write(PLAIN, data=1)
        assert kinds(told, {PLAIN: "much"}) == only(Kind.WRONG_ANSWER)


class TestLossOfRedis:
    @pytest.mark.parametrize("key", [LEDGER, PLAIN])
    def test_last_moments_before_a_failover_are_its_own(self, told: Telling, key: str) -> None:
        """What a primary acknowledged in its last moments may be lost, and is counted apart."""
        told.write(key, data=1 if key == PLAIN else "OK")
        strike = Strike(
            "killed", SHARD, told.now, may_lose=Loss.ACKNOWLEDGED, failed_over=told.now + 2
        )
        assert kinds(told, {}, strike) == only(Kind.LOST_BY_REDIS)

    @pytest.mark.parametrize(
        ("slots", "may_lose", "earlier"),
        [
            (ELSEWHERE, Loss.ACKNOWLEDGED, 0.0),
            (SHARD, Loss.NOTHING, 0.0),
            (SHARD, Loss.UNACKNOWLEDGED, 0.0),
            (SHARD, Loss.ACKNOWLEDGED, REPLICATION_WINDOW),
        ],
        ids=["another shard", "nobody took over", "confirmed", "long before"],
    )
    @pytest.mark.parametrize("key", [LEDGER, PLAIN])
    def test_nothing_else_is(
        self,
        told: Telling,
        key: str,
        slots: tuple[range, ...],
        may_lose: Loss,
        earlier: float,
    ) -> None:
        """No loss is Redis's on another shard, where nobody took over, or of an older write."""
        told.write(key, data=1 if key == PLAIN else "OK")
        strike = Strike("killed", slots, told.now + earlier + 0.01, may_lose=may_lose)
        assert kinds(told, {}, strike) == only(Kind.LOST)

    def test_what_the_new_primary_acknowledged_is_not(self, told: Telling) -> None:
        """Once the failover is over, what is acknowledged must stay."""
        strike = Strike(
            "killed", SHARD, told.now - 2, may_lose=Loss.ACKNOWLEDGED, failed_over=told.now - 1
        )
        told.write(LEDGER)
        assert kinds(told, {}, strike) == only(Kind.LOST)

    @pytest.mark.parametrize("key", [REGISTER, PLAIN])
    def test_what_was_read_too_early_may_vanish(self, told: Telling, key: str) -> None:
        """What was read and never acknowledged may be lost where each write waits for replicas."""
        told.write(key, UNSURE)
        told.read(key, 1 if key == PLAIN else value(key, 1))
        strike = Strike("killed", SHARD, told.now, may_lose=Loss.UNACKNOWLEDGED)
        told.read(key, None)
        assert kinds(told, {key: "1" if key == PLAIN else value(key, 1)}, strike) == only(
            Kind.WENT_BACK_BY_REDIS
        )
        assert kinds(told, {key: "1" if key == PLAIN else value(key, 1)}) == only(Kind.WENT_BACK)

    def test_reads_go_back_with_it(self, told: Telling) -> None:
        """A read that misses what Redis lost is counted with it; before the strike it is not."""
        told.write(REGISTER)
        told.write(REGISTER)
        before = Strike("killed", SHARD, told.now, may_lose=Loss.ACKNOWLEDGED)
        told.read(REGISTER, value(REGISTER, 1))
        after = Strike("killed", SHARD, told.now + 0.5, may_lose=Loss.ACKNOWLEDGED)
        end = {REGISTER: value(REGISTER, 2)}
        assert kinds(told, end, before) == only(Kind.WENT_BACK_BY_REDIS)
        assert kinds(told, end, after) == only(Kind.WENT_BACK)


class TestEverything:
    @pytest.mark.parametrize("ttl_ms", [-1, -2, 3_600_001])
    def test_key_without_the_ttl_asked_for_is_found(self, told: Telling, ttl_ms: int) -> None:
        """A key that lives for ever or too long is found, flowcache's own records included."""
        told.write(REGISTER)
        end = found({REGISTER: value(REGISTER, 1)}) | {"flowcache:once:x": Found({}, ttl_ms)}
        assert [finding.kind for finding in judge(told.calls, end)] == [Kind.NO_TTL]

    def test_key_that_nobody_asked_for_is_found(self, told: Telling) -> None:
        """A key beside those of the load is a write gone astray; flowcache's records are not."""
        told.write(REGISTER)
        end = {REGISTER: value(REGISTER, 1), "flowcache:once:x": {}, "control:{1}:1": "1"}
        assert not kinds(told, end)
        assert kinds(told, end | {"astray": "1"}) == only(Kind.WRONG_ANSWER)

    @pytest.mark.parametrize("code", ["internal", "conflict", "invalid_request", "not an answer"])
    def test_code_that_no_fault_explains_is_found(self, told: Telling, code: str) -> None:
        """No fault of Redis makes the caller's mistake or a bug of an answer."""
        told.write(REGISTER, code)
        assert kinds(told, {}) == only(Kind.UNFORESEEN)


class Honest:
    """A Redis that keeps its promises, behind a network that doesn't."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.told = Telling()
        self.values: dict[str, Any] = {}

    def live(self, calls: int) -> None:
        """Make so many calls."""
        for _ in range(calls):
            key = self.random.choice((REGISTER, PLAIN, ONCE, f"ledger:plain:{{1}}:{calls}"))
            if self.random.random() < 0.4:
                self.told.read(key, self._shown(key))
            else:
                self._write(key)

    def end(self) -> dict[str, Found]:
        """Return what it has."""
        return {
            key: Found(str(data) if type(data) is int else data, TTL_MS)
            for key, data in self.values.items()
        }

    def _shown(self, key: str) -> Any:
        return self.values.get(key)

    def _write(self, key: str) -> None:
        seq = sum(
            call.key == key and call.attempt == 1 and not call.reads for call in self.told.calls
        )
        fate = self.random.choice(("done", "done", "refused", "unknown and done", "unknown"))
        if fate.endswith("done"):
            if key in (PLAIN, ONCE):
                self.values[key] = self.values.get(key, 0) + 1
            else:
                self.values[key] = value(key, seq + 1)
        if fate == "refused":
            self.told.write(key, "circuit_open", retryable=True)
        elif fate == "done":
            attempts = (LOST, OK) if key == ONCE and self.random.random() < 0.5 else (OK,)
            self.told.write(key, *attempts, data=self.values[key] if key in (PLAIN, ONCE) else "OK")
        else:
            self.told.write(key, UNSURE)


@given(st.integers(0, 2**32), st.integers(1, 80))
def test_honest_redis_is_never_accused(seed: int, calls: int) -> None:
    """Whatever is refused, lost or unknown on the way: a Redis that keeps its promises is well."""
    redis = Honest(Random(seed))
    redis.live(calls)
    assert not judge(redis.told.calls, redis.end())


@given(st.integers(0, 2**32), st.integers(1, 80), st.data())
def test_any_one_fault_is_found(seed: int, calls: int, data: st.DataObject) -> None:
    """One loss, doubling or stranger's value in an honest history is always found."""
    redis = Honest(Random(seed))
    redis.live(calls)
    honest = redis.end()
    for key in (PLAIN, ONCE):
        redis.told.write(key, data=redis.values.get(key, 0) + 1)
        honest[key] = Found(str(redis.values.get(key, 0) + 1), TTL_MS)
    for key in (REGISTER, LEDGER):
        seq = redis.told.write(key)
        honest[key] = Found(value(key, seq), TTL_MS)
    assert not judge(redis.told.calls, honest)
    key, fault = data.draw(
        st.sampled_from(
            [(key, fault) for key in (PLAIN, ONCE) for fault in ("gone", "many")]
            + [(key, fault) for key in (REGISTER, LEDGER) for fault in ("gone", "stranger")]
        )
    )
    match fault:
        case "gone":
            del honest[key]
        case "many":
            honest[key] = Found("1000", TTL_MS)
        case _:
            honest[key] = Found(value("ledger:plain:{1}:77", 1), TTL_MS)
    assert judge(redis.told.calls, honest)
