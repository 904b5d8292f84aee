"""``flowcache serve``: the service, with a Redis of its own or somebody's."""

from __future__ import annotations

import os
import secrets
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Annotated, Any

import typer
from msgspec import structs

from flowcache import __version__
from flowcache.cli.common import Config, Redis, give_up, valid

if TYPE_CHECKING:
    from flowcache.server.supervisor import Service
    from flowcache.settings import Settings

__all__ = ["serve"]

_TOKENS = {
    "auth.token": "SERVICE_BEARER_TOKEN",
    "inspector.token": "FLOWCACHE_INSPECTOR_TOKEN",
    "inspector.control_token": "FLOWCACHE_INSPECTOR_CONTROL_TOKEN",
}
"""What ``--embedded`` makes where nothing is configured, and the variables that would hold it."""


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on (127.0.0.1).")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on (3000).")] = None,
    workers: Annotated[int | None, typer.Option(help="Number of worker processes (1).")] = None,
    config: Config = None,
    redis: Redis = None,
    embedded: Annotated[
        bool,
        typer.Option(
            "--embedded", help="Start a private Valkey, to try flowcache without a Redis."
        ),
    ] = False,
) -> None:
    """Serve data actions over HTTP.

    Examples:

        flowcache serve --embedded

        SERVICE_BEARER_TOKEN=... flowcache serve --redis redis://cache:6379
    """
    # Imported here: --help and --version need none of it.
    import structlog

    from flowcache.bootstrap import service
    from flowcache.metrics import logs
    from flowcache.server.supervisor import PortInUse
    from flowcache.server.supervisor import serve as serve_http
    from flowcache.settings import ConfigurationError, load
    from flowcache.store.embedded import EmbeddedFault, EmbeddedServer
    from flowcache.store.settings import StoreSettings, parse_location

    if embedded and redis:
        give_up("--embedded starts its own Redis; remove --redis.")
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
            for warning in settings.warnings:
                structlog.get_logger(__name__).warning("configuration", warning=warning)
            if settings.tls is not None:
                for warning in settings.tls.warnings(time()):
                    structlog.get_logger(__name__).warning("certificate", about=warning)
            return settings

        def reread() -> Service | None:
            try:
                return service(configured(), run_directory)
            except ConfigurationError as error:
                faults = [str(fault) for fault in error.faults]
                structlog.get_logger(__name__).error("configuration", faults=faults)
                return None

        settings = valid(configured)
        if embedded:
            stack.callback(valkey.stop)
            try:
                valkey.start()
            except EmbeddedFault as fault:
                give_up(str(fault))
        try:
            status = serve_http(
                service(settings, run_directory),
                reread=reread,
                on_listening=lambda: _banner(settings, fallbacks if embedded else None),
            )
        except PortInUse as fault:
            give_up(f"{fault} Pick another with --port or FLOWCACHE_PORT.")
    raise typer.Exit(status)


def _banner(settings: Settings, made: Mapping[str, str] | None) -> None:
    """Say where the service is; of an embedded one also how to try it.

    ``made`` are the tokens made for it. One that was configured is not printed: logs are kept.
    """
    from flowcache.authn.tokens import digest

    server, delivery = settings.server, settings.delivery
    # Where the audit has standard output, nothing else goes there.
    out = sys.stderr if delivery is not None and delivery.file == "-" else sys.stdout
    host = "127.0.0.1" if server.host in ("0.0.0.0", "::") else server.host  # noqa: S104
    scheme = "http" if server.tls is None else "https"
    url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{server.port}"
    print(f"flowcache {__version__} serves on {url}", file=out, flush=True)
    pages = url
    if server.admin is not None:
        host, port = server.admin
        pages = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
        print(f"operators  {pages}", file=out, flush=True)
    if made is None:
        return
    known = {credential.token.digest for credential in settings.credentials}
    flow, inspector, control = (
        made[name] if digest(made[name].encode()) in known else f"${variable}"
        for name, variable in _TOKENS.items()
    )
    print(
        f"""
  with an embedded Valkey: everything is forgotten when it stops.

  token      {flow}
  try it     curl -s {url}/data-action/redis -H "Authorization: Bearer {flow}" \\
               -d '{{"operation":"SET","key":"hello","value":{{"from":"flowcache"}},"ttl":60}}'
  inspector  curl -s {pages}/inspector -H "Authorization: Bearer {inspector}"
  circuits   curl -s {pages}/inspector/circuits -H "Authorization: Bearer {control}"
  docs       {pages}/docs
""",
        file=out,
        flush=True,
    )
