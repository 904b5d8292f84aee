"""What concerns several settings is checked, and each part gets its own record."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec

from flowcache.api.data_action import DataActionSettings
from flowcache.audit.settings import AuditSettings, KeyNames
from flowcache.audit.settings import Mode as AuditMode
from flowcache.authn.gate import GateSettings
from flowcache.authn.principals import Credential
from flowcache.authn.settings import JwtSettings
from flowcache.authn.tokens import Token, digest
from flowcache.authz.keys import ALL_KEYS, namespace_prefix
from flowcache.authz.networks import Networks
from flowcache.authz.permissions import Permission
from flowcache.authz.principal import Principal
from flowcache.contract.bounds import Bounds
from flowcache.contract.request import TtlLimits
from flowcache.delivery.settings import DeliverySettings
from flowcache.encryption.keys import WrittenKeys
from flowcache.encryption.settings import Plaintext, SealingSettings
from flowcache.operations.catalogue import CATALOGUE
from flowcache.ports import DEFAULT_SIZES, SizeLimits
from flowcache.ratelimit.buckets import Rate
from flowcache.resilience.breaker import BreakerSettings, Mode, Unit, Window
from flowcache.resilience.guard import GuardSettings
from flowcache.secret import Secret
from flowcache.server.connection import Patience
from flowcache.server.listener import ConnectionLimits
from flowcache.server.worker import Address, ServerSettings
from flowcache.settings import readers
from flowcache.settings.clients import Clients, read_clients, shown_clients
from flowcache.settings.delivery import delivery_part
from flowcache.settings.server_tls import ClientAuth, ServerTls, TlsFiles, read_tls
from flowcache.settings.table import LONGEST_TTL, SETTINGS
from flowcache.store.settings import Location, ReadFrom, StoreSettings, Tls

__all__ = ["TAKEN_NAMES", "Settings", "assemble", "audit_part", "store_part"]


class Settings(msgspec.Struct, frozen=True):
    """The whole configuration, as the record of each part."""

    server: ServerSettings
    tls: ServerTls | None
    """What the service shows of itself over TLS; None: plain HTTP is spoken."""
    data_action: DataActionSettings
    store: StoreSettings
    guard: GuardSettings
    principals: tuple[Principal, ...]
    credentials: tuple[Credential, ...]
    jwt: JwtSettings | None
    """Whose JSON Web Tokens count; None: nobody's."""
    gate: GateSettings
    audit: AuditSettings
    delivery: DeliverySettings | None
    """Where the audit goes; None: it stays in the journal."""
    sealing: SealingSettings | None
    """What is encrypted in Redis; None: nothing."""
    pages_need_credential: bool
    """Whether metrics and documentation are for whoever may inspect."""
    log_level: str
    shown: dict[str, dict[str, Any]]
    """All settings by section, for people: secrets are masked."""
    warnings: tuple[str, ...]
    """What an operator should hear of, though it is no fault; a sentence each."""


