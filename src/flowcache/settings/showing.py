"""The settings for people: the effective configuration, the sample file and the reference page."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from textwrap import wrap
from typing import Any, NamedTuple

from flowcache.settings.clients import shown_clients
from flowcache.settings.declarations import CLIENT_SETTINGS, SECTIONS, SETTINGS, Client
from flowcache.settings.declaring import Setting, sized, toml
from flowcache.settings.reading import Reading

__all__ = ["Effective", "by_section", "effective", "reference", "sample"]


class Effective(NamedTuple):
    """A value that is in effect, masked, and where it comes from."""

    setting: Setting
    value: Any
    source: str


def effective(reading: Reading) -> tuple[Effective, ...]:
    """Return every setting with its value. A secret stands for the file that contains it, too."""
    return tuple(
        Effective(row, reading.shown(row.name), reading.sources[row.name])
        for row in SETTINGS
        if row.holds is None
    )


def by_section(rows: tuple[Effective, ...], clients: Any) -> dict[str, dict[str, Any]]:
    """Return the values in effect by section and key, and the clients."""
    shown: dict[str, dict[str, Any]] = {}
    for row, value, _ in rows:
        shown.setdefault(row.section, {})[row.key] = value
    return shown | {"clients": shown_clients(clients)}


# -- the sample ------------------------------------------------------------------------------------

_WIDTH = 98
_HEAD = """\
# Configuration of flowcache. Every setting is here, commented out, with its default or an example.
# Remove the # in front of a setting to change it. Then run:
#
#   flowcache check --config flowcache.toml
#   flowcache serve --config flowcache.toml
#
# One credential is required: the variable SERVICE_BEARER_TOKEN, auth.token_file, or a client.
# Every setting also has an environment variable, FLOWCACHE_<SECTION>_<KEY>, which takes precedence.
"""


def sample() -> str:
    """Return a file of TOML with every setting, commented out."""
    parts = [_HEAD]
    for name, cls, rows in _all():
        mark = "#" if cls is Client else ""
        parts.append(f"\n# {f'-- {name} ':-<{_WIDTH}}\n# {_about(cls)}\n\n{mark}[{name}]\n")
        parts += map(_sampled, rows)
    return "".join(parts)


def _all() -> Iterator[tuple[str, Any, list[Setting]]]:
    """Yield each section: its name, its class, its settings."""
    for name, cls in SECTIONS.items():
        yield name, cls, [row for row in SETTINGS if row.section == name]
    yield "clients.NAME", Client, list(CLIENT_SETTINGS)


def _about(cls: type[Any]) -> str:
    return inspect.getdoc(cls) or ""


def _sampled(row: Setting) -> str:
    facts = f"Type: {row.kind.about}."
    if row.default is None:
        facts += f" Default: {row.unset}."
    elif row.kind.unit == "bytes":
        facts += f" Default: {sized(row.default)}."
    if row.names:
        facts += f" Also: {', '.join(row.names)}."
    texts = (text.replace("`", "") for text in (row.about, facts))
    lines = (line for text in texts for line in wrap(text, _WIDTH, break_on_hyphens=False))
    comment = "\n".join(f"# {line}" for line in lines)
    example = "..." if row.example is None else row.example
    return f"\n{comment}\n#{row.key} = {toml(example if row.default is None else row.default)}\n"


# -- the page --------------------------------------------------------------------------------------


def reference() -> Iterator[str]:
    """Yield the lines of the reference of all settings, in Markdown."""
    for name, cls, rows in _all():
        yield from (f"## {name}", "", _about(cls), "")
        yield from ("| setting | type | default | description |", "|---|---|---|---|")
        yield from (_row(row) for row in rows if row.holds is None)
        yield ""


def _row(row: Setting) -> str:
    default = row.unset if row.default is None else f"`{toml(row.default)}`"
    if row.default is not None and row.kind.unit == "bytes":
        default += f" ({sized(row.default)})"
    about = row.about
    if row.names:
        about += f" Other variables: {', '.join(f'`{name}`' for name in row.names)}."
    return f"| `{row.key}` | {row.kind.about} | {default} | {about} |"
