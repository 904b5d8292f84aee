"""The clients of the configuration: ``[clients.NAME]`` -> a `Principal` and its credentials.

`CLIENT_SETTINGS` is the table of all that such a section may hold. All faults are found before any
is reported, each with client, key and bad value; what stands in ``tokens`` is never repeated, for
it might be a token itself.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, time
from typing import Any, NamedTuple

from flowcache.authn.certificates import read_name
from flowcache.authn.principals import Credential
from flowcache.authn.tokens import Token, read_digest
from flowcache.authz.keys import ALL_KEYS, NO_KEYS, KeyPatterns, namespace_prefix, read_patterns
from flowcache.authz.networks import Networks, read_network
from flowcache.authz.permissions import Permission
from flowcache.authz.principal import Principal
from flowcache.contract.request import TtlLimits
from flowcache.ports import DEFAULT_SIZES, SizeLimits
from flowcache.ratelimit.buckets import Rate

__all__ = [
    "CLIENT_SETTINGS",
    "ClientSetting",
    "Clients",
    "is_client_name",
    "read_clients",
    "shown_clients",
]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", re.ASCII)
_MOST_TOKENS = 2
_MOST_CERTIFICATES = 8
_MOST_PATTERNS = 100
"""Each is compared with the key of each call."""
_DATA = {Permission.DATA_READ, Permission.DATA_WRITE}


class ClientSetting(NamedTuple):
    """One row: ``read`` takes what TOML gave and raises ValueError."""

    key: str
    read: Callable[[Any], Any]
    about: str


class Clients(NamedTuple):
    """All clients, and the credentials of those that have tokens of ours."""

    principals: tuple[Principal, ...]
    credentials: tuple[Credential, ...]


# -- how values are read ---------------------------------------------------------------------------


def _texts(value: Any) -> list[str]:
    if not isinstance(value, list) or not value or not all(isinstance(v, str) for v in value):
        raise ValueError("expected a list of texts, at least one")
    return value


def _permissions(value: Any) -> frozenset[Permission]:
    unknown = [each for each in _texts(value) if each not in set(Permission)]
    if unknown:
        raise ValueError(f'"{unknown[0]}" is none; there are {", ".join(Permission)}')
    return frozenset(map(Permission, value))


def _operations(value: Any) -> frozenset[str]:
    return frozenset(each.upper() for each in _texts(value))


def _instant(value: Any) -> float:
    """Return the Unix time of a TOML date, which begins in UTC, or of a date and time."""
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError("expected an offset behind the time, as Z for UTC")
        return value.timestamp()
    if isinstance(value, date):
        return datetime.combine(value, time(), UTC).timestamp()
    raise ValueError("expected a date without quotes, as 2027-01-31 or 2027-01-31T18:00:00Z")


def _tokens(value: Any) -> tuple[Token, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= _MOST_TOKENS:
        raise ValueError("expected a list of one or two, so that the next can replace the last")
    return tuple(map(_token, value))


def _token(value: Any) -> Token:
    if isinstance(value, str):
        return Token(read_digest(value))
    if not isinstance(value, dict) or not {"hash"} <= value.keys() <= {"hash", "expires"}:
        raise ValueError('expected "sha256:..." or { hash = "sha256:...", expires = 2027-01-31 }')
    if not isinstance(value["hash"], str):
        raise ValueError("expected a text as hash")
    expires = value.get("expires")
    return Token(read_digest(value["hash"]), None if expires is None else _instant(expires))


def _certificates(value: Any) -> tuple[str, ...]:
    if len(_texts(value)) > _MOST_CERTIFICATES:
        raise ValueError(f"expected at most {_MOST_CERTIFICATES}")
    return tuple(map(read_name, value))


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("expected true or false")
    return value


def _namespace(value: Any) -> bytes:
    return namespace_prefix(_text(value))


def _keys(value: Any) -> KeyPatterns:
    if len(_texts(value)) > _MOST_PATTERNS:
        raise ValueError(f"expected at most {_MOST_PATTERNS} patterns")
    return read_patterns(value)


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("expected a text")
    return value


def _number(low: int, high: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"expected a whole number from {low} to {high}")
        return value

    return read


def _rate(value: Any) -> float:
    if type(value) not in (int, float) or not 0.001 <= value <= 10_000:
        raise ValueError("expected calls a second, from 0.001 to 10000")
    return float(value)


def _networks(value: Any) -> Networks:
    return Networks(map(read_network, _texts(value)))


# -- the table -------------------------------------------------------------------------------------

CLIENT_SETTINGS: tuple[ClientSetting, ...] = (
    ClientSetting("tokens", _tokens, "one or two digests of tokens, each with an expiry or not"),
    ClientSetting("subject", _text, "the `sub` of the JSON Web Tokens that name it, see below"),
    ClientSetting(
        "certificates",
        _certificates,
        "names of its certificates, see below: `sha256:...`, `dns:...`, `uri:...`",
    ),
    ClientSetting("both", _flag, "whether a call needs a token and a certificate; false"),
    ClientSetting("expires", _instant, "from when on none of its credentials counts any more"),
    ClientSetting("permissions", _permissions, f"of {', '.join(Permission)}; needed"),
    ClientSetting("operations", _operations, "these and no others; what the permissions allow"),
    ClientSetting("namespace", _namespace, "a name: its keys are apart from all others'"),
    ClientSetting(
        "keys", _keys, "patterns of keys it may use; needed without a namespace, else all in it"
    ),
    ClientSetting("min_ttl", _number(1, 315_360_000), "shortest ttl, seconds; 1"),
    ClientSetting("max_ttl", _number(1, 315_360_000), "longest ttl, seconds; `data.max_ttl`"),
    ClientSetting(
        "max_value_bytes",
        _number(1, 16 << 20),
        "most bytes that a key may hold after a write of this client; `data.max_value_bytes`",
    ),
    ClientSetting(
        "max_fields",
        _number(1, 1_000_000),
        "most fields that a hash may have after a write of this client; `data.max_fields`",
    ),
    ClientSetting("rate", _rate, "calls a second in the long run; any number"),
    ClientSetting("burst", _number(1, 100_000), "calls at once; what `rate` earns in a second"),
    ClientSetting(
        "weight", _number(1, 1000), "its part of the places kept for clients, see below; 1"
    ),
    ClientSetting(
        "max_in_flight",
        _number(1, 1_000_000),
        "calls it may have at work in a worker; further ones get rate_limited",
    ),
    ClientSetting("cidrs", _networks, "networks it may call from; anywhere"),
)


def read_clients(
    tables: Any,
    operations: Mapping[str, frozenset[Permission]],
    limits: TtlLimits,
    faults: list[str],
    sizes: SizeLimits = DEFAULT_SIZES,
) -> Clients:
    """Return all there are in ``[clients]``; append a sentence to ``faults`` for each fault.

    ``operations`` says which permission each one needs; ``limits`` and ``sizes`` are everybody's.
    """
    if not isinstance(tables, dict):
        faults.append("clients: expected sections as [clients.NAME]")
        return Clients((), ())
    principals: list[Principal] = []
    credentials: list[Credential] = []
    subjects: dict[str, str] = {}
    owners: dict[str, str] = {}
    for name, table in tables.items():
        if not is_client_name(name):
            faults.append(
                f"clients.{name[:80]!r}: expected a name of 1 to 64 letters, digits, - _ and ."
            )
        elif not isinstance(table, dict):
            faults.append(f"clients.{name}: expected a section as [clients.{name}]")
        else:
            v = _read_client(f"clients.{name}", table, operations, limits, sizes, faults)
            if v is None:
                continue
            who = _principal(name, v, limits, sizes)
            principals.append(who)
            credentials.extend(
                Credential(Token(token.digest, _sooner(token.expires, who.expires)), who)
                for token in v["tokens"] or ()
            )
            other = subjects.setdefault(v["subject"], name) if v["subject"] else name
            if other != name:
                faults.append(f"clients.{name}.subject: the same as clients.{other}.subject")
            for certificate in who.certificates:
                other = owners.setdefault(certificate, name)
                if other != name:
                    faults.append(
                        f"clients.{name}.certificates: {certificate} is one of clients.{other}, too"
                    )
    return Clients(tuple(principals), tuple(credentials))


def is_client_name(text: str) -> bool:
    """Tell whether a client may have this name."""
    return _NAME.fullmatch(text) is not None


def _read_client(
    where: str,
    table: Mapping[str, Any],
    operations: Mapping[str, frozenset[Permission]],
    limits: TtlLimits,
    sizes: SizeLimits,
    faults: list[str],
) -> dict[str, Any] | None:
    """Return the values of one client, None with a fault; see `read_clients`."""
    known = {setting.key for setting in CLIENT_SETTINGS}
    found = [f"{where}.{key}: unknown setting" for key in table if key not in known]
    v: dict[str, Any] = dict.fromkeys(known)
    for setting in CLIENT_SETTINGS:
        if setting.key in table:
            try:
                v[setting.key] = setting.read(table[setting.key])
            except ValueError as fault:
                found.append(f"{where}.{setting.key} = {_shown(setting, table)}: {fault}")
    found.extend(f"{where}.{fault}" for fault in _contradictions(v, table, operations, limits))
    found.extend(
        f"{where}.{key} = {v[key]}: more than data.{key} = {most}"
        for key, most in (("max_value_bytes", sizes.value), ("max_fields", sizes.fields))
        if v[key] is not None and v[key] > most
    )
    faults.extend(found)
    return None if found else v


def _principal(name: str, v: dict[str, Any], limits: TtlLimits, sizes: SizeLimits) -> Principal:
    return Principal(
        name,
        v["permissions"],
        keys=v["keys"] or (ALL_KEYS if v["namespace"] else NO_KEYS),
        operations=v["operations"],
        prefix=v["namespace"] or b"",
        sizes=_sizes(v, sizes),
        limits=_limits(v, limits),
        networks=v["cidrs"],
        rate=None if v["rate"] is None else Rate(v["rate"], v["burst"] or math.ceil(v["rate"])),
        subject=v["subject"],
        expires=v["expires"],
        certificates=v["certificates"] or (),
        both=v["both"] or False,
        weight=v["weight"] or 1,
        max_in_flight=v["max_in_flight"],
    )


def _contradictions(
    v: dict[str, Any],
    table: Mapping[str, Any],
    operations: Mapping[str, frozenset[Permission]],
    limits: TtlLimits,
) -> list[str]:
    """Return what is missing, and what nobody can mean together."""
    found: list[str] = []
    permissions: frozenset[Permission] | None = v["permissions"]
    if not {"tokens", "subject", "certificates"} & table.keys():
        found.append(
            'tokens: none; make one with "flowcache token new", or name a subject or certificates'
        )
    if v["both"] and not ("certificates" in table and {"tokens", "subject"} & table.keys()):
        found.append("both = true: needs certificates, and tokens or a subject")
    if "permissions" not in table:
        found.append(f"permissions: none; name what it may do, of {', '.join(Permission)}")
    if permissions is not None and permissions & _DATA and not {"keys", "namespace"} & table.keys():
        found.append('keys: none; name a namespace, or the keys it may use, as "customer:*"')
    for operation in sorted(v["operations"] or ()):
        needed = operations.get(operation)
        if needed is None:
            found.append(f'operations: "{operation}" is unknown; there are {", ".join(operations)}')
        elif permissions is not None and not needed <= permissions:
            lacks = " and ".join(sorted(needed - permissions))
            found.append(f"operations: {operation} needs {lacks}, which it lacks")
    shortest, longest = v["min_ttl"] or 1, v["max_ttl"] or limits.max_ttl
    if longest > limits.max_ttl:
        found.append(f"max_ttl = {longest}: longer than data.max_ttl = {limits.max_ttl}")
    elif shortest > longest:
        found.append(f"min_ttl = {shortest}: longer than its longest ttl, {longest}")
    if v["burst"] is not None and "rate" not in table:
        found.append(f"burst = {v['burst']}: says nothing without rate")
    return found


def _limits(v: dict[str, Any], limits: TtlLimits) -> TtlLimits | None:
    if v["min_ttl"] is None and v["max_ttl"] is None:
        return None
    shortest, longest = v["min_ttl"] or limits.min_ttl, v["max_ttl"] or limits.max_ttl
    # A call without a ttl gets the default, or what of the client's own range is next to it.
    return TtlLimits(min(max(limits.default_ttl, shortest), longest), longest, shortest)


def _sizes(v: dict[str, Any], sizes: SizeLimits) -> SizeLimits | None:
    value, fields = v["max_value_bytes"], v["max_fields"]
    if value is None and fields is None:
        return None
    own = SizeLimits(sizes.reply, value or sizes.value, fields or sizes.fields, sizes.held)
    return own.readable()


def shown_clients(tables: Any) -> dict[str, Any]:
    """Return valid clients as they stand in the configuration, for people: tokens are masked."""
    return {
        name: dict(table) | {"tokens": ["***"] * len(table.get("tokens", ()))}
        for name, table in tables.items()
    }


def _sooner(one: float | None, other: float | None) -> float | None:
    return min((each for each in (one, other) if each is not None), default=None)


def _shown(setting: ClientSetting, table: Mapping[str, Any]) -> str:
    """Return a bad value as it may be shown."""
    if setting.key == "tokens":
        return "'***'"
    try:
        return repr(table[setting.key])[:200]
    except ValueError:  # Python shows no integer of more than 4,300 digits
        return "a very long number"
