# PYTHON  interpreter that builds the environment
# STACK   whose mmcv, mmengine, mmdet and mmsegmentation: openmmlab, or onedl (the maintained fork)
# OPS     mmcv compiles mmcv's ops, which takes a compiler and minutes; by default ours serve
# VENV    environment to create, or an existing one to complete; by default one for each choice above
# TORCH   version of torch; by default the tested one, or what VENV already has
STACK ?= openmmlab
OPS ?=
TORCH ?=
ifeq ($(origin PYTHON),undefined)
PYTHON := $(shell command -v python3.11 || command -v python3)
else
# What pyenv runs under a version's name is its global version's only: ask it for the others' paths.
FOUND := $(shell $(PYTHON) -c '' 2>/dev/null && echo $(PYTHON) || \
	PYENV_VERSION=$$(pyenv whence $(PYTHON) 2>/dev/null | tail -n 1) pyenv which $(PYTHON) 2>/dev/null)
$(if $(FOUND),,$(error PYTHON=$(PYTHON) does not run: expected the name or path of an interpreter))
override PYTHON := $(FOUND)
NAMED := -python$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
endif
ifeq ($(origin VENV),undefined)
VENV := .venv$(NAMED)$(patsubst %,-%,$(filter-out openmmlab,$(STACK)))$(patsubst %,-%,$(OPS))
REPLACE := --replace-mmcv
endif

BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow wheel-test lint docs format clean

help:  ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */\1|/' | \
		awk -F '|' '{printf "  make %-12s %s\n", $$1, $$2}'
	@echo '  variables: PYTHON=$(PYTHON) STACK=$(STACK) OPS=$(OPS) VENV=$(VENV) TORCH=$(TORCH)'

setup:  ## build the environment (minutes; nothing the second time)
	@$(PYTHON) dev/setup_env.py --stack '$(STACK)' --ops '$(OPS)' --torch '$(TORCH)' \
		--venv '$(VENV)' $(REPLACE)

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
