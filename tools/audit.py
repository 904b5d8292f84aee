"""Ask PyPI whether what is locked has known vulnerabilities.

    python -m tools.audit [--all] [--strict]

What runs is asked about, with ``--all`` what builds and tests, too. pip-audit asks PyPI's JSON API,
which tells the advisories of the Python Packaging Advisory Database. Exit code 1: something has a
vulnerability that nobody accepted in `dependencies.toml`, or an acceptance is over or idle. 2, and
only with ``--strict``: some could not be asked about, because the registry is out of reach or does
not tell. Without it that is said and passes, or nobody could work on a train. It is never taken for
good news, as pip-audit itself does.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import NamedTuple

import msgspec

from tools.dependencies import Accepted, Decisions

ROOT = Path(__file__).resolve().parent.parent
RUNS, ALL = ROOT / "requirements.txt", ROOT / "requirements-dev.txt"
_TIMEOUT = 10
"""Seconds for one answer of the registry."""
_VULNERABLE, _UNASKED = 1, 2


class Vulnerability(msgspec.Struct, frozen=True):
    """An advisory about a package, under all its names."""

    id: str
    aliases: tuple[str, ...] = ()
    fix_versions: tuple[str, ...] = ()


class Dependency(msgspec.Struct, frozen=True):
    """What pip-audit says of a package: its vulnerabilities, or why it could not ask."""

    name: str
    version: str | None = None
    vulns: tuple[Vulnerability, ...] = ()
    skip_reason: str | None = None


class Report(msgspec.Struct, frozen=True):
    """What pip-audit writes with ``--format json``."""

    dependencies: tuple[Dependency, ...]


class Verdict(NamedTuple):
    """What is wrong, and what nobody knows, in sentences."""

    faults: tuple[str, ...]
    unknown: tuple[str, ...]

    def exit_code(self, strict: bool) -> int:
        """Return the code of the command; what is wrong goes before what is not known."""
        if self.faults:
            return _VULNERABLE
        return _UNASKED if strict and self.unknown else 0


def judge(report: Report, accepted: Sequence[Accepted], today: date) -> Verdict:
    """Weigh a report against what was accepted."""
    faults = []
    used = set()
    asked = [each for each in report.dependencies if each.skip_reason is None]
    for dependency in asked:
        for vulnerability in dependency.vulns:
            names = {vulnerability.id, *vulnerability.aliases}
            mine = [a for a in accepted if a.package == dependency.name and a.id in names]
            used.update(mine)
            if not any(today < each.until for each in mine):
                fixed = " or ".join(vulnerability.fix_versions) or "nothing yet"
                over = "; its acceptance is over" if mine else ""
                faults.append(
                    f"{dependency.name} {dependency.version}: {vulnerability.id}, "
                    f"mended by {fixed}{over}"
                )
    names_asked = {each.name for each in asked}
    faults += [
        f"{each.package}: {each.id} is accepted and no longer reported: take it out"
        for each in accepted
        if each not in used and each.package in names_asked
    ]
    unasked = [each.name for each in report.dependencies if each.skip_reason is not None]
    total = len(report.dependencies)
    unknown = [f"the registry does not tell of {len(unasked)} of {total} packages"]
    return Verdict(tuple(faults), tuple(unknown if unasked or not total else ()))


def ask(lock: Path) -> Report:
    """Have pip-audit ask about all that a lock file names.

    Raises:
        OSError: it could not; the message says why.
    """
    words = ["--requirement", str(lock), "--require-hashes", "--disable-pip"]
    words += ["--vulnerability-service", "pypi", "--timeout", str(_TIMEOUT)]
    words += ["--format", "json", "--progress-spinner", "off"]
    done = subprocess.run(
        [sys.executable, "-m", "pip_audit", *words], capture_output=True, text=True, check=False
    )
    try:
        return msgspec.json.decode(done.stdout, type=Report)
    except msgspec.MsgspecError:
        last = (done.stderr.strip().splitlines() or ["pip-audit said nothing"])[-1]
        raise OSError(last[:300]) from None


def main() -> int:
    """Return an exit code, as above."""
    lock = ALL if "--all" in sys.argv else RUNS
    try:
        verdict = judge(ask(lock), Decisions.read().accepted, datetime.now(UTC).date())
    except OSError as fault:
        verdict = Verdict((), (str(fault),))
    for wrong in verdict.faults:
        print(wrong)
    for why in verdict.unknown:
        print(f"{lock.name}: NOT AUDITED for vulnerabilities: {why}.", file=sys.stderr)
    return verdict.exit_code("--strict" in sys.argv)


if __name__ == "__main__":
    sys.exit(main())
