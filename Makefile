# `make` lists what there is; `make demo` is the first thing to try.
VENV := .venv
BIN := $(VENV)/bin
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export DO_NOT_TRACK := 1
export MLFLOW_DISABLE_TELEMETRY := true
# One thread a process: params/cluster/local.yaml says why.
export OMP_NUM_THREADS := 1
export OPENBLAS_NUM_THREADS := 1
# One may choose: make install PYTHON=/path/to/python3.12
export PYTHON
# A file stays in one worker (tests/conftest.py). Three where services run, on two cores: one of them
# mostly waits, for SLURM, servers and processes that start.
PYTEST := $(BIN)/python -m pytest --no-loadscope-reorder -n

.DEFAULT_GOAL := help
.PHONY: help demo install install-test check unit test nightly docs bench system-packages cluster-up cluster-down clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-16s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

install: ## the environment, in .venv: versions of requirements.lock (CPU or CUDA build: docs/install.md)
	@sh install.sh

demo: install ## a complete pocket campaign on two CPU cores, about 6 minutes
	$(BIN)/afd campaign --name demo --params params/pocket.yaml

install-test: ## the environment with the tools of the tests
	@sh install.sh test

check: install-test ## ruff, import-linter, names and docstrings, pyright: 3 minutes
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/python -m tests.house.prose
	$(BIN)/pyright --project pyproject.toml
	$(BIN)/pyright --project pyright-basic.json

unit: install-test ## tests without service, browser, SLURM or campaign: 3 minutes
	$(PYTEST) 2 -m "not integration and not nightly"

test: install-test system-packages check ## the whole suite but the longest tests
	$(PYTEST) 3 -m "not nightly"

nightly: install-test system-packages check ## the whole suite
	$(PYTEST) 3

docs: install-test ## the documentation site, in site/: 1 minute
	$(BIN)/python docs/site/build.py site

bench: install-test ## benchmarks: docs/benchmarks.md
	@tests/system_packages.sh slurm
	$(BIN)/python -m benchmarks

# Chromium and SLURM for the tests that want them: named first, and one may decline.
system-packages:
	@tests/system_packages.sh browser slurm

cluster-up: ## a SLURM of four virtual nodes on this machine, to play with
	@tests/system_packages.sh slurm
	@tests/slurm/cluster.sh start

cluster-down: ## stop it
	@tests/slurm/cluster.sh stop

clean: ## remove .venv and caches; runs and store stay
	rm -rf $(VENV) .pytest_cache .ruff_cache
