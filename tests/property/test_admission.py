"""Admission: whatever the clients do, each has the places that are kept for it."""

from __future__ import annotations

from collections import Counter, deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcache.authz.principal import Principal
from flowcache.calls.admission import Admission, Share
from flowcache.calls.room import Room
from flowcache.calls.standing_lag import StandingLag
from flowcache.errors import Overloaded, RateLimited

clients = st.lists(
    st.builds(
        lambda weight, most: (weight, most),
        st.integers(1, 20),
        st.none() | st.integers(1, 12),
    ),
    min_size=1,
    max_size=6,
)
stories = st.lists(st.tuples(st.sampled_from(["enter", "leave"]), st.integers(0, 5)), max_size=200)


def kept_for(max_in_flight: int, rules: list[tuple[int, int | None]]) -> list[int]:
    """Say again, in the words of the documentation, how many places are kept for each client."""
    half = max_in_flight // 2
    if half < len(rules):
        return [0] * len(rules)
    total = sum(weight for weight, _ in rules)
    parts = [1 + (half - len(rules)) * weight // total for weight, _ in rules]
    return [
        part if most is None else min(part, most)
        for part, (_, most) in zip(parts, rules, strict=True)
    ]


@given(st.integers(1, 40), clients, stories)
def test_nobody_is_refused_a_place_that_is_kept_for_them(
    max_in_flight: int, rules: list[tuple[int, int | None]], story: list[tuple[str, int]]
) -> None:
    """At each step of any story: a client below its part gets in; nobody is over its limit; all
    together are never more than there are places; and whoever is refused was refused for a reason
    that holds."""
    names = [f"c{number}" for number in range(len(rules))]
    kept = dict(zip(names, kept_for(max_in_flight, rules), strict=True))
    most = {name: limit for name, (_, limit) in zip(names, rules, strict=True)}
    admission = Admission(
        max_in_flight,
        [
            Principal(name, frozenset(), weight=weight, max_in_flight=limit)
            for name, (weight, limit) in zip(names, rules, strict=True)
        ],
    )
    places: dict[str, deque[Share]] = {name: deque() for name in names}
    at_work: Counter[str] = Counter()
    for deed, number in story:
        name = names[number % len(names)]
        if deed == "leave":
            if places[name]:
                admission.leave(places[name].popleft())
                at_work[name] -= 1
            continue
        borrowed = sum(max(0, at_work[each] - kept[each]) for each in names)
        try:
            places[name].append(admission.enter(name))
        except RateLimited:
            assert at_work[name] == most[name]
        except Overloaded:
            assert at_work[name] >= kept[name]
            assert borrowed == max_in_flight - sum(kept.values())
        else:
            at_work[name] += 1
        assert admission.at_work == at_work.total() <= max_in_flight
        assert all(limit is None or at_work[each] <= limit for each, limit in most.items())


@given(st.integers(1, 40), clients)
def test_one_busy_client_leaves_room_for_all_others(
    max_in_flight: int, rules: list[tuple[int, int | None]]
) -> None:
    """It takes all it can get; then each of the others still gets its first call in, if the worker
    has two places for each. Alone, it has everything but what is kept for others."""
    names = [f"c{number}" for number in range(len(rules))]
    admission = Admission(
        max_in_flight,
        [
            Principal(name, frozenset(), weight=weight)
            for name, (weight, _) in zip(names, rules, strict=True)
        ],
    )
    taken = 0
    try:
        while True:
            admission.enter("c0")
            taken += 1
    except Overloaded:
        pass
    kept = kept_for(max_in_flight, [(weight, None) for weight, _ in rules])
    assert taken == max_in_flight - sum(kept[1:])
    if max_in_flight >= 2 * len(rules):
        for name in names[1:]:
            admission.enter(name)


class Lagging(StandingLag):
    """Refuses whomever it may."""

    def __init__(self) -> None:
        super().__init__(1.0)
        self.share = 1.0

    def refuses(self) -> bool:
        return True


@given(stories)
def test_a_lag_is_borne_by_those_who_have_most_at_work(story: list[tuple[str, int]]) -> None:
    """While the loop lags, whoever has no more calls at work than the clients have on average
    gets in; whoever has more is refused, and so is who alone has any."""
    lag = Lagging()
    admission = Admission(10_000, lag=lag)
    places: dict[str, list[Share]] = {f"c{number}": [] for number in range(6)}
    for deed, number in story:
        own = places[f"c{number}"]
        counts = [len(each) for each in places.values() if each]
        if deed == "leave":
            if own:
                admission.leave(own.pop())
        elif not own or (len(counts) > 1 and len(own) * len(counts) <= sum(counts)):
            own.append(admission.enter(f"c{number}"))
        else:
            with pytest.raises(Overloaded):
                admission.enter(f"c{number}")
            lag.share = 0.0  # a moment in time: it gets in
            own.append(admission.enter(f"c{number}"))
            lag.share = 1.0


@given(
    st.integers(1, 1000),
    st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.integers(1, 200)), max_size=200),
)
def test_what_is_held_is_bounded_and_nobody_holds_all(
    most: int, story: list[tuple[bool, int, int]]
) -> None:
    """Whatever is taken and given back: no more than there is, never more for a client than it
    leaves free, and whoever is refused asked for more than that."""
    room = Room(most)
    held: dict[int, list[int]] = {number: [] for number in range(6)}
    for takes, number, weight in story:
        own = held[number]
        if not takes:
            if own:
                room.give(f"c{number}", own.pop())
            continue
        free = most - sum(map(sum, held.values()))
        came = room.take(f"c{number}", weight)
        assert came == (sum(own) + weight <= free)
        if came:
            own.append(weight)
        assert room.free == most - sum(map(sum, held.values())) >= 0
