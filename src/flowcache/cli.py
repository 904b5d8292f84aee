"""The command line."""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from msgspec import structs

from flowcache import __version__, cli_audit
from flowcache.control import circuits

if TYPE_CHECKING:
    from flowcache.http.supervisor import Service
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
    server = settings.server
    host = "127.0.0.1" if server.host in ("0.0.0.0", "::") else server.host  # noqa: S104
    url = f"http://{f'[{host}]' if ':' in host else host}:{server.port}"
    print(f"flowcache {__version__} serves on {url}", flush=True)
    if made is None:
        return
    configured = {secret.token.reveal() for secret in settings.credentials}
    flow, inspector = (
        token if token in configured else variable
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


@_app.command()
def check(config: Config = None, redis: Redis = None) -> None:
    """Validate the configuration and try Redis; say what is wrong and what to do.

    Example:

        flowcache check --config flowcache.toml
    """
    from flowcache.settings import load

    settings = _valid(lambda: load(config, os.environ, {"redis.nodes": redis}))
    print("The configuration is valid.")
    journal = settings.audit.journal
    if journal is not None:
        if not os.access(journal if journal.exists() else journal.parent, os.W_OK):
            _give_up(f"audit.journal = {journal}: may not be written by this user.")
        print(f"The audit journal is {journal}, {settings.audit.mode}.")
    nodes = ", ".join(str(node) for node in settings.store.nodes)
    print(f"Trying Redis at {nodes} ...")
    asyncio.run(_try_redis(settings))
    print("flowcache is ready to serve.")


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
