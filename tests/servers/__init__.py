"""Real Redis and Valkey servers for the tests: started, broken and mended on demand.

Each kind is a context manager: `standalone`, `replicated`, `cluster`, `sentinel_group`, `tls_acl`.
`Proxy` stands before one server and loses, delays or cuts. `eventually` waits for what takes time.
Linux only, as it leans on the kernel to end every server with its test run.
"""

from .binaries import (
    SERVERS,
    MissingProgramError,
    redis_62_binary,
    redis_binary,
    sentinel_binary,
    valkey_binary,
)
from .cluster import Cluster, ClusterNode, cluster
from .process import Access, ClientTls, RedisProcess, ServerDiedError
from .proxy import Proxy
from .sentinel import SentinelGroup, sentinel_group
from .standalone import Replicated, replicated, standalone
from .tls import FLOWCACHE_ACL, TlsServer, tls_acl
from .wait import eventually

__all__ = [
    "FLOWCACHE_ACL",
    "SERVERS",
    "Access",
    "ClientTls",
    "Cluster",
    "ClusterNode",
    "MissingProgramError",
    "Proxy",
    "RedisProcess",
    "Replicated",
    "SentinelGroup",
    "ServerDiedError",
    "TlsServer",
    "cluster",
    "eventually",
    "redis_62_binary",
    "redis_binary",
    "replicated",
    "sentinel_binary",
    "sentinel_group",
    "standalone",
    "tls_acl",
    "valkey_binary",
]
