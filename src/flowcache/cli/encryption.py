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
        str, typer.Argument(help="Name of the key, for example its month.", metavar="ID")
    ],
) -> None:
    """Make a key and print the line to add to the key file, and nothing else.

    Only its user should be able to read the file: set `umask 077` before.

    Example:

        (umask 077; flowcache encryption new-key 2027-01 >> flowcache-keys)
    """
    from flowcache.encryption import keys

    if not keys.is_key_id(key_id):
        give_up(
            f"{key_id[:80]!r} is not a valid key id: expected 1 to 32 letters, digits, - _ and ."
        )
    print(keys.new_key(key_id).line())
