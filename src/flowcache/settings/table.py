"""The table of all settings there are: to add one, add its row, and use it in `parts`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flowcache.audit.settings import KeyNames
from flowcache.audit.settings import Mode as AuditMode
from flowcache.cxone.settings import CXONE_AUTH_BASE, Grant
from flowcache.delivery.settings import Shape
from flowcache.encryption.settings import Plaintext
from flowcache.metrics.logs import LEVELS
from flowcache.resilience.breaker import Mode
from flowcache.secret import Secret
from flowcache.settings import readers as read
from flowcache.settings.server_tls import ClientAuth

__all__ = ["LONGEST_TTL", "SETTINGS", "Setting"]


@dataclass(frozen=True, slots=True)
class Setting:
    """One row: ``read`` takes what TOML or the environment gave and raises ValueError."""

    section: str
    key: str
    read: Callable[[Any], Any]
    default: Any
    about: str
    names: tuple[str, ...] = ()
    is_secret: bool = False
    """Whether its value is never shown, not even a bad one."""
    holds: str | None = None
    """The name of the secret setting whose value is in the file that this one names."""

    @property
    def name(self) -> str:
        """The key as people write it: ``redis.nodes``."""
        return f"{self.section}.{self.key}"

    @property
    def variable(self) -> str:
        """Its environment variable."""
        return f"FLOWCACHE_{self.section}_{self.key}".upper()


LONGEST_TTL = 315_360_000
"""Ten years, in seconds."""


def _secret(
    section: str,
    key: str,
    reader: Callable[[Any], Secret],
    about: str,
    names: tuple[str, ...] = (),
) -> tuple[Setting, Setting]:
    """Return the rows of a secret: itself, and a file that may hold it in its place."""
    secret = Setting(section, key, reader, None, about, names, is_secret=True)
    file_key = f"{key}_file"
    about_file = f"file that holds `{key}`"
    return secret, Setting(
        section, file_key, read.content(reader), None, about_file, holds=secret.name
    )


SETTINGS: tuple[Setting, ...] = (
    Setting("http", "host", read.text, "127.0.0.1", "address to listen on", ("FLOWCACHE_HOST",)),
    Setting("http", "port", read.number(1, 65535), 3000, "port to listen on", ("FLOWCACHE_PORT",)),
    Setting(
        "http", "workers", read.number(1, 64), 1, "processes that serve", ("FLOWCACHE_WORKERS",)
    ),
    Setting(
        "http",
        "grace_seconds",
        read.seconds(0.1, 300),
        10.0,
        "how long calls in flight may take to finish after SIGTERM",
    ),
    Setting(
        "http",
        "drain_seconds",
        read.seconds(0, 60),
        1.0,
        "how long a worker that ends keeps an idle connection for a request on its way",
    ),
    Setting(
        "http",
        "max_connections",
        read.number(1, 1_000_000),
        4096,
        "connections that a worker keeps",
    ),
    Setting(
        "http",
        "keep_alive_seconds",
        read.seconds(1, 3600),
        75.0,
        "how long a connection may be idle; more than the load balancer's own limit",
    ),
    Setting(
        "http",
        "head_timeout_seconds",
        read.seconds(0.1, 60),
        5.0,
        "how long the head of a request may take to arrive",
    ),
    Setting(
        "http",
        "max_in_flight",
        read.number(1, 1_000_000),
        1024,
        "calls that a worker works on at once; further ones get overloaded",
    ),
    Setting(
        "http",
        "max_unfinished_bytes",
        read.number(64 * 1024, 1 << 40),
        32 << 20,
        "bytes of bodies that are not complete, a worker; past it the oldest is ended",
    ),
    Setting(
        "http",
        "max_unsent_bytes",
        read.number(64 * 1024, 1 << 40),
        32 << 20,
        "bytes of answers that clients don't take, a worker; past it the slowest is cut",
    ),
    Setting("http", "max_body_bytes", read.number(1024, 16 << 20), 256 * 1024, "longest body"),
    Setting(
        "http",
        "body_timeout_seconds",
        read.seconds(0.1, 60),
        2.0,
        "how long a body may take to arrive",
    ),
    Setting(
        "http",
        "max_answer_bytes",
        read.number(1024, 16 << 20),
        512 * 1024,
        "longest stored value that is answered; what JSON adds comes on top",
    ),
    Setting(
        "http",
        "trusted_proxies",
        read.networks,
        None,
        "networks of proxies that are believed about who calls (`X-Forwarded-For`); none",
    ),
    Setting(
        "http",
        "tls_cert_file",
        read.file,
        None,
        "PEM file of the service's certificate and those between it and its authority; with it "
        "https:// is spoken, and nothing else",
    ),
    Setting("http", "tls_key_file", read.file, None, "PEM file of its key, not encrypted"),
    Setting(
        "http",
        "tls_client_auth",
        read.one_of(*ClientAuth),
        ClientAuth.OFF.value,
        "whether callers show a certificate: `off`, `optional`, `required`",
    ),
    Setting(
        "http",
        "tls_client_ca_file",
        read.file,
        None,
        "PEM file of the authorities whose certificates callers may show",
    ),
    Setting(
        "http",
        "client_certificate_header",
        read.header,
        None,
        "header in which trusted proxies hand on a caller's certificate, as `Client-Cert`; none",
    ),
    Setting(
        "admin",
        "host",
        read.text,
        None,
        "address for operators to listen on, with `admin.port`; 127.0.0.1 by default",
    ),
    Setting(
        "admin",
        "port",
        read.number(1, 65535),
        None,
        "port for operators: metrics, documentation and the inspector are then served there, and "
        "not on `http.port`; none",
    ),
    Setting(
        "admin",
        "pages",
        read.one_of("open", "credential"),
        "open",
        "who sees `/metrics`, `/docs` and `/openapi.json`: open: anybody; credential: whoever has "
        "inspect:read",
    ),
    Setting(
        "auth",
        "failures_per_minute",
        read.number(1, 1_000_000),
        60,
        "wrong credentials that an address may show a worker; further ones get rate_limited",
    ),
    Setting(
        "auth",
        "shared_rates",
        read.flag,
        False,
        "whether the `rate` of a client is that of all instances together; else of each worker",
    ),
    *_secret(
        "auth",
        "token",
        read.secret,
        "the flows' bearer token: may run data operations on everything, may inspect nothing",
        ("SERVICE_BEARER_TOKEN",),
    ),
    *_secret(
        "inspector",
        "token",
        read.secret,
        "bearer token of GET /inspector; without one nobody can read it",
    ),
    *_secret(
        "inspector",
        "control_token",
        read.secret,
        "bearer token that may switch circuits, and read the inspector as well; without one nobody "
        "can",
    ),
    Setting(
        "jwt",
        "keys",
        read.keys,
        None,
        "where the keys of an issuer of JSON Web Tokens are (JWKS): a file, or an https:// URL",
    ),
    Setting("jwt", "issuer", read.text, None, "who must have issued a token (`iss`)"),
    Setting("jwt", "audience", read.text, None, "for whom a token must be made (`aud`)"),
    Setting(
        "jwt",
        "refresh_seconds",
        read.seconds(1, 86_400),
        300.0,
        "how often the keys are read again",
    ),
    Setting(
        "jwt",
        "leeway_seconds",
        read.seconds(0, 60),
        5.0,
        "how far the issuer's clock may be from ours: a token counts so much sooner and longer",
    ),
    Setting(
        "redis",
        "nodes",
        read.location,
        "127.0.0.1:6379",
        "host:port,... of servers to ask first, or a URL: redis:// rediss:// unix:// "
        "redis+sentinel:// rediss+sentinel://",
        ("REDIS_NODES", "REDIS_URL"),
    ),
    Setting("redis", "username", read.text, None, "ACL user"),
    *_secret("redis", "password", read.password, "password of the user"),
    Setting("redis", "database", read.number(0, 16383), 0, "database number; 0 in a cluster"),
    Setting(
        "redis", "service", read.text, None, "name of the primary, when the nodes are Sentinels"
    ),
    Setting("redis", "sentinel_username", read.text, None, "ACL user of the Sentinels"),
    *_secret("redis", "sentinel_password", read.password, "password of the Sentinels"),
    Setting("redis", "tls", read.flag, False, "speak TLS to Redis; rediss:// does the same"),
    Setting("redis", "tls_ca_file", read.file, None, "PEM file of the authority that Redis shows"),
    Setting("redis", "tls_cert_file", read.file, None, "PEM file of flowcache's own certificate"),
    Setting("redis", "tls_key_file", read.file, None, "PEM file of its key"),
    Setting(
        "redis", "tls_verify_hostname", read.flag, True, "whether Redis's certificate must name it"
    ),
    Setting(
        "redis",
        "tls_server_name",
        read.text,
        None,
        "name that the certificate of every server is for; by default the host in redis.nodes, or "
        "the host name that a cluster announces",
    ),
    Setting(
        "redis",
        "read_from",
        read.one_of("primary", "replica"),
        "primary",
        "which servers answer reads; a replica may not know yet what was just written",
    ),
    Setting(
        "redis",
        "stale_reads",
        read.flag,
        True,
        "whether a replica may answer a read whose primary is down or slow; the answer says "
        '`"stale":true`',
    ),
    Setting(
        "redis",
        "hedge_share",
        read.share,
        0.1,
        "the share of reads that may be sent to a second server because the first is slow, and ten "
        "a second more in each worker; 0 turns hedging off",
    ),
    Setting(
        "redis",
        "retry_share",
        read.share,
        0.2,
        "the share of calls that may be sent again because a server failed, and ten a second more "
        "in each worker; 0 turns retries off",
    ),
    Setting(
        "redis",
        "confirm_replicas",
        read.number(0, 16),
        0,
        "how many replicas must have a write before it is answered (WAIT); 0: none, as Redis does",
    ),
    Setting("redis", "connect_timeout_seconds", read.seconds(0.05, 30), 1.0, "for a connection"),
    Setting(
        "redis",
        "reply_timeout_seconds",
        read.seconds(0.1, 120),
        None,
        "a connection whose oldest reply is later is reset; not less than the deadline, "
        "a second more by default",
    ),
    Setting(
        "redis",
        "refresh_seconds",
        read.seconds(0.5, 3600),
        15.0,
        "how often the topology is asked for without any cause",
    ),
    Setting(
        "data", "default_ttl", read.number(1, LONGEST_TTL), 3600, "seconds, when a call says none"
    ),
    Setting("data", "max_ttl", read.number(1, LONGEST_TTL), 2_592_000, "longest ttl, seconds"),
    Setting(
        "data",
        "max_value_bytes",
        read.number(1, 16 << 20),
        256 * 1024,
        "most bytes that a key may hold after a write, as stored; of a hash, all names and values",
    ),
    Setting(
        "data",
        "max_fields",
        read.number(1, 1_000_000),
        10_000,
        "most fields that a hash may have after a write",
    ),
    Setting(
        "data",
        "deadline_ms",
        read.number(5, 60_000),
        800,
        "a call is answered within it, counted from when its body is there",
    ),
    Setting(
        "data",
        "max_elements",
        read.number(100, 10_000_000),
        10_000,
        "array items and object members in a body or a stored value; more are too_large",
    ),
    Setting(
        "data",
        "max_depth",
        read.number(2, 512),
        64,
        "levels of arrays and objects in a body",
    ),
    Setting(
        "data",
        "idempotency_seconds",
        read.number(1, 86_400),
        600,
        "how long a write with an idempotencyKey is remembered",
    ),
    Setting(
        "breaker",
        "failures",
        read.number(0, 1000),
        5,
        "failures in a row that open a shard's circuit; 0 is off",
    ),
    Setting(
        "breaker",
        "window",
        read.window,
        "off",
        'calls that the two rates are taken of, as "100 calls" or "30 seconds"; or "off"',
    ),
    Setting(
        "breaker", "min_calls", read.number(1, 100_000), 20, "rates of fewer calls open nothing"
    ),
    Setting(
        "breaker",
        "failure_rate",
        read.rate,
        0.5,
        "share of failed calls in the window, or of failed probes, that opens it",
    ),
    Setting(
        "breaker",
        "slow_ms",
        read.number(1, 60_000),
        None,
        "a call that takes longer is slow; off by default",
    ),
    Setting("breaker", "slow_rate", read.rate, 0.5, "share of slow ones that opens it"),
    Setting(
        "breaker", "open_seconds", read.seconds(0.1, 3600), 10.0, "how long it then stays open"
    ),
    Setting(
        "breaker",
        "open_max_seconds",
        read.seconds(0.1, 86_400),
        None,
        "each time the probes fail it stays open twice as long, up to this; "
        "a minute, or open_seconds where that is longer, by default",
    ),
    Setting(
        "breaker", "probes", read.number(1, 100), 1, "calls let through to see whether it is well"
    ),
    Setting(
        "breaker",
        "mode",
        read.one_of(*Mode),
        Mode.AUTO.value,
        "who decides: auto is the circuit, forced-open lets nothing through, disabled everything, "
        "observe judges and refuses nobody",
    ),
    Setting(
        "breaker",
        "min_budget_ms",
        read.number(0, 60_000),
        None,
        "a timeout counts only if Redis had at least this long; "
        "nine tenths of the deadline by default",
    ),
    Setting(
        "audit",
        "ring",
        read.number(0, 100_000),
        1000,
        "newest records a worker keeps in memory, when there is no journal",
    ),
    Setting(
        "audit",
        "journal",
        read.new_file,
        None,
        "file of the audit journal, shared by all workers of a host; without one records are "
        "kept in memory only",
    ),
    Setting(
        "audit",
        "mode",
        read.one_of(*AuditMode),
        "relaxed",
        "relaxed: a crash may lose the records of the last 0.2 s, and a broken journal stops "
        "nothing; strict: a call is answered only when its record is on disk",
    ),
    Setting(
        "audit",
        "keys",
        read.one_of(*KeyNames),
        "plain",
        "how key names are kept: plain, masked (`caller:***`), or hmac (a keyed hash)",
    ),
    *_secret("audit", "hmac_secret", read.key, "secret of that hash, at least 32 characters"),
    *_secret(
        "audit",
        "signing_key",
        read.key,
        "secret that seals the journal, at least 32 characters; set it before the journal begins",
    ),
    Setting("audit", "keep_days", read.number(1, 36_500), 365, "older records are let go of"),
    Setting(
        "audit",
        "max_mb",
        read.number(1, 1 << 20),
        1024,
        "the most MiB of records; the oldest are let go of",
    ),
    Setting(
        "encryption",
        "namespaces",
        read.namespaces,
        None,
        "namespaces whose values are encrypted in Redis; `*`, or nothing said: all of them, and "
        "the keys that are in none",
    ),
    *_secret(
        "encryption",
        "keys",
        read.encryption_keys,
        "keys that values are encrypted with, `ID:BASE64` each; without any nothing is encrypted",
    ),
    Setting(
        "encryption",
        "active",
        read.key_id,
        None,
        "id of the key that encrypts what is written; all of them decrypt; the first by default",
    ),
    Setting(
        "encryption",
        "plaintext",
        read.one_of(*Plaintext),
        "refuse",
        "what becomes of values that are not encrypted: refuse; read: they pass until they are "
        "written again; write: they are still written so. For data that is there already",
    ),
    Setting("log", "level", read.one_of(*LEVELS), "info", "least level that is logged"),
    Setting(
        "delivery",
        "stream",
        read.stream,
        None,
        "key of a stream in Redis that audit records are appended to, as `flowcache:audit`",
    ),
    Setting(
        "delivery",
        "stream_entries",
        read.number(1, 1 << 40),
        1_000_000,
        "how many records the stream has, about; the oldest go",
    ),
    Setting(
        "delivery",
        "file",
        read.output,
        None,
        "file that audit records are appended to as JSON lines; `-` is standard output",
    ),
    Setting(
        "delivery",
        "url",
        read.url,
        None,
        "https:// URL that batches of records are posted to",
    ),
    *_secret("delivery", "token", read.secret, "bearer token that is shown there"),
    Setting(
        "delivery",
        "format",
        read.one_of(*Shape),
        Shape.JSONL.value,
        "what a posted batch is: jsonl (JSON lines) or json (an array)",
    ),
    Setting("delivery", "ca_file", read.file, None, "PEM file of authorities, not the system's"),
    Setting("delivery", "batch", read.number(1, 5000), 500, "the most records sent as one"),
    Setting(
        "delivery",
        "timeout_seconds",
        read.seconds(0.1, 120),
        10.0,
        "how long a destination has to take a batch",
    ),
    Setting(
        "delivery",
        "retry_seconds",
        read.seconds(0.01, 3600),
        1.0,
        "how long to wait after a failure, about; it doubles with each one in a row",
    ),
    Setting(
        "delivery", "retry_max_seconds", read.seconds(0.01, 3600), 60.0, "the most that it becomes"
    ),
    Setting(
        "cxone",
        "audit_path",
        read.path,
        None,
        "path at CXone's API that batches of audit records are posted to; without one none are",
    ),
    Setting("cxone", "api_base", read.base_url, None, "where CXone's API is", ("CXONE_API_BASE",)),
    Setting(
        "cxone",
        "grant",
        read.one_of(*Grant),
        Grant.CLIENT_CREDENTIALS.value,
        "how a token is had: client_credentials (at `api_base`), or access_key (at `auth_base`)",
    ),
    Setting("cxone", "client_id", read.text, None, "who asks for a token", ("CXONE_CLIENT_ID",)),
    *_secret(
        "cxone", "client_secret", read.password, "secret of the client", ("CXONE_CLIENT_SECRET",)
    ),
    Setting("cxone", "access_key_id", read.text, None, "access key of a user, for access_key"),
    *_secret("cxone", "access_key_secret", read.password, "secret of the access key"),
    Setting(
        "cxone", "tenant_id", read.text, None, "whose API is looked up, for want of an `api_base`"
    ),
    Setting(
        "cxone",
        "auth_base",
        read.base_url,
        CXONE_AUTH_BASE,
        "where access_key asks for tokens, and a tenant's API is looked up",
    ),
)
