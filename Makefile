# `make run` and `make test` do all the set-up; `make help` lists the rest. Needs Python 3.11 or newer, git and make.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/.avcore-installed
PROJECTS := pyproject.toml $(wildcard plugins/*/pyproject.toml)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup run test lint format docs wheels clean

help:
	@echo "make run      train CoPL on audio-visual segmentation; options: make run ARGS='--set train.epochs=2'"
	@echo "make test     run the tests;                           options: make test ARGS='-k layers'"
	@echo "make lint     check style (ruff), types (mypy) and layers (import-linter)"
	@echo "make format   format the code"
	@echo "make docs     build the documentation into site/"
	@echo "make wheels   build every distribution into dist/"
	@echo "make clean    delete the environment, built files and caches; never runs or data"
	@echo "Each sets up $(VENV) first, and again whenever a requirement has changed. PYTHON=python3.12 chooses another Python."

setup: $(STAMP)

# Modules are compiled when they are imported: most of torch never is. What builds our own packages is installed once, not
# anew for each of them.
$(STAMP): requirements.txt constraints.txt $(PROJECTS)
	@command -v $(PYTHON) > /dev/null || { echo "avcore: there is no '$(PYTHON)' here. Name a Python: make run PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "avcore needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1). Name another: make run PYTHON=python3.12" >&2; exit 1; }
	@echo "avcore: installing into $(VENV): the core, its plugins (editable) and what they need, as pinned in constraints.txt."
	@echo "avcore: the first time this takes a minute or more; torch is large."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install -c constraints.txt hatchling editables --no-compile -qq
	@$(BIN)/pip install -r requirements.txt --no-build-isolation --no-compile -qq
	@touch $@
	@echo "avcore: $(VENV) is ready."

run: $(STAMP)
	@echo "avcore: $(BIN)/avcore run --plugin copl --task avs $(ARGS)"
	@$(BIN)/avcore run --plugin copl --task avs $(ARGS)

test: $(STAMP)
	@echo "avcore: running the tests"
	@OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/pytest -n auto --maxprocesses 4 --dist worksteal $(ARGS)

lint: $(STAMP)
	@echo "avcore: style"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@echo "avcore: types"
	@$(BIN)/mypy
	@echo "avcore: layers"
	@$(BIN)/lint-imports --no-logo

format: $(STAMP)
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

docs: $(STAMP)
	@echo "avcore: building the documentation into site/"
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

wheels: $(STAMP)
	@echo "avcore: building wheels into dist/"
	@$(BIN)/pip wheel --no-deps --no-build-isolation -qq --wheel-dir dist . $(dir $(wildcard plugins/*/pyproject.toml))
	@ls dist/*.whl

clean:
	@if [ -e $(STAMP) ]; then echo "avcore: deleting $(VENV)"; rm -rf $(VENV); fi
	@echo "avcore: deleting built files and caches (runs and data stay)"
	@rm -rf dist site .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	@find avcore plugins tests docs examples -name __pycache__ -type d -prune -exec rm -rf {} +
