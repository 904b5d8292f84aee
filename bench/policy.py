"""What a client costs a call: ``python -m bench.policy``.

Authentication and authorisation alone, without HTTP and Redis, as time per call and as a ratio in
one run: of 1,000 clients to one, and of a narrow client to the seed's.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from timeit import Timer

from flowcache.authn.gate import Gate, GateSettings
from flowcache.authn.principals import Credential, Principals
from flowcache.authn.tokens import Token, digest, new_token
from flowcache.authz.keys import ALL_KEYS, namespace_prefix, read_patterns
from flowcache.authz.networks import Networks, read_network
from flowcache.authz.permissions import Permission
from flowcache.authz.principal import Principal
from flowcache.authz.verdict import ALLOW, judge, placed
from flowcache.errors import RateLimited, Unauthorized
from flowcache.operations.catalogue import CATALOGUE
from flowcache.ports import Command, SizeLimits
from flowcache.ratelimit.buckets import Bucket, Rate

_CALLS, _ROUNDS = 20_000, 15
_DATA = frozenset({Permission.DATA_READ, Permission.DATA_WRITE})
_GET = CATALOGUE["GET"]


def main() -> None:
    """Print the table of docs/security.md."""
    plain = [_call(count, narrow=False) for count in (1, 1000)]
    narrow = [_call(count, narrow=True) for count in (1, 1000)]
    wrong = [_call(count, narrow=False, token="wrong") for count in (1, 1000)]
    rows = {"any key": plain, "namespace, patterns, networks, rate": narrow, "wrong token": wrong}
    print("| client | 1 client | 1,000 clients | ratio |\n|---|---|---|---|")
    for name, calls in rows.items():
        one, thousand = _measure(calls)
        print(f"| {name} | {one * 1e6:.2f} µs | {thousand * 1e6:.2f} µs | {thousand / one:.2f} |")


def _measure(calls: list[Callable[[], object]]) -> list[float]:
    """Return the seconds a call: the best of rounds that take turns, for others use the machine."""
    timers = [Timer(call) for call in calls]
    rounds = [[timer.timeit(_CALLS) / _CALLS for timer in timers] for _ in range(_ROUNDS)]
    return [min(column) for column in zip(*rounds, strict=True)]


def _call(clients: int, *, narrow: bool, token: str | None = None) -> Callable[[], object]:
    """Return what a GET passes on its way to Redis, with so many clients known."""
    known = {new_token().reveal(): _principal(f"client-{n}", narrow) for n in range(clients)}
    credentials = [Credential(Token(digest(t.encode())), who) for t, who in known.items()]
    gate = Gate(
        Principals(credentials, lambda: 0.0),
        GateSettings(Networks(()), Rate(1e9, 1_000_000_000)),
        {who.name: Bucket(who.rate) for who in known.values() if who.rate is not None},
        lambda: 0.0,
    )
    shown = token or list(known)[clients // 2]
    headers = [
        (b"host", b"flowcache:3000"),
        (b"user-agent", b"studio/1.0"),
        (b"accept", b"*/*"),
        (b"content-type", b"application/json"),
        (b"content-length", b"50"),
        (b"authorization", b"Bearer " + shown.encode()),
    ]
    command, permission, peer = (
        Command((b"GET", b"customer:42")),
        _GET.permissions,
        ("10.1.2.3", 4711),
    )

    def call() -> Command:
        address = gate.address(peer, headers)
        who = gate.holder(gate.shown(headers, address, None, None))
        gate.admit(who)
        assert judge(who, permission, "GET", command) is ALLOW
        return placed(command, who)

    def refused() -> None:
        with suppress(RateLimited, Unauthorized):
            gate.holder(gate.shown(headers, gate.address(peer, headers), None, None))

    return call if token is None else refused


def _principal(name: str, narrow: bool) -> Principal:
    if not narrow:
        return Principal(name, _DATA, ALL_KEYS)
    return Principal(
        name,
        _DATA,
        read_patterns(["agent:*", "queue:*", "customer:*", "settings"]),
        operations=frozenset({"GET", "SET"}),
        prefix=namespace_prefix(name),
        sizes=SizeLimits(value=4096),
        networks=Networks([read_network("10.0.0.0/8"), read_network("192.0.2.0/24")]),
        rate=Rate(1e9, 1_000_000_000),
    )


if __name__ == "__main__":
    main()