def assemble(values: dict[str, Any], clients: Any, faults: list[str]) -> Settings | None:
    """Check what concerns several settings, and hand each part its own record."""
    v = values
    known = _clients(v, clients, faults)
    _check_jwt(v, known, faults)
    tls = _server_tls(v, faults)
    _check_certificates(v, known, faults)
    admin = _admin(v, known, faults)
    files_are_well = not any(fault.startswith("redis.tls_") for fault in faults)
    if files_are_well and (v["redis.tls_cert_file"] is None) != (v["redis.tls_key_file"] is None):
        faults.append("redis.tls_cert_file and redis.tls_key_file: one needs the other")
    deadline, reply_timeout = v["data.deadline_ms"], v["redis.reply_timeout_seconds"]
    if deadline is not None and reply_timeout is not None and reply_timeout * 1000 < deadline:
        faults.append(
            f"redis.reply_timeout_seconds = {reply_timeout}: "
            f"shorter than data.deadline_ms = {deadline}"
        )
    shortest, longest = v["data.default_ttl"], v["data.max_ttl"]
    if shortest is not None and longest is not None and shortest > longest:
        faults.append(f"data.default_ttl = {shortest}: longer than data.max_ttl = {longest}")
    _check_breaker(v, faults)
    audit = audit_part(v, faults)
    delivery = delivery_part(v, faults)
    sealing = _sealing(v, known, faults)
    body, bodies = v["http.max_body_bytes"], v["http.max_unfinished_bytes"]
    if body is not None and bodies is not None and body > bodies:
        faults.append(
            f"http.max_unfinished_bytes = {bodies}: less than http.max_body_bytes = {body}"
        )
    if faults or audit is None:
        return None
    deadline, budget = deadline / 1000, v["breaker.min_budget_ms"]
    return Settings(
        ServerSettings(
            v["http.host"],
            v["http.port"],
            v["http.workers"],
            v["http.grace_seconds"],
            v["http.drain_seconds"],
            ConnectionLimits(
                v["http.max_connections"],
                Patience(
                    handshake=v["http.head_timeout_seconds"],
                    head=v["http.head_timeout_seconds"],
                    idle=v["http.keep_alive_seconds"],
                ),
                v["http.max_unsent_bytes"],
            ),
            None if tls is None else tls.context,
            admin,
        ),
        tls,
        DataActionSettings(
            limits=TtlLimits(v["data.default_ttl"], v["data.max_ttl"]),
            sizes=_sizes(v).readable(),
            bounds=Bounds(v["data.max_elements"], v["data.max_depth"]),
            deadline=deadline,
            max_body=v["http.max_body_bytes"],
            body_timeout=v["http.body_timeout_seconds"],
            max_in_flight=v["http.max_in_flight"],
            max_unfinished=v["http.max_unfinished_bytes"],
            once_lifetime=v["data.idempotency_seconds"],
        ),
        store_part(v),
        GuardSettings(
            _breaker(v, probe_seconds=deadline + 1.0),
            deadline * 0.9 if budget is None else min(budget / 1000, deadline),
            v["redis.hedge_share"],
            deadline,
            Mode(v["breaker.mode"]),
        ),
        known.principals,
        known.credentials,
        _jwt(v),
        GateSettings(
            v["http.trusted_proxies"] or Networks(()),
            Rate(v["auth.failures_per_minute"] / 60, v["auth.failures_per_minute"]),
            v["auth.shared_rates"],
            v["http.client_certificate_header"],
        ),
        audit,
        delivery,
        sealing,
        v["admin.pages"] == "credential",
        v["log.level"],
        _shown(v) | {"clients": shown_clients(clients)},
        (*_short_tokens(v), *_no_room_kept(v, known), *_unreadable(v)),
    )


def _server_tls(v: dict[str, Any], faults: list[str]) -> ServerTls | None:
    """Return what TLS is spoken with, if it is."""
    cert, key = v["http.tls_cert_file"], v["http.tls_key_file"]
    ca, auth = v["http.tls_client_ca_file"], v["http.tls_client_auth"]
    if any(fault.startswith("http.tls_") for fault in faults):
        return None
    if (cert is None) != (key is None):
        faults.append("http.tls_cert_file and http.tls_key_file: one needs the other")
    elif ca is None and auth != ClientAuth.OFF:
        faults.append(f'http.tls_client_auth = "{auth}": needs http.tls_client_ca_file')
    elif ca is not None and auth == ClientAuth.OFF:
        faults.append(
            "http.tls_client_ca_file: nobody is asked for a certificate while "
            "http.tls_client_auth is off; set it to optional or required"
        )
    elif ca is not None and cert is None:
        faults.append("http.tls_client_ca_file: says nothing without http.tls_cert_file")
    elif cert is not None:
        try:
            return read_tls(TlsFiles(cert, key, ca, ClientAuth(auth)))
        except ValueError as fault:
            faults.append(str(fault))
    return None


def _admin(v: dict[str, Any], known: Clients, faults: list[str]) -> Address | None:
    """Return where operators are served apart from callers, if they are."""
    host, port, public = v["admin.host"], v["admin.port"], (v["http.host"], v["http.port"])
    if v["admin.pages"] == "credential" and not any(
        Permission.INSPECT_READ in who.permissions for who in known.principals
    ):
        faults.append(
            'admin.pages = "credential": nobody may inspect; set inspector.token, or give a client '
            "inspect:read"
        )
    if port is None:
        if host is not None and not any(fault.startswith("admin.port") for fault in faults):
            faults.append(f'admin.host = "{host}": says nothing without admin.port')
        return None
    host = host or "127.0.0.1"
    if port == public[1] and (host == public[0] or {host, public[0]} & {"0.0.0.0", "::"}):  # noqa: S104
        faults.append(f"admin.port = {port}: the same address as http.port; take another port")
    return Address(host, port)


