# PYTHON  interpreter that builds the environment
# STACK   whose mmcv, mmengine, mmdet and mmsegmentation: openmmlab, or onedl (the maintained fork)
# VENV    environment to create, or an existing one to complete; by default one for each stack
# TORCH   version of torch; by default the tested one, or what VENV already has
PYTHON ?= $(shell command -v python3.11 || command -v python3)
STACK ?= openmmlab
VENV ?= .venv$(patsubst %,-%,$(filter-out openmmlab,$(STACK)))
TORCH ?=

BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow wheel-test lint docs format clean

help:  ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */\1|/' | \
		awk -F '|' '{printf "  make %-12s %s\n", $$1, $$2}'
	@echo '  variables: PYTHON=$(PYTHON) STACK=$(STACK) VENV=$(VENV) TORCH=$(TORCH)'

setup:  ## build the environment (minutes, while mmcv compiles; nothing the second time)
	@$(PYTHON) dev/setup_env.py --stack '$(STACK)' --venv '$(VENV)' --torch '$(TORCH)'

demo: setup  ## train, evaluate and draw a detector and a segmentor on generated sample data
	@$(BIN)/python dev/demo.py

test: lint  ## check style and run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test-slow: setup  ## run the tests that take minutes
	$(BIN)/python -m pytest -m slow

wheel-test: setup  ## build the wheel and test it outside the checkout
	$(BIN)/python -m pytest tests/docs/test_packaging.py

lint: setup  ## check style, types and the directions of imports
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/lint-imports

docs: setup  ## build the documentation site into build/docs
	$(BIN)/python -m sphinx --fresh-env --fail-on-warning --keep-going --quiet docs build/docs
	@echo 'build/docs/index.html'

format: setup  ## fix style
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

clean:  ## remove build products and caches (neither the environment nor results)
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache
	find convnext_backbones tests tools dev -name __pycache__ -exec rm -rf {} +
