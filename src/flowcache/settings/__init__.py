"""The configuration: one TOML file, then the environment, then the command line.

A setting is declared once, in `declarations`. It can be set as ``[section] key`` in the file, as
``FLOWCACHE_<SECTION>_<KEY>`` in the environment, and under its other names. All faults are found
before any is reported. A secret is never shown.

    declaring      what a declaration consists of
    kinds          the kinds of values: how each is read and shown
    server_tls     certificates for the port
    declarations   all settings
    reading        from the sources to values, and faults
    rules          what settings need of each other
    clients        the tables of clients
    parts          the record of each part of flowcache
    showing        the effective configuration, the sample, the reference
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from msgspec import structs

from flowcache.audit.settings import AuditSettings
from flowcache.delivery.settings import DeliverySettings
from flowcache.settings.declarations import CLIENT_SETTINGS, SETTINGS
from flowcache.settings.declaring import Setting
from flowcache.settings.parts import Settings, assemble, audit_part, delivery_part, store_part
from flowcache.settings.reading import (
    ConfigurationError,
    Fault,
    Reading,
    Sources,
    find_unknown,
    read,
    read_file,
    service_links,
)
from flowcache.settings.rules import check
from flowcache.settings.showing import Effective, by_section, effective
from flowcache.store.settings import StoreSettings

__all__ = [
    "CLIENT_SETTINGS",
    "SETTINGS",
    "ConfigurationError",
    "Effective",
    "Fault",
    "Report",
    "Setting",
    "Settings",
    "audit_settings",
    "delivery_settings",
    "load",
    "report",
]


class Report(NamedTuple):
    """A configuration, whatever is wrong with it.

    ``effective`` has every setting; one with a fault has its default there. ``settings`` is None
    with a fault.
    """

    effective: tuple[Effective, ...]
    faults: tuple[Fault, ...]
    settings: Settings | None


def report(
    file: Path | None,
    environment: Mapping[str, str],
    overrides: Mapping[str, Any] | None = None,
    fallbacks: Mapping[str, Any] | None = None,
) -> Report:
    """Read the configuration, and report its values and faults.

    ``overrides`` take precedence over the environment, and ``fallbacks`` replace defaults; both are
    given by name, as ``redis.nodes``.
    """
    sources, is_complete, reading = _read(file, environment, overrides, fallbacks)
    rows, clients = effective(reading), sources.document.get("clients", {})
    # Without the file, what seems to be missing may be in it.
    settings = assemble(reading, clients, sources.file) if is_complete else None
    if settings is None:
        return Report(rows, tuple(reading.faults), None)
    warnings = settings.warnings
    links = service_links(environment)
    if links:
        warnings += (
            f"{', '.join(links)}: ignored, because Kubernetes sets them for a Service; "
            "enableServiceLinks: false in the pod turns them off",
        )
    shown = by_section(rows, clients)
    return Report(rows, (), structs.replace(settings, shown=shown, warnings=warnings))


def load(
    file: Path | None,
    environment: Mapping[str, str],
    overrides: Mapping[str, Any] | None = None,
    fallbacks: Mapping[str, Any] | None = None,
) -> Settings:
    """Return the configuration; see `report`.

    Raises:
        ConfigurationError: it has faults.
    """
    found = report(file, environment, overrides, fallbacks)
    if found.settings is None:
        raise ConfigurationError(found.faults)
    return found.settings


def audit_settings(
    file: Path | None, environment: Mapping[str, str], overrides: Mapping[str, Any] | None = None
) -> AuditSettings:
    """Return the settings of the audit only: reading a journal needs no others.

    Raises:
        ConfigurationError: these have faults, or the file can't be read.
    """
    _, is_complete, reading = _read(file, environment, overrides)
    check(reading, "audit")
    faults = [each for each in reading.faults if not is_complete or each.path.startswith("audit.")]
    if faults:
        raise ConfigurationError(faults)
    return audit_part(reading.config)


def delivery_settings(
    file: Path | None, environment: Mapping[str, str], overrides: Mapping[str, Any] | None = None
) -> tuple[DeliverySettings | None, StoreSettings]:
    """Return where the audit is delivered to, and the Redis of its stream; no credential is needed.

    Raises:
        ConfigurationError: the configuration has faults.
    """
    _, is_complete, reading = _read(file, environment, overrides)
    if is_complete:
        check(reading, "delivery", "cxone")
    if reading.faults:
        raise ConfigurationError(reading.faults)
    return delivery_part(reading.config), store_part(reading.config)


def _read(
    file: Path | None,
    environment: Mapping[str, str],
    overrides: Mapping[str, Any] | None,
    fallbacks: Mapping[str, Any] | None = None,
) -> tuple[Sources, bool, Reading]:
    """Return the sources, whether the file could be read, and the values."""
    faults: list[Fault] = []
    document = read_file(file, faults)
    is_complete = not faults
    find_unknown(document, environment, str(file), faults)
    sources = Sources(overrides or {}, environment, document, fallbacks or {}, str(file))
    return sources, is_complete, read(sources, faults)
