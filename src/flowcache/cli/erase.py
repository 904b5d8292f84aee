"""``flowcache erase``: remove all keys of one subject, and have it on record."""

from __future__ import annotations

import asyncio
import os
import pwd
import secrets
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, time
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar

import typer

from flowcache.cli.common import Config, Redis, give_up, say, valid
from flowcache.printable import printable, printable_lines

if TYPE_CHECKING:
    from flowcache.audit.at_once import AtOnce
    from flowcache.audit.attempt import Attempt
    from flowcache.audit.settings import AuditSettings
    from flowcache.authz.keys import KeyPattern
    from flowcache.settings import Settings
    from flowcache.store.erasing import Erasure
    from flowcache.store.settings import StoreSettings

__all__ = ["erase"]

_T = TypeVar("_T")
_Show = Callable[[bytes], None]

_LEFT = 1
"""The exit code when something may be left; 2 says that nothing was begun."""


class _Target(NamedTuple):
    """Which keys: a pattern, behind the prefix of a namespace.

    It is shown as it was written: who the subject is need not stand in the log of a job.
    """

    written: str
    namespace: str | None
    prefix: bytes
    pattern: KeyPattern

    def __str__(self) -> str:
        where = "" if self.namespace is None else f" in namespace {self.namespace}"
        return printable(self.written) + where


def erase(
    pattern: Annotated[
        str,
        typer.Option(
            metavar="PATTERN",
            help="A key, or its beginning up to a separator and `*`, as `customer:4711:*`; "
            "`{subject}` in it stands for the subject.",
        ),
    ],
    subject: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Inserted literally, whatever characters it contains."),
    ] = None,
    subject_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="File with the subject, - for standard input: others on this machine can read "
            "an argument.",
        ),
    ] = None,
    namespace: Annotated[
        str | None, typer.Option(metavar="NAME", help="Keys of this namespace; else of none.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--everything", help="Needed for the pattern `*`.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count, and remove nothing.")] = False,
    show_keys: Annotated[
        bool, typer.Option("--show-keys", help="Name each key, on standard output.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask before removing.")] = False,
    by: Annotated[
        str | None, typer.Option(metavar="WHO", help="For the record; this user by default.")
    ] = None,
    reason: Annotated[
        str | None, typer.Option(metavar="REFERENCE", help="For the record, as a ticket.")
    ] = None,
    unrecorded: Annotated[
        bool, typer.Option("--unrecorded", help="Continue although no audit journal is configured.")
    ] = False,
    config: Config = None,
    redis: Redis = None,
) -> None:
    """Remove all keys of one subject, on every server, until none is left.

    Exit code: 0 all are gone, 1 something may be left, 2 nothing was begun.

    Examples:

        flowcache erase -c flowcache.toml --pattern 'customer:4711:*' --dry-run

        flowcache erase -c app.toml --pattern 'id:{subject}:*' --subject-file id.txt
    """
    from flowcache.metrics import logs
    from flowcache.settings import load

    target = _target(namespace, pattern, _subject(subject, subject_file), everything)
    if not (dry_run or yes or sys.stdin.isatty()):
        give_up("no terminal to ask for confirmation: use --yes, or --dry-run first.")
    # Nobody is served, so that no credential is needed.
    made = {"auth.token": secrets.token_urlsafe()}
    settings = valid(lambda: load(config, os.environ, {"redis.nodes": redis}, made))
    logs.configure("error")  # what the command itself says is enough
    _warn_of_nobodys(target, settings)
    user = _user()
    told = {"namespace": namespace, "dry_run": dry_run, "reason": reason, "user": user}
    record = _begin(settings.audit, target, by or user, told, may_be_none=unrecorded or dry_run)
    show = _show if show_keys else _keep_quiet
    try:
        if dry_run:
            outcome = _count(settings.store, target, show)
        else:
            outcome = _remove(settings.store, target, show, ask=not yes)
    except BaseException:
        _end(record, "internal", None)
        raise
    is_recorded = _end(record, outcome.code, outcome.keys)
    _tell(outcome, target, dry_run, settings)
    raise typer.Exit(0 if outcome.code == "ok" and is_recorded else _LEFT)


