# Every command sets up what it needs in .venv: Python 3.11, make and git are enough.
# `make test` also needs Debian's redis-server; as root it installs it itself.

PYTHON ?= python3.11
ifeq ($(shell command -v $(PYTHON) 2>/dev/null),)
PYTHON := python3
endif
BIN := .venv/bin
RUN_READY := .venv/.run-ready
DEV_READY := .venv/.dev-ready

.DEFAULT_GOAL := help
.PHONY: help run test test-fast check audit sbom bench chaos lock clean

help: ## show this
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

run: $(RUN_READY) ## serve on port 3000 (FLOWCACHE_PORT) with an embedded Valkey
	@exec $(BIN)/flowcache serve --embedded

test: $(DEV_READY) ## run the whole test suite
	@sh tools/need-redis.sh
	@$(BIN)/python -m pytest $(ARGS)

test-fast: $(DEV_READY) ## the tests that start no servers: about a minute
	@$(BIN)/python -m pytest tests/unit $(ARGS)

check: $(DEV_READY) ## lint, types, layers, documentation, words, dependencies
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m tools.check_docs
	@$(BIN)/python -m tools.words
	@$(BIN)/python -m tools.sbom
	@$(BIN)/python -m tools.audit

audit: $(DEV_READY) ## ask for known vulnerabilities of all that is locked; 2: could not be asked
	@$(BIN)/python -m tools.audit --all --strict

sbom: $(DEV_READY) ## renew the bill of materials
	@$(BIN)/python -m tools.sbom --write

bench: $(DEV_READY) ## measure against its peers; see bench/README.md
	@$(BIN)/python -m bench.run $(ARGS)

chaos: $(DEV_READY) ## break real servers under load, and check every answer
	@sh tools/need-redis.sh
	@$(BIN)/python -m chaos.run $(ARGS)

lock: $(DEV_READY) ## renew the lock files
	@sh tools/lock.sh
	@$(MAKE) --no-print-directory sbom

clean: ## remove what the other commands made
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage*

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "flowcache needs Python 3.11 or newer; name it: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv

$(RUN_READY): .venv/bin/python pyproject.toml requirements.txt
	@# --no-deps: the lock is complete, and a resolver that looks further may want something newer
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --require-hashes -r requirements.txt
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(DEV_READY): $(RUN_READY) requirements-dev.txt
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --require-hashes -r requirements-dev.txt
	@touch $@
