"""What is done about known vulnerabilities, with reports as pip-audit writes them."""

from __future__ import annotations

import subprocess
from datetime import date
from pathlib import Path

import msgspec
import pytest
from packaging.version import Version
from pip_audit._format import JsonFormat
from pip_audit._service import (
    Dependency,
    ResolvedDependency,
    SkippedDependency,
    VulnerabilityResult,
)

from tools.audit import Report, Verdict, ask, judge
from tools.dependencies import Accepted

TODAY = date(2026, 11, 24)
FLAW = VulnerabilityResult(
    id="PYSEC-2026-1",
    description="Everybody gets in.",
    fix_versions=[Version("1.2"), Version("2.0")],
    aliases={"CVE-2026-1", "GHSA-x"},
)
HURT = ResolvedDependency("hurt", Version("1.1"))
WELL = ResolvedDependency("well", Version("1.0"))
UNKNOWN = SkippedDependency("unknown", skip_reason="not found")


def written(*found: tuple[Dependency, list[VulnerabilityResult]]) -> str:
    """Return what pip-audit prints of these."""
    text: str = JsonFormat(output_desc=False, output_aliases=True).format(dict(found), [])
    return text


def report(*found: tuple[Dependency, list[VulnerabilityResult]]) -> Report:
    return msgspec.json.decode(written(*found), type=Report)


def accepted(
    advisory: str = "PYSEC-2026-1", package: str = "hurt", until: date = date(2027, 1, 1)
) -> Accepted:
    return Accepted(advisory, package, "reached by nothing here", until)


def test_no_news_is_good_where_it_was_asked_for() -> None:
    """Every package was asked about, and none has anything."""
    verdict = judge(report((WELL, []), (HURT, [])), (), TODAY)
    assert verdict == Verdict((), ())
    assert verdict.exit_code(strict=True) == 0


def test_a_vulnerability_fails() -> None:
    """It is told with what mends it."""
    verdict = judge(report((WELL, []), (HURT, [FLAW])), (), TODAY)
    assert verdict.faults == ("hurt 1.1: PYSEC-2026-1, mended by 1.2 or 2.0",)
    assert verdict.exit_code(strict=False) == verdict.exit_code(strict=True) == 1


@pytest.mark.parametrize("name", ["PYSEC-2026-1", "CVE-2026-1", "GHSA-x"])
def test_it_may_be_accepted_for_a_while(name: str) -> None:
    """Under any of its names."""
    assert judge(report((HURT, [FLAW])), [accepted(name)], TODAY) == Verdict((), ())


def test_an_acceptance_is_over_on_its_day() -> None:
    """Then somebody has to look again."""
    (fault,) = judge(report((HURT, [FLAW])), [accepted(until=TODAY)], TODAY).faults
    assert fault.endswith("; its acceptance is over")


@pytest.mark.parametrize("other", [accepted("PYSEC-2026-2"), accepted(package="well")])
def test_an_acceptance_is_for_one_advisory_of_one_package(other: Accepted) -> None:
    """It hides nothing else; and as it is for nothing, it has to go."""
    verdict = judge(report((HURT, [FLAW]), (WELL, [])), [other], TODAY)
    assert len(verdict.faults) == 2
    assert verdict.faults[1].endswith("no longer reported: take it out")


def test_what_could_not_be_asked_is_not_well() -> None:
    """It is counted and told; whether that fails is for the caller to say."""
    verdict = judge(report((WELL, []), (UNKNOWN, [])), [accepted(package="unknown")], TODAY)
    assert verdict == Verdict((), ("the registry does not tell of 1 of 2 packages",))
    assert (verdict.exit_code(strict=False), verdict.exit_code(strict=True)) == (0, 2)


def test_a_report_of_nothing_is_none() -> None:
    """An empty lock, or one that was not understood, is not a clean one."""
    assert judge(report(), (), TODAY).exit_code(strict=True) == 2


def test_a_vulnerability_goes_before_what_is_unknown() -> None:
    """Both are told, and it fails."""
    verdict = judge(report((UNKNOWN, []), (HURT, [FLAW])), (), TODAY)
    assert verdict.unknown
    assert verdict.exit_code(strict=True) == 1


@pytest.mark.parametrize(
    ("out", "err", "told"),
    [
        ("", "WARNING: slow\nERROR: no route to host\n", "ERROR: no route to host"),
        ("", "", "pip-audit said nothing"),
        ("{", "ERROR: cut", "ERROR: cut"),
        ("[]", "ERROR: another shape", "ERROR: another shape"),
    ],
)
def test_a_registry_out_of_reach_is_told(
    monkeypatch: pytest.MonkeyPatch, out: str, err: str, told: str
) -> None:
    """With the reason pip-audit gives; never as a report without vulnerabilities."""

    def run(words: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(words, 1, out, err)

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(OSError, match=told):
        ask(Path("requirements.txt"))


def test_a_report_is_read_though_its_exit_code_says_vulnerable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """pip-audit exits with 1 for what it found, and prints it."""

    def run(words: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(words, 1, written((HURT, [FLAW])), "Found 1")

    monkeypatch.setattr(subprocess, "run", run)
    assert ask(Path("requirements.txt")) == report((HURT, [FLAW]))