def _check_certificates(v: dict[str, Any], known: Clients, faults: list[str]) -> None:
    """Refuse certificates of clients that nobody could show."""
    header, proxies = v["http.client_certificate_header"], v["http.trusted_proxies"]
    if any(fault.startswith(("http.tls_", "http.client_", "http.trusted_")) for fault in faults):
        return
    if header is not None and proxies is None:
        faults.append("http.client_certificate_header: nobody is believed without trusted_proxies")
    if header is None and v["http.tls_client_ca_file"] is None:
        faults.extend(
            f"clients.{who.name}.certificates: callers show none; set http.tls_client_auth and "
            "http.tls_client_ca_file, or http.client_certificate_header"
            for who in known.principals
            if who.certificates
        )


def audit_part(v: dict[str, Any], faults: list[str]) -> AuditSettings | None:
    """Return the audit's own record; None where it has faults, which are told."""
    for name, value, needed, has in (
        ("audit.keys", KeyNames.HMAC, "audit.hmac_secret", v["audit.hmac_secret"]),
        ("audit.mode", AuditMode.STRICT, "audit.journal", v["audit.journal"]),
    ):
        is_bad = any(fault.startswith(needed) for fault in faults)  # which says enough
        if v[name] == value and has is None and not is_bad:
            faults.append(f'{name} = "{value}": needs {needed}')
    if any(fault.startswith("audit.") for fault in faults):
        return None
    return AuditSettings(
        v["audit.ring"],
        v["audit.journal"],
        AuditMode(v["audit.mode"]),
        KeyNames(v["audit.keys"]),
        v["audit.hmac_secret"],
        v["audit.signing_key"],
        v["audit.keep_days"],
        v["audit.max_mb"],
    )


def _check_breaker(v: dict[str, Any], faults: list[str]) -> None:
    """Refuse what each part of the breaker would take, and nobody can mean together."""
    failures, window, least = v["breaker.failures"], v["breaker.window"], v["breaker.min_calls"]
    slow, deadline = v["breaker.slow_ms"], v["data.deadline_ms"]
    first, longest = v["breaker.open_seconds"], v["breaker.open_max_seconds"]
    window_is_well = not any(fault.startswith("breaker.window") for fault in faults)
    if failures == 0 and window is None and window_is_well:
        faults.append(
            "breaker.failures = 0: nothing would open a circuit; set breaker.window, "
            'or breaker.mode = "disabled" if that is meant'
        )
    held = window.size if window is not None and window.unit is Unit.CALLS else math.inf
    if least is not None and least > held:
        faults.append(
            f'breaker.min_calls = {least}: more than breaker.window = "{window}" ever holds'
        )
    if slow is not None and window is None and window_is_well:
        faults.append(f"breaker.slow_ms = {slow}: judges nothing without breaker.window")
    if slow is not None and deadline is not None and slow >= deadline:
        faults.append(
            f"breaker.slow_ms = {slow}: no call takes longer than data.deadline_ms = {deadline}"
        )
    if first is not None and longest is not None and longest < first:
        faults.append(
            f"breaker.open_max_seconds = {longest}: shorter than breaker.open_seconds = {first}"
        )


def _breaker(v: dict[str, Any], probe_seconds: float) -> BreakerSettings:
    first, longest = v["breaker.open_seconds"], v["breaker.open_max_seconds"]
    slow = v["breaker.slow_ms"]
    return BreakerSettings(
        failures=v["breaker.failures"],
        window=v["breaker.window"],
        min_calls=v["breaker.min_calls"],
        failure_rate=v["breaker.failure_rate"],
        slow_seconds=None if slow is None else slow / 1000,
        slow_rate=v["breaker.slow_rate"],
        open_seconds=first,
        open_max_seconds=max(60.0, first) if longest is None else longest,
        probes=v["breaker.probes"],
        # A probe keeps its place longer than any call can take.
        probe_seconds=probe_seconds,
    )


