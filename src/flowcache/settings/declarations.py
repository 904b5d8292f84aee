"""All settings: a class for each section of the file, a field for each setting.

To add a setting, add its field here and use it in `parts`. All else follows: see `declaring`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from pathlib import Path
from typing import Any, get_type_hints

from flowcache.audit.settings import KeyNames
from flowcache.audit.settings import Mode as AuditMode
from flowcache.authn.tokens import Token
from flowcache.authz.keys import KeyPatterns
from flowcache.authz.networks import Networks
from flowcache.authz.permissions import Permission
from flowcache.cxone.settings import CXONE_AUTH_BASE, Grant
from flowcache.delivery.settings import Shape
from flowcache.encryption.settings import Plaintext
from flowcache.metrics.logs import LEVELS
from flowcache.resilience.breaker import Mode, Window
from flowcache.secret import Secret
from flowcache.settings import kinds as k
from flowcache.settings.declaring import Setting, declared, section, setting
from flowcache.settings.server_tls import ClientAuth
from flowcache.store.settings import Location, ReadFrom

__all__ = ["CLIENT_SETTINGS", "LONGEST_TTL", "SECTIONS", "SETTINGS", "Client", "Config", "Pages"]

LONGEST_TTL = 315_360_000
"""Ten years, in seconds."""
_TTL = k.whole(1, LONGEST_TTL, "seconds")
_BODY = k.whole(1024, 16 << 20, "bytes")
_VALUE = k.whole(1, 16 << 20, "bytes")
_MEMORY = k.whole(64 * 1024, 1 << 40, "bytes")
_FIELDS = k.whole(1, 1_000_000, "fields")
_PORT = k.whole(1, 65535)


class Pages(StrEnum):
    """Who may see the metrics and the documentation."""

    OPEN = "open"
    CREDENTIAL = "credential"


@section
class Http:
    """The HTTP server that flows call."""

    host: str = setting(
        k.TEXT,
        "Address to listen on. `0.0.0.0` listens on all IPv4 addresses of the machine.",
        default="127.0.0.1",
        names=("FLOWCACHE_HOST",),
    )
    port: int = setting(_PORT, "Port to listen on.", default=3000, names=("FLOWCACHE_PORT",))
    workers: int = setting(
        k.whole(1, 64, "processes"),
        "Worker processes. Start with one per CPU core. Each keeps its own connections to Redis.",
        default=1,
        names=("FLOWCACHE_WORKERS",),
    )
    grace_seconds: float = setting(
        k.number(0.1, 300), "How long calls in flight may take after SIGTERM.", default=10.0
    )
    drain_seconds: float = setting(
        k.number(0, 60),
        "How long a stopping worker keeps an idle connection for a request that is on its way.",
        default=1.0,
    )
    max_connections: int = setting(
        k.whole(1, 1_000_000, "connections"),
        "Maximum number of open connections per worker.",
        default=4096,
    )
    keep_alive_seconds: float = setting(
        k.number(1, 3600),
        "How long a connection may be idle. Set it above the idle timeout of the load balancer.",
        default=75.0,
    )
    head_timeout_seconds: float = setting(
        k.number(0.1, 60),
        "How long the head of a request, and a TLS handshake, may take to arrive.",
        default=5.0,
    )
    max_in_flight: int = setting(
        k.whole(1, 1_000_000, "calls"),
        "Maximum number of calls in flight per worker. Further calls fail with `overloaded`.",
        default=1024,
    )
    max_unfinished_bytes: int = setting(
        _MEMORY,
        "Memory for request bodies that are not complete, per worker. When it is full, the oldest "
        "of them is refused.",
        default=32 << 20,
    )
    max_unsent_bytes: int = setting(
        _MEMORY,
        "Memory for responses that clients do not read, per worker. When it is full, the slowest "
        "client is disconnected.",
        default=32 << 20,
    )
    max_body_bytes: int = setting(_BODY, "Maximum size of a request body.", default=256 * 1024)
    body_timeout_seconds: float = setting(
        k.number(0.1, 60), "How long a request body may take to arrive.", default=2.0
    )
    max_answer_bytes: int = setting(
        _BODY,
        "Maximum size of a stored value that is returned. Its JSON text may be longer.",
        default=512 * 1024,
    )
    trusted_proxies: Networks | None = setting(
        k.NETWORKS,
        "Networks of reverse proxies. flowcache trusts their `X-Forwarded-For` and "
        "`http.client_certificate_header`.",
        unset="none",
        example=["10.0.0.0/8"],
    )
    tls_cert_file: str | None = setting(
        k.FILE,
        "PEM file with the server certificate, followed by the intermediate certificates. With it "
        "the port serves https only.",
        unset="plain HTTP",
        example="/etc/flowcache/tls.crt",
    )
    tls_key_file: str | None = setting(
        k.FILE,
        "PEM file with the private key of the server certificate, without a password.",
        unset="plain HTTP",
        example="/etc/flowcache/tls.key",
    )
    tls_client_auth: ClientAuth = setting(
        k.choice(*ClientAuth),
        "Whether callers present a client certificate (mutual TLS).",
        default="off",
    )
    tls_client_ca_file: str | None = setting(
        k.FILE,
        "PEM file with the certificate authorities of client certificates.",
        unset="none",
        example="/etc/flowcache/clients-ca.crt",
    )
    client_certificate_header: bytes | None = setting(
        k.HEADER,
        "Header in which trusted proxies forward the certificate of the caller.",
        unset="none",
        example="Client-Cert",
    )


@section
class Admin:
    """A separate port for operators."""

    host: str | None = setting(
        k.TEXT, "Address of the port for operators.", unset="127.0.0.1", example="127.0.0.1"
    )
    port: int | None = setting(
        _PORT,
        "Port for operators. Metrics, documentation and the inspector are then served there and "
        "not on `http.port`.",
        unset="everything is on `http.port`",
        example=3001,
    )
    pages: Pages = setting(
        k.choice(*Pages),
        "Who may see `/metrics`, `/docs` and `/openapi.json`. `open`: anybody. `credential`: "
        "principals with the permission `inspect:read`.",
        default="open",
    )


@section
class Auth:
    """Authentication of callers. Clients with permissions of their own are in `[clients.NAME]`."""

    failures_per_minute: int = setting(
        k.whole(1, 1_000_000),
        "How many wrong credentials an address may present to a worker per minute. Further ones "
        "fail with `rate_limited`.",
        default=60,
    )
    shared_rates: bool = setting(
        k.FLAG,
        "Whether the `rate` of a client applies to all instances together, counted in Redis. "
        "Otherwise it applies to each worker.",
        default=False,
    )
    token: Secret | None = setting(
        k.TOKEN,
        "Bearer token of the flows. It may run data operations on all keys and may inspect "
        "nothing. Use `[clients.NAME]` to restrict callers.",
        unset="none",
        names=("SERVICE_BEARER_TOKEN",),
    )


@section
class Inspector:
    """Tokens of operators."""

    token: Secret | None = setting(
        k.TOKEN, "Bearer token that may read `/inspector`.", unset="none"
    )
    control_token: Secret | None = setting(
        k.TOKEN,
        "Bearer token that may override circuits, and read `/inspector` as well.",
        unset="none",
    )


@section
class Jwt:
    """JSON Web Tokens of an identity provider."""

    keys: str | None = setting(
        k.KEY_SET,
        "JSON Web Key Set of the issuer.",
        unset="no issuer",
        example="https://login.example.com/.well-known/jwks.json",
    )
    issuer: str | None = setting(
        k.TEXT,
        "Required value of the claim `iss`.",
        unset="no issuer",
        example="https://login.example.com/",
    )
    audience: str | None = setting(
        k.TEXT, "Required value of the claim `aud`.", unset="no issuer", example="flowcache"
    )
    refresh_seconds: float = setting(
        k.number(1, 86_400), "How often the keys are read again.", default=300.0
    )
    leeway_seconds: float = setting(
        k.number(0, 60), "Tolerated clock difference for `exp` and `nbf`.", default=5.0
    )


@section
class Redis:
    """The Redis or Valkey that holds the data. Its topology is detected."""

    nodes: Location = setting(
        k.NODES,
        "Servers to connect to first. A URL begins with `redis://`, `rediss://`, `unix://`, "
        "`redis+sentinel://` or `rediss+sentinel://`, and takes precedence over these settings.",
        default="127.0.0.1:6379",
        names=("REDIS_NODES", "REDIS_URL"),
    )
    username: str | None = setting(k.TEXT, "ACL user.", unset="`default`", example="flowcache")
    password: Secret | None = setting(k.PASSWORD, "Password of the user.", unset="none")
    database: int = setting(
        k.whole(0, 16383), "Number of the database. It must be 0 in a cluster.", default=0
    )
    service: str | None = setting(
        k.TEXT,
        "Name of the primary, when the nodes are Sentinels that monitor several.",
        unset="the only one",
        example="flows",
    )
    sentinel_username: str | None = setting(
        k.TEXT, "ACL user of the Sentinels.", unset="`default`", example="flowcache"
    )
    sentinel_password: Secret | None = setting(
        k.PASSWORD, "Password of the Sentinels.", unset="none"
    )
    tls: bool = setting(
        k.FLAG, "Whether connections to Redis use TLS. `rediss://` does the same.", default=False
    )
    tls_ca_file: str | None = setting(
        k.FILE,
        "PEM file with the certificate authorities of Redis.",
        unset="those of the system",
        example="/etc/flowcache/redis-ca.crt",
    )
    tls_cert_file: str | None = setting(
        k.FILE,
        "PEM file with the client certificate that flowcache presents to Redis.",
        unset="none",
        example="/etc/flowcache/redis.crt",
    )
    tls_key_file: str | None = setting(
        k.FILE,
        "PEM file with the private key of that certificate.",
        unset="none",
        example="/etc/flowcache/redis.key",
    )
    tls_verify_hostname: bool = setting(
        k.FLAG, "Whether the certificate of Redis must contain its host name.", default=True
    )
    tls_server_name: str | None = setting(
        k.TEXT,
        "Name that the certificate of every server must contain.",
        unset="the host in `redis.nodes`, or the host name that a cluster announces",
        example="redis.example.com",
    )
    read_from: ReadFrom = setting(
        k.choice(*ReadFrom),
        "Which servers answer reads. A replica may lag behind and miss the latest write.",
        default="primary",
    )
    stale_reads: bool = setting(
        k.FLAG,
        "Whether a replica may answer a read while the primary is down or slow. The response then "
        'contains `"stale":true`.',
        default=True,
    )
    hedge_budget: float = setting(
        k.SHARE,
        "Budget of hedged reads: the share of reads that may be sent to a second server because "
        "the first is slow, plus ten per second per worker. 0 turns hedging off.",
        default=0.1,
    )
    retry_budget: float = setting(
        k.SHARE,
        "Retry budget: the share of calls that may be sent again because a server failed, plus ten "
        "per second per worker. 0 turns retries off.",
        default=0.2,
    )
    confirm_replicas: int = setting(
        k.whole(0, 16, "replicas"),
        "How many replicas must acknowledge a write before the response is sent (`WAIT`).",
        default=0,
    )
    connect_timeout_seconds: float = setting(
        k.number(0.05, 30), "How long connecting to a server may take.", default=1.0
    )
    reply_timeout_seconds: float | None = setting(
        k.number(0.1, 120),
        "A connection is reset when its oldest reply takes longer. It can't be shorter than "
        "`data.deadline_ms`.",
        unset="the deadline plus 1 second",
        example=1.8,
    )
    refresh_seconds: float = setting(
        k.number(0.5, 3600),
        "How often the topology is read while nothing points to a change.",
        default=15.0,
    )


@section
class Data:
    """Limits of data operations."""

    default_ttl: int = setting(_TTL, "TTL of a write that names none.", default=3600)
    max_ttl: int = setting(_TTL, "Maximum TTL of a write.", default=2_592_000)
    max_value_bytes: int = setting(
        _VALUE,
        "Maximum size of a key's value after a write, as stored. For a hash: all names and values.",
        default=256 * 1024,
    )
    max_fields: int = setting(
        _FIELDS, "Maximum number of fields of a hash after a write.", default=10_000
    )
    deadline_ms: int = setting(
        k.whole(5, 60_000, "milliseconds"),
        "Deadline of a call, counted from the arrival of its body. Set it below the timeout of the "
        "flow.",
        default=800,
    )
    max_elements: int = setting(
        k.whole(100, 10_000_000, "elements"),
        "Maximum number of array items and object members in a body or a stored value. Larger ones "
        "fail with `too_large`.",
        default=10_000,
    )
    max_depth: int = setting(
        k.whole(2, 512, "levels"), "Maximum nesting of arrays and objects in a body.", default=64
    )
    idempotency_seconds: int = setting(
        k.whole(1, 86_400, "seconds"),
        "How long the idempotency record of a write is kept.",
        default=600,
    )


@section
class Breaker:
    """The circuit breakers of each shard: one for reads, one for writes."""

    failures: int = setting(
        k.whole(0, 1000, "failures"),
        "Consecutive failures that open a circuit. 0 turns this rule off.",
        default=5,
    )
    window: Window | None = setting(
        k.WINDOW,
        "Calls from which `failure_rate` and `slow_rate` are computed. `off` turns both rules off.",
        default="off",
    )
    min_calls: int = setting(
        k.whole(1, 100_000, "calls"),
        "Number of calls in the window below which it opens no circuit.",
        default=20,
    )
    failure_rate: float = setting(
        k.RATIO,
        "Share of failed calls in the window, or of failed probes, that opens a circuit.",
        default=0.5,
    )
    slow_ms: int | None = setting(
        k.whole(1, 60_000, "milliseconds"),
        "A call that takes longer counts as slow.",
        unset="no call counts as slow",
        example=200,
    )
    slow_rate: float = setting(
        k.RATIO, "Share of slow calls in the window that opens a circuit.", default=0.5
    )
    open_seconds: float = setting(
        k.number(0.1, 3600), "How long a circuit stays open before it is probed.", default=10.0
    )
    open_max_seconds: float | None = setting(
        k.number(0.1, 86_400),
        "The open time doubles each time the probes fail, up to this.",
        unset="60 seconds, or `open_seconds` if longer",
        example=60.0,
    )
    probes: int = setting(
        k.whole(1, 100, "calls"), "Calls that a half-open circuit lets through.", default=1
    )
    mode: Mode = setting(
        k.choice(*Mode),
        "`auto`: the circuit decides. `forced-open`: nothing passes. `disabled`: everything "
        "passes. `observe`: the circuit opens and closes, but refuses nothing.",
        default="auto",
    )
    min_budget_ms: int | None = setting(
        k.whole(0, 60_000, "milliseconds"),
        "A timeout counts as a failure only if Redis had at least this long to reply.",
        unset="90 % of the deadline",
        example=700,
    )


@section
class Audit:
    """The audit records of all calls."""

    memory_records: int = setting(
        k.whole(0, 100_000, "records"),
        "How many of the newest records a worker keeps in memory when there is no journal.",
        default=1000,
    )
    journal: Path | None = setting(
        k.NEW_FILE,
        "File of the audit journal. All workers of a host share it.",
        unset="records are kept in memory only",
        example="/var/log/flowcache/audit.db",
    )
    mode: AuditMode = setting(
        k.choice(*AuditMode),
        "`relaxed`: a crash may lose the records of the last 0.2 seconds, and a broken journal "
        "stops no call. `strict`: a call is answered only when its record is on disk.",
        default="relaxed",
    )
    keys: KeyNames = setting(
        k.choice(*KeyNames),
        "How key names are recorded: as they are, masked (`caller:***`), or as a keyed hash.",
        default="plain",
    )
    hmac_secret: Secret | None = setting(
        k.LONG_SECRET, 'Secret of the keyed hash with `keys = "hmac"`.', unset="none"
    )
    signing_key: Secret | None = setting(
        k.LONG_SECRET,
        "Secret that signs the journal. Set it before the first record is written.",
        unset="the journal is not signed",
    )
    keep_days: int = setting(
        k.whole(1, 36_500, "days"), "Records older than this are deleted.", default=365
    )
    max_mb: int = setting(
        k.whole(1, 1 << 20, "MiB"),
        "Maximum size of the journal. The oldest records are deleted to stay below it.",
        default=1024,
    )


@section
class Encryption:
    """Encryption of values in Redis."""

    namespaces: tuple[str, ...] | None = setting(
        k.NAMESPACES,
        "Namespaces whose values are encrypted. `*` means all keys.",
        unset="all keys, if there are encryption keys",
        example=["cards"],
    )
    keys: Secret | None = setting(
        k.ENCRYPTION_KEYS,
        "Encryption keys, as `flowcache encryption new-key` prints them. All of them decrypt.",
        unset="nothing is encrypted",
    )
    active_key: str | None = setting(
        k.KEY_ID, "Id of the key that encrypts.", unset="the first key", example="2027-01"
    )
    plaintext: Plaintext = setting(
        k.choice(*Plaintext),
        "What happens to values that are not encrypted. `refuse`: reading them fails. `read`: they "
        "can be read, and writes are encrypted. `write`: writes are not encrypted yet. To encrypt "
        "existing data, go from `write` to `read` to `refuse`.",
        default="refuse",
    )


@section
class Log:
    """The log."""

    level: str = setting(
        k.choice(*LEVELS), "Minimum level of the events that are logged.", default="info"
    )


@section
class Delivery:
    """Delivery of audit records to other systems. It needs `audit.journal`."""

    stream: str | None = setting(
        k.STREAM,
        "Stream in Redis that receives the records.",
        unset="none",
        example="flowcache:audit",
    )
    stream_max_entries: int = setting(
        k.whole(1, 1 << 40, "records"),
        "Approximate maximum length of the stream. The oldest records are deleted.",
        default=1_000_000,
    )
    file: str | None = setting(
        k.OUTPUT,
        "File that receives the records as JSON lines. `-` is standard output.",
        unset="none",
        example="/var/log/flowcache/audit.jsonl",
    )
    url: str | None = setting(
        k.URL,
        "URL that receives batches of records by POST.",
        unset="none",
        example="https://siem.example.com/in",
    )
    token: Secret | None = setting(k.TOKEN, "Bearer token for `url`.", unset="none")
    format: Shape = setting(
        k.choice(*Shape), "Format of a batch: JSON lines, or one JSON array.", default="jsonl"
    )
    ca_file: str | None = setting(
        k.FILE,
        "PEM file with the certificate authorities of the destinations.",
        unset="those of the system",
        example="/etc/flowcache/siem-ca.crt",
    )
    batch: int = setting(
        k.whole(1, 5000, "records"), "Maximum number of records in a batch.", default=500
    )
    timeout_seconds: float = setting(
        k.number(0.1, 120), "How long a destination may take to accept a batch.", default=10.0
    )
    retry_seconds: float = setting(
        k.number(0.01, 3600),
        "Delay after a failure, with some jitter. It doubles with each consecutive failure.",
        default=1.0,
    )
    retry_max_seconds: float = setting(
        k.number(0.01, 3600), "Maximum delay after a failure.", default=60.0
    )


@section
class Cxone:
    """The API of NICE CXone. It is called only with `cxone.audit_path`."""

    audit_path: str | None = setting(
        k.PATH,
        "Path of the API that receives batches of audit records.",
        unset="nothing is sent to CXone",
        example="/flowcache/audit",
    )
    api_base: str | None = setting(
        k.BASE_URL,
        "Base URL of the API.",
        unset="looked up with `tenant_id`",
        example="https://api-na1.niceincontact.com",
        names=("CXONE_API_BASE",),
    )
    grant: Grant = setting(
        k.choice(*Grant),
        "How a token is requested: `client_credentials` at `api_base`, or `access_key` at "
        "`auth_base`.",
        default="client_credentials",
    )
    client_id: str | None = setting(
        k.TEXT, "OAuth client id.", unset="none", example="flowcache", names=("CXONE_CLIENT_ID",)
    )
    client_secret: Secret | None = setting(
        k.PASSWORD, "OAuth client secret.", unset="none", names=("CXONE_CLIENT_SECRET",)
    )
    access_key_id: str | None = setting(
        k.TEXT, "Id of the access key, for `access_key`.", unset="none", example="key-id"
    )
    access_key_secret: Secret | None = setting(
        k.PASSWORD, "Secret of the access key.", unset="none"
    )
    tenant_id: str | None = setting(
        k.TEXT, "Tenant whose API is looked up without `api_base`.", unset="none", example="tenant"
    )
    auth_base: str = setting(
        k.BASE_URL,
        "Base URL for the grant `access_key`, and for looking up the API of a tenant.",
        default=CXONE_AUTH_BASE,
    )


@section
class Client:
    """A caller with its own credentials and permissions. It can be set in the file only."""

    tokens: tuple[Token, ...] | None = setting(
        k.TOKENS,
        'SHA-256 digests of its tokens, as `"sha256:…"` or `{ hash = "sha256:…", expires = '
        "2027-12-31 }`. Two of them allow rotation. `flowcache token new` makes one.",
        unset="none",
        example=["sha256:" + "0" * 64],
    )
    subject: str | None = setting(
        k.TEXT,
        "Claim `sub` of the JSON Web Tokens of this client. It needs `[jwt]`.",
        unset="none",
        example="crm-backend",
    )
    certificates: tuple[str, ...] | None = setting(
        k.CERTIFICATES,
        "Client certificates of this client, by fingerprint or subject alternative name.",
        unset="none",
        example=["dns:crm.example.com"],
    )
    require_both: bool = setting(
        k.FLAG, "Whether a call needs both a token and a certificate.", default=False
    )
    expires: float | None = setting(
        k.INSTANT,
        "Date after which all credentials of this client are rejected.",
        unset="never",
        example=date(2027, 12, 31),
    )
    permissions: frozenset[Permission] | None = setting(
        k.PERMISSIONS,
        "What the client may do.",
        unset="required",
        example=["data:read", "data:write"],
    )
    operations: frozenset[str] | None = setting(
        k.OPERATIONS,
        "The only operations that the client may call.",
        unset="all that its permissions allow",
        example=["GET", "SET"],
    )
    namespace: bytes | None = setting(
        k.NAMESPACE,
        "Namespace of its keys. Clients in different namespaces never share a key.",
        unset="none",
        example="crm",
    )
    keys: KeyPatterns | None = setting(
        k.KEY_PATTERNS,
        "Keys that the client may use.",
        unset="all keys of its namespace; required without one",
        example=["customer:*"],
    )
    min_ttl: int | None = setting(_TTL, "Minimum TTL of its writes.", unset="1", example=60)
    max_ttl: int | None = setting(
        _TTL, "Maximum TTL of its writes.", unset="`data.max_ttl`", example=86_400
    )
    max_value_bytes: int | None = setting(
        _VALUE,
        "Maximum size of a key's value after its writes.",
        unset="`data.max_value_bytes`",
        example=65_536,
    )
    max_fields: int | None = setting(
        _FIELDS,
        "Maximum number of fields of a hash after its writes.",
        unset="`data.max_fields`",
        example=1000,
    )
    rate: float | None = setting(
        k.number(0.001, 10_000, "calls a second"),
        "Rate limit in the long run.",
        unset="no limit",
        example=50,
    )
    burst: int | None = setting(
        k.whole(1, 100_000, "calls"),
        "How many calls may come at once. It needs `rate`.",
        unset="`rate`, rounded up",
        example=100,
    )
    weight: int = setting(
        k.whole(1, 1000),
        "Its share of the calls in flight of a full worker, relative to other clients.",
        default=1,
    )
    max_in_flight: int | None = setting(
        k.whole(1, 1_000_000, "calls"),
        "Maximum number of its calls in flight per worker. Further calls fail with `rate_limited`.",
        unset="`http.max_in_flight`",
        example=200,
    )
    cidrs: Networks | None = setting(
        k.NETWORKS, "Networks that it may call from.", unset="anywhere", example=["10.0.0.0/8"]
    )


@dataclass(frozen=True, slots=True)
class Config:
    """The values of all settings, by section and key."""

    http: Http
    admin: Admin
    auth: Auth
    inspector: Inspector
    jwt: Jwt
    redis: Redis
    data: Data
    breaker: Breaker
    audit: Audit
    encryption: Encryption
    log: Log
    delivery: Delivery
    cxone: Cxone

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Config:
        """Return the record of all values, which are given by name, as ``redis.nodes``."""
        return cls(
            **{
                name: each(**{row.key: values[row.name] for row in declared(each, name)})
                for name, each in SECTIONS.items()
            }
        )


SECTIONS: dict[str, type[Any]] = get_type_hints(Config)
"""Name of a section -> its class."""


def _with_files(rows: Iterator[Setting]) -> Iterator[Setting]:
    """Yield each setting, and after a secret the setting for a file that contains it."""
    for row in rows:
        yield row
        if row.is_secret:
            yield Setting(
                row.section,
                f"{row.key}_file",
                k.content(row.kind),
                f"File that contains `{row.key}`.",
                unset="none",
                example=f"/run/secrets/{row.section}-{row.key.replace('_', '-')}",
                holds=row.name,
            )


SETTINGS: tuple[Setting, ...] = tuple(
    row for name, each in SECTIONS.items() for row in _with_files(declared(each, name))
)
CLIENT_SETTINGS: tuple[Setting, ...] = tuple(declared(Client, "clients.NAME"))
