# Everything a newcomer types. `make demo` and `make test` set up what they need.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

PYTHON ?= python3
# Package index with CPU-only wheels of torch, where you have one: a quarter of the download.
TORCH_INDEX ?=
# More words for pytest, e.g. make test ARGS="-k queue".
ARGS ?=

# How long `make soak` runs, and `make fuzz` runs each target.
MINUTES ?= 60
ifeq ($(origin SECONDS),command line)
SECONDS_EACH := $(SECONDS)
else
SECONDS_EACH := 600
endif

BIN := .venv/bin
STAMP := .venv/.installed
TOOLS := .venv-tools/.installed
PIP := $(BIN)/python -m pip --quiet --quiet --disable-pip-version-check --no-input install
export PIP_ROOT_USER_ACTION := ignore

.PHONY: help setup demo test test-s3 test-compose faults soak fuzz check sbom bench bench-peers bench-optimizer proto up clean

help: ## Show this.
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-15s %s\n", $$1, $$2 }'

setup: $(STAMP) ## Make .venv and install everything (again when pyproject.toml changes).
	@echo "gramserve is set up in .venv"

# One environment for all targets. A half-made one is made anew, a network failure is tried once more.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "gramserve needs Python 3.11 or newer; name one: make PYTHON=python3.12"; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
	    echo "set-up 1/2: making .venv"; \
	    $(PYTHON) -m venv --clear .venv \
	        || { echo "$(PYTHON) cannot make virtual environments; on Debian: apt install python3-venv"; exit 1; }; }
	@if [ -n "$(TORCH_INDEX)" ]; then \
	    echo "set-up: torch from $(TORCH_INDEX)"; \
	    { $(PIP) --index-url "$(TORCH_INDEX)" torch torchvision && $(BIN)/python -c 'import torchvision'; } \
	        || { echo "torch from there does not work; taking the default one"; \
	             $(BIN)/python -m pip --quiet --quiet uninstall --yes torch torchvision; }; \
	fi
	@echo "set-up 2/2: installing packages, torch among them (one to three minutes)"
	@start=$$SECONDS; \
	    $(PIP) --editable '.[dev]' || { echo "once more, in case the network failed"; sleep 5; $(PIP) --editable '.[dev]'; }; \
	    echo "set-up done, packages took $$((SECONDS - start)) s"
	@touch $@

demo: $(STAMP) ## Synthetic slides through the whole system: fine-tune, optimize, serve, submit, calls.
	@$(BIN)/python -m examples.demo

test: $(STAMP) ## Run all tests.
	@$(BIN)/python -m pytest -n 2 --dist worksteal -q $(ARGS)

test-s3: $(STAMP) ## The whole stack and all of the store on a real S3 server; make test runs a part of these.
	@GRAMSERVE_TEST_S3=all $(BIN)/python -m pytest -n 2 --dist worksteal -q tests/e2e tests/store -k s3 $(ARGS)

faults: $(STAMP) ## Break everything that can break and write docs/faults.md; half an hour, ARGS="-k gateway" for some.
	@rm -f tests/faults/results.json
	@GRAMSERVE_TEST_FAULTS=all $(BIN)/python -m pytest -n 2 --dist worksteal -q tests/faults $(ARGS)
	@$(BIN)/python -m tests.faults.matrix

soak: $(STAMP) ## A seeded night of chaos on a real stack: MINUTES=60; more words, e.g. ARGS="--seed 7".
	@$(BIN)/python -m tests.soak --minutes $(MINUTES) $(ARGS)
	@$(BIN)/python docs/generate.py

fuzz: $(STAMP) ## Fuzz all that strangers send: SECONDS=600 for each target; ARGS="images gateway" for some.
	@$(BIN)/python -c 'import atheris' 2>/dev/null || $(PIP) --editable '.[fuzz]'
	@$(BIN)/python -m tests.fuzz --seconds $(SECONDS_EACH) $(ARGS)
	@$(BIN)/python docs/generate.py

test-compose: $(STAMP) ## The containers for real; needs Docker. Builds two images, starts the stack, kills parts of it.
	@GRAMSERVE_TEST_COMPOSE=1 $(BIN)/python -m pytest -q tests/deploy $(ARGS)

check: $(STAMP) $(TOOLS) ## Lint, format, types, stubs, contract, known faults of packages.
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python protos/generate.py --check
	@protos/lint.sh
	@.ci/audit

sbom: $(STAMP) $(TOOLS) ## Write dist/gramserve.cdx.json, what .venv is made of (CycloneDX); make it anew for a release.
	@mkdir -p dist
	@.venv-tools/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
	    --of JSON -o dist/gramserve.cdx.json .venv
	@echo "dist/gramserve.cdx.json"

# Apart from .venv: what looks at the packages must not change how they behave.
$(TOOLS):
	@$(PYTHON) -m venv --clear .venv-tools
	@.venv-tools/bin/python -m pip --quiet --quiet --disable-pip-version-check --no-input install \
	    'cyclonedx-bom>=7.0' 'pip-audit>=2.9' && touch $@ \
	    || echo "the tools for sbom and audit could not be installed"

bench: $(STAMP) ## Measure the stack and write benchmarks/results/ and docs/benchmarks.md; ARGS="--quick" in two minutes.
	@$(BIN)/python -m benchmarks $(ARGS)

bench-peers: $(STAMP) ## Install the other servers that make bench measures too, each in an environment of its own.
	@$(BIN)/python -m benchmarks.peers setup

bench-optimizer: $(STAMP) ## Measure int8 networks beside torch eager; ARGS="--budget-runs" adds whole optimizations.
	@OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m benchmarks.optimizer $(ARGS)

proto: $(STAMP) ## Generate the stubs from protos/.
	@$(BIN)/python protos/generate.py

up: $(STAMP) ## Run Redis, gateway, worker and optimizer on this machine, data in ./gramserve-data.
	@$(BIN)/gramserve up --data-dir gramserve-data $(ARGS)

clean: ## Remove what the demo and the tools left; .venv and gramserve-data stay.
	@rm -rf .demo .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist *.egg-info examples/node_client/node_modules
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
