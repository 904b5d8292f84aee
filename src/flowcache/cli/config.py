"""``flowcache config``: a file to begin with, and the configuration that is in effect."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flowcache.cli.common import Config, examples, give_up, listed, say
from flowcache.printable import printable_json

if TYPE_CHECKING:
    from flowcache.settings import Report

__all__ = ["app"]

app = typer.Typer(
    name="config",
    help="Print a sample configuration, or the configuration in effect.",
    no_args_is_help=True,
    epilog=examples(
        "flowcache config sample > flowcache.toml", "flowcache config show -c flowcache.toml"
    ),
)


@app.command()
def sample() -> None:
    """Print a configuration file with every setting, commented out with its default.

    Example:

        flowcache config sample > flowcache.toml
    """
    from flowcache.settings.showing import sample as text

    print(text(), end="")


@app.command()
def show(
    config: Config = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print every setting with its value and where it comes from. Secrets are masked.

    Exit code: 0 the configuration is valid, 2 it has faults.

    Examples:

        flowcache config show -c flowcache.toml

        flowcache config show -c flowcache.toml --json
    """
    from flowcache.settings import report

    found = report(config, os.environ)
    if as_json:
        text = json.dumps(_json(found), ensure_ascii=False, indent=2, default=str)
        print(printable_json(text))
    else:
        say("\n".join(_lines(found)).lstrip())
    if found.faults:
        give_up(listed(found.faults))


_COLUMN = 44
"""Where the source of a value begins, if the value is not longer."""


def _lines(found: Report) -> Iterator[str]:
    """Yield the configuration as TOML, with the source of each value in a comment."""
    from flowcache.settings.declaring import toml, toml_key

    section = None
    for row, value, source in found.effective:
        if row.section != section:
            section = row.section
            yield f"\n[{section}]"
        if value is None:
            line, source = f"# {row.key}", f"not set: {row.unset.replace('`', '')}"
        else:
            line = f"{row.key} = {toml(value)}"
        yield f"{line:<{_COLUMN}} # {source}"
    for name, table in _clients(found).items():
        yield f"\n[clients.{toml_key(name)}]"
        yield from (f"{key} = {toml(value)}" for key, value in table.items())


def _clients(found: Report) -> dict[str, Any]:
    return {} if found.settings is None else found.settings.shown["clients"]


def _json(found: Report) -> dict[str, Any]:
    return {
        "settings": {
            row.name: {"value": value, "source": source} for row, value, source in found.effective
        },
        "clients": _clients(found),
        "faults": [fault._asdict() for fault in found.faults],
        "warnings": [] if found.settings is None else found.settings.warnings,
    }
