"""The configuration: where values come from, what is refused, what is never shown."""

from __future__ import annotations

import itertools
import json
import os
import re
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from flowcache.audit.settings import KeyNames
from flowcache.audit.settings import Mode as AuditMode
from flowcache.authn.tokens import digest
from flowcache.authz.keys import ALL_KEYS
from flowcache.authz.permissions import Permission
from flowcache.cxone.settings import Grant
from flowcache.delivery.settings import Endpoint, Shape, Stream
from flowcache.encryption.settings import Plaintext
from flowcache.ratelimit.buckets import Rate
from flowcache.resilience.breaker import Mode, Unit, Window
from flowcache.secret import Secret, SecretInFile
from flowcache.settings import (
    SETTINGS,
    ConfigurationError,
    Setting,
    Settings,
    audit_settings,
    load,
)
from flowcache.settings.reading import service_links
from flowcache.store.settings import Address, ReadFrom, Tls
from tests.envelopes import KEYS, line

TOKEN = {"SERVICE_BEARER_TOKEN": "flow-token"}
PEM = str(Path(__file__).resolve())
OTHER_PEM = str(Path(hypothesis.__file__).resolve())
"""Two files that can be read: what is in them is looked at when Redis is connected to."""
OWN_PEM = str(Path(__file__).with_name("some.pem"))
SAME_PEM = str(Path(__file__).parent / ".." / "unit" / "some.pem")
"""A certificate and its key, by two names: of what is served with, the files are read at once."""
JOURNAL = str(Path(__file__).with_name("audit.db"))
"""A file that is not there, in a directory that is."""
KEY_FILE = Path(__file__).with_name("some.key")
KEY = KEY_FILE.read_text().strip()
KEYS_FILE = Path(__file__).with_name("some.keys")
LONG_SECRET = "0123456789abcdef" * 2

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    path = tmp_path / "flowcache.toml"

    def write(text: str) -> Path:
        path.write_text(text, "utf-8")
        return path

    return write


def loaded(environment: dict[str, str] | None = None, file: Path | None = None) -> Settings:
    return load(file, TOKEN | (environment or {}))


def faults(file: Path | None, *arguments: Any) -> list[str]:
    """Return the faults as they are reported, but without the name of the file as a source."""
    with pytest.raises(ConfigurationError) as caught:
        load(file, *arguments)
    return [str(fault).replace(f" ({file})", "") for fault in caught.value.faults]


def faults_of(variable: str, text: str) -> list[str]:
    return faults(None, TOKEN | {variable: text})


# -- defaults --------------------------------------------------------------------------------------


def test_the_defaults_are_those_of_the_product() -> None:
    """A token is all that has to be configured."""
    settings = loaded()
    assert (settings.server.host, settings.server.port) == ("127.0.0.1", 3000)
    assert settings.data_action.limits.default_ttl == 3600
    assert settings.data_action.deadline == 0.8
    assert settings.data_action.max_body == 256 * 1024
    assert (settings.guard.breaker.failures, settings.guard.breaker.open_seconds) == (5, 10.0)
    assert settings.store.nodes == (Address("127.0.0.1", 6379),)
    assert settings.store.read_from is ReadFrom.PRIMARY
    assert settings.store.tls is None


@pytest.mark.parametrize("row", SETTINGS, ids=lambda row: row.name)
def test_a_default_is_a_value_that_could_be_configured(row: Setting) -> None:
    """No default is one that its own reader would refuse."""
    if row.default is not None:
        row.kind.read(row.default)


def test_names_are_not_ambiguous() -> None:
    """No key and no variable stands for two settings."""
    variables = [name for row in SETTINGS for name in (row.variable, *row.names)]
    assert len(variables) == len(set(variables))
    assert len({row.name for row in SETTINGS}) == len(SETTINGS)


def test_a_probe_outlasts_every_call() -> None:
    """The breaker gives a probe more time than any call has, whatever the deadline."""
    for ms in ("5", "800", "60000"):
        settings = loaded({"FLOWCACHE_DATA_DEADLINE_MS": ms})
        assert settings.guard.breaker.probe_seconds > settings.data_action.deadline


def test_a_timeout_at_the_full_deadline_always_counts() -> None:
    """Whatever is configured, a call that had all of the time tells something about Redis."""
    for deadline, budget in itertools.product(("5", "800", "60000"), ("", "0", "700", "60000")):
        settings = loaded(
            {
                "FLOWCACHE_DATA_DEADLINE_MS": deadline,
                "FLOWCACHE_BREAKER_MIN_BUDGET_MS": budget,
            }
        )
        assert settings.guard.min_budget <= settings.data_action.deadline
    assert 0.7 < loaded().guard.min_budget < 0.8


def test_a_connection_is_given_more_time_than_any_call() -> None:
    """A late reply ends its call first, and its connection only later."""
    for ms in ("5", "800", "60000"):
        settings = loaded({"FLOWCACHE_DATA_DEADLINE_MS": ms})
        assert settings.store.reply_timeout > settings.data_action.deadline
    (fault,) = faults_of("FLOWCACHE_REDIS_REPLY_TIMEOUT_SECONDS", "0.7")
    assert all(told in fault for told in ("redis.reply_timeout_seconds", "0.7", "data.deadline_ms"))


def test_a_body_may_be_held_until_it_is_complete() -> None:
    """No body that is within its own limit could be over that of all bodies together."""
    at_least = {"FLOWCACHE_HTTP_MAX_UNFINISHED_BYTES": "65536"}
    (fault,) = faults(None, TOKEN | at_least)
    assert all(told in fault for told in ("http.max_unfinished_bytes", "65536", "262144"))
    assert loaded(at_least | {"FLOWCACHE_HTTP_MAX_BODY_BYTES": "65536"})


# -- every row, by every name ----------------------------------------------------------------------

Read = Callable[[Settings], object]


def in_shown(name: str) -> Read:
    section, _, key = name.partition(".")
    return lambda settings: settings.shown[section][key]


def in_tls(read: Callable[[Tls], object]) -> Read:
    return lambda settings: settings.store.tls and read(settings.store.tls)


def verifies(settings: Settings) -> object:
    """Return whether callers show a certificate."""
    tls = settings.tls
    return tls and tls.context.verify_mode


def in_delivery(field: str) -> Read:
    return lambda settings: settings.delivery and getattr(settings.delivery, field)


def in_cxone(field: str) -> Read:
    return lambda settings: settings.delivery and getattr(settings.delivery.cxone, field)


CXONE = {
    "FLOWCACHE_CXONE_AUDIT_PATH": "/audit",
    "FLOWCACHE_CXONE_API_BASE": "https://api-us-1",
    "FLOWCACHE_CXONE_CLIENT_ID": "client",
    "FLOWCACHE_CXONE_CLIENT_SECRET": "secret",
    "FLOWCACHE_CXONE_ACCESS_KEY_ID": "key-id",
    "FLOWCACHE_CXONE_ACCESS_KEY_SECRET": "key-secret",
}
CXONE_ROWS = {
    "cxone.audit_path": None,
    "cxone.api_base": None,
    "cxone.grant": None,
    "cxone.client_id": None,
    "cxone.access_key_id": None,
    "cxone.access_key_secret": None,
    "cxone.access_key_secret_file": "FLOWCACHE_CXONE_ACCESS_KEY_SECRET",
    "cxone.tenant_id": None,
    "cxone.auth_base": None,
}
"""Rows that show only beside the others of CXONE, and which of these stands in the way."""

ISSUER = {
    "FLOWCACHE_JWT_KEYS": "https://idp/jwks",
    "FLOWCACHE_JWT_ISSUER": "https://idp/",
    "FLOWCACHE_JWT_AUDIENCE": "flowcache",
}


def has_token(settings: Settings, token: str) -> bool:
    """Tell whether ``token`` is somebody's."""
    return digest(token.encode()) in [each.token.digest for each in settings.credentials]


