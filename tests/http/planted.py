"""What is planted, and where: secrets, values, keys and tokens that nothing else looks like.

A secret setting is planted by itself, from `SETTINGS`; where its reader wants another shape of it,
it has a row in `SHAPES`. Whatever else is a row in `MARKERS`.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from time import time
from typing import Any

from joserfc import jwt
from joserfc.jwk import ECKey, KeySet

from flowcache.authn.tokens import show_digest
from flowcache.secret import Secret
from flowcache.settings import SETTINGS
from tests.servers import RedisProcess

__all__ = ["BUG", "ECHOED", "MARKERS", "RECORDED", "SECRETS", "SHAPES", "configure", "marker"]

SHAPES: dict[str, Callable[[str], str]] = {
    "encryption.keys": lambda text: f"k:{b64encode(sha256(text.encode()).digest()).decode()}",
}
"""What a setting's reader wants its marker to look like, where any text will not do."""


def marker(name: str) -> str:
    """Return what is planted under a name: nothing else in the world looks like it."""
    return f"planted-{sha256(name.encode()).hexdigest()[:32]}"


SECRETS = {s.name: SHAPES.get(s.name, str)(marker(s.name)) for s in SETTINGS if s.is_secret}

EC, STRANGER = (ECKey.generate_key("P-256", {"kid": "one"}) for _ in range(2))
CLAIMS: dict[str, Any] = {
    **{"iss": "https://idp.example/", "aud": "flowcache", "sub": "app-1"},
    **{"exp": int(time()) + 3600, "scope": "data:read data:write"},
}


def signed(key: ECKey, **changes: Any) -> str:
    return jwt.encode({"alg": "ES256", "kid": "one"}, CLAIMS | changes, key)


MARKERS = SECRETS | {
    name: marker(name)
    for name in (
        "value",
        "value in JSON",
        "value of a field",
        "name of a field",
        "value of a bug",
        "key",
        "key of a namespace",
        "key that is refused",
        "idempotency key",
        "subject of an erasure",
        "token of a client",
        "second token of a client",
        "wrong bearer",
        "wrong basic",
        "wrong api key",
        "wrong in two headers",
        "wrong control token",
        "password in a URL",
        "wrong password in a URL",
        "password of another day",
        *(f"value as {field}" for field in ("ttl", "type", "deadlineMs", "key")),
        *("value as idempotencyKey", "value as unknown field", "value in broken JSON"),
        "value that is too large",
    )
}
MARKERS |= {
    "signed token": signed(EC),
    "signed token of a stranger": signed(STRANGER),
    "signed token that expired": signed(EC, exp=int(time()) - 60),
}
"""Name -> what is planted."""

ECHOED = {f"value as {field}" for field in ("ttl", "type", "deadlineMs")}
"""What a field says that it got, in the answer to who sent it: a number or a word it should be."""

RECORDED = {"flowId": "recorded-flow-5d1c", "interactionId": "recorded-interaction-9e2f"}
"""What an output is to show: where it isn't found, nothing was searched."""


WAYS = 3


NOBODY = "http://127.0.0.1:1"


def configure(directory: Path, redis: RedisProcess) -> dict[str, str]:
    """Plant all secret settings, in the environment, the file, and files of their own in turn.

    Return the environment; the file is ``flowcache.toml``.
    """
    (directory / "journal").mkdir()
    (directory / "jwks.json").write_text(json.dumps(KeySet([EC]).as_dict(private=False)))
    sections: dict[str, dict[str, str]] = {
        "jwt": {
            "keys": str(directory / "jwks.json"),
            "issuer": CLAIMS["iss"],
            "audience": CLAIMS["aud"],
        },
        "audit": {
            "journal": str(directory / "journal" / "audit.db"),
            "mode": "strict",
            "keys": "hmac",
        },
        "encryption": {"namespaces": "acme"},
        # To a file that is read afterwards, and to where nobody listens: why is logged.
        "delivery": {
            "file": str(directory / "journal" / "delivered.jsonl"),
            "stream": "flowcache:audit",
            "url": NOBODY,
        },
        "cxone": {
            **{"api_base": NOBODY, "auth_base": NOBODY, "audit_path": "/audit"},
            **{"grant": "access_key", "client_id": "id", "access_key_id": "id"},
        },
    }
    environment = {
        "REDIS_NODES": f"127.0.0.1:{redis.port}",
        "FLOWCACHE_HTTP_MAX_BODY_BYTES": "65536",
        **{row.variable: "" for row in SETTINGS if row.is_secret},
        **{name: "" for row in SETTINGS if row.is_secret for name in row.names},
    }
    files = {row.holds: row for row in SETTINGS if row.holds is not None}
    for number, (name, planted) in enumerate(sorted(SECRETS.items())):
        row = next(row for row in SETTINGS if row.name == name)
        if number % WAYS == 0:
            environment[row.variable] = planted
        elif number % WAYS == 1:
            sections.setdefault(row.section, {})[row.key] = planted
        else:
            file = directory / f"secret-{number}"
            file.write_text(planted)
            sections.setdefault(row.section, {})[files[name].key] = str(file)
    text = "".join(
        f"[{section}]\n" + "".join(f'{key} = "{value}"\n' for key, value in keys.items())
        for section, keys in sections.items()
    )
    hashes = [
        show_digest(Secret(MARKERS[f"{which}token of a client"])) for which in ("", "second ")
    ]
    text += f"""
[clients.acme]
tokens = ["{hashes[0]}", "{hashes[1]}"]
permissions = ["data:read", "data:write"]
namespace = "acme"

[clients.app]
subject = "{CLAIMS["sub"]}"
permissions = ["data:read", "data:write"]
namespace = "app"
"""
    (directory / "flowcache.toml").write_text(text)
    return environment


BUG = f"""
import asyncio
from flowcache.contract import answer

succeeded = answer.succeeded

def broken(data, *rest):
    if data == {MARKERS["value of a bug"]!r}:
        asyncio.get_running_loop().call_soon(int, data)
        raise RuntimeError(f"a bug that tells of {{data}}")
    return succeeded(data, *rest)

answer.succeeded = broken
"""
"""Whatever a bug says may be a value: every process of the service has these two."""
