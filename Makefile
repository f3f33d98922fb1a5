# podwire: every task of a developer or a packager is a target here; `make` alone lists them.

PYTHON        ?= /usr/bin/python3
PODWIRE_CACHE ?= $(CURDIR)/build/cache
CNI_BIN_DIR   ?= /opt/cni/bin
PREFIX        ?= /opt/podwire
DESTDIR       ?=
WORKERS       ?= 2
PYTEST_ARGS   ?=

export PYTHON PODWIRE_CACHE
# The plugin processes that tests start must find compiled modules, as those of an installed copy do.
unexport PYTHONDONTWRITEBYTECODE

SHELL   := /bin/bash
VENV    := .venv
PY      := $(VENV)/bin/python
STAMP   := $(VENV)/.podwire-stamp
PYTEST   = $(PY) -m pytest -n $(WORKERS) --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help deps venv check test

help: ## this list
	@echo 'podwire: CNI plugins and IP address management. Start with `make demo`; then `make test`.'
	@echo
	@awk -F ':.*## ' '/^## /{printf "\n%s\n", substr($$0, 4)} /^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' \
		$(MAKEFILE_LIST)
	@echo
	@echo 'Settings, as NAME=value on the command line:'
	@echo '  PYTHON=$(PYTHON)  WORKERS=$(WORKERS)  PYTEST_ARGS="-k lease"'
	@echo '  PODWIRE_CACHE=$(patsubst $(CURDIR)/%,%,$(PODWIRE_CACHE))  (downloads; survives make clean)'
	@echo '  CNI_BIN_DIR=$(CNI_BIN_DIR)  PREFIX=$(PREFIX)  DESTDIR=  (make install)'

## Set-up

deps: ## install the Debian packages that are missing (root; nothing to do when all are there)
	@packaging/deps.sh build test

venv: $(STAMP) ## .venv with podwire (editable) and its developer tools

# compat: a plain path entry. The default of setuptools is an import hook, which costs every interpreter start.
$(STAMP): setup.cfg pyproject.toml
	@packaging/deps.sh build
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(PY) -m pip install -q --disable-pip-version-check --config-settings editable_mode=compat -e '.[dev]'
	@touch $@

## Work on it

check: $(STAMP) ## lint and types, in seconds
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

test: deps $(STAMP) ## the default test run, with its own set-up
	$(PYTEST) $(PYTEST_ARGS)
