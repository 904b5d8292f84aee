"""Each part of flowcache gets its own record, once the configuration has no faults."""

from __future__ import annotations

from typing import Any

import msgspec

from flowcache.api.data_action import DataActionSettings
from flowcache.audit.settings import AuditSettings
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
from flowcache.cxone.settings import CxoneSettings
from flowcache.delivery.settings import DeliverySettings, Endpoint, Stream
from flowcache.encryption.keys import WrittenKeys
from flowcache.encryption.settings import SealingSettings
from flowcache.operations.catalogue import CATALOGUE
from flowcache.ports import SizeLimits
from flowcache.ratelimit.buckets import Rate
from flowcache.resilience.breaker import BreakerSettings
from flowcache.resilience.guard import GuardSettings
from flowcache.server.connection import Patience
from flowcache.server.listener import ConnectionLimits
from flowcache.server.worker import Address, ServerSettings
from flowcache.settings.clients import Clients, Everybody, read_clients
from flowcache.settings.declarations import LONGEST_TTL, Config, Pages
from flowcache.settings.reading import Fault, Reading
from flowcache.settings.rules import check
from flowcache.settings.server_tls import ServerTls, TlsFault, TlsFiles, read_tls
from flowcache.store.settings import StoreSettings, Tls

__all__ = ["TAKEN_NAMES", "Settings", "assemble", "audit_part", "delivery_part", "store_part"]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The whole configuration, as the record of each part."""

    server: ServerSettings
    tls: ServerTls | None
    """TLS of the port for callers; None for plain HTTP."""
    data_action: DataActionSettings
    store: StoreSettings
    guard: GuardSettings
    principals: tuple[Principal, ...]
    credentials: tuple[Credential, ...]
    jwt: JwtSettings | None
    """The issuer of JSON Web Tokens; None without one."""
    gate: GateSettings
    audit: AuditSettings
    delivery: DeliverySettings | None
    """Where audit records are delivered to; None when they stay in the journal."""
    sealing: SealingSettings | None
    """What is encrypted in Redis; None for nothing."""
    pages_need_credential: bool
    """Whether metrics and documentation need the permission to inspect."""
    log_level: str
    shown: dict[str, dict[str, Any]]
    """All settings by section, for people: secrets are masked."""
    warnings: tuple[str, ...]
    """What an operator should know, though it is not a fault; a sentence each."""


def assemble(reading: Reading, clients: Any, file: str) -> Settings | None:
    """Check all rules, and return the record of each part; None with a fault.

    ``clients`` is what the file contains as ``[clients]``. ``shown`` is left empty.
    """
    config = reading.config
    check(reading)
    known = _principals(reading, clients, file)
    _check_clients(reading, known)
    tls = _server_tls(reading)
    sealing = _sealing(reading, known)
    if reading.faults:
        return None
    return Settings(
        server=_server(config, tls),
        tls=tls,
        data_action=_data_action(config),
        store=store_part(config),
        guard=_guard(config),
        principals=known.principals,
        credentials=known.credentials,
        jwt=_jwt(config),
        gate=GateSettings(
            proxies=config.http.trusted_proxies or Networks(()),
            failures=Rate(config.auth.failures_per_minute / 60, config.auth.failures_per_minute),
            shared_rates=config.auth.shared_rates,
            certificate_header=config.http.client_certificate_header,
        ),
        audit=audit_part(config),
        delivery=delivery_part(config),
        sealing=sealing,
        pages_need_credential=config.admin.pages is Pages.CREDENTIAL,
        log_level=config.log.level,
        shown={},
        warnings=(*_short_tokens(reading), *_nothing_reserved(config, known), *_unreadable(config)),
    )


# -- who may call ----------------------------------------------------------------------------------

_DATA = frozenset({Permission.DATA_READ, Permission.DATA_WRITE})
_OWN: dict[str, Principal] = {
    "auth.token": Principal("flow", _DATA, ALL_KEYS),
    "inspector.token": Principal("inspector", frozenset({Permission.INSPECT_READ})),
    "inspector.control_token": Principal(
        "control", frozenset({Permission.INSPECT_READ, Permission.CIRCUITS_WRITE})
    ),
}
"""The principals whose tokens are settings."""

TAKEN_NAMES = {principal.name: setting for setting, principal in _OWN.items()}
"""Names that no client may have, and the settings of their tokens, configured or not."""


def _principals(reading: Reading, clients: Any, file: str) -> Clients:
    """Return all principals: those whose tokens are settings, and the clients."""
    config = reading.config
    if config.auth.token is None and not clients and not reading.is_faulty("auth.token"):
        reading.fault(
            "auth.token",
            "no credential is configured; set SERVICE_BEARER_TOKEN or [auth] token, or add a "
            "client to [clients] (`serve --embedded` makes a token)",
        )
    own = {
        setting: Credential(Token(digest(token.reveal().encode())), principal)
        for setting, principal in _OWN.items()
        if (token := reading.value(setting)) is not None
    }
    longest = LONGEST_TTL if reading.is_faulty("data.max_ttl") else config.data.max_ttl
    everybody = Everybody(
        {operation.name: operation.permissions for operation in CATALOGUE.values()},
        TtlLimits(config.data.default_ttl, longest),
        _sizes(config),
    )
    theirs = read_clients(clients, everybody, reading.faults, file)
    owners: dict[bytes, str] = {}
    named = ((f"clients.{each.principal.name}.tokens", each) for each in theirs.credentials)
    for where, credential in (*own.items(), *named):
        other = owners.setdefault(credential.token.digest, where)
        if other != where:
            reason = f"the same as {other}; each principal needs its own token"
            reading.faults.append(Fault(where, reason))
    if isinstance(clients, dict):
        reading.faults.extend(
            Fault(f"clients.{name}", f"the name is reserved for {setting}", source=file)
            for name, setting in TAKEN_NAMES.items()
            if name in clients
        )
    return Clients(
        (*(each.principal for each in own.values()), *theirs.principals),
        (*own.values(), *theirs.credentials),
    )


def _check_clients(reading: Reading, known: Clients) -> None:
    """Add a fault for each setting that principals need, and that need principals."""
    config = reading.config
    may_inspect = any(Permission.INSPECT_READ in who.permissions for who in known.principals)
    if config.admin.pages is Pages.CREDENTIAL and not may_inspect:
        reading.fault(
            "admin.pages",
            "no principal may inspect; set inspector.token, or give a client inspect:read",
        )
    presented = ("http.client_certificate_header", "http.tls_client_ca_file")
    has_issuer = config.jwt.keys is not None or reading.is_faulty("jwt.")
    has_certificates = any(map(reading.value, presented)) or reading.is_faulty(*presented)
    for who in known.principals:
        if who.subject is not None and not has_issuer:
            reading.faults.append(Fault(f"clients.{who.name}.subject", "needs an issuer in [jwt]"))
        if who.certificates and not has_certificates:
            reason = (
                "callers present none; set http.tls_client_auth and http.tls_client_ca_file, or "
                "http.client_certificate_header"
            )
            reading.faults.append(Fault(f"clients.{who.name}.certificates", reason))


# -- warnings --------------------------------------------------------------------------------------

_SHORTEST_TOKEN = 16
"""Characters of a random token that can't be guessed over a network."""


