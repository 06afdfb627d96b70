# Every target sets up what it needs: Python >= 3.11 with venv is all that must be there.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := runs/demo

.PHONY: run test check lock clean help

help:
	@echo "make run    set up, run the whole pipeline on the embedded suite into $(RUN), print the results table"
	@echo "make test   set up, lint, type-check, run all tests"
	@echo "make check  lint and types alone"
	@echo "make lock   rewrite constraints.txt from .venv"
	@echo "make clean  remove .venv and caches (runs stay)"

run: $(VENV)/.run
	$(BIN)/python -m core run --preset demo --out $(RUN)

test: check
	$(BIN)/python -m pytest --cov=core --cov-report=term:skip-covered --cov-fail-under=90

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Darkroom needs Python >= 3.11, '$(PYTHON)' is $$($(PYTHON) -V); try: make PYTHON=python3.12 run"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# A stamp each, so that a second `make` asks pip nothing.
$(VENV)/.run: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.dev: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@ $(VENV)/.run

lock:
	$(BIN)/pip freeze --exclude-editable | grep -v -i -E '^(nvidia|triton)' | sed 's/+cpu$$//' > constraints.new
	{ sed '/^[^#]/,$$d' constraints.txt; cat constraints.new; } > constraints.lock
	mv constraints.lock constraints.txt
	rm constraints.new

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .coverage build *.egg-info
