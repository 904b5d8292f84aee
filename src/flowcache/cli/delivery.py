"""``flowcache audit deliver`` and ``deliveries``: carry the journal elsewhere, and watch it."""

from __future__ import annotations

import os
from time import time
from typing import TYPE_CHECKING, Annotated

import typer

from flowcache.cli.common import Config, give_up, say, valid
from flowcache.printable import printable

if TYPE_CHECKING:
    from flowcache.delivery.settings import DeliverySettings
    from flowcache.store.settings import StoreSettings

__all__ = ["deliver", "deliveries"]

_COLUMNS = ("destination", "delivered", "behind", "waits", "missed", "last delivered", "it is")
_TO_THE_SECOND = len("2026-01-31T08:00:00")


def deliver(
    config: Config = None,
    once: Annotated[
        bool, typer.Option("--once", help="Deliver what is due, without retries, and exit.")
    ] = False,
) -> None:
    """Deliver the audit to where the configuration says, as `serve` does in a process of its own.

    Only one process delivers from a journal: while another does, this one stands by.
    Exit code of --once: 0 everything was delivered, 1 it was not, 2 another process delivers.

    Examples:

        flowcache audit deliver -c flowcache.toml

        flowcache audit deliver -c flowcache.toml --once
    """
    from flowcache.delivery import process
    from flowcache.metrics import logs

    settings, store = _configured(config)
    logs.configure("info")
    if not once:
        raise typer.Exit(process.deliver(settings, store))
    try:
        faults = process.deliver_once(settings, store)
    except BlockingIOError:
        give_up("another process delivers from this journal.")
    except process.DELIVERY_FAULTS as fault:
        give_up(f"the delivery can't start: {fault}")
    for name, why in faults.items():
        print(f"{name}: {why or 'has everything'}")
    raise typer.Exit(int(any(faults.values())))


def deliveries(config: Config = None) -> None:
    """Show how far each destination is, and what is wrong with it.

    Exit code: 0 all is well, 1 a destination fails or has stopped, 2 it can't be told.

    Example:

        flowcache audit deliveries -c flowcache.toml
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from flowcache.audit.database import JournalFault
    from flowcache.audit.exporting import moment
    from flowcache.delivery.overview import overview

    settings, _ = _configured(config)
    try:
        found = overview(settings.journal, settings.names, time())
    except JournalFault as fault:
        give_up(str(fault))
    table = Table(box=box.SIMPLE_HEAD)
    for name in _COLUMNS:
        table.add_column(name, no_wrap=True)
    for each in found:
        table.add_row(
            each.destination,
            str(each.delivered),
            str(sum(each.behind.values())),
            f"{each.behind_seconds:.0f} s",
            str(each.missed),
            "never" if each.delivered_at is None else moment(each.delivered_at)[:_TO_THE_SECOND],
            "stopped" if each.stopped else "well" if each.fault is None else "failing",
        )
    out = Console()
    if not out.is_terminal:
        out = Console(width=1000)  # nothing is cut where another program reads
    out.print(table, markup=False)
    for each in found:
        if each.fault is not None:  # whole sentences, which a column would break
            say(f"{each.destination}: {printable(each.fault)}")
    for each in found:
        for writer, due in each.behind.items():
            say(f"{each.destination}: {due} records of writer {writer} are due", to_errors=True)
    raise typer.Exit(int(any(each.fault is not None for each in found)))


def _configured(config: Config) -> tuple[DeliverySettings, StoreSettings]:
    from flowcache.settings import delivery_settings

    settings, store = valid(lambda: delivery_settings(config, os.environ))
    if settings is None:
        give_up("no destination is configured: set one in [delivery], or cxone.audit_path.")
    return settings, store