# -- what is meant ---------------------------------------------------------------------------------


def _subject(given: str | None, file: Path | None) -> str | None:
    if file is None:
        return given
    if given is not None:
        give_up("--subject and --subject-file: one of them is enough.")
    try:
        return (sys.stdin if str(file) == "-" else file.open(encoding="utf-8")).read().strip()
    except (OSError, UnicodeDecodeError) as fault:
        reason = fault.strerror if isinstance(fault, OSError) else "no text"
        give_up(f"--subject-file {file}: can't be read: {reason}.")


def _target(namespace: str | None, pattern: str, subject: str | None, everything: bool) -> _Target:
    from flowcache.authz.keys import SUBJECT, namespace_prefix, read_pattern

    if subject == "":
        give_up("the subject is empty.")
    if (SUBJECT in pattern) is (subject is None):
        give_up(f"--pattern: {SUBJECT} in it and a subject go together.")
    try:
        prefix = b"" if namespace is None else namespace_prefix(namespace)
    except ValueError as fault:
        give_up(f"--namespace {namespace}: {fault}.")
    try:
        read = read_pattern(pattern, subject)
    except ValueError as fault:
        give_up(f"--pattern: {fault}.")
    if not read.name and not everything:
        give_up("--pattern *: this matches every key; add --everything if you mean it.")
    return _Target(pattern, namespace, prefix, read)


def _warn_of_nobodys(target: _Target, settings: Settings) -> None:
    """Say it when nobody has the namespace: that nothing is left there may mean nothing."""
    from flowcache.ports import NAMESPACES

    known = {who.prefix for who in settings.principals if who.prefix}
    if target.namespace is None or target.prefix in known:
        return
    names = sorted(prefix.removeprefix(NAMESPACES).rstrip(b":").decode() for prefix in known)
    there = f"there are {', '.join(names)}" if names else "none has any"
    say(
        f"Warning: no client of this configuration has the namespace {target.namespace}; {there}. "
        "Is it spelt right?",
        to_errors=True,
    )


def _user() -> str:
    """Return who runs this, as the system knows it and not as the environment says."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"


# -- the record ------------------------------------------------------------------------------------


class _Outcome(NamedTuple):
    """What came of it: ``ok`` or a code, how many keys were counted or removed, and why not all."""

    code: str
    keys: int
    why: str = ""


class _Record(NamedTuple):
    """The record of an erasure, which began at ``began`` (monotonic seconds)."""

    attempt: Attempt
    journal: AtOnce
    began: float


def _begin(
    settings: AuditSettings, target: _Target, by: str, told: dict[str, Any], *, may_be_none: bool
) -> _Record | None:
    """Record what is about to be done; nothing is done that can't be recorded."""
    from flowcache.api.envelope import request_ids
    from flowcache.audit.at_once import AtOnce
    from flowcache.audit.attempt import Attempt
    from flowcache.audit.database import JournalFault

    if settings.journal is None:
        if not may_be_none:
            give_up(
                "no audit journal is configured, so nobody would know of it: configure "
                "audit.journal, or go on with --unrecorded."
            )
        return None
    journal = AtOnce(settings, time)
    key = target.pattern.text
    attempt = Attempt(journal, time, request_ids()(), None, by, "ERASE", key, told)
    try:
        attempt.intend()
    except JournalFault as fault:
        give_up(f"{fault} Nothing was done.")
    return _Record(attempt, journal, monotonic())


def _end(record: _Record | None, outcome: str, keys: int | None) -> bool:
    """Record what came of it; tell whether that is on record, where it has to be."""
    from flowcache.audit.database import JournalFault

    if record is None:
        return True
    try:
        took_ms = round((monotonic() - record.began) * 1000, 3)
        record.attempt.conclude(outcome, None, took_ms, keys=keys)
        record.journal.close()
    except JournalFault as fault:
        say(
            f"flowcache: {fault} What came of it is not on record, but that it was begun.",
            to_errors=True,
        )
        return False
    say(f"On record as {record.attempt.id}.", to_errors=True)
    return True


# -- what is done ----------------------------------------------------------------------------------