def _short_tokens(reading: Reading) -> tuple[str, ...]:
    return tuple(
        f"{name}: shorter than {_SHORTEST_TOKEN} characters, so it may be guessed; "
        "use a long random token"
        for name in _OWN
        if (token := reading.value(name)) and len(token.reveal()) < _SHORTEST_TOKEN
    )


def _nothing_reserved(config: Config, known: Clients) -> tuple[str, ...]:
    callers = sum(bool(who.permissions & _DATA) for who in known.principals)
    most = config.http.max_in_flight
    if callers < 2 or most // 2 >= callers:
        return ()
    return (
        f"http.max_in_flight = {most}: less than two for each of {callers} clients, so none are "
        f"reserved for a client; raise it to {2 * callers}",
    )


def _unreadable(config: Config) -> tuple[str, ...]:
    asked = _sizes(config)
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


# -- the parts -------------------------------------------------------------------------------------


def _server_tls(reading: Reading) -> ServerTls | None:
    http = reading.config.http
    if http.tls_cert_file is None or http.tls_key_file is None or reading.is_faulty("http.tls_"):
        return None
    try:
        return read_tls(
            TlsFiles(
                cert=http.tls_cert_file,
                key=http.tls_key_file,
                client_ca=http.tls_client_ca_file,
                client_auth=http.tls_client_auth,
            )
        )
    except TlsFault as fault:
        reading.fault(fault.setting, fault.reason)
        return None