ROWS: dict[str, tuple[str, Read, object]] = {
    "http.host": ("0.0.0.0", lambda s: s.server.host, "0.0.0.0"),
    "http.port": ("8080", lambda s: s.server.port, 8080),
    "http.workers": ("4", lambda s: s.server.workers, 4),
    "http.grace_seconds": ("2.5", lambda s: s.server.grace, 2.5),
    "http.drain_seconds": ("0.5", lambda s: s.server.drain, 0.5),
    "http.max_connections": ("99", lambda s: s.server.limits.connections, 99),
    "http.keep_alive_seconds": ("620", lambda s: s.server.limits.patience.idle, 620.0),
    "http.head_timeout_seconds": ("1.5", lambda s: s.server.limits.patience.head, 1.5),
    "http.max_in_flight": ("77", lambda s: s.data_action.max_in_flight, 77),
    "http.max_unfinished_bytes": ("1048576", lambda s: s.data_action.max_unfinished, 1048576),
    "http.max_unsent_bytes": ("1048576", lambda s: s.server.limits.unsent_bytes, 1048576),
    "http.max_body_bytes": ("2048", lambda s: s.data_action.max_body, 2048),
    "http.body_timeout_seconds": ("1.5", lambda s: s.data_action.body_timeout, 1.5),
    "http.max_answer_bytes": ("4096", lambda s: s.data_action.sizes.reply, 4096),
    "http.trusted_proxies": (
        "10.0.0.0/8, ::1",
        lambda s: [s.gate.proxies.hold(each) for each in ("10.1.2.3", "::1", "11.0.0.1")],
        [True, True, False],
    ),
    "http.tls_cert_file": (OWN_PEM, lambda s: s.tls and s.tls.cert, OWN_PEM),
    "http.tls_key_file": (OWN_PEM, in_shown("http.tls_key_file"), OWN_PEM),
    "http.tls_client_auth": ("required", verifies, ssl.CERT_REQUIRED),
    "http.tls_client_ca_file": (OWN_PEM, in_shown("http.tls_client_ca_file"), OWN_PEM),
    "http.client_certificate_header": (
        "Client-Cert",
        lambda s: s.gate.certificate_header,
        b"client-cert",
    ),
    "admin.host": ("10.0.0.1", lambda s: s.server.admin, ("10.0.0.1", 3001)),
    "admin.port": ("3001", lambda s: s.server.admin, ("127.0.0.1", 3001)),
    "admin.pages": ("credential", lambda s: s.pages_need_credential, True),
    "auth.failures_per_minute": ("90", lambda s: s.gate.failures, Rate(1.5, 90)),
    "auth.shared_rates": ("true", lambda s: s.gate.shared_rates, True),
    "auth.token": ("other-token", lambda s: has_token(s, "other-token"), True),
    "auth.token_file": (str(KEY_FILE), lambda s: has_token(s, KEY), True),
    "inspector.token": ("see", lambda s: has_token(s, "see"), True),
    "inspector.token_file": (str(KEY_FILE), lambda s: has_token(s, KEY), True),
    "inspector.control_token": ("turn", lambda s: has_token(s, "turn"), True),
    "inspector.control_token_file": (str(KEY_FILE), lambda s: has_token(s, KEY), True),
    "jwt.keys": ("https://idp/keys", lambda s: s.jwt and s.jwt.keys, "https://idp/keys"),
    "jwt.issuer": ("iss", lambda s: s.jwt and s.jwt.issuer, "iss"),
    "jwt.audience": ("aud", lambda s: s.jwt and s.jwt.audience, "aud"),
    "jwt.refresh_seconds": ("60", lambda s: s.jwt and s.jwt.refresh, 60.0),
    "jwt.leeway_seconds": ("0.5", lambda s: s.jwt and s.jwt.leeway, 0.5),
    "redis.nodes": (
        "a:1, b:2",
        lambda s: s.store.nodes,
        (Address("a", 1), Address("b", 2)),
    ),
    "redis.username": ("ada", lambda s: s.store.username, "ada"),
    "redis.password": ("pä ss", lambda s: s.store.password and s.store.password.reveal(), "pä ss"),
    "redis.password_file": (str(KEY_FILE), lambda s: s.store.password, Secret(KEY)),
    "redis.database": ("3", lambda s: s.store.database, 3),
    "redis.service": ("main", lambda s: s.store.service, "main"),
    "redis.sentinel_username": ("sen", lambda s: s.store.sentinel_username, "sen"),
    "redis.sentinel_password": (
        "tinel",
        lambda s: s.store.sentinel_password and s.store.sentinel_password.reveal(),
        "tinel",
    ),
    "redis.sentinel_password_file": (
        str(KEY_FILE),
        lambda s: s.store.sentinel_password,
        Secret(KEY),
    ),
    "redis.tls": ("true", lambda s: s.store.tls, Tls()),
    "redis.tls_ca_file": (PEM, in_tls(lambda tls: tls.ca_file), PEM),
    "redis.tls_cert_file": (PEM, in_tls(lambda tls: tls.cert_file), PEM),
    "redis.tls_key_file": (PEM, in_tls(lambda tls: tls.key_file), PEM),
    "redis.tls_verify_hostname": ("false", in_tls(lambda tls: tls.verify_hostname), False),
    "redis.tls_server_name": ("redis.test", in_tls(lambda tls: tls.server_name), "redis.test"),
    "redis.read_from": ("replica", lambda s: s.store.read_from, ReadFrom.REPLICA),
    "redis.stale_reads": ("false", lambda s: s.store.stale_reads, False),
    "redis.hedge_budget": ("0.25", lambda s: s.guard.hedge_share, 0.25),
    "redis.retry_budget": ("0", lambda s: s.store.retry_share, 0.0),
    "redis.confirm_replicas": ("1", lambda s: s.store.confirm_replicas, 1),
    "redis.connect_timeout_seconds": ("0.5", lambda s: s.store.connect_timeout, 0.5),
    "redis.reply_timeout_seconds": ("1.5", lambda s: s.store.reply_timeout, 1.5),
    "redis.refresh_seconds": ("30", lambda s: s.store.refresh_interval, 30.0),
    "data.default_ttl": ("60", lambda s: s.data_action.limits.default_ttl, 60),
    "data.max_ttl": ("7200", lambda s: s.data_action.limits.max_ttl, 7200),
    "data.max_value_bytes": ("7200", lambda s: s.data_action.sizes.value, 7200),
    "data.max_fields": ("72", lambda s: s.data_action.sizes.fields, 72),
    "data.deadline_ms": ("250", lambda s: s.data_action.deadline, 0.25),
    "data.max_elements": ("500", lambda s: s.data_action.bounds.max_elements, 500),
    "data.max_depth": ("12", lambda s: s.data_action.bounds.max_depth, 12),
    "data.idempotency_seconds": ("60", lambda s: s.data_action.once_lifetime, 60),
    "breaker.failures": ("3", lambda s: s.guard.breaker.failures, 3),
    "breaker.window": ("30 seconds", lambda s: s.guard.breaker.window, Window(30, Unit.SECONDS)),
    "breaker.min_calls": ("50", lambda s: s.guard.breaker.min_calls, 50),
    "breaker.failure_rate": ("0.25", lambda s: s.guard.breaker.failure_rate, 0.25),
    "breaker.slow_ms": ("200", lambda s: s.guard.breaker.slow_seconds, 0.2),
    "breaker.slow_rate": ("0.75", lambda s: s.guard.breaker.slow_rate, 0.75),
    "breaker.open_seconds": ("2.5", lambda s: s.guard.breaker.open_seconds, 2.5),
    "breaker.open_max_seconds": ("120", lambda s: s.guard.breaker.open_max_seconds, 120.0),
    "breaker.probes": ("3", lambda s: s.guard.breaker.probes, 3),
    "breaker.mode": ("observe", lambda s: s.guard.mode, Mode.OBSERVE),
    "breaker.min_budget_ms": ("50", lambda s: s.guard.min_budget, 0.05),
    "audit.memory_records": ("5", lambda s: s.audit.ring, 5),
    "audit.journal": (JOURNAL, lambda s: s.audit.journal, Path(JOURNAL)),
    "audit.mode": ("strict", lambda s: s.audit.mode, AuditMode.STRICT),
    "audit.keys": ("masked", lambda s: s.audit.keys, KeyNames.MASKED),
    "audit.hmac_secret": (LONG_SECRET, lambda s: s.audit.hmac_secret, Secret(LONG_SECRET)),
    "audit.hmac_secret_file": (str(KEY_FILE), lambda s: s.audit.hmac_secret, Secret(KEY)),
    "audit.signing_key": (LONG_SECRET, lambda s: s.audit.signing_key, Secret(LONG_SECRET)),
    "audit.signing_key_file": (str(KEY_FILE), lambda s: s.audit.signing_key, Secret(KEY)),
    "audit.keep_days": ("30", lambda s: s.audit.keep_days, 30),
    "audit.max_mb": ("64", lambda s: s.audit.max_mb, 64),
    "encryption.namespaces": ("*", in_shown("encryption.namespaces"), ["*"]),
    "encryption.keys": (line("k2"), lambda s: s.sealing and s.sealing.active, "k2"),
    "encryption.keys_file": (str(KEYS_FILE), lambda s: s.sealing and s.sealing.active, "k1"),
    "encryption.active_key": ("k3", lambda s: s.sealing and s.sealing.active, "k3"),
    "encryption.plaintext": (
        "read",
        lambda s: s.sealing and s.sealing.plaintext,
        Plaintext.READ,
    ),
    "log.level": ("debug", lambda s: s.log_level, "debug"),
    "delivery.stream": ("audit", in_delivery("stream"), Stream(b"audit", 1_000_000)),
    "delivery.stream_max_entries": ("50", in_delivery("stream"), Stream(b"audit", 50)),
    "delivery.file": ("-", in_delivery("file"), "-"),
    "delivery.url": ("https://siem/in/", in_delivery("http"), Endpoint("https://siem/in/")),
    "delivery.token": (
        "hush",
        in_delivery("http"),
        Endpoint("https://siem", Secret("hush")),
    ),
    "delivery.token_file": (
        str(KEY_FILE),
        in_delivery("http"),
        Endpoint("https://siem", Secret(KEY)),
    ),
    "delivery.format": ("json", in_delivery("shape"), Shape.JSON),
    "delivery.ca_file": (PEM, in_delivery("ca_file"), PEM),
    "delivery.batch": ("7", in_delivery("batch"), 7),
    "delivery.timeout_seconds": ("3", in_delivery("timeout"), 3.0),
    "delivery.retry_seconds": ("0.5", in_delivery("first_wait"), 0.5),
    "delivery.retry_max_seconds": ("30", in_delivery("longest_wait"), 30.0),
    "cxone.audit_path": ("/in", in_cxone("audit_path"), "/in"),
    "cxone.api_base": ("https://api/", in_cxone("api_base"), "https://api"),
    "cxone.grant": ("access_key", in_cxone("grant"), Grant.ACCESS_KEY),
    "cxone.client_id": ("id", in_cxone("client_id"), "id"),
    "cxone.client_secret": ("hush", in_shown("cxone.client_secret"), "***"),
    "cxone.client_secret_file": (str(KEY_FILE), in_shown("cxone.client_secret"), "***"),
    "cxone.access_key_id": ("key", in_cxone("access_key_id"), "key"),
    "cxone.access_key_secret": ("hush", in_cxone("access_key_secret"), Secret("hush")),
    "cxone.access_key_secret_file": (str(KEY_FILE), in_cxone("access_key_secret"), Secret(KEY)),
    "cxone.tenant_id": ("t-1", in_cxone("tenant_id"), "t-1"),
    "cxone.auth_base": ("https://auth", in_cxone("auth_base"), "https://auth"),
}
"""Setting -> a text for it that is not the default, where it shows, and what shows there."""

