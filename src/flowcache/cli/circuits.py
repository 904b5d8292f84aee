"""``flowcache circuits``: what an operator sees of circuits and asks of them, at a terminal.

It speaks to a running service over its HTTP API, by a connection of its own: no proxy is asked and
no redirection followed, since either would be handed the token.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
import sys
from pathlib import Path
from typing import Annotated, Any, NamedTuple
from urllib.parse import urlsplit

import typer

from flowcache.admin.inspector.answers import CONFIGURED
from flowcache.cli.common import examples, give_up, say
from flowcache.ports import Access, Mode
from flowcache.printable import printable, printable_json

__all__ = ["app"]

_CONTROL = "FLOWCACHE_INSPECTOR_CONTROL_TOKEN"
_INSPECTOR = "FLOWCACHE_INSPECTOR_TOKEN"
_PATH = "/inspector/circuits"
_TIMEOUT = 10.0
_WIDE = 200
"""Columns of a table that no terminal shows: nothing of it is to be cut off."""

_EXAMPLES = examples(
    "flowcache circuits",
    "flowcache circuits set forced-open --shard 10.0.0.7:6379 --access write",
    "flowcache circuits clear",
)

app = typer.Typer(
    help="Show and override the circuits of a running service.", rich_markup_mode="markdown"
)

_HERE = "http://127.0.0.1:3000"

Shard = Annotated[
    str | None, typer.Option(metavar="NAME", help="One shard, by the name in the list.")
]
Kind = Annotated[Access | None, typer.Option(help="One kind of access.")]
Url = Annotated[
    str | None, typer.Option("--url", metavar="URL", help=f"Where the service is ({_HERE}).")
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        metavar="FILE",
        help=f"File with the token, - for standard input; without it {_CONTROL} in the environment "
        f"is used (to look, {_INSPECTOR} will do). A token is never an argument: others on this "
        "machine could read it.",
    ),
]


CaFile = Annotated[
    Path | None,
    typer.Option(
        "--ca-file",
        metavar="FILE",
        help="PEM file of the authority of an https:// service; without it those of this machine.",
    ),
]
CertFile = Annotated[
    Path | None,
    typer.Option(
        "--cert-file",
        metavar="FILE",
        help="PEM file with a certificate and its key, for a service that wants to see one.",
    ),
]


class _Where(NamedTuple):
    """What the options say of the service and of who asks."""

    url: str | None
    token_file: Path | None
    ca_file: Path | None
    cert_file: Path | None


class _Service(NamedTuple):
    """Where it is, and how it is known there who is who."""

    url: str
    ca_file: Path | None = None
    cert_file: Path | None = None


@app.callback(invoke_without_command=True, epilog=_EXAMPLES)
def show(
    context: typer.Context,
    url: Url = None,
    token_file: TokenFile = None,
    ca_file: CaFile = None,
    cert_file: CertFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="As the service tells it.")] = False,
) -> None:
    """Show the circuits of all workers, and who has a say about them.

    Example:

        flowcache circuits --url http://127.0.0.1:3000
    """
    if context.invoked_subcommand is not None:
        # Written before the command, they are meant for it.
        context.obj = _Where(url, token_file, ca_file, cert_file)
        return
    service = _Service(url or _HERE, ca_file, cert_file)
    told = _call(service, "GET", None, _token(token_file, _CONTROL, _INSPECTOR))
    if as_json:
        print(printable_json(json.dumps(told, indent=2)))
        return
    _print_table(told)


@app.command(name="set")
def switch(
    context: typer.Context,
    mode: Annotated[
        Mode, typer.Argument(metavar="MODE", help="auto, forced-open, disabled or observe.")
    ],
    shard: Shard = None,
    access: Kind = None,
    url: Url = None,
    token_file: TokenFile = None,
    ca_file: CaFile = None,
    cert_file: CertFile = None,
) -> None:
    """Switch circuits: all of them, or those of one shard, one kind of access, or both.

    `auto`: the circuit decides. `forced-open`: nothing is let through. `disabled`: everything is.
    `observe`: the circuit judges and tells, and refuses nobody.

    It holds in all workers until another order covers it, it is taken back with `circuits clear`,
    or the service ends.

    Example:

        flowcache circuits set forced-open --shard 10.0.0.7:6379 --access write
    """
    _order(context, mode.value, shard, access, _Where(url, token_file, ca_file, cert_file))


@app.command()
def clear(
    context: typer.Context,
    shard: Shard = None,
    access: Kind = None,
    url: Url = None,
    token_file: TokenFile = None,
    ca_file: CaFile = None,
    cert_file: CertFile = None,
) -> None:
    """Clear overrides: of all circuits, or of a shard, a kind of access, or both.

    `breaker.mode` applies again, also if a wider override is in force.

    Example:

        flowcache circuits clear --shard 10.0.0.7:6379
    """
    _order(context, CONFIGURED, shard, access, _Where(url, token_file, ca_file, cert_file))


def _order(
    context: typer.Context, mode: str, shard: str | None, access: Access | None, where: _Where
) -> None:
    """Give an order, and tell what became of it; ``where`` has the first word."""
    order = {"mode": mode, "shard": shard, "access": access and access.value}
    before: _Where = context.obj
    service = _Service(
        where.url or before.url or _HERE,
        where.ca_file or before.ca_file,
        where.cert_file or before.cert_file,
    )
    token = _token(where.token_file or before.token_file, _CONTROL)
    told = _call(service, "POST", json.dumps(order).encode(), token)
    circuits = f"{shard or 'all shards'}, {access.value if access else 'all access'}"
    done = "Cleared" if mode == CONFIGURED else mode
    concerned = f"{_count(told['circuits'], 'circuit')} in {_count(told['workers'], 'worker')}"
    say(f"{done}: {circuits}; {concerned}.")
    if told["silent"]:
        say(
            f"flowcache: {_count(told['silent'], 'worker')} did not answer in time, and will "
            "apply it at the next request for metrics or the inspector.",
            to_errors=True,
        )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


# -- the connection --------------------------------------------------------------------------------


def _token(file: Path | None, *variables: str) -> str:
    """Return the token of ``file``, or else of the first of ``variables`` that is set."""
    if file is None:
        token = next((os.environ[name] for name in variables if os.environ.get(name)), "")
        told = " or ".join(variables)
        missing = f"no token; set {told}, or name a file with --token-file."
    else:
        try:
            token = (sys.stdin if str(file) == "-" else file.open(encoding="utf-8")).read().strip()
        except (OSError, UnicodeDecodeError) as fault:
            reason = fault.strerror if isinstance(fault, OSError) else "no text"
            give_up(f"--token-file {file}: can't be read: {reason}.")
        missing = f"--token-file {file}: it is empty."
    if not token:
        give_up(missing)
    if not (token.isascii() and token.isprintable()):
        give_up("the token is no printable ASCII: it can't be one of flowcache's.")
    return token


def _call(service: _Service, method: str, body: bytes | None, token: str) -> Any:
    """Return what the service answers; end with a sentence about what is wrong."""
    connection, path = _connection(service)
    url = service.url
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
    try:
        connection.request(method, path + _PATH, body, headers)
        response = connection.getresponse()
        status, content = response.status, response.read()
    except ConnectionRefusedError:
        give_up(f"nobody listens at {url}: is flowcache running there? Say where with --url.")
    except socket.gaierror:
        give_up(f"--url {url}: there is no such host.")
    except TimeoutError:
        give_up(f"{url} did not answer within {_TIMEOUT:g} s.")
    except ssl.SSLCertVerificationError as fault:
        remedy = _UNTRUSTED.get(fault.verify_code, "name its authority with --ca-file")
        give_up(f"{url}: {fault.verify_message.rstrip('.')}; {remedy}.")
    except ssl.SSLError as fault:
        reason = fault.reason or str(fault)
        give_up(f"{url}: {_ALERTS.get(reason, reason)}.")
    except (OSError, http.client.HTTPException) as fault:
        give_up(f"{url}: {fault or type(fault).__name__}.")
    finally:
        connection.close()
    try:
        told = json.loads(content)
    except ValueError:
        told = None
    if isinstance(told, dict) and status == http.client.OK:
        return told
    error = told.get("error") if isinstance(told, dict) else None
    if not isinstance(error, str):
        give_up(f"{url} does not answer as flowcache does (status {status}).")
    remedy = _REMEDIES.get(status, "")
    to_look = ", or to look inspector.token" if method == "GET" else ""
    clash = ""
    if service.cert_file is not None and status == http.client.UNAUTHORIZED:
        clash = _CLASH.format(service.cert_file)
    give_up(f"{printable(error)}{remedy.format(to_look)}{clash}")


_REMEDIES = {
    http.client.UNAUTHORIZED: " It takes what is configured as inspector.control_token{}.",
    http.client.FORBIDDEN: " It takes what is configured as inspector.control_token{}.",
    http.client.NOT_FOUND: " If admin.port is set, give that port with --url: circuits are "
    "only there.",
}
"""Status -> what to say besides what the service says."""

_CLASH = (
    " The certificate in {} may be a client's: then token and certificate are two credentials that "
    "clash. Show one that no client is named for."
)
"""Added if a certificate was shown: the service does not say which of the two was refused."""

_OTHER_NAME = "ask by a name or an address that its certificate has, with --url"
_UNTRUSTED = {62: _OTHER_NAME, 64: _OTHER_NAME}
"""X509_V_ERR_HOSTNAME_MISMATCH and _IP_ADDRESS_MISMATCH of OpenSSL -> what to do."""

_ALERTS = {
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "it wants to see a certificate; show one with --cert-file",
    "TLSV1_ALERT_UNKNOWN_CA": "it does not know the authority of the certificate of --cert-file",
    "WRONG_VERSION_NUMBER": "it does not speak TLS; is it http://?",
}
"""What OpenSSL calls a fault -> what it means here."""


def _connection(service: _Service) -> tuple[http.client.HTTPConnection, str]:
    """Return a connection that is not made yet, and the path before all paths."""
    try:
        parts = urlsplit(service.url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    is_tls, host, path = parts.scheme == "https", parts.hostname, parts.path.rstrip("/")
    if not (is_tls or parts.scheme == "http") or not host or "@" in parts.netloc or parts.query:
        give_up(f"--url: expected http://host:port or https://host:port, got {service.url!r}.")
    if is_tls:
        tls = _tls(service)
        return http.client.HTTPSConnection(host, port, timeout=_TIMEOUT, context=tls), path
    return http.client.HTTPConnection(host, port, timeout=_TIMEOUT), path


def _tls(service: _Service) -> ssl.SSLContext:
    """Return what TLS is spoken with; no file is taken for another silently."""
    try:
        context = ssl.create_default_context(cafile=service.ca_file)
    except OSError as fault:
        give_up(f"--ca-file {service.ca_file}: {fault.strerror or 'no PEM certificates'}.")
    if service.cert_file is not None:
        try:
            context.load_cert_chain(service.cert_file)
        except ssl.SSLError:
            give_up(
                f"--cert-file {service.cert_file}: expected a certificate and its key in one file, "
                "as cat app.crt app.key makes it."
            )
        except OSError as fault:
            give_up(f"--cert-file {service.cert_file}: {fault.strerror}.")
    return context


# -- the table -------------------------------------------------------------------------------------

_COLORS = {"closed": "green", "half-open": "yellow", "open": "red"}


def _print_table(told: dict[str, Any]) -> None:
    # Imported here: whoever serves needs none of it.
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    def shown(told: object, style: str = "") -> Text:
        """Show what the service says as it is: no markup, and nothing that steers a terminal."""
        return Text(printable(str(told)), style)

    table = Table(box=None, header_style="bold")
    for name in ("shard", "access"):
        table.add_column(name, no_wrap=True)
    for name in ("mode", "state"):
        table.add_column(name)
    for name in ("in a row", "failed", "slow", "retry after", "refused", "worker"):
        table.add_column(name, justify="right")
    for each in sorted(told["circuits"], key=lambda c: (c["shard"], c["access"], c["worker"])):
        refused = each["wouldRefuse"] if each["mode"] == Mode.OBSERVE else each["refused"]
        table.add_row(
            shown(each["shard"]),
            shown(each["access"]),
            shown(each["mode"]),
            shown(each["state"], _COLORS.get(each["state"], "")),
            shown(each["consecutiveFailures"]),
            _percent(each["failureRate"]),
            _percent(each["slowRate"]),
            f"{each['retryAfterSeconds']:.1f} s" if each["retryAfterSeconds"] else "",
            shown(refused),
            shown(each["worker"]),
        )
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, _WIDE)
    if told["circuits"]:
        console.print(table)
    else:
        console.print("No shard has been called yet.")
    for override in told["overrides"]:
        where = f"{override['shard'] or 'all shards'}, {override['access'] or 'all access'}"
        line = f"{override['mode']} for {where}: by {override['by']}, {override['at']}"
        console.print(shown(line), soft_wrap=True)
    console.print(shown(f"configured: {told['configured']}"))


def _percent(rate: float | None) -> str:
    return "" if rate is None else f"{rate:.0%}"
