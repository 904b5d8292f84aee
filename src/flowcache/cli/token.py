"""``flowcache token``: tokens of clients."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from flowcache.cli.common import examples, give_up

__all__ = ["app"]

app = typer.Typer(
    name="token",
    help="Tokens of clients.",
    no_args_is_help=True,
    epilog=examples("flowcache token new agent-desktop --expires 2027-12-31"),
)


@app.callback()
def _token_root() -> None:
    pass  # without it a single command would take the place of the group


@app.command("new")
def token_new(
    name: Annotated[str, typer.Argument(help="The client whose token it is.", metavar="NAME")],
    expires: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="Date after which the token is rejected (UTC)."),
    ] = None,
) -> None:
    """Make a token for a client, show it this once, and print what to add to the configuration.

    Example:

        flowcache token new agent-desktop --expires 2027-12-31
    """
    from flowcache.authn.tokens import new_token, show_digest
    from flowcache.authz.keys import namespace_of
    from flowcache.settings.clients import is_client_name
    from flowcache.settings.parts import TAKEN_NAMES

    if not is_client_name(name):
        give_up(
            f"{name[:80]!r} is not a valid client name: expected 1 to 64 letters, digits, - _ and ."
        )
    if name in TAKEN_NAMES:
        give_up(f"{name} is the name of whoever shows {TAKEN_NAMES[name]}; pick another.")
    if expires is not None and expires.replace(tzinfo=UTC) <= datetime.now(UTC):
        give_up(f"--expires {expires:%Y-%m-%d}: this date has passed; choose a later one.")
    section = f'clients."{name}"' if "." in name else f"clients.{name}"  # a bare dot nests
    token = new_token()
    entry = f'"{show_digest(token)}"'
    if expires is not None:
        entry = f"{{ hash = {entry}, expires = {expires:%Y-%m-%d} }}"
    print(f"Token of {name}, shown only once:\n\n  {token.reveal()}\n")
    print(f"Add it to the tokens of [{section}]. There may be two during a rotation:")
    print(f"\n  {entry}\n")
    print(
        "For a new client, add this and change its permissions:\n\n"
        f"  [{section}]\n  tokens = [{entry}]"
    )
    print(f'  permissions = ["data:read", "data:write"]\n  namespace = "{namespace_of(name)}"')
