# Needs Python 3.10 or newer and make; everything else goes into .venv.
PYTHON ?= python3
# Files of tests that run beside each other, each with servers of its own. auto: as many as there are processors and memory for, 4 at most.
JOBS ?= auto
VENV := .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip install --quiet --disable-pip-version-check

.PHONY: bench demo test lint setup clean

demo: $(VENV)/.demo ## run the example workflow with the pack off and on, and show both side by side
	@$(RUN) -m residency demo

bench: $(VENV)/.demo ## stock and the pack in turn on a real server; BENCH="--size full" for models of real size, --help for more
	@$(RUN) -m residency bench $(BENCH)

test: $(VENV)/.dev ## the whole suite; tests that need a ComfyUI or a browser say so when they skip
	@$(RUN) -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.dev ## style and types
	@$(RUN) -m ruff check .
	@$(RUN) -m mypy

setup: $(VENV)/.dev ## only install

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.exit(sys.version_info < (3, 10) and f"Python {v} is too old: set PYTHON to 3.10 or newer")'
	@$(PYTHON) -m venv $(VENV)

# One stamp for each extra: installed once, and again when pyproject.toml changes. The development extra holds the demo's.
$(VENV)/.demo: pyproject.toml | $(VENV)/bin/python
	@test -e $(VENV)/.dev -a ! pyproject.toml -nt $(VENV)/.dev || { echo "installing what the demo needs into $(VENV) (once)"; $(PIP) -e '.[demo]'; }
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	@echo "installing what the tests need into $(VENV) (once)"
	@$(PIP) -e '.[dev]'
	@touch $@

clean: ## remove the environment and the caches
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
