"""The configurations in the documentation load, whichever page they are on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from flowcache.settings import load

PAGES = sorted((Path(__file__).parents[2] / "docs").glob("*.md"))
BLOCKS = [
    pytest.param(block, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, block in enumerate(
        re.findall(r"^```toml\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    )
]
PEM = str(Path(__file__).with_name("some.pem"))
TOKEN = {"SERVICE_BEARER_TOKEN": "a-token-for-the-flows-of-this-test"}


def test_there_are_configurations_on_several_pages() -> None:
    """A page that loses its example would leave nothing to test."""
    assert {"audit", "circuits", "operations", "tls"} <= {
        str(block.id).rpartition("-")[0] for block in BLOCKS
    }


@pytest.mark.parametrize("block", BLOCKS)
def test_a_documented_configuration_loads(block: str, tmp_path: Path) -> None:
    """An operator can copy it, once the files that it names exist."""

    def secret(name: re.Match[str]) -> str:
        file = tmp_path / name[1]
        file.write_text(name[1].ljust(40, "x"))
        return str(file)

    text = re.sub(r"/run/secrets/([a-z-]+)", secret, block)
    text = re.sub(r"/etc/flowcache/[a-z-]+\.(crt|key)", PEM, text)
    text = re.sub(r"/var/(lib|log)/flowcache", str(tmp_path), text)
    file = tmp_path / "flowcache.toml"
    file.write_text(text)
    journal = {} if "journal = " in text else {"FLOWCACHE_AUDIT_JOURNAL": str(tmp_path / "a.db")}
    load(file, TOKEN | journal)
