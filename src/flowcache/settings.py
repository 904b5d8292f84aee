"""The configuration: one TOML file, then the environment, then the command line.

`SETTINGS` is the table of all there is. Every row can be set as ``[section] key`` in the file, as
``FLOWCACHE_<SECTION>_<KEY>`` in the environment, and under its other names, which the seed or
convention gave it. All faults are found before any is reported, each with its key and bad value;
a secret's value is never shown. To add a setting: add its row, and use it in `_assemble`.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

from flowcache.audit.settings import AuditSettings, KeyNames
from flowcache.audit.settings import Mode as AuditMode
from flowcache.contract.request import Limits
from flowcache.http.connection import Patience
from flowcache.http.data_action import DataActionSettings
from flowcache.http.listener import Limits as ConnectionLimits
from flowcache.http.worker import ServerSettings
from flowcache.operations.catalogue import CATALOGUE
from flowcache.policy.clients import Clients, read_clients, shown_clients
from flowcache.policy.gate import GateSettings
from flowcache.policy.jwks import JwtSettings
from flowcache.policy.keys import ALL_KEYS
from flowcache.policy.networks import Networks, read_network
from flowcache.policy.permissions import Permission
from flowcache.policy.principals import Credential, Principal
from flowcache.policy.rates import Rate
from flowcache.policy.tokens import Token, digest
from flowcache.resilience.breaker import BreakerSettings, Mode, Unit, Window
from flowcache.resilience.guard import GuardSettings
from flowcache.secret import Secret
from flowcache.store.settings import (
    Location,
    ReadFrom,
    StoreSettings,
    Tls,
    parse_location,
    without_credentials,
)
from flowcache.telemetry.logs import LEVELS

__all__ = ["SETTINGS", "ConfigurationError", "Setting", "Settings", "audit_settings", "load"]


class ConfigurationError(Exception):
    """The configuration has faults; ``faults`` has a sentence for each."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


class Settings(msgspec.Struct, frozen=True):
    """The whole configuration, as the record of each part."""

    server: ServerSettings
    data_action: DataActionSettings
    store: StoreSettings
    guard: GuardSettings
    principals: tuple[Principal, ...]
    credentials: tuple[Credential, ...]
    jwt: JwtSettings | None
    """Whose JSON Web Tokens count; None: nobody's."""
    gate: GateSettings
    audit: AuditSettings
    log_level: str
    shown: dict[str, dict[str, Any]]
    """All settings by section, for people: secrets are masked."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One row: ``read`` takes what TOML or the environment gave and raises ValueError."""

    section: str
    key: str
    read: Callable[[Any], Any]
    default: Any
    about: str
    names: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The key as people write it: ``redis.nodes``."""
        return f"{self.section}.{self.key}"

    @property
    def variable(self) -> str:
        """Its environment variable."""
        return f"FLOWCACHE_{self.section}_{self.key}".upper()


# -- how values are read: what TOML gave, or the text of an environment variable -------------------


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("expected a text")
    return value.strip()


def _secret(value: Any) -> Secret:
    if not isinstance(value, str) or not value or not value.isascii() or not value.isprintable():
        raise ValueError("expected printable ASCII characters, at least one")
    if value != value.strip() or " " in value:
        raise ValueError("expected no spaces")
    return Secret(value)


def _password(value: Any) -> Secret:
    if not isinstance(value, str):
        raise ValueError("expected a text")
    return Secret(value)


def _file(value: Any) -> str:
    try:
        path = Path(_text(value)).expanduser()
        path.read_bytes()
    except OSError as fault:
        raise ValueError(f"can't be read: {fault.strerror}") from None
    except RuntimeError:
        raise ValueError("has a home directory that nobody has") from None
    return str(path.resolve())


def _new_file(value: Any) -> Path:
    """Read the path of a file that may not be there yet; its directory has to be."""
    try:
        path = Path(_text(value)).expanduser().absolute()
    except RuntimeError:
        raise ValueError("has a home directory that nobody has") from None
    if not path.parent.is_dir():
        raise ValueError("its directory is not there")
    if path.is_dir():
        raise ValueError("is a directory")
    return path


_KEY_LENGTH = 32


def _key(value: Any) -> Secret:
    secret = _secret(value)
    if len(secret.reveal()) < _KEY_LENGTH:
        raise ValueError(f"expected at least {_KEY_LENGTH} characters")
    return secret


def _key_file(value: Any) -> Secret:
    try:
        return _key(Path(_file(value)).read_text("ascii").strip())
    except UnicodeDecodeError:
        raise ValueError("expected a file of printable ASCII characters") from None


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if isinstance(value, str) and value.lower() in words:
        return words[value.lower()]
    raise ValueError("expected true or false")


def _number(low: int, high: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        try:
            number = int(value) if isinstance(value, str) else value
        except ValueError:
            number = None
        if type(number) is not int or not low <= number <= high:
            raise ValueError(f"expected a whole number from {low} to {high}")
        return number

    return read


def _seconds(low: float, high: float) -> Callable[[Any], float]:
    def read(value: Any) -> float:
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = float("nan")
        if isinstance(value, bool) or not low <= number <= high:
            raise ValueError(f"expected seconds from {low:g} to {high:g}")
        return number

    return read


def _share(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    if isinstance(value, bool) or not 0 <= number <= 1:
        raise ValueError("expected a share from 0 to 1")
    return number


def _rate(value: Any) -> float:
    rate = _share(value)
    if rate == 0:
        raise ValueError("expected a share above 0")
    return rate


def _window(value: Any) -> Window | None:
    """Read a number and its unit: one key that can't contradict another."""
    if value == "off":
        return None
    size, _, unit = value.partition(" ") if isinstance(value, str) else ("", "", "")
    longest = {"calls": 100_000, "seconds": 3600}
    number = int(size) if size.isascii() and size.isdigit() and len(size) < 9 else 0
    if not 1 <= number <= longest.get(unit, 0):
        raise ValueError(
            'expected "1 calls" to "100000 calls", "1 seconds" to "3600 seconds", or "off"'
        )
    return Window(number, Unit(unit))


