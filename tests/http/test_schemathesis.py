"""A running service keeps what its own document promises, whatever is sent to it.

Schemathesis runs as its own command: its plugin for pytest does not know the newest pytest.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.service import Service
from tests.service import service as running_service

EXAMPLES = 60
"""Random requests to a route, beside those that try each limit of its schema."""

CONFIGURATION = """
[generation]
max-examples = {examples}
deterministic = true
database = "none"

[auth.openapi]
flow = {{ bearer = "{flow}" }}
inspector = {{ bearer = "{inspector}" }}
control = {{ bearer = "{control}" }}

[checks]
# What the schema allows is taken, unless the key holds another type (409).
positive_data_acceptance.expected-statuses = [200, 409, 504]
# What breaks the schema is refused: as too large where a text is too long, and before anything
# is read where the credential is missing.
negative_data_rejection.expected-statuses = [400, 401, 413]
# A call that asks for a deadline of 1 ms may miss it; any other 5xx is a fault.
not_a_server_error.expected-statuses = ["2xx", "4xx", 504]

[[operations]]
include-name = "POST /inspector/circuits"
# Only shards that are there are taken, which a schema can't say.
checks.positive_data_acceptance.expected-statuses = [200, 400]
"""

CIRCUITS = "/inspector/circuits"


def test_every_answer_is_as_documented(service: Service, tmp_path: Path) -> None:
    """Status, headers, type and body of each answer fit the document; none tells of a bug."""
    explore(service, tmp_path, "--exclude-path", CIRCUITS)


def test_every_answer_about_circuits_is_as_documented(tmp_path: Path) -> None:
    """The same of orders that switch circuits; they would keep calls from being answered."""
    with running_service({}, "--embedded") as service:
        explore(service, tmp_path, "--include-path", CIRCUITS)


def explore(service: Service, tmp_path: Path, *chosen: str) -> None:
    """Send all kinds of requests to the chosen paths; fail on an answer that is not documented."""
    configuration = tmp_path / "schemathesis.toml"
    configuration.write_text(
        CONFIGURATION.format(
            examples=EXAMPLES,
            flow=service.token,
            inspector=service.inspector_token,
            control=service.control_token,
        )
    )
    run = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli"),
            *("--config-file", str(configuration)),
            *("run", f"{service.url}/openapi.json", *chosen),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 0, run.stdout + run.stderr