PAIR = {
    "FLOWCACHE_REDIS_TLS": "yes",
    "FLOWCACHE_REDIS_TLS_CERT_FILE": OTHER_PEM,
    "FLOWCACHE_REDIS_TLS_KEY_FILE": OTHER_PEM,
}
HTTPS = {
    "FLOWCACHE_HTTP_TLS_CERT_FILE": SAME_PEM,
    "FLOWCACHE_HTTP_TLS_KEY_FILE": SAME_PEM,
}
CALLERS = HTTPS | {
    "FLOWCACHE_HTTP_TLS_CLIENT_AUTH": "optional",
    "FLOWCACHE_HTTP_TLS_CLIENT_CA_FILE": SAME_PEM,
}
ENCRYPTION = {"FLOWCACHE_ENCRYPTION_KEYS": KEYS}
NEEDS = {
    "http.tls_cert_file": HTTPS,
    "http.tls_key_file": HTTPS,
    "http.tls_client_auth": CALLERS,
    "http.tls_client_ca_file": CALLERS,
    "http.client_certificate_header": {"FLOWCACHE_HTTP_TRUSTED_PROXIES": "10.0.0.0/8"},
    "admin.host": {"FLOWCACHE_ADMIN_PORT": "3001"},
    "admin.pages": {"FLOWCACHE_INSPECTOR_TOKEN": "x" * 32},
    "redis.tls_ca_file": {"FLOWCACHE_REDIS_TLS": "true"},
    "redis.tls_verify_hostname": {"FLOWCACHE_REDIS_TLS": "true"},
    "redis.tls_server_name": {"FLOWCACHE_REDIS_TLS": "true"},
    "redis.tls_cert_file": PAIR,
    "redis.tls_key_file": PAIR,
    "breaker.slow_ms": {"FLOWCACHE_BREAKER_WINDOW": "100 calls"},
    **dict.fromkeys([f"jwt.{name}" for name in ("keys", "issuer", "audience")], ISSUER),
    **dict.fromkeys([f"jwt.{name}_seconds" for name in ("refresh", "leeway")], ISSUER),
    "audit.mode": {"FLOWCACHE_AUDIT_JOURNAL": JOURNAL},
    **{
        name: {"FLOWCACHE_AUDIT_JOURNAL": JOURNAL} | needed
        for name, needed in {
            "delivery.stream": {},
            "delivery.stream_max_entries": {"FLOWCACHE_DELIVERY_STREAM": "audit"},
            "delivery.file": {},
            "delivery.url": {},
            **{
                name: {"FLOWCACHE_DELIVERY_URL": "https://siem"}
                for name in (
                    "delivery.token",
                    "delivery.token_file",
                    "delivery.format",
                    "delivery.ca_file",
                    "delivery.batch",
                    "delivery.timeout_seconds",
                    "delivery.retry_seconds",
                    "delivery.retry_max_seconds",
                )
            },
            **{
                name: {variable: value for variable, value in CXONE.items() if variable != but}
                for name, but in CXONE_ROWS.items()
            },
        }.items()
    },
    **dict.fromkeys(
        ("encryption.namespaces", "encryption.active_key", "encryption.plaintext"), ENCRYPTION
    ),
}
"""What else must be configured for a setting to show."""

every_row = pytest.mark.parametrize("row", SETTINGS, ids=lambda row: row.name)


def as_toml(text: str) -> str:
    """Return what an environment variable says as TOML says it: numbers and flags bare."""
    is_bare = re.fullmatch(r"\d+(\.\d+)?|true|false", text)
    return text if is_bare else json.dumps(text, ensure_ascii=False)


def token_for(row: Setting) -> dict[str, str]:
    """Return a credential to configure beside ``row``: none where the row is one itself."""
    return {} if row.name in ("auth.token", "auth.token_file") else TOKEN


def test_every_row_is_tried() -> None:
    """The table of these tests is that of the code."""
    assert list(ROWS) == [row.name for row in SETTINGS]


@every_row
def test_every_row_can_be_set_in_the_environment(row: Setting) -> None:
    """``FLOWCACHE_<SECTION>_<KEY>`` works for whatever can be configured."""
    text, read, expected = ROWS[row.name]
    needed = NEEDS.get(row.name, {})
    variable = f"FLOWCACHE_{row.section}_{row.key}".upper()
    assert read(loaded(needed)) != expected
    assert read(load(None, token_for(row) | needed | {variable: text})) == expected


@every_row
def test_every_row_can_be_set_in_the_file(row: Setting, write: Write) -> None:
    """``[section] key`` works for whatever can be configured."""
    text, read, expected = ROWS[row.name]
    needed = {name: v for name, v in NEEDS.get(row.name, {}).items() if name != row.variable}
    file = write(f"[{row.section}]\n{row.key} = {as_toml(text)}\n")
    assert read(load(file, token_for(row) | needed)) == expected


@every_row
def test_the_environment_has_more_say_than_the_file_and_an_override_the_most(
    row: Setting, write: Write
) -> None:
    """File, environment, command line: the later one counts, for whatever can be configured."""
    text, read, expected = ROWS[row.name]
    needed = {name: v for name, v in NEEDS.get(row.name, {}).items() if name != row.variable}
    environment, wrong = token_for(row) | needed, {row.variable: "unread"}
    file = write(f'[{row.section}]\n{row.key} = "unread"\n')
    assert read(load(file, environment | {row.variable: text})) == expected
    assert read(load(file, environment | wrong, {row.name: text})) == expected


def test_a_bad_value_is_shown_in_part() -> None:
    """A file that was taken for a value fills no log."""
    (fault,) = faults_of("FLOWCACHE_HTTP_PORT", "x" * 10_000)
    assert fault.startswith('http.port (FLOWCACHE_HTTP_PORT) = "xxx')
    assert len(fault) < 400


def test_who_reads_a_journal_is_told_of_the_audit_only(write: Write) -> None:
    """What is wrong with the rest keeps the service from starting, and nobody from reading."""
    file = write('[http]\nport = "none"\n[audit]\njournal = "audit.db"\n')
    assert str(audit_settings(file, {}).journal).endswith("audit.db")
    file = write('[http]\nport = "none"\n[audit]\nkeep_days = "none"\n')
    with pytest.raises(ConfigurationError) as caught:
        audit_settings(file, {})
    assert [fault.path for fault in caught.value.faults] == ["audit.keep_days"]


def test_our_own_name_has_more_say_than_the_seeds() -> None:
    """And `REDIS_NODES` more than `REDIS_URL`: who sets both is moving to the former."""
    names = ("FLOWCACHE_REDIS_NODES", "REDIS_NODES", "REDIS_URL")
    for first, *others in (names, names[1:]):
        environment = {first: "first:6379"} | dict.fromkeys(others, "other:6379")
        (node,) = loaded(environment).store.nodes
        assert node.host == "first"


@pytest.mark.parametrize(
    ("variable", "name"),
    [
        ("REDIS_NODES", "redis.nodes"),
        ("REDIS_URL", "redis.nodes"),
        ("SERVICE_BEARER_TOKEN", "auth.token"),
        ("CXONE_API_BASE", "cxone.api_base"),
        ("CXONE_CLIENT_ID", "cxone.client_id"),
        ("CXONE_CLIENT_SECRET", "cxone.client_secret"),
        ("FLOWCACHE_HOST", "http.host"),
        ("FLOWCACHE_PORT", "http.port"),
        ("FLOWCACHE_WORKERS", "http.workers"),
    ],
)
def test_the_names_of_the_seed_work_as_they_stand(variable: str, name: str) -> None:
    """A deployment of the seed needs no new variables."""
    text, read, expected = ROWS[name]
    own = f"FLOWCACHE_{name}".replace(".", "_").upper()
    needed = {other: value for other, value in NEEDS.get(name, {}).items() if other != own}
    assert read(loaded(needed | {variable: text})) == expected


def test_an_empty_variable_is_none() -> None:
    """A variable that is set to nothing, as templates do, leaves the default."""
    assert loaded({row.variable: "" for row in SETTINGS}).shown == loaded().shown


def test_a_fallback_stands_in_for_a_default_only(write: Write) -> None:
    """A fallback counts where nothing is configured, and nowhere else."""
    fallback = {"auth.token": "made-up"}
    assert has_token(load(None, {}, None, fallback), "made-up")
    assert has_token(load(None, TOKEN, None, fallback), "flow-token")
    assert has_token(load(write('[auth]\ntoken = "filed"'), {}, None, fallback), "filed")
    assert has_token(load(None, {}, {"auth.token": "given"}, fallback), "given")


def test_an_override_of_nothing_overrides_nothing() -> None:
    """An option that was left out on the command line leaves the rest its say."""
    assert load(None, TOKEN | {"FLOWCACHE_PORT": "8080"}, {"http.port": None}).server.port == 8080


def test_nodes_may_be_a_list_in_the_file(write: Write) -> None:
    """In TOML, several nodes are a list or a text, as one likes."""
    file = write('[redis]\nnodes = ["a:1", "[::1]:2"]')
    assert loaded(file=file).store.nodes == (Address("a", 1), Address("::1", 2))


def test_a_url_says_all_about_redis_and_has_the_last_word() -> None:
    """What the URL says counts; what it leaves out may be configured beside it."""
    store = loaded(
        {
            "REDIS_URL": "rediss+sentinel://ada:s%40e@a:1,b/main/4",
            "FLOWCACHE_REDIS_USERNAME": "eve",
            "FLOWCACHE_REDIS_DATABASE": "7",
            "FLOWCACHE_REDIS_SENTINEL_USERNAME": "sen",
        }
    ).store
    assert store.nodes == (Address("a", 1), Address("b", 26379))
    assert store.password is not None
    assert (store.username, store.password.reveal(), store.database) == ("ada", "s@e", 4)
    assert (store.service, store.sentinel_username, store.tls) == ("main", "sen", Tls())


@pytest.mark.parametrize("password", ["a/b", "a?b", "a#b", "a@b", "a:b", "@", "[", "a%b", "a%40b"])
def test_a_password_in_a_url_may_hold_anything(password: str) -> None:
    """What a URL would want escaped may stand as it is; what is escaped is unescaped."""
    store = loaded({"REDIS_URL": f"redis://ada:{password}@cache:1/2"}).store
    assert store.password is not None
    assert store.password.reveal() == password.replace("%40", "@")
    assert (store.username, store.nodes, store.database) == ("ada", (Address("cache", 1),), 2)


@pytest.mark.parametrize(
    ("text", "window"),
    [
        ("off", None),
        ("1 calls", Window(1, Unit.CALLS)),
        ("100000 calls", Window(100_000, Unit.CALLS)),
        ("3600 seconds", Window(3600, Unit.SECONDS)),
    ],
)
def test_a_window_is_a_number_and_its_unit(text: str, window: Window | None) -> None:
    """One key, as one says it; it can't contradict another."""
    variables = {"FLOWCACHE_BREAKER_WINDOW": text, "FLOWCACHE_BREAKER_MIN_CALLS": "1"}
    assert loaded(variables).guard.breaker.window == window


