"""``flowcache encryption``: keys for encryption at rest."""

from __future__ import annotations

from typing import Annotated

import typer

from flowcache.cli.common import examples, give_up

__all__ = ["app"]

app = typer.Typer(
    name="encryption",
    help="Keys for encryption at rest.",
    no_args_is_help=True,
    epilog=examples("(umask 077; flowcache encryption new-key 2027-01 >> flowcache-keys)"),
)


@app.callback()
def _encryption_root() -> None:
    pass  # without it a single command would take the place of the group


@app.command("new-key")
def new_key(
    key_id: Annotated[
        str, typer.Argument(help="What the key is called; its month will do.", metavar="ID")
    ],
) -> None:
    """Make a key and print the line to add to the file of keys: all it prints is that line.

    The file should be its user's alone: `umask 077` beforehand sees to that.

    Example:

        (umask 077; flowcache encryption new-key 2027-01 >> flowcache-keys)
    """
    from flowcache.encryption import keys

    if not keys.is_key_id(key_id):
        give_up(f"{key_id[:80]!r} is no id of a key: 1 to 32 letters, digits, - _ and .")
    print(keys.new_key(key_id).line())