def _server(config: Config, tls: ServerTls | None) -> ServerSettings:
    http, admin = config.http, config.admin
    return ServerSettings(
        host=http.host,
        port=http.port,
        workers=http.workers,
        grace=http.grace_seconds,
        drain=http.drain_seconds,
        limits=ConnectionLimits(
            connections=http.max_connections,
            patience=Patience(
                handshake=http.head_timeout_seconds,
                head=http.head_timeout_seconds,
                idle=http.keep_alive_seconds,
            ),
            unsent_bytes=http.max_unsent_bytes,
        ),
        tls=None if tls is None else tls.context,
        admin=None if admin.port is None else Address(admin.host or "127.0.0.1", admin.port),
    )


def _data_action(config: Config) -> DataActionSettings:
    http, data = config.http, config.data
    return DataActionSettings(
        limits=TtlLimits(data.default_ttl, data.max_ttl),
        sizes=_sizes(config).readable(),
        bounds=Bounds(data.max_elements, data.max_depth),
        deadline=data.deadline_ms / 1000,
        max_body=http.max_body_bytes,
        body_timeout=http.body_timeout_seconds,
        max_in_flight=http.max_in_flight,
        max_unfinished=http.max_unfinished_bytes,
        once_lifetime=data.idempotency_seconds,
    )


def _sizes(config: Config) -> SizeLimits:
    """Return everybody's limits of size as configured."""
    data = config.data
    return SizeLimits(
        reply=config.http.max_answer_bytes,
        value=data.max_value_bytes,
        fields=data.max_fields,
        held=data.max_elements,
    )


def store_part(config: Config) -> StoreSettings:
    """Return where Redis is, and how to talk to it."""
    redis, location, timeout = config.redis, config.redis.nodes, config.redis.reply_timeout_seconds
    tls = Tls(
        ca_file=redis.tls_ca_file,
        cert_file=redis.tls_cert_file,
        key_file=redis.tls_key_file,
        verify_hostname=redis.tls_verify_hostname,
        server_name=redis.tls_server_name,
    )
    return StoreSettings(
        nodes=location.nodes,
        username=location.username or redis.username,
        password=location.password or redis.password,
        database=redis.database if location.database is None else location.database,
        tls=tls if location.tls or redis.tls else None,
        service=location.service or redis.service,
        sentinel_username=redis.sentinel_username,
        sentinel_password=redis.sentinel_password,
        read_from=redis.read_from,
        stale_reads=redis.stale_reads,
        retry_share=redis.retry_budget,
        confirm_replicas=redis.confirm_replicas,
        connect_timeout=redis.connect_timeout_seconds,
        reply_timeout=config.data.deadline_ms / 1000 + 1.0 if timeout is None else timeout,
        refresh_interval=redis.refresh_seconds,
        max_large_reply=_sizes(config).received,
    )


def _guard(config: Config) -> GuardSettings:
    breaker, deadline = config.breaker, config.data.deadline_ms / 1000
    budget, slow, longest = breaker.min_budget_ms, breaker.slow_ms, breaker.open_max_seconds
    return GuardSettings(
        breaker=BreakerSettings(
            failures=breaker.failures,
            window=breaker.window,
            min_calls=breaker.min_calls,
            failure_rate=breaker.failure_rate,
            slow_seconds=None if slow is None else slow / 1000,
            slow_rate=breaker.slow_rate,
            open_seconds=breaker.open_seconds,
            open_max_seconds=max(60.0, breaker.open_seconds) if longest is None else longest,
            probes=breaker.probes,
            # A probe keeps its permit longer than any call can take.
            probe_seconds=deadline + 1.0,
        ),
        min_budget=deadline * 0.9 if budget is None else min(budget / 1000, deadline),
        hedge_share=config.redis.hedge_budget,
        probe_budget=deadline,
        mode=breaker.mode,
    )