@pytest.mark.parametrize(
    "text",
    [
        *("100", "calls", "0 calls", "-1 calls", "1.5 seconds", "100001 calls", "3601 seconds"),
        *("100 call", "100  calls", "100 calls 30 seconds", "\u0663 calls", "9" * 5000 + " calls"),
    ],
)
def test_what_is_no_window_is_a_fault(text: str) -> None:
    """Whatever else is written is told, with what would do."""
    (fault,) = faults_of("FLOWCACHE_BREAKER_WINDOW", text)
    assert fault.endswith('"1 calls" to "100000 calls", "1 seconds" to "3600 seconds", or "off"')


def test_a_circuit_stays_open_a_minute_at_most_or_as_long_as_it_first_does() -> None:
    """A first open time of more than a minute needs no second setting."""
    for text, longest in (("10", 60.0), ("60", 60.0), ("120", 120.0)):
        settings = loaded({"FLOWCACHE_BREAKER_OPEN_SECONDS": text})
        assert settings.guard.breaker.open_max_seconds == longest


def test_an_inspector_shows_the_window_as_it_is_written() -> None:
    """What is shown can be pasted into a file."""
    for text in ("30 seconds", "100 calls"):
        variables = {"FLOWCACHE_BREAKER_WINDOW": text}
        assert loaded(variables).shown["breaker"]["window"] == text


# -- faults ----------------------------------------------------------------------------------------

BAD: dict[str, str] = {
    "http.trusted_proxies": "10.0.0.1/8",
    "http.tls_cert_file": "no/such.pem",
    "http.tls_key_file": "no/such.pem",
    "http.tls_client_auth": "sometimes",
    "http.tls_client_ca_file": "no/such.pem",
    "http.client_certificate_header": "authorization",
    "jwt.keys": "no/such.json",
    "jwt.issuer": " ",
    "jwt.audience": " ",
    "jwt.refresh_seconds": "0",
    "jwt.leeway_seconds": "61",
    "admin.host": "  ",
    "admin.port": "0",
    "admin.pages": "closed",
    "auth.failures_per_minute": "0",
    "auth.shared_rates": "sometimes",
    "http.host": "  ",
    "http.port": "70000",
    "http.workers": "0",
    "http.grace_seconds": "0",
    "http.drain_seconds": "-1",
    "http.max_connections": "0",
    "http.keep_alive_seconds": "0.5",
    "http.head_timeout_seconds": "0",
    "http.max_in_flight": "0",
    "http.max_unfinished_bytes": "32M",
    "http.max_unsent_bytes": "1",
    "http.max_body_bytes": "1k",
    "http.body_timeout_seconds": "nan",
    "http.max_answer_bytes": "-1",
    "redis.nodes": "cache:port",
    "redis.username": " ",
    "redis.database": "99999",
    "redis.service": " ",
    "redis.sentinel_username": " ",
    "redis.tls": "on",
    "redis.tls_ca_file": "no/such.pem",
    "redis.tls_cert_file": "no/such.pem",
    "redis.tls_key_file": "no/such.pem",
    "redis.tls_verify_hostname": "maybe",
    "redis.tls_server_name": " ",
    "redis.read_from": "both",
    "redis.stale_reads": "perhaps",
    "redis.hedge_budget": "1.5",
    "redis.retry_budget": "-0.1",
    "redis.confirm_replicas": "17",
    "redis.connect_timeout_seconds": "inf",
    "redis.reply_timeout_seconds": "soon",
    "redis.refresh_seconds": "0.4",
    "data.default_ttl": "0",
    "data.max_ttl": "1.5",
    "data.max_value_bytes": "256k",
    "data.max_fields": "0",
    "data.deadline_ms": "4",
    "data.max_elements": "99",
    "data.max_depth": "1",
    "data.idempotency_seconds": "-1",
    "breaker.failures": "-1",
    "breaker.window": "100",
    "breaker.min_calls": "0",
    "breaker.failure_rate": "50",
    "breaker.slow_ms": "0",
    "breaker.slow_rate": "nan",
    "breaker.open_seconds": "1e9",
    "breaker.open_max_seconds": "0",
    "breaker.probes": "0",
    "breaker.mode": "half-open",
    "breaker.min_budget_ms": "-1",
    "audit.memory_records": "many",
    "audit.journal": "/no/such/directory/audit.db",
    "audit.mode": "lenient",
    "audit.keys": "rot13",
    "auth.token_file": "/no/such/file",
    "inspector.token_file": "/no/such/file",
    "inspector.control_token_file": "/no/such/file",
    "redis.password_file": "/no/such/file",
    "redis.sentinel_password_file": "/no/such/file",
    "cxone.client_secret_file": "/no/such/file",
    "audit.hmac_secret_file": "/no/such/file",
    "audit.signing_key_file": "/",
    "audit.keep_days": "0",
    "audit.max_mb": "0",
    "encryption.namespaces": "cards, a b",
    "encryption.keys_file": "/no/such/file",
    "encryption.active_key": "a b",
    "encryption.plaintext": "ignore",
    "log.level": "loud",
    "delivery.stream": " ",
    "delivery.stream_max_entries": "0",
    "delivery.file": "/no/such/directory/out",
    "delivery.url": "http://siem/in",
    "delivery.token_file": "/no/such/file",
    "delivery.format": "xml",
    "delivery.ca_file": "/no/such/file",
    "delivery.batch": "0",
    "delivery.timeout_seconds": "0",
    "delivery.retry_seconds": "0",
    "delivery.retry_max_seconds": "never",
    "cxone.audit_path": "//elsewhere/in",
    "cxone.api_base": "http://api",
    "cxone.grant": "password",
    "cxone.client_id": " ",
    "cxone.access_key_id": " ",
    "cxone.access_key_secret_file": "/no/such/file",
    "cxone.tenant_id": " ",
    "cxone.auth_base": "ftp://auth",
}
SECRETS = [row.name for row in SETTINGS if row.is_secret]


def test_every_row_is_tried_with_something_bad() -> None:
    """Whatever can be wrong is tried below; a secret that is no text needs a file."""
    assert BAD.keys() | set(SECRETS) == {row.name for row in SETTINGS}


@pytest.mark.parametrize("name", BAD)
def test_a_fault_names_its_key_and_the_bad_value(name: str) -> None:
    """What is wrong is one fault: key, variable, value and what was expected."""
    variable = f"FLOWCACHE_{name}".replace(".", "_").upper()
    (fault,) = faults_of(variable, BAD[name])
    assert fault.startswith(f"{name} ({variable}) = {json.dumps(BAD[name])}: ")


@pytest.mark.parametrize("name", BAD)
def test_a_fault_of_the_file_names_its_key_and_the_bad_value(name: str, write: Write) -> None:
    """In the file, the key is name enough."""
    section, _, key = name.partition(".")
    # A token in the environment has more say: what the file says of it would not be read.
    environment = {} if name == "auth.token_file" else TOKEN
    (fault,) = faults(write(f"[{section}]\n{key} = {json.dumps(BAD[name])}"), environment)
    assert fault.startswith(f"{name} = {json.dumps(BAD[name])}: ")


def test_all_faults_are_told_together(write: Write) -> None:
    """An operator mends a configuration once."""
    sections: dict[str, list[str]] = {}
    for name, text in BAD.items():
        section, _, key = name.partition(".")
        sections.setdefault(section, []).append(f"{key} = {json.dumps(text)}")
    lines = [f"[{section}]\n" + "\n".join(keys) for section, keys in sections.items()]
    told = faults(write("\n".join(lines) + "\n[htpp]\nport = 1"), {"FLOWCACHE_PROT": "1"})
    named = {re.split(r"[:= ]", fault)[0] for fault in told}
    assert named == {*BAD, "htpp.port", "FLOWCACHE_PROT"}
    assert len(told) == len(named)


@pytest.mark.parametrize(
    ("variables", "fault"),
    [
        (
            {"FAILURES": "0"},
            "breaker.failures (FLOWCACHE_BREAKER_FAILURES) = 0: nothing would open a circuit; set "
            'breaker.window, or set breaker.mode = "disabled" to run without circuit breakers',
        ),
        (
            {"WINDOW": "10 calls", "MIN_CALLS": "11"},
            "breaker.min_calls (FLOWCACHE_BREAKER_MIN_CALLS) = 11: more than "
            'breaker.window = "10 calls" ever holds',
        ),
        (
            {"SLOW_MS": "100"},
            "breaker.slow_ms (FLOWCACHE_BREAKER_SLOW_MS) = 100: needs breaker.window",
        ),
        (
            {"SLOW_MS": "800", "WINDOW": "30 seconds"},
            "breaker.slow_ms (FLOWCACHE_BREAKER_SLOW_MS) = 800: no call takes longer than "
            "data.deadline_ms = 800",
        ),
        (
            {"OPEN_SECONDS": "20", "OPEN_MAX_SECONDS": "19"},
            "breaker.open_seconds (FLOWCACHE_BREAKER_OPEN_SECONDS) = 20.0: greater than "
            "breaker.open_max_seconds = 19.0",
        ),
    ],
)
def test_what_cannot_be_meant_together_is_a_fault(variables: dict[str, str], fault: str) -> None:
    """One sentence that names the key, its value, and what it contradicts."""
    environment = {f"FLOWCACHE_BREAKER_{key}": text for key, text in variables.items()}
    assert faults(None, TOKEN | environment) == [fault]


def test_a_fault_of_the_window_is_told_once() -> None:
    """What depends on a setting that can't be read is not told as well."""
    variables = {"WINDOW": "many", "FAILURES": "0", "SLOW_MS": "100", "MIN_CALLS": "1000"}
    environment = {f"FLOWCACHE_BREAKER_{key}": text for key, text in variables.items()}
    (fault,) = faults(None, TOKEN | environment)
    assert fault.startswith('breaker.window (FLOWCACHE_BREAKER_WINDOW) = "many"')