def store_part(v: dict[str, Any]) -> StoreSettings:
    """Return where Redis is, and how it is spoken to."""
    location: Location = v["redis.nodes"]
    reply_timeout = v["redis.reply_timeout_seconds"]
    if reply_timeout is None:
        reply_timeout = v["data.deadline_ms"] / 1000 + 1.0
    tls = Tls(
        v["redis.tls_ca_file"],
        v["redis.tls_cert_file"],
        v["redis.tls_key_file"],
        v["redis.tls_verify_hostname"],
        v["redis.tls_server_name"],
    )
    return StoreSettings(
        nodes=location.nodes,
        username=location.username or v["redis.username"],
        password=location.password or v["redis.password"],
        database=v["redis.database"] if location.database is None else location.database,
        tls=tls if location.tls or v["redis.tls"] else None,
        service=location.service or v["redis.service"],
        sentinel_username=v["redis.sentinel_username"],
        sentinel_password=v["redis.sentinel_password"],
        read_from=ReadFrom(v["redis.read_from"]),
        stale_reads=v["redis.stale_reads"],
        retry_share=v["redis.retry_share"],
        confirm_replicas=v["redis.confirm_replicas"],
        connect_timeout=v["redis.connect_timeout_seconds"],
        reply_timeout=reply_timeout,
        refresh_interval=v["redis.refresh_seconds"],
        max_large_reply=_sizes(v).received,
    )


def _sizes(v: dict[str, Any]) -> SizeLimits:
    """Return everybody's limits of size as configured; in place of one with a fault the default."""
    most = DEFAULT_SIZES
    return SizeLimits(
        v["http.max_answer_bytes"] or most.reply,
        v["data.max_value_bytes"] or most.value,
        v["data.max_fields"] or most.fields,
        v["data.max_elements"] or most.held,
    )


_DATA = frozenset({Permission.DATA_READ, Permission.DATA_WRITE})
_OWN: dict[str, Principal] = {
    "auth.token": Principal("flow", _DATA, ALL_KEYS),
    "inspector.token": Principal("inspector", frozenset({Permission.INSPECT_READ})),
    "inspector.control_token": Principal(
        "control", frozenset({Permission.INSPECT_READ, Permission.CIRCUITS_WRITE})
    ),
}
"""Whose tokens are settings."""

TAKEN_NAMES = {principal.name: setting for setting, principal in _OWN.items()}
"""Names that no client may have, and whose tokens they are of, configured or not."""


def _clients(v: dict[str, Any], clients: Any, faults: list[str]) -> Clients:
    """Return everybody: those whose tokens are settings, and the clients."""
    token_is_well = not any(fault.startswith("auth.token") for fault in faults)
    if v["auth.token"] is None and not clients and token_is_well:
        faults.append(
            "auth.token: no credential is configured; set SERVICE_BEARER_TOKEN or [auth] token "
            "(serve --embedded makes one), or name [clients]"
        )
    own = {
        setting: Credential(Token(digest(v[setting].reveal().encode())), principal)
        for setting, principal in _OWN.items()
        if v[setting] is not None
    }
    needed = {operation.name: operation.permissions for operation in CATALOGUE.values()}
    limits = TtlLimits(v["data.default_ttl"] or 1, v["data.max_ttl"] or LONGEST_TTL)
    theirs = read_clients(clients, needed, limits, faults, _sizes(v))
    owners: dict[bytes, str] = {}
    named = ((f"clients.{each.principal.name}.tokens", each) for each in theirs.credentials)
    for where, credential in (*own.items(), *named):
        other = owners.setdefault(credential.token.digest, where)
        if other != where:
            faults.append(f"{where}: the same as {other}; a token tells who calls")
    if isinstance(clients, dict):
        faults.extend(
            f"clients.{name}: this name is that of {setting}"
            for name, setting in TAKEN_NAMES.items()
            if name in clients
        )
    return Clients(
        (*(each.principal for each in own.values()), *theirs.principals),
        (*own.values(), *theirs.credentials),
    )


_SHORTEST_TOKEN = 16
"""Characters: of random ones, what nobody guesses over a network."""


def _short_tokens(v: dict[str, Any]) -> tuple[str, ...]:
    return tuple(
        f"{name}: shorter than {_SHORTEST_TOKEN} characters, so that it may be guessed; "
        "take a long, random one"
        for name in _OWN
        if v[name] is not None and len(v[name].reveal()) < _SHORTEST_TOKEN
    )