def _jwt(config: Config) -> JwtSettings | None:
    jwt = config.jwt
    if jwt.keys is None or jwt.issuer is None or jwt.audience is None:
        return None
    return JwtSettings(
        issuer=jwt.issuer,
        audience=jwt.audience,
        keys=jwt.keys,
        refresh=jwt.refresh_seconds,
        leeway=jwt.leeway_seconds,
    )


def audit_part(config: Config) -> AuditSettings:
    """Return where audit records are kept, and how."""
    audit = config.audit
    return AuditSettings(
        ring=audit.memory_records,
        journal=audit.journal,
        mode=audit.mode,
        keys=audit.keys,
        hmac_secret=audit.hmac_secret,
        signing_key=audit.signing_key,
        keep_days=audit.keep_days,
        max_mb=audit.max_mb,
    )


def delivery_part(config: Config) -> DeliverySettings | None:
    """Return where audit records are delivered to; None without a destination."""
    delivery, journal = config.delivery, config.audit.journal
    if journal is None:
        return None
    stream, url = delivery.stream, delivery.url
    settings = DeliverySettings(
        journal=journal,
        stream=None if stream is None else Stream(stream.encode(), delivery.stream_max_entries),
        file=delivery.file,
        http=None if url is None else Endpoint(url, delivery.token),
        cxone=_cxone(config),
        shape=delivery.format,
        batch=delivery.batch,
        timeout=delivery.timeout_seconds,
        first_wait=delivery.retry_seconds,
        longest_wait=delivery.retry_max_seconds,
        ca_file=delivery.ca_file,
    )
    return settings if settings.names else None


def _cxone(config: Config) -> CxoneSettings | None:
    cxone = config.cxone
    if cxone.audit_path is None or cxone.client_id is None or cxone.client_secret is None:
        return None
    return CxoneSettings(
        audit_path=cxone.audit_path,
        client_id=cxone.client_id,
        client_secret=cxone.client_secret,
        api_base=cxone.api_base,
        grant=cxone.grant,
        access_key_id=cxone.access_key_id,
        access_key_secret=cxone.access_key_secret,
        tenant_id=cxone.tenant_id,
        auth_base=cxone.auth_base,
    )


def _sealing(reading: Reading, known: Clients) -> SealingSettings | None:
    """Return what is encrypted; add a fault for what would stay in clear by mistake."""
    encryption = reading.config.encryption
    if encryption.keys is None or reading.is_faulty("encryption."):
        return None
    provider = WrittenKeys(encryption.keys)
    ids = [key.id for key in provider.fetch()]
    if encryption.active_key is not None and encryption.active_key not in ids:
        reading.fault("encryption.active_key", f"no key has this id; expected {' or '.join(ids)}")
    named = tuple(each for each in encryption.namespaces or () if each != "*")
    spaces = tuple(map(namespace_prefix, named)) or None
    taken = {who.prefix for who in known.principals}
    if not reading.is_faulty("clients."):  # otherwise some clients are not known here
        for name in named:
            if namespace_prefix(name) not in taken:
                reading.fault("encryption.namespaces", f'no client has the namespace "{name}"')
    can_not = {name for name, operation in CATALOGUE.items() if not operation.works_encrypted}
    reading.faults.extend(
        Fault(f"clients.{who.name}.operations", f"{name} can't run where values are encrypted")
        for who in known.principals
        if who.operations is not None and (spaces is None or who.prefix in spaces)
        for name in sorted(who.operations & can_not)
    )
    return SealingSettings(
        provider=provider,
        active=encryption.active_key or ids[0],
        spaces=spaces,
        plaintext=encryption.plaintext,
    )
