"""What operations.md shows to be pasted is a configuration."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from flowcache.settings import load

ROOT = Path(__file__).resolve().parents[3]
SECTION = (
    (ROOT / "docs" / "operations.md").read_text("utf-8").partition("### Deliver it elsewhere")[2]
)
BLOCKS = re.findall(r"```toml\n(.*?)```", SECTION.partition("\n## ")[0], re.DOTALL)


@pytest.mark.parametrize(
    ("block", "names"),
    list(zip(BLOCKS, [("stream", "file", "http"), ("cxone",), ("cxone",)], strict=True)),
)
def test_it_can_be_pasted(block: str, names: tuple[str, ...], tmp_path: Path) -> None:
    """Each block works as it stands, where the files that it names are there."""
    secret = tmp_path / "secret"
    secret.write_text("hush\n")
    text = re.sub(r"/run/secrets/[a-z-]+", str(secret), block)
    text = text.replace("/var/log/flowcache", str(tmp_path))
    config = tmp_path / "flowcache.toml"
    config.write_text(f'{text}\n[audit]\njournal = "{tmp_path}/audit.db"\n')
    delivery = load(config, {"SERVICE_BEARER_TOKEN": "flow"}).delivery
    assert delivery is not None
    assert delivery.names == names
