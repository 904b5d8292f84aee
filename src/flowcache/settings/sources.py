"""Where values come from: the command line, then the environment, then one TOML file."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from flowcache.settings import readers
from flowcache.settings.table import SETTINGS, Setting
from flowcache.store.settings import without_credentials

__all__ = [
    "ConfigurationError",
    "Sources",
    "find_unknown",
    "read_file",
    "read_values",
    "service_links",
]


class ConfigurationError(Exception):
    """The configuration has faults; ``faults`` has a sentence for each."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


def read_file(file: Path | None, faults: list[str]) -> dict[str, Any]:
    """Return what is in a file of TOML; nothing where there is none, or it is at fault."""
    if file is None:
        return {}
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except OSError as fault:
        faults.append(f"{file}: can't be read: {fault.strerror}")
    except (ValueError, RecursionError) as fault:  # TOMLDecodeError is a ValueError, and not alone
        faults.append(f"{file}: no TOML: {fault}")
    return {}


def find_unknown(
    document: Mapping[str, Any], environment: Mapping[str, str], faults: list[str]
) -> None:
    """Tell what is set and not known: a misspelt setting would else have no effect."""
    known = {s.name for s in SETTINGS}
    sections = {s.section for s in SETTINGS}
    for section, keys in document.items():
        if section == "clients":
            continue  # a section for each client: `settings.clients` knows them
        if not isinstance(keys, dict):
            faults.append(f"{section}: unknown outside of a section; did you forget [http]?")
            continue
        if section not in sections and not keys:
            faults.append(f"{section}: unknown section")
        names = (f"{section}.{key}" for key in keys)
        faults.extend(
            f"{name}: unknown setting{_suggested(name, known)}"
            for name in names
            if name not in known
        )
    variables = {name for s in SETTINGS for name in (s.variable, *s.names)}
    faults.extend(
        f"{name}: unknown variable{_suggested(name, variables)}"
        for name in environment
        if name.startswith("FLOWCACHE_")
        and name not in variables
        and not _is_service_link(name, environment[name])
    )


def _suggested(name: str, known: Iterable[str]) -> str:
    near = get_close_matches(name, sorted(known), 1, 0.8)
    return f"; did you mean {near[0]}?" if near else ""


_TRANSPORT = "PORT_[0-9]+_(?:TCP|UDP|SCTP)"
_ADDRESS = "[0-9A-Fa-f.:]+"
_SERVICE_LINKS = [
    (re.compile(rf"FLOWCACHE(?:_[A-Z0-9_]+)?_(?:{names})"), re.compile(values))
    for names, values in (
        (f"SERVICE_HOST|{_TRANSPORT}_ADDR", _ADDRESS),
        (f"SERVICE_PORT(?:_[A-Z0-9_]+)?|{_TRANSPORT}_PORT", "[0-9]+"),
        (f"{_TRANSPORT}_PROTO", "tcp|udp|sctp"),
        (f"PORT|{_TRANSPORT}", rf"(?:tcp|udp|sctp)://\[?{_ADDRESS}\]?:[0-9]+"),
    )
]
"""What Kubernetes puts into the environment of a pod for each Service, as Docker's links did: the
forms of names and of their values. A Service named ``flowcache`` makes it ``FLOWCACHE_PORT``."""


def _is_service_link(name: str, value: str) -> bool:
    return any(n.fullmatch(name) and v.fullmatch(value) for n, v in _SERVICE_LINKS)


def service_links(environment: Mapping[str, str]) -> list[str]:
    """Return the variables that tell of a Kubernetes Service, and are no settings of ours."""
    return sorted(name for name, value in environment.items() if _is_service_link(name, value))


class Found(NamedTuple):
    """Where a value was found, and what it is; a source of lower ``rank`` has more say."""

    source: str
    raw: Any
    rank: int


class Sources(NamedTuple):
    """Where a value may come from; the first has the most say."""

    overrides: Mapping[str, Any]
    environment: Mapping[str, str]
    document: Mapping[str, Any]
    fallbacks: Mapping[str, Any]

    def find(self, setting: Setting) -> Found:
        """Return where the value of ``setting`` was found, and what was found there."""
        if self.overrides.get(setting.name) is not None:
            return Found(setting.name, self.overrides[setting.name], 0)
        for name in (setting.variable, *setting.names):
            value = self.environment.get(name)
            if value and not _is_service_link(name, value):
                return Found(name, value, 1)
        section = self.document.get(setting.section)
        if isinstance(section, dict) and setting.key in section:
            return Found(setting.name, section[setting.key], 2)
        return Found(setting.name, self.fallbacks.get(setting.name, setting.default), 3)


def read_values(sources: Sources, faults: list[str], section: str | None = None) -> dict[str, Any]:
    """Return the value of every setting, or of those of ``section``, by name; None: it has none.

    A secret that a file holds is the secret's own value. Of the two spellings that counts which
    comes from where more is said; both in one source are a fault.
    """
    rows = [each for each in SETTINGS if section in (None, each.section)]
    found = {each.name: sources.find(each) for each in rows}
    files = {each.holds: each.name for each in rows if each.holds is not None}
    for pair in files.items():
        weaker, stronger = sorted(pair, key=lambda name: found[name].rank, reverse=True)
        if found[stronger].raw is not None and found[weaker].rank > found[stronger].rank:
            found[weaker] = found[weaker]._replace(raw=None)  # it is not even read
    values = {each.name: _value(each, found[each.name], faults) for each in rows}
    for name, held_by in files.items():
        if None not in (values[name], values[held_by]):
            faults.append(f"{name} and {held_by}: one of them is enough")
        values[name] = values[name] or values[held_by]
    return values


def _value(setting: Setting, found: Found, faults: list[str]) -> Any:
    source, raw, _ = found
    if raw is None:
        return None
    try:
        return setting.read(raw)
    except ValueError as fault:
        told = source if source == setting.name else f"{setting.name} ({source})"
        faults.append(f"{told} = {_masked(setting, raw)}: {fault}")
        return None


_URLS = (readers.url, readers.base_url)
"""What reads a URL: somebody may have put a secret before its ``@`` or behind its ``?``."""


def _masked(setting: Setting, raw: Any) -> str:
    """Return a bad value as it may be shown: no secret, and not too long."""
    if setting.is_secret:
        return "'***'"
    try:
        if setting.read is readers.location:
            nodes = raw if isinstance(raw, list) else [raw]
            shown = [without_credentials(n) if isinstance(n, str) else "***" for n in nodes]
            return repr(",".join(shown))[:200]
        if isinstance(raw, str) and (
            setting.read is readers.keys or (setting.read in _URLS and any(c in raw for c in "@?"))
        ):
            raw = without_credentials(raw)
        return repr(raw)[:200]
    except ValueError:  # Python shows no integer of more than 4,300 digits
        return "a very long number"
