# Every target sets up what it needs: Python >= 3.11 with venv is all that must be there.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := runs/demo
RUNS ?= $(or $(DARKROOM_RUNS),runs)
SHOWN := runs/controls
# Modules inside the packages of core/: where a package has an __all__, pdoc shows that alone unless they are named.
INNER := $(subst /,.,$(basename $(wildcard core/*/[a-z]*.py)))

.PHONY: run app lab notebooks results test check torture golden bench docs screenshots lock clean help

help:
	@echo "make run    set up, run the whole pipeline on the embedded suite into $(RUN), print the results table"
	@echo "make app    set up, open the dashboard on $(RUNS)/"
	@echo "make lab    set up, open JupyterLab on notebooks/"
	@echo "make notebooks  run all notebooks on the smoke preset, write them as pages into docs/rendered"
	@echo "make results  all named experiments into runs/results and docs/results: hours; needs chromium for the figures"
	@echo "make test   set up, lint, type-check, run all tests"
	@echo "make check  lint and types alone"
	@echo "make torture  kill runs, damage files, fill disks, repeat runs: some twenty minutes, ends in a table"
	@echo "make golden rewrite tests/golden/ from a run of today's code; look at the diff"
	@echo "make bench  training speed against transformers.Trainer and a plain loop, into benchmarks/results"
	@echo "make docs   write docs/config.md, docs/commands.md and the API's pages, docs/api/index.html"
	@echo "make screenshots  pictures of every page of $(SHOWN) into docs/screenshots (needs chromium)"
	@echo "make lock   rewrite constraints.txt from .venv"
	@echo "make clean  remove .venv and caches (runs stay)"

run: $(VENV)/.run
	$(BIN)/python -m core run --preset demo --out $(RUN)

app: $(VENV)/.notebooks
	$(BIN)/streamlit run app/streamlit_app.py -- --runs $(RUNS)

lab: $(VENV)/.notebooks
	$(BIN)/jupyter lab --notebook-dir=notebooks

# With three seeds and every control there is something to see in each of them.
notebooks: $(VENV)/.notebooks
	@mkdir -p reports/notebooks
	$(BIN)/python -m core notebooks --run runs/notebooks --out reports/notebooks --html docs/rendered \
		-p seeds=3 -p 'variants=[hard,kd,label_smoothing,cwtm,dkpp,adaptive_smoothing,truth]'

# One of them, or fewer draws: make results RESULTS='controls --data-seeds 17'.
RESULTS := all
results: $(VENV)/.dev
	$(BIN)/python -m core experiment $(RESULTS) --out runs/results
	$(BIN)/python -m benchmarks.result_pages runs/results docs/results

test: check
	$(BIN)/python -m pytest --cov=core --cov-report=term:skip-covered --cov-fail-under=90

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# All of it; a share: make torture TORTURE='--kills 8 --soak smoke'.
torture: $(VENV)/.dev
	$(BIN)/python -m benchmarks.torture $(TORTURE)

golden: $(VENV)/.dev
	DARKROOM_GOLDEN=write $(BIN)/python -m pytest tests/test_golden.py

# Also `make bench BENCH=--quick`, `BENCH='--device cuda'`.
bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks.training $(BENCH)

# docs/api is not kept in git: twelve megabytes that follow from the docstrings. What is ignored is that pdoc finds some of
# INNER by itself too.
docs: $(VENV)/.dev
	$(BIN)/python -m core config --markdown > docs/config.md
	$(BIN)/typer core.cli utils docs --name 'python -m core' --title 'Every command' --output docs/commands.md
	$(BIN)/python -W 'ignore:The module specification' -m pdoc core $(INNER) -t docs/pdoc --docformat markdown --no-show-source --output-directory docs/api

screenshots: $(VENV)/.dev
	$(BIN)/python -m benchmarks.screenshots $(SHOWN) docs/screenshots

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
	@touch $@ $(VENV)/.run $(VENV)/.notebooks

$(VENV)/.notebooks: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[app,notebooks]'
	@touch $@ $(VENV)/.run

lock:
	$(BIN)/pip freeze --exclude-editable | grep -v -i -E '^(nvidia|triton)' | sed 's/+cpu$$//' > constraints.new
	{ sed '/^[^#]/,$$d' constraints.txt; cat constraints.new; } > constraints.lock
	mv constraints.lock constraints.txt
	rm constraints.new

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .coverage build *.egg-info
