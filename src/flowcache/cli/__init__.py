"""The command line: a module for each command. What a command needs it imports when it runs."""

from __future__ import annotations

from typing import Annotated

import typer

from flowcache import __version__
from flowcache.cli import audit, circuits, config, encryption, token
from flowcache.cli.check import check
from flowcache.cli.common import examples
from flowcache.cli.delivery import deliver, deliveries
from flowcache.cli.erase import erase
from flowcache.cli.records import export, query
from flowcache.cli.serve import serve

__all__ = ["main"]

_app = typer.Typer(
    name="flowcache",
    help="A fast shared memory for contact-centre flows: Redis data actions over HTTP.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    epilog=examples(
        "flowcache serve --embedded",
        "flowcache config sample > flowcache.toml",
        "flowcache check --config flowcache.toml",
        "flowcache serve --config flowcache.toml",
    ),
)


def main() -> None:
    """Run the command line."""
    _app()


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"flowcache {__version__}")
        raise typer.Exit


@_app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass


_app.command()(serve)
_app.command()(check)
_app.command()(erase)
_app.add_typer(config.app)
_app.add_typer(token.app)
_app.add_typer(encryption.app)
_app.add_typer(circuits.app, name="circuits")
audit.app.command()(query)
audit.app.command()(export)
audit.app.command()(deliver)
audit.app.command()(deliveries)
_app.add_typer(audit.app)
