"""The command line."""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from time import monotonic, time
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from msgspec import structs

from flowcache import __version__, cli_audit
from flowcache.control import circuits

if TYPE_CHECKING:
    from flowcache.http.supervisor import Service
    from flowcache.policy.jwks import JwtSettings
    from flowcache.settings import Settings

__all__ = ["main"]

_app = typer.Typer(
    name="flowcache",
    help="A fast shared memory for contact-centre flows: Redis data actions over HTTP.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

_app.add_typer(circuits, name="circuits")
_app.add_typer(cli_audit.app)

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


_TOKENS = ("auth.token", "inspector.token")
"""What ``--embedded`` makes where nothing is configured."""


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


@_app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on (127.0.0.1).")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on (3000).")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that serve (1).")] = None,
    config: Config = None,
    redis: Redis = None,
    embedded: Annotated[
        bool, typer.Option("--embedded", help="Bring a Valkey along; needs no Redis. For a try.")
    ] = False,
) -> None:
    """Serve data actions over HTTP.

    Examples:

        flowcache serve --embedded

        SERVICE_BEARER_TOKEN=... flowcache serve --redis redis://cache:6379 --workers 2
    """
    # Imported here: --help and --version need none of it.
    import structlog

    from flowcache.bootstrap import service
    from flowcache.http.supervisor import PortInUse
    from flowcache.http.supervisor import serve as serve_http
    from flowcache.settings import ConfigurationError, load
    from flowcache.store.embedded import EmbeddedFault, EmbeddedServer
    from flowcache.store.settings import StoreSettings, parse_location
    from flowcache.telemetry import logs

    if embedded and redis:
        _give_up("--embedded brings a Redis along; leave --redis out.")
    overrides: dict[str, Any] = {
        "http.host": host,
        "http.port": port,
        "http.workers": workers,
        "redis.nodes": redis,
    }
    fallbacks: dict[str, str] = {}
    with ExitStack() as stack:
        run_directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="flowcache-")))
        if embedded:
            valkey = EmbeddedServer(run_directory)
            overrides["redis.nodes"] = valkey.url
            fallbacks = {name: secrets.token_urlsafe(24) for name in _TOKENS}

        def configured() -> Settings:
            settings = load(config, os.environ, overrides, fallbacks)
            if embedded:
                # Whatever is configured about another Redis does not concern this one.
                store = StoreSettings(nodes=parse_location(valkey.url).nodes)
                settings = structs.replace(settings, store=store)
            logs.configure(settings.log_level)
            return settings

        def reread() -> Service | None:
            try:
                return service(configured(), run_directory)
            except ConfigurationError as error:
                structlog.get_logger(__name__).error("configuration", faults=error.faults)
                return None

        settings = _valid(configured)
        if embedded:
            stack.callback(valkey.stop)
            try:
                valkey.start()
            except EmbeddedFault as fault:
                _give_up(str(fault))
        try:
            status = serve_http(
                service(settings, run_directory),
                reread=reread,
                on_listening=lambda: _banner(settings, fallbacks if embedded else None),
            )
        except PortInUse as fault:
            _give_up(f"{fault} Pick another with --port or FLOWCACHE_PORT.")
    raise typer.Exit(status)


def _banner(settings: Settings, made: Mapping[str, str] | None) -> None:
    """Say where the service is; of an embedded one also how to try it.

    ``made`` are the tokens made for it. One that was configured is not printed: logs are kept.
    """
    from flowcache.policy.tokens import digest

    server = settings.server
    host = "127.0.0.1" if server.host in ("0.0.0.0", "::") else server.host  # noqa: S104
    url = f"http://{f'[{host}]' if ':' in host else host}:{server.port}"
    print(f"flowcache {__version__} serves on {url}", flush=True)
    if made is None:
        return
    known = {credential.token.digest for credential in settings.credentials}
    flow, inspector = (
        token if digest(token.encode()) in known else variable
        for token, variable in (
            (made["auth.token"], "$SERVICE_BEARER_TOKEN"),
            (made["inspector.token"], "$FLOWCACHE_INSPECTOR_TOKEN"),
        )
    )
    print(
        f"""
  with an embedded Valkey: everything is forgotten when it stops.

  token      {flow}
  try it     curl -s {url}/data-action/redis -H "Authorization: Bearer {flow}" \\
               -d '{{"operation":"SET","key":"hello","value":{{"from":"flowcache"}},"ttl":60}}'
  inspector  curl -s {url}/inspector -H "Authorization: Bearer {inspector}"
  docs       {url}/docs
""",
        flush=True,
    )