@pytest.mark.parametrize(
    ("variables", "fault"),
    [
        (
            {"HOST": "10.0.0.1"},
            'admin.host (FLOWCACHE_ADMIN_HOST) = "10.0.0.1": needs admin.port',
        ),
        (
            {"PORT": "3000"},
            "admin.port (FLOWCACHE_ADMIN_PORT) = 3000: the same address as http.port; choose "
            "another port",
        ),
        (
            {"HOST": "0.0.0.0", "PORT": "3000"},
            "admin.port (FLOWCACHE_ADMIN_PORT) = 3000: the same address as http.port; choose "
            "another port",
        ),
        (
            {"PAGES": "credential"},
            'admin.pages (FLOWCACHE_ADMIN_PAGES) = "credential": no principal may inspect; set '
            "inspector.token, or give a client inspect:read",
        ),
    ],
)
def test_an_address_for_operators_that_makes_no_sense_is_a_fault(
    variables: dict[str, str], fault: str
) -> None:
    """One sentence that names the key, its value, and what to do."""
    environment = {f"FLOWCACHE_ADMIN_{key}": text for key, text in variables.items()}
    assert faults(None, TOKEN | environment) == [fault]


def test_operators_may_have_the_same_port_at_another_address() -> None:
    """Two addresses of a machine are two."""
    environment = {"FLOWCACHE_ADMIN_HOST": "127.0.0.2", "FLOWCACHE_ADMIN_PORT": "3000"}
    assert loaded(environment).server.admin == ("127.0.0.2", 3000)


def test_an_error_reads_as_all_of_its_faults() -> None:
    """Whatever prints the error prints each fault."""
    with pytest.raises(ConfigurationError) as caught:
        load(None, {"FLOWCACHE_PORT": "x", "FLOWCACHE_WORKERS": "y"})
    assert len(caught.value.faults) == 3
    assert all(str(fault) in str(caught.value) for fault in caught.value.faults)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[http]\nprot = 1", "http.prot: unknown setting; did you mean http.port?"),
        ("[htpp]\nport = 1", "htpp.port: unknown setting; did you mean http.port?"),
        ("[redis]\nnode = 1", "redis.node: unknown setting; did you mean redis.nodes?"),
        ("[redis]\nxyzzy = 1", "redis.xyzzy: unknown setting"),
        ("port = 1", "port: unknown outside of a section; did you forget [http]?"),
        ("[[http]]\nport = 1", "http: unknown outside of a section; did you forget [http]?"),
    ],
)
def test_an_unknown_key_is_a_fault(text: str, fault: str, write: Write) -> None:
    """What is misspelt is not ignored, and what it was meant to be is told where that is plain."""
    assert faults(write(text), TOKEN) == [fault]


def test_an_unknown_section_is_a_fault_even_if_it_is_empty(write: Write) -> None:
    """A misspelt section is told, whatever is in it."""
    assert [fault.partition(":")[0] for fault in faults(write("[htpp]"), TOKEN)] == ["htpp"]


def test_the_value_of_an_unknown_key_is_not_told(write: Write) -> None:
    """What was meant to be a password may stand under a misspelt key."""
    told = faults(write('pasword = "hunter2"\n[redis]\npasword = "hunter2"'), TOKEN)
    assert len(told) == 2
    assert "hunter2" not in str(told)


def test_an_unknown_variable_is_a_fault() -> None:
    """A misspelt variable is told; those of other programs are none of ours."""
    (fault,) = faults_of("FLOWCACHE_HTTP_PROT", "1")
    assert fault == "FLOWCACHE_HTTP_PROT: unknown variable; did you mean FLOWCACHE_HTTP_PORT?"
    loaded({"HTTP_PORT": "1", "flowcache_port": "2", "PATH": "/"})


KUBERNETES = {
    "FLOWCACHE_SERVICE_HOST": "10.96.0.12",
    "FLOWCACHE_SERVICE_PORT": "3000",
    "FLOWCACHE_SERVICE_PORT_HTTP_DATA": "3000",
    "FLOWCACHE_PORT": "tcp://10.96.0.12:3000",
    "FLOWCACHE_PORT_3000_TCP": "tcp://10.96.0.12:3000",
    "FLOWCACHE_PORT_3000_TCP_PROTO": "tcp",
    "FLOWCACHE_PORT_3000_TCP_PORT": "3000",
    "FLOWCACHE_PORT_3000_TCP_ADDR": "10.96.0.12",
    "FLOWCACHE_HTTP_PORT": "tcp://[fd00::c]:80",
    "FLOWCACHE_HTTP_SERVICE_HOST": "fd00::c",
}
"""What the kubelet puts into a pod for Services named flowcache and flowcache-http."""


def test_what_kubernetes_says_of_a_service_is_ignored() -> None:
    """A Service of our name stops nobody and sets nothing; one warning names what was ignored."""
    settings = loaded(KUBERNETES | {"FLOWCACHE_WORKERS": "2"})
    assert (settings.server.port, settings.server.workers) == (3000, 2)
    warnings = [each for each in settings.warnings if "enableServiceLinks" in each]
    assert [sorted(re.findall(r"FLOWCACHE\w+", each)) for each in warnings] == [sorted(KUBERNETES)]
    assert not any("enableServiceLinks" in each for each in loaded().warnings)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("FLOWCACHE_PORT", "tcp://10.96.0.12"),
        ("FLOWCACHE_PORT", "http://10.96.0.12:3000"),
        ("FLOWCACHE_WORKERS", "tcp://10.96.0.12:3000"),
        ("FLOWCACHE_SERVICE_HOST", "redis.example.com"),
        ("FLOWCACHE_SERVICE_PORT", "http"),
        ("FLOWCACHE_SERVICE_NAME", "10.96.0.12"),
        ("FLOWCACHE_PORT_3000_TCP_PROTO", "TLS"),
        ("FLOWCACHE_PORT_3000", "3000"),
    ],
)
def test_what_only_looks_like_it_is_a_fault(variable: str, value: str) -> None:
    """A misspelt setting is not taken for a Service."""
    assert len(faults_of(variable, value)) == 1


def test_no_setting_can_be_taken_for_what_kubernetes_says() -> None:
    """Of all that may be set, only ports have the name of a link, and no port has its value."""
    names = [name for setting in SETTINGS for name in (setting.variable, *setting.names)]
    assert service_links(dict.fromkeys(names, "3000")) == []
    assert service_links(dict.fromkeys(names, "10.96.0.12")) == []
    linked = service_links(dict.fromkeys(names, "tcp://10.96.0.12:3000"))
    assert linked == ["FLOWCACHE_ADMIN_PORT", "FLOWCACHE_HTTP_PORT", "FLOWCACHE_PORT"]


@pytest.mark.parametrize("setting", ["auth.token", "inspector.token", "inspector.control_token"])
def test_a_short_token_is_warned_of(setting: str, write: Write) -> None:
    """It may be guessed, and nothing says so later; the warning names it and doesn't show it."""
    section, _, key = setting.partition(".")
    for length, warned in ((15, True), (16, False)):
        token = "k" * length
        file = write(f'[{section}]\n{key} = "{token}"\n')
        warnings = load(file, {"SERVICE_BEARER_TOKEN": LONG_SECRET} if section != "auth" else {})
        assert [each.partition(":")[0] for each in warnings.warnings] == [setting] * warned
        assert token not in str(warnings.warnings)


def test_a_path_that_no_file_can_have_is_a_fault() -> None:
    """A name longer than any file's is told like any other slip."""
    (fault,) = faults_of("FLOWCACHE_AUDIT_JOURNAL", "x" * 5000)
    assert fault.endswith("can't be looked for: File name too long")


@pytest.mark.parametrize("text", ["port = ", "[http", 'a = "', "\ufeffa = 1", "a = 1\na = 2"])
def test_a_file_that_is_no_toml_is_a_fault(text: str, write: Write) -> None:
    """The fault names the file; nothing is said to be missing that may stand in it."""
    file = write(text)
    (fault,) = faults(file, {})
    assert fault.startswith(f"{file}: not valid TOML: ")


def test_a_file_that_is_no_text_is_a_fault(tmp_path: Path) -> None:
    """Bytes that are no UTF-8 are no TOML."""
    (tmp_path / "x").write_bytes(b"\xff\xfe")
    assert "not valid TOML" in faults(tmp_path / "x", TOKEN)[0]


def test_a_file_that_is_not_there_is_a_fault(tmp_path: Path) -> None:
    """A missing file is told, and so is one that is a directory."""
    for file in (tmp_path / "none.toml", tmp_path):
        (fault,) = faults(file, TOKEN)
        assert fault.startswith(f"{file}: can't be read: ")


@pytest.mark.parametrize(
    "text",
    [
        "[http]\nport = 1" + "0" * 400,
        "[http]\ngrace_seconds = 1" + "0" * 400,
        "[http]\nport = 1" + "0" * 5000,
        "[http]\nport = 0x1" + "0" * 5000,
        "[http]\ngrace_seconds = 0x1" + "0" * 5000,
        "[http]\nport = " + "[" * 5000 + "]" * 5000,
        '[redis]\ntls_ca_file = "~nobody-of-that-name/x"',
        '[redis]\ntls_ca_file = "a\\u0000b"',
        '[redis]\ntls_ca_file = "' + "x" * 5000 + '"',
        '[redis]\nnodes = "redis://cache/' + "1" * 5000 + '"',
        "[http]\nport = 1979-05-27T07:32:00Z",
        "[log]\nlevel = {}",
    ],
    ids=lambda text: text[:40].replace("\n", " "),
)
def test_an_absurd_value_is_a_fault_like_any_other(text: str, write: Write) -> None:
    """However strange a value is, it is told as a fault of the configuration."""
    assert faults(write(text), TOKEN)


@pytest.mark.parametrize("missing", ["cert", "key"])
def test_a_certificate_needs_its_key(missing: str) -> None:
    """One of the two alone is of no use."""
    given = "key" if missing == "cert" else "cert"
    (fault,) = faults_of(f"FLOWCACHE_REDIS_TLS_{given}_FILE".upper(), PEM)
    assert fault.startswith(f"redis.tls_{given}_file (")
    assert fault.endswith(f": needs redis.tls_{missing}_file")


