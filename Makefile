# Every target sets up what it needs: `make demo` and `make test` work on a bare machine.
.PHONY: help setup demo test lint bench
.DEFAULT_GOAL := help

VENV := .venv
RUN := $(VENV)/bin/python
# The first Python that is new enough; `make setup PYTHON=/path/to/python` overrides it.
CANDIDATES := python3 python3.14 python3.13 python3.12 python3.11 python
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(firstword $(foreach name,$(CANDIDATES),$(shell $(name) -c "$(NEW_ENOUGH)" 2>/dev/null && echo $(name))))
# Test processes; each computes with one thread, so that together they fill the cores and do not fight for them.
JOBS ?= 2
TESTS ?=

help:
	@echo "make setup   virtual environment in $(VENV) with everything (a few GB, once)"
	@echo "make demo    a first few-shot experiment, no download"
	@echo "make test    all tests (TESTS=tests/moments for a part)"
	@echo "make lint    ruff: code and format"
	@echo "make bench   time and memory against other toolkits"

setup: $(VENV)/.installed $(VENV)/.learn2learn

$(VENV)/bin/python:
	@test -n "$(PYTHON)" && "$(PYTHON)" -c "$(NEW_ENOUGH)" 2>/dev/null || { \
	  echo "covey needs Python 3.11 or newer (its video decoder, PyAV, does); found: $$("$(or $(PYTHON),python3)" --version 2>&1)." >&2; \
	  echo "Install one, or say where it is: make setup PYTHON=/path/to/python3.11" >&2; exit 1; }
	"$(PYTHON)" -m venv $(VENV)

# Runs again only when a list of requirements has changed.
$(VENV)/.installed: requirements.txt requirements-dev.txt | $(VENV)/bin/python
	@echo "Installing requirements.txt and requirements-dev.txt: a few GB the first time, so some minutes ..."
	$(RUN) -m pip install -q --disable-pip-version-check -r requirements.txt -r requirements-dev.txt
	@touch $@

$(VENV)/.learn2learn: .ci/learn2learn | $(VENV)/.installed
	.ci/learn2learn $(VENV)
	@touch $@

demo: setup
	@$(RUN) -m tools.demo

test: setup
	@OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(RUN) -m pytest -q -n $(JOBS) --dist worksteal --durations=15 $(TESTS)

lint: setup
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .

bench: setup
	@$(RUN) -m tools.bench $(BENCH)