def _no_room_kept(v: dict[str, Any], known: Clients) -> tuple[str, ...]:
    callers = sum(bool(who.permissions & _DATA) for who in known.principals)
    if callers < 2 or v["http.max_in_flight"] // 2 >= callers:
        return ()
    return (
        f"http.max_in_flight = {v['http.max_in_flight']}: less than two places for each of "
        f"{callers} clients, so that none are kept for them; raise it to {2 * callers}",
    )


def _unreadable(v: dict[str, Any]) -> tuple[str, ...]:
    asked = _sizes(v)
    used = asked.readable()
    rows = (
        ("data.max_value_bytes", asked.value, used.value, "http.max_answer_bytes"),
        ("data.max_fields", asked.fields, used.fields, "data.max_elements, http.max_answer_bytes"),
    )
    return tuple(
        f"{name} = {wanted}: more than can be read ({limits}), so {most} is used"
        for name, wanted, most, limits in rows
        if wanted > most
    )


_JWT = ("jwt.keys", "jwt.issuer", "jwt.audience")


def _check_jwt(v: dict[str, Any], known: Clients, faults: list[str]) -> None:
    """Refuse half of an issuer, and subjects without one."""
    if any(fault.startswith("jwt.") for fault in faults):
        return
    missing = [name for name in _JWT if v[name] is None]
    if 0 < len(missing) < len(_JWT):
        faults.append(f"{' and '.join(missing)}: needed with the others of [jwt]")
    if len(missing) == len(_JWT):
        faults.extend(
            f"clients.{who.name}.subject: no issuer is configured in [jwt]"
            for who in known.principals
            if who.subject is not None
        )


def _jwt(v: dict[str, Any]) -> JwtSettings | None:
    if v["jwt.keys"] is None:
        return None
    return JwtSettings(
        v["jwt.issuer"],
        v["jwt.audience"],
        v["jwt.keys"],
        v["jwt.refresh_seconds"],
        v["jwt.leeway_seconds"],
    )


def _sealing(v: dict[str, Any], known: Clients, faults: list[str]) -> SealingSettings | None:
    """Return what is encrypted; refuse what would leave in clear what somebody meant to encrypt."""
    if any(fault.startswith("encryption.") for fault in faults):
        return None
    written, active = v["encryption.keys"], v["encryption.active"]
    names = v["encryption.namespaces"]
    if written is None:
        faults.extend(
            f"{name}: needs encryption.keys"
            for name in ("encryption.namespaces", "encryption.active")
            if v[name] is not None
        )
        if v["encryption.plaintext"] != Plaintext.REFUSE:
            faults.append(
                f'encryption.plaintext = "{v["encryption.plaintext"]}": needs encryption.keys; '
                "at SIGHUP a service still has the environment of its start"
            )
        return None
    provider = WrittenKeys(written)
    ids = [key.id for key in provider.fetch()]
    if active is not None and active not in ids:
        faults.append(f'encryption.active = "{active}": no such key; there are {", ".join(ids)}')
    named = () if names in (None, ("*",)) else names
    spaces = tuple(map(namespace_prefix, named)) or None
    taken = {who.prefix for who in known.principals}
    if not any(fault.startswith("clients") for fault in faults):  # else some are not known here
        faults.extend(
            f'encryption.namespaces: "{name}" is the namespace of no client'
            for name in named
            if namespace_prefix(name) not in taken
        )
    can_not = {name for name, operation in CATALOGUE.items() if not operation.works_encrypted}
    faults.extend(
        f"clients.{who.name}.operations: {name} can't work in a namespace that is encrypted"
        for who in known.principals
        if who.operations is not None and (spaces is None or who.prefix in spaces)
        for name in sorted(who.operations & can_not)
    )
    plaintext = Plaintext(v["encryption.plaintext"])
    return SealingSettings(provider, active or ids[0], spaces, plaintext)


def _shown(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    shown: dict[str, dict[str, Any]] = {}
    for setting in SETTINGS:
        value = values[setting.name]
        if isinstance(value, Secret):
            value = "***"
        elif isinstance(value, Path):
            value = str(value)
        elif isinstance(value, bytes):
            value = value.decode()
        elif isinstance(value, Location):
            value = [str(node) for node in value.nodes]
        elif isinstance(value, Window | Networks):
            value = str(value)
        elif setting.read is readers.url and value is not None:
            where, has_query, _ = value.partition("?")  # some receivers take their secret there
            value = f"{where}?***" if has_query else where
        shown.setdefault(setting.section, {})[setting.key] = value
    return shown