def test_a_file_that_can_not_be_read_is_one_fault() -> None:
    """A certificate that isn't there is not also told to be missing."""
    environment = {
        "FLOWCACHE_REDIS_TLS_CERT_FILE": "no/such.pem",
        "FLOWCACHE_REDIS_TLS_KEY_FILE": PEM,
    }
    (fault,) = faults(None, TOKEN | environment)
    assert fault.startswith("redis.tls_cert_file")


def test_the_default_ttl_is_no_longer_than_the_longest() -> None:
    """Two settings that contradict each other are told by name and value."""
    environment = {"FLOWCACHE_DATA_DEFAULT_TTL": "777", "FLOWCACHE_DATA_MAX_TTL": "555"}
    (fault,) = faults(None, TOKEN | environment)
    assert all(told in fault for told in ("data.default_ttl", "777", "data.max_ttl", "555"))
    loaded({"FLOWCACHE_DATA_DEFAULT_TTL": "555", "FLOWCACHE_DATA_MAX_TTL": "555"})


def test_what_could_not_be_read_can_not_be_written() -> None:
    """A key may hold no more than a read returns, and a limit that is lowered is warned of."""
    for limits, warned in (
        ({"FLOWCACHE_DATA_MAX_VALUE_BYTES": "524161"}, True),
        ({"FLOWCACHE_DATA_MAX_VALUE_BYTES": "524160"}, False),
        ({"FLOWCACHE_HTTP_MAX_ANSWER_BYTES": "262143"}, True),
        ({"FLOWCACHE_DATA_MAX_FIELDS": "10001"}, True),
        ({"FLOWCACHE_DATA_MAX_FIELDS": "10001", "FLOWCACHE_DATA_MAX_ELEMENTS": "10001"}, False),
    ):
        settings = loaded(limits)
        told = [each for each in settings.warnings if each.startswith("data.max_")]
        assert len(told) == warned
        sizes = settings.data_action.sizes
        assert sizes.value <= sizes.reply - 128
        assert sizes.fields <= min(sizes.held, sizes.reply // 6)


@pytest.mark.parametrize(("key", "most"), [("max_value_bytes", 1000), ("max_fields", 50)])
def test_a_client_is_given_no_more_than_everybody(key: str, most: int, write: Write) -> None:
    """A limit of its own that says more than the general one is a fault, which names both."""
    client = 'tokens = ["sha256:%s"]\npermissions = ["data:write"]\nkeys = ["*"]' % ("0" * 64)
    text = f"[data]\n{key} = {most}\n[clients.a]\n{client}\n{key} = "
    assert load(write(text + str(most)), {}).principals[-1].sizes is not None
    assert faults(write(text + str(most + 1)), {}) == [
        f"clients.a.{key}: {most + 1} is greater than data.{key} = {most}"
    ]


# -- credentials -----------------------------------------------------------------------------------


def test_without_a_credential_nothing_starts() -> None:
    """Nobody can leave a service open by forgetting its token."""
    (fault,) = faults(None, {})
    assert fault.startswith("auth.token: no credential is configured")
    assert "SERVICE_BEARER_TOKEN" in fault


@pytest.mark.parametrize("section", ["auth", "inspector"])
@pytest.mark.parametrize("text", ["", " ", "\t"])
def test_an_empty_token_is_none(section: str, text: str, write: Write) -> None:
    """A token of nothing would let everybody in: it is a fault, wherever it stands."""
    file = write(f"[{section}]\ntoken = {json.dumps(text)}")
    environment = {} if section == "auth" else TOKEN
    (fault,) = faults(file, environment)
    assert fault.startswith(f"{section}.token")
    (fault,) = faults(None, environment, {f"{section}.token": text})
    assert fault.startswith(f"{section}.token")


@pytest.mark.parametrize("name", ["auth.token", "inspector.token"])
@pytest.mark.parametrize(
    "token",
    [
        *("hunter2 x", " hunter2", "hunter2\n", "hunté-hunter2", "hunter2\0"),
        *('"hunter2"', "'hunter2'", "`hunter2`", 'hunter2"', "hunter2\\n", "hunter2\\r"),
    ],
)
def test_a_token_that_nobody_can_mean_is_one_fault(name: str, token: str) -> None:
    """A token is printable ASCII without spaces, and without the quotes or the line break of the
    file that it was written in; a bad one is told once, and not shown."""
    (fault,) = faults(None, TOKEN if name != "auth.token" else {}, {name: token})
    assert fault.startswith(f"{name} (command line) = ***: expected ")
    assert "hunter2" not in fault


def test_the_flows_and_the_inspector_have_different_tokens() -> None:
    """A leaked flow token opens one drawer only."""
    (fault,) = faults_of("FLOWCACHE_INSPECTOR_TOKEN", "flow-token")
    assert fault.startswith("inspector.token: the same as auth.token")


def test_each_token_may_do_its_own() -> None:
    """The flow's token reads and writes data, the inspector's inspects, neither does more."""
    settings = loaded({"FLOWCACHE_INSPECTOR_TOKEN": "see"})
    known = {each.token.digest: each.principal for each in settings.credentials}
    flow, inspector = known[digest(b"flow-token")], known[digest(b"see")]
    assert flow.keys == ALL_KEYS
    assert flow.permissions == {Permission.DATA_READ, Permission.DATA_WRITE}
    assert inspector.permissions == {Permission.INSPECT_READ}


@pytest.mark.parametrize("other", ["auth.token", "inspector.token"])
def test_who_switches_has_a_token_of_their_own(other: str) -> None:
    """Neither a flow nor whoever reads the inspector may come to switch circuits by chance."""
    variables = {"FLOWCACHE_INSPECTOR_TOKEN": "see"}
    token = {"auth.token": "flow-token", "inspector.token": "see"}[other]
    (fault,) = faults(None, TOKEN | variables | {"FLOWCACHE_INSPECTOR_CONTROL_TOKEN": token})
    assert fault.startswith(f"inspector.control_token: the same as {other}")
    assert token not in fault.replace(other, "")


def test_who_switches_may_inspect_and_touch_no_data() -> None:
    """The operator's token is for the service, not for what is stored in it."""
    settings = loaded({"FLOWCACHE_INSPECTOR_CONTROL_TOKEN": "turn"})
    known = {each.token.digest: each.principal for each in settings.credentials}
    operator = known[digest(b"turn")]
    assert operator.permissions == {Permission.INSPECT_READ, Permission.CIRCUITS_WRITE}


def test_without_an_inspector_token_nobody_inspects() -> None:
    """The default is to refuse."""
    allowed = {p for credential in loaded().credentials for p in credential.principal.permissions}
    assert Permission.INSPECT_READ not in allowed


# -- secrets ---------------------------------------------------------------------------------------

WORD = "hunter2"


MOUNTED = [row for row in SETTINGS if row.holds is not None]


@pytest.mark.parametrize("row", MOUNTED, ids=lambda row: row.name)
def test_a_secret_and_a_file_of_it_are_one_too_many(row: Setting) -> None:
    """Nobody has to guess which of two counts."""
    secret = f"FLOWCACHE_{row.holds}".replace(".", "_").upper()
    assert row.holds is not None
    both = {secret: ROWS[row.holds][0], row.variable: ROWS[row.name][0]}
    reason = f"set together with {row.name}; remove one of them"
    assert f"{row.holds} ({secret}): {reason}" in faults(None, token_for(row) | both)


def test_of_a_secret_and_a_file_of_it_the_stronger_source_counts(
    tmp_path: Path, write: Write
) -> None:
    """The environment has more say than the file of the configuration, however it says it."""
    held = tmp_path / "held"
    held.write_text("a-held-password")
    in_document = write('[redis]\npassword = "a-written-password"')
    settings = load(in_document, TOKEN | {"FLOWCACHE_REDIS_PASSWORD_FILE": str(held)})
    assert settings.store.password is not None
    assert settings.store.password.reveal() == "a-held-password"
    mounted = write('[redis]\npassword_file = "/no/longer/there"')
    settings = load(mounted, TOKEN | {"FLOWCACHE_REDIS_PASSWORD": "a-written-password"})
    assert settings.store.password is not None
    assert settings.store.password.reveal() == "a-written-password"


@pytest.mark.parametrize("row", MOUNTED, ids=lambda row: row.name)
@pytest.mark.parametrize(
    ("content", "fault"),
    [(b"", "is empty"), (b" \n", "is empty"), (b"\xff\xfe", "expected a file of text")],
)
def test_a_file_that_holds_no_secret_is_a_fault(
    row: Setting, content: bytes, fault: str, tmp_path: Path
) -> None:
    """A secret that was not mounted yet is not taken for one that is empty."""
    file = tmp_path / "secret"
    file.write_bytes(content)
    (told,) = faults(None, token_for(row) | {row.variable: str(file)})
    assert told == f"{row.name} ({row.variable}) = {json.dumps(str(file))}: {fault}"


@pytest.mark.parametrize("name", ["redis.password_file", "redis.tls_ca_file", "http.tls_key_file"])
def test_a_pipe_is_no_file_of_a_secret(name: str, tmp_path: Path) -> None:
    """Nobody waits for who may write to it some day."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    variable = f"FLOWCACHE_{name}".replace(".", "_").upper()
    assert any(
        fault.startswith(f"{name} ({variable})") and "it is not a regular file" in fault
        for fault in faults(None, TOKEN | {variable: str(pipe)})
    )


def test_a_secret_that_became_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    """A mount that went bad under a running service costs an error, not the worker."""
    file = tmp_path / "password"
    file.write_text("hush")
    password = loaded({"FLOWCACHE_REDIS_PASSWORD_FILE": str(file)}).store.password
    assert isinstance(password, SecretInFile)
    assert password.fresh().reveal() == "hush"
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(ValueError, match="not a regular file"):
        password.fresh()


@pytest.mark.parametrize("name", ["delivery.url", "cxone.api_base", "cxone.auth_base"])
def test_what_may_be_a_secret_in_a_url_is_not_told(name: str) -> None:
    """Credentials don't belong there, and who put some there is not betrayed by the fault."""
    variable = f"FLOWCACHE_{name}".replace(".", "_").upper()
    told = " ".join(
        faults(None, TOKEN | {variable: "https://me:hunter2@siem.example/x?key=hunter2"})
    )
    assert name in told
    assert "hunter2" not in told


def test_the_query_of_a_destination_is_not_shown() -> None:
    """Some receivers take their secret there."""
    url = "https://siem.example/in?key=hunter2"
    needed = {"FLOWCACHE_AUDIT_JOURNAL": JOURNAL}
    settings = loaded(needed | {"FLOWCACHE_DELIVERY_URL": url})
    assert settings.shown["delivery"]["url"] == "https://siem.example/in?***"


def test_a_file_of_a_token_comes_before_one_that_is_made() -> None:
    """``--embedded`` makes tokens where none is configured, in whatever way."""
    made = {"auth.token": "made", "inspector.token": "made-too"}
    settings = load(None, {"FLOWCACHE_AUTH_TOKEN_FILE": str(KEY_FILE)}, {}, made)
    assert has_token(settings, KEY)
    assert has_token(settings, "made-too")
    assert not has_token(settings, "made")


def test_no_secret_shows_in_settings() -> None:
    """Neither a repr nor what is shown to people has a secret in it; what is set says so."""
    environment = {row.variable: WORD + row.name * 3 for row in SETTINGS if row.name in SECRETS}
    environment["FLOWCACHE_ENCRYPTION_KEYS"] = f"k1:{WORD}{'A' * (43 - len(WORD))}="
    delivered = NEEDS["delivery.token"] | NEEDS["cxone.grant"]
    settings = loaded(delivered | environment | {"REDIS_URL": f"redis://ada:{WORD}@cache:1/0"})
    assert WORD not in repr(settings)
    assert WORD not in json.dumps(settings.shown)
    assert settings.shown["redis"]["nodes"] == ["cache:1"]
    assert all(in_shown(name)(settings) == "***" for name in SECRETS)


def test_a_secret_that_is_not_set_is_shown_as_such() -> None:
    """An operator can see whether there is a password."""
    assert loaded().shown["redis"]["password"] is None


def test_what_is_shown_is_every_setting_as_plain_values() -> None:
    """The inspector shows all that is configured, by section, as JSON."""
    shown = loaded().shown
    names = [f"{section}.{key}" for section in shown for key in shown[section]]
    assert names == [row.name for row in SETTINGS if row.holds is None]
    assert json.loads(json.dumps(shown)) == shown


@pytest.mark.parametrize(
    "nodes",
    [
        f"redis://ada:{WORD}@cache:99999",
        f"redis://:{WORD}@cache:99999",
        f"redis://ada:{WORD}@cache/x",
        f"redis://ada:{WORD}@",
        f"rediz://ada:{WORD}@cache",
        f"REDIS://ada:{WORD}@cache",
        f"redis+sentinel://ada:{WORD}@cache",
        f"unix://ada:{WORD}@",
        f"redis://ada:x/{WORD}@cache:99999",
        f"redis://ada:{WORD}/x@cache:99999",
        f"redis://ada:{WORD}?x@cache:99999",
        f"redis://ada:{WORD}#x@cache:99999",
        f"redis://ada:{WORD}@x@cache:99999",
        f"redis://ada:[{WORD}@cache:99999",
        f"redis://cache:99999?password={WORD}",
        f"redis://a,ada:{WORD}@b:99999",
        f"redis://ada:{WORD}@a:1,ada:{WORD}@b:99999",
        f"ada:{WORD}@cache:6379",
        f":{WORD}@cache",
        f"redis:/ada:{WORD}@cache:1",
        f"redis:ada:{WORD}@cache:1",
        f"//ada:{WORD}@cache:1",
        f"cache:1,ada:{WORD}@cache:2",
    ],
)
def test_a_location_that_can_not_be_read_keeps_its_password(nodes: str, write: Write) -> None:
    """However a URL with a password is mistyped, no fault shows the password."""
    for told in (
        faults_of("REDIS_NODES", nodes),
        faults(None, TOKEN, {"redis.nodes": nodes}),
        faults(write(f"[redis]\nnodes = {json.dumps(nodes)}"), TOKEN),
        faults(write(f"[redis]\nnodes = {json.dumps([nodes])}"), TOKEN),
        faults(write(f"[redis]\nnodes = {json.dumps([nodes])[:-1]}, 5]"), TOKEN),
    ):
        assert len(told) == 1
        assert told[0].startswith("redis.nodes")
        assert WORD not in told[0]


@pytest.mark.parametrize(
    "nodes",
    [
        f'{{password = "{WORD}"}}',
        f'["cache", {{password = "{WORD}"}}]',
        f'[["{WORD}"]]',
        f'"redis://:{WORD}"',
    ],
)
def test_nodes_of_another_shape_keep_what_is_in_them(nodes: str, write: Write) -> None:
    """What was put in place of an address may be a password: it is not told."""
    (fault,) = faults(write(f"[redis]\nnodes = {nodes}"), TOKEN)
    assert fault.startswith("redis.nodes")
    assert WORD not in fault


def test_a_location_that_can_not_be_read_is_told_as_far_as_it_is_no_secret() -> None:
    """The bad port is what the operator has to see."""
    (fault,) = faults_of("REDIS_NODES", f"redis://ada:{WORD}@cache:99999")
    assert '***@cache:99999"' in fault


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_of_another_type_keeps_its_value(name: str, write: Write) -> None:
    """A list in place of a password is told without it."""
    section, _, key = name.partition(".")
    told = faults(write(f'[{section}]\n{key} = ["{WORD}"]'), {} if section == "auth" else TOKEN)
    assert [fault.partition(":")[0] for fault in told] == [f"{name} = ***"]


@pytest.mark.parametrize("missing", ISSUER)
def test_half_of_an_issuer_is_a_fault(missing: str) -> None:
    """Keys without an issuer or audience would let in tokens that were made for others."""
    given = {name: text for name, text in ISSUER.items() if name != missing}
    told = faults(None, TOKEN | given)
    assert told
    assert all(fault.endswith(f": needs jwt.{missing[14:].lower()}") for fault in told)
    assert loaded().jwt is None


@pytest.mark.parametrize(
    "location",
    ["ftp://idp/k", "https://", "https://ada:pw@idp/k", "http://idp/k", "http://localhost.x/k"],
)
def test_keys_come_from_where_nobody_alters_them(location: str) -> None:
    """A file, or a URL over TLS; in clear from this host only."""
    (fault,) = faults(None, TOKEN | ISSUER | {"FLOWCACHE_JWT_KEYS": location})
    assert fault.startswith("jwt.keys")
    assert "pw" not in fault
    here = loaded(ISSUER | {"FLOWCACHE_JWT_KEYS": "http://127.0.0.1:8080/jwks"})
    assert here.jwt is not None


def test_a_subject_needs_an_issuer(write: Write) -> None:
    """A client that nobody can speak for is a slip; with an issuer it needs no token of ours."""
    file = write('[clients.a]\nsubject = "s"\npermissions = ["data:read"]\nnamespace = "a"')
    (fault,) = faults(file, {})
    assert fault == "clients.a.subject: needs an issuer in [jwt]"
    assert load(file, ISSUER).principals[0].subject == "s"


# -- encryption ------------------------------------------------------------------------------------

CARDS = """
[clients.a]
tokens = ["sha256:{digest}"]
permissions = ["data:write"]
namespace = "cards"
{more}
""".replace("{digest}", "a" * 64)


def test_without_keys_nothing_is_encrypted_and_with_keys_everything() -> None:
    """To encrypt is to give keys; the first of them seals."""
    assert loaded().sealing is None
    sealing = loaded({"FLOWCACHE_ENCRYPTION_KEYS": KEYS}).sealing
    assert sealing is not None
    assert (sealing.spaces, sealing.active) == (None, "k1")
    assert sealing.plaintext is Plaintext.REFUSE
    assert [key.id for key in sealing.provider.fetch()] == ["k1", "k2", "k3"]


def test_namespaces_narrow_what_is_encrypted(write: Write) -> None:
    """Those that are named, by what their keys begin with; a name of no client is a slip."""
    keys = {"FLOWCACHE_ENCRYPTION_KEYS": KEYS}
    file = write('[encryption]\nnamespaces = ["cards"]\n' + CARDS.format(more=""))
    sealing = load(file, keys).sealing
    assert sealing is not None
    assert sealing.spaces == (b"flowcache:ns:cards:",)
    named = {"FLOWCACHE_ENCRYPTION_NAMESPACES": "card,cards"}
    assert faults(file, keys | named) == [
        'encryption.namespaces (FLOWCACHE_ENCRYPTION_NAMESPACES) = ["card", "cards"]: '
        'no client has the namespace "card"'
    ]
    slip = write('[encryption]\nnamespaces = ["cards"]\n' + CARDS.format(more="rates = 1"))
    assert faults(slip, keys) == ["clients.a.rates: unknown setting; did you mean rate?"]
    (fault,) = faults_of("FLOWCACHE_ENCRYPTION_NAMESPACES", "*,cards")
    assert fault.endswith('expected "*" alone, or names')


@pytest.mark.parametrize(("key", "text"), [("namespaces", "*"), ("active_key", "k1")])
def test_what_is_said_of_encryption_needs_keys(key: str, text: str) -> None:
    """Who forgets the keys does not find out from a dump of Redis."""
    (told,) = faults(None, TOKEN | {f"FLOWCACHE_ENCRYPTION_{key.upper()}": text})
    assert told.startswith(f"encryption.{key} (")
    assert told.endswith(": needs encryption.keys")


@pytest.mark.parametrize("plaintext", ["read", "write"])
def test_passing_what_is_in_clear_needs_keys(plaintext: str) -> None:
    """A step towards encryption that has no keys is none: the operator hears of it."""
    (told,) = faults(None, TOKEN | {"FLOWCACHE_ENCRYPTION_PLAINTEXT": plaintext})
    variable = "FLOWCACHE_ENCRYPTION_PLAINTEXT"
    assert told == f'encryption.plaintext ({variable}) = "{plaintext}": needs encryption.keys'


def test_an_active_key_that_is_not_there() -> None:
    """The fault names the keys there are, by id."""
    told = faults(
        None, TOKEN | {"FLOWCACHE_ENCRYPTION_KEYS": KEYS, "FLOWCACHE_ENCRYPTION_ACTIVE_KEY": "k4"}
    )
    assert told == [
        'encryption.active_key (FLOWCACHE_ENCRYPTION_ACTIVE_KEY) = "k4": no key has this id; '
        "expected k1 or k2 or k3"
    ]


def test_keys_may_be_a_list(write: Write) -> None:
    """In TOML each may have a line; what is wrong with each is told, and not what it holds."""
    file = write(f"[encryption]\nkeys = {json.dumps([line('k2'), line('k1')])}")
    sealing = load(file, TOKEN).sealing
    assert sealing is not None
    assert sealing.active == "k2"
    told = faults(write('[encryption]\nkeys = ["k1:needle", "k2:needle"]'), TOKEN)
    wanted = 'expected ID:BASE64, as "flowcache encryption new-key" prints it'
    assert told == [f"encryption.keys = ***: line 1: {wanted}; line 2: {wanted}"]
    assert faults(write("[encryption]\nkeys = 7"), TOKEN) == [
        "encryption.keys = ***: expected a text"
    ]


def test_a_client_that_is_to_count_can_not_where_values_are_encrypted(write: Write) -> None:
    """An operation that would always be refused is a fault; one that is merely allowed is not."""
    keys = {"FLOWCACHE_ENCRYPTION_KEYS": KEYS}
    file = write(CARDS.format(more='operations = ["INCR", "SET"]'))
    assert load(file, {}).sealing is None
    assert faults(file, keys) == ["clients.a.operations: INCR can't run where values are encrypted"]


# -- TLS and client certificates -------------------------------------------------------------------

FINGERPRINT = f"sha256:{'ab' * 32}"


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"TLS_CERT_FILE": OWN_PEM}, "needs http.tls_key_file"),
        ({"TLS_KEY_FILE": OWN_PEM}, "needs http.tls_cert_file"),
        (
            CALLERS | {"FLOWCACHE_HTTP_TLS_CLIENT_AUTH": "off"},
            "not used while http.tls_client_auth is off; set that to optional or required",
        ),
        ({"TLS_CLIENT_AUTH": "optional"}, "needs http.tls_client_ca_file"),
        (
            {"TLS_CLIENT_CA_FILE": OWN_PEM, "TLS_CLIENT_AUTH": "required"},
            "needs http.tls_cert_file",
        ),
        ({"TLS_CERT_FILE": PEM, "TLS_KEY_FILE": OWN_PEM}, "not a PEM certificate"),
        ({"CLIENT_CERTIFICATE_HEADER": "client-cert"}, "needs http.trusted_proxies"),
    ],
)
def test_what_says_nothing_about_tls_is_a_fault(variables: dict[str, str], told: str) -> None:
    """Half of a pair, authorities without clients: nothing is configured for nothing."""
    named = {f"FLOWCACHE_HTTP_{k.removeprefix('FLOWCACHE_HTTP_')}": v for k, v in variables.items()}
    (fault,) = faults(None, TOKEN | named)
    assert fault.endswith(f": {told}")


