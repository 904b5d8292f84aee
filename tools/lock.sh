#!/bin/sh
# Renew requirements.txt and requirements-dev.txt: every version and hash, no address of a registry.
set -eu
cd "$(dirname "$0")/.."
.venv/bin/python -m pip install -q uv
compile() {
  .venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
    --no-emit-index-url --no-header --no-annotate "$@"
}
compile pyproject.toml --extra embedded tools/build-requirements.in -o requirements.txt
compile pyproject.toml --extra embedded --group dev tools/build-requirements.in \
  -c requirements.txt -o requirements-dev.txt
