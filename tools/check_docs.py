"""Check that the documentation agrees with the code; ``--write`` updates what is generated.

Checked: relative links lead to a file and a heading; the reference of settings and the tables of
chaos scenarios are those of the code; every failure code and every metric is documented; every
environment variable that is named exists. So do the files that a page names in backticks, and the
names that follow one: `authn/gate.py` `Gate.admit`, `Gate.identify`.
"""

from __future__ import annotations

import ast
import re
import sys
from functools import cache
from pathlib import Path

from chaos.report import about_table, write
from chaos.scenarios import SCENARIOS
from flowcache.errors import all_failures
from flowcache.metrics.exposition import exposition
from flowcache.operations.catalogue import CATALOGUE
from flowcache.operations.operation import Operation, Ttl
from flowcache.settings import SETTINGS
from flowcache.settings.showing import reference
from flowcache.store.rights import TOPOLOGY_COMMANDS, needed_commands

ROOT = Path(__file__).resolve().parent.parent
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "bench").glob("*.md")]
OPERATIONS = ROOT / "docs" / "operations.md"
CONFIGURATION = ROOT / "docs" / "configuration.md"
METRICS = ROOT / "docs" / "metrics.md"
RELIABILITY = ROOT / "docs" / "reliability.md"
FLOW_AUTHORS = ROOT / "docs" / "flow-authors.md"

_ROOTS = (ROOT / "src" / "flowcache", ROOT)
_PLACE = re.compile(r"`((?:\w+/)*\w+\.py)`((?:,? `[A-Za-z_][\w.]*`)*)")
_LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_VARIABLE = re.compile(r"\bFLOWCACHE_[A-Z_]+\b")


def main() -> int:
    """Return 1 and say what is wrong, or 0."""
    if "--write" in sys.argv:
        OPERATIONS.write_text(_with_rights(OPERATIONS.read_text("utf-8")), "utf-8")
        CONFIGURATION.write_text(_with_settings(CONFIGURATION.read_text("utf-8")), "utf-8")
        RELIABILITY.write_text(_with_scenarios(RELIABILITY.read_text("utf-8")), "utf-8")
        FLOW_AUTHORS.write_text(_with_operations(FLOW_AUTHORS.read_text("utf-8")), "utf-8")
    faults = [
        *_dead_links(),
        *_settings(),
        *_rights(),
        *_scenarios(),
        *_operations(),
        *_unknown_variables(),
        *_codes(),
        *_metrics(),
        *_places(),
    ]
    for fault in faults:
        print(fault)
    return 1 if faults else 0


def _dead_links() -> list[str]:
    return [
        f"{page.relative_to(ROOT)}: dead link: {target}{'#' if anchor else ''}{anchor}"
        for page in PAGES
        for target, anchor in _LINK.findall(page.read_text("utf-8"))
        if "://" not in target and not _leads(page.parent / target if target else page, anchor)
    ]


def _leads(target: Path, anchor: str) -> bool:
    return target.exists() and (not anchor or anchor in _anchors(target))