_tokens = typer.Typer(name="token", help="Tokens of clients.", no_args_is_help=True)
_app.add_typer(_tokens)


@_tokens.callback()
def _token_root() -> None:
    pass  # without it a single command would take the place of the group


@_tokens.command("new")
def token_new(
    name: Annotated[str, typer.Argument(help="The client whose token it is.", metavar="NAME")],
    expires: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="From when on it does not count any more (UTC)."),
    ] = None,
) -> None:
    """Make a token for a client, show it this once, and print what to add to the configuration.

    Example:

        flowcache token new agent-desktop --expires 2027-12-31
    """
    from flowcache.policy.clients import is_client_name
    from flowcache.policy.tokens import new_token, show_digest

    if not is_client_name(name):
        _give_up(f"{name[:80]!r} is no name of a client: 1 to 64 letters, digits, - _ and .")
    token = new_token()
    entry = f'"{show_digest(token)}"'
    if expires is not None:
        entry = f"{{ hash = {entry}, expires = {expires:%Y-%m-%d} }}"
    print(f"Token of {name}, shown this once:\n\n  {token.reveal()}\n")
    print(f"Add to the tokens of [clients.{name}], which may be two while one replaces the other:")
    print(f"\n  {entry}\n")
    print(f"A new client is, with what it may do:\n\n  [clients.{name}]\n  tokens = [{entry}]")
    print(f'  permissions = ["data:read", "data:write"]\n  namespace = "{name}"')


@_app.command()
def check(config: Config = None, redis: Redis = None) -> None:
    """Validate the configuration and try Redis; say what is wrong and what to do.

    Example:

        flowcache check --config flowcache.toml
    """
    from flowcache.policy.overview import overview
    from flowcache.settings import load

    settings = _valid(lambda: load(config, os.environ, {"redis.nodes": redis}))
    print("The configuration is valid.")
    for line in overview(settings.principals, settings.credentials, time()):
        print(line)
    if settings.jwt is not None:
        _try_issuer(settings.jwt)
    journal = settings.audit.journal
    if journal is not None:
        if not os.access(journal if journal.exists() else journal.parent, os.W_OK):
            _give_up(f"audit.journal = {journal}: may not be written by this user.")
        print(f"The audit journal is {journal}, {settings.audit.mode}.")
    nodes = ", ".join(str(node) for node in settings.store.nodes)
    print(f"Trying Redis at {nodes} ...")
    asyncio.run(_try_redis(settings))
    print("flowcache is ready to serve.")


def _try_issuer(settings: JwtSettings) -> None:
    """Read the keys of the issuer as a worker would."""
    from flowcache.policy.jwks import read_keys
    from flowcache.policy.jwt import Jwts

    try:
        count = Jwts(settings, (), time).use(read_keys(settings.keys))
    except (OSError, ValueError) as fault:
        _give_up(f"{settings.keys}: {fault}\n  What to do: check jwt.keys.")
    print(f"Keys of the issuer that can be used: {count}.")


async def _try_redis(settings: Settings) -> None:
    from flowcache.store.checkup import CheckupFault, checkup
    from flowcache.telemetry import logs

    logs.configure("error")  # what the check itself says is enough
    try:
        async for finding in checkup(settings.store, monotonic):
            print(finding)
    except CheckupFault as fault:
        _give_up(str(fault))


def _valid(load: Callable[[], Settings]) -> Settings:
    """Return the configuration, or tell its faults and end."""
    from flowcache.settings import ConfigurationError

    try:
        return load()
    except ConfigurationError as error:
        lines = "\n".join(f"  - {fault}" for fault in error.faults)
        _give_up(f"the configuration has faults:\n{lines}")


def _give_up(message: str) -> NoReturn:
    print(f"flowcache: {message}", file=sys.stderr)
    raise typer.Exit(2)
