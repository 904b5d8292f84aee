"""What ``flowcache check`` shows of the clients: who may do what, and which tokens end soon."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

from flowcache.authn.principals import Credential
from flowcache.authz.keys import KeyPatterns
from flowcache.authz.principal import Principal

__all__ = ["overview"]

_SOON = 30 * 86_400
"""Seconds before its end that a token is warned of."""

_HEAD = ("client", "may", "keys", "ttl", "value", "rate", "from", "tokens end")


def overview(
    principals: Iterable[Principal], credentials: Iterable[Credential], now: float
) -> Iterator[str]:
    """Yield a table of all clients, line by line, then a warning for each token that needs one.

    ``now`` is Unix seconds.
    """
    by_client: dict[Principal, list[float | None]] = {who: [] for who in principals}
    for credential in credentials:
        by_client[credential.principal].append(credential.token.expires)
    rows = [_HEAD, *(_row(who, ends) for who, ends in by_client.items())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  " + "  ".join(cells).rstrip()
    for who, ends in by_client.items():
        for end in ends:
            if end is not None and end <= now:
                yield f"Warning: a token of {who.name} expired on {_day(end)}; remove it."
            elif end is not None and end - now < _SOON:
                yield f"Warning: a token of {who.name} expires on {_day(end)}; add the next."


def _row(who: Principal, ends: Iterable[float | None]) -> tuple[str, ...]:
    may = sorted(who.operations) if who.operations is not None else sorted(who.permissions)
    limits, sizes = who.limits, who.sizes
    return (
        who.name,
        " ".join(may),
        _keys(who.keys, who.prefix),
        "any" if limits is None else f"{limits.min_ttl}..{limits.max_ttl} s",
        "any" if sizes is None else f"{sizes.value} B, {sizes.fields} fields",
        "any" if who.rate is None else f"{who.rate.per_second:g}/s, {who.rate.burst} at once",
        "anywhere" if who.networks is None else str(who.networks),
        ", ".join("never" if end is None else _day(end) for end in ends) or "as issued",
    )


def _keys(keys: KeyPatterns, prefix: bytes) -> str:
    patterns = [*sorted(keys.exact), *(beginning + b"*" for beginning in keys.beginnings)]
    shown = " ".join(pattern.decode() for pattern in patterns) or "none"
    return f"{shown} in {prefix.decode()}" if prefix else shown


def _day(instant: float) -> str:
    return datetime.fromtimestamp(instant, UTC).strftime("%Y-%m-%d")
