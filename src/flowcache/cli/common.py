"""What commands have in common: their options, and how they end."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, NoReturn, TypeVar

import typer

from flowcache.printable import printable_lines

__all__ = ["Config", "Redis", "examples", "give_up", "listed", "say", "valid"]

SettingsT = TypeVar("SettingsT")

Config = Annotated[
    Path | None, typer.Option("--config", "-c", help="Configuration file (TOML).", metavar="FILE")
]
Redis = Annotated[
    str | None,
    typer.Option(
        "--redis",
        metavar="URL",
        help="Where Redis is: a URL (redis:// rediss:// unix:// redis+sentinel://) or "
        "host:port,host:port. The topology is detected.",
    ),
]


def examples(*lines: str) -> str:
    """Return the end of the help of a group: a docstring's examples belong to one command."""
    return "\n\n".join(("Examples:", *(f"    {line}" for line in lines)))


def valid(load: Callable[[], SettingsT]) -> SettingsT:
    """Return the configuration, or tell its faults and end."""
    from flowcache.settings import ConfigurationError

    try:
        return load()
    except ConfigurationError as error:
        give_up(listed(error.faults))


def listed(faults: Iterable[object]) -> str:
    """Return the faults of a configuration, a line each."""
    return "\n".join(("the configuration has faults:", *(f"  - {fault}" for fault in faults)))


def say(text: str, *, to_errors: bool = False) -> None:
    """Print a text of our own, in which there may be words of others, fit to be shown."""
    print(printable_lines(text), file=sys.stderr if to_errors else sys.stdout, flush=to_errors)


def give_up(message: str) -> NoReturn:
    """Say what is wrong, and end with exit code 2: nothing was done."""
    say(f"flowcache: {message}", to_errors=True)
    raise typer.Exit(2)
