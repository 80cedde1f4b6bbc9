# Two commands: `make demo` runs a complete pocket campaign, `make test` the whole suite.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
# Quiet: pip tells about every index it was given, on every call.
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet --quiet
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export DO_NOT_TRACK := 1
export MLFLOW_DISABLE_TELEMETRY := true
# One thread a process: params/cluster/local.yaml says why.
export OMP_NUM_THREADS := 1
export OPENBLAS_NUM_THREADS := 1

.PHONY: demo test check bench clean browser slurm cluster-up cluster-down

demo: $(VENV)/.ready
	$(BIN)/afd campaign --name demo --params params/pocket.yaml

test: $(VENV)/.ready-test browser slurm check
	$(BIN)/python -m pytest

check: $(VENV)/.ready-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright --project pyproject.toml

bench: $(VENV)/.ready-test slurm
	$(BIN)/python -m benchmarks

# The environment, exactly as it was tested; made again when a lock file changes. The lock files
# are closed under dependencies (`pip check`), so nothing is left to resolve.
$(VENV)/.ready: requirements.lock pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing requirements.lock into $(VENV) (about 1.5 GB)"
	@$(PIP) install --no-deps -r requirements.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.ready-test: $(VENV)/.ready requirements-test.lock
	@$(PIP) install --no-deps -r requirements-test.lock
	@touch $@

# Some tests open pages in Chromium; where none can be had they skip and say so.
browser:
	@command -v chromium chromium-browser google-chrome >/dev/null || \
	  { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && \
	    apt-get update -qq >/dev/null 2>&1 && \
	    apt-get install -y -qq --no-install-recommends chromium >/dev/null 2>&1; } || \
	  echo "no Chromium: the tests that need one will skip"

# Other tests submit to a real SLURM of four virtual nodes; where its Debian packages cannot be had
# they skip, each saying what was not tested. cluster-up leaves one running to play with.
slurm:
	@tests/slurm/cluster.sh install || echo "no SLURM: the tests that need one will skip"

cluster-up:
	@tests/slurm/cluster.sh start

cluster-down:
	@tests/slurm/cluster.sh stop

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache
