# Targets of the project; `make` lists them. Everything runs in .venv, which the first target to need it makes.

SHELL := /bin/sh
.DEFAULT_GOAL := help
PY := .venv/bin/python
READY := .venv/.ready
BUF_VERSION := 1.74.0
TESTS ?= tests
PYTEST_PROCESSES ?= 4

.PHONY: help demo test compose check bench protos baseline dev clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile

demo: $(READY) ## Export invoices, kill -9 a worker on page 7, and count what happened
	@$(PY) -m examples.invoice_export.demo $(DEMO)

test: $(READY) ## Run all tests (TESTS=path for some); starts its own PostgreSQL
	@$(PY) -m pytest -n $(PYTEST_PROCESSES) --dist worksteal $(TESTS)

compose: $(READY) ## Build the images and test docker-compose.yml on a container engine (minutes)
	@$(PY) -m pytest tests/compose

check: $(READY) ## Lint, format, types, and the contract
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy
	@$(PY) -m pytest -q -p no:cacheprovider tests/unit/test_generated.py
	@BUF_VERSION=$(BUF_VERSION) sh protos/check.sh

bench: $(READY) ## Measure on this machine (BENCH="--only batches --runs 3"); see docs/performance.md
	@$(PY) -m benchmarks $(BENCH)

protos: $(READY) ## Generate sdk/holdfast/v1 from protos/
	@$(PY) protos/generate.py
	@echo "sdk/holdfast/v1 is fresh"

baseline: ## Take the contract as it is now as what later changes must not break (at a release)
	@BUF_VERSION=$(BUF_VERSION) sh protos/check.sh --baseline

dev: $(READY) ## Make .venv with everything needed to work on Holdfast
	@echo "ready: activate with  . .venv/bin/activate"

clean: ## Remove .venv, caches and what the demo left
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis .demo .bench .holdfast dist build
	rm -rf tests/clients/typescript/dist tests/clients/typescript/gen tests/clients/typescript/node_modules
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is newer than pyproject.toml when everything in it is installed, so a second run is quick.
$(READY): pyproject.toml
	@set -e; \
	for candidate in "$$PYTHON" python3 python3.14 python3.13 python3.12 python3.11; do \
	  [ -n "$$candidate" ] || continue; \
	  if "$$candidate" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    chosen=$$candidate; break; \
	  fi; \
	done; \
	if [ -z "$$chosen" ]; then \
	  echo "error: Holdfast needs Python 3.11 or newer with its venv module, and none of python3, python3.14 ... python3.11 is one." >&2; \
	  echo "Install one (on Debian and Ubuntu also python3-venv), or name it: make PYTHON=/path/to/python3.12" >&2; \
	  exit 1; \
	fi; \
	if ! $(PY) -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	  echo "making .venv with $$("$$chosen" --version)"; \
	  rm -rf .venv; "$$chosen" -m venv .venv; \
	fi; \
	echo "installing Holdfast and its development tools from PyPI into .venv (a minute or so the first time)"; \
	$(PY) -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'; \
	$(PY) -m pip install --quiet --editable '.[scheduler,postgres]' --group dev; \
	touch $(READY)
