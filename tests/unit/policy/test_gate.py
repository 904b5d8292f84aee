"""The gate: wrong credentials are limited by address, right ones by their client's rate."""

from __future__ import annotations

import pytest

from flowcache.authn.gate import Gate, GateSettings
from flowcache.authn.principals import UNKNOWN, Principals
from flowcache.authz.networks import Networks, read_network
from flowcache.authz.permissions import Permission
from flowcache.authz.principal import Principal
from flowcache.errors import RateLimited, Unauthorized
from flowcache.ratelimit.buckets import Rate
from tests.unit.http.asgi import Clock, Endpoint, bearer, gate

DATA = frozenset({Permission.DATA_READ, Permission.DATA_WRITE})
FLOW = Principal("flow", DATA)
SLOW = Principal("slow", DATA, rate=Rate(2.0, 3))
RIGHT, WRONG = [bearer("right")], [bearer("wrong")]


def strict(clock: Clock, proxies: Networks = Networks(())) -> Gate:  # noqa: B008 - immutable
    settings = GateSettings(proxies, Rate(1.0, 5))
    return gate({"right": FLOW, "slow": SLOW}, clock, settings)


def knock(at: Gate, address: str | None, times: int) -> list[str]:
    told = []
    for _ in range(times):
        try:
            at.holder(at.shown(WRONG, address, None, None))
        except (Unauthorized, RateLimited) as failure:
            told.append(failure.code)
    return told


def test_too_many_wrong_credentials_are_told_to_wait() -> None:
    """Five at once, then one a second; the wait that is told is the true one."""
    clock = Clock()
    strict_gate = strict(clock)
    assert knock(strict_gate, "192.0.2.1", 7) == ["unauthorized"] * 5 + ["rate_limited"] * 2
    with pytest.raises(RateLimited) as refusal:
        strict_gate.holder(strict_gate.shown([], "192.0.2.1", None, None))
    assert refusal.value.retry_after == pytest.approx(1.0)
    assert not refusal.value.retryable  # the same credential stays wrong
    clock.now += 1.0
    assert knock(strict_gate, "192.0.2.1", 2) == ["unauthorized", "rate_limited"]


async def test_who_is_merely_recognised_is_not_counted() -> None:
    """The record asks once more whose a refused call was: that is no attempt of anybody's."""
    strict_gate = strict(Clock())
    for _ in range(20):
        assert await strict_gate.recognise(WRONG, "192.0.2.1", None, None) is None
    assert await strict_gate.recognise(RIGHT, "192.0.2.1", None, None) == "flow"
    assert knock(strict_gate, "192.0.2.1", 1) == ["unauthorized"]


async def test_a_certificate_that_is_refused_is_a_wrong_credential() -> None:
    """It counts as one, and who shows it is nobody."""

    def refused(*_: object) -> None:
        raise Unauthorized(UNKNOWN)

    at = Gate(
        Principals((), lambda: 0.0), GateSettings(Networks(()), Rate(1.0, 5)), {}, Clock(), refused
    )
    assert await at.recognise([], "192.0.2.1", None, None) is None
    assert knock(at, "192.0.2.1", 6) == ["unauthorized"] * 5 + ["rate_limited"]


def test_a_right_credential_gets_in_whatever_its_neighbours_send() -> None:
    """Flows share addresses: one that is misconfigured must not lock the others out."""
    strict_gate = strict(Clock())
    knock(strict_gate, "192.0.2.1", 20)
    assert strict_gate.holder(strict_gate.shown(RIGHT, "192.0.2.1", None, None)) is FLOW


def test_each_address_has_its_own_count() -> None:
    """One address's guesses cost no other; of IPv6 a whole network is one address."""
    strict_gate = strict(Clock())
    knock(strict_gate, "192.0.2.1", 20)
    assert knock(strict_gate, "192.0.2.2", 1) == ["unauthorized"]
    assert knock(strict_gate, "::ffff:192.0.2.1", 1) == ["rate_limited"]
    for host in range(1, 6):
        assert knock(strict_gate, f"2001:db8::{host}", 1) == ["unauthorized"]
    assert knock(strict_gate, "2001:db8::ffff:1", 1) == ["rate_limited"]
    assert knock(strict_gate, "2001:db8:0:1::1", 1) == ["unauthorized"]
    for strange in (None, "", "no address"):
        assert knock(strict_gate, strange, 6)[-1] == "rate_limited"


def test_the_address_behind_a_proxy_is_the_callers() -> None:
    """A proxy's callers are told apart, once the proxy is trusted."""
    proxied = strict(Clock(), Networks([read_network("10.0.0.0/8")]))
    header = (b"x-forwarded-for", b"192.0.2.9")
    assert proxied.address(("10.0.0.1", 1), [header]) == "192.0.2.9"
    assert strict(Clock()).address(("10.0.0.1", 1), [header]) == "10.0.0.1"
    assert proxied.address(None, [header]) is None


def test_a_client_may_make_so_many_calls() -> None:
    """Three at once, then two a second; without a rate, any number."""
    clock = Clock()
    strict_gate = strict(clock)
    for _ in range(3):
        strict_gate.admit(SLOW)
    with pytest.raises(RateLimited) as refusal:
        strict_gate.admit(SLOW)
    assert refusal.value.retry_after == pytest.approx(0.5)
    assert refusal.value.retryable
    for _ in range(100):
        strict_gate.admit(FLOW)
    clock.now += 0.5
    strict_gate.admit(SLOW)


async def test_a_call_over_its_rate_is_answered_and_on_record() -> None:
    """429 with Retry-After; nothing is read or run, and the record says whose call it was."""
    endpoint = Endpoint(principal=SLOW)
    answers = [await endpoint.act(operation="DEL", key="k") for _ in range(4)]
    assert [answer.status for answer in answers] == [403] * 3 + [429]
    assert answers[3].headers["retry-after"] == "1"
    assert answers[3].json["code"] == "rate_limited"
    assert answers[3].json["retryable"] is True
    assert [(r.client, r.outcome) for r in endpoint.audit][-1] == ("slow", "rate_limited")
    endpoint.clock.now += 0.5
    assert (await endpoint.act(operation="DEL", key="k")).status == 403