def _one_of(*choices: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if value not in choices:
            raise ValueError(f"expected {' or '.join(choices)}")
        return str(value)

    return read


def _location(value: Any) -> Location:
    """Read nodes: a text, or in TOML also a list of ``host:port``."""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        value = ",".join(value)
    return parse_location(_text(value))


def _networks(value: Any) -> Networks:
    """Read networks: a text with commas, or in TOML also a list."""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        value = ",".join(value)
    return Networks(read_network(each.strip()) for each in _text(value).split(","))


def _keys(value: Any) -> str:
    """Read where keys are. In clear from this host only: on the way they could be altered."""
    location = _text(value)
    if "://" not in location:
        return _file(location)
    url = urlsplit(location)
    is_here = url.scheme == "http" and url.hostname in ("127.0.0.1", "::1", "localhost")
    if not url.hostname or url.username is not None or not (url.scheme == "https" or is_here):
        raise ValueError("expected a file, or an https:// URL without credentials")
    return location


# -- the table -------------------------------------------------------------------------------------

_MOST_TTL = 315_360_000
"""Ten years, in seconds."""

SETTINGS: tuple[Setting, ...] = (
    Setting("http", "host", _text, "127.0.0.1", "address to listen on", ("FLOWCACHE_HOST",)),
    Setting("http", "port", _number(1, 65535), 3000, "port to listen on", ("FLOWCACHE_PORT",)),
    Setting("http", "workers", _number(1, 64), 1, "processes that serve", ("FLOWCACHE_WORKERS",)),
    Setting(
        "http",
        "grace_seconds",
        _seconds(0.1, 300),
        10.0,
        "how long calls in flight may take to finish after SIGTERM",
    ),
    Setting(
        "http",
        "drain_seconds",
        _seconds(0, 60),
        1.0,
        "how long a worker that ends keeps an idle connection for a request on its way",
    ),
    Setting(
        "http", "max_connections", _number(1, 1_000_000), 4096, "connections that a worker keeps"
    ),
    Setting(
        "http",
        "keep_alive_seconds",
        _seconds(1, 3600),
        75.0,
        "how long a connection may be idle; more than the load balancer's own limit",
    ),
    Setting(
        "http",
        "head_timeout_seconds",
        _seconds(0.1, 60),
        5.0,
        "how long the head of a request may take to arrive",
    ),
    Setting(
        "http",
        "max_in_flight",
        _number(1, 1_000_000),
        1024,
        "calls that a worker works on at once; further ones get redis_unavailable",
    ),
    Setting(
        "http",
        "max_unfinished_bytes",
        _number(64 * 1024, 1 << 40),
        32 << 20,
        "bytes of bodies that are not complete, a worker; past it the oldest is ended",
    ),
    Setting("http", "max_body_bytes", _number(1024, 16 << 20), 256 * 1024, "longest body"),
    Setting(
        "http",
        "body_timeout_seconds",
        _seconds(0.1, 60),
        2.0,
        "how long a body may take to arrive",
    ),
    Setting("http", "max_answer_bytes", _number(1024, 16 << 20), 512 * 1024, "longest answer"),
    Setting(
        "http",
        "trusted_proxies",
        _networks,
        None,
        "networks of proxies that are believed about who calls (`X-Forwarded-For`); none",
    ),
    Setting(
        "auth",
        "failures_per_minute",
        _number(1, 1_000_000),
        60,
        "wrong credentials that an address may show a worker; further ones get rate_limited",
    ),
    Setting(
        "auth",
        "shared_rates",
        _flag,
        False,
        "whether the `rate` of a client is that of all instances together; else of each worker",
    ),
    Setting(
        "auth",
        "token",
        _secret,
        None,
        "the flows' bearer token: may run data operations on everything, may inspect nothing",
        ("SERVICE_BEARER_TOKEN",),
    ),
    Setting(
        "inspector",
        "token",
        _secret,
        None,
        "bearer token of GET /inspector; without one nobody can read it",
    ),
    Setting(
        "inspector",
        "control_token",
        _secret,
        None,
        "bearer token that may switch circuits, and read the inspector as well; without one nobody "
        "can",
    ),
    Setting(
        "jwt",
        "keys",
        _keys,
        None,
        "where the keys of an issuer of JSON Web Tokens are (JWKS): a file, or an https:// URL",
    ),
    Setting("jwt", "issuer", _text, None, "who must have issued a token (`iss`)"),
    Setting("jwt", "audience", _text, None, "for whom a token must be made (`aud`)"),
    Setting(
        "jwt", "refresh_seconds", _seconds(1, 86_400), 300.0, "how often the keys are read again"
    ),
    Setting(
        "redis",
        "nodes",
        _location,
        "127.0.0.1:6379",
        "host:port,... of servers to ask first, or a URL: redis:// rediss:// unix:// "
        "redis+sentinel:// rediss+sentinel://",
        ("REDIS_NODES", "REDIS_URL"),
    ),
    Setting("redis", "username", _text, None, "ACL user"),
    Setting("redis", "password", _password, None, "password of the user"),
    Setting("redis", "database", _number(0, 16383), 0, "database number; 0 in a cluster"),
    Setting("redis", "service", _text, None, "name of the primary, when the nodes are Sentinels"),
    Setting("redis", "sentinel_username", _text, None, "ACL user of the Sentinels"),
    Setting("redis", "sentinel_password", _password, None, "password of the Sentinels"),
    Setting("redis", "tls", _flag, False, "speak TLS to Redis; rediss:// does the same"),
    Setting("redis", "tls_ca_file", _file, None, "PEM file of the authority that Redis shows"),
    Setting("redis", "tls_cert_file", _file, None, "PEM file of flowcache's own certificate"),
    Setting("redis", "tls_key_file", _file, None, "PEM file of its key"),
    Setting(
        "redis", "tls_verify_hostname", _flag, True, "whether Redis's certificate must name it"
    ),
    Setting(
        "redis",
        "read_from",
        _one_of("primary", "replica"),
        "primary",
        "which servers answer reads; a replica may not know yet what was just written",
    ),
    Setting(
        "redis",
        "stale_reads",
        _flag,
        True,
        "whether a replica may answer a read whose primary is down or slow; the answer says "
        '`"stale":true`',
    ),
    Setting(
        "redis",
        "hedge_share",
        _share,
        0.1,
        "the share of reads that may be sent to a second server because the first is slow, and ten "
        "a second more in each worker; 0 turns hedging off",
    ),
    Setting(
        "redis",
        "retry_share",
        _share,
        0.2,
        "the share of calls that may be sent again because a server failed, and ten a second more "
        "in each worker; 0 turns retries off",
    ),
    Setting(
        "redis",
        "confirm_replicas",
        _number(0, 16),
        0,
        "how many replicas must have a write before it is answered (WAIT); 0: none, as Redis does",
    ),
    Setting("redis", "connect_timeout_seconds", _seconds(0.05, 30), 1.0, "for a connection"),
    Setting(
        "redis",
        "reply_timeout_seconds",
        _seconds(0.1, 120),
        None,
        "a connection whose oldest reply is later is reset; not less than the deadline, "
        "a second more by default",
    ),
    Setting(
        "redis",
        "refresh_seconds",
        _seconds(0.5, 3600),
        15.0,
        "how often the topology is asked for without any cause",
    ),
    Setting("data", "default_ttl", _number(1, _MOST_TTL), 3600, "seconds, when a call says none"),
    Setting("data", "max_ttl", _number(1, _MOST_TTL), 2_592_000, "longest ttl, seconds"),
    Setting(
        "data",
        "deadline_ms",
        _number(5, 60_000),
        800,
        "a call is answered within it, counted from when its body is there",
    ),
    Setting(
        "data",
        "idempotency_seconds",
        _number(1, 86_400),
        600,
        "how long a write with an idempotencyKey is remembered",
    ),
    Setting(
        "breaker",
        "failures",
        _number(0, 1000),
        5,
        "failures in a row that open a shard's circuit; 0 is off",
    ),
    Setting(
        "breaker",
        "window",
        _window,
        "off",
        'calls that the two rates are taken of, as "100 calls" or "30 seconds"; or "off"',
    ),
    Setting("breaker", "min_calls", _number(1, 100_000), 20, "rates of fewer calls open nothing"),
    Setting(
        "breaker",
        "failure_rate",
        _rate,
        0.5,
        "share of failed calls in the window, or of failed probes, that opens it",
    ),
    Setting(
        "breaker",
        "slow_ms",
        _number(1, 60_000),
        None,
        "a call that takes longer is slow; off by default",
    ),
    Setting("breaker", "slow_rate", _rate, 0.5, "share of slow ones that opens it"),
    Setting("breaker", "open_seconds", _seconds(0.1, 3600), 10.0, "how long it then stays open"),
    Setting(
        "breaker",
        "open_max_seconds",
        _seconds(0.1, 86_400),
        None,
        "each time the probes fail it stays open twice as long, up to this; "
        "a minute, or open_seconds where that is longer, by default",
    ),
    Setting("breaker", "probes", _number(1, 100), 1, "calls let through to see whether it is well"),
    Setting(
        "breaker",
        "mode",
        _one_of(*Mode),
        Mode.AUTO.value,
        "who decides: auto is the circuit, forced-open lets nothing through, disabled everything, "
        "observe judges and refuses nobody",
    ),
    Setting(
        "breaker",
        "min_budget_ms",
        _number(0, 60_000),
        None,
        "a timeout of a call that was given less than this does not count; "
        "nine tenths of the deadline by default",
    ),
    Setting(
        "audit",
        "ring",
        _number(0, 100_000),
        1000,
        "newest records a worker keeps in memory, when there is no journal",
    ),
    Setting(
        "audit",
        "journal",
        _new_file,
        None,
        "file of the audit journal, shared by all workers of a host; without one records are "
        "kept in memory only",
    ),
    Setting(
        "audit",
        "mode",
        _one_of(*AuditMode),
        "relaxed",
        "relaxed: a crash may lose the records of the last 0.2 s, and a broken journal stops "
        "nothing; strict: a call is answered only when its record is on disk",
    ),
    Setting(
        "audit",
        "keys",
        _one_of(*KeyNames),
        "plain",
        "how key names are kept: plain, masked (`caller:***`), or hmac (a keyed hash)",
    ),
    Setting("audit", "hmac_secret", _key, None, "secret of that hash, at least 32 characters"),
    Setting("audit", "hmac_secret_file", _key_file, None, "file that holds it"),
    Setting(
        "audit",
        "signing_key",
        _key,
        None,
        "secret that seals the journal, at least 32 characters; set it before the journal begins",
    ),
    Setting("audit", "signing_key_file", _key_file, None, "file that holds it"),
    Setting("audit", "keep_days", _number(1, 36_500), 365, "older records are let go of"),
    Setting(
        "audit",
        "max_mb",
        _number(1, 1 << 20),
        1024,
        "the most MiB of records; the oldest are let go of",
    ),
    Setting("log", "level", _one_of(*LEVELS), "info", "least level that is logged"),
    Setting(
        "cxone",
        "api_base",
        _text,
        None,
        "kept for the delivery of the audit; not used yet",
        ("CXONE_API_BASE",),
    ),
    Setting(
        "cxone",
        "client_id",
        _text,
        None,
        "kept for the delivery of the audit; not used yet",
        ("CXONE_CLIENT_ID",),
    ),
    Setting(
        "cxone",
        "client_secret",
        _password,
        None,
        "kept for the delivery of the audit; not used yet",
        ("CXONE_CLIENT_SECRET",),
    ),
)


def load(
    file: Path | None,
    environment: Mapping[str, str],
    overrides: Mapping[str, Any] | None = None,
    fallbacks: Mapping[str, Any] | None = None,
) -> Settings:
    """Read the configuration.

    ``overrides`` come before the environment and ``fallbacks`` in place of defaults; both by name,
    as ``redis.nodes``.

    Raises:
        ConfigurationError: it has faults; all of them are told.
    """
    faults: list[str] = []
    document = _read_file(file, faults)
    _find_unknown(document, environment, faults)
    sources = _Sources(overrides or {}, environment, document, fallbacks or {})
    values = {s.name: _value(s, sources, faults) for s in SETTINGS}
    settings = _assemble(values, document.get("clients", {}), faults)
    if faults or settings is None:
        raise ConfigurationError(faults)
    return settings


def _read_file(file: Path | None, faults: list[str]) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except OSError as fault:
        faults.append(f"{file}: can't be read: {fault.strerror}")
    except (ValueError, RecursionError) as fault:  # TOMLDecodeError is a ValueError, and not alone
        faults.append(f"{file}: no TOML: {fault}")
    return {}


def _find_unknown(
    document: Mapping[str, Any], environment: Mapping[str, str], faults: list[str]
) -> None:
    known = {s.name for s in SETTINGS}
    sections = {s.section for s in SETTINGS}
    for section, keys in document.items():
        if section == "clients":
            continue  # a section for each client: `policy.clients` knows them
        if not isinstance(keys, dict):
            faults.append(f"{section}: unknown outside of a section; did you forget [http]?")
            continue
        if section not in sections and not keys:
            faults.append(f"{section}: unknown section")
        faults.extend(
            f"{section}.{key}: unknown setting" for key in keys if f"{section}.{key}" not in known
        )
    variables = {name for s in SETTINGS for name in (s.variable, *s.names)}
    faults.extend(
        f"{name}: unknown variable"
        for name in environment
        if name.startswith("FLOWCACHE_") and name not in variables
    )


class _Sources(NamedTuple):
    """Where a value may come from; the first has the most say."""

    overrides: Mapping[str, Any]
    environment: Mapping[str, str]
    document: Mapping[str, Any]
    fallbacks: Mapping[str, Any]

    def find(self, setting: Setting) -> tuple[str, Any]:
        """Return where the value of ``setting`` was found, and what was found there."""
        if self.overrides.get(setting.name) is not None:
            return setting.name, self.overrides[setting.name]
        for name in (setting.variable, *setting.names):
            if self.environment.get(name):
                return name, self.environment[name]
        section = self.document.get(setting.section)
        if isinstance(section, dict) and setting.key in section:
            return setting.name, section[setting.key]
        return setting.name, self.fallbacks.get(setting.name, setting.default)


def _value(setting: Setting, sources: _Sources, faults: list[str]) -> Any:
    source, raw = sources.find(setting)
    if raw is None:
        return None
    try:
        return setting.read(raw)
    except ValueError as fault:
        told = source if source == setting.name else f"{setting.name} ({source})"
        faults.append(f"{told} = {_masked(setting, raw)}: {fault}")
        return None


def _masked(setting: Setting, raw: Any) -> str:
    """Return a bad value as it may be shown: no secret, and not too long."""
    if setting.read in (_secret, _password, _key):
        return "'***'"
    try:
        if setting.read is _location:
            nodes = raw if isinstance(raw, list) else [raw]
            shown = [without_credentials(n) if isinstance(n, str) else "***" for n in nodes]
            return repr(",".join(shown))[:200]
        if setting.read is _keys and isinstance(raw, str):
            raw = without_credentials(raw)
        return repr(raw)[:200]
    except ValueError:  # Python shows no integer of more than 4,300 digits
        return "a very long number"


def audit_settings(
    file: Path | None, environment: Mapping[str, str], overrides: Mapping[str, Any] | None = None
) -> AuditSettings:
    """Read what concerns the audit only: who reads a journal need not be able to serve.

    Raises:
        ConfigurationError: that part has faults; all of them are told.
    """
    faults: list[str] = []
    sources = _Sources(overrides or {}, environment, _read_file(file, faults), {})
    values = {s.name: _value(s, sources, faults) for s in SETTINGS if s.section == "audit"}
    audit = _audit(values, faults)
    if faults or audit is None:
        raise ConfigurationError(faults)
    return audit


def _audit(v: dict[str, Any], faults: list[str]) -> AuditSettings | None:
    for name in ("audit.hmac_secret", "audit.signing_key"):
        if v[name] is not None and v[f"{name}_file"] is not None:
            faults.append(f"{name} and {name}_file: one of them is enough")
    hmac_secret = v["audit.hmac_secret"] or v["audit.hmac_secret_file"]
    for name, value, needed, has in (
        ("audit.keys", KeyNames.HMAC, "audit.hmac_secret", hmac_secret),
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
        hmac_secret,
        v["audit.signing_key"] or v["audit.signing_key_file"],
        v["audit.keep_days"],
        v["audit.max_mb"],
    )


def _assemble(values: dict[str, Any], clients: Any, faults: list[str]) -> Settings | None:
    """Check what concerns several settings, and hand each part its own record."""
    v = values
    known = _clients(v, clients, faults)
    _check_jwt(v, known, faults)
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
    audit = _audit(v, faults)
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
                Patience(head=v["http.head_timeout_seconds"], idle=v["http.keep_alive_seconds"]),
            ),
        ),
        DataActionSettings(
            limits=Limits(v["data.default_ttl"], v["data.max_ttl"]),
            deadline=deadline,
            max_body=v["http.max_body_bytes"],
            body_timeout=v["http.body_timeout_seconds"],
            max_answer=v["http.max_answer_bytes"],
            max_in_flight=v["http.max_in_flight"],
            max_unfinished=v["http.max_unfinished_bytes"],
            once_lifetime=v["data.idempotency_seconds"],
        ),
        _store(v, deadline + 1.0 if reply_timeout is None else reply_timeout),
        GuardSettings(
            _breaker(v, probe_seconds=deadline + 1.0),
            deadline * 0.9 if budget is None else min(budget / 1000, deadline),
            v["redis.hedge_share"],
            Mode(v["breaker.mode"]),
        ),
        known.principals,
        known.credentials,
        _jwt(v),
        GateSettings(
            v["http.trusted_proxies"] or Networks(()),
            Rate(v["auth.failures_per_minute"] / 60, v["auth.failures_per_minute"]),
            v["auth.shared_rates"],
        ),
        audit,
        v["log.level"],
        _shown(v) | {"clients": shown_clients(clients)},
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