def test_a_certificate_that_nobody_can_show_is_a_fault(write: Write) -> None:
    """A client's certificates need a way in: the connection, or a proxy's header."""
    file = write(f'[clients.app]\ncertificates = ["{FINGERPRINT}"]\npermissions = ["inspect:read"]')
    (fault,) = faults(file, TOKEN)
    assert fault.startswith("clients.app.certificates: callers present none")
    assert loaded(CALLERS, file).principals[-1].certificates == (FINGERPRINT,)
    proxies = NEEDS["http.client_certificate_header"]
    assert loaded(proxies | {"FLOWCACHE_HTTP_CLIENT_CERTIFICATE_HEADER": "client-cert"}, file)


# -- documentation ---------------------------------------------------------------------------------

PAGES = sorted((Path(__file__).parents[2] / "docs").glob("*.md"))
BLOCKS = [
    pytest.param(block, id=f"{page.stem} {number}")
    for page in PAGES
    for number, block in enumerate(
        re.findall(r"^```toml\n(.*?)^```", page.read_text("utf-8"), re.M | re.S), 1
    )
]


@pytest.mark.parametrize("block", BLOCKS)
def test_the_configurations_of_the_documentation_are_valid(
    block: str, write: Write, tmp_path: Path
) -> None:
    """What an operator copies from a page loads, where the files that it names are there."""
    secret, journal = tmp_path / "secret", tmp_path / "audit.db"
    secret.write_text(f"{LONG_SECRET}\n")
    text = re.sub(r"/run/secrets/[a-z-]+", str(secret), block)
    text = re.sub(r"/etc/flowcache/[a-z-]+\.(crt|key)", OWN_PEM, text)
    text = re.sub(r"/var/l(og|ib)/flowcache", str(tmp_path), text)
    load(write(text), TOKEN | {"FLOWCACHE_AUDIT_JOURNAL": str(journal)})