def _count(store: StoreSettings, target: _Target, show: _Show) -> _Outcome:
    from flowcache.store.erasing import Erasure

    with _progress() as watch:
        it = Erasure(store, target.prefix, target.pattern, monotonic, lambda: watch(it))
        code, why, counted = _run(it.count(show))
    if counted is None:
        return _Outcome(code, 0, why)
    found, is_sure = counted
    unsure = "" if is_sure else "Keys moved between servers meanwhile: the number may be wrong."
    return _Outcome(code, found, unsure)


def _remove(store: StoreSettings, target: _Target, show: _Show, *, ask: bool) -> _Outcome:
    from flowcache.store.erasing import Erasure

    if ask:
        found = _count(store, target, _keep_quiet)
        if found.code != "ok":
            return found
        if not _is_agreed(found, target):
            return _Outcome("cancelled", 0, "You said no.")
    with _progress() as watch:
        it = Erasure(store, target.prefix, target.pattern, monotonic, lambda: watch(it))
        code, why, _ = _run(it.erase(show))
    return _Outcome(code, it.removed, why)


def _is_agreed(found: _Outcome, target: _Target) -> bool:
    try:
        asked = f"{found.why} {_keys(found.keys)} of {target}. Remove them? [y/N] "
        said = input(printable_lines(asked.lstrip()))
    except (EOFError, KeyboardInterrupt):
        print()
        return False
    return said.strip().lower() in ("y", "yes")


def _run(work: Coroutine[Any, Any, _T]) -> tuple[str, str, _T | None]:
    """Run ``work`` until it ends or somebody ends it; return a code, why, and its result."""
    from flowcache.errors import Failure

    async def until_told() -> _T:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, task.cancel)
        return await work

    try:
        return "ok", "", asyncio.run(until_told())
    except Failure as failure:
        return failure.code, failure.message, None
    except asyncio.CancelledError:
        return "cancelled", "It was broken off.", None


# -- what is told ----------------------------------------------------------------------------------


_OTHER_USER = (
    "\n  What to do: erase as the user flowcache-erase of docs/operations.md, not as the "
    "service's: set FLOWCACHE_REDIS_USERNAME and FLOWCACHE_REDIS_PASSWORD_FILE for this command."
)


def _tell(outcome: _Outcome, target: _Target, dry_run: bool, settings: Settings) -> None:
    from flowcache.errors import Forbidden

    if outcome.code != "ok":
        done = "" if dry_run else f"{_keys(outcome.keys)} removed; others may be left. "
        advice = _OTHER_USER if outcome.code == Forbidden.code else ""
        why = printable(outcome.why)
        say(f"flowcache: {target}: {done}{why}{advice}", to_errors=True)
    elif dry_run:
        say(f"{_keys(outcome.keys)} of {target}. Nothing was removed. {outcome.why}".rstrip())
    else:
        say(f"{_keys(outcome.keys)} removed; none of {target} is left.")
        seconds = settings.data_action.once_lifetime
        print(f"Records of writes with an idempotencyKey expire within {seconds:g} s.")


def _keys(count: int) -> str:
    return f"{count:,} key{'s' * (count != 1)}"


def _show(key: bytes) -> None:
    print(printable(key.decode(errors="backslashreplace")))


def _keep_quiet(key: bytes) -> None:
    pass


@contextmanager
def _progress() -> Iterator[Callable[[Erasure], None]]:
    """Yield what shows how far an erasure is: a bar, or lines where no terminal is."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        shown = (0, 0)

        def tell(it: Erasure) -> None:
            nonlocal shown
            now = it.passes, min(10, 10 * it.looked_at // max(1, it.size))
            if now != shown:
                shown = now
                line = f"pass {it.passes}: {now[1] * 10}% of {_keys(it.size)}, {it.removed} removed"
                print(line, file=sys.stderr, flush=True)

        yield tell
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("connecting", total=None)

        def draw(it: Erasure) -> None:
            bar.update(
                task,
                description=f"pass {it.passes}, {_keys(it.removed)} removed",
                total=it.size,
                completed=min(it.looked_at, it.size),
            )

        yield draw
