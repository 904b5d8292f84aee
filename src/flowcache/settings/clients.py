"""The clients of the configuration: ``[clients.NAME]`` -> a `Principal` and its credentials."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from flowcache.authn.principals import Credential
from flowcache.authn.tokens import Token
from flowcache.authz.keys import ALL_KEYS, NO_KEYS
from flowcache.authz.permissions import Permission
from flowcache.authz.principal import Principal
from flowcache.contract.request import TtlLimits
from flowcache.ports import DEFAULT_SIZES, SizeLimits
from flowcache.ratelimit.buckets import Rate
from flowcache.settings.declarations import Client
from flowcache.settings.declaring import toml, toml_key
from flowcache.settings.reading import Fault, read_table

__all__ = ["Clients", "Everybody", "is_client_name", "read_clients", "shown_clients"]

_DATA = {Permission.DATA_READ, Permission.DATA_WRITE}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", re.ASCII)


class Everybody(NamedTuple):
    """What holds for all clients: which permissions each operation needs, and the limits."""

    operations: Mapping[str, frozenset[Permission]]
    limits: TtlLimits = TtlLimits()
    sizes: SizeLimits = DEFAULT_SIZES


class Clients(NamedTuple):
    """All clients, and the credentials of those that have tokens of flowcache."""

    principals: tuple[Principal, ...]
    credentials: tuple[Credential, ...]


def is_client_name(text: str) -> bool:
    """Tell whether a client may have this name."""
    return _NAME.fullmatch(text) is not None


def read_clients(tables: Any, everybody: Everybody, faults: list[Fault], file: str = "") -> Clients:
    """Return all clients of ``[clients]`` that have no faults; append the faults of the others."""
    principals: list[Principal] = []
    credentials: list[Credential] = []
    owners: dict[str, str] = {}
    for name, table in _tables(tables, faults, file):
        path, before = f"clients.{name}", len(faults)
        client = Client(**read_table(path, table, file, faults))
        faults.extend(
            Fault(f"{path}.{key}", reason, source=file)
            for key, reason in _contradictions(client, table, everybody)
        )
        if len(faults) > before:
            continue
        who = _principal(name, client, everybody)
        principals.append(who)
        credentials.extend(
            Credential(Token(token.digest, _earlier(token.expires, who.expires)), who)
            for token in client.tokens or ()
        )
        subjects = () if who.subject is None else (who.subject,)
        for key, identities in (("subject", subjects), ("certificates", who.certificates)):
            for identity in identities:
                other = owners.setdefault(f"{key} {identity}", name)
                if other != name:
                    reason = f"{toml(identity)} already belongs to clients.{other}"
                    faults.append(Fault(f"{path}.{key}", reason, source=file))
    return Clients(tuple(principals), tuple(credentials))


def _tables(tables: Any, faults: list[Fault], file: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the tables that have the name and the form of a client's."""
    if not isinstance(tables, dict):
        faults.append(Fault("clients", "expected sections as [clients.NAME]", source=file))
        return
    for name, table in tables.items():
        if not is_client_name(name):
            reason = "expected a name of 1 to 64 letters, digits, - _ and ."
            faults.append(Fault(f"clients.{toml_key(name[:80])}", reason, source=file))
        elif not isinstance(table, dict):
            reason = f"expected a section as [clients.{name}]"
            faults.append(Fault(f"clients.{name}", reason, source=file))
        else:
            yield name, table


def _contradictions(
    client: Client, table: Mapping[str, Any], everybody: Everybody
) -> Iterator[tuple[str, str]]:
    """Yield key and reason of what is missing, and of settings that exclude each other."""
    given, permissions = table.keys(), client.permissions
    if not {"tokens", "subject", "certificates"} & given:
        yield "tokens", "missing; run `flowcache token new`, or set subject or certificates"
    if client.require_both and not ("certificates" in given and {"tokens", "subject"} & given):
        yield "require_both", "needs certificates, and tokens or a subject"
    if "permissions" not in given:
        yield "permissions", f"missing; list what it may do, of {', '.join(Permission)}"
    if permissions is not None and permissions & _DATA and not {"keys", "namespace"} & given:
        yield "keys", 'missing; set a namespace, or the keys it may use, as ["customer:*"]'
    for operation in sorted(client.operations or ()):
        needed = everybody.operations.get(operation)
        if needed is None:
            known = ", ".join(everybody.operations)
            yield "operations", f"{toml(operation[:80])} is unknown; expected some of {known}"
        elif permissions is not None and not needed <= permissions:
            yield "operations", f"{operation} needs {' and '.join(sorted(needed - permissions))}"
    limits, sizes = everybody.limits, everybody.sizes
    for key, value, most in (
        ("max_ttl", client.max_ttl, limits.max_ttl),
        ("max_value_bytes", client.max_value_bytes, sizes.value),
        ("max_fields", client.max_fields, sizes.fields),
    ):
        if value is not None and value > most:
            yield key, f"{value} is greater than data.{key} = {most}"
    longest = min(client.max_ttl or limits.max_ttl, limits.max_ttl)
    if client.min_ttl is not None and client.min_ttl > longest:
        yield "min_ttl", f"{client.min_ttl} is greater than the maximum TTL, {longest}"
    if client.burst is not None and "rate" not in given:
        yield "burst", "needs rate"


def _principal(name: str, client: Client, everybody: Everybody) -> Principal:
    rate = client.rate
    return Principal(
        name,
        client.permissions or frozenset(),
        keys=client.keys or (ALL_KEYS if client.namespace else NO_KEYS),
        operations=client.operations,
        prefix=client.namespace or b"",
        sizes=_sizes(client, everybody.sizes),
        limits=_limits(client, everybody.limits),
        networks=client.cidrs,
        rate=None if rate is None else Rate(rate, client.burst or math.ceil(rate)),
        subject=client.subject,
        expires=client.expires,
        certificates=client.certificates or (),
        both=client.require_both,
        weight=client.weight,
        max_in_flight=client.max_in_flight,
    )


def _limits(client: Client, limits: TtlLimits) -> TtlLimits | None:
    if client.min_ttl is None and client.max_ttl is None:
        return None
    shortest, longest = client.min_ttl or limits.min_ttl, client.max_ttl or limits.max_ttl
    # A call without a TTL gets the default, or the nearest TTL that the client may have.
    return TtlLimits(min(max(limits.default_ttl, shortest), longest), longest, shortest)


def _sizes(client: Client, sizes: SizeLimits) -> SizeLimits | None:
    value, fields = client.max_value_bytes, client.max_fields
    if value is None and fields is None:
        return None
    own = SizeLimits(sizes.reply, value or sizes.value, fields or sizes.fields, sizes.held)
    return own.readable()


def shown_clients(tables: Any) -> dict[str, Any]:
    """Return valid clients as they are configured, for people: tokens are masked."""
    return {
        name: dict(table) | {"tokens": ["***"] * len(table.get("tokens", ()))}
        for name, table in tables.items()
    }


def _earlier(one: float | None, other: float | None) -> float | None:
    return min((each for each in (one, other) if each is not None), default=None)
