"""What settings need of each other.

A rule is not checked while a setting that it names has a fault of its own: that says enough.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import NamedTuple

from flowcache.audit.settings import KeyNames
from flowcache.audit.settings import Mode as AuditMode
from flowcache.cxone.settings import Grant
from flowcache.encryption.settings import Plaintext
from flowcache.resilience.breaker import Unit
from flowcache.settings.declarations import Config
from flowcache.settings.declaring import toml
from flowcache.settings.reading import Reading
from flowcache.settings.server_tls import ClientAuth

__all__ = ["AT_MOST", "NEEDS", "RULES", "check"]


class Need(NamedTuple):
    """A setting that has no effect, or can't work, without one of ``one_of``.

    With ``when``, a setting and its value, only while that has this value.
    """

    name: str
    one_of: tuple[str, ...]
    when: tuple[str, str] | None = None


def _need(name: str, *needed: str, when: tuple[str, str] | None = None) -> tuple[Need, ...]:
    return tuple(Need(name, (each,), when) for each in needed)


def _value_needs(name: str, value: str, needed: str) -> Need:
    return Need(name, (needed,), (name, value))


_API = ("cxone.grant", Grant.CLIENT_CREDENTIALS)
_KEY = ("cxone.grant", Grant.ACCESS_KEY)

NEEDS: tuple[Need, ...] = (
    *_need("http.tls_cert_file", "http.tls_key_file"),
    *_need("http.tls_key_file", "http.tls_cert_file"),
    *_need("http.tls_client_ca_file", "http.tls_cert_file"),
    _value_needs("http.tls_client_auth", ClientAuth.OPTIONAL, "http.tls_client_ca_file"),
    _value_needs("http.tls_client_auth", ClientAuth.REQUIRED, "http.tls_client_ca_file"),
    *_need("http.client_certificate_header", "http.trusted_proxies"),
    *_need("admin.host", "admin.port"),
    *_need("jwt.keys", "jwt.issuer", "jwt.audience"),
    *_need("jwt.issuer", "jwt.keys"),
    *_need("jwt.audience", "jwt.keys"),
    *_need("redis.tls_cert_file", "redis.tls_key_file"),
    *_need("redis.tls_key_file", "redis.tls_cert_file"),
    *_need("breaker.slow_ms", "breaker.window"),
    _value_needs("audit.keys", KeyNames.HMAC, "audit.hmac_secret"),
    _value_needs("audit.mode", AuditMode.STRICT, "audit.journal"),
    *_need("encryption.namespaces", "encryption.keys"),
    *_need("encryption.active_key", "encryption.keys"),
    _value_needs("encryption.plaintext", Plaintext.READ, "encryption.keys"),
    _value_needs("encryption.plaintext", Plaintext.WRITE, "encryption.keys"),
    *_need("delivery.stream", "audit.journal"),
    *_need("delivery.file", "audit.journal"),
    *_need("delivery.url", "audit.journal"),
    *_need("delivery.token", "delivery.url"),
    *_need("cxone.audit_path", "audit.journal", "cxone.client_id", "cxone.client_secret"),
    *_need("cxone.audit_path", "cxone.api_base", when=_API),
    *_need("cxone.audit_path", "cxone.access_key_id", "cxone.access_key_secret", when=_KEY),
    Need("cxone.audit_path", ("cxone.api_base", "cxone.tenant_id"), when=_KEY),
)

AT_MOST: tuple[tuple[str, str], ...] = (
    ("http.max_body_bytes", "http.max_unfinished_bytes"),
    ("data.default_ttl", "data.max_ttl"),
    ("breaker.open_seconds", "breaker.open_max_seconds"),
    ("delivery.retry_seconds", "delivery.retry_max_seconds"),
)
"""Pairs of settings, of which the first may not be greater than the second."""


class Rule(NamedTuple):
    """Any other rule: ``broken`` returns the reason of a fault of the first of ``names``."""

    names: tuple[str, ...]
    broken: Callable[[Config], str | None]


def _shares_the_port(config: Config) -> str | None:
    own, public = config.admin.host or "127.0.0.1", config.http.host
    is_same = own == public or {own, public} & {"0.0.0.0", "::"}  # noqa: S104
    if config.admin.port == config.http.port and is_same:
        return "the same address as http.port; choose another port"
    return None


def _opens_nothing(config: Config) -> str | None:
    if config.breaker.failures == 0 and config.breaker.window is None:
        return (
            "nothing would open a circuit; set breaker.window, or set "
            'breaker.mode = "disabled" to run without circuit breakers'
        )
    return None


def _exceeds_the_window(config: Config) -> str | None:
    window = config.breaker.window
    held = window.size if window is not None and window.unit is Unit.CALLS else math.inf
    if config.breaker.min_calls > held:
        return f'more than breaker.window = "{window}" ever holds'
    return None


def _is_never_slow(config: Config) -> str | None:
    slow, deadline = config.breaker.slow_ms, config.data.deadline_ms
    if slow is not None and slow >= deadline:
        return f"no call takes longer than data.deadline_ms = {deadline}"
    return None


def _resets_too_early(config: Config) -> str | None:
    timeout, deadline = config.redis.reply_timeout_seconds, config.data.deadline_ms
    if timeout is not None and timeout * 1000 < deadline:
        return f"shorter than data.deadline_ms = {deadline}"
    return None


def _asks_nobody(config: Config) -> str | None:
    has_authorities = config.http.tls_client_ca_file is not None
    if has_authorities and config.http.tls_client_auth is ClientAuth.OFF:
        return "not used while http.tls_client_auth is off; set that to optional or required"
    return None


def _overwrites_the_journal(config: Config) -> str | None:
    if config.audit.journal is None or config.delivery.file is None:
        return None
    own, there = os.path.realpath(config.audit.journal), os.path.realpath(config.delivery.file)
    if there == own or there.startswith(f"{own}-"):
        return "is audit.journal, or has the name of a file that belongs to it"
    return None


RULES: tuple[Rule, ...] = (
    Rule(("admin.port", "admin.host", "http.host", "http.port"), _shares_the_port),
    Rule(("breaker.failures", "breaker.window"), _opens_nothing),
    Rule(("breaker.min_calls", "breaker.window"), _exceeds_the_window),
    Rule(("breaker.slow_ms", "data.deadline_ms"), _is_never_slow),
    Rule(("redis.reply_timeout_seconds", "data.deadline_ms"), _resets_too_early),
    Rule(("http.tls_client_ca_file", "http.tls_client_auth"), _asks_nobody),
    Rule(("delivery.file", "audit.journal"), _overwrites_the_journal),
)


def check(reading: Reading, *sections: str) -> None:
    """Add a fault for each broken rule; with ``sections``, only for rules of their settings."""

    def concerns(*names: str) -> bool:
        is_wanted = not sections or names[0].partition(".")[0] in sections
        return is_wanted and not reading.is_faulty(*names)

    missing = [
        (name, one_of)
        for name, one_of, when in NEEDS
        if reading.value(name) is not None
        and all(reading.value(each) is None for each in one_of)
        and (when is None or (reading.value(when[0]) == when[1] and not reading.is_faulty(when[0])))
        and concerns(name, *one_of)
    ]
    for name, one_of in missing:  # afterwards: one setting may lack several others
        reading.fault(name, f"needs {' or '.join(one_of)}")
    for low, high in AT_MOST:
        most = reading.value(high)
        if concerns(low, high) and most is not None and reading.value(low) > most:
            reading.fault(low, f"greater than {high} = {toml(most)}")
    for names, broken in RULES:
        if concerns(*names) and (reason := broken(reading.config)) is not None:
            reading.fault(names[0], reason)