# -- delivery of the audit -------------------------------------------------------------------------


def delivered(**variables: str) -> list[str]:
    """Return the faults of a configuration of the delivery, with a journal."""
    named = {f"FLOWCACHE_{name.upper()}": value for name, value in variables.items()}
    return faults(None, TOKEN | {"FLOWCACHE_AUDIT_JOURNAL": JOURNAL} | named)


def test_nothing_is_delivered_by_default() -> None:
    """A journal alone, and the seed's three variables beside it, send nothing anywhere."""
    assert loaded({"FLOWCACHE_AUDIT_JOURNAL": JOURNAL}).delivery is None
    seeds = {
        "FLOWCACHE_AUDIT_JOURNAL": JOURNAL,
        "CXONE_API_BASE": "https://api-us-1.cxone.com",
        "CXONE_CLIENT_ID": "client",
        "CXONE_CLIENT_SECRET": "secret",
    }
    assert loaded(seeds).delivery is None
    delivery = loaded(seeds | {"FLOWCACHE_CXONE_AUDIT_PATH": "/audit"}).delivery
    assert delivery is not None
    assert delivery.names == ("cxone",)


@pytest.mark.parametrize(
    ("variable", "name"),
    [
        ("FLOWCACHE_DELIVERY_STREAM", "delivery.stream"),
        ("FLOWCACHE_DELIVERY_FILE", "delivery.file"),
        ("FLOWCACHE_DELIVERY_URL", "delivery.url"),
        ("FLOWCACHE_CXONE_AUDIT_PATH", "cxone.audit_path"),
    ],
)
def test_a_destination_needs_a_journal(variable: str, name: str) -> None:
    """What is not on disk is not delivered: somebody who asks for it is told."""
    value = {"delivery.url": "https://siem", "cxone.audit_path": "/in"}.get(name, "-")
    assert f'{name} ({variable}) = "{value}": needs audit.journal' in faults_of(variable, value)


@pytest.mark.parametrize("end", ["", "-wal", "-shm", "-delivery", "-delivery-lock", "-turn"])
def test_a_journal_is_not_written_over(tmp_path: Path, end: str) -> None:
    """Neither it nor what lies beside it takes lines of JSON, by whatever path it is reached."""
    (tmp_path / "link").symlink_to(tmp_path)
    variables = {
        "FLOWCACHE_AUDIT_JOURNAL": str(tmp_path / "audit.db"),
        "FLOWCACHE_DELIVERY_FILE": str(tmp_path / "link" / f"audit.db{end}"),
    }
    (fault,) = faults(None, TOKEN | variables)
    assert fault.startswith("delivery.file (FLOWCACHE_DELIVERY_FILE) = ")
    assert fault.endswith("is audit.journal, or has the name of a file that belongs to it")


def test_only_a_regular_file_is_appended_to(tmp_path: Path) -> None:
    """A pipe is refused at the start, and so is standard output by the name of a device."""
    os.mkfifo(tmp_path / "pipe")
    for path in (str(tmp_path / "pipe"), "/dev/null"):
        (fault,) = delivered(delivery_file=path)
        assert fault.endswith('is not a regular file; standard output is "-"')


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"delivery_token": "hush"}, ["delivery.token: needs delivery.url"]),
        (
            {
                "delivery_file": "-",
                "delivery_retry_seconds": "9",
                "delivery_retry_max_seconds": "2",
            },
            ["delivery.retry_seconds = 9.0: greater than delivery.retry_max_seconds = 2.0"],
        ),
        (
            {"cxone_audit_path": "/in"},
            [
                'cxone.audit_path = "/in": needs cxone.client_id',
                'cxone.audit_path = "/in": needs cxone.client_secret',
                'cxone.audit_path = "/in": needs cxone.api_base',
            ],
        ),
        (
            {
                "cxone_audit_path": "/in",
                "cxone_client_id": "c",
                "cxone_client_secret": "s",
                "cxone_grant": "access_key",
            },
            [
                'cxone.audit_path = "/in": needs cxone.access_key_id',
                'cxone.audit_path = "/in": needs cxone.access_key_secret',
                'cxone.audit_path = "/in": needs cxone.api_base or cxone.tenant_id',
            ],
        ),
    ],
)
def test_what_a_destination_needs(variables: dict[str, str], told: list[str]) -> None:
    """All that is missing is told, by name."""
    assert [re.sub(r" \(FLOWCACHE_\w+\)", "", fault) for fault in delivered(**variables)] == told


@pytest.mark.parametrize(
    "url",
    [
        "http://siem.example",
        "http://127.0.0.1.example",
        "http://169.254.169.254/latest",
        "file:///etc/passwd",
        "https://",
        "https://user@host",
        "https://host:0",
        "https://host:port",
        "https://host/#part",
        "https://h st",
        "//host",
    ],
)
def test_a_url_that_nothing_is_sent_to(url: str) -> None:
    """Only https, and http to this very host; a password in it is not shown."""
    (fault,) = delivered(delivery_url=url)
    assert fault.endswith(": expected an https:// URL without credentials")


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8080/in", "http://[::1]/in", "https://h:8443/in?a=b"]
)
def test_a_url_that_something_is_sent_to(url: str) -> None:
    """Whatever is safe is taken as it stands."""
    delivery = loaded({"FLOWCACHE_AUDIT_JOURNAL": JOURNAL, "FLOWCACHE_DELIVERY_URL": url}).delivery
    assert delivery is not None
    assert delivery.http == Endpoint(url)
