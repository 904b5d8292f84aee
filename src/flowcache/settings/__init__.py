"""The configuration: one TOML file, then the environment, then the command line.

`SETTINGS` is the table of all there is. Every row can be set as ``[section] key`` in the file, as
``FLOWCACHE_<SECTION>_<KEY>`` in the environment, and under its other names, which the seed or
convention gave it. All faults are found before any is reported, each with its key and bad value;
a secret's value is never shown.

    table      what there is, and which of the `readers` reads it
    sources    where a value comes from
    parts      what concerns several of them; each part's own record; `delivery` is one
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import structs

from flowcache.audit.settings import AuditSettings
from flowcache.delivery.settings import DeliverySettings
from flowcache.settings.delivery import delivery_part
from flowcache.settings.parts import Settings, assemble, audit_part, store_part
from flowcache.settings.sources import (
    ConfigurationError,
    Sources,
    find_unknown,
    read_file,
    read_values,
    service_links,
)
from flowcache.settings.table import SETTINGS, Setting
from flowcache.store.settings import StoreSettings

__all__ = [
    "SETTINGS",
    "ConfigurationError",
    "Setting",
    "Settings",
    "audit_settings",
    "delivery_settings",
    "load",
]


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
    document = read_file(file, faults)
    is_complete = not faults
    find_unknown(document, environment, faults)
    sources = Sources(overrides or {}, environment, document, fallbacks or {})
    values = read_values(sources, faults)
    if not is_complete:  # what seems to be missing may stand in the file
        raise ConfigurationError(faults)
    settings = assemble(values, document.get("clients", {}), faults)
    if faults or settings is None:
        raise ConfigurationError(faults)
    links = service_links(environment)
    if links:
        note = (
            f"{', '.join(links)}: ignored, being what Kubernetes says of a Service; "
            "enableServiceLinks: false in the pod keeps them away"
        )
        settings = structs.replace(settings, warnings=(*settings.warnings, note))
    return settings


def audit_settings(
    file: Path | None, environment: Mapping[str, str], overrides: Mapping[str, Any] | None = None
) -> AuditSettings:
    """Read what concerns the audit only: who reads a journal need not be able to serve.

    Raises:
        ConfigurationError: that part has faults; all of them are told.
    """
    faults: list[str] = []
    sources = Sources(overrides or {}, environment, read_file(file, faults), {})
    values = read_values(sources, faults, "audit")
    audit = audit_part(values, faults)
    if faults or audit is None:
        raise ConfigurationError(faults)
    return audit


def delivery_settings(
    file: Path | None, environment: Mapping[str, str], overrides: Mapping[str, Any] | None = None
) -> tuple[DeliverySettings | None, StoreSettings]:
    """Read where the audit is delivered to, and the Redis of its stream: no credential is needed.

    Raises:
        ConfigurationError: the configuration has faults; all of them are told.
    """
    faults: list[str] = []
    document = read_file(file, faults)
    is_complete = not faults
    find_unknown(document, environment, faults)
    values = read_values(Sources(overrides or {}, environment, document, {}), faults)
    if not is_complete:
        raise ConfigurationError(faults)
    delivery = delivery_part(values, faults)
    if faults:
        raise ConfigurationError(faults)
    return delivery, store_part(values)