def _store(v: dict[str, Any], reply_timeout: float) -> StoreSettings:
    location: Location = v["redis.nodes"]
    tls = Tls(
        v["redis.tls_ca_file"],
        v["redis.tls_cert_file"],
        v["redis.tls_key_file"],
        v["redis.tls_verify_hostname"],
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
    )


_DATA = frozenset({Permission.DATA_READ, Permission.DATA_WRITE})
_OWN: dict[str, Principal] = {
    "auth.token": Principal("flow", _DATA, ALL_KEYS),
    "inspector.token": Principal("inspector", frozenset({Permission.INSPECT_READ})),
    "inspector.control_token": Principal(
        "control", frozenset({Permission.INSPECT_READ, Permission.CIRCUITS_WRITE})
    ),
}
"""Whose tokens are settings. Their names are taken, whether they have a token or not."""


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
    needed = {operation.name: operation.permission for operation in CATALOGUE.values()}
    limits = Limits(v["data.default_ttl"] or 1, v["data.max_ttl"] or _MOST_TTL)
    theirs = read_clients(clients, needed, limits, faults)
    owners: dict[bytes, str] = {}
    named = ((f"clients.{each.principal.name}.tokens", each) for each in theirs.credentials)
    for where, credential in (*own.items(), *named):
        other = owners.setdefault(credential.token.digest, where)
        if other != where:
            faults.append(f"{where}: the same as {other}; a token tells who calls")
    if isinstance(clients, dict):
        faults.extend(
            f"clients.{principal.name}: this name is that of {setting}"
            for setting, principal in _OWN.items()
            if principal.name in clients
        )
    return Clients(
        (*(each.principal for each in own.values()), *theirs.principals),
        (*own.values(), *theirs.credentials),
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
    return JwtSettings(v["jwt.issuer"], v["jwt.audience"], v["jwt.keys"], v["jwt.refresh_seconds"])


def _shown(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    shown: dict[str, dict[str, Any]] = {}
    for setting in SETTINGS:
        value = values[setting.name]
        if isinstance(value, Secret):
            value = "***"
        elif isinstance(value, Path):
            value = str(value)
        elif isinstance(value, Location):
            value = [str(node) for node in value.nodes]
        elif isinstance(value, Window | Networks):
            value = str(value)
        shown.setdefault(setting.section, {})[setting.key] = value
    return shown