@cache
def _anchors(page: Path) -> frozenset[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    headings = _HEADING.findall(page.read_text("utf-8"))
    return frozenset(
        re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings
    )


def _settings() -> list[str]:
    text = CONFIGURATION.read_text("utf-8")
    if _with_settings(text) != text:
        return ["docs/configuration.md: not up to date: python -m tools.check_docs --write"]
    return []


def _with_settings(text: str) -> str:
    return write(text, "settings", "\n".join(reference()).rstrip())


def _scenarios() -> list[str]:
    text = RELIABILITY.read_text("utf-8")
    if _with_scenarios(text) != text:
        return ["docs/reliability.md: the scenarios are old: python -m tools.check_docs --write"]
    return []


def _with_scenarios(text: str) -> str:
    attacks = [each for each in SCENARIOS if each.isolation is not None]
    others = [each for each in SCENARIOS if each.isolation is None]
    text = write(text, "chaos scenarios", about_table(others))
    return write(text, "chaos attacks", about_table(attacks))


def _rights() -> list[str]:
    text = OPERATIONS.read_text("utf-8")
    if _with_rights(text) != text:
        return ["docs/operations.md: the ACL rule is old: python -m tools.check_docs --write"]
    return []


def _with_rights(text: str) -> str:
    return write(text, "ACL rule", _acl_rule())


def _acl_rule() -> str:
    """Return what flowcache's Redis user may do, as the operations of the catalogue need it."""
    commands = (*needed_commands(), *TOPOLOGY_COMMANDS)
    rights = " ".join(f"+{command}" for command in commands)
    return f"```\nACL SETUSER flowcache on >password ~* resetchannels {rights}\n```"


def _operations() -> list[str]:
    text = FLOW_AUTHORS.read_text("utf-8")
    if _with_operations(text) != text:
        return ["docs/flow-authors.md: the operations are old: python -m tools.check_docs --write"]
    return []


def _with_operations(text: str) -> str:
    head = (
        "| operation | what it does | takes | permission | `metadata.hit` |\n|---|---|---|---|---|"
    )
    rows = "\n".join(_about(operation) for operation in CATALOGUE.values())
    return write(text, "operations", f"{head}\n{rows}")


def _about(operation: Operation) -> str:
    takes = [f"`{each.name}`: {each.kind.about}" for each in operation.takes]
    takes += ["`ttl`"] if operation.ttl is not Ttl.UNUSED else []
    needs = ", ".join(f"`{each}`" for each in sorted(operation.permissions))
    hit = "null" if operation.read(operation.sample.reply).hit is None else "true or false"
    cells = (f"`{operation.name}`", operation.summary, "; ".join(takes), needs, hit)
    return f"| {' | '.join(cells)} |"


def _unknown_variables() -> list[str]:
    known = {name for setting in SETTINGS for name in (setting.variable, *setting.names)}
    return [
        f"{page.relative_to(ROOT)}: unknown variable {name}"
        for page in PAGES
        for name in _VARIABLE.findall(page.read_text("utf-8"))
        if name not in known and not name.endswith("_")
    ]


def _codes() -> list[str]:
    text = FLOW_AUTHORS.read_text("utf-8")
    return [
        f"docs/flow-authors.md: `{failure.code}` {failure.status} is missing"
        for failure in all_failures()
        if f"| `{failure.code}` | {failure.status} |" not in text
    ]


def _metrics() -> list[str]:
    text = METRICS.read_text("utf-8")
    names = re.findall(r"^# TYPE (\S+)", exposition((), "0").decode(), re.MULTILINE)
    return [
        f"docs/metrics.md: the metric {name} is missing"
        for name in names
        if f"`{name}`" not in text
    ]


def _places() -> list[str]:
    """Say which files and names in them are not there (any more)."""
    faults = []
    for page in PAGES:
        for path, names in _PLACE.findall(page.read_text("utf-8")):
            file = next(
                (root / path for root in (*_ROOTS, page.parent) if (root / path).is_file()), None
            )
            if file is None:
                faults.append(f"{page.relative_to(ROOT)}: there is no {path}")
                continue
            faults += [
                f"{page.relative_to(ROOT)}: {path} has no {name}"
                for name in re.findall(r"[\w.]+", names)
                if name not in _names(file)
            ]
    return faults


@cache
def _names(file: Path) -> frozenset[str]:
    """Return what a module defines: functions, wherever they are, classes, and values; what is in a
    class under the class's name."""
    names: set[str] = set()

    def walk(body: list[ast.stmt], owner: str) -> None:
        for node in body:
            match node:
                case ast.FunctionDef() | ast.AsyncFunctionDef():
                    names.add(owner + node.name)
                    walk(node.body, "")
                case ast.ClassDef():
                    names.add(owner + node.name)
                    walk(node.body, f"{node.name}.")
                case ast.Assign(targets=[ast.Name(id=name)]):
                    names.add(owner + name)
                case ast.AnnAssign(target=ast.Name(id=name)):
                    names.add(owner + name)

    walk(ast.parse(file.read_text("utf-8")).body, "")
    return frozenset(names)


if __name__ == "__main__":
    sys.exit(main())
