"""What the time of a refusal tells of a token: ``python -m bench.timing``.

Wrong tokens are refused, without HTTP, where noise is least: some are nothing like the real one,
some begin as it does, some lack its last characters only. If a guess that is nearly right took
longer, a caller could find a token character by character. Two of the kinds are the same, so the
difference between them is what the measurement can't tell from none.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable
from contextlib import suppress
from statistics import median, quantiles
from time import perf_counter_ns

from flowcache.authn.gate import Gate, GateSettings
from flowcache.authn.principals import Credential, Principals
from flowcache.authn.tokens import Token, digest
from flowcache.authz.keys import ALL_KEYS
from flowcache.authz.networks import Networks
from flowcache.authz.permissions import Permission
from flowcache.authz.principal import Principal
from flowcache.errors import RateLimited, Unauthorized
from flowcache.ratelimit.buckets import Rate

_BATCH, _BATCHES = 50, 6_000
_CLIENTS = 1_000
_LENGTH = 43
"""Characters of a token: what ``flowcache token new`` makes has 256 random bits."""

_WRONG: dict[str, Callable[[str], str]] = {
    "nothing of it": lambda real: _random(len(real)),
    "nothing of it, once more": lambda real: _random(len(real)),
    "its first half": lambda real: real[: len(real) // 2] + _random(len(real) - len(real) // 2),
    "all but its last two characters": lambda real: real[:-2] + _random(2),
}


def main() -> None:
    """Print the table of docs/security.md."""
    tokens = [_random(_LENGTH) for _ in range(_CLIENTS)]
    refuse = _refuser(tokens)
    real = tokens[_CLIENTS // 2]
    took: dict[str, list[float]] = {kind: [] for kind in _WRONG}
    # Each kind has as many guesses that come again and again: one seen before is in a cache.
    guesses = {
        kind: [guess.encode() for guess in {wrong(real) for _ in range(2 * _BATCH)} - {real}][
            :_BATCH
        ]
        for kind, wrong in _WRONG.items()
    }
    kinds = list(_WRONG)
    for _ in range(_BATCHES):
        random.shuffle(kinds)  # no kind always follows another
        for kind in kinds:
            began = perf_counter_ns()
            for guess in guesses[kind]:
                refuse(guess)
            took[kind].append((perf_counter_ns() - began) / _BATCH)
    none = median(took["nothing of it"])
    print("| what a guess has of a token | a refusal | to the first | its quartiles |")
    print("|---|---|---|---|")
    for kind, each in took.items():
        low, middle, high = quantiles(each, n=4)
        print(
            f"| {kind} | {middle / 1000:.3f} µs | {middle - none:+.0f} ns | "
            f"{low / 1000:.2f} to {high / 1000:.2f} µs |"
        )


def _random(length: int) -> str:
    return secrets.token_urlsafe(length)[:length]


def _refuser(tokens: list[str]) -> Callable[[bytes], None]:
    """Return what refuses a wrong token, where ``tokens`` are known."""
    who = Principal("client", frozenset({Permission.DATA_READ}), ALL_KEYS)
    gate = Gate(
        Principals([Credential(Token(digest(t.encode())), who) for t in tokens], lambda: 0.0),
        GateSettings(Networks(()), Rate(1e9, 1_000_000_000)),
        {},
        lambda: 0.0,
    )

    def refuse(token: bytes) -> None:
        headers = [(b"host", b"flowcache:3000"), (b"authorization", b"Bearer " + token)]
        with suppress(RateLimited, Unauthorized):
            gate.holder(gate.shown(headers, "10.1.2.3", None, None))
            raise AssertionError("a wrong token was taken")

    return refuse


if __name__ == "__main__":
    main()
