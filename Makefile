# cbtfleet. `make help` lists the targets; the first one that needs it sets up .venv from constraints.txt.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
READY := $(VENV)/.ready
BIN := $(VENV)/bin
SOURCES := workers scheduler infra tests

.DEFAULT_GOAL := help
.PHONY: help demo test test-ceph check bench bench-fleet faults model mutants clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*##  *\(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST)

demo: $(READY)  ## back up and restore a simulated pool in a minute (ARGS=--keep leaves it running)
	@$(BIN)/cbtfleet demo $(ARGS)

test: $(READY)  ## all tests, JOBS=3 files at a time (ARGS="tests/unit -x" chooses some)
	@tests/debian-packages.sh
	@$(BIN)/python -m pytest -n $(or $(JOBS),3) --dist loadfile --no-loadscope-reorder $(ARGS)

test-ceph: $(READY)  ## the store's contract and the roles at it, at a real Ceph of one node (as root; 2 minutes)
	@command -v radosgw >/dev/null && command -v ceph-osd >/dev/null || \
	  { echo "make test-ceph needs: apt-get install ceph-mon ceph-osd radosgw"; exit 1; }
	@tests/ceph-radosgw.sh $(BIN)/python -m pytest tests/acceptance/test_store_roles.py \
	  tests/contract/test_stores.py -k "roles or foreign" $(ARGS)

check: $(READY)  ## ruff, ruff format, mypy and the import contracts; says all that is wrong, then fails
	@failed=; \
	$(BIN)/ruff check --quiet $(SOURCES) || failed=1; \
	$(BIN)/ruff format --check --quiet $(SOURCES) || { failed=1; echo "run: $(BIN)/ruff format $(SOURCES)"; }; \
	$(BIN)/mypy --no-error-summary || failed=1; \
	out=$$($(BIN)/lint-imports --no-logo --no-cache 2>&1) || { failed=1; echo "$$out"; }; \
	[ -z "$$failed" ]

bench: $(READY)  ## speed of the full path beside the sum of its parts (ARGS="--size 4GiB")
	@tests/debian-packages.sh
	@$(BIN)/python -m tests.benchmarks.full_path $(ARGS)

bench-fleet: $(READY)  ## what the fleet costs and how it shares, 3 minutes (ARGS="commit fairness" chooses some)
	@$(BIN)/python -m tests.benchmarks.fleet $(ARGS)

faults: $(READY)  ## fault schedules on real processes (N=200 schedules from SEED=1 on, JOBS=2 at a time)
	@tests/debian-packages.sh
	@$(BIN)/python -m tests.faults --count $(or $(N),200) --seed $(or $(SEED),1) --jobs $(or $(JOBS),2) $(ARGS)

model: $(READY)  ## check the model of slots, leases and barrier with spin (ARGS="barrier" chooses rows)
	@tests/debian-packages.sh
	@$(BIN)/python -m tests.model.run $(ARGS)

mutants: $(READY)  ## break lines that guard data, each in a copy, and see their tests fail (ARGS="lease scheduler/" chooses)
	@$(BIN)/python -m tests.mutants --jobs $(or $(JOBS),2) $(ARGS)

clean:  ## remove caches and build leftovers (to set up anew: rm -rf .venv)
	@rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist *.egg-info
	@find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# PIP_CONSTRAINT pins the build's setuptools too; pip 25.3 and later read PIP_BUILD_CONSTRAINT for that.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "cbtfleet needs Python 3.11 or later: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	@echo "Setting up $(VENV) (once, about a minute) ..."
	@$(PYTHON) -m venv $(VENV) || { echo "on Debian: apt-get install python3-venv"; exit 1; }
	@PIP_CONSTRAINT='$(CURDIR)/constraints.txt' PIP_BUILD_CONSTRAINT='$(CURDIR)/constraints.txt' \
	  PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install -qq --editable '.[dev]'
	@touch $@
