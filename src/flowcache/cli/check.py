"""``flowcache check``: is the configuration right, and does Redis answer?"""

from __future__ import annotations

import asyncio
import os
from time import monotonic, time
from typing import TYPE_CHECKING

from flowcache.cli.common import Config, Redis, give_up, say, valid
from flowcache.printable import printable

if TYPE_CHECKING:
    from flowcache.authn.settings import JwtSettings
    from flowcache.encryption.settings import SealingSettings
    from flowcache.settings import Settings
    from flowcache.store.rights import Right

__all__ = ["check"]


def check(config: Config = None, redis: Redis = None) -> None:
    """Validate the configuration and try Redis; say what is wrong and what to do.

    Example:

        flowcache check --config flowcache.toml
    """
    from flowcache.audit.database import JournalFault
    from flowcache.audit.recognising import try_out
    from flowcache.cli.overview import overview
    from flowcache.settings import load

    settings = valid(lambda: load(config, os.environ, {"redis.nodes": redis}))
    print("The configuration is valid.")
    for warning in settings.warnings:
        say(f"Warning: {warning}.")
    for line in overview(settings.principals, settings.credentials, time()):
        say(line)
    if settings.tls is not None:
        for warning in settings.tls.warnings(time()):
            say(f"Warning: {warning}.")
    if settings.jwt is not None:
        _try_issuer(settings.jwt)
    if settings.sealing is not None:
        say(_sealed(settings.sealing))
    journal = settings.audit.journal
    if journal is not None:
        if not os.access(journal if journal.exists() else journal.parent, os.W_OK):
            give_up(f"audit.journal = {journal}: may not be written by this user.")
        try:
            try_out(settings.audit)
        except JournalFault as fault:
            give_up(f"audit.journal: {fault}")
        say(f"The audit journal is {journal}, {settings.audit.mode}.")
    if settings.delivery is not None:
        say(f"The audit is delivered to: {', '.join(settings.delivery.names)}.")
    nodes = ", ".join(str(node) for node in settings.store.nodes)
    say(f"Trying Redis at {nodes} ...")
    asyncio.run(_try_redis(settings))
    print("flowcache is ready to serve.")


def _sealed(settings: SealingSettings) -> str:
    from flowcache.operations.catalogue import CATALOGUE

    refused = [name for name, operation in CATALOGUE.items() if not operation.works_encrypted]
    ids = [key.id for key in settings.provider.fetch() if key.id != settings.active]
    spaces = [space.decode() for space in settings.spaces or ()]
    return _ENCRYPTED[settings.plaintext].format(
        where=", ".join(spaces) or "all keys",
        active=settings.active,
        others=", ".join(ids) or "none",
        refused=", ".join(refused),
    )


_ENCRYPTED = {
    "refuse": (
        "Encrypted with key {active}: {where}. Additional decryption keys: {others}.\n"
        "Refused there: {refused}, and values that are not encrypted."
    ),
    "read": (
        "Encrypted with key {active}: {where}. Additional decryption keys: {others}.\n"
        "Refused there: {refused}.\n"
        'encryption.plaintext = "read": values that are not encrypted can be read.'
    ),
    "write": (
        'encryption.plaintext = "write": writes are not encrypted yet. To be encrypted: '
        "{where}.\n"
        "Decryption key: {active}. Additional decryption keys: {others}.\n"
        "Refused there: {refused}."
    ),
}
"""encryption.plaintext -> what becomes of values."""


def _try_issuer(settings: JwtSettings) -> None:
    """Read the keys of the issuer as a worker would."""
    from flowcache.authn.jwt import Jwts
    from flowcache.issuer.fetching import KeysFault, read_keys

    try:
        keys = Jwts(settings, (), time).use(read_keys(settings.keys))
    except (KeysFault, ValueError) as fault:
        give_up(f"{settings.keys}: {fault}\n  What to do: check jwt.keys.")
    print(f"Usable keys of the issuer: {len(keys.usable)} of {keys.published}.")
    if keys.weak:
        names = ", ".join(map(printable, keys.weak))
        say(f"Warning: keys of the issuer are ignored, RSA under 2048 bits: {names}.")


def _rights(settings: Settings) -> list[Right]:
    """Return what flowcache's Redis user must be allowed for this configuration."""
    from flowcache.store.rights import SHARED_RATES, appending

    rights = [SHARED_RATES] if settings.gate.shared_rates else []
    stream = None if settings.delivery is None else settings.delivery.stream
    return rights if stream is None else [*rights, appending(stream.key)]


async def _try_redis(settings: Settings) -> None:
    from flowcache.metrics import logs
    from flowcache.store.checkup import CheckupFault, checkup

    logs.configure("error")  # what the check itself says is enough
    try:
        async for finding in checkup(settings.store, monotonic, _rights(settings)):
            say(finding)
    except CheckupFault as fault:
        give_up(str(fault))
